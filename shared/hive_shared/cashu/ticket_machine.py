"""States of an escrow ticket's items on either side, as tables, and the status of the ticket that follows
(docs/protocol/03-escrow-and-payments.md §6.6).

Compare-and-set on every step; `redeemed` and `refunded` only upon the mint's evidence. The two effects that
leave the database are the payer's refund and the payee's redemption: journaled by the wallet, asked about and
never repeated blindly.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from hive_shared.machine import Step


class PayerItem(StrEnum):
    """Where an item stands for who pays and judges. The values are stored."""

    PLANNED = "planned"
    LOCKED = "locked"
    DELIVERED = "delivered"
    ACCEPTED = "accepted"
    EXECUTING = "executing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"
    RELEASED = "released"
    REDEEMED = "redeemed"
    REFUNDABLE = "refundable"
    REFUNDING = "refunding"
    REFUNDED = "refunded"
    DISPUTED = "disputed"
    CANCELLED = "cancelled"


class PayerEvent(StrEnum):
    """What happens to an item on the payer's side."""

    ON_LOCKED = "locked"
    ON_CANCELLED = "cancelled"
    ON_DELIVERED = "delivered"
    ON_ACKNOWLEDGED = "acknowledged"
    ON_REFUSED = "refused"
    ON_STARTED = "started"
    ON_SUCCEEDED = "succeeded"
    ON_FAILED = "failed"
    ON_UNPROVABLE = "unprovable"
    ON_RELEASED = "released"
    ON_REDEEMED = "redeemed"
    ON_REFUND_DUE = "refund_due"
    ON_REFUND_STARTED = "refund_started"
    ON_REFUND_PUT_OFF = "refund_put_off"
    ON_REFUNDED = "refunded"
    ON_DISPUTED = "disputed"
    ON_DISPUTE_CLOSED = "dispute_closed"


class PayerEffect(StrEnum):
    """What leaves the payer's database: the swap that takes an item's money back after its locktime."""

    REFUND = "refund"


class PayeeItem(StrEnum):
    """Where an item stands for who is paid. The values are stored."""

    DELIVERED = "delivered"
    ACCEPTED = "accepted"
    EXECUTING = "executing"
    FAILED = "failed"
    UNKNOWN = "unknown"
    RELEASED = "released"
    REDEEMED = "redeemed"
    LOST = "lost"
    DISPUTED = "disputed"


class PayeeEvent(StrEnum):
    """What happens to an item on the payee's side."""

    ON_ACCEPTED = "accepted"
    ON_REFUSED = "refused"
    ON_STARTED = "started"
    ON_RELEASED = "released"
    ON_FAILED = "failed"
    ON_UNANSWERED = "unanswered"
    ON_REDEEMED = "redeemed"
    ON_LOST = "lost"
    ON_DISPUTED = "disputed"
    ON_DISPUTE_CLOSED = "dispute_closed"


class PayeeEffect(StrEnum):
    """What leaves the payee's database: the swap that makes the locked money its own."""

    REDEEM = "redeem"


S, E, Fx = PayerItem, PayerEvent, PayerEffect
_HELD: Final = (S.LOCKED, S.DELIVERED, S.ACCEPTED, S.FAILED, S.RELEASED)
"""The money is at the mint and nothing of the task is open: at its time it may go back."""
_SPENDABLE: Final = (*_HELD, S.EXECUTING, S.UNKNOWN, S.SUCCEEDED, S.REFUNDABLE, S.REFUNDING)
"""The payee's key and the preimage may spend it, whatever we think of it."""

PAYER_ITEMS: Final[Mapping[tuple[PayerItem, PayerEvent], Step[PayerItem, PayerEffect]]] = MappingProxyType(
    {
        (S.PLANNED, E.ON_LOCKED): Step(S.LOCKED),
        # Only what was never funded is cancelled: there is no early refund.
        (S.PLANNED, E.ON_CANCELLED): Step(S.CANCELLED),
        # The mint locked late what was given up: nobody was handed it, so it goes back at its locktime.
        (S.CANCELLED, E.ON_LOCKED): Step(S.FAILED),
        (S.LOCKED, E.ON_DELIVERED): Step(S.DELIVERED),
        (S.DELIVERED, E.ON_ACKNOWLEDGED): Step(S.ACCEPTED),
        (S.DELIVERED, E.ON_REFUSED): Step(S.FAILED),
        # A command that uses the item says that its ticket was accepted, also when the ack was lost.
        (S.DELIVERED, E.ON_STARTED): Step(S.EXECUTING),
        (S.ACCEPTED, E.ON_STARTED): Step(S.EXECUTING),
        (S.EXECUTING, E.ON_SUCCEEDED): Step(S.SUCCEEDED),
        (S.EXECUTING, E.ON_FAILED): Step(S.FAILED),
        (S.EXECUTING, E.ON_UNPROVABLE): Step(S.UNKNOWN),
        (S.UNKNOWN, E.ON_SUCCEEDED): Step(S.SUCCEEDED),
        (S.UNKNOWN, E.ON_FAILED): Step(S.FAILED),
        (S.SUCCEEDED, E.ON_RELEASED): Step(S.RELEASED),
        **{(state, E.ON_REFUND_DUE): Step(S.REFUNDABLE) for state in _HELD},
        (S.REFUNDABLE, E.ON_REFUND_STARTED): Step(S.REFUNDING, Fx.REFUND),
        (S.REFUNDING, E.ON_REFUNDED): Step(S.REFUNDED),
        (S.REFUNDING, E.ON_REFUND_PUT_OFF): Step(S.REFUNDABLE),
        **{(state, E.ON_REDEEMED): Step(S.REDEEMED) for state in _SPENDABLE},
        (S.REFUNDED, E.ON_DISPUTED): Step(S.DISPUTED),
        (S.DISPUTED, E.ON_DISPUTE_CLOSED): Step(S.REFUNDED),
    }
)
PAYER_INITIAL: Final[Collection[PayerItem]] = (S.PLANNED,)
PAYER_FINAL: Final[frozenset[PayerItem]] = frozenset({S.REDEEMED})
PAYER_OUTCOMES: Final[Mapping[PayerEffect, Collection[PayerEvent]]] = MappingProxyType(
    {Fx.REFUND: (E.ON_REFUNDED, E.ON_REFUND_PUT_OFF, E.ON_REDEEMED)}
)

