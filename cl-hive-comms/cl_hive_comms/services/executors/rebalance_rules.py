"""config `auto_rebalance_rules`: rules by which the node itself rebalances, within a daily budget of fees
(docs/protocol/02-fleet-management.md §4 item 12, §5.6; docs/decisions/0427).

The command only stores the rules, in place of those its credential had. What they do is done by
services.rebalance_rules as `circular_rebalance` of that credential, each time with a receipt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.errors import from_symbol
from hive_shared.registry import REBALANCE

from ...domain.command_record import TimerRow
from ...domain.rebalance_rules import RebalanceRule
from ..ports_commands import FeeNode
from .action import CHANNELS_ONLY, Caller, Outcome, Params, Plan
from .channels import channel_key, fact_of, find_channel, require_settable
from .config import LOCK
from .fee_schedule import hours_of

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


class AutoRebalanceRules:
    """`auto_rebalance_rules`: the rules of a credential; none ends them."""

    def __init__(self, node: FeeNode) -> None:
        self._node = node

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Read the rules against the node's channels. Raises InvalidParams, ClnError."""
        given = params["rules"]
        assert isinstance(given, list)
        stored = [rule for rule in given if isinstance(rule, dict)]
        budget = params.get("daily_budget_sats")
        if stored and budget is None:
            raise from_symbol(
                "invalid_params",
                "rules need daily_budget_sats, the fees they may pay in 24 hours",
                param="daily_budget_sats",
                expected="present",
            )
        listing = await self._node.listpeerchannels()
        rows: dict[str, Mapping[str, Any]] = {}
        for rule in rebalance_rules_of(stored):
            ends = {}
            for name, text in (("from_channel", rule.source), ("to_channel", rule.target)):
                row = find_channel(listing, text, f"rules[{rule.index}].{name}")
                require_settable(row, text)
                ends[channel_key(row)] = row
            if len({row["peer_id"] for row in ends.values()}) < 2:
                raise from_symbol(
                    "invalid_params",
                    f"rules[{rule.index}]: both channels are with the same peer, who chooses by which of them"
                    " a payment comes back",
                    param=f"rules[{rule.index}].to_channel",
                    expected="a channel with another peer",
                )
            rows |= ends
        return Plan(
            undo={"rules": [*stored], "daily_budget_sats": budget},
            basis=[*sorted(rows)],
            channels=tuple(map(fact_of, rows.values())),
            locks=frozenset({LOCK}),
            before=tuple(listing),
            moves=CHANNELS_ONLY,
            later=(DONE_BY,) if stored else (),
        )

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Nothing is called: the rules are stored with the receipt."""
        return _stored(plan.undo, caller)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """The same: without a receipt nothing was stored yet."""
        return _stored(undo, caller)


def _stored(undo: Mapping[str, JsonValue], caller: Caller) -> Outcome:
    rules = undo["rules"]
    assert isinstance(rules, list)
    if not rules:
        return Outcome("success", {"state": "cleared"}, disarm=((RULES, caller.credential_id),))
    payload = {**undo, "credential_id": caller.credential_id, "advisor_id": caller.advisor_id}
    timer = TimerRow(
        timer_id=caller.command_id,
        kind=RULES,
        subject=caller.credential_id,
        due=caller.now,
        payload_json=json.dumps(payload),
    )
    return Outcome("success", {"state": "set", "rules": len(rules)}, arm=(timer,))
