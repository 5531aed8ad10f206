"""When a period begins and may be paid (docs/protocol/03 §7.4; docs/decisions/0560)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from cl_hive_comms.domain.recurrence import (
    DAY_S,
    LATEST_S,
    PLAIN_PERIOD_S,
    RETRIES_S,
    Recurrence,
    Window,
    plain_window,
)

BASE = int(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp())


def _of(**says: Any) -> Recurrence:
    return Recurrence.of({"time_unit": 1, "period": 10, "compulsory_field": True, **says})


def _day(month: int, day: int) -> int:
    return int(datetime(2026, month, day, 12, tzinfo=UTC).timestamp())


def test_months_end_where_the_calendar_ends_them() -> None:
    monthly = _of(time_unit=2, period=1)
    assert [monthly.begin(BASE, n) for n in (0, 1, 2, 3)] == [BASE, _day(2, 28), _day(3, 31), _day(4, 30)]
    assert _of(time_unit=0, period=90).begin(BASE, 2) == BASE + 180
    assert monthly.text() == "1 months"


def test_without_a_window_a_period_is_paid_during_the_one_before_or_itself() -> None:
    found = _of().window(BASE, 2)
    assert (found.start, found.end) == (BASE + 10 * DAY_S, BASE + 30 * DAY_S - 1)
    assert found.due == BASE + 20 * DAY_S, "not before it begins"


@pytest.mark.parametrize(
    ("before", "after", "due"),
    [
        (3 * DAY_S, DAY_S, 0),
        (3 * DAY_S, 60, 60 - sum(RETRIES_S) - 3_600),
        (600, 0, -600),
    ],
)
def test_it_is_begun_early_enough_for_every_attempt(before: int, after: int, due: int) -> None:
    found = _of(paywindow={"seconds_before": before, "seconds_after": after}).window(BASE, 1)
    begin = BASE + 10 * DAY_S
    assert found == Window(begin - before, begin + due, begin + after)


def test_the_last_period_has_none_after_it() -> None:
    limited = _of(limit=2)
    assert limited.following(BASE, 1) is not None
    assert limited.following(BASE, 2) is None


def test_the_period_that_runs_now() -> None:
    based = _of(basetime=BASE)
    assert [based.current(BASE + days * DAY_S) for days in (-5, 0, 9, 10, 25)] == [0, 0, 0, 1, 2]


def test_the_period_that_runs_now_is_not_counted_up_to() -> None:
    """An issuer names the unit: seconds since 1970 would be counted for minutes while nothing else runs."""
    assert _of(time_unit=0, period=1, basetime=1).current(BASE) == BASE - 1
    monthly = _of(time_unit=2, period=1, basetime=BASE)
    days = ((2, 27), (2, 28), (3, 30), (3, 31), (4, 30))
    assert [monthly.current(_day(*day)) for day in days] == [0, 1, 1, 2, 3]
    assert _of(time_unit=2, period=2**32 - 1, basetime=0).current(BASE) == 0


@pytest.mark.parametrize(
    ("says", "index"),
    [
        ({"time_unit": 0, "period": 2**32 - 1}, 2**32),
        ({"time_unit": 1, "period": 2**32 - 1}, 1),
        ({"time_unit": 2, "period": 2**32 - 1}, 2**32),
        ({"paywindow": {"seconds_before": 0, "seconds_after": LATEST_S}}, 1),
    ],
)
def test_periods_beyond_all_calendars_are_not_counted(says: dict[str, Any], index: int) -> None:
    with pytest.raises(ValueError):
        _of(**says).following(BASE, index)


@pytest.mark.parametrize("says", [{"time_unit": 3}, {"period": 0}, {"time_unit": "x"}])
def test_periods_of_another_kind_are_not_read(says: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        _of(**says)


def test_what_says_no_period_is_paid_each_thirty_days_without_drift() -> None:
    late = BASE + PLAIN_PERIOD_S + 5 * DAY_S
    assert plain_window(BASE, BASE + DAY_S).start == BASE + PLAIN_PERIOD_S
    assert plain_window(BASE + PLAIN_PERIOD_S, late).start == BASE + 2 * PLAIN_PERIOD_S
    # After a long break the next one is a whole period away.
    assert plain_window(BASE, BASE + 3 * PLAIN_PERIOD_S).start == BASE + 4 * PLAIN_PERIOD_S
