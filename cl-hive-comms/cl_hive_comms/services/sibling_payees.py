"""What a sibling plugin needs to know of an agent before it makes a ticket for it
(docs/protocol/03-escrow-and-payments.md §9 hive-comms-cashu-payee)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import msgspec
from hive_shared.errors import InvalidParams
from hive_shared.store import Tx

from ..domain.advisor import CredentialRow
from .payee_keys import PayeeKey
from .ports_commands import Database
from .ticket_mints import EscrowSettings, TicketMints


class TicketNeeds(msgspec.Struct, frozen=True):
    """The key that an agent's ticket is locked to, the mints that take it now (address and permille), and
    how many seconds its locktimes are behind the deadlines."""

    lock_pubkey: str
    mints: tuple[tuple[str, int], ...]
    buffer_s: int
    credential_id: str | None


class AnnouncedKeys(Protocol):
    """What agents told (services.payee_keys.PayeeKeys)."""

    def of(self, tx: Tx, agent_key: str, contexts: Sequence[str]) -> PayeeKey | None: ...


class SiblingPayees:
    """Answers hive-comms-cashu-payee."""

    def __init__(
        self,
        db: Database,
        keys: AnnouncedKeys,
        mints: TicketMints,
        *,
        credentials: Callable[[], Sequence[CredentialRow]],
        settings: Callable[[], EscrowSettings],
        now: Callable[[], int],
    ) -> None:
        self._db, self._keys, self._mints = db, keys, mints
        self._credentials, self._settings, self._now = credentials, settings, now

    async def needs(
        self,
        agent_key: str,
        amounts: Sequence[int],
        window_s: int,
        among: Collection[str],
        pubkey: str | None,
    ) -> TicketNeeds:
        """What a ticket of items of these amounts for an agent (x-only hex) is made of now; `window_s` is the
        time until its last deadline, `among` are the caller's mints, `pubkey` a key that it knows already.

        Raises InvalidParams for an agent that told no key, and what choosing a mint raises.
        """
        contexts = [row.credential_id for row in self._credentials() if row.agent_key == agent_key]
        told = await self._db.read(lambda tx: self._keys.of(tx, agent_key, contexts))
        if pubkey is None and told is None:
            raise InvalidParams(
                "the agent has not told which key its tickets are locked to; its kit does so by itself when"
                " it takes ecash, or name the key in payee_pubkey=",
                data={"param": "payee_pubkey"},
            )
        buffer_s = self._settings().buffer_s
        chosen = await self._mints.chosen(
            amounts,
            self._now() + window_s + buffer_s,
            takes=() if told is None else told.mints,
            among=among,
        )
        key = pubkey or (told.lock_pubkey if told is not None else "")
        return TicketNeeds(key, chosen, buffer_s, contexts[0] if contexts else None)
