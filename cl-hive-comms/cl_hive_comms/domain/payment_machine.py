"""States of a payment and what moves it (docs/protocol/03-escrow-and-payments.md §7.3), as a table.

Outgoing ones begin reserved, incoming ones awaiting. The pay of a command stays reserved while it runs,
is owed once it succeeded, and stays owed until it is paid: a try that failed ends nothing. The one effect is
the call that pays; whoever may have begun it is asked (`look`), never repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from hive_shared.machine import Step


class State(StrEnum):
    """Where a payment is; the values are what is stored and shown."""

    RESERVED = "reserved"
    SENDING = "sending"
    UNKNOWN = "unknown"
    SETTLED = "settled"
    FAILED = "failed"
    AWAITING = "awaiting"
    EXPIRED = "expired"
    OWED = "owed"
    REFUNDED = "refunded"


class Event(StrEnum):
    """What happens to a payment."""

    ON_REFUSED = "refused"
    ON_SENT = "sent"
    ON_PAID = "paid"
    ON_FAILED = "failed"
    ON_LOST = "lost"
    ON_EXPIRED = "expired"
    ON_OWED = "owed"
    ON_REFUNDED = "refunded"
    ON_EARNED = "earned"
    ON_UNPAID = "unpaid"
    ON_CLOSED = "closed"


class Effect(StrEnum):
    """What leaves the database: the payment itself, and looking for one whose end is not known."""

    SEND = "send"
    LOOK = "look"


OPEN: Final = (State.RESERVED, State.SENDING, State.UNKNOWN)
"""Outgoing payments without an end."""

PAYMENT_TABLE: Final[Mapping[tuple[State, Event], Step[State, Effect]]] = MappingProxyType(
    {
        (State.RESERVED, Event.ON_REFUSED): Step(State.FAILED),
        (State.RESERVED, Event.ON_SENT): Step(State.SENDING, Effect.SEND),
        (State.SENDING, Event.ON_PAID): Step(State.SETTLED),
        (State.SENDING, Event.ON_FAILED): Step(State.FAILED),
        (State.SENDING, Event.ON_LOST): Step(State.UNKNOWN, Effect.LOOK),
        (State.UNKNOWN, Event.ON_PAID): Step(State.SETTLED),
        (State.UNKNOWN, Event.ON_FAILED): Step(State.FAILED),
        (State.RESERVED, Event.ON_EARNED): Step(State.OWED),
        (State.OWED, Event.ON_SENT): Step(State.SENDING, Effect.SEND),
        (State.OWED, Event.ON_UNPAID): Step(State.OWED),
        (State.SENDING, Event.ON_UNPAID): Step(State.OWED),
        (State.UNKNOWN, Event.ON_UNPAID): Step(State.OWED),
        (State.AWAITING, Event.ON_PAID): Step(State.SETTLED),
        (State.AWAITING, Event.ON_EXPIRED): Step(State.EXPIRED),
        (State.EXPIRED, Event.ON_PAID): Step(State.SETTLED),
        (State.SETTLED, Event.ON_OWED): Step(State.OWED),
        (State.OWED, Event.ON_REFUNDED): Step(State.REFUNDED),
        (State.OWED, Event.ON_CLOSED): Step(State.FAILED),
    }
)
