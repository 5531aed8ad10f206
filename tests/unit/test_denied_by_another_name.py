"""What is denied by one name is not to be had by another (docs/protocol/02-fleet-management.md §2.3)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from cl_hive_comms.domain.policy import ActionRequest, Decision, PolicySnapshot, decide
from cl_hive_comms.domain.policy_document import merged, preset_document
from cl_hive_comms.domain.policy_limits import COUNTERS
from cl_hive_comms.domain.policy_rules import Override, parse_rule
from hive_shared.credential import patterns_allow
from hive_shared.credential_scope import denied_as
from hive_shared.registry import ActionSpec, actions, contained, export, find
from hive_shared.registry.contained import AMOUNTS_TO
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

NOON = 1_770_033_600
APPROVERS = ["ab" * 32, "cd" * 32, "local"]
STRICT = {"allow": 0, "confirm": 1, "multi": 2, "deny": 3}
PAIRS = [
    (spec, other) for spec in actions() for other in contained(spec.schema, spec.name) if not spec.read_only
]


def named(text: str) -> ActionSpec:
    category, _, name = text.partition("/")
    return find(f"hive:{category}/v1", name)


def asked(spec: ActionSpec, danger: int = 1, **changes: Any) -> ActionRequest:
    fields: dict[str, Any] = {
        "schema": spec.schema,
        "action": spec.name,
        "params": {},
        "danger": danger,
        "read_only": spec.read_only,
        "advisor_id": "alice",
        "trust": Fraction(2),
        "now": NOON,
        "counts": {**dict.fromkeys(COUNTERS, 0), "spent_sats_24h": 0},
    }
    return ActionRequest(**{**fields, **changes})


def policy(rules: tuple[dict[str, Any], ...] = (), **overrides: Any) -> PolicySnapshot:
    document = merged(preset_document("aggressive"), {"approvers": APPROVERS, **overrides})
    document = replace(document, settings=replace(document.settings, forbidden_actions=()))
    parsed = tuple(parse_rule(rule, rule_id=f"r{index}") for index, rule in enumerate(rules))
    return PolicySnapshot(
        1, "aggressive", document, parsed, override=Override("o", {"max_danger": 10}, NOON - 1, NOON + 1)
    )


def said(snapshot: PolicySnapshot, text: str, danger: int = 1) -> Decision:
    return decide(snapshot, asked(named(text), danger))


@pytest.mark.parametrize(
    ("denied", "also"),
    [
        ("forwarding/disable_all", ("config/disable_forwarding", "emergency/disable_forwarding")),
        ("forwarding/disable_channel", ("forwarding/disable_all", "emergency/disable_forwarding")),
        ("forwarding/enable_all", ("config/enable_forwarding",)),
        (
            "channel/close_unilateral",
            ("emergency/force_close", "htlc-mgmt/force_resolve_expired", "channel/close_punitive"),
        ),
        ("channel/close_force", ("emergency/force_close", "channel/close_all", "emergency/force_close_all")),
        ("channel/close_cooperative", ("channel/close_unilateral", "emergency/force_close")),
        ("channel/open", ("channel/open_batch", "expansion/propose_channel_open", "splice/splice_open")),
        ("channel/open_batch", ("expansion/propose_open_batch",)),
        ("payment/pay", ("payment/pay_multipath",)),
        ("fee-policy/set_single", ("fee-policy/set_bulk", "fee-policy/set_anchor", "emergency/fee_spike")),
        ("wallet/send_onchain", ("wallet/sweep",)),
        ("peer/disconnect", ("peer/ban",)),
        ("monitor/onchain_balance", ("wallet/list_funds",)),
    ],
)
def test_acceptance_02_06_a_denial_holds_for_what_contains_it(denied: str, also: tuple[str, ...]) -> None:
    for text in also:
        spec = named(text)
        assert patterns_allow(["*"], spec.schema, spec.name)
        assert not patterns_allow(["*", f"!hive:{denied}"], spec.schema, spec.name), text
        assert not patterns_allow([f"!hive:{denied}", "hive:" + text], spec.schema, spec.name), text
        assert said(policy(blocked_schemas=[f"hive:{denied}"]), text).rule_ids[0] == "blocked_schemas", text


@pytest.mark.parametrize(
    ("denied", "free"),
    [
        ("emergency/disable_forwarding", "forwarding/disable_all"),
        ("emergency/force_close", "channel/close_unilateral"),
        ("forwarding/disable_all", "forwarding/disable_channel"),
        ("channel/close_unilateral", "channel/close_cooperative"),
        ("fee-policy/set_single", "fee-policy/clear_anchor"),
        ("payment/pay_multipath", "payment/pay_invoice"),
        ("payment/pay_invoice", "payment/keysend"),
        ("expansion/propose_channel_open", "channel/open"),
        ("wallet/sweep", "wallet/send_onchain"),
    ],
)
def test_a_denial_of_the_wider_leaves_the_narrower(denied: str, free: str) -> None:
    spec = named(free)
    assert patterns_allow(["*", f"!hive:{denied}"], spec.schema, spec.name)
    assert said(policy(blocked_schemas=[f"hive:{denied}"]), free).decision == "allow"


def test_an_allowance_is_by_its_own_name_only() -> None:
    for text in ("config/disable_forwarding", "emergency/disable_forwarding"):
        spec = named(text)
        assert not patterns_allow(["hive:forwarding/*"], spec.schema, spec.name)
        # An emergency needs no leave to do the same in peace.
        assert patterns_allow([f"hive:{text}"], spec.schema, spec.name)
    freed = policy(approval_overrides={"forwarding_*": "auto_execute"}, require_confirmation_above=4)
    assert said(freed, "forwarding/disable_all", 6).decision == "allow"
    assert said(freed, "config/disable_forwarding", 6).decision == "confirm"
    freed = policy(approval_overrides={"emergency_*": "auto_execute"}, require_confirmation_above=4)
    assert said(freed, "emergency/disable_forwarding", 6).decision == "allow"


def test_a_stricter_workflow_holds_for_what_contains_it() -> None:
    snapshot = policy(
        approval_overrides={
            "forwarding_disable_all": "always_confirm",
            "channel_close_*": "multi_sig_2_of_2",
            "emergency_*": "auto_execute",
        }
    )
    for text in ("forwarding/disable_all", "config/disable_forwarding", "emergency/disable_forwarding"):
        assert said(snapshot, text, 6).decision == "confirm", text
    for text in ("channel/close_unilateral", "emergency/force_close", "htlc-mgmt/force_resolve_expired"):
        decision = said(snapshot, text, 8)
        assert (decision.decision, decision.approvals_needed) == ("multi", 2), text
    closing = policy(required_confirmation={"channel_close": "always"})
    assert "required_confirmation.channel_close" in said(closing, "emergency/force_close").rule_ids


def test_a_rule_means_what_contains_the_action_it_names() -> None:
    match = {"schema": "hive:channel/v1", "action": "close_*"}
    for effect, decision in (("deny", "deny"), ("multi", "multi"), ("confirm", "confirm")):
        snapshot = policy(({"match": match, "effect": effect},))
        assert said(snapshot, "emergency/force_close").decision == decision
        assert said(snapshot, "emergency/fee_spike").decision == "allow"
    # Schema and action are of the same action, not one of each.
    apart = policy(({"match": {"schema": "hive:emergency/v1", "action": "close_*"}, "effect": "deny"},))
    assert said(apart, "emergency/force_close").decision == "allow"


def test_the_denied_action_is_told() -> None:
    other = denied_as(("*", "!hive:channel/close_f*"), "hive:emergency/v1", "force_close")
    assert other is not None and other.name == "close_unilateral"
    assert denied_as(("*",), "hive:emergency/v1", "force_close") is None


def test_the_registry_is_exported_with_it() -> None:
    listed: Any = export("hive:emergency/v1")["schemas"]
    assert listed["hive:emergency/v1"]["actions"]["disable_forwarding"]["amounts_to"] == [
        "hive:forwarding/v1#disable_all",
        "hive:forwarding/v1#disable_channel",
    ]


def test_a_declaration_names_actions_and_never_loosens_the_danger() -> None:
    for name, others in AMOUNTS_TO.items():
        schema, _, action = name.partition("#")
        assert find(schema, action).name == action
        for each in others:
            schema, _, action = each.partition("#")
            assert find(schema, action).name == action
    assert contained("hive:monitor/v1", "nothing") == ()
    for spec, other in PAIRS:
        assert spec.read_only == other.read_only
        assert (spec.schema, spec.name) not in {
            (o.schema, o.name) for o in contained(other.schema, other.name)
        }


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(PAIRS),
    st.sampled_from(["always_confirm", "multi_sig_2_of_2", "multi_sig_3_of_3"]),
    st.sampled_from(["own", "glob", "all"]),
    st.integers(1, 8),
    st.dictionaries(st.sampled_from(["*", "emergency_*", "config_*", "channel_*"]), st.just("auto_execute")),
    st.sampled_from(["deny", "multi", "confirm"]),
)
def test_nothing_denied_under_a_name_is_had_under_another(
    pair: tuple[ActionSpec, ActionSpec], word: str, how: str, danger: int, loose: dict[str, str], effect: str
) -> None:
    spec, other = pair
    action = {"own": other.name, "glob": f"{other.name[:-1]}*", "all": "*"}[how]
    key = f"{other.category.replace('-', '_')}_{action}"
    snapshots = (
        policy(blocked_schemas=[f"hive:{other.category}/{action}"]),
        policy(approval_overrides={**loose, key: word}),
        policy(({"match": {"schema": other.schema, "action": action}, "effect": effect},)),
    )
    for snapshot in snapshots:
        weaker, stronger = decide(snapshot, asked(other, danger)), decide(snapshot, asked(spec, danger))
        assert STRICT[stronger.decision] >= STRICT[weaker.decision]
        assert stronger.symbol is not None or stronger.approvals_needed >= weaker.approvals_needed
    denial = f"!hive:{other.category}/{action}"
    assert not patterns_allow(["*", denial], spec.schema, spec.name)
    assert not patterns_allow([denial, f"hive:{spec.category}/{spec.name}"], spec.schema, spec.name)
