"""The advisors' runes: one per credential, and none that outlives it.

docs/protocol/02-fleet-management.md §6.3, docs/protocol/08-client-and-plugins.md §6 "Revoke". What the node
could not do at once is written down in the transaction that wanted it and tried again every minute:
runes to blacklist (docs/decisions/0084-one-name-one-place.md), runes still to be made
(docs/decisions/0171-a-hire-does-not-wait-for-its-rune.md).
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from hive_shared.cln import ClnError
from hive_shared.store import Db, Tx

from cl_hive_comms.domain.advisor import CredentialRow
from cl_hive_comms.services.advisor_offers import AdvisorOffers
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.ports_advisors import AdvisorRows, RuneGate
from cl_hive_comms.services.ports_identity import Clock, FactStore, Log

TO_BLACKLIST: Final = "rune_to_blacklist:"
TO_MAKE: Final = "rune_to_make:"

Rune = tuple[str | None, Mapping[str, Any]]
"""A rune's number (None: not ours alone, never blacklisted) and the `rest` part of an offer."""


class AdvisorRunes:
    """Makes and blacklists; keeps what is owed to the node, and how much that is, for status."""

    def __init__(
        self,
        db: Db,
        facts: FactStore,
        store: AdvisorRows,
        gate: RuneGate,
        *,
        credentials: CredentialService,
        offers: AdvisorOffers,
        messenger: Messenger,
        now: Clock,
        log: Log,
    ) -> None:
        self._db, self._facts, self._store, self._gate = db, facts, store, gate
        self._credentials, self._offers, self._messenger = credentials, offers, messenger
        self._now, self._log = now, log
        self._lock = asyncio.Lock()
        self._owed = {TO_BLACKLIST: 0, TO_MAKE: 0}

    # -- with a hire or its end --------------------------------------------------------------------------

    async def make(self, agent_key: str) -> tuple[Rune | None, bool]:
        """A rune for an agent, None without clnrest; and whether one is owed because the node failed."""
        try:
            return await self._gate.offer(agent_key), False
        except ClnError as error:
            self._log("warning", "rune_not_made", code=error.code, retry_s=60)
            return None, True

    async def discard(self, rune: Rune | None) -> None:
        """Blacklists a rune whose hire was not stored; nobody has seen it."""
        if rune is not None and rune[0] is not None:
            await self._gate.blacklist([rune[0]])

    def owe(self, tx: Tx, credential_id: str) -> None:
        """Inside the transaction of a hire: its rune is made later."""
        self._facts.put(tx, TO_MAKE + credential_id, "", self._now())

    def forget(self, tx: Tx, row: CredentialRow) -> None:
        """Inside the transaction that ends a credential: its rune is to be blacklisted."""
        self._facts.delete(tx, TO_MAKE + row.credential_id)
        # Not from the row: the caller's may be older than a rune that was made a moment ago.
        rune_id = self._store.rune_of(tx, row.credential_id)
        if rune_id is not None:
            self._facts.put(tx, TO_BLACKLIST + rune_id, row.credential_id, self._now())

    # -- afterwards, every minute ------------------------------------------------------------------------

    async def settle(self) -> None:
        """Blacklists and makes what is owed."""
        await self.blacklist_pending()
        await self._make_owed()

    async def blacklist_pending(self) -> bool:
        """Blacklists the runes of ended credentials; whether all of them are now."""
        async with self._lock:
            await self._facts_of(TO_MAKE)
            wanted = await self._facts_of(TO_BLACKLIST)
            for key in wanted:
                if not await self._gate.blacklist([key.removeprefix(TO_BLACKLIST)]):
                    self._log("warning", "rune_not_blacklisted", waiting=self._owed[TO_BLACKLIST], retry_s=60)
                    return False
                await self._done(TO_BLACKLIST, key)
            return True

    async def _make_owed(self) -> None:
        async with self._lock:
            for key in await self._facts_of(TO_MAKE):
                row = await self._credentials.current(key.removeprefix(TO_MAKE))
                if row is None or not row.live(self._now()) or row.rune_id is not None:
                    await self._done(TO_MAKE, key)
                    continue
                rune, failed = await self.make(row.agent_key)
                if failed:
                    return
                await self._hand_over(key, row, rune)

    async def _hand_over(self, key: str, row: CredentialRow, rune: Rune | None) -> None:
        if rune is None:
            # REST was switched off or clnrest is gone: a renewal brings a rune when it is back.
            await self._done(TO_MAKE, key)
            return
        binding = await self._offers.prepare()

        def body(tx: Tx) -> None:
            still_owed = self._facts.get(tx, key) is not None
            self._facts.delete(tx, key)
            if still_owed and self._store.set_rune(tx, row.credential_id, rune[0]):
                self._offers.offer(tx, row, binding, rune[1])
            elif rune[0] is not None:
                # The credential ended while the node made the rune.
                self._facts.put(tx, TO_BLACKLIST + rune[0], row.credential_id, self._now())

        try:
            await self._db.write(body)
        except BaseException:
            await self.discard(rune)
            raise
        await self._credentials.load()
        await self._facts_of(TO_MAKE)
        self._messenger.kick()

    # -- how much is owed --------------------------------------------------------------------------------

    def warnings(self) -> list[str]:
        """What an operator should know about runes, from memory."""
        found = []
        if count := self._owed[TO_BLACKLIST]:
            found.append(f"{count} runes of ended credentials are not blacklisted yet; retried every minute")
        if count := self._owed[TO_MAKE]:
            found.append(f"{count} advisors wait for their rune for REST; retried every minute")
        return found

    async def _facts_of(self, prefix: str) -> list[str]:
        found = list(await self._db.read(lambda tx: self._facts.with_prefix(tx, prefix)))
        self._owed[prefix] = len(found)
        return found

    async def _done(self, prefix: str, key: str) -> None:
        await self._db.write(lambda tx: self._facts.delete(tx, key))
        self._owed[prefix] = max(0, self._owed[prefix] - 1)
