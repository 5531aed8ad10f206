"""Rules that an agent leaves with the node: read against its channels, stored with the receipt
(docs/protocol/02-fleet-management.md §5.6; docs/decisions/0426, 0427).

The command only stores them, in place of those its credential had. What they do is done by services as
further commands of that credential, each time with a receipt.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from hive_shared.canonical import JsonValue
from hive_shared.errors import from_symbol

from ...domain.command_record import TimerRow
from ...domain.fee_rules import Hours, clock_minutes
from ...domain.policy_document import time_zone
from ...domain.policy_settings import DAYS
from ..ports_commands import FeeNode
from .action import CHANNELS_ONLY, Caller, Outcome, Params, Plan
from .channels import channel_key, fact_of, find_channel, require_settable
from .config import LOCK

Rows = Mapping[str, Mapping[str, Any]]
"""Channels by what they are called."""


class StoredRules(ABC):
    """One kind of rules of a credential; an empty list ends them."""

    _kind: ClassVar[str]
    """Kind of the timer that keeps them, which is the action that sets them."""
    _amounts_to: ClassVar[tuple[str, str]]
    """Schema and action of what a rule does each time it acts."""

    def __init__(self, node: FeeNode) -> None:
        self._node = node

    @abstractmethod
    def _named(self, stored: Sequence[Mapping[str, Any]], listing: Sequence[Mapping[str, Any]]) -> Rows:
        """The channels that the rules are about. Raises InvalidParams for rules that cannot be."""

    def _beside(self, params: Params, stored: Sequence[Mapping[str, Any]]) -> Mapping[str, JsonValue]:
        """What is stored beside the rules. Raises InvalidParams."""
        return {}

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Read the rules against the node's channels. Raises InvalidParams, ClnError."""
        given = params["rules"]
        assert isinstance(given, list)
        stored = [rule for rule in given if isinstance(rule, dict)]
        beside = self._beside(params, stored)
        listing = await self._node.listpeerchannels()
        rows = self._named(stored, listing)
        return Plan(
            undo={"rules": [*stored], **beside},
            basis=[*sorted(rows)],
            channels=tuple(map(fact_of, rows.values())),
            locks=frozenset({LOCK}),
            before=tuple(listing),
            moves=CHANNELS_ONLY,
            later=(self._amounts_to,) if stored else (),
        )

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Nothing is called: the rules are stored with the receipt."""
        return self._outcome(plan.undo, caller)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """The same: without a receipt nothing was stored yet."""
        return self._outcome(undo, caller)

    def _outcome(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome:
        rules = undo["rules"]
        assert isinstance(rules, list)
        if not rules:
            return Outcome("success", {"state": "cleared"}, disarm=((self._kind, caller.credential_id),))
        payload = {**undo, "credential_id": caller.credential_id, "advisor_id": caller.advisor_id}
        timer = TimerRow(
            timer_id=caller.command_id,
            kind=self._kind,
            subject=caller.credential_id,
            due=caller.now,
            payload_json=json.dumps(payload),
        )
        return Outcome("success", {"state": "set", "rules": len(rules)}, arm=(timer,))


def usable_channel(
    listing: Sequence[Mapping[str, Any]], text: str, path: str
) -> tuple[str, Mapping[str, Any]]:
    """The channel that a rule names, with what it is called. Raises InvalidParams for one that is not there
    or cannot be set."""
    row = find_channel(listing, text, path)
    require_settable(row, text)
    return channel_key(row), row


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
