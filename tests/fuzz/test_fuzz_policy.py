"""Properties of policy decisions under random policies and requests (08 §5.4, 02 §7.3)."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from cl_hive_comms.domain import approval
from cl_hive_comms.domain.approval import Workflow
from cl_hive_comms.domain.policy import ActionRequest, ChannelFact, Decision, PolicySnapshot, decide
from cl_hive_comms.domain.policy_document import parse_document, preset_document, with_overrides
from cl_hive_comms.domain.policy_limits import COUNTERS
from cl_hive_comms.domain.policy_rules import Override, Rule, conflicts, parse_rule
from cl_hive_comms.domain.policy_settings import PRESETS, loosened
from hive_shared.canonical import JsonValue
from hive_shared.errors import SYMBOLS, InvalidParams
from hive_shared.registry import CONTROL, actions
from hypothesis import assume, given
from hypothesis import strategies as st

NOW = 1_770_000_000
PEERS = ["02" + "aa" * 32, "03" + "bb" * 32]
SCIDS = ["1x1x0", "2x1x0", "3x1x0"]
APPROVERS = ["ab" * 32, "cd" * 32, "local"]
SPECS = [spec for spec in actions() if spec.schema != CONTROL]


def subset(values: list[str], least: int = 0) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=least, unique=True)


override_values: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "max_danger": st.integers(1, 10),
        "require_confirmation_above": st.integers(0, 10),
        "max_fee_change_per_24h_pct": st.integers(0, 100),
        "max_fee_ppm": st.integers(50, 500),
        "min_fee_ppm": st.integers(0, 50),
        "forbidden_peers": subset(PEERS),
        "protected_channels": subset(SCIDS),
        "blocked_schemas": subset(["hive:wallet/*", "hive:fee-policy/*", "hive:*"]),
        "approvers": subset(APPROVERS),
        "allow_push": st.booleans(),
        "required_confirmation": st.fixed_dictionaries({}, optional={"danger_gte": st.integers(1, 10)}),
        "rate_limits": st.fixed_dictionaries({}, optional={"total_actions_per_day": st.integers(0, 3)}),
        "approval_overrides": st.dictionaries(
            st.sampled_from(["*", "fee_policy_*", "channel_*", "plugin_start_arbitrary"]),
            st.sampled_from(["auto_execute", "always_confirm", "multi_sig_2_of_3"]),
        ),
    },
)
matches = st.fixed_dictionaries(
    {},
    optional={
        "action": st.sampled_from(["*", "set_*", "open", "close_*"]),
        "advisor": st.sampled_from(["a", "b"]),
        "danger_gte": st.integers(1, 10),
        "danger_lte": st.integers(1, 10),
        "channels": subset(SCIDS, 1),
        "peers": subset(PEERS, 1),
    },
)
rule_docs = st.builds(
    lambda match, effect: {
        "match": match,
        "effect": effect,
        **({"cap": {"field": "fee_ppm", "max": 150}} if effect == "cap" else {}),
    },
    matches,
    st.sampled_from(["deny", "confirm", "multi", "cap"]),
)


@st.composite
def rules(draw: st.DrawFn) -> tuple[Rule, ...]:
    docs: list[dict[str, JsonValue]] = draw(st.lists(rule_docs, max_size=4))
    return tuple(parse_rule(doc, rule_id=f"r{index}") for index, doc in enumerate(docs))


@st.composite
def snapshots(draw: st.DrawFn) -> PolicySnapshot:
    preset = draw(st.sampled_from(list(PRESETS)))
    document = with_overrides(preset_document(preset), draw(override_values))
    override = None
    if draw(st.booleans()):
        override = Override("o", draw(override_values), NOW - 5, NOW + draw(st.sampled_from([-1, 60])))
    return PolicySnapshot(1, preset, document, draw(rules()), override, draw(rules()))


@st.composite
def requests(draw: st.DrawFn) -> ActionRequest:
    spec = draw(st.sampled_from(SPECS))
    channels = tuple(
        ChannelFact(
            scid,
            scid.replace("x", "0").zfill(64),
            draw(st.sampled_from(PEERS)),
            1000,
            draw(st.integers(0, 300)),
            1,
            10**9,
            "CHANNELD_NORMAL",
            draw(st.none() | st.integers(0, 300)),
        )
        for scid in draw(subset(SCIDS))
    )
    ppm = draw(st.none() | st.integers(0, 300))
    return ActionRequest(
        schema=spec.schema,
        action=spec.name,
        params={"peer_id": draw(st.sampled_from(PEERS))},
        danger=1 if spec.read_only else draw(st.integers(1, 10)),
        read_only=spec.read_only,
        advisor_id=draw(st.sampled_from(["a", "b"])),
        trust=draw(st.sampled_from([Fraction(1, 2), Fraction(1), Fraction(3, 2), Fraction(2)])),
        channels=channels,
        new_fees={} if ppm is None else {each.scid: (None, ppm) for each in channels},
        amount_sat=draw(st.integers(0, 10**7)),
        now=NOW + draw(st.integers(0, 86_400)),
        counts=draw(st.just({}) | st.fixed_dictionaries(dict.fromkeys(COUNTERS, st.integers(0, 3)))),
    )


def strictness(decision: Decision) -> tuple[int, int]:
    if decision.decision == "deny":
        return (9, 0)
    return (approval.rank(decision.workflow), decision.approvals_needed)


@given(snapshots(), requests())
def test_nothing_ever_loosens_a_floor(snapshot: PolicySnapshot, request: ActionRequest) -> None:
    decision = decide(snapshot, request)
    assert "error" not in decision.rule_ids
    if decision.decision == "deny":
        assert decision.symbol in SYMBOLS and decision.reasons and decision.rule_ids
        return
    assert decision.symbol is None
    if request.read_only:
        assert decision.workflow is Workflow.AUTO
        return
    assert (request.schema, request.action) not in {
        ("hive:plugin/v1", "start_arbitrary"),
        ("hive:backup/v1", "restore"),
    }
    effective = snapshot.settings(request.now)
    assert effective.protected_channels.isdisjoint(request.channel_ids)
    proposal = request.schema == "hive:expansion/v1"
    floor = approval.floor_of(request.danger, proposal=proposal)
    assert approval.rank(decision.workflow) >= approval.rank(floor)
    if request.danger >= 9:
        override = snapshot.active_override(request.now)
        assert override is not None and override.raises_danger_to(request.danger)
        assert decision.decision == "multi" and decision.approvals_needed >= 2
        assert len(effective.approvers) >= 2
    assert (decision.decision == "allow") == (decision.workflow is Workflow.AUTO)
    assert (decision.expires_in > 0) == (decision.decision != "allow")


@given(snapshots(), requests(), rule_docs)
def test_a_further_rule_never_makes_it_easier(
    snapshot: PolicySnapshot, request: ActionRequest, doc: dict[str, JsonValue]
) -> None:
    more = (*snapshot.rules, parse_rule(doc, rule_id="more"))
    before = strictness(decide(snapshot, request))
    assert strictness(decide(replace(snapshot, rules=more), request)) >= before
    siblings = (*snapshot.sibling_rules, parse_rule(doc, rule_id="more", source="hive"))
    assert strictness(decide(replace(snapshot, sibling_rules=siblings), request)) >= before


@given(snapshots(), requests(), override_values)
def test_what_no_key_loosens_is_never_easier(
    snapshot: PolicySnapshot, request: ActionRequest, values: dict[str, Any]
) -> None:
    base = snapshot.document
    assume("approvers" not in values)
    changed = with_overrides(base, {**base.overrides, **values})
    assume(not loosened(base.settings, changed.settings))
    plain = replace(snapshot, override=None)
    before, after = decide(plain, request), decide(replace(plain, document=changed), request)
    assert strictness(after) >= strictness(before)


@given(snapshots(), requests())
def test_a_bulk_is_allowed_only_if_each_channel_is(snapshot: PolicySnapshot, request: ActionRequest) -> None:
    whole = strictness(decide(snapshot, request))
    for channel in request.channels:
        fees = {scid: new for scid, new in request.new_fees.items() if scid == channel.scid}
        assert strictness(decide(snapshot, replace(request, channels=(channel,), new_fees=fees))) <= whole


@given(snapshots())
def test_conflicts_never_fail(snapshot: PolicySnapshot) -> None:
    for each in conflicts(snapshot.rules, snapshot.document.settings):
        assert each.rule_ids and each.sentence


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=10,
)
known_keys = st.sampled_from([*PRESETS["moderate"].__dataclass_fields__, "time_restrictions"])


@given(json_values | st.dictionaries(known_keys, json_values, max_size=4))
def test_any_json_is_a_policy_document_or_refused(value: JsonValue) -> None:
    for doc in (value, {"policy_version": 1, "overrides": value}):
        try:
            read = parse_document(doc)
        except InvalidParams:
            continue
        assert parse_document(read.to_doc()) == read


@given(json_values | st.fixed_dictionaries({"match": json_values, "effect": st.just("deny")}))
def test_any_json_is_a_rule_or_refused(value: JsonValue) -> None:
    try:
        rule = parse_rule(value, rule_id="r")
    except InvalidParams:
        return
    assert parse_rule(rule.to_doc()) == rule
