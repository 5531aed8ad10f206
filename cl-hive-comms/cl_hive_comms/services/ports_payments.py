"""What payments need from others: rows, the node's Lightning, the limits in force."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from hive_shared.store import Tx

from ..domain.lightning_invoice import Asked
from ..domain.payment import Found, Payment
from ..domain.payment_limits import Bound
from ..domain.payment_machine import Event, State
from ..domain.payment_query import PaymentQuery, Total


class PaymentRows(Protocol):
    """The payment store (storage.payment_store.PaymentStore, where the methods are described)."""

    def insert(self, tx: Tx, row: Payment) -> None: ...
    def get(self, tx: Tx, payment_id: str) -> Payment | None: ...
    def by_key(self, tx: Tx, key: str) -> Payment | None: ...
    def by_label(self, tx: Tx, label: str) -> Payment | None: ...
    def by_hash(self, tx: Tx, payment_hash: str, direction: str) -> tuple[Payment, ...]: ...
    def in_states(self, tx: Tx, states: Sequence[State], limit: int = 1_000) -> tuple[Payment, ...]: ...
    def move(self, tx: Tx, before: Payment, event: Event, now: int, **changes: Any) -> Payment: ...
    def asked(self, tx: Tx, row: Payment, now: int) -> None: ...
    def bind(self, tx: Tx, payment_id: str, agent: str, now: int) -> bool: ...
    def count(self, tx: Tx, row: Payment, sats: int) -> None: ...
    def used(self, tx: Tx, bound: Bound, now: int) -> int: ...
    def oldest_counted(self, tx: Tx, bound: Bound, now: int) -> int | None: ...
    def reserved(self, tx: Tx, scope: str) -> int: ...
    def page(self, tx: Tx, query: PaymentQuery) -> tuple[Payment, ...]: ...
    def totals(self, tx: Tx, query: PaymentQuery) -> tuple[Total, ...]: ...


class LockedSums(Protocol):
    """What is locked for tickets, as limits count it (storage.lock_store.LockStore)."""

    def counted(self, tx: Tx, bound: Bound, since: int) -> int: ...
    def oldest_counted(self, tx: Tx, bound: Bound, since: int) -> int | None: ...
    def reserved(self, tx: Tx, scope: str) -> int: ...


class Lightning(Protocol):
    """Paying over the node (payments.bolt11.Bolt11). Every method raises ClnError."""

    async def own_id(self) -> str:
        """The node's id."""
        ...

    async def read(self, target: str) -> Asked:
        """What an invoice or offer asks for. Raises InvalidParams when it is none, or damaged."""
        ...

    async def count(self) -> int:
        """How many payment parts the node has ever made."""
        ...

    async def pay(self, row: Payment) -> Found:
        """Tell the node to pay, once. An error is no proof that nothing was paid: look."""
        ...

    async def look(self, row: Payment) -> Found:
        """What the node's list says of a payment."""
        ...

    async def none_missing(self, since: int) -> bool:
        """Whether every part made after that many were is still on the list."""
        ...


class Offers(Protocol):
    """Invoices of offers (payments.bolt12.Bolt12)."""

    def lacking(self) -> str:
        """Why this node cannot ask for one; empty when it can."""
        ...

    async def fetch(self, row: Payment) -> Asked:
        """The invoice of an offer for the agreed amount. Raises PaymentFailed, ClnError."""
        ...


class AdvisorLimits(Protocol):
    """What the operator set for single advisors (services.credential_service)."""

    def daily_limit_of(self, advisor_id: str) -> int | None:
        """Sats per day, None without one."""
        ...
