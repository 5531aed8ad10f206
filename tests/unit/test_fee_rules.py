"""When a rule of a fee schedule is in force (docs/decisions/0426)."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from cl_hive_comms.domain.fee_rules import (
    LEAST_HOLD_S,
    LONGEST_HOLD_S,
    FeeRule,
    Held,
    Hours,
    Share,
    local_permille,
    wanted,
)
from cl_hive_comms.domain.policy_settings import DAYS

BERLIN = ZoneInfo("Europe/Berlin")
ALL = frozenset(DAYS)


def at(text: str, zone: ZoneInfo | None = None) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone or UTC).timestamp())


def hours(start: str, end: str, days: frozenset[str] = ALL, zone: ZoneInfo | None = None) -> Hours:
    minutes = [int(text[:2]) * 60 + int(text[3:]) for text in (start, end)]
    return Hours(*minutes, days, zone or UTC)


@pytest.mark.parametrize(
    ("span", "now", "window"),
    [
        (hours("08:00", "16:30"), "2026-11-20T08:00", ("2026-11-20T08:00", "2026-11-20T16:30")),
        (hours("08:00", "16:30"), "2026-11-20T07:59:59", None),
        (hours("08:00", "16:30"), "2026-11-20T16:30", None),
        (hours("22:00", "06:00"), "2026-11-20T23:00", ("2026-11-20T22:00", "2026-11-21T06:00")),
        (hours("22:00", "06:00"), "2026-11-21T05:59", ("2026-11-20T22:00", "2026-11-21T06:00")),
        # The day is that on which the hours begin: 20 November 2026 is a Friday.
        (
            hours("22:00", "06:00", frozenset({"fri"})),
            "2026-11-21T05:59",
            ("2026-11-20T22:00", "2026-11-21T06:00"),
        ),
        (hours("22:00", "06:00", frozenset({"sat"})), "2026-11-21T05:59", None),
        (hours("00:00", "23:59", frozenset({"sat"})), "2026-11-20T12:00", None),
        (hours("23:30", "00:00"), "2026-11-20T23:45", ("2026-11-20T23:30", "2026-11-21T00:00")),
    ],
)
def test_the_hours_of_a_rule(span: Hours, now: str, window: tuple[str, str] | None) -> None:
    assert span.window(at(now)) == (None if window is None else (at(window[0]), at(window[1])))


def test_hours_follow_the_clock_on_the_wall() -> None:
    night = hours("22:00", "06:00", zone=BERLIN)
    # On 28 March 2026 a night lost an hour, on 24 October one gained one.
    for begin, end, length in (
        ("2026-03-28T22:00", "2026-03-29T06:00", 7),
        ("2026-10-24T22:00", "2026-10-25T06:00", 9),
        ("2026-11-20T22:00", "2026-11-21T06:00", 8),
    ):
        window = night.window(at(begin, BERLIN))
        assert window == (at(begin, BERLIN), at(end, BERLIN))
        assert window[1] - window[0] == length * 3_600
        assert night.window(window[1] - 1) == window and night.window(window[1]) is None


def rule(index: int = 0, ppm: int = 300, span: Hours | None = None, share: Share | None = None) -> FeeRule:
    return FeeRule(index, ("1x1x1",), ppm, span, share)


def test_the_first_rule_in_force_goes_before() -> None:
    day, evening = rule(0, 200, hours("08:00", "18:00")), rule(1, 300, hours("16:00", "22:00"))
    both = at("2026-11-20T17:00")
    got = wanted((day, evening), 500, None, both)
    assert got is not None and (got.rule, got.until) == (day, at("2026-11-20T18:00"))
    got = wanted((evening, day), 500, None, both)
    assert got is not None and got.rule == evening
    assert wanted((day, evening), 500, None, at("2026-11-20T23:00")) is None


@pytest.mark.parametrize(
    ("share", "permille", "enters", "stays"),
    [
        (Share(200, None), 199, True, True),
        (Share(200, None), 200, False, True),
        (Share(200, None), 249, False, True),
        (Share(200, None), 250, False, False),
        (Share(None, 800), 801, True, True),
        (Share(None, 800), 800, False, True),
        (Share(None, 800), 750, False, False),
    ],
)
def test_a_threshold_lets_go_later_than_it_holds(
    share: Share, permille: int, enters: bool, stays: bool
) -> None:
    now, one = at("2026-11-20T12:00"), rule(share=share)
    got = wanted((one,), permille, None, now)
    assert (got is not None) == enters
    if got is not None:
        assert got.until == now + LONGEST_HOLD_S
    held = Held(0, 300, now - LEAST_HOLD_S, now + 9)
    assert (wanted((one,), permille, held, now) is not None) == stays
    young = Held(0, 300, now - LEAST_HOLD_S + 1, now + 9)
    assert wanted((one,), permille, young, now) is not None, "not before an hour is over"
    other = Held(1, 300, now, now + 9)
    assert (wanted((one,), permille, other, now) is not None) == enters, "another rule's hold is none of its"


def test_our_share_of_a_channel() -> None:
    assert local_permille({"to_us_msat": 999, "total_msat": 4_000}) == 249
    assert local_permille({"to_us_msat": 5, "total_msat": 0}) == local_permille({}) == 0
