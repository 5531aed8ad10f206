"""How an item ends that no command decides: its receipt, its step and what its payee is told are one
transaction (docs/protocol/03-escrow-and-payments.md §6.6 steps 8 and 9, §6.7 "Reveal")."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.cashu.escrow_ports import Database, Mail, Notices
from hive_shared.cashu.escrow_rows import REVEAL_S, EscrowRows, ItemRow, TicketRow
from hive_shared.cashu.escrow_work import EscrowWork
from hive_shared.cashu.terms import Mode
from hive_shared.cashu.ticket_messages import Failure, Metric, Release
from hive_shared.receipts import Receipt
from hive_shared.store import Tx
from msgspec.structs import replace

from .receipt_service import ReceiptFields, operator_event

_MESSAGE_S: Final = 14 * 86_400


class Receipts(Protocol):
    """The chain of receipts (services.receipt_service.ReceiptService)."""

    def append(self, tx: Tx, what: ReceiptFields) -> Receipt: ...
    def read(self, tx: Tx, receipt_id: int) -> dict[str, JsonValue] | None: ...


class Verdict(msgspec.Struct, frozen=True):
    """What became of an item, and what its receipt says of it. `reason` is what the payee of a failed item
    is told, `by` the action of the receipt."""

    success: bool
    result: Mapping[str, JsonValue]
    reason: str = "task_failed"
    by: str = "escrow_complete"


class Measured(msgspec.Struct, frozen=True):
    """What was measured of a bonus item: whole numbers of its metric, `at` in Unix seconds."""

    metric: str
    value: int
    threshold: int
    at: int

    @property
    def met(self) -> bool:
        """Whether the bonus is earned."""
        return self.value >= self.threshold


class ItemEnds:
    """Ends items inside the caller's transaction; the caller kicks the mail afterwards."""

    def __init__(
        self, rows: EscrowRows, work: EscrowWork, mail: Mail, receipts: Receipts, now: Callable[[], int]
    ) -> None:
        self._rows, self._work, self._mail, self._receipts, self._now = rows, work, mail, receipts, now

    def end(self, tx: Tx, ticket: TicketRow, item: ItemRow, verdict: Verdict) -> ItemRow:
        """The item, which is being judged, as it stands afterwards: released, or failed.

        Raises Conflict where another came first, PaymentFailed(`not_released`) for one out of order.
        """
        receipt = self._receipts.append(tx, _event(ticket, item.i, verdict))
        told = str(receipt.receipt_id)
        if verdict.success:
            self._work.succeed(tx, item, told)
            after = self._again(tx, item)
            self.tell_earned(tx, ticket, after)
            return self._again(tx, after)
        self._work.fail(tx, item, told)
        said = Failure(ticket.ticket_id, item.i, verdict.reason, told, _hash_of(receipt))
        self._put(tx, ticket, said, f"failure:{ticket.ticket_id}:{item.i}")
        return self._again(tx, item)

    def tell_metric(self, tx: Tx, ticket: TicketRow, item: ItemRow, found: Measured) -> ItemRow:
        """What was measured goes to the payee whether or not it was reached."""
        baseline = ticket.terms.baseline
        base = baseline.get("value", 0) if isinstance(baseline, dict) else 0
        said = Metric(
            *(ticket.ticket_id, item.i, found.metric, found.value, int(base), found.threshold),
            *(found.met, found.at),
        )
        self._put(tx, ticket, said, f"metric:{ticket.ticket_id}:{item.i}")
        kept = {
            "metric": found.metric,
            "value": found.value,
            "threshold": found.threshold,
            "measured_at": found.at,
        }
        return self._rows.note_item(tx, item, self._now(), metric=kept)

    def tell_earned(self, tx: Tx, ticket: TicketRow, item: ItemRow) -> None:
        """`tell_released`, where a preimage is still told so long after the locktime: what was found out
        later is a debt alone."""
        if self._now() <= item.locktime + REVEAL_S:
            self.tell_released(tx, ticket, item)

    def tell_released(self, tx: Tx, ticket: TicketRow, item: ItemRow) -> None:
        """Send what was earned, once a minute at most, however often it is asked for. Raises
        PaymentFailed(`not_released`, `too_late`)."""
        if ticket.terms.mode is not Mode.TASK:
            return
        preimage = self._work.preimage(tx, item).reveal().hex()
        said = Release(ticket.ticket_id, item.i, preimage)
        if item.receipt_id is not None and item.receipt_id.isdigit():
            receipt = self._receipts.read(tx, int(item.receipt_id))
            if receipt is not None:
                hash_ = "sha256:" + str(receipt["receipt_hash"]).removeprefix("sha256:")
                said = Release(ticket.ticket_id, item.i, preimage, item.receipt_id, hash_)
        self._put(tx, ticket, said, f"release:{ticket.ticket_id}:{item.i}:{self._now() // 60}")
        if item.hash is not None:
            self._rows.note_secret(tx, item.hash, delivered_at=self._now())

    def _again(self, tx: Tx, item: ItemRow) -> ItemRow:
        return self._rows.item(tx, item.ticket_id, item.i) or item

    def _put(self, tx: Tx, ticket: TicketRow, message: Release | Failure | Metric, key: str) -> None:
        until = self._now() + _MESSAGE_S
        self._mail.put(tx, ticket.terms.payee.id, message, key=key, expires_at=until)


class ItemPorts(msgspec.Struct, frozen=True):
    """What all who decide items work on."""

    db: Database
    rows: EscrowRows
    work: EscrowWork
    ends: ItemEnds
    mail: Mail
    notices: Notices


def _event(ticket: TicketRow, i: int, verdict: Verdict) -> ReceiptFields:
    what = operator_event(
        verdict.by,
        params={"ticket_id": ticket.ticket_id, "item": i, "terms_hash": ticket.terms_hash},
        result={"success": verdict.success, **verdict.result},
        advisor_id=ticket.advisor_id or "",
        agent_id=ticket.terms.payee.id,
    )
    return what if verdict.success else replace(what, status="failed")


def _hash_of(receipt: Receipt) -> str:
    return "sha256:" + receipt.receipt_hash.removeprefix("sha256:")
