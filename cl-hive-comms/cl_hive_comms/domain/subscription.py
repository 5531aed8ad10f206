"""What is paid to an advisor period by period (docs/protocol/03-escrow-and-payments.md §7.4)."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from .recurrence import PLAIN_PERIOD_S
from .subscription_machine import State

RECURRING: Final = "bolt12"
"""An offer that says its periods."""
PLAIN: Final = "offer"
"""An offer paid anew each 30 days."""
INVOICES: Final = "bolt11"
"""An invoice of its own for each 30 days, which the agent is asked for or the operator brings."""

RESTORED: Final = "restored: see whether its period is paid already"
"""Why one waits for its operator of which an older copy of the database may not know what was paid."""


def id_of(key: str) -> str:
    """The id of the subscription that an order with this idempotency key begins."""
    return hashlib.sha256(b"hive-subscription/v1\0" + key.encode()).hexdigest()[:32]


class Subscription(msgspec.Struct, frozen=True):
    """One row of comms_subscriptions. `offer` is what is paid (of INVOICES the last invoice),
    `recurrence_counter` the period to be paid next, `next_due` when that is tried, `failures` how often it
    failed. `contract_id` is that of the contract which began it; of the period to be paid next its agent was
    asked `asks` times for an invoice of `asked_sats` and gave `invoice`. Times are unix seconds."""

    sub_id: str
    advisor_id: str
    kind: str
    offer: str
    period: str
    amount_sats: int
    next_due: int
    state: State
    failures: int
    recurrence_counter: int
    recurrence_label: str
    recurrence_start: int | None
    window_start: int
    window_end: int
    error: str | None
    created_at: int
    updated_at: int
    contract_id: str | None = None
    asks: int = 0
    asked_sats: int = 0
    invoice: str | None = None

    @property
    def attempt_key(self) -> str:
        """The idempotency key of the next attempt to pay; one that failed for good has used its own up."""
        return f"subscription:{self.sub_id}:{self.recurrence_counter}:{self.failures}"

    @property
    def due_sats(self) -> int:
        """What the period to be paid next costs."""
        return self.asked_sats or self.amount_sats


def of_contract(contract_id: str, advisor_id: str, monthly_sats: int, start: int, now: int) -> Subscription:
    """The monthly fee of a contract: the first period is due when the term begins."""
    sub_id = id_of(f"contract:{contract_id}")
    return Subscription(
        sub_id=sub_id,
        advisor_id=advisor_id,
        kind=INVOICES,
        offer="",
        period=f"{PLAIN_PERIOD_S} seconds",
        amount_sats=monthly_sats,
        next_due=start,
        state=State.ACTIVE,
        failures=0,
        recurrence_counter=0,
        recurrence_label=f"hive:{sub_id}",
        recurrence_start=None,
        window_start=start,
        window_end=start + PLAIN_PERIOD_S,
        error=None,
        created_at=now,
        updated_at=now,
        contract_id=contract_id,
    )
