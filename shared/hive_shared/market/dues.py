"""What a monthly fee comes to for one period: both sides reckon it alike
(docs/protocol/04-marketplace-and-nostr.md §10; docs/protocol/11-advisor-kit.md §15.10; docs/decisions/0640).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from hive_shared.invoice_messages import Purpose

PERIOD_S: Final = 30 * 86_400
"""A month of an agreed fee."""
_MONTHLY_MODELS: Final[Collection[str]] = ("subscription", "performance", "hybrid")


def period_due(monthly_sats: int, start: int, until: int | None) -> tuple[Purpose, int]:
    """Purpose and price (sat) of the period that begins at `start` (Unix s): the monthly fee, or its share,
    rounded down, of a last period that `until` cuts short. None: the end is not known, or far."""
    left = PERIOD_S if until is None else until - start
    if left >= PERIOD_S:
        return Purpose.PERIOD, monthly_sats
    return Purpose.PRORATED, monthly_sats * max(0, left) // PERIOD_S


def monthly_of_terms(compensation: Mapping[str, Any]) -> int:
    """The monthly fee (sat) of a contract's `compensation`; 0 where none was agreed."""
    return _monthly(compensation, "baseMonthlySats")


def monthly_of_credential(compensation: Mapping[str, Any]) -> int:
    """The monthly fee (sat) of a credential's `compensation` (02 §2.1); 0 where none was agreed."""
    return _monthly(compensation, "base_monthly_sats")


def _monthly(compensation: Mapping[str, Any], name: str) -> int:
    sats = compensation.get(name)
    if compensation.get("model") not in _MONTHLY_MODELS or type(sats) is not int:
        return 0
    return sats


def takes_bolt11(methods: object) -> bool:
    """Whether a list of accepted methods has bolt11; none at all accepts every method."""
    return not methods or (isinstance(methods, list) and "bolt11" in methods)
