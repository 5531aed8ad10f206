"""config `auto_rebalance_rules`: rules by which the node itself rebalances, within a daily budget of fees
(docs/protocol/02-fleet-management.md §4 item 12, §5.6; docs/decisions/0427).

The command only stores the rules, in place of those its credential had. What they do is done by
services.rebalance_rules as `circular_rebalance` of that credential, each time with a receipt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.errors import from_symbol
from hive_shared.registry import REBALANCE

from ...domain.rebalance_rules import RebalanceRule
from .action import Params
from .stored_rules import Rows, StoredRules, hours_of, usable_channel

RULES: Final = "auto_rebalance_rules"
"""Kind of the timer that keeps the rules of one credential."""
DONE_BY: Final = (REBALANCE, "circular_rebalance")
"""What a rule amounts to each time it acts."""


def rebalance_rules_of(stored: Sequence[Mapping[str, Any]]) -> tuple[RebalanceRule, ...]:
    """Rules as the parameters have them, read. Raises InvalidParams for hours that are none."""
    return tuple(
        RebalanceRule(
            index=index,
            source=rule["from_channel"],
            target=rule["to_channel"],
            amount_sat=int(rule["amount_sats"]),
            max_fee_ppm=int(rule["max_fee_ppm"]),
            below=int(rule["to_permille_below"]),
            above=int(rule["from_permille_above"]),
            hours=hours_of(rule["time"], f"rules[{index}].time") if "time" in rule else None,
        )
        for index, rule in enumerate(stored)
    )


class AutoRebalanceRules(StoredRules):
    """`auto_rebalance_rules`: the rules of a credential."""

    _kind = RULES
    _amounts_to = DONE_BY

    def _beside(self, params: Params, stored: Sequence[Mapping[str, Any]]) -> Mapping[str, JsonValue]:
        budget = params.get("daily_budget_sats")
        if stored and budget is None:
            raise from_symbol(
                "invalid_params",
                "rules need daily_budget_sats, the fees they may pay in 24 hours",
                param="daily_budget_sats",
                expected="present",
            )
        return {"daily_budget_sats": budget}

    def _named(self, stored: Sequence[Mapping[str, Any]], listing: Sequence[Mapping[str, Any]]) -> Rows:
        rows: dict[str, Mapping[str, Any]] = {}
        for rule in rebalance_rules_of(stored):
            ends = dict(
                usable_channel(listing, text, f"rules[{rule.index}].{name}")
                for name, text in (("from_channel", rule.source), ("to_channel", rule.target))
            )
            if len({row["peer_id"] for row in ends.values()}) < 2:
                raise from_symbol(
                    "invalid_params",
                    f"rules[{rule.index}]: both channels are with the same peer, who chooses by which of them"
                    " a payment comes back",
                    param=f"rules[{rule.index}].to_channel",
                    expected="a channel with another peer",
                )
            rows |= ends
        return rows
