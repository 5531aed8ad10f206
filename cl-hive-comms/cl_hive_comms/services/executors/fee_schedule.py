"""config `fee_schedule`: rules by which the node itself holds channels at a rate
(docs/protocol/02-fleet-management.md §4 item 12; docs/decisions/0426).

The command only stores the rules, in place of those its credential had. What they do is done by
services.fee_rules as `set_anchor` of that credential, each time with a receipt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hive_shared.errors import from_symbol
from hive_shared.registry import FEE_POLICY

from ...domain.fee_rules import FeeRule, Share
from .stored_rules import Rows, StoredRules, hours_of, usable_channel

SCHEDULE: Final = "fee_schedule"
"""Kind of the timer that keeps the rules of one credential."""
HELD_BY: Final = (FEE_POLICY, "set_anchor")
"""What a rule amounts to each time it acts."""


def rules_of(stored: Sequence[Mapping[str, Any]]) -> tuple[FeeRule, ...]:
    """Rules as the parameters have them, read. Raises InvalidParams for a time zone that is none."""
    found = []
    for index, rule in enumerate(stored):
        share, hours = rule.get("threshold"), rule.get("time")
        found.append(
            FeeRule(
                index=index,
                channels=tuple(rule["channels"]),
                fee_ppm=int(rule["fee_ppm"]),
                hours=None if hours is None else hours_of(hours, f"rules[{index}].time"),
                share=None
                if share is None
                else Share(share.get("local_permille_below"), share.get("local_permille_above")),
            )
        )
    return tuple(found)


class FeeSchedule(StoredRules):
    """`fee_schedule`: the rules of a credential."""

    _kind = SCHEDULE
    _amounts_to = HELD_BY

    def _named(self, stored: Sequence[Mapping[str, Any]], listing: Sequence[Mapping[str, Any]]) -> Rows:
        rows: dict[str, Mapping[str, Any]] = {}
        for rule in rules_of(stored):
            path = f"rules[{rule.index}].channels"
            named = dict(usable_channel(listing, text, path) for text in rule.channels)
            if len(named) < len(rule.channels):
                raise from_symbol(
                    "invalid_params",
                    f"rules[{rule.index}] names one channel twice",
                    param=path,
                    expected="distinct channels",
                )
            rows |= named
        return rows
