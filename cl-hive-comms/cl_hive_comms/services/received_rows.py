"""What a payee of tickets writes down, in this node's tables: tickets and items among those of 03 §8, their
locked proofs among the wallet's locks (docs/protocol/03-escrow-and-payments.md §6.6, §8).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from hive_shared.cashu.escrow_rows import EscrowRows, ItemRow, Side, TicketRow
from hive_shared.cashu.lock_machine import FINAL, LockEvent, LockState, lock_id_of
from hive_shared.cashu.payee_rows import HeldItem, HeldTicket, Intake, Part
from hive_shared.cashu.ticket import CheckedTicket
from hive_shared.cashu.ticket_machine import PayeeItem, TicketStatus
from hive_shared.errors import Conflict
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.cashu_lock import LockRow, Role
from .lock_books import LockBooks


class IntakeRows(Protocol):
    """hive_shared.storage.intake_store.IntakeStore, where the methods are described."""

    def ticket(self, tx: Tx, ticket_id: str) -> HeldTicket | None: ...
    def open_of_peer(self, tx: Tx, peer: str) -> int: ...
    def waiting(self, tx: Tx, now: int) -> Sequence[HeldTicket]: ...
    def put_ticket(self, tx: Tx, ticket: HeldTicket) -> None: ...
    def accepted(self, tx: Tx, ticket_id: str) -> None: ...
    def forget_refused(self, tx: Tx, before: int) -> None: ...
    def add_part(self, tx: Tx, ticket_id: str, part: Part) -> None: ...
    def parts(self, tx: Tx, ticket_id: str) -> Sequence[Part]: ...
    def drop_parts(self, tx: Tx, ticket_id: str) -> None: ...


class TicketRows(EscrowRows, Protocol):
    """Tickets of either role (hive_shared.storage.escrow_store.EscrowStore)."""

    def active_of_payer(self, tx: Tx, payer: str) -> int: ...
    def put_item(self, tx: Tx, before: ItemRow, after: ItemRow, now: int) -> None: ...


class PayeeLocks(Protocol):
    """Rows of locks (storage.lock_store.LockStore)."""

    def known(self, tx: Tx, lock_ids: Sequence[str]) -> tuple[LockRow, ...]: ...
    def note(self, tx: Tx, before: LockRow, **changes: Any) -> LockRow: ...
    def payee_sats(self, tx: Tx, mint_url: str) -> int: ...


TakeIn = Callable[[Tx, CheckedTicket, str], object]
"""Notes what a checked ticket locks for us (lock_service.LockService.take_in)."""


class ReceivedTickets:
    """`payee_rows.PayeeRows` of this node. `advisor_of` names a payer that is an advisor here."""

    def __init__(
        self,
        intake: IntakeRows,
        tickets: TicketRows,
        locks: PayeeLocks,
        books: LockBooks,
        take_in: TakeIn,
        *,
        advisor_of: Callable[[str], str | None],
        now: Callable[[], int],
    ) -> None:
        self._intake, self._tickets, self._locks, self._books = intake, tickets, locks, books
        self._take_in, self._advisor_of, self._now = take_in, advisor_of, now

    # -- tickets ---------------------------------------------------------------------------------------

    def ticket(self, tx: Tx, ticket_id: str) -> HeldTicket | None:
        """One that was handed to us. A ticket of our own is nobody's here who could hand it over."""
        row = self._tickets.ticket(tx, ticket_id)
        if row is None:
            return self._intake.ticket(tx, ticket_id)
        return HeldTicket(
            ticket_id,
            row.terms.payer.id if row.role is Side.PAYEE else "",
            Intake.ACCEPTED,
            row.created_at,
            row.updated_at,
            row.terms,
            row.terms_hash,
            row.payer_sig,
        )

    def open_of_peer(self, tx: Tx, peer: str) -> int:
        """How many of a peer are neither accepted nor refused."""
        return self._intake.open_of_peer(tx, peer)

    def live_of_peer(self, tx: Tx, peer: str) -> int:
        """How many accepted ones of a peer have not ended."""
        return self._tickets.active_of_payer(tx, peer)

    def waiting(self, tx: Tx, now: int) -> Sequence[HeldTicket]:
        """Those to look at."""
        return self._intake.waiting(tx, now)

    def put_ticket(self, tx: Tx, ticket: HeldTicket) -> None:
        """Store one that is not accepted."""
        self._intake.put_ticket(tx, ticket)

    def forget_refused(self, tx: Tx, before: int) -> None:
        """Erase what was refused before a time."""
        self._intake.forget_refused(tx, before)

    def add_part(self, tx: Tx, ticket_id: str, part: Part) -> None:
        """Keep tokens of some items."""
        self._intake.add_part(tx, ticket_id, part)

    def parts(self, tx: Tx, ticket_id: str) -> Sequence[Part]:
        """The tokens that came so far."""
        return self._intake.parts(tx, ticket_id)

    def drop_parts(self, tx: Tx, ticket_id: str) -> None:
        """The ticket was decided."""
        self._intake.drop_parts(tx, ticket_id)

    def accept(self, tx: Tx, ticket: HeldTicket, items: Sequence[HeldItem], checked: CheckedTicket) -> None:
        """Into the books: the ticket, its items, what is locked for us. Raises Capacity, Conflict."""
        terms, now = checked.terms, self._now()
        self._intake.accepted(tx, ticket.ticket_id)
        row = TicketRow(
            *(ticket.ticket_id, Side.PAYEE, terms, ticket.terms_hash, ticket.payer_sig, TicketStatus.ACTIVE),
            *(f"received:{ticket.ticket_id}", ticket.terms_hash, ticket.created_at, now),
            self._advisor_of(ticket.peer),
        )
        rows = [
            ItemRow(
                *(item.ticket_id, item.i, item.label, item.amount_sats, item.hash or None),
                *(item.deadline, item.locktime, terms.items[item.i].cond, item.state),
                tuple(
                    lock_id_of(ticket.terms_hash, share.item, share.mint, Role.PAYEE)
                    for share in checked.shares
                    if share.item == item.i
                ),
                delivered_at=now,
            )
            for item in items
        ]
        self._tickets.add_ticket(tx, row, rows)
        self._take_in(tx, checked, ticket.context)

    # -- items -----------------------------------------------------------------------------------------

    def item(self, tx: Tx, ticket_id: str, i: int) -> HeldItem | None:
        """One item of an accepted ticket."""
        row = self._tickets.item(tx, ticket_id, i)
        return None if row is None else self._held(tx, row)

    def items_in(self, tx: Tx, states: Sequence[PayeeItem], limit: int) -> list[HeldItem]:
        """Items in any of these states, those whose locktime is next at the front."""
        held = [self._held(tx, row) for row in self._tickets.items_in(tx, states, limit)]
        return [item for item in held if item is not None]

    def item_of(self, tx: Tx, terms_hash: str, i: int) -> HeldItem | None:
        """An item of the ticket with these terms."""
        row = self._tickets.item_of(tx, terms_hash, i)
        return None if row is None else self._held(tx, row)

    def put_item(self, tx: Tx, item: HeldItem, was: PayeeItem) -> None:
        """Store a changed item that was in a state. Raises Conflict when it is in another."""
        before = self._tickets.item(tx, item.ticket_id, item.i)
        if before is None or before.state is not was:
            raise Conflict(f"item {item.i} of ticket {item.ticket_id} moved on", reason="stale_state")
        after = replace(
            before,
            state=item.state,
            command_id=item.command_id,
            receipt_id=item.receipt_id or None,
            metric=_said(item),
            released_at=item.released_at or None,
            redeemed_at=item.ended_at if item.state is PayeeItem.REDEEMED else before.redeemed_at,
            refunded_at=item.ended_at if item.state is PayeeItem.LOST else before.refunded_at,
        )
        self._tickets.put_item(tx, before, after, self._now())
        for lock in self._locks.known(tx, before.lock_ids) if item.preimage else ():
            if not lock.preimage and lock.state not in FINAL:
                self._locks.note(tx, lock, preimage=item.preimage)

    # -- what is locked --------------------------------------------------------------------------------

    def locks_of(self, tx: Tx, item: HeldItem) -> tuple[LockRow, ...]:
        """The locks of an item."""
        row = self._tickets.item(tx, item.ticket_id, item.i)
        return () if row is None else self._locks.known(tx, row.lock_ids)

    def redeemable(self, tx: Tx, item: HeldItem, now: int) -> None:
        """What is locked for an item is ours to redeem from now on."""
        for lock in self.locks_of(tx, item):
            if lock.state is LockState.DELIVERED:
                self._books.move(
                    tx,
                    lock,
                    LockEvent.ON_REDEEM_DUE,
                    preimage=item.preimage or "",
                    released_at=now,
                    next_at=now,
                )

    def seen(self, tx: Tx, ys: Collection[str]) -> frozenset[str]:
        """None: a secret has the nonce of its terms, and each terms are taken once."""
        return frozenset()

    def live_sats(self, tx: Tx, mint_url: str) -> int:
        """What accepted tickets at a mint may still bring, sat."""
        return self._locks.payee_sats(tx, mint_url)

    def _held(self, tx: Tx, row: ItemRow) -> HeldItem | None:
        if not isinstance(row.state, PayeeItem):
            return None
        locks, said = self._locks.known(tx, row.lock_ids), row.metric or {}
        return HeldItem(
            ticket_id=row.ticket_id,
            i=row.i,
            state=row.state,
            amount_sats=row.amount_sats,
            hash=row.hash or "",
            deadline=row.deadline,
            locktime=row.locktime,
            label=row.label,
            preimage=next((lock.preimage for lock in locks if lock.preimage), None),
            command_id=row.command_id,
            note=str(said.get("note", "")),
            released_at=row.released_at or 0,
            ended_at=max(row.redeemed_at or 0, row.refunded_at or 0),
            receipt_id=row.receipt_id or "",
            receipt_hash=str(said.get("receipt_hash", "")),
        )


class OperatorHashes:
    """`payee_rows.OwnHashes` of this node: what its operator made by `hive-client-escrow action=secret` or
    `register`, and no ticket has."""

    def __init__(self, tickets: EscrowRows, now: Callable[[], int]) -> None:
        self._tickets, self._now = tickets, now

    def preimage(self, tx: Tx, peer: str, hash_: str, ticket_id: str) -> str | None:
        """That of a hash, 64 hex; None where it is not the operator's, ran out, or another ticket has it."""
        row = self._tickets.secret(tx, hash_)
        if row is None or row.asked_by or row.ticket_id not in (None, ticket_id):
            return None
        if row.ticket_id is None and row.expires_at is not None and row.expires_at <= self._now():
            return None
        return row.preimage.reveal().hex()

    def bind(self, tx: Tx, hash_: str, ticket_id: str, i: int) -> None:
        """An item has it from now on. Raises Conflict where another one has."""
        self._tickets.bind_secrets(tx, ticket_id, {i: hash_})


def _said(item: HeldItem) -> Mapping[str, str] | None:
    """What the payer said of an item, as far as it has no column of its own."""
    said = {"note": item.note, "receipt_hash": item.receipt_hash}
    return {name: text for name, text in said.items() if text} or None
