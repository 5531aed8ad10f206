"""Management credentials: document, signature, patterns, constraints, templates (02 §2)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hive_shared import credential, crypto, registry
from hive_shared.canonical import decode, encode
from hive_shared.credential import TEMPLATES, Credential, patterns_allow
from hive_shared.crypto import Secret
from hive_shared.errors import InvalidParams
from hive_shared.registry import Tier
from hypothesis import given, settings
from hypothesis import strategies as st

LIGHTNING = Secret((7).to_bytes(32, "big"))
NODE_ID = crypto.cln_recover_message("x", crypto.cln_sign_message(LIGHTNING, "x")) or ""
AGENT_KEY = crypto.xonly_pubkey(Secret((3).to_bytes(32, "big")))


def unsigned(**changes: Any) -> Credential:
    fields: dict[str, Any] = {
        "credential_id": "00000000-0000-4000-8000-000000000001",
        "node_id": NODE_ID,
        "agent_key": AGENT_KEY,
        "template": TEMPLATES["fee_optimization"],
        "valid_from": 1_770_000_000,
        "valid_until": 1_770_000_000 + 90 * 86_400,
    }
    return credential.new(**{**fields, **changes})


def issued(**changes: Any) -> Credential:
    bare = unsigned(**changes)
    return credential.with_signature(bare, crypto.cln_sign_message(LIGHTNING, credential.signing_text(bare)))


DOC = credential.to_doc(issued())


def test_a_credential_survives_the_wire_and_its_signature_holds() -> None:
    read = credential.parse(decode(encode(DOC), floats=True))
    assert read == issued()
    assert credential.to_doc(read) == DOC
    assert credential.is_signed_by(read, NODE_ID)
    assert credential.doc_hash(read) == crypto.sha256(encode(DOC)).hex()


def test_acceptance_02_05_a_strangers_signature_is_not_ours() -> None:
    stranger = Secret((8).to_bytes(32, "big"))
    bare = unsigned()
    forged = credential.with_signature(bare, crypto.cln_sign_message(stranger, credential.signing_text(bare)))
    assert not credential.is_signed_by(credential.parse(credential.to_doc(forged)), NODE_ID)


def test_the_signing_text_is_the_tag_and_everything_above_the_signature() -> None:
    text = credential.signing_text(issued())
    assert text.startswith('hive-mgmt-credential:v2:{"access":')
    body = decode(text.removeprefix("hive-mgmt-credential:v2:"), floats=True)
    assert body == {name: value for name, value in DOC.items() if name != "signature"}


@pytest.mark.parametrize("field", [name for name in DOC if name != "signature"])
def test_any_changed_field_breaks_the_signature(field: str) -> None:
    changed: dict[str, Any] = {
        "credential_id": "00000000-0000-4000-8000-000000000002",
        "tier": "admin",
        "permissions": {"wallet": True},
        "allowed_schemas": ["*"],
        "constraints": {},
        "compensation": {"model": "per_action", "rate_sats": 1},
        "access": {"model": "per_action"},
        "trust": 2,
        "coordination": {"action_cooldown_s": 0},
        "valid_from": 1,
        "valid_until": 1_770_000_001,
        "issuer_id": "02" + "ab" * 32,
        "node_id": "02" + "ab" * 32,
        "agent_id": "did:cid:abc",
    }
    doc = {**DOC, field: changed.get(field)}
    if field == "agent_key":
        doc |= {"agent_key": "ab" * 32, "agent_id": "did:nostr:" + "ab" * 32}
    if field == "valid_from":
        doc["valid_from"] = 1_770_000_001
    assert not credential.is_signed_by(credential.parse(doc), NODE_ID)


@pytest.mark.parametrize(
    "changes",
    [
        {"credential_id": "1"},
        {"issuer_id": "04" + "ab" * 32},
        {"agent_id": "did:nostr:" + "ab" * 32},
        {"agent_id": "npub1abc"},
        {"agent_id": NODE_ID},
        {"agent_key": "AB" * 32},
        {"tier": "root"},
        {"tier": 3},
        {"permissions": {"fly": True}},
        {"permissions": {"monitor": 1}},
        {"permissions": []},
        {"allowed_schemas": []},
        {"allowed_schemas": ["hive:fee-policy"]},
        {"allowed_schemas": [1]},
        {"allowed_schemas": ["*"] * 101},
        {"allowed_schemas": ["hive:" + "a" * 150 + "/*"] * 40},
        {"constraints": {str(number): 1 for number in range(51)}},
        {"constraints": {"x": "a" * 5_000}},
        {"compensation": {"model": "charity"}},
        {"compensation": {"rate_sats": -1}},
        {"compensation": {"rate_sats": True}},
        {"compensation": {"performance_share_pct": 101}},
        {"compensation": {"tip": 1}},
        {"access": {"price_table": [1, "2"]}},
        {"coordination": {"conflict_resolution": "fight"}},
        {"trust": 0.4},
        {"trust": 2.1},
        {"trust": 1.0001},
        {"trust": True},
        {"trust": "1"},
        {"valid_from": -1},
        {"valid_until": 1_770_000_000},
        {"valid_until": 1_770_000_000 + 731 * 86_400},
        {"valid_until": 1_780_000_000.5},
        {"signature": ""},
        {"signature": "Y" * 104},
        {"superseded_by": "x"},
    ],
)
def test_documents_that_break_a_rule_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidParams) as caught:
        credential.parse({**DOC, **changes})
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("field", list(DOC))
def test_every_field_is_required(field: str) -> None:
    with pytest.raises(InvalidParams, match=field):
        credential.parse({name: value for name, value in DOC.items() if name != field})


def test_trust_is_exact() -> None:
    for number, text in ((1, "1"), (0.5, "1/2"), (0.7, "7/10"), (1.333, "1333/1000")):
        read = credential.parse({**DOC, "trust": number})
        assert read.trust == Fraction(text)
        assert encode(credential.to_doc(read)) == encode({**DOC, "trust": number})


def test_validity_includes_its_start_and_excludes_its_end() -> None:
    one = issued()
    assert [one.valid_at(one.valid_from + d) for d in (-1, 0)] == [False, True]
    assert [one.valid_at(one.valid_until + d) for d in (-1, 0)] == [True, False]


def test_an_unknown_constraint_lowers_a_stored_credential_to_monitor_and_blocks_issue() -> None:
    later = credential.parse({**DOC, "constraints": {"max_joy": 1}})
    assert (later.tier, later.effective_tier) == (Tier.STANDARD, Tier.MONITOR)
    assert issued().effective_tier is Tier.STANDARD
    with pytest.raises(InvalidParams, match="max_joy"):
        unsigned(constraints={"max_joy": 1})


@pytest.mark.parametrize(
    "constraints",
    [
        {"max_fee_change_pct": 0},
        {"max_fee_change_pct": 101},
        {"max_fee_change_pct": True},
        {"max_rebalance_fee_ppm": 1_001},
        {"allowed_channels": "1x1x1"},
        {"denied_channels": ["nonsense"]},
        {"allowed_peers": ["02"]},
        {"grants_critical": ["hive:channel/v1#fly"]},
        {"escrow_secret_generation": 1},
        {"transports": [""]},
    ],
)
def test_constraints_are_typed(constraints: dict[str, Any]) -> None:
    with pytest.raises(InvalidParams):
        credential.check_constraints(constraints)


def test_good_constraints_pass_unchanged() -> None:
    good: dict[str, Any] = {
        "max_fee_change_pct": 50,
        "allowed_channels": ["1x1x1"],
        "grants_critical": ["hive:channel/v1#close_all"],
        "auto_renew_enabled": True,
    }
    assert credential.check_constraints(good) == good


# ------------------------------------------------------------------------------------------ patterns


@pytest.mark.parametrize(
    ("patterns", "schema", "action", "allowed"),
    [
        (["*"], "hive:fee-policy/v1", "set_single", True),
        (["hive:fee-policy/*"], "hive:fee-policy/v1", "set_single", True),
        (["hive:fee-policy/v1"], "hive:fee-policy/v1", "set_single", True),
        (["hive:fee-policy/v2"], "hive:fee-policy/v1", "set_single", False),
        (["hive:fee-policy/set_*"], "hive:fee-policy/v1", "clear_anchor", False),
        (["hive:fee/*"], "hive:fee-policy/v1", "set_single", False),
        (["hive:monitor/*"], "hive:fee-policy/v1", "set_single", False),
        (["*", "!hive:channel/close_*"], "hive:channel/v1", "close_unilateral", False),
        (["*", "!hive:channel/close_*"], "hive:channel/v1", "open", True),
        (["!hive:channel/close_*", "hive:channel/close_all"], "hive:channel/v1", "close_all", False),
        (["*", "!hive:channel/close_force"], "hive:channel/v1", "close_unilateral", False),
        (["hive:channel/close_force"], "hive:channel/v1", "close_unilateral", True),
        (["hive:channel/close_f*"], "hive:channel/v1", "close_unilateral", False),
        (["hive:htlc/*"], "hive:htlc-mgmt/v1", "inspect", True),
        (["*"], "hive:unknown/v1", "x", False),
        (["*"], "hive:fee-policy/v1", "nonsense", False),
        ([], "hive:control/v1", "ping", True),
        ([], "hive:monitor/v1", "earnings", False),
    ],
)
def test_acceptance_02_06_patterns(patterns: list[str], schema: str, action: str, allowed: bool) -> None:
    assert patterns_allow(patterns, schema, action) is allowed


def test_config_adjust_is_matched_by_group_and_parameter() -> None:
    spec = registry.find("hive:config/v1", "adjust")

    def allows(parameter: str, *patterns: str) -> bool:
        names = registry.glob_names(spec, {"parameter": parameter})
        return patterns_allow(patterns, spec.schema, spec.name, names)

    assert allows("max_fee_ppm", "hive:config/fee_*")
    assert not allows("daily_budget_sats", "hive:config/fee_*")
    assert not allows("daily_budget_sats", "*", "!hive:config/budget_*")
    assert not allows("max_fee_ppm", "*", "!hive:config/adjust")
    assert allows("rebalance_cooldown_hours", "hive:config/rebalance_*")


def test_acceptance_02_06_a_pattern_that_matches_nothing_is_refused_at_issue() -> None:
    for bad in (
        ["hive:fee/*"],
        ["hive:fee-policy/v2"],
        ["hive:config/sling_x*"],
        ["!hive:channel/close_*"],
        ["x"],
    ):
        with pytest.raises(InvalidParams):
            credential.check_patterns(bad)
    for template in TEMPLATES.values():
        credential.check_patterns(template.schemas)


glob_parts = st.sampled_from(["*", "v1", "close_*", "set_*", "set_single", "close_force", "fee_*", "list_*"])
categories = st.sampled_from(["channel", "fee-policy", "monitor", "config", "htlc"])
patterns_of = st.lists(
    st.just("*") | st.builds("{}hive:{}/{}".format, st.sampled_from(["", "!"]), categories, glob_parts),
    max_size=5,
)


@settings(max_examples=150)
@given(patterns_of, patterns_of)
def test_denials_only_ever_take_away(patterns: list[str], more: list[str]) -> None:
    denials = [pattern for pattern in more if pattern.startswith("!")]
    for spec in registry.actions():
        with_denials = patterns_allow([*patterns, *denials], spec.schema, spec.name)
        if with_denials:
            assert patterns_allow(patterns, spec.schema, spec.name)
        assert with_denials == patterns_allow([*denials, *reversed(patterns)], spec.schema, spec.name)


# ----------------------------------------------------------------------------------------- templates


@pytest.mark.parametrize(
    ("words", "name", "tier", "permissions"),
    [
        ("monitoring", "monitor_only", Tier.MONITOR, ("monitor",)),
        ("Read  Only", "monitor_only", Tier.MONITOR, ("monitor",)),
        ("fees", "fee_optimization", Tier.STANDARD, ("monitor", "fee_policy", "config_tune")),
        ("fee_optimization", "fee_optimization", Tier.STANDARD, ("monitor", "fee_policy", "config_tune")),
        (
            "full routing",
            "full_routing",
            Tier.STANDARD,
            ("monitor", "fee_policy", "forwarding", "rebalance", "config_tune"),
        ),
    ],
)
def test_access_words_name_templates(words: str, name: str, tier: Tier, permissions: tuple[str, ...]) -> None:
    template = credential.resolve_access(words)
    assert (template.name, template.tier, template.permissions) == (name, tier, permissions)


def test_template_limits_are_those_of_the_sheet() -> None:
    assert {name: dict(each.constraints) for name, each in TEMPLATES.items()} == {
        "monitor_only": {},
        "fee_optimization": {"max_fee_change_pct": 50, "max_daily_actions": 50},
        "full_routing": {"max_rebalance_sats": 1_000_000, "max_daily_actions": 100},
        "complete_management": {"max_daily_actions": 200},
    }


def test_full_management_cannot_close() -> None:
    everything = credential.resolve_access("everything")
    assert "channel_close" not in everything.permissions
    assert not patterns_allow(everything.schemas, "hive:emergency/v1", "force_close_all")
    assert patterns_allow(everything.schemas, "hive:wallet/v1", "sweep"), "stopped by tier, not by pattern"


def test_custom_access_adds_up_its_words() -> None:
    template = credential.custom_template(["fees", "Splice"], max_fee_change_pct=20)
    assert template.tier is Tier.ADVANCED
    assert template.words == ("fees", "splice")
    assert "hive:splice/*" in template.schemas and dict(template.constraints) == {"max_fee_change_pct": 20}
    for allow, caps in (([], {}), (["flying"], {}), (["fees"], {"max_fee_change_pct": 0})):
        with pytest.raises(InvalidParams):
            credential.custom_template(allow, **caps)


def test_unknown_access_lists_the_choices() -> None:
    with pytest.raises(InvalidParams, match="monitoring, read only, fees"):
        credential.resolve_access("god mode")
