"""Which proofs pay for something (docs/protocol/03-escrow-and-payments.md §5 "Reservation").

An exact match if there is one, else the fewest proofs. Denominations are powers of two, so taking the largest
that fit finds an exact match whenever there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from .journal import Coin
from .keysets import fee_sats

MAX_INPUTS: Final = 500
"""Proofs of ours in one request; mints take at most 1000 elements."""
CONSOLIDATE_ABOVE: Final = 64
"""Proofs of one denomination beyond which they are joined; fewer where the mint reads less at once."""
KEEP: Final = 3
"""Proofs of that denomination that are left."""

PpkOf = Callable[[str], int]
"""A keyset's input fee: sat per thousand inputs."""


def fee_of(coins: Sequence[Coin], ppk: PpkOf) -> int:
    """The fee (sat) of spending these in one request."""
    return fee_sats(ppk(coin.keyset_id) for coin in coins)


def most_alike(most: int) -> int:
    """Proofs of one denomination beyond which they are joined, at a mint that reads so many at once."""
    return max(KEEP, min(CONSOLIDATE_ABOVE, most // 2))


def exact(
    available: Mapping[int, Sequence[Coin]], target: int, most: int = MAX_INPUTS
) -> tuple[Coin, ...] | None:
    """Coins that sum up to `target` (sat), the fewest there are; None when no choice of `most` does."""
    chosen: list[Coin] = []
    for amount in sorted(available, reverse=True):
        count = min(target // amount, len(available[amount]))
        chosen += available[amount][:count]
        target -= count * amount
    return tuple(chosen) if target == 0 and len(chosen) <= most else None


def largest(available: Mapping[int, Sequence[Coin]], most: int = MAX_INPUTS) -> list[Coin]:
    """The `most` coins that are worth most."""
    return _ordered(available)[:most]


def _ordered(available: Mapping[int, Sequence[Coin]]) -> list[Coin]:
    return [coin for amount in sorted(available, reverse=True) for coin in available[amount]]


def covering(
    available: Mapping[int, Sequence[Coin]], target: int, ppk: PpkOf, most: int = MAX_INPUTS
) -> tuple[Coin, ...] | None:
    """At most so many coins worth at least `target` (sat) after the fee of spending them; None when there is
    too little in them.

    Exact with their fee when that is possible, else the fewest, the last of them as small as it may be.
    """
    fee = 0
    for _ in range(8):
        found = exact(available, target + fee, most)
        if found is None:
            break
        if (needed := fee_of(found, ppk)) == fee:
            return found
        fee = max(fee + 1, needed)
    ordered = _ordered(available)
    chosen: list[Coin] = []
    for coin in ordered[:most]:
        chosen.append(coin)
        if _covers(chosen, target, ppk):
            return (*chosen[:-1], _smallest_last(chosen, ordered, target, ppk))
    return None


def _covers(coins: Sequence[Coin], target: int, ppk: PpkOf) -> bool:
    return sum(coin.amount for coin in coins) - fee_of(coins, ppk) >= target


def _smallest_last(chosen: Sequence[Coin], ordered: Sequence[Coin], target: int, ppk: PpkOf) -> Coin:
    rest = chosen[:-1]
    for coin in reversed(ordered[len(rest) :]):
        if _covers([*rest, coin], target, ppk):
            return coin
    return chosen[-1]
