"""Trials: what a first engagement may reach, when one may start, and how its end is judged.

docs/protocol/04-marketplace-and-nostr.md §10 "Trial", docs/decisions/0180-trials-of-a-direct-hire.md. Every
figure is measured by the node; what nobody measured is unknown, and says why.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.credential_scope import TEMPLATES, Template, patterns_allow
from hive_shared.errors import Conflict, InvalidParams
from hive_shared.registry import Tier

from .advisor import DAY_S
from .presence import Presence, hours_of

MIN_DAYS: Final = 7
MAX_DAYS: Final = 30
DEFAULT_DAYS: Final = 14
MAX_RUNNING: Final = 2
COOLDOWN_S: Final = 14 * DAY_S
PRICE_WINDOW_S: Final = 90 * DAY_S
BASELINE_S: Final = 7 * DAY_S
"""Revenue is compared over this many seconds before the start and before the end."""
MAX_TRIALS: Final = 10_000
_FEES, _MONITOR = "hive:fee-policy/v1", "hive:monitor/v1"
_MAX_MULTIPLIER: Final = 3


class Outcome(StrEnum):
    """How a trial ended; a running one has none.

    `review`: some criteria passed or could not be measured, the operator decides. `stopped`: the credential
    was revoked or replaced before the end.
    """

    PASS = "pass"
    FAIL = "fail"
    REVIEW = "review"
    STOPPED = "stopped"


class Criterion(msgspec.Struct, frozen=True):
    """One thing a trial is judged by: the metric must stand in this relation to the threshold."""

    metric: str
    operator: str
    threshold: int

    def result(self, value: JsonValue) -> str:
        """pass, fail, or unknown for what was not measured."""
        if not isinstance(value, int) or isinstance(value, bool):
            return "unknown"
        good = value >= self.threshold if self.operator == ">=" else value <= self.threshold
        return "pass" if good else "fail"

    def to_doc(self) -> dict[str, JsonValue]:
        """As stored and shown."""
        return {"metric": self.metric, "operator": self.operator, "threshold": self.threshold}


CRITERIA: Final = (
    Criterion("actions_taken", ">=", 10),
    Criterion("uptime_pct", ">=", 95),
    Criterion("revenue_delta_pct", ">=", -5),
    Criterion("response_time_p95_minutes", "<=", 30),
)
"""The defaults of 04 §10."""


class Income(msgspec.Struct, frozen=True):
    """Routing fees of a span and what rebalancing cost in it, msat; None: the node could not say.

    `complete` is false when the node had more forwards than were read.
    """

    since: int
    until: int
    fees_msat: int
    rebalance_cost_msat: int | None
    forwards: int
    complete: bool

    def to_doc(self) -> dict[str, JsonValue]:
        """As stored with a trial."""
        return {
            "from": self.since,
            "to": self.until,
            "fees_msat": self.fees_msat,
            "rebalance_cost_msat": self.rebalance_cost_msat,
            "forwards": self.forwards,
            "complete": self.complete,
        }

    @classmethod
    def from_doc(cls, doc: Mapping[str, Any]) -> "Income":
        """What `to_doc` wrote."""
        names = ("from", "to", "fees_msat", "rebalance_cost_msat", "forwards", "complete")
        return cls(*(doc[name] for name in names))

    def per_day(self, *, net: bool) -> Fraction:
        """Msat per day, with `net` less what rebalancing cost."""
        cost = self.rebalance_cost_msat or 0
        return Fraction((self.fees_msat - (cost if net else 0)) * DAY_S, max(1, self.until - self.since))


class Baseline(msgspec.Struct, frozen=True):
    """What the node was like when a trial began: income of the seven days before, and its channels."""

    income: Income
    channels: int
    capacity_msat: int
    own_msat: int

    def to_doc(self) -> dict[str, JsonValue]:
        """As stored, and as the receipt of the start signs it."""
        return {
            "income": self.income.to_doc(),
            "channels": self.channels,
            "capacity_msat": self.capacity_msat,
            "own_msat": self.own_msat,
        }

    @classmethod
    def from_doc(cls, doc: Mapping[str, Any]) -> "Baseline":
        """What `to_doc` wrote."""
        income = Income.from_doc(doc["income"])
        return cls(income, doc["channels"], doc["capacity_msat"], doc["own_msat"])


class Trial(msgspec.Struct, frozen=True):
    """One row of marketplace_trials with its scopes. Times are Unix seconds."""

    trial_id: str
    advisor_did: str
    node_id: str
    scope: str
    capabilities: tuple[str, ...]
    sequence_number: int
    flat_fee_sats: int
    start_at: int
    end_at: int
    credential_id: str
    baseline: Baseline
    criteria: tuple[Criterion, ...] = CRITERIA
    outcome: Outcome | None = None
    ended_at: int | None = None
    evaluation: Mapping[str, JsonValue] | None = None

    def running(self, now: int) -> bool:
        """Whether it is neither ended nor over."""
        return self.outcome is None and now < self.end_at

    @property
    def until(self) -> int:
        """When it ended, or will."""
        return self.end_at if self.ended_at is None else self.ended_at


def trial_days(value: object) -> int:
    """Days asked for by a `trial` parameter; 0 means none, true means the default.

    Raises InvalidParams for anything that is neither yes, no, nor 7 to 30.
    """
    if value is None or value is False or (isinstance(value, str) and value in ("", "false", "no", "none")):
        return 0
    if value is True or (isinstance(value, str) and value in ("true", "yes")):
        return DEFAULT_DAYS
    days = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if not isinstance(days, int) or isinstance(days, bool):
        shown = f", not {value[:40]!a}" if isinstance(value, str) else ""
        raise InvalidParams(f"trial is true, false or a number of days from {MIN_DAYS} to {MAX_DAYS}{shown}")
    if not MIN_DAYS <= days <= MAX_DAYS:
        raise InvalidParams(
            f"a trial runs {MIN_DAYS} to {MAX_DAYS} days, not {str(days)[:20]}",
            reason="duration_out_of_range",
        )
    return days


def trial_template(wanted: Template) -> Template:
    """The part of `wanted` that a trial may hold: monitor and fee-policy, at most tier standard.

    The limits of fee optimization hold where they are stricter. Raises InvalidParams when nothing is left.
    """
    if patterns_allow(wanted.schemas, _FEES, "set_single"):
        usual = TEMPLATES["fee_optimization"].constraints
        limits = {**wanted.constraints}
        for name, most in usual.items():
            given = limits.get(name)
            limits[name] = min(given, most) if isinstance(given, int) and isinstance(most, int) else most
        schemas: tuple[str, ...] = ("hive:monitor/*", "hive:fee-policy/*")
        return Template("trial", ("trial",), Tier.STANDARD, schemas, MappingProxyType(limits))
    if patterns_allow(wanted.schemas, _MONITOR, "health_summary"):
        return Template("trial", ("trial",), Tier.MONITOR, ("hive:monitor/*",), MappingProxyType({}))
    raise InvalidParams(
        "a trial covers monitoring and fees, and none of them was asked for; choose access=monitoring or fees"
    )


def scope_of(template: Template) -> tuple[str, tuple[str, ...]]:
    """Scope as text, and the capabilities by which trials overlap (04 §2)."""
    if template.tier is Tier.MONITOR:
        return "monitor", ("monitoring-only",)
    return "monitor,fee-policy", ("fee-optimization",)


def multiplier(sequence_number: int) -> int:
    """What the n-th trial in an overlapping scope costs, as a multiple of the advisor's price."""
    return min(sequence_number, _MAX_MULTIPLIER)


