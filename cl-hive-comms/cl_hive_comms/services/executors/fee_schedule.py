"""config `fee_schedule`: rules by which the node itself holds channels at a rate
(docs/protocol/02-fleet-management.md §4 item 12; docs/decisions/0426).

The command only stores the rules, in place of those its credential had. What they do is done by
services.fee_rules as `set_anchor` of that credential, each time with a receipt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.errors import from_symbol
from hive_shared.registry import FEE_POLICY

from ...domain.command_record import TimerRow
from ...domain.fee_rules import FeeRule, Hours, Share, clock_minutes
from ...domain.policy_document import time_zone
from ...domain.policy_settings import DAYS
from ..ports_commands import FeeNode
from .action import CHANNELS_ONLY, Caller, Outcome, Params, Plan
from .channels import channel_key, fact_of, find_channel, require_settable
from .config import LOCK

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


def hours_of(time: Mapping[str, Any], path: str) -> Hours:
    """Hours as the parameters have them. Raises InvalidParams for a zone that is none, and for no hours."""
    start, end = clock_minutes(time["from"]), clock_minutes(time["to"])
    if start == end:
        raise from_symbol(
            "invalid_params",
            f"{path}: from and to are the same, which is no time of the day",
            param=f"{path}.to",
            expected="another time than from",
        )
    return Hours(start, end, frozenset(time.get("days") or DAYS), time_zone(time["timezone"], path))


class FeeSchedule:
    """`fee_schedule`: the rules of a credential; none ends them."""

    def __init__(self, node: FeeNode) -> None:
        self._node = node

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Read the rules against the node's channels. Raises InvalidParams, ClnError."""
        given = params["rules"]
        assert isinstance(given, list)
        stored = [rule for rule in given if isinstance(rule, dict)]
        listing = await self._node.listpeerchannels()
        rows: dict[str, Mapping[str, Any]] = {}
        for rule in rules_of(stored):
            named = {}
            for text in rule.channels:
                row = find_channel(listing, text, f"rules[{rule.index}].channels")
                require_settable(row, text)
                named[channel_key(row)] = row
            if len(named) < len(rule.channels):
                raise from_symbol(
                    "invalid_params",
                    f"rules[{rule.index}] names one channel twice",
                    param=f"rules[{rule.index}].channels",
                    expected="distinct channels",
                )
            rows |= named
        return Plan(
            undo={"rules": [*stored]},
            basis=[*sorted(rows)],
            channels=tuple(map(fact_of, rows.values())),
            locks=frozenset({LOCK}),
            before=tuple(listing),
            moves=CHANNELS_ONLY,
            later=(HELD_BY,) if stored else (),
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
        return Outcome("success", {"state": "cleared"}, disarm=((SCHEDULE, caller.credential_id),))
    payload = {"rules": rules, "credential_id": caller.credential_id, "advisor_id": caller.advisor_id}
    timer = TimerRow(
        timer_id=caller.command_id,
        kind=SCHEDULE,
        subject=caller.credential_id,
        due=caller.now,
        payload_json=json.dumps(payload),
    )
    return Outcome("success", {"state": "set", "rules": len(rules)}, arm=(timer,))
