"""What is done again and again: fetch, send again, ask after, sync receipts
(docs/protocol/11-advisor-kit.md §3, §5.2, §5.4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from hive_shared.errors import Busy, HiveError
from hive_shared.registry import CONTROL, MONITOR
from hive_shared.store import Db

from hive_advisor.domain.command_machine import CommandState
from hive_advisor.domain.rows import Client, StoredCommand
from hive_advisor.services.alerts import AlertService
from hive_advisor.services.approvals import ApprovalService
from hive_advisor.services.clients import ClientService
from hive_advisor.services.commands import CommandService
from hive_advisor.services.guard import GuardService
from hive_advisor.services.mail import MailService
from hive_advisor.services.plans import PlanService
from hive_advisor.services.ports import ClientRows, Control
from hive_advisor.services.push_gaps import PushGaps
from hive_advisor.services.receipt_standing import StandingService
from hive_advisor.services.receipt_sync import ReceiptSync
from hive_advisor.services.retries import RetryService
from hive_advisor.services.shared_key import SharedKeyService
from hive_advisor.services.signed_mail import SignedMail

STOP_ASKED_S = 300
_AT_ONCE = 8
LAST_SEEN = "last_seen"
"""Key of the time of the last full round."""


class Ask(Protocol):
    """Sends commands and waits for their answers."""

    @property
    def control(self) -> Control: ...
    async def acknowledge_unsaid(self, client: Client) -> None: ...
    async def capabilities(self, client: Client, wait_s: int) -> dict[str, Any] | None: ...
    async def ask_status(self, command: StoredCommand, wait_s: int) -> dict[str, Any]: ...
    async def send_again(self, command: StoredCommand, client: Client) -> None: ...


class Renewing(Protocol):
    """What runs out and has to be asked for again (services.telemetry.TelemetryService)."""

    async def renew(self) -> int: ...


class Measuring(Protocol):
    """What is measured once an hour (services.journal.JournalService)."""

    async def measure_due(self) -> int: ...


class Ticking(Protocol):
    """What is looked after in every round (money.Money)."""

    async def tick(self) -> None: ...


class RoundService:
    """Rounds over all clients. `catch_up` asks the relays for what waits."""

    def __init__(
        self,
        db: Db,
        rows: ClientRows,
        clients: ClientService,
        commands: CommandService,
        mail: MailService,
        signed: SignedMail,
        money: Ticking,
        approvals: ApprovalService,
        shared_key: SharedKeyService,
        ask: Ask,
        telemetry: Renewing,
        journal: Measuring,
        plans: PlanService,
        retries: RetryService,
        guard: GuardService,
        sync: ReceiptSync,
        standing: StandingService,
        gaps: PushGaps,
        alerts: AlertService,
        *,
        catch_up: Callable[[float], Awaitable[int]],
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._clients, self._commands = db, rows, clients, commands
        self._mail, self._signed, self._ask = mail, signed, ask
        self._money = money
        self._approvals, self._catch_up, self._now = approvals, catch_up, now
        self._shared, self._telemetry, self._journal = shared_key, telemetry, journal
        self._plans, self._retries, self._guard = plans, retries, guard
        self._sync, self._standing, self._gaps, self._alerts = sync, standing, gaps, alerts
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._turn = asyncio.Lock()

    async def pump(self) -> dict[str, Any]:
        """Fetch what waits at the relays, send again what is due, ask after what died unanswered.

        One round at a time: what two find due would be sent or planned twice."""
        async with self._turn:
            return await self._round()

    async def _round(self) -> dict[str, Any]:
        started = self._now()
        await self._catch_up(5)
        await self._plans.expire()
        sent = 0
        shared = await self._shared.found()
        by_id = {client.client_id: client for client in await self._clients.all()}
        for command in await self._commands.due() if shared is None else ():
            client = by_id.get(command.client_id)
            if client is not None and client.state in ("active", "offered"):
                await self._ask.send_again(command, client)
                sent += 1
        sent += 0 if self._guard.halted else await self._approvals.send_unanswered()
        if shared is None:
            await self._tend_money()
            await self._signed.flush()
            await self._ask_stopped(by_id.values())
            await asyncio.gather(*(self._record(client) for client in by_id.values()))
        if shared is None and not self._guard.halted:
            sent += await self._send_anew(by_id)
            await self._telemetry.renew()
            await self._journal.measure_due()
            await self._alerts.tell(self._ask.control)
        lost = 0
        for command, client in await self._commands.dead() if shared is None else ():
            if command.schema == CONTROL or (command.schema == MONITOR and command.origin == "auto"):
                await self._commands.expire(command)
            elif client.state == "active":
                answer = await self._ask.ask_status(command, 10)
                lost += answer["state"] == "not_found"
        await self._standing.missing()
        await self._db.write(lambda tx: self._rows.set_meta(tx, LAST_SEEN, str(started)))
        return {
            "messages": self._mail.taken,
            "quarantined": self._mail.refused,
            "sent_again": sent,
            "proven_lost": lost,
            "open": len([c for c in await self._commands.open() if c.schema != CONTROL]),
            **({} if shared is None else {"identity_shared": shared}),
        }

    async def _tend_money(self) -> None:
        """A queue of writes that is full must not end the round, and with it `run`."""
        with suppress(Busy):
            await self._money.tick()

    async def _record(self, client: Client) -> None:
        """What is missing of a client's record: pushes, receipts, acknowledgements."""
        async with self._at_once:
            if client.state == "active":
                await self._gaps.close(client)
                if not self._guard.halted:
                    with suppress(HiveError):
                        await self._ask.acknowledge_unsaid(client)
            await self._sync.when_due(client)

    async def _send_anew(self, clients: Mapping[str, Client]) -> int:
        """What the node was too busy for, planned anew; what the guard or a human has to decide waits."""
        sent = 0
        for command in await self._retries.due():
            try:
                anew = await self._retries.again(command)
            except HiveError:
                continue  # the client takes none now, or the guard refuses; its time runs out by itself
            if anew.state == CommandState.READY:
                await self._ask.send_again(anew, clients[anew.client_id])
                sent += 1
        return sent

    async def _ask_stopped(self, clients: Iterable[Client]) -> None:
        """Whether an emergency stop is over, every few minutes."""
        for client in clients:
            if client.stopped and self._now() - client.updated >= STOP_ASKED_S:
                await self._clients.asked(client)
                await self._ask.capabilities(client, 10)
