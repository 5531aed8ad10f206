"""States of a subscription and what moves it (docs/protocol/03-escrow-and-payments.md §7.4), as a table.

It begins when its first period is paid. What is paid is a payment with states of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from hive_shared.machine import Step


class State(StrEnum):
    """Where a subscription is; the values are what is stored and shown."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    ENDED = "ended"


class Event(StrEnum):
    """What happens to a subscription."""

    ON_PAID = "paid"
    ON_LAST_PAID = "last_paid"
    ON_UNPAID = "unpaid"
    ON_INVOICED = "invoiced"
    ON_ENDED = "ended"


class Effect(StrEnum):
    """What leaves the database: a notice of the end to the issuer of the offer."""

    CANCEL = "cancel"


SUBSCRIPTION_TABLE: Final[Mapping[tuple[State, Event], Step[State, Effect]]] = MappingProxyType(
    {
        (State.ACTIVE, Event.ON_PAID): Step(State.ACTIVE),
        (State.ACTIVE, Event.ON_LAST_PAID): Step(State.ENDED),
        (State.ACTIVE, Event.ON_UNPAID): Step(State.SUSPENDED),
        (State.ACTIVE, Event.ON_ENDED): Step(State.ENDED, Effect.CANCEL),
        (State.ACTIVE, Event.ON_INVOICED): Step(State.ACTIVE),
        # The agent was silent and answers after all.
        (State.SUSPENDED, Event.ON_INVOICED): Step(State.ACTIVE),
        (State.SUSPENDED, Event.ON_PAID): Step(State.ACTIVE),
        (State.SUSPENDED, Event.ON_LAST_PAID): Step(State.ENDED),
        (State.SUSPENDED, Event.ON_ENDED): Step(State.ENDED, Effect.CANCEL),
        # A payment that was under way when the operator ended it.
        (State.ENDED, Event.ON_PAID): Step(State.ENDED),
        (State.ENDED, Event.ON_LAST_PAID): Step(State.ENDED),
    }
)
