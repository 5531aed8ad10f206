"""Ecash as a fee for access (docs/protocol/02-fleet-management.md §8; docs/decisions/0575).

held -> swapping -> redeemed -> kept | refunded; swapping -> refunded | failed. While it is `swapping` the
command has certainly not run; from `redeemed` on it may have.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from .access_fee import Fee


class FeeState(StrEnum):
    """Where a token is that a command brought."""

    HELD = "held"
    SWAPPING = "swapping"
    REDEEMED = "redeemed"
    KEPT = "kept"
    REFUNDED = "refunded"
    FAILED = "failed"


class EcashFee(msgspec.Struct, frozen=True):
    """One row of comms_ecash_fees. `op_id` is "" until the swap is begun; `at` is unix seconds."""

    command_id: str
    agent_key: str
    advisor_id: str
    op_id: str
    fee: Fee
    state: FeeState
    at: int
