"""What either side writes down of its tickets, and the store it needs for that
(docs/protocol/03-escrow-and-payments.md §6.6, §8 comms_escrow_*). Amounts in sat, times in Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from hive_shared.cashu.terms import Terms
from hive_shared.cashu.ticket_machine import PayeeEvent, PayeeItem, PayerEvent, PayerItem, TicketStatus
from hive_shared.crypto import Secret
from hive_shared.store import Tx
from hive_shared.unreadable import Unreadable, attempted

MAX_ACTIVE_TICKETS: Final = 500
"""Tickets with something left to earn, of either role; beyond it none is made or taken."""
MAX_TICKET_ROWS: Final = 50_000
MAX_SECRET_ROWS: Final = 50_000
OPERATOR_SECRETS: Final = 5_000
"""Of these rows, what agents leave to the operator."""
MAX_FREE_SECRETS: Final = 1_024
"""Hashes that an agent was told and no ticket uses yet."""
SECRET_UNUSED_S: Final = 86_400
"""How long a hash that was given out waits for its ticket."""
REVEAL_S: Final = 90 * 86_400
"""How long after the locktime a released preimage is told again, and how long it is kept after that."""

ItemState: TypeAlias = PayerItem | PayeeItem
ItemEvent: TypeAlias = PayerEvent | PayeeEvent


class Side(StrEnum):
    """Which side of a ticket we are. The values are stored."""

    PAYER = "payer"
    PAYEE = "payee"


class SecretSource(StrEnum):
    """Where a preimage came from: drawn here, or the operator's own."""

    GENERATED = "generated"
    IMPORTED = "imported"


class DisputeState(StrEnum):
    """Where a dispute is. The values are stored."""

    OPEN = "open"
    REPLACED = "replaced"
    PAID = "paid"
    REJECTED = "rejected"


class TicketRow(msgspec.Struct, frozen=True):
    """One ticket. `terms_hash` is hex; `key` and `content` name the call that made it; `advisor_id` is who
    we know the other side as; `acked_by` is the id of the message that took it."""

    ticket_id: str
    role: Side
    terms: Terms
    terms_hash: str
    payer_sig: str
    status: TicketStatus
    key: str
    content: str
    created_at: int
    updated_at: int
    advisor_id: str | None = None
    acked_by: str = ""
    error: str = ""

    @property
    def other_id(self) -> str:
        """The other side's key."""
        return self.terms.payer.id if self.role is Side.PAYEE else self.terms.payee.id

    def __repr__(self) -> str:
        return f"<ticket {self.ticket_id} {self.role} {self.status}>"


class ItemRow(msgspec.Struct, frozen=True):
    """One item of a ticket. `command_id` is the task that is paid by it, `receipt_id` its receipt, `metric`
    what was measured. `owed_sats` is what the payer took back although it was earned, `owed_by` what settled
    that (a ticket or a payment)."""

    ticket_id: str
    i: int
    label: str
    amount_sats: int
    hash: str | None
    deadline: int
    locktime: int
    cond: Mapping[str, Any]
    state: ItemState
    lock_ids: tuple[str, ...] = ()
    command_id: str | None = None
    receipt_id: str | None = None
    metric: Mapping[str, Any] | None = None
    released_at: int | None = None
    delivered_at: int | None = None
    redeemed_at: int | None = None
    refunded_at: int | None = None
    owed_sats: int = 0
    owed_by: str = ""


class SecretRow(msgspec.Struct, frozen=True):
    """One preimage, known by its hash. Without a ticket it is free until `expires_at` for a task, and for the
    agent it was told to (`asked_by`, x-only hex; "" for the operator)."""

    hash: str
    preimage: Secret
    task_id: str
    source: SecretSource
    created_at: int
    expires_at: int | None
    asked_by: str = ""
    ticket_id: str | None = None
    i: int | None = None
    released_at: int | None = None
    delivered_at: int | None = None


class DisputeRow(msgspec.Struct, frozen=True):
    """One dispute about an item, opened by `role`. `evidence` holds hashes, the receipt shown, the answer."""

    dispute_id: str
    ticket_id: str
    i: int
    role: Side
    claim: str
    evidence: Mapping[str, Any]
    state: DisputeState
    due_at: int
    created_at: int
    resolved_at: int | None = None


