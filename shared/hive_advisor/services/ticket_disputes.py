"""Disputes about items that were worked for and not paid (docs/protocol/03-escrow-and-payments.md §6.7)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from hive_shared.cashu.payee import PayeeEngine
from hive_shared.cashu.payee_rows import HeldItem, Outgoing, PayeeRows, Peer
from hive_shared.cashu.ticket_machine import PayeeEvent, PayeeItem
from hive_shared.cashu.ticket_messages import Dispute as DisputeBody
from hive_shared.cashu.ticket_messages import DisputeReply, Outcome
from hive_shared.errors import Conflict, InvalidParams, NotFound
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Db, Tx
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from hive_advisor.domain.ticket import DISPUTE_ANSWER_S, DISPUTE_WITHIN_S, Dispute, DisputeState
from hive_advisor.services.ports import ClientRows, CommandRows, RecordRows

_STATES: Final[dict[Outcome, DisputeState]] = {
    Outcome.REPLACE: "replaced",
    Outcome.PAY: "paid",
    Outcome.REJECT: "rejected",
}
_MAX_CLAIM: Final = 2_000


class DisputeRows(PayeeRows, Protocol):
    """storage.ticket_store.TicketStore, where the methods are described."""

    def add_dispute(self, tx: Tx, dispute: Dispute) -> None: ...
    def dispute(self, tx: Tx, dispute_id: str) -> Dispute | None: ...
    def disputes(self, tx: Tx, ticket_id: str) -> list[Dispute]: ...
    def disputes_due(self, tx: Tx, now: int) -> list[Dispute]: ...
    def end_dispute(self, tx: Tx, dispute_id: str, state: DisputeState, reply: str, now: int) -> bool: ...


class TicketDisputes:
    """Opens disputes and takes their answers; silence of 72 hours is no."""

    def __init__(
        self,
        db: Db,
        rows: DisputeRows,
        engine: PayeeEngine,
        out: Outgoing,
        clients: ClientRows,
        commands: CommandRows,
        records: RecordRows,
        *,
        now: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        alone: RowByRow,
    ) -> None:
        self._alone = alone
        self._db, self._rows, self._engine, self._out = db, rows, engine, out
        self._clients, self._commands, self._records = clients, commands, records
        self._now, self._random_bytes = now, random_bytes

    async def open(self, ticket_id: str, number: int, claim: str) -> Dispute:
        """Tell the payer that an item was earned and not paid; the receipt of its work goes along.

        Raises NotFound, InvalidParams, Conflict for an item that the payer did not take back, or that ended
        more than 30 days ago.
        """
        if not 1 <= len(claim) <= _MAX_CLAIM:
            raise InvalidParams(f"the claim must have 1 to {_MAX_CLAIM} characters")
        dispute_id = self._random_bytes(16).hex()
        return await self._db.write(lambda tx: self._opened(tx, ticket_id, number, claim, dispute_id))

    async def of_ticket(self, ticket_id: str) -> list[Dispute]:
        """Disputes about a ticket, the oldest first."""
        return await self._db.read(lambda tx: self._rows.disputes(tx, ticket_id))

    async def replied(self, peer: Peer, message: DisputeReply) -> None:
        """The payer's answer. Raises NotFound for a dispute of another, Conflict for one that has ended."""

        def body(tx: Tx) -> None:
            dispute = self._rows.dispute(tx, message.dispute_id)
            ticket = None if dispute is None else self._rows.ticket(tx, dispute.ticket_id)
            if dispute is None or ticket is None or ticket.peer != peer.key:
                raise NotFound(f"{peer.name} was sent no dispute {message.dispute_id}")
            self._end(tx, dispute, _STATES[message.outcome], message.reason)

        await self._db.write(body)

    async def expire(self) -> None:
        """What was not answered in time was rejected."""

        def body(tx: Tx, dispute_id: str) -> None:
            dispute = self._rows.dispute(tx, dispute_id)
            if dispute is not None and dispute.state == "open":  # not answered meanwhile
                self._end(tx, dispute, "rejected", "")

        with self._alone.round("disputes") as alone:
            for dispute in await self._db.read(lambda tx: self._rows.disputes_due(tx, self._now())):
                with alone(dispute.dispute_id):
                    await self._db.write(partial(body, dispute_id=dispute.dispute_id))

    def _opened(self, tx: Tx, ticket_id: str, number: int, claim: str, dispute_id: str) -> Dispute:
        ticket, item = self._rows.ticket(tx, ticket_id), self._rows.item(tx, ticket_id, number)
        if ticket is None or item is None:
            raise NotFound(f"no ticket {ticket_id!r} with an item {number} is here")
        now = self._now()
        if item.state is PayeeItem.LOST and now > item.ended_at + DISPUTE_WITHIN_S:
            raise Conflict(f"item {number} ended more than 30 days ago: it is too late to dispute it")
        if item.state is not PayeeItem.LOST:
            raise Conflict(
                f"item {number} is {item.state}: an item is disputed once the payer has taken its money back"
            )
        self._engine.move(tx, item, PayeeEvent.ON_DISPUTED)
        receipt, hashes = self._evidence(tx, ticket.peer, item)
        body = DisputeBody(dispute_id, ticket_id, number, claim, list(hashes), receipt=receipt)
        self._out.put(tx, ticket.peer, body, f"dispute:{dispute_id}")
        dispute = Dispute(dispute_id, ticket_id, number, claim, hashes, "open", now + DISPUTE_ANSWER_S, now)
        self._rows.add_dispute(tx, dispute)
        self._records.add_event(tx, "ticket_disputed", ticket_id, f"item {number}", now)
        return dispute

    def _evidence(
        self, tx: Tx, peer: str, item: HeldItem
    ) -> tuple[dict[str, Any] | UnsetType, tuple[str, ...]]:
        """The receipt of the work, where there is one, and its hash."""
        client = self._clients.by_node_key(tx, peer)
        command = None if item.command_id is None else self._commands.get(tx, item.command_id)
        if client is None or command is None or command.receipt_id is None:
            return UNSET, ()
        receipt = self._records.receipt(tx, client.client_id, command.receipt_id)
        if receipt is None or receipt.level == "stub":
            return UNSET, ()
        return receipt.document, (f"sha256:{receipt.hash}",)

    def _end(self, tx: Tx, dispute: Dispute, state: DisputeState, reply: str) -> None:
        now = self._now()
        if not self._rows.end_dispute(tx, dispute.dispute_id, state, reply, now):
            raise Conflict(f"dispute {dispute.dispute_id} has ended: {dispute.state}", reason="stale_state")
        item = self._rows.item(tx, dispute.ticket_id, dispute.item)
        if item is not None and item.state is PayeeItem.DISPUTED:
            self._engine.move(tx, replace(item, note=f"dispute {state}"), PayeeEvent.ON_DISPUTE_CLOSED)
        text = f"item {dispute.item}: {state}"
        self._records.add_event(tx, "ticket_dispute_ended", dispute.ticket_id, text, now)
