"""Pure rules of the kit's journal (docs/protocol/11-advisor-kit.md §9)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hive_advisor.domain.journal import DAY_S, HOUR_S, Decision, Judgement, Sample, judge, trend, velocity
from hypothesis import given
from hypothesis import strategies as st

T0 = 1_770_000_000
SAT = 1_000


def sample(
    at: int, local_sat: int, *, key: str = "a", sent: int | None = 0, fees: int | None = None
) -> Sample:
    return Sample("c", key * 64, at, f"{key}x1x0", 1, local_sat * SAT, 1_000_000 * SAT, sent, fees)


def hourly(balances: Sequence[int]) -> list[Sample]:
    return [sample(T0 + hour * HOUR_S, local) for hour, local in enumerate(balances)]


@pytest.mark.parametrize(
    ("balances", "towards", "minutes", "level"),
    [
        ([900_000, 600_000, 300_000], "empty", 60, "critical"),
        ([300_000, 250_000, 200_000], "empty", 4 * 60, "high"),
        ([700_000, 680_000, 660_000], "empty", 33 * 60, "low"),
        ([640_000, 660_000, 680_000], "full", 16 * 60, "medium"),
        ([0, 0, 0], "rest", None, "none"),
    ],
)
def test_velocity_is_the_pace_of_the_last_day(
    balances: list[int], towards: str, minutes: int | None, level: str
) -> None:
    found = velocity(hourly(balances))
    assert found is not None
    assert (found.towards, found.minutes, found.level, found.samples) == (towards, minutes, level, 3)


def test_velocity_needs_three_samples_of_one_day() -> None:
    assert velocity([]) is None and velocity(hourly([5, 4])) is None
    old = [sample(T0 - 3 * DAY_S + n, 900_000) for n in range(5)]
    assert velocity([*old, *hourly([5, 4])]) is None
    fitted = velocity([*old, *hourly([300_000, 200_000, 100_000])])
    assert fitted is not None and fitted.minutes == 60 and fitted.samples == 3


@given(st.lists(st.integers(0, 1_000_000), min_size=3, max_size=24))
def test_velocity_never_promises_a_time_that_is_past(balances: list[int]) -> None:
    found = velocity(hourly(balances))
    assert found is not None
    assert found.minutes is None or found.minutes >= 0
    backwards = velocity(hourly([1_000_000 - each for each in balances]))
    assert backwards is not None and backwards.msat_per_hour == -found.msat_per_hour
    turned = {"empty": "full", "full": "empty", "rest": "rest"}
    assert (backwards.towards, backwards.minutes) == (turned[found.towards], found.minutes)


def test_a_trend_counts_the_days_that_were_measured() -> None:
    totals = [
        Sample("c", "", T0 + day * DAY_S, "", 2 + day, 500_000, 1_000_000, None, 70 if day % 2 else None)
        for day in range(10)
    ]
    now = totals[-1].at
    week = trend(totals, 7, now)
    assert week["channels"] == [5, 11] and week["fees_msat"] == 4 * 70 and week["days_with_fees"] == 4
    assert trend(totals, 7, now + 30 * DAY_S) == {"days": 7, "known": False}


def decided(target: str = "ax1x0") -> Decision:
    return Decision(1, "c", "fee", target, "why", None, "", None, "cli", 1, T0, T0)


def days(key: str, before: int, after: int, sent: int = 10, at: int = 30 * HOUR_S) -> list[Sample]:
    """A channel that earned so much a day before the decision and after it."""
    return [
        sample(T0 - HOUR_S, 500_000, key=key, sent=100, fees=before),
        sample(T0 + at, 500_000, key=key, sent=100 + sent, fees=after),
    ]


def outcome(
    channels: dict[str, list[Sample]], now: int, touched: frozenset[str] = frozenset()
) -> Judgement | None:
    return judge(decided(), channels, touched, now)


def test_an_outcome_is_measured_against_channels_nobody_touched() -> None:
    rows = {"a" * 64: days("a", 100, 160), "b" * 64: days("b", 10, 90), "d" * 64: days("d", 10, 20)}
    found = outcome(rows, T0 + 2 * DAY_S)
    assert found is not None and found.outcome == "better"
    # The median of +80 and +10 is +45: of the 60 more a day, 15 are the decision's.
    assert found.measured["effect_msat_per_day"] == 15 and found.measured["untouched_channels"] == 2
    alone = outcome(rows, T0 + 2 * DAY_S, frozenset({"dx1x0"}))
    assert alone is not None and alone.outcome == "worse" and alone.measured["effect_msat_per_day"] == -20
    nobody = outcome(rows, T0 + 2 * DAY_S, frozenset({"dx1x0", "b" * 64}))
    assert nobody is not None and nobody.measured["effect_msat_per_day"] == 60
    still = outcome({"a" * 64: days("a", 100, 100)}, T0 + 2 * DAY_S)
    assert still is not None and still.outcome == "unchanged"


def test_without_figures_nothing_is_claimed() -> None:
    early, late = T0 + 2 * DAY_S, T0 + 5 * DAY_S
    cases = [
        {},
        {"b" * 64: days("b", 1, 2)},
        {"a" * 64: days("a", 1, 2)[:1]},
        {"a" * 64: days("a", 1, 2, at=3 * HOUR_S)},
        {"a" * 64: days("a", 1, 2, at=8 * 24 * HOUR_S)},
        {"a" * 64: days("a", 100, 900, sent=2)},
        {
            "a" * 64: [
                sample(T0 - HOUR_S, 5, sent=None, fees=1),
                sample(T0 + 30 * HOUR_S, 5, sent=None, fees=9),
            ]
        },
    ]
    for rows in cases:
        assert outcome(rows, early) is None, rows
        told = outcome(rows, late)
        assert told is not None and told.outcome == "unknown" and told.measured["why"], rows
