"""What follows from snapshots of channels: how fast they drain, how a node goes, what became of a decision
(docs/protocol/11-advisor-kit.md §9). Amounts are msat, times Unix seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Final, Literal

import msgspec

HOUR_S: Final = 3_600
DAY_S: Final = 86_400
VELOCITY_S: Final = DAY_S
"""Velocity is fitted through the samples of so long a time."""
MIN_SAMPLES: Final = 3
MIN_SENT: Final = 3
"""Fewer payments than this say nothing about a fee."""
JUDGED_FROM_S: Final = 24 * HOUR_S
JUDGED_UNTIL_S: Final = 72 * HOUR_S
MERGED_S: Final = DAY_S
_BEFORE_S: Final = 48 * HOUR_S
# The last daily figure may come a day after the window.
_ENDED_S: Final = JUDGED_UNTIL_S + DAY_S
_LEVELS: Final = ((4, "critical"), (12, "high"), (24, "medium"))

DECISION_KINDS: Final = ("fee", "rebalance", "open", "close", "splice", "policy", "other")

Result = Literal["better", "worse", "unchanged", "unknown"]


class Sample(msgspec.Struct, frozen=True):
    """A channel at one moment; an empty ``channel_id`` is the sum over ``channels`` of them.

    ``sent_out``: HTLCs fulfilled out of the channel in all its life. ``fees_day_msat``: earned in the 24
    hours before. None is what the node did not say.
    """

    client_id: str
    channel_id: str
    at: int
    channel: str
    channels: int
    local_msat: int
    total_msat: int
    sent_out: int | None = None
    fees_day_msat: int | None = None


class Decision(msgspec.Struct, frozen=True):
    """What was decided and why. ``confidence`` is a percentage, the decider's own word."""

    decision_id: int
    client_id: str
    kind: str
    target: str
    reasoning: str
    confidence: int | None
    predicted: str
    command_id: str | None
    origin: str
    said: int
    created: int
    updated: int
    outcome: Result | None = None
    measured: Mapping[str, object] | None = None
    outcome_at: int | None = None


class Goal(msgspec.Struct, frozen=True):
    """A figure to reach. ``first_value`` is what it was when the goal was set."""

    goal_id: int
    client_id: str
    metric: str
    target: int
    first_value: int | None
    due: int
    note: str
    created: int
    closed: int | None = None


GOAL_METRICS: Final[Mapping[str, Callable[[Sample], int | None]]] = {
    "channels": lambda total: total.channels,
    "capacity_sat": lambda total: total.total_msat // 1_000,
    "local_sat": lambda total: total.local_msat // 1_000,
    "local_permille": lambda total: (
        total.local_msat * 1_000 // total.total_msat if total.total_msat else None
    ),
    "fees_day_msat": lambda total: total.fees_day_msat,
}
"""What a goal can be about, and how it is read off the sum of a node's channels."""


class Velocity(msgspec.Struct, frozen=True):
    """Which way a channel's local balance moves, and in how many minutes it is at that end at this pace."""

    channel: str
    channel_id: str
    msat_per_hour: int
    towards: Literal["empty", "full", "rest"]
    minutes: int | None
    level: str
    samples: int


