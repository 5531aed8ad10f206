"""When a rule of a fee schedule is in force, and for how long
(docs/protocol/02-fleet-management.md §4 item 12; docs/decisions/0426)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Any, Final

import msgspec

from .policy_settings import DAYS

HYSTERESIS_PERMILLE: Final = 50
"""How far a share has to come back before a threshold rule lets go."""
LEAST_HOLD_S: Final = 3_600
"""A threshold rule holds so long at least: every change of a fee is gossip."""
LONGEST_HOLD_S: Final = 720 * 3_600
"""A held rate ends by itself after this, should nobody end it before."""


class Hours(msgspec.Struct, frozen=True):
    """A rule's hours of the day: minutes from local midnight; `days` are those on which they begin."""

    start: int
    end: int
    days: frozenset[str]
    zone: tzinfo

    def window(self, now: int) -> tuple[int, int] | None:
        """Begin and end (unix seconds) of the hours that `now` lies in; None outside."""
        today = datetime.fromtimestamp(now, self.zone).date()
        for day in (today, today - timedelta(days=1)):
            if DAYS[day.weekday()] not in self.days:
                continue
            midnight = datetime(day.year, day.month, day.day, tzinfo=self.zone)
            last = midnight if self.start < self.end else midnight + timedelta(days=1)
            begin, end = _at(midnight, self.start), _at(last, self.end)
            if begin <= now < end:
                return begin, end
        return None


def _at(midnight: datetime, minute: int) -> int:
    """That time on the wall, as the zone has it on that day."""
    return int(midnight.replace(hour=minute // 60, minute=minute % 60).timestamp())


class Share(msgspec.Struct, frozen=True):
    """A rule's threshold on how much of a channel is ours, in thousandths."""

    below: int | None
    above: int | None

    def holds(self, permille: int, *, held: bool) -> bool:
        """Whether the rule is in force; one that is, lets go only after the share came back some way."""
        slack = HYSTERESIS_PERMILLE if held else 0
        if self.below is not None:
            return permille < self.below + slack
        assert self.above is not None
        return permille > self.above - slack


class FeeRule(msgspec.Struct, frozen=True):
    """One rule: the rate of some channels while it is in force. `index` is its place in the schedule."""

    index: int
    channels: tuple[str, ...]
    fee_ppm: int
    hours: Hours | None
    share: Share | None


class Held(msgspec.Struct, frozen=True):
    """A rate that a rule holds on a channel: which rule, since when, until when."""

    index: int
    fee_ppm: int
    since: int
    until: int


class Wanted(msgspec.Struct, frozen=True):
    """What a rule wants of a channel now. `since` is when its hours began, for a threshold the day."""

    rule: FeeRule
    until: int
    since: int


def wanted(rules: Sequence[FeeRule], permille: int, held: Held | None, now: int) -> Wanted | None:
    """What the first rule in force wants of a channel, of the rules that name it; None when none is in force.

    A threshold rule that would let go holds on until its least time is over.
    """
    for rule in rules:
        mine = held is not None and held.index == rule.index and held.fee_ppm == rule.fee_ppm
        if rule.hours is not None:
            if (window := rule.hours.window(now)) is not None:
                return Wanted(rule, window[1], window[0])
            continue
        assert rule.share is not None
        early = mine and held is not None and now < held.since + LEAST_HOLD_S
        if early or rule.share.holds(permille, held=mine):
            return Wanted(rule, now + LONGEST_HOLD_S, now // 86_400 * 86_400)
    return None


def clock_minutes(text: str) -> int:
    """Minutes since midnight of `HH:MM`."""
    return int(text[:2]) * 60 + int(text[3:])


def local_permille(row: Mapping[str, Any]) -> int:
    """Our share of a channel (CLN `listpeerchannels`) in thousandths; 0 for one without a size."""
    total = int(row.get("total_msat", 0))
    return int(row.get("to_us_msat", 0)) * 1_000 // total if total else 0