P, V, Gx = PayeeItem, PayeeEvent, PayeeEffect

PAYEE_ITEMS: Final[Mapping[tuple[PayeeItem, PayeeEvent], Step[PayeeItem, PayeeEffect]]] = MappingProxyType(
    {
        (P.DELIVERED, V.ON_ACCEPTED): Step(P.ACCEPTED),
        (P.DELIVERED, V.ON_REFUSED): Step(P.FAILED),
        (P.ACCEPTED, V.ON_STARTED): Step(P.EXECUTING),
        (P.ACCEPTED, V.ON_FAILED): Step(P.FAILED),
        (P.EXECUTING, V.ON_FAILED): Step(P.FAILED),
        (P.EXECUTING, V.ON_UNANSWERED): Step(P.UNKNOWN),
        (P.UNKNOWN, V.ON_FAILED): Step(P.FAILED),
        # The preimage decides, not what was said before it: it may also come without an answer of ours.
        **{
            (state, V.ON_RELEASED): Step(P.RELEASED, Gx.REDEEM)
            for state in (P.ACCEPTED, P.EXECUTING, P.UNKNOWN, P.FAILED)
        },
        (P.RELEASED, V.ON_REDEEMED): Step(P.REDEEMED),
        **{
            (state, V.ON_LOST): Step(P.LOST)
            for state in (P.ACCEPTED, P.EXECUTING, P.UNKNOWN, P.FAILED, P.RELEASED)
        },
        (P.LOST, V.ON_DISPUTED): Step(P.DISPUTED),
        (P.DISPUTED, V.ON_DISPUTE_CLOSED): Step(P.LOST),
    }
)
PAYEE_INITIAL: Final[Collection[PayeeItem]] = (P.DELIVERED,)
PAYEE_FINAL: Final[frozenset[PayeeItem]] = frozenset({P.REDEEMED})
PAYEE_OUTCOMES: Final[Mapping[PayeeEffect, Collection[PayeeEvent]]] = MappingProxyType(
    {Gx.REDEEM: (V.ON_REDEEMED, V.ON_LOST)}
)


class TicketStatus(StrEnum):
    """What a ticket's items say together."""

    PENDING = "pending"
    ACTIVE = "active"
    PARTIAL = "partial"
    REDEEMED = "redeemed"
    REFUNDED = "refunded"
    EXPIRED = "expired"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DISPUTED = "disputed"


_GONE: Final = frozenset({"redeemed", "refunded", "lost"})


def ticket_status(items: Sequence[PayerItem | PayeeItem]) -> TicketStatus:
    """The status that follows from the items; stored nowhere else than beside them.

    pending: nothing is locked yet. active: something may still be earned. partial: some was paid and the rest
    went back. expired: what is left is on its way back. failed: what is left was not earned and waits for its
    locktime, or the other side took all of it. Raises ValueError without items.
    """
    if not items:
        raise ValueError("a ticket has items")
    states = {each.value for each in items}
    if "disputed" in states:
        return TicketStatus.DISPUTED
    if states == {"cancelled"}:
        return TicketStatus.CANCELLED
    states.discard("cancelled")
    if states == {"planned"}:
        return TicketStatus.PENDING
    left = states - _GONE
    if not left:
        whole = {
            "redeemed": TicketStatus.REDEEMED,
            "refunded": TicketStatus.REFUNDED,
            "lost": TicketStatus.FAILED,
        }
        return whole[states.pop()] if len(states) == 1 else TicketStatus.PARTIAL
    if left <= {"refundable", "refunding"}:
        return TicketStatus.EXPIRED
    if left <= {"failed", "refundable", "refunding"}:
        return TicketStatus.FAILED
    return TicketStatus.ACTIVE