def next_number(known: Sequence[Trial], advisor_did: str, capabilities: Sequence[str], now: int) -> int:
    """The `sequence_number` of a trial that starts now.

    `known` must hold every trial that runs or started within 90 days. Raises Conflict when a guard of 04 §10
    forbids it: reason trial_running, max_active_trials or trial_cooldown.
    """
    running = [trial for trial in known if trial.running(now)]
    if own := [trial for trial in running if trial.advisor_did == advisor_did]:
        raise Conflict(
            f"this advisor is on trial until {_day(own[0].end_at)} already; stop that one first",
            reason="trial_running",
        )
    if len(running) >= MAX_RUNNING:
        raise Conflict(
            f"{len(running)} trials are running, at most {MAX_RUNNING} may; the next of them ends on"
            f" {_day(min(trial.end_at for trial in running))}",
            reason="max_active_trials",
        )
    alike = [trial for trial in known if set(trial.capabilities).intersection(capabilities)]
    for trial in alike:
        if trial.advisor_did == advisor_did or now >= trial.until + COOLDOWN_S:
            continue
        state = "runs until" if trial.running(now) else "ended on"
        raise Conflict(
            f"a trial of {', '.join(trial.capabilities)} with another advisor {state} {_day(trial.until)};"
            f" the next one for the same work may start {COOLDOWN_S // DAY_S} days after its end, from"
            f" {_day(trial.until + COOLDOWN_S)} on. A hire without trial is free of this",
            reason="trial_cooldown",
        )
    return 1 + sum(1 for trial in alike if trial.start_at > now - PRICE_WINDOW_S)