class TicketQuery(msgspec.Struct, frozen=True):
    """Which tickets a list shows, the newest first; `before` is (created_at, ticket_id) of the last seen."""

    role: Side | None = None
    status: TicketStatus | None = None
    advisor_id: str | None = None
    before: tuple[int, str] | None = None
    limit: int = 100


WithItems = tuple[TicketRow, list[ItemRow]]


def with_items(rows: EscrowRows, tx: Tx, query: TicketQuery) -> list[WithItems | Unreadable]:
    """A page of tickets with their items, for a list that people read."""

    def whole(each: TicketRow | Unreadable) -> WithItems | Unreadable:
        if isinstance(each, Unreadable):
            return each
        return attempted(lambda: (each, rows.items(tx, each.ticket_id)), each.ticket_id, each.created_at)

    return [whole(each) for each in rows.page(tx, query)]


def cursor_of(last: WithItems | Unreadable) -> str:
    """Where the page behind this ticket begins."""
    if isinstance(last, Unreadable):
        return f"{last.created_at}-{last.name}"
    return f"{last[0].created_at}-{last[0].ticket_id}"


class EscrowRows(Protocol):
    """The store of tickets; every method runs inside the caller's transaction."""

    def add_ticket(self, tx: Tx, ticket: TicketRow, items: Sequence[ItemRow]) -> None: ...
    def ticket(self, tx: Tx, ticket_id: str) -> TicketRow | None: ...
    def by_key(self, tx: Tx, key: str) -> TicketRow | None: ...
    def tickets(self, tx: Tx, query: TicketQuery) -> list[TicketRow]: ...
    def page(self, tx: Tx, query: TicketQuery) -> list[TicketRow | Unreadable]: ...
    def active(self, tx: Tx, role: Side) -> int: ...
    def note_ticket(self, tx: Tx, ticket_id: str, now: int, **changes: Any) -> None: ...
    def items(self, tx: Tx, ticket_id: str) -> list[ItemRow]: ...
    def item_of(self, tx: Tx, terms_hash: str, i: int) -> ItemRow | None: ...
    def states(self, tx: Tx, ticket_id: str) -> set[ItemState]: ...
    def item(self, tx: Tx, ticket_id: str, i: int) -> ItemRow | None: ...
    def move_item(self, tx: Tx, before: ItemRow, event: ItemEvent, now: int, **changes: Any) -> ItemRow: ...
    def note_item(self, tx: Tx, before: ItemRow, now: int, **changes: Any) -> ItemRow: ...
    def of_command(self, tx: Tx, command_id: str) -> ItemRow | None: ...
    def items_in(self, tx: Tx, states: Sequence[ItemState], limit: int) -> list[ItemRow]: ...
    def owed(self, tx: Tx) -> list[ItemRow]: ...
    def add_secrets(self, tx: Tx, rows: Sequence[SecretRow]) -> None: ...
    def secret(self, tx: Tx, hash_: str) -> SecretRow | None: ...
    def free_secrets(self, tx: Tx, task_id: str, asked_by: str, now: int) -> list[SecretRow]: ...
    def bind_secrets(self, tx: Tx, ticket_id: str, hashes: Mapping[int, str]) -> None: ...
    def refuse_used(self, tx: Tx, hashes: Sequence[str]) -> None: ...
    def note_secret(self, tx: Tx, hash_: str, **changes: int | None) -> None: ...
    def add_dispute(self, tx: Tx, row: DisputeRow) -> None: ...
    def dispute(self, tx: Tx, dispute_id: str) -> DisputeRow | None: ...
    def disputes(self, tx: Tx, ticket_id: str) -> list[DisputeRow]: ...
    def disputes_due(self, tx: Tx, now: int) -> list[DisputeRow]: ...
    def end_dispute(
        self, tx: Tx, row: DisputeRow, state: DisputeState, evidence: Mapping[str, Any], now: int
    ) -> DisputeRow: ...
    def prune(self, tx: Tx, now: int) -> int: ...
