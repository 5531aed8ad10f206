"""Payments that leave us: a fee for access, once or never (docs/protocol/11-advisor-kit.md §8)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

MAX_FEE_PPM: Final = 5_000
LEAST_FEE_MSAT: Final = 5_000
DAY_S: Final = 86_400
GIVEN_UP_S: Final = 86_400
"""How long after its invoice ran out a payment of which nothing is known keeps others from being made."""


class OutState(StrEnum):
    """SENDING is on disk before the wallet is asked; UNKNOWN is never sent again."""

    SENDING = "sending"
    UNKNOWN = "unknown"
    PAID = "paid"
    FAILED = "failed"


class OutEvent(StrEnum):
    """What the wallet shows: the preimage, that no try can succeed any more, or neither."""

    ON_PREIMAGE = "on_preimage"
    ON_FAILED = "on_failed"
    ON_NO_WORD = "on_no_word"


TABLE: Final[Mapping[tuple[OutState, OutEvent], OutState]] = MappingProxyType(
    {
        (OutState.SENDING, OutEvent.ON_PREIMAGE): OutState.PAID,
        (OutState.SENDING, OutEvent.ON_FAILED): OutState.FAILED,
        (OutState.SENDING, OutEvent.ON_NO_WORD): OutState.UNKNOWN,
        (OutState.UNKNOWN, OutEvent.ON_PREIMAGE): OutState.PAID,
        (OutState.UNKNOWN, OutEvent.ON_FAILED): OutState.FAILED,
        # A wallet that said it failed and paid all the same: what counts is the preimage.
        (OutState.FAILED, OutEvent.ON_PREIMAGE): OutState.PAID,
    }
)


def next_state(state: OutState, event: OutEvent) -> OutState | None:
    """The state after `event`; None when it changes nothing."""
    return TABLE.get((state, event))


class Outgoing(msgspec.Struct, frozen=True):
    """One payment. `command_id` is the command that was refused for the fee it pays."""

    payment_hash: str
    client_id: str
    command_id: str
    method: str
    way: str
    invoice: str
    amount_sats: int
    max_fee_msat: int
    invoice_expires: int
    state: OutState
    created: int
    updated: int
    why: str = ""

    @property
    def reserved_sats(self) -> int:
        """What it may take from us, fee included, rounded up."""
        return self.amount_sats + -(-self.max_fee_msat // 1_000)


class Result(msgspec.Struct, frozen=True):
    """What a way out says: the preimage, or that it failed for good, or (neither) nothing certain."""

    preimage: str = ""
    failed: bool = False
    why: str = ""


def max_fee_msat(amount_sats: int) -> int:
    """What the routing of a payment may cost."""
    return max(LEAST_FEE_MSAT, amount_sats * MAX_FEE_PPM // 1_000)
