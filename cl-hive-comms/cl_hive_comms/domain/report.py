"""Reports on an advisor's work, day by day and week by week (docs/protocol/02-fleet-management.md §10).

Every figure is measured by the node; what nobody measured is null and says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec
from hive_shared.canonical import JsonValue, encode
from hive_shared.crypto import sha256
from hive_shared.registry.control import REPORT_DAILY, REPORT_WEEKLY

from .advisor import DAY_S
from .presence import hours_of
from .trial import BASELINE_S, Baseline, Income, Work, compared

PERIODS: Final[Mapping[str, str]] = MappingProxyType({"daily": REPORT_DAILY, "weekly": REPORT_WEEKLY})
"""Kind of report -> the stream of telemetry that sends it."""
_WEEK_S: Final = 7 * DAY_S
_LENGTH: Final = {"daily": DAY_S, "weekly": _WEEK_S}
_FIRST_MONDAY_S: Final = 4 * DAY_S
_MADE_UP: Final = {"daily": 7, "weekly": 4}
"""So many missed reports are made afterwards."""


class Span(msgspec.Struct, frozen=True):
    """Unix seconds from `since` up to, not including, `until`."""

    since: int
    until: int

    def revenue(self, engaged: int) -> Span:
        """The span whose revenue is compared: the seven days before the end, none of them before the
        engagement (docs/protocol/04 §10 "SLA")."""
        return Span(max(engaged, self.until - BASELINE_S), self.until)


def period_start(kind: str, at: int) -> int:
    """When the period of a moment began: midnight, or the midnight before Monday, UTC."""
    length, shift = _LENGTH[kind], _FIRST_MONDAY_S if kind == "weekly" else 0
    return (at - shift) // length * length + shift


def due(kind: str, engaged: int, reported: int | None, now: int) -> list[Span]:
    """Periods that are over and not reported, the oldest first. The first begins with the engagement.

    `reported` is where the last report ended. After a long standstill only the newest are made up for.
    """
    length, start = _LENGTH[kind], max(engaged, reported or 0)
    end = period_start(kind, now)
    found: list[Span] = []
    while end > start and len(found) < _MADE_UP[kind]:
        found.append(Span(max(end - length, engaged), end))
        end -= length
    return found[::-1]


def built(
    kind: str,
    span: Span,
    work: Work,
    baseline: Baseline | None,
    income: Income | None,
) -> dict[str, JsonValue]:
    """A report: what was done and heard in the span, and revenue of the days before its end against the
    baseline of the hire."""
    hours, presence = hours_of(span.since, span.until), work.presence
    uptime, no_uptime = presence.uptime(hours)
    response, no_response = presence.response()
    revenue: dict[str, JsonValue] = {"delta_pct": None}
    no_delta = "the node could not tell what it earned in the seven days before the hire"
    if baseline is not None:
        revenue, no_delta = compared(baseline.income, income)
        revenue["now_msat_per_day"] = revenue.pop("trial_msat_per_day")
    reasons = {"uptime_pct": no_uptime, "response_time_s": no_response, "revenue_delta_pct": no_delta}
    return {
        "kind": kind,
        "from": span.since,
        "to": span.until,
        "actions_taken": work.taken,
        "actions_refused": work.rejected,
        "uptime_pct": uptime,
        "hours": hours,
        "hours_heard": len([hour for hour in presence.heard if hour < hours]),
        "pings": presence.sent,
        "pings_answered": len(presence.seconds),
        "response_time_s": response,
        "revenue_delta_pct": revenue.pop("delta_pct"),
        "revenue": revenue,
        "not_measured": {name: why for name, why in reasons.items() if why},
    }


def baseline_doc(baseline: Baseline, node_id: str, agent_id: str, credential_id: str) -> dict[str, JsonValue]:
    """A baseline as the node signs it."""
    return {
        "v": 1,
        "node_id": node_id,
        "agent_id": agent_id,
        "credential_id": credential_id,
        **baseline.to_doc(),
    }


def baseline_digest(document: Mapping[str, JsonValue]) -> bytes:
    """What the node's Nostr key signs of it."""
    return sha256(b"hive-baseline:v1:" + encode(dict(document)))
