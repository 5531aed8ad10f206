"""The operator's policy for siblings: may I do this, and rules of theirs that only tighten it
(docs/protocol/08-client-and-plugins.md §3.4, §5.4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Final, Protocol

from hive_shared.canonical import JsonValue, encode
from hive_shared.cln import ClnError
from hive_shared.errors import Conflict, HiveError, InvalidParams
from hive_shared.registry import ActionSpec, find, parse_params
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.command_record import Use
from ..domain.policy import ActionRequest, ChannelFact, Decision, PolicySnapshot, decide
from ..domain.policy_limits import COUNTERS, SPENT_SATS, counters_of
from ..domain.policy_rules import Rule, parse_rule
from ..domain.spend import DAY_S
from .decision_facts import facts_of_plan
from .executors.action import Caller, Plan, WriteAction
from .executors.channels import fact_of, find_channel
from .ports_commands import Database, FeeRows, KillSwitch

MAX_PARAMS_BYTES: Final = 65_535
_NODE_SCOPE: Final = "node"
_AMOUNTS: Final = {"amount_sats": 1, "amount_sat": 1, "capacity_sats": 1, "amount_msat": 1_000}
_CHANNELS: Final = ("channel_id", "channel", "scid", "short_channel_id", "channels", "channel_ids", "scids")


class Policies(Protocol):
    """The policy in force and its rules (services.policy_service)."""

    def snapshot(self) -> PolicySnapshot: ...
    async def add_rule(self, doc: JsonValue, source: str = ...) -> Rule: ...
    async def remove_rule(self, rule_id: str, source: str | None = None) -> None: ...


class Spends(Protocol):
    """What commands spent (storage.spend_store)."""

    def of_node(self, tx: Tx, since: int, *, but: str = "") -> int: ...


class Channels(Protocol):
    """The node's channels (hive_shared.cln)."""

    async def listpeerchannels(self) -> list[dict[str, Any]]: ...


class SiblingPolicy:
    """Answers hive-comms-policy-check and keeps the rules of siblings."""

    def __init__(
        self,
        *,
        db: Database,
        fees: FeeRows,
        spends: Spends,
        policies: Policies,
        banned: Callable[[], frozenset[str]],
        node: Channels,
        find_write: Callable[[str, str], WriteAction | None],
        kill_switch: KillSwitch,
        now: Callable[[], int],
    ) -> None:
        self._db, self._fees, self._spends = db, fees, spends
        self._policies, self._node = policies, node
        self._find_write, self._kill, self._now = find_write, kill_switch, now
        self._banned = banned

    async def check(
        self, schema: str, action: str, params: JsonValue, danger: int | None, actor: str
    ) -> dict[str, JsonValue]:
        """What the policy says: {decision, reasons, rule_ids, danger, approvals_needed, expires_in, reason?}.

        What is unknown, cannot be read or contradicts the node is a denial, not an error. Nothing is
        counted or kept. Raises InvalidParams when `params` is no object of at most 65,535 B.
        """
        given = _object(params)
        try:
            if self._kill.engaged():
                return _denial("emergency_stop", "the emergency stop is engaged", danger)
            request = await self._request(find(schema, action), given, danger, actor)
        except HiveError as error:
            return _denial(error.symbol, error.detail, danger)
        except ClnError:
            return _denial("node_error", "the node could not be asked about the channels", danger)
        return _told(decide(replace(self._policies.snapshot(), banned=self._banned()), request))

    async def add_rule(self, doc: JsonValue, actor: str) -> Rule:
        """Add a tightening rule of a sibling; the same rule again is the one that is there.

        Raises InvalidParams, Conflict (another rule of that id), Capacity beyond 200 rules.
        """
        try:
            return await self._policies.add_rule(doc, source=actor)
        except Conflict:
            # A sibling that was restarted gives its rules again.
            wanted = parse_rule(doc, source=actor)
            if wanted in self._policies.snapshot().sibling_rules:
                return wanted
            raise

    async def remove_rule(self, rule_id: str, actor: str) -> None:
        """Remove a rule the same sibling added. Raises NotFound for any other."""
        await self._policies.remove_rule(rule_id, source=actor)

    # -- inside --------------------------------------------------------------------------------------

    async def _request(
        self, spec: ActionSpec, given: Mapping[str, JsonValue], danger: int | None, actor: str
    ) -> ActionRequest:
        now = self._now()
        write = None if spec.read_only else self._find_write(spec.schema, spec.name)
        if write is not None:
            given = parse_params(spec, dict(given))
            plan = await write.prepare(given, Caller("", "", actor, "", now))
        else:
            plan = await self._named(given)
        total = max(danger or 0, spec.danger(given, facts_of_plan(given, plan)).total)
        counts = {} if spec.read_only else await self._db.read(lambda tx: self._counts(tx, spec.schema, now))
        return ActionRequest(
            schema=spec.schema,
            action=spec.name,
            params=given,
            danger=total,
            read_only=spec.read_only,
            advisor_id=actor,
            trust=Fraction(1),
            channels=plan.channels,
            new_fees=plan.new_fees,
            amount_sat=max(plan.amount_sat, _amount(given)),
            now=now,
            counts=counts,
            also_actions=spec.aliases,
            spend=plan.spend,
            peers=plan.peers,
            feerate_perkw=plan.feerate_perkw,
        )

    def _counts(self, tx: Tx, schema: str, now: int) -> dict[str, int]:
        found = {
            name: self._fees.count(tx, Use(name, _NODE_SCOPE), now - COUNTERS[name])
            for name in counters_of(schema)
        }
        return {**found, SPENT_SATS: self._spends.of_node(tx, now - DAY_S)}

    async def _named(self, given: Mapping[str, JsonValue]) -> Plan:
        """The channels that the parameters of an action we do not run ourselves name."""
        rows = await self._node.listpeerchannels()
        names: list[str] = []
        for key in _CHANNELS:
            value = given.get(key)
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, str):
                    names.append(item)
        if "all" in names:
            found: list[ChannelFact] = [fact_of(row) for row in rows if "channel_id" in row]
        else:
            found = [fact_of(find_channel(rows, name)) for name in names]
        return Plan({}, channels=tuple(found), before=tuple(rows))


def _object(params: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(params, dict):
        raise InvalidParams("params must be a JSON object")
    try:
        size = len(encode(params))
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidParams(f"params has no canonical form: {error}") from None
    if size > MAX_PARAMS_BYTES:
        raise InvalidParams(f"params has {size} bytes; {MAX_PARAMS_BYTES} is the most", reason="too_large")
    return params


def _amount(given: Mapping[str, JsonValue]) -> int:
    amounts = [
        -(-value // unit)
        for name, unit in _AMOUNTS.items()
        if isinstance(value := given.get(name), int) and not isinstance(value, bool)
    ]
    return max(amounts, default=0)


def _told(decision: Decision) -> dict[str, JsonValue]:
    told: dict[str, JsonValue] = {
        "decision": decision.decision,
        "reasons": list(decision.reasons),
        "rule_ids": list(decision.rule_ids),
        "danger": decision.danger,
        "approvals_needed": decision.approvals_needed,
        "expires_in": decision.expires_in,
    }
    return told if decision.symbol is None else {**told, "reason": decision.symbol}


def _denial(symbol: str, sentence: str, danger: int | None) -> dict[str, JsonValue]:
    return {
        "decision": "deny",
        "reasons": [sentence],
        "rule_ids": [],
        "danger": danger,
        "approvals_needed": 0,
        "expires_in": 0,
        "reason": symbol,
    }
