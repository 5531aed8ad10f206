"""Prices and windows by danger and standing: the tables of sheet 03 §6.4."""

from __future__ import annotations

import pytest
from hive_shared.cashu.windows import OperatorRecord, Standing, escrow_required, quote

HOURS = (1, 1, 2, 6, 6, 24, 24, 72, 72, 96)
PRICES = (0, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500)
BANDS = ((0, 5), (5, 25), (25, 100), (100, 500), (500, 10**9))


@pytest.mark.parametrize("danger", range(1, 11))
def test_defaults_of_the_sheet(danger: int) -> None:
    found = quote(danger, Standing.RECOGNIZED, OperatorRecord.CLEAN)
    assert found.base_sats == found.adjusted_sats == PRICES[danger - 1]
    assert found.window_s == HOURS[danger - 1] * 3_600
    low, high = BANDS[(danger - 1) // 2]
    assert low <= found.base_sats <= high


def test_types_by_danger() -> None:
    types = [
        quote(danger, Standing.TRUSTED, OperatorRecord.NEW).default_type.value for danger in range(1, 11)
    ]
    assert types == ["none", "bearer", *["single"] * 3, *["milestone"] * 2, *["performance"] * 3]


@pytest.mark.parametrize(
    ("standing", "window_s", "bonus", "price"),
    [
        (Standing.NEWCOMER, 10_800, 100, 15),
        (Standing.RECOGNIZED, 7_200, 150, 10),
        (Standing.TRUSTED, 5_400, 175, 8),
        (Standing.SENIOR, 3_600, 200, 7),
    ],
)
def test_standing_always_changes_the_window_and_the_price_only_where_the_terms_say_so(
    standing: Standing, window_s: int, bonus: int, price: int
) -> None:
    flat = quote(3, standing, OperatorRecord.NEW)
    assert (flat.window_s, flat.bonus_percent, flat.adjusted_sats) == (window_s, bonus, 10)
    assert quote(3, standing, OperatorRecord.NEW, by_trust=True).adjusted_sats == price


@pytest.mark.parametrize(
    ("standing", "operator", "base", "adjusted"),
    [
        (Standing.NEWCOMER, OperatorRecord.ARBITRATED, 100, 195),
        (Standing.SENIOR, OperatorRecord.CLEAN, 100, 63),
        (Standing.SENIOR, OperatorRecord.CLEAN, 1, 1),
        (Standing.TRUSTED, OperatorRecord.CLEAN, 25, 18),
        (Standing.NEWCOMER, OperatorRecord.NEW, 0, 0),
    ],
)
def test_prices_are_rounded_up_once(
    standing: Standing, operator: OperatorRecord, base: int, adjusted: int
) -> None:
    found = quote(5, standing, operator, base_sats=base, by_trust=True)
    assert found.base_sats == base and found.adjusted_sats == adjusted


@pytest.mark.parametrize("danger", [0, 11, -1])
def test_other_dangers_have_no_price(danger: int) -> None:
    with pytest.raises(ValueError, match="danger"):
        quote(danger, Standing.SENIOR, OperatorRecord.CLEAN)


def test_when_escrow_is_mandatory() -> None:
    assert [escrow_required(danger) for danger in (1, 2, 3, 10)] == [False, False, True, True]
    assert [escrow_required(danger, waived=True) for danger in (3, 4, 5)] == [False, False, True]
    assert escrow_required(1, bonus=True, waived=True) and escrow_required(1, asked=True, waived=True)
    assert not escrow_required(4, min_danger=5) and escrow_required(1, min_danger=1)
