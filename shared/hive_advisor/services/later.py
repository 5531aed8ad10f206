"""What must happen later, and when: somebody has to run for it (docs/protocol/11-advisor-kit.md §3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, Protocol

import msgspec
from hive_shared.registry import CONTROL
from hive_shared.store import Db

from hive_advisor.domain.command_machine import CommandState
from hive_advisor.domain.rows import Client, StoredCommand
from hive_advisor.services.clients import ClientService
from hive_advisor.services.commands import CommandService, death_s
from hive_advisor.services.ports import CommandRows
from hive_advisor.services.retries import RetryService
from hive_advisor.services.telemetry import TelemetryService

What = Literal["approve", "send", "send_again", "ask_status", "confirm", "retry", "renew", "redeem", "settle"]
_DAY_S: Final = 86_400


class Later(msgspec.Struct, frozen=True):
    """One thing that is due: with which command or subscription of which client (both empty for all that was
    earned and is not redeemed; "-" for an operation of the wallet), when (Unix seconds). ``by``: until then a
    human has to do it; otherwise `run` does it from then on."""

    what: What
    client: str
    ref: str
    at: int
    by: bool = False


class Released(Protocol):
    """Tickets with something to redeem (services.tickets.TicketService)."""

    async def due_at(self) -> int | None: ...


class Settling(Protocol):
    """The wallet (ecash.Ecash)."""

    async def under_way(self) -> list[tuple[str, int]]:
        """Operations that are not settled: id, and when they are looked at next."""
        ...


class LaterService:
    """Reads only."""

    def __init__(
        self,
        db: Db,
        rows: CommandRows,
        clients: ClientService,
        commands: CommandService,
        retries: RetryService,
        telemetry: TelemetryService,
        tickets: Released,
        ecash: Settling,
        *,
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._clients, self._commands = db, rows, clients, commands
        self._retries, self._telemetry, self._now = retries, telemetry, now
        self._tickets = tickets
        self._ecash = ecash

    async def due(self) -> list[Later]:
        """All of it, the next first."""
        clients = {client.client_id: client for client in await self._clients.all()}
        found = []
        for command in await self._commands.open():
            client = clients.get(command.client_id)
            later = None if client is None or command.schema == CONTROL else self._of(command, client)
            if later is not None:
                found.append(later)
        since = self._now() - _DAY_S
        for command in await self._db.read(lambda tx: self._rows.refused_for_now(tx, since)):
            at = await self._retries.when(command)
            if at is not None and command.client_id in clients:
                alias = clients[command.client_id].alias
                found.append(Later("retry", alias, command.command_id, at))
        for row in await self._telemetry.running():
            if row.client_id in clients:
                alias = clients[row.client_id].alias
                found.append(Later("renew", alias, row.sub_id, row.renew_at))
        redeem_at = await self._tickets.due_at()
        if redeem_at is not None:
            found.append(Later("redeem", "", "", redeem_at))
        found += [Later("settle", "-", op_id, at) for op_id, at in await self._ecash.under_way()]
        return sorted(found, key=lambda later: (later.at, later.ref))

    def _of(self, command: StoredCommand, client: Client) -> Later | None:
        alias, name, now = client.alias, command.command_id, self._now()
        if command.state == CommandState.HELD:
            return Later("approve", alias, name, command.deadline or now, by=True)
        if command.state == CommandState.READY:
            return Later("send", alias, name, command.next_send or now)
        if command.state == CommandState.SENT:
            dead = death_s(command, client) - client.offset_s
            again = command.next_send or now
            if again < dead and now < dead:
                return Later("send_again", alias, name, again)
            return Later("ask_status", alias, name, max(again, dead))
        if command.challenge is not None and command.deadline is not None:
            return Later("confirm", alias, name, command.deadline, by=True)
        return None
