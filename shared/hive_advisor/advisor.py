"""The kit's library face: a profile, opened (docs/protocol/11-advisor-kit.md §3)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hive_shared.errors import Conflict, Internal
from hive_shared.nostr.giftwrap import Message
from hive_shared.store import Db, StoreError, StoreLocked

from hive_advisor.composition import Composition
from hive_advisor.config import AdvisorConfig
from hive_advisor.domain.guard_rules import ToolRate
from hive_advisor.domain.plan import Plan
from hive_advisor.domain.rows import Client, Event
from hive_advisor.identity import Identity
from hive_advisor.paths import ProfilePaths
from hive_advisor.services.old_answers import seal_old_answers
from hive_advisor.services.rounds import LAST_SEEN
from hive_advisor.services.tool_calls import Toolbox, ToolCallService
from hive_advisor.storage.audit_store import AuditStore

MIGRATIONS = Path(__file__).parent / "storage" / "migrations"
_ANNOUNCED = "announced"
_WEEK = 604_800
_DRAIN_S = 5


class ProfileInUse(Conflict):
    """Another process has the profile open."""


class Advisor(Composition):
    """One profile, opened: its clients, commands and receipts, and the relays when online.

    Use ``async with Advisor.open(...) as advisor``. Only one process has a profile open at a time.
    """

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        paths: ProfilePaths,
        identity: Identity,
        config: AdvisorConfig,
        *,
        online: bool,
        now: Callable[[], int] = lambda: int(time.time()),
        now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
        rng: Callable[[int], bytes] = os.urandom,
        say: Callable[[str], None] = lambda _text: None,
    ) -> AsyncIterator[Advisor]:
        """Open the profile. Raises ProfileInUse (another process has it), Internal (database refused)."""
        paths.make()
        try:
            db = await asyncio.to_thread(Db.open, paths.database, MIGRATIONS)
        except StoreLocked as error:
            raise ProfileInUse(
                f"profile {paths.profile!r} is in use by another hive-advisor process, which takes no"
                " commands of others: try again when it has ended"
            ) from error
        except StoreError as error:
            raise Internal(f"the database of profile {paths.profile!r} cannot be used: {error}") from error
        advisor = cls(db, paths, identity, config, now=now, now_us=now_us, rng=rng, say=say)
        try:
            await seal_old_answers(db, advisor._command_rows, advisor._rows)
            if online:
                await advisor._connect()
            yield advisor
        finally:
            await advisor._ended(online)
            await advisor.ecash.stop()
            await asyncio.to_thread(db.close)

    async def _connect(self) -> None:
        self._known = {client.node_key for client in await self.clients.all()}
        self._known |= await self.market.negotiations.peers()
        clients = await self.clients.all()
        reads = tuple(dict.fromkeys((*self._config.relays, *(url for c in clients for url in c.relays))))[:8]
        last = await self._db.read(lambda tx: self._rows.meta(tx, LAST_SEEN))
        await self._link.start(reads, int(last) if last else None)
        self._spawn(self._announce())

    async def _announce(self) -> None:
        """Where we read messages, weekly, so that nodes reach us."""
        stamp = await self._db.read(lambda tx: self._rows.meta(tx, _ANNOUNCED))
        wanted = ",".join((*self._config.relays, *self.keyring.pubkeys))
        if stamp is not None:
            at, _, relays = stamp.partition(" ")
            if relays == wanted and self._now() - int(at) < _WEEK:
                return
        await self._link.announce(10)
        value = f"{self._now()} {wanted}"
        await self._db.write(lambda tx: self._rows.set_meta(tx, _ANNOUNCED, value))

    async def pump(self) -> dict[str, Any]:
        """One round: fetch, answer, send again, ask after. The wallet's journal is carried on beside it."""
        self._spawn(self.ecash.tick())
        done = await self._round()
        await self.market.tick()
        self._spawn(self.market.refresh())
        self._spawn(self.tickets.tend())
        return done

    async def flush(self, wait_s: float) -> None:
        """Give what is on its way by itself so many seconds: announcements, acknowledgements, pings."""
        self._flushed = True
        clock = asyncio.get_running_loop().time
        end = clock() + wait_s
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=wait_s)
        await self._pings.settled(max(0.0, end - clock()))

    async def _ended(self, online: bool) -> None:
        clock = asyncio.get_running_loop().time
        end = clock() + (0 if self._flushed else _DRAIN_S)
        if online:
            await self._pings.settled(end - clock())
        if self._acks:
            # Noted as sent before it leaves: cut short it would only leave with the next repeat, behind
            # commands with higher numbers, and the node would refuse it.
            await asyncio.wait(tuple(self._acks), timeout=max(0.0, end - clock()))
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.money.close()
        if online:
            await self._link.stop()

    async def _on_message(self, message: Message, key: str) -> None:
        await self._mail.receive(message, key)
        self._known |= {client.node_key for client in await self.clients.all()}
        self._known |= await self.market.negotiations.peers()
        await self._stirred()

    async def _on_answer(self, client: Client, content: str) -> None:
        await self._mail.receive_answer(client, content)
        await self._stirred()

    async def _stirred(self) -> None:
        if await self.tickets.wanted():
            self._spawn(self.tickets.tend())

    async def _ack_automatically(self, client: Client, credential_id: str) -> None:
        for credential in await self.clients.credentials(client):
            if credential.credential_id == credential_id:
                ack = self._begun(self.acknowledge(client, credential, accepted=True, wait_s=0))
                self._acks.add(ack)
                ack.add_done_callback(self._acks.discard)

    # Commands ------------------------------------------------------------------------------------

    async def plan(
        self,
        client: Client,
        schema_id: str,
        action: str,
        params: Mapping[str, Any],
        *,
        note: str = "",
        expected_policy_root: str | None = None,
        payment: dict[str, Any] | None = None,
        ticketed: bool = True,
    ) -> Plan:
        """Check a command against registry and credential; nothing is signed or sent.

        ``expected_policy_root``: the node's root the decision was made by; from another it does not run.
        ``payment``: the payment_proof that goes with it; without one, and ``ticketed``, the item of a ticket
        that was made for this command.
        """
        credential = await self.clients.usable_credential(client)
        plan = self.plans.plan(
            client,
            credential,
            schema_id,
            action,
            params,
            note=note,
            expected_policy_root=expected_policy_root,
            payment=payment,
        )
        return await self.tickets.with_fitting(plan) if ticketed else plan

    async def alias_of(self, client_id: str) -> str:
        return next((c.alias for c in await self.clients.all() if c.client_id == client_id), "?")

    def tool_calls(self, toolbox: Toolbox, rates: Callable[[], Mapping[str, ToolRate]]) -> ToolCallService:
        """The calls of a program, recorded in this profile."""
        size = self._config.mcp.max_output
        return ToolCallService(self._db, AuditStore(), toolbox, now=self._now, rates=rates, max_output=size)

    def events(self, since: int = 0, *, once: bool = False) -> AsyncGenerator[Event, None]:
        """Every event after a cursor and those that come (``once``: no more than are there), in order."""
        return self._events.stream(since, once=once)

    async def past_events(self, since: int, limit: int) -> list[Event]:
        """Events after a cursor that are there now, the oldest first."""
        return await self._events.past(since, limit)
