"""What this node measures for bonuses (docs/protocol/03-escrow-and-payments.md §6.3, §6.7 "Performance")."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from hive_shared.canonical import JsonValue

from .advisor import DAY_S
from .report import baseline_digest
from .trial import Income

GROSS: Final = "revenue_msat_per_day"
NET: Final = "net_revenue_msat_per_day"
FORWARDS: Final = "forwards_per_day"
METRICS: Final = frozenset({GROSS, NET, FORWARDS})
"""Routing fees, those less what rebalancing cost, settled forwards: each per day, rounded down."""


def value_of(metric: str, income: Income) -> int | None:
    """A metric (of METRICS) of a span; None where the node's records do not tell all of it."""
    if not income.complete or (metric == NET and income.rebalance_cost_msat is None):
        return None
    if metric == FORWARDS:
        return int(Fraction(income.forwards * DAY_S, max(1, income.until - income.since)))
    per_day = income.per_day(net=metric == NET)
    return per_day.numerator // per_day.denominator


def baseline_of(metric: str, signed: Mapping[str, Any]) -> dict[str, JsonValue] | None:
    """The baseline of a ticket's terms from the signed one of a credential; None where it does not tell the
    metric. `digest` is what `signature`, the node's, is over."""
    document = {name: value for name, value in signed.items() if name != "signature"}
    income = Income.from_doc(document["income"])
    value = value_of(metric, income)
    if value is None:
        return None
    return {
        "metric": metric,
        "value": value,
        "period": [income.since, income.until],
        "credential_id": str(document["credential_id"]),
        "digest": baseline_digest(document).hex(),
        "signature": str(signed["signature"]),
    }