def velocity(samples: Sequence[Sample]) -> Velocity | None:
    """Least squares through the last 24 hours of one channel, the oldest first; None with fewer than three
    samples."""
    if not samples:
        return None
    last = samples[-1]
    near = [each for each in samples if each.at > last.at - VELOCITY_S]
    if len(near) < MIN_SAMPLES:
        return None
    # Integers all the way: times count from the last sample.
    times = [each.at - last.at for each in near]
    amounts = [each.local_msat for each in near]
    spread = len(near) * sum(at * at for at in times) - sum(times) ** 2
    if not spread:
        return None
    together = sum(at * amount for at, amount in zip(times, amounts, strict=True))
    slope = Fraction(len(near) * together - sum(times) * sum(amounts), spread)
    seconds: Fraction | None = None
    if slope < 0:
        seconds = Fraction(last.local_msat * slope.denominator, -slope.numerator)
    elif slope > 0:
        seconds = Fraction((last.total_msat - last.local_msat) * slope.denominator, slope.numerator)
    level = "none"
    if seconds is not None:
        level = next((name for hours, name in _LEVELS if seconds < hours * HOUR_S), "low")
    return Velocity(
        last.channel,
        last.channel_id,
        round(slope * HOUR_S),
        "rest" if seconds is None else "empty" if slope < 0 else "full",
        None if seconds is None else int(seconds // 60),
        level,
        len(near),
    )


def trend(totals: Sequence[Sample], days: int, now: int) -> dict[str, object]:
    """How a node's sums changed over the last days, from its sums, the oldest first. Fees are the sum of the
    days that were measured, and how many those were."""
    span = [each for each in totals if each.at > now - days * DAY_S]
    if len(span) < 2:
        return {"days": days, "known": False}
    first, last = span[0], span[-1]
    fees = [each.fees_day_msat for each in span if each.fees_day_msat is not None]
    return {
        "days": days,
        "known": True,
        "from": first.at,
        "until": last.at,
        "channels": [first.channels, last.channels],
        "capacity_msat": [first.total_msat, last.total_msat],
        "local_msat": [first.local_msat, last.local_msat],
        "fees_msat": sum(fees),
        "days_with_fees": len(fees),
    }


class Judgement(msgspec.Struct, frozen=True):
    """What became of a decision, and by which figures."""

    outcome: Result
    measured: Mapping[str, object]


def judge(
    decision: Decision, channels: Mapping[str, Sequence[Sample]], touched: frozenset[str], now: int
) -> Judgement | None:
    """Daily fee revenue of the decision's channel before and after, against the median change of channels
    that nobody touched. None while it is too early; `unknown` where the figures do not say.

    ``channels``: samples by channel id, the oldest first. ``touched``: names and ids of channels that were
    the target of another decision or command since shortly before.
    """
    own = next(
        (rows for key, rows in channels.items() if rows and decision.target in (key, rows[-1].channel)), None
    )
    late = now > decision.created + _ENDED_S
    if own is None:
        return Judgement("unknown", {"why": "no figures of that channel"}) if late else None
    mine = _change(own, decision.created)
    if mine is None:
        return Judgement("unknown", {"why": "no revenue before or after"}) if late else None
    before, after, sent = mine
    if sent is None or sent < MIN_SENT:
        if not late:
            return None
        return Judgement("unknown", {"why": f"fewer than {MIN_SENT} payments left by it", "sent_out": sent})
    others = sorted(
        change[1] - change[0]
        for key, rows in channels.items()
        if rows and key not in touched and rows[-1].channel not in touched and rows is not own
        if (change := _change(rows, decision.created)) is not None
    )
    middle = _median(others)
    effect = after - before - middle
    outcome: Result = "better" if effect > 0 else "worse" if effect < 0 else "unchanged"
    return Judgement(
        outcome,
        {
            "before_msat_per_day": before,
            "after_msat_per_day": after,
            "untouched_channels": len(others),
            "untouched_change_msat_per_day": middle,
            "effect_msat_per_day": effect,
            "sent_out": sent,
        },
    )


def _change(rows: Sequence[Sample], moment: int) -> tuple[int, int, int | None] | None:
    """Revenue a day before a moment and after it, and how many HTLCs left since."""
    before = [r for r in rows if r.fees_day_msat is not None and moment - _BEFORE_S < r.at <= moment]
    after = [
        r for r in rows if r.fees_day_msat is not None and moment + JUDGED_FROM_S <= r.at <= moment + _ENDED_S
    ]
    if not before or not after:
        return None
    start = next((r.sent_out for r in reversed(rows) if r.at <= moment and r.sent_out is not None), None)
    end = after[-1].sent_out
    earned = sum(r.fees_day_msat or 0 for r in after) // len(after)
    return before[-1].fees_day_msat or 0, earned, None if start is None or end is None else end - start


def _median(values: Sequence[int]) -> int:
    if not values:
        return 0
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) // 2
