"""What a key of the policy refuses is what it is said to bear on: the way back of test_policy_reach
(docs/protocol/08-client-and-plugins.md §5.4)."""

from __future__ import annotations

import inspect
import sys
from fractions import Fraction
from functools import cache
from types import MappingProxyType
from typing import Any

import pytest
from cl_hive_comms.domain.policy import ActionRequest, ChannelFact, PolicySnapshot, decide
from cl_hive_comms.domain.policy_document import PolicyDocument, preset_document
from cl_hive_comms.domain.policy_limits import COUNTERS, SPENT_SATS
from cl_hive_comms.domain.policy_reach import ALL, REACH, served_actions
from cl_hive_comms.domain.policy_settings import RateLimits, Settings
from cl_hive_comms.domain.spend import ONCHAIN, Spend
from hive_shared.registry import ActionSpec, find
from msgspec.structs import fields, replace
from pipeline_world import World

PEER, SCID, NIGHT = "02" + "11" * 32, "1x1x0", 1_770_073_200
FACT = ChannelFact(SCID, "11" * 32, PEER, 1_000, 100, 1, 10**9, "CHANNELD_NORMAL")
STRICT: dict[str, dict[str, Any]] = {
    "max_danger": {"max_danger": 0},
    "max_fee_change_per_24h_pct": {"max_fee_change_per_24h_pct": 1},
    "min_fee_ppm": {"min_fee_ppm": 100_000},
    "max_fee_ppm": {"max_fee_ppm": 1},
    "max_rebalance_sats": {"max_rebalance_sats": 0},
    "max_rebalance_fee_ppm": {"max_rebalance_fee_ppm": 0},
    "max_channel_open_sats": {"max_channel_open_sats": 0},
    "forbidden_peers": {"forbidden_peers": frozenset({PEER})},
    "protected_channels": {"protected_channels": frozenset({SCID})},
    "blocked_schemas": {"blocked_schemas": ("*",)},
    "allowed_config": {"allowed_config": frozenset()},
    "approved_plugins": {"approved_plugins": frozenset()},
    "allow_push": {"allow_push": False},
    "allow_private_hosts": {"allow_private_hosts": False},
    "max_feerate_perkw": {"max_feerate_perkw": 1},
    "protected_plugins": {"protected_plugins": frozenset({"x"})},
    "daily_budget_sats": {"daily_budget_sats": 1},
    "time_restrictions.quiet_hours": {
        "quiet_hours": preset_document("conservative").settings.quiet_hours,
        "quiet_hour_max_danger": 0,
    },
    "rate_limits.fee_changes_per_hour": {"rate_limits": RateLimits(fee_changes_per_hour=0)},
    "rate_limits.rebalances_per_day": {"rate_limits": RateLimits(rebalances_per_day=0)},
    "rate_limits.total_actions_per_day": {"rate_limits": RateLimits(total_actions_per_day=0)},
}
# Keys that ask people instead of refusing.
ASKING = {
    *(
        "require_confirmation_above",
        "approvers",
        "approval_overrides",
        "time_restrictions.quiet_hour_max_danger",
    ),
    *(key for key in REACH if key.startswith("required_confirmation.")),
}
GIVEN: dict[str, Any] = {
    "amount_sats": 10**6,
    "capacity_sats": 10**6,
    "push_msat": 1_000,
    "push_sats": 1,
    "max_fee_ppm": 500,
    "host": "10.0.0.1",
    "key": "rescan",
    "option": "rescan",
    "plugin_name": "x",
    "peer_id": PEER,
    "channel_id": SCID,
}


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], ActionRequest]:
    """Of every served action its widest request."""
    world = World(tmp_path_factory.mktemp("reach"))
    found = {name: request(world, find(*name)) for name in served_actions(ALL)}
    world.close()
    return found


