"""Choosing proofs: exact where that is possible, else the fewest (docs/protocol/03 §5)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hive_shared.cashu.journal import Coin
from hive_shared.cashu.selection import (
    CONSOLIDATE_ABOVE,
    KEEP,
    MAX_INPUTS,
    covering,
    exact,
    fee_of,
    largest,
    most_alike,
)
from hypothesis import given, settings
from hypothesis import strategies as st


def coins(*amounts: int) -> dict[int, list[Coin]]:
    found: dict[int, list[Coin]] = {}
    for number, amount in enumerate(amounts):
        found.setdefault(amount, []).append(Coin(f"y{number}", "k", amount))
    return found


def amounts(chosen: Sequence[Coin] | None) -> list[int] | None:
    return None if chosen is None else sorted(coin.amount for coin in chosen)


@pytest.mark.parametrize(
    ("have", "target", "wanted"),
    [
        ((1, 2, 4, 8), 5, [1, 4]),
        ((2, 2, 2, 8), 6, [2, 2, 2]),
        ((4, 8), 6, None),
        ((1, 1, 4), 3, None),
        ((8,), 0, []),
        ((), 1, None),
    ],
)
def test_exact(have: tuple[int, ...], target: int, wanted: list[int] | None) -> None:
    assert amounts(exact(coins(*have), target)) == wanted


def test_a_mint_that_reads_few_proofs_is_paid_with_few() -> None:
    have = coins(2, 2, 2, 8)
    assert exact(have, 6, 2) is None
    assert amounts(covering(have, 6, lambda _: 0, 2)) == [8]
    assert amounts(covering(have, 9, lambda _: 0, 2)) == [2, 8]
    assert covering(have, 11, lambda _: 0, 2) is None
    assert amounts(largest(have, 2)) == [2, 8]
    assert [most_alike(most) for most in (1, 20, 500)] == [KEEP, 10, CONSOLIDATE_ABOVE]


@pytest.mark.parametrize(
    ("have", "target", "ppk", "wanted"),
    [
        ((1, 2, 4, 8), 5, 0, [1, 4]),
        ((4, 8), 6, 0, [8]),
        ((64, 8, 4), 70, 0, [8, 64]),
        ((1, 2, 4, 8), 5, 100, [2, 4]),
        ((8, 8), 16, 100, None),
        ((8, 8, 1), 16, 100, [1, 8, 8]),
        ((1, 1, 1), 1, 1000, None),
        ((4, 4), 3, 1000, [4]),
    ],
)
def test_covering_counts_the_fee(have: tuple[int, ...], target: int, ppk: int, wanted: list[int]) -> None:
    assert amounts(covering(coins(*have), target, lambda _: ppk)) == wanted


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=40),
    st.integers(1, 5000),
    st.sampled_from((0, 100, 250, 1000)),
)
def test_what_is_chosen_suffices_and_nothing_of_it_is_idle(
    exponents: list[int], target: int, ppk: int
) -> None:
    have = coins(*(1 << e for e in exponents))
    every = [coin for group in have.values() for coin in group]
    chosen = covering(have, target, lambda _: ppk)

    def covers(some: Sequence[Coin]) -> bool:
        return sum(coin.amount for coin in some) - fee_of(some, lambda _: ppk) >= target

    if chosen is None:
        # Coins that cost more than they are worth are no help: leave them out.
        worth = [coin for coin in every if coin.amount * 1000 > ppk]
        assert not covers(worth)
    else:
        assert len({coin.y for coin in chosen}) == len(chosen) <= MAX_INPUTS
        assert covers(chosen)
        assert all(not covers([c for c in chosen if c is not coin]) for coin in chosen)
