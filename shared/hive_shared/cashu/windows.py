"""How long a ticket lives and what it costs, by danger and by how well the payee is known
(docs/protocol/03-escrow-and-payments.md §6.4). Prices in whole sat, times in Unix seconds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from hive_shared.registry import base_price_sats

WINDOW_S: Final = (3_600, 3_600, 7_200, 21_600, 21_600, 86_400, 86_400, 259_200, 259_200, 345_600)
"""Time for the work of danger 1..10, before the modifier of the payee's standing."""
MIN_BUFFER_S: Final = 600
"""The least between deadline and locktime, also for just-in-time work."""
MOST_UNJUDGED: Final = 2
"""Up to this danger a management command may be paid by a lock that the payee can spend whatever comes of the
work (modes `p2pk` and `receipt`); above it, only against the payer's preimage."""
BONUS_GRACE_S: Final = 86_400
"""Between the end of a measurement and the deadline of its bonus."""
MULTI_MINT_STEP_S: Final = 86_400
"""How much later each further mint's share is locked than the one before."""
MIN_DANGER: Final = 3
"""Escrow is mandatory from here on, where the operator sets nothing else (`escrow-min-danger`)."""
WAIVABLE_UP_TO: Final = 4
"""The highest danger for which an operator may trust an advisor without escrow."""


class Standing(StrEnum):
    """How well the payee is known to the payer (01 §9); a newcomer is also who nobody vouches for."""

    NEWCOMER = "newcomer"
    RECOGNIZED = "recognized"
    TRUSTED = "trusted"
    SENIOR = "senior"


class OperatorRecord(StrEnum):
    """What the operator's record says: new, disputes that went to arbitration, or clean."""

    NEW = "new"
    ARBITRATED = "arbitrated"
    CLEAN = "clean"


class DefaultType(StrEnum):
    """The kind of payment that a danger asks for where nobody chooses."""

    NONE = "none"
    BEARER = "bearer"
    SINGLE = "single"
    MILESTONE = "milestone"
    PERFORMANCE = "performance"


class _Percent(msgspec.Struct, frozen=True):
    price: int
    window: int
    bonus: int


_STANDING: Final = {
    Standing.NEWCOMER: _Percent(150, 150, 100),
    Standing.RECOGNIZED: _Percent(100, 100, 150),
    Standing.TRUSTED: _Percent(80, 75, 175),
    Standing.SENIOR: _Percent(70, 50, 200),
}
_OPERATOR: Final = {OperatorRecord.NEW: 100, OperatorRecord.ARBITRATED: 130, OperatorRecord.CLEAN: 90}
_DEFAULT_TYPE: Final = (
    *(DefaultType.NONE, DefaultType.BEARER, DefaultType.SINGLE, DefaultType.SINGLE, DefaultType.SINGLE),
    *(DefaultType.MILESTONE, DefaultType.MILESTONE, DefaultType.PERFORMANCE),
    *(DefaultType.PERFORMANCE, DefaultType.PERFORMANCE),
)


class Quote(msgspec.Struct, frozen=True):
    """What the work of one danger costs and how long it may take, with what led there."""

    base_sats: int
    agent_percent: int
    operator_percent: int
    adjusted_sats: int
    window_s: int
    bonus_percent: int
    default_type: DefaultType


def quote(
    danger: int,
    standing: Standing,
    operator: OperatorRecord,
    *,
    base_sats: int | None = None,
    by_trust: bool = False,
) -> Quote:
    """Price and window of a danger 1..10. `base_sats` is what contract or credential agreed.

    The modifiers of trust change the price only `by_trust` (terms with `price_basis` "trust"): a ticket is
    flat by default. The window is always shorter for who is better known. Raises ValueError beyond 1..10.
    """
    base = base_price_sats(danger) if base_sats is None else base_sats
    of = _STANDING[standing]
    adjusted = base
    if by_trust:
        adjusted = -(-base * of.price * _OPERATOR[operator] // 10_000)
    return Quote(
        base,
        of.price,
        _OPERATOR[operator],
        adjusted,
        WINDOW_S[danger - 1] * of.window // 100,
        of.bonus,
        _DEFAULT_TYPE[danger - 1],
    )


def escrow_required(
    danger: int,
    *,
    min_danger: int = MIN_DANGER,
    bonus: bool = False,
    asked: bool = False,
    waived: bool = False,
) -> bool:
    """Whether work of this danger must be paid by escrow; a waiver counts up to danger 4, not for a bonus."""
    if bonus or asked:
        return True
    return danger >= min_danger and not (waived and danger <= WAIVABLE_UP_TO)
