"""Prices by danger (docs/protocol/02-fleet-management.md §8), in whole sat."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

BASE_PRICE_SATS: Final = (0, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)
"""Base price of danger 1..10."""

# What an operator may set instead, for each pair of danger totals; None: no upper bound.
_RANGE_SATS: Final = ((0, 5), (5, 25), (25, 100), (100, 500), (500, None))


def base_price_sats(danger: int) -> int:
    """The base price of a danger total. Raises ValueError outside 1..10."""
    if not 1 <= danger <= 10:
        raise ValueError(f"danger {danger} is not in 1..10")
    return BASE_PRICE_SATS[danger - 1]


def check_price_table(prices_sats: tuple[int, ...]) -> None:
    """Raise ValueError when an operator's own table leaves the range of its danger pair."""
    if len(prices_sats) != 10:
        raise ValueError(f"a price table has 10 entries, one per danger, not {len(prices_sats)}")
    for danger, price_sats in enumerate(prices_sats, 1):
        low, high = _RANGE_SATS[(danger - 1) // 2]
        if price_sats < low or (high is not None and price_sats > high):
            allowed = f"at least {low}" if high is None else f"from {low} to {high}"
            raise ValueError(f"the price of danger {danger} must be {allowed} sat, not {price_sats}")


def access_modifier(trust: Fraction) -> Fraction:
    """The agent's modifier of the access price by its trust (02 §7.3): under 1 a novice, then recognized,
    trusted, senior."""
    if trust < 1:
        return Fraction(3, 2)
    if trust < Fraction(3, 2):
        return Fraction(1)
    return Fraction(4, 5) if trust < 2 else Fraction(7, 10)


def access_price_sats(base_sats: int, agent: Fraction, operator: Fraction) -> int:
    """What an agent pays for access: ceil(base · agent modifier · operator modifier)."""
    product = base_sats * agent * operator
    return -(-product.numerator // product.denominator)
