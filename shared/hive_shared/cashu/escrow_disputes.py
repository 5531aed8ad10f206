"""Disputes about an item of a ticket, opened by either side; silence for three days rejects
(docs/protocol/03-escrow-and-payments.md §6.7 "Dispute"). Times in Unix seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from hive_shared.cashu.escrow_ports import Database, Mail, Notices
from hive_shared.cashu.escrow_rows import DisputeRow, DisputeState, EscrowRows, ItemRow, Side, TicketRow
from hive_shared.cashu.ticket_machine import (
    PAYEE_ITEMS,
    PAYER_ITEMS,
    PayeeEvent,
    PayeeItem,
    PayerEvent,
    PayerItem,
)
from hive_shared.cashu.ticket_messages import Dispute, DisputeReply, Outcome
from hive_shared.errors import Conflict, InvalidParams, NotFound
from hive_shared.row_by_row import RowByRow
from hive_shared.runtime_loops import Log
from hive_shared.store import Tx

ANSWER_S: Final = 72 * 3_600
"""Time to answer; who says nothing rejects."""
OPEN_S: Final = 30 * 86_400
"""How long after its locktime an item may be disputed."""
_STATE: Final[Mapping[Outcome, DisputeState]] = {
    Outcome.REPLACE: DisputeState.REPLACED,
    Outcome.PAY: DisputeState.PAID,
    Outcome.REJECT: DisputeState.REJECTED,
}
_NEVER_LOCKED: Final = (PayerItem.PLANNED, PayerItem.CANCELLED)
SILENCE: Final = "no answer within 72 hours"


class Answer(msgspec.Struct, frozen=True):
    """What is answered; `replacement` is the ticket of outcome replace, `payment_id` the payment of pay."""

    outcome: Outcome
    reason: str
    replacement: str | None = None
    payment_id: str | None = None


class EscrowDisputes:
    """Disputes of tickets that we pay, or that pay us. `answered_by` is the operator's call for that."""

    def __init__(
        self,
        db: Database,
        rows: EscrowRows,
        mail: Mail,
        notices: Notices,
        *,
        now: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        log: Log,
        answered_by: str = "hive-client-escrow action=dispute",
    ) -> None:
        self._db, self._rows, self._mail, self._notices = db, rows, mail, notices
        self._answered_by = answered_by
        self._now, self._random_bytes, self._alone = now, random_bytes, RowByRow(log)

    # -- said by us ------------------------------------------------------------------------------------

    async def open(self, ticket_id: str, i: int, claim: str, evidence: Sequence[str]) -> DisputeRow:
        """Tell the other side what is wrong with an item. Raises NotFound, InvalidParams, Conflict where
        it is disputed already or too late."""

        def body(tx: Tx) -> DisputeRow:
            ticket, item = self._item(tx, ticket_id, i)
            if item.state in _NEVER_LOCKED:
                raise Conflict(
                    f"item {i} of ticket {ticket_id} is {item.state.value}: nothing is locked for it, so"
                    " there is nothing to dispute",
                    reason="stale_state",
                )
            said = Dispute(self._random_bytes(16).hex(), ticket_id, i, claim, list(evidence))
            row = self._opened(tx, item, ticket.role, said)
            self._put(tx, ticket, said, f"dispute:{said.dispute_id}")
            return row

        row = await self._db.write(body)
        self._mail.kick()
        return row

    async def answer(self, ticket_id: str, i: int, answer: Answer) -> DisputeRow:
        """Answer what the other side disputes. Raises NotFound where nothing is open, InvalidParams for a
        replacement that is none."""

        def body(tx: Tx) -> DisputeRow:
            ticket, item = self._item(tx, ticket_id, i)
            row = next(
                (each for each in self._rows.disputes(tx, ticket_id) if _waits_for_us(each, ticket, i)), None
            )
            if row is None:
                raise NotFound(
                    f"the {_other(ticket)} disputes nothing about item {i} of ticket {ticket_id} that is not"
                    " answered",
                    data={"ticket_id": ticket_id, "item": i},
                )
            self._check_replacement(tx, ticket, answer)
            return self._answered(tx, ticket, item, row, answer)

        row = await self._db.write(body)
        self._mail.kick()
        return row

    async def tick(self) -> None:
        """Reject what was not answered in time, on either side, each dispute by itself."""
        due = await self._db.read(lambda tx: self._rows.disputes_due(tx, self._now()))
        with self._alone.round("disputes") as alone:
            for row in due:
                with alone(row.dispute_id):
                    await self._db.write(partial(self._silent, dispute_id=row.dispute_id))
        if due:
            self._mail.kick()

    # -- said by the other side ------------------------------------------------------------------------

    def take(self, tx: Tx, ticket: TicketRow, message: Dispute) -> None:
        """The other side disputes an item; the same message again changes nothing. Raises Conflict,
        NotFound."""
        if self._rows.dispute(tx, message.dispute_id) is not None:
            return
        _, item = self._item(tx, ticket.ticket_id, message.item)
        self._opened(tx, item, Side.PAYER if ticket.role is Side.PAYEE else Side.PAYEE, message)
        text = (
            f"the {_other(ticket)} disputes item {message.item}: {message.claim[:200]} (answer within 72"
            f" hours by {self._answered_by} ticket_id={ticket.ticket_id} item={message.item}"
            " outcome=…)"
        )
        self._notices.tell(tx, ticket, "disputed", text)

    def take_reply(self, tx: Tx, sender: str, message: DisputeReply) -> None:
        """The other side answers a dispute of ours. Raises NotFound for one that it has no part in."""
        row = self._rows.dispute(tx, message.dispute_id)
        ticket = None if row is None else self._rows.ticket(tx, row.ticket_id)
        if row is None or ticket is None or row.role is not ticket.role or ticket.other_id != sender:
            raise NotFound(f"there is no dispute {message.dispute_id} with this peer")
        if row.state is not DisputeState.OPEN:
            return
        _, item = self._item(tx, row.ticket_id, row.i)
        self._closed(tx, item, row, Answer(message.outcome, message.reason))
        text = f"dispute about item {row.i}: {message.outcome}, {message.reason[:200]}"
        self._notices.tell(tx, ticket, "dispute_answered", text)

    # -- inside ----------------------------------------------------------------------------------------

    def _silent(self, tx: Tx, dispute_id: str) -> None:
        """Nobody answered. A dispute of what is not there any more is closed: there is nothing to step, and
        nobody to tell."""
        row = self._rows.dispute(tx, dispute_id)
        if row is None or row.state is not DisputeState.OPEN:
            return  # answered meanwhile
        silence = Answer(Outcome.REJECT, SILENCE)
        ticket, item = self._rows.ticket(tx, row.ticket_id), self._rows.item(tx, row.ticket_id, row.i)
        if ticket is None or item is None:
            self._ended(tx, row, silence)
            return
        if row.role is not ticket.role:
            self._answered(tx, ticket, item, row, silence)
        else:
            self._closed(tx, item, row, silence)
        self._notices.tell(tx, ticket, "dispute_answered", f"dispute about item {row.i} rejected: {SILENCE}")

    def _opened(self, tx: Tx, item: ItemRow, role: Side, said: Dispute) -> DisputeRow:
        now = self._now()
        if now > item.locktime + OPEN_S:
            raise Conflict(
                f"item {item.i} could be disputed until 30 days after its locktime {item.locktime}",
                reason="too_late",
            )
        evidence: dict[str, Any] = {"evidence_hashes": list(said.evidence_hashes)}
        if isinstance(said.receipt, dict):
            evidence["receipt"] = said.receipt
        row = DisputeRow(
            *(said.dispute_id, item.ticket_id, item.i, role, said.claim, evidence, DisputeState.OPEN),
            *(now + ANSWER_S, now),
        )
        self._rows.add_dispute(tx, row)
        self._step(tx, item, PayerEvent.ON_DISPUTED, PayeeEvent.ON_DISPUTED)
        return row

    def _answered(
        self, tx: Tx, ticket: TicketRow, item: ItemRow, row: DisputeRow, answer: Answer
    ) -> DisputeRow:
        said = DisputeReply(row.dispute_id, answer.outcome, answer.reason)
        if answer.replacement is not None:
            said = msgspec.structs.replace(said, ticket_id=answer.replacement)
        self._put(tx, ticket, said, f"dispute-reply:{row.dispute_id}")
        settled = answer.replacement or answer.payment_id
        if settled and item.owed_sats and not item.owed_by:
            item = self._rows.note_item(tx, item, self._now(), owed_by=settled)
        return self._closed(tx, item, row, answer)

    def _closed(self, tx: Tx, item: ItemRow, row: DisputeRow, answer: Answer) -> DisputeRow:
        ended = self._ended(tx, row, answer)
        self._step(tx, item, PayerEvent.ON_DISPUTE_CLOSED, PayeeEvent.ON_DISPUTE_CLOSED)
        return ended

    def _ended(self, tx: Tx, row: DisputeRow, answer: Answer) -> DisputeRow:
        told: dict[str, Any] = {"outcome": answer.outcome.value, "reason": answer.reason}
        for name in ("replacement", "payment_id"):
            if (value := getattr(answer, name)) is not None:
                told[name] = value
        evidence = {**row.evidence, "answer": told}
        return self._rows.end_dispute(tx, row, _STATE[answer.outcome], evidence, self._now())

    def _check_replacement(self, tx: Tx, ticket: TicketRow, answer: Answer) -> None:
        if (answer.outcome is Outcome.REPLACE) is not (answer.replacement is not None):
            raise InvalidParams(
                "outcome=replace names the new ticket in replacement=, made before by action=create replaces="
                f"{ticket.ticket_id}; no other outcome does",
                data={"param": "replacement"},
            )
        if ticket.role is Side.PAYEE and answer.outcome is not Outcome.REJECT:
            raise InvalidParams(
                f"ticket {ticket.ticket_id} pays this node: outcome=reject is all that it can answer",
                data={"param": "outcome"},
            )
        if answer.payment_id is not None and answer.outcome is not Outcome.PAY:
            raise InvalidParams("payment_id belongs to outcome=pay", data={"param": "payment_id"})
        if answer.replacement is not None:
            new = self._rows.ticket(tx, answer.replacement)
            if new is None or new.terms.replaces != ticket.ticket_id:
                raise InvalidParams(
                    f"ticket {answer.replacement} does not replace {ticket.ticket_id}",
                    data={"param": "replacement"},
                )

    def _item(self, tx: Tx, ticket_id: str, i: int) -> tuple[TicketRow, ItemRow]:
        ticket = self._rows.ticket(tx, ticket_id)
        item = self._rows.item(tx, ticket_id, i)
        if ticket is None or item is None:
            raise NotFound(
                f"there is no item {i} of a ticket {ticket_id[:40]!a}",
                data={"ticket_id": ticket_id[:64], "item": i},
            )
        return ticket, item

    def _step(self, tx: Tx, item: ItemRow, ours: PayerEvent, theirs: PayeeEvent) -> None:
        """A refunded item is disputed by its state too; any other keeps its own, which its money has."""
        if isinstance(item.state, PayerItem) and (item.state, ours) in PAYER_ITEMS:
            self._rows.move_item(tx, item, ours, self._now())
        elif isinstance(item.state, PayeeItem) and (item.state, theirs) in PAYEE_ITEMS:
            self._rows.move_item(tx, item, theirs, self._now())

    def _put(self, tx: Tx, ticket: TicketRow, said: Dispute | DisputeReply, key: str) -> None:
        self._mail.put(tx, ticket.other_id, said, key=key, expires_at=self._now() + ANSWER_S)


def _other(ticket: TicketRow) -> str:
    return "payer" if ticket.role is Side.PAYEE else "advisor"


def _waits_for_us(row: DisputeRow, ticket: TicketRow, i: int) -> bool:
    return row.i == i and row.state is DisputeState.OPEN and row.role is not ticket.role
