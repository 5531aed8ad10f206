"""Offers that are paid period by period: when a period begins and when it may be paid
(docs/protocol/03-escrow-and-payments.md §7.4; docs/decisions/0560). Times are unix seconds."""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from datetime import MAXYEAR, UTC, datetime
from typing import Any, Final

import msgspec

DAY_S: Final = 86_400
_MONTHS: Final = 2
_UNITS: Final = ("seconds", "days", "months")
RETRIES_S: Final = (3_600, 4 * 3_600, 12 * 3_600)
"""How long after a failed attempt the next one is made."""
_ROOM_S: Final = sum(RETRIES_S) + 3_600
"""All attempts of a period and the hour between two looks at the clock fit in this."""
PLAIN_PERIOD_S: Final = 30 * DAY_S
"""The period of what does not say its own."""
LATEST_S: Final = 253_402_300_799
"""The end of the year 9999. What others name beyond it no calendar and, further on, no database holds."""


class Window(msgspec.Struct, frozen=True):
    """When a period may be paid (`start` to `end`) and when that is begun (`due`)."""

    start: int
    due: int
    end: int


class Recurrence(msgspec.Struct, frozen=True):
    """What an offer says of its periods. `before`, `after` are the seconds around a period's begin in which
    it may be paid (None: during it and the one before), `limit` the last period's index."""

    unit: int
    period: int
    compulsory: bool
    base: int | None = None
    before: int | None = None
    after: int | None = None
    limit: int | None = None

    @classmethod
    def of(cls, shown: Mapping[str, Any]) -> Recurrence:
        """Read `offer_recurrence` as the node decodes it. Raises KeyError, ValueError for one of a kind that
        is not known."""
        unit, period = int(shown["time_unit"]), int(shown["period"])
        if unit not in range(len(_UNITS)) or period < 1:
            raise ValueError(f"time unit {unit}, period {period}")
        window = shown.get("paywindow")
        return cls(
            unit,
            period,
            shown.get("compulsory_field", True) is not False,
            _number(shown.get("basetime")),
            None if window is None else int(window["seconds_before"]),
            None if window is None else int(window["seconds_after"]),
            _number(shown.get("limit")),
        )

    def text(self) -> str:
        """As operators read it: `1 months`."""
        return f"{self.period} {_UNITS[self.unit]}"

    def begin(self, base: int, index: int) -> int:
        """When a period begins; the first one at `base`. Raises ValueError beyond `LATEST_S`."""
        if self.unit == _MONTHS:
            return _months_after(base, self.period * index)
        begin = base + index * self._fixed_s
        if begin > LATEST_S:
            raise ValueError(f"period {index} begins at {begin}")
        return begin

    @property
    def _fixed_s(self) -> int:
        return self.period * (DAY_S if self.unit else 1)

    def window(self, base: int, index: int) -> Window:
        """When a period may be paid. That is begun as the period begins, or earlier where else the attempts
        would not all have their time. Raises ValueError beyond `LATEST_S`."""
        begin = self.begin(base, index)
        if self.before is None or self.after is None:
            start = self.begin(base, index - 1) if index else begin
            end = self.begin(base, index + 1) - 1
        else:
            start, end = begin - self.before, begin + self.after
        if end > LATEST_S:
            raise ValueError(f"period {index} may be paid until {end}")
        return Window(start, max(start, min(begin, end - _ROOM_S)), end)

    def following(self, base: int, index: int) -> Window | None:
        """When the period after this one may be paid; None after the last. Raises ValueError beyond
        `LATEST_S`."""
        if self.limit is not None and index + 1 > self.limit:
            return None
        return self.window(base, index + 1)

    def current(self, now: int) -> int:
        """The period that runs now, of an offer that says when the first one began; 0 before that."""
        if self.base is None or self.base > now:
            return 0
        if self.unit != _MONTHS:
            return (now - self.base) // self._fixed_s
        index = (_month(now) - _month(self.base)) // self.period
        return index if self.begin(self.base, index) <= now else index - 1


def plain_window(begun: int | None, now: int) -> Window:
    """The next period of what says none: 30 days after the last one began, or after now when that is over."""
    start = (now if begun is None else begun) + PLAIN_PERIOD_S
    if start <= now:
        start = now + PLAIN_PERIOD_S
    return Window(start, start, start + PLAIN_PERIOD_S)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _month(at: int) -> int:
    moment = datetime.fromtimestamp(at, UTC)
    return moment.year * 12 + moment.month


def _months_after(at: int, months: int) -> int:
    moment = datetime.fromtimestamp(at, UTC)
    years, month = divmod(moment.month - 1 + months, 12)
    year = moment.year + years
    if year > MAXYEAR:
        raise ValueError(f"period begins in the year {year}")
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return int(moment.replace(year=year, month=month + 1, day=day).timestamp())
