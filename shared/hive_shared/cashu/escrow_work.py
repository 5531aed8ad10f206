"""An item of a ticket while its task is done: begun, judged, its preimage given out
(docs/protocol/03-escrow-and-payments.md §6.6 steps 6 to 9, §6.7 "Reveal").

All of it happens inside the caller's transaction: what the task did, its receipt and the item's step are
committed together or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from hive_shared.cashu.escrow_rows import REVEAL_S, EscrowRows, ItemRow, TicketRow
from hive_shared.cashu.terms import Mode, TicketType
from hive_shared.cashu.ticket_machine import PayerEvent, PayerItem
from hive_shared.crypto import Secret
from hive_shared.errors import Internal, PaymentFailed
from hive_shared.store import Tx

_TAKES_WORK: Final = (PayerItem.DELIVERED, PayerItem.ACCEPTED)
_EARNED: Final = (PayerItem.RELEASED, PayerItem.REDEEMED)


class HeldLocks(Protocol):
    """What the wallet is told of an item's locks, in the same transaction."""

    def held(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """A task is carried out for them: not taken back while it lasts."""
        ...

    def unheld(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """The task failed: taken back at the locktime."""
        ...

    def released(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """The payee may have the preimage: left to it for a day after the locktime."""
        ...

    def tell_again(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """Say once more where these stand: an item follows no lock while its task is under way."""
        ...


class EscrowWork:
    """The payer's and verifier's side of an item's task."""

    def __init__(self, rows: EscrowRows, locks: HeldLocks, now: Callable[[], int]) -> None:
        self._rows, self._locks, self._now = rows, locks, now

    def check_free(self, tx: Tx, ticket: TicketRow, i: int) -> ItemRow:
        """The item, which can pay a task that begins now.

        Raises PaymentFailed: `lock_mismatch` for an item that the ticket does not have, that is not locked,
        that pays another task or is over; `too_late` after its deadline; `not_released` for a milestone whose
        predecessor is not released.
        """
        item = self._rows.item(tx, ticket.ticket_id, i)
        if item is None:
            raise PaymentFailed(
                f"ticket {ticket.ticket_id} has no item {i}", reason="lock_mismatch", data={"item": i}
            )
        if item.state not in _TAKES_WORK:
            raise PaymentFailed(
                f"item {i} of ticket {ticket.ticket_id} is {item.state.value}: it pays no new task",
                reason="lock_mismatch",
                data={"item": i, "state": item.state.value},
            )
        if self._now() > item.deadline:
            raise PaymentFailed(
                f"the deadline of item {i} was {item.deadline}, it is {self._now()}",
                reason="too_late",
                data={"item": i, "deadline": item.deadline},
            )
        self.check_order(tx, ticket, i)
        return item

    def start(self, tx: Tx, item: ItemRow, command_id: str) -> ItemRow:
        """The item pays this task from now on. Raises Conflict (`stale_state`) where another came first."""
        self._locks.held(tx, item.lock_ids)
        return self._rows.move_item(tx, item, PayerEvent.ON_STARTED, self._now(), command_id=command_id)

    def succeed(self, tx: Tx, item: ItemRow, receipt_id: str) -> Secret | None:
        """The task succeeded and its receipt is written beside this: the preimage that its payee may have
        now, None for an item without a hash of ours.

        Raises Conflict where the item pays no running task, PaymentFailed(`not_released`) for a milestone
        out of order.
        """
        now = self._now()
        ticket = self._ticket(tx, item)
        self.check_order(tx, ticket, item.i)
        item = self._rows.move_item(tx, item, PayerEvent.ON_SUCCEEDED, now, receipt_id=receipt_id)
        return self.release(tx, ticket, item)

    def release(self, tx: Tx, ticket: TicketRow, item: ItemRow) -> Secret | None:
        """Give out what a succeeded item earned; the caller has its receipt."""
        now = self._now()
        if item.receipt_id is None:
            raise PaymentFailed(
                f"item {item.i} of ticket {item.ticket_id} has no receipt yet", reason="not_released"
            )
        self.check_order(tx, ticket, item.i)
        item = self._rows.move_item(tx, item, PayerEvent.ON_RELEASED, now, released_at=now)
        self._locks.released(tx, item.lock_ids)
        self._locks.tell_again(tx, item.lock_ids)
        if item.hash is None or ticket.terms.mode is not Mode.TASK:
            return None
        self._rows.note_secret(tx, item.hash, released_at=now)
        return self._secret(tx, item)

    def fail(self, tx: Tx, item: ItemRow, receipt_id: str) -> ItemRow:
        """The task failed: nothing is given out, the money goes back at the locktime."""
        self._locks.unheld(tx, item.lock_ids)
        after = self._rows.move_item(tx, item, PayerEvent.ON_FAILED, self._now(), receipt_id=receipt_id)
        return self._followed(tx, after)

    def unknown(self, tx: Tx, item: ItemRow, receipt_id: str | None) -> ItemRow:
        """Nobody knows what came of the task: nothing is given out by itself; the operator decides."""
        changes = {} if receipt_id is None else {"receipt_id": receipt_id}
        after = self._rows.move_item(tx, item, PayerEvent.ON_UNPROVABLE, self._now(), **changes)
        return self._followed(tx, after)

    def preimage(self, tx: Tx, item: ItemRow) -> Secret:
        """What was given out, once more, until 90 days after the locktime.

        Raises PaymentFailed(`not_released`), `too_late` afterwards.
        """
        if item.released_at is None:
            raise PaymentFailed(
                f"item {item.i} of ticket {item.ticket_id} is {item.state.value}: its preimage was not"
                " released",
                reason="not_released",
                data={"item": item.i, "state": item.state.value},
            )
        if self._now() > item.locktime + REVEAL_S:
            raise PaymentFailed(
                f"the preimage of item {item.i} was told until 90 days after its locktime {item.locktime}",
                reason="too_late",
            )
        return self._secret(tx, item)

    def check_order(self, tx: Tx, ticket: TicketRow, i: int) -> None:
        """Milestones are earned in their order; bonuses after the base. Raises PaymentFailed
        (`not_released`)."""
        kind = ticket.terms.type
        before = i - 1 if kind is TicketType.MILESTONE else 0 if kind is TicketType.PERFORMANCE else i
        if before < 0 or before == i:
            return
        earlier = self._rows.item(tx, ticket.ticket_id, before)
        if earlier is None or (earlier.state not in _EARNED and earlier.released_at is None):
            state = "missing" if earlier is None else earlier.state.value
            raise PaymentFailed(
                f"item {i} of ticket {ticket.ticket_id} comes after item {before}, which is {state}",
                reason="not_released",
                data={"item": i, "before": before},
            )

    # -- inside ----------------------------------------------------------------------------------------

    def _followed(self, tx: Tx, item: ItemRow) -> ItemRow:
        """The item with what became of its locks under the task: they may have gone back long ago."""
        self._locks.tell_again(tx, item.lock_ids)
        return self._rows.item(tx, item.ticket_id, item.i) or item

    def _ticket(self, tx: Tx, item: ItemRow) -> TicketRow:
        ticket = self._rows.ticket(tx, item.ticket_id)
        if ticket is None:
            raise Internal(f"item {item.i} belongs to ticket {item.ticket_id}, which is not there")
        return ticket

    def _secret(self, tx: Tx, item: ItemRow) -> Secret:
        row = None if item.hash is None else self._rows.secret(tx, item.hash)
        if row is None:
            raise PaymentFailed(
                f"the preimage of item {item.i} of ticket {item.ticket_id} is not kept here",
                reason="not_released",
            )
        return row.preimage