def _day(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


# -- what was measured --------------------------------------------------------------------------------


class Work(msgspec.Struct, frozen=True):
    """What an advisor's commands were in a span: writes done, commands refused, whether it was there, and the
    seconds it took to take its credential (None: it never said)."""

    taken: int
    rejected: int
    presence: Presence
    credential_taken_after_s: int | None


def compared(before: Income, after: Income | None) -> tuple[dict[str, JsonValue], str]:
    """Daily revenue before and after, msat, with `delta_pct` in whole percent (rounded down), and why
    `delta_pct` is None where it is."""
    result: dict[str, JsonValue] = {
        "baseline_msat_per_day": None,
        "trial_msat_per_day": None,
        "delta_pct": None,
    }
    if after is None or not after.complete or not before.complete:
        return result, "the node's forwards could not be read completely"
    # Net of rebalancing only when both spans know that cost, else the two would not be alike.
    net = before.rebalance_cost_msat is not None and after.rebalance_cost_msat is not None
    result["net_of_rebalancing"] = net
    old = before.per_day(net=net)
    result["baseline_msat_per_day"] = int(old)
    if after.until - after.since < DAY_S:
        return result, "it has run for less than a day"
    new = after.per_day(net=net)
    result["trial_msat_per_day"] = int(new)
    if old <= 0:
        return result, "nothing was earned in the seven days before, so there is no percentage of it"
    return {**result, "delta_pct": (new - old) * 100 // old}, ""


def evaluated(trial: Trial, work: Work, income: Income | None, until: int) -> dict[str, JsonValue]:
    """The review of a trial up to `until`: figures, criteria, and what was not measured and why."""
    revenue, why_not = compared(trial.baseline.income, income)
    hours = hours_of(trial.start_at, until)
    uptime, no_uptime = work.presence.uptime(hours)
    response, no_response = work.presence.response()
    reasons = {
        "uptime_pct": no_uptime,
        "response_time_p95_minutes": no_response,
        "revenue_delta_pct": why_not,
    }
    missing: dict[str, JsonValue] = {name: why for name, why in reasons.items() if why}
    figures: dict[str, JsonValue] = {
        "actions_taken": work.taken,
        "actions_refused": work.rejected,
        "revenue_delta_pct": revenue["delta_pct"],
        "uptime_pct": uptime,
        "response_time_p95_minutes": _minutes(response),
    }
    return {
        "from": trial.start_at,
        "to": until,
        **figures,
        "hours_heard": len([hour for hour in work.presence.heard if hour < hours]),
        "hours": hours,
        "pings": work.presence.sent,
        "pings_answered": len(work.presence.seconds),
        "response_time_s": response,
        "credential_taken_after_s": work.credential_taken_after_s,
        "revenue": revenue,
        "not_measured": missing,
        "criteria": [
            {
                **each.to_doc(),
                "value": figures.get(each.metric),
                "result": each.result(figures.get(each.metric)),
            }
            for each in trial.criteria
        ],
    }


def _minutes(response: Mapping[str, JsonValue] | None) -> int | None:
    """The 95th percentile in whole minutes, rounded up."""
    if response is None:
        return None
    seconds = response["p95"]
    assert isinstance(seconds, int)
    return -(-seconds // 60)


def judged(evaluation: Mapping[str, JsonValue]) -> Outcome:
    """All criteria pass: pass. All fail: fail. Anything else is for the operator to decide."""
    rows = evaluation["criteria"]
    assert isinstance(rows, list)
    results = {str(row["result"]) for row in rows if isinstance(row, dict)}
    if results == {"pass"}:
        return Outcome.PASS
    return Outcome.FAIL if results == {"fail"} else Outcome.REVIEW
