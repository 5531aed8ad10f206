"""Uptime and response time out of pings and commands (docs/protocol/02 §10, 04 §10 "SLA")."""

from __future__ import annotations

import pytest
from cl_hive_comms.domain.presence import Presence, hours_of
from hypothesis import given
from hypothesis import strategies as st


def hours(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


@pytest.mark.parametrize(
    ("presence", "span", "percent"),
    [
        # Without pings only commands count, against all hours.
        (Presence(heard=hours(0, 1)), 4, 50),
        (Presence(heard=hours(0)), 3, None),
        (Presence(), 1, None),
        # With pings an hour without one was the node's own.
        (Presence(36, hours(0, 1, 2), hours(0, 1), (1,)), 4, 66),
        (Presence(12, hours(0), hours(0), (1,)), 3, None),
        (Presence(12, hours(0), hours(), ()), 2, 0),
        # A command in an hour without a ping is heard all the same; what lies outside counts nowhere.
        (Presence(12, hours(0), hours(0, 1), (1,)), 2, 100),
        (Presence(12, hours(0, 9), hours(0, 9), (1,)), 1, 100),
    ],
)
def test_uptime_is_hours_heard_of_those_that_say_something(
    presence: Presence, span: int, percent: int | None
) -> None:
    found, why = presence.uptime(span)
    assert found == percent and (found is None) == bool(why)


def test_response_time_is_the_nearest_rank_of_answered_pings() -> None:
    assert Presence(20, seconds=tuple(range(1, 21))).response()[0] == {"p50": 10, "p95": 19}
    assert Presence(1, seconds=(7,)).response()[0] == {"p50": 7, "p95": 7}
    assert Presence(2, seconds=(7,)).response()[0] == {"p50": 7, "p95": 7}
    found, why = Presence(3, seconds=(7,)).response()
    assert found is None and why.startswith("1 of 3 pings were answered")
    assert Presence().response() == (None, "no ping was sent, so there was nothing to answer")


@given(
    st.builds(
        Presence,
        st.integers(0, 50),
        st.frozensets(st.integers(0, 60)),
        st.frozensets(st.integers(0, 60)),
        st.lists(st.integers(0, 120), max_size=50).map(lambda each: tuple(sorted(each))),
    ),
    st.integers(1, 48),
)
def test_figures_are_whole_and_in_range_or_say_why_not(presence: Presence, span: int) -> None:
    percent, why = presence.uptime(span)
    assert (percent is None) == bool(why) and (percent is None or 0 <= percent <= 100)
    response, reason = presence.response()
    assert (response is None) == bool(reason)
    if response is not None:
        assert response["p50"] in presence.seconds and response["p95"] in presence.seconds


def test_a_begun_hour_is_an_hour() -> None:
    assert [hours_of(0, each) for each in (0, 1, 3_600, 3_601)] == [1, 1, 1, 2]