@cache
def source_of(kind: type) -> str:
    """The text of an executor: its classes, and what they call of their modules."""
    ours = [each for each in kind.__mro__ if each.__module__.startswith("cl_hive_comms")]
    text, taken = "".join(map(inspect.getsource, ours)), set[str]()
    functions = {
        name: part
        for module in {each.__module__ for each in ours}
        for name, part in inspect.getmembers(sys.modules[module], inspect.isfunction)
        if part.__module__.startswith("cl_hive_comms.services.executors")
    }
    while new := {name for name in functions.keys() - taken if f"{name}(" in text}:
        taken |= new
        text += "".join(inspect.getsource(functions[name]) for name in new)
    return text


def request(world: World, spec: ActionSpec) -> ActionRequest:
    """The command that shows the rules as much as one of this action ever does."""
    params = {each.name for each in spec.params.params}
    asked = ActionRequest(
        schema=spec.schema,
        action=spec.name,
        params={name: value for name, value in GIVEN.items() if name in params},
        danger=3,
        read_only=spec.read_only,
        advisor_id="alice",
        trust=Fraction(1),
        now=NIGHT,
        counts={**dict.fromkeys(COUNTERS, 0), SPENT_SATS: 0},
    )
    if spec.read_only:
        return asked
    text = source_of(type(world.pipeline.executors.must_write(spec.schema, spec.name)))
    shown: dict[str, Any] = {"channels": (FACT,), "peers": frozenset({PEER})}
    if "new_fees=" in text:
        shown["new_fees"] = {SCID: (None, 10_000)}
    if "amount_sat=" in text:
        shown["amount_sat"] = 10**6
    if "option=" in text:
        shown["option"] = "rescan"
    if "spend=" in text:
        shown["spend"] = Spend(ONCHAIN, 10**6, 10)
    # Of a close only a rate that its command chose.
    if "feerate_perkw=" in text and ("rate if chosen else 0" not in text or "feerange" in params):
        shown["feerate_perkw"] = 500
    return replace(asked, **shown)


def loose() -> dict[str, Any]:
    """Settings that refuse nothing."""
    base = preset_document("aggressive").settings
    return {each.name: getattr(base, each.name) for each in fields(Settings)} | {
        "max_danger": 10,
        "max_fee_change_per_24h_pct": 10**6,
        "min_fee_ppm": 0,
        "max_fee_ppm": None,
        "allow_push": True,
        "allow_private_hosts": True,
        "allowed_config": frozenset({"rescan"}),
        "approved_plugins": frozenset({"/x"}),
        "forbidden_actions": (),
        "quiet_hours": None,
    }


def refused_by(key: str, asked: ActionRequest) -> bool:
    settings = Settings(**{**loose(), **STRICT.get(key, {})})
    document = PolicyDocument("aggressive", MappingProxyType({}), settings)
    decision = decide(PolicySnapshot(1, "aggressive", document), asked)
    word = key.removeprefix("time_restrictions.")
    return any(rule.split("_per_")[0] == word.split("_per_")[0] for rule in decision.rule_ids) and (
        decision.symbol is not None
    )


def test_every_key_either_refuses_or_asks() -> None:
    assert not STRICT.keys() & ASKING and STRICT.keys() | ASKING == REACH.keys()


@pytest.mark.parametrize("key", sorted(STRICT))
def test_what_a_key_refuses_is_what_it_is_said_to_bear_on(
    requests: dict[tuple[str, str], ActionRequest], key: str
) -> None:
    refused = {name for name, asked in requests.items() if refused_by(key, asked)}
    said = {name for glob in REACH[key] for name in served_actions(glob)}
    assert refused - said == set(), "refused, and the reference does not say so"
    for glob in REACH[key]:
        bears_on = set(served_actions(glob))
        assert not bears_on or bears_on & refused, f"{glob} is said, and nothing of it is refused"


def test_settings_that_forbid_nothing_refuse_nothing(
    requests: dict[tuple[str, str], ActionRequest],
) -> None:
    document = PolicyDocument("aggressive", MappingProxyType({}), Settings(**loose()))
    for name, asked in requests.items():
        decision = decide(PolicySnapshot(1, "aggressive", document), asked)
        assert decision.symbol is None, (name, decision)
