"""What is done again and again: fetch, send again, ask after, sync receipts
(docs/protocol/11-advisor-kit.md §3, §5.2, §5.4).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

from hive_shared.errors import HiveError, InvalidParams
from hive_shared.registry import CONTROL, MONITOR
from hive_shared.store import Db

from hive_advisor.domain.command_machine import CommandState
from hive_advisor.domain.rows import Client, StoredCommand
from hive_advisor.services.approvals import ApprovalService
from hive_advisor.services.clients import ClientService
from hive_advisor.services.commands import CommandService
from hive_advisor.services.guard import GuardService
from hive_advisor.services.mail import MailService
from hive_advisor.services.plans import PlanService
from hive_advisor.services.ports import ClientRows
from hive_advisor.services.receipts import Fork, ReceiptService, VerificationFailed
from hive_advisor.services.retries import RetryService
from hive_advisor.services.shared_key import SharedKeyService

STOP_ASKED_S = 300
LAST_SEEN = "last_seen"
"""Key of the time of the last full round."""


class Ask(Protocol):
    """Sends commands and waits for their answers."""

    async def control(
        self, client_id: str, action: str, params: Mapping[str, Any], wait_s: int
    ) -> dict[str, Any]: ...
    async def capabilities(self, client: Client, wait_s: int) -> dict[str, Any] | None: ...
    async def ask_status(self, command: StoredCommand, wait_s: int) -> dict[str, Any]: ...
    async def send_again(self, command: StoredCommand, client: Client) -> None: ...


class Renewing(Protocol):
    """What runs out and has to be asked for again (services.telemetry.TelemetryService)."""

    async def renew(self) -> int: ...


class Measuring(Protocol):
    """What is measured once an hour (services.journal.JournalService)."""

    async def measure_due(self) -> int: ...


class RoundService:
    """Rounds over all clients, and the receipts of one. `catch_up` asks the relays for what waits."""

    def __init__(
        self,
        db: Db,
        rows: ClientRows,
        clients: ClientService,
        commands: CommandService,
        receipts: ReceiptService,
        mail: MailService,
        approvals: ApprovalService,
        shared_key: SharedKeyService,
        ask: Ask,
        telemetry: Renewing,
        journal: Measuring,
        plans: PlanService,
        retries: RetryService,
        guard: GuardService,
        *,
        catch_up: Callable[[float], Awaitable[int]],
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._clients, self._commands = db, rows, clients, commands
        self._receipts, self._mail, self._ask = receipts, mail, ask
        self._approvals, self._catch_up, self._now = approvals, catch_up, now
        self._shared, self._telemetry, self._journal = shared_key, telemetry, journal
        self._plans, self._retries, self._guard = plans, retries, guard

    async def pump(self) -> dict[str, Any]:
        """Fetch what waits at the relays, send again what is due, ask after what died unanswered."""
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
            await self._ask_stopped(by_id.values())
        if shared is None and not self._guard.halted:
            sent += await self._send_anew(by_id)
            await self._telemetry.renew()
            await self._journal.measure_due()
        lost = 0
        for command, client in await self._commands.dead() if shared is None else ():
            if command.schema == CONTROL or (command.schema == MONITOR and command.origin == "auto"):
                await self._commands.expire(command)
            elif client.state == "active":
                answer = await self._ask.ask_status(command, 10)
                lost += answer["state"] == "not_found"
        await self._db.write(lambda tx: self._rows.set_meta(tx, LAST_SEEN, str(started)))
        return {
            "messages": self._mail.taken,
            "quarantined": self._mail.refused,
            "sent_again": sent,
            "proven_lost": lost,
            "open": len([c for c in await self._commands.open() if c.schema != CONTROL]),
            **({} if shared is None else {"identity_shared": shared}),
        }

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

    async def sync_receipts(self, client: Client, wait_s: int) -> dict[str, Any]:
        """Fetch receipts after our head, page by page; check, link and anchor them."""
        taken = 0
        while True:
            head = (await self._clients.named(client.alias)).head_id
            wanted = {"since_id": head, "limit": 50}
            answer = await self._ask.control(client.client_id, "receipts_list", wanted, wait_s)
            result = answer["result"]
            if not isinstance(result, dict):
                return {"state": answer["state"], "slug": answer["slug"], "taken": taken, "head": head}
            taken += await self._take_page(client, result)
            current = await self._clients.named(client.alias)
            node_head = result.get("head")
            last = node_head.get("receipt_id") if isinstance(node_head, dict) else 0
            if current.head_id == head or not isinstance(last, int) or current.head_id >= last:
                break
        return {
            "state": "done",
            "taken": taken,
            "anchored": await self._anchor(client, wait_s),
            "head": current.head_id,
            "client_state": current.state,
        }

    async def _anchor(self, client: Client, wait_s: int) -> int:
        """Ask for the signed roots over what is not anchored yet, until they bring nothing new."""
        total = 0
        while True:
            first = await self._receipts.first_unanchored(client)
            answer = await self._ask.control(
                client.client_id, "receipts_list", {"since_id": first - 1, "limit": 1}, wait_s
            )
            result = answer["result"]
            done = await self._receipts.anchor(client, result.get("roots")) if isinstance(result, dict) else 0
            if not done:
                return total
            total += done

    async def _take_page(self, client: Client, result: Mapping[str, Any]) -> int:
        taken = 0
        for document in result.get("items", []):
            if not isinstance(document, dict):
                raise InvalidParams("receipts_list answered something that is no receipt")
            try:
                if "action" in document or "command_hash" in document or "agent_id" in document:
                    await self._receipts.take(client, self._receipts.check(client, document))
                else:
                    await self._receipts.take_stub(client, document)
            except Fork as fork:
                await self._clients.suspect(client, str(fork))
                raise VerificationFailed(str(fork)) from fork
            taken += 1
        return taken
