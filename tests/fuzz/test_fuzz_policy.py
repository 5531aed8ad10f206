"""Properties of policy decisions under random policies and requests (08 §5.4, 02 §7.3)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from cl_hive_comms.domain import approval
from cl_hive_comms.domain.approval import Workflow
from cl_hive_comms.domain.policy import (
    ActionRequest,
    ChannelFact,
    Decision,
    PolicySnapshot,
    decide,
    explain,
)
from cl_hive_comms.domain.policy_document import parse_document, preset_document, with_overrides
from cl_hive_comms.domain.policy_limits import COUNTERS, counters_of
from cl_hive_comms.domain.policy_rules import Override, Rule, conflicts, parse_rule
from cl_hive_comms.domain.policy_settings import DAYS, PRESETS, QuietHours, clock, loosened
from hive_shared.canonical import JsonValue
from hive_shared.errors import SYMBOLS, InvalidParams
from hive_shared.registry import CONTROL, ActionSpec, actions
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

NOW = 1_770_000_000
PEERS = ["02" + "aa" * 32, "03" + "bb" * 32]
SCIDS = ["1x1x0", "2x1x0", "3x1x0"]
APPROVERS = ["ab" * 32, "cd" * 32, "local"]
# Every quarter of an hour of two years, and the seconds around changes to and from daylight saving.
instants = st.one_of(
    st.integers(0, 70_080).map(lambda n: 1_735_689_600 + 900 * n),
    st.builds(
        lambda change, off: change + off,
        st.sampled_from([1_774_746_000, 1_792_890_000, 1_772_953_200, 1_793_512_800, 1_775_314_800]),
        st.integers(-7_200, 7_200),
    ),
)
SPECS = [spec for spec in actions() if spec.schema != CONTROL]
WRITES = [spec for spec in SPECS if not spec.read_only]
# What opens, connects, splices or routes (02 §7.4).
_TO_PEERS = ("channel/open", "peer/connect", "splice/", "expansion/", "rebalance/", "payment/", "liquidity/")
TO_PEERS = [
    spec for spec in WRITES if spec.schema.replace("hive:", "").replace("v1", spec.name).startswith(_TO_PEERS)
]


def subset(values: list[str], least: int = 0) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=least, unique=True)


minutes = st.integers(0, 1_439)
# With and without daylight saving, on both halves of the globe, and one that moves by half an hour.
zones = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Asia/Tokyo", "Australia/Lord_Howe", "America/Santiago"]
)
quiet_hours = st.builds(
    lambda start, end, zone: {"start": clock(start), "end": clock(end), "timezone": zone},
    minutes,
    minutes,
    zones,
)
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
        "max_rebalance_sats": st.integers(0, 10**6),
        "max_channel_open_sats": st.integers(0, 10**7),
        "allow_private_hosts": st.booleans(),
        "time_restrictions": st.fixed_dictionaries(
            {}, optional={"quiet_hours": st.none() | quiet_hours, "quiet_hour_max_danger": st.integers(0, 10)}
        ),
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
        "schema": st.sampled_from(["*", "hive:fee-policy/*", "hive:channel/v1"]),
        "amount_gte_sats": st.integers(0, 10**7),
        "days": subset(list(DAYS), 1),
        "hours": st.builds(lambda start, end: f"{clock(start)}-{clock(end)}", minutes, minutes),
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
def requests(draw: st.DrawFn, specs: Sequence[ActionSpec] = SPECS) -> ActionRequest:
    spec = draw(st.sampled_from(specs))
    channels = tuple(
        ChannelFact(
            scid,
            _long(scid),
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


def _long(scid: str) -> str:
    """The channel id that `requests` gives a short channel id."""
    return scid.replace("x", "0").zfill(64)


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
    kept: dict[str, Any] = {}
    for key, value in values.items():
        settings = with_overrides(base, {**base.overrides, **kept, key: value}).settings
        # Rules of days and hours go by the zone of the quiet hours: another zone moves them.
        if (
            key != "approvers"
            and settings.zone == base.settings.zone
            and not loosened(base.settings, settings)
        ):
            kept[key] = value
    changed = with_overrides(base, {**base.overrides, **kept})
    plain = replace(snapshot, override=None)
    before, after = decide(plain, request), decide(replace(plain, document=changed), request)
    assert strictness(after) >= strictness(before)


@given(snapshots(), requests())
def test_a_bulk_is_allowed_only_if_each_channel_is(snapshot: PolicySnapshot, request: ActionRequest) -> None:
    whole = strictness(decide(snapshot, request))
    for channel in request.channels:
        fees = {scid: new for scid, new in request.new_fees.items() if scid == channel.scid}
        assert strictness(decide(snapshot, replace(request, channels=(channel,), new_fees=fees))) <= whole


@given(snapshots(), requests())
def test_a_rule_that_conflicts_call_unreachable_decides_nothing(
    snapshot: PolicySnapshot, request: ActionRequest
) -> None:
    plain = replace(snapshot, override=None, sibling_rules=())
    decided = strictness(decide(plain, request))
    for each in conflicts(plain.rules, plain.document.settings):
        assert each.rule_ids and each.sentence
        if each.kind == "unreachable":
            others = tuple(rule for rule in plain.rules if rule.id != each.rule_ids[0])
            assert strictness(decide(replace(plain, rules=others), request)) == decided


@given(snapshots(), requests())
def test_explain_tells_the_decision_and_the_rules_that_spoke(
    snapshot: PolicySnapshot, request: ActionRequest
) -> None:
    explained = explain(snapshot, request)
    assert explained.decision == decide(snapshot, request)
    named = {rule.id for rule in explained.hits}
    every = {rule.id for rule in (*snapshot.rules, *snapshot.sibling_rules)}
    assert set(explained.decision.rule_ids) & every <= named
    rules = (*snapshot.rules, *snapshot.sibling_rules)
    assert list(explained.conflicts) == conflicts(rules, snapshot.settings(request.now))
    if not request.read_only and any(rule.effect == "deny" for rule in explained.hits):
        assert explained.decision.decision == "deny"


@given(override_values, rules(), requests())
def test_a_stricter_preset_is_never_easier(
    values: dict[str, Any], own: tuple[Rule, ...], request: ActionRequest
) -> None:
    decided = [
        strictness(
            decide(PolicySnapshot(1, name, with_overrides(preset_document(name), values), own), request)
        )
        for name in ("conservative", "moderate", "aggressive")
    ]
    assert decided == sorted(decided, reverse=True)


@given(snapshots(), requests(), st.integers(-86_400, 86_400))
def test_an_override_counts_in_its_time_only(
    snapshot: PolicySnapshot, request: ActionRequest, shift: int
) -> None:
    request = replace(request, now=NOW + shift)
    override = snapshot.override
    without = decide(replace(snapshot, override=None), request)
    if override is None or not override.starts_at <= request.now < override.expires_at:
        assert decide(snapshot, request) == without
    else:
        assert snapshot.settings(request.now) == override.apply_to(snapshot.document.settings)


@given(snapshots(), requests(WRITES), st.sampled_from(SCIDS), st.booleans())
def test_a_protected_channel_is_never_touched_or_named(
    snapshot: PolicySnapshot, request: ActionRequest, scid: str, long: bool
) -> None:
    protecting = with_overrides(
        snapshot.document,
        {**snapshot.document.overrides, "protected_channels": [_long(scid) if long else scid]},
    )
    guarded = replace(snapshot, document=protecting, override=None)
    name = _long(scid) if long else scid
    cases = [replace(request, params={"deep": [{"list": [name]}]})]
    cases += [request] if any(each.scid == scid for each in request.channels) else []
    for case in cases:
        decision = decide(guarded, case)
        assert (decision.decision, decision.symbol) == ("deny", "protected_channel")


@given(snapshots(), requests(TO_PEERS), st.sampled_from(PEERS))
def test_a_forbidden_peer_gets_no_channel_connection_or_route(
    snapshot: PolicySnapshot, request: ActionRequest, peer: str
) -> None:
    document = with_overrides(snapshot.document, {**snapshot.document.overrides, "forbidden_peers": [peer]})
    for params in ({"peer_id": peer}, {"destinations": [{"peer_id": peer}]}, {"node_id": peer}):
        case = replace(request, params=params, channels=(), new_fees={})
        decision = decide(replace(snapshot, document=document, override=None), case)
        assert (decision.decision, decision.symbol) == ("deny", "forbidden_peer")


@given(snapshots(), requests(), st.sampled_from(sorted(COUNTERS)), st.integers(-3, 3))
def test_more_uses_are_never_easier_and_none_beyond_the_limit_is_granted(
    snapshot: PolicySnapshot, request: ActionRequest, counter: str, off: int
) -> None:
    limits = snapshot.settings(request.now).rate_limits
    allowed = {
        "fee_changes": limits.fee_changes_per_hour,
        "rebalances": limits.rebalances_per_day,
        "total_actions": limits.total_actions_per_day,
    }
    used = {**dict.fromkeys(COUNTERS, 0), counter: max(0, allowed[counter] + off)}
    more = {**used, counter: used[counter] + 1}
    before, after = (decide(snapshot, replace(request, counts=counts)) for counts in (used, more))
    assert strictness(after) >= strictness(before)
    counted = not request.read_only and counter in counters_of(request.schema)
    full = used[counter] >= allowed[counter]
    assert (f"rate_limits.{counter}" in before.rule_ids) == (counted and full)
    if counted and full:
        assert before.decision == "deny"
    if counted:
        unknown = {name: count for name, count in used.items() if name != counter}
        assert decide(snapshot, replace(request, counts=unknown)).decision == "deny"


@given(minutes, st.integers(1, 1_439), instants, requests(WRITES), zones)
def test_the_hours_of_two_rules_share_the_day(
    start: int, length: int, now: int, request: ActionRequest, zone: str
) -> None:
    end = (start + length) % 1_440
    document = with_overrides(
        preset_document("aggressive"),
        {
            "time_restrictions": {
                "quiet_hours": {"start": "00:00", "end": "00:01", "timezone": zone},
                "quiet_hour_max_danger": 10,
            }
        },
    )
    names = ("from", "until")
    both = tuple(
        parse_rule(
            {"match": {"hours": f"{clock(low)}-{clock(high)}"}, "effect": "deny"},
            rule_id=name,
        )
        for name, low, high in zip(names, (start, end), (end, start), strict=True)
    )
    decision = decide(PolicySnapshot(1, "aggressive", document, both), replace(request, now=now))
    assert decision.decision == "deny" and len({*decision.rule_ids} & {*names}) == 1


@given(quiet_hours, instants, requests(), st.integers(0, 10))
def test_quiet_hours_by_the_clock_on_the_wall(
    hours: dict[str, str], now: int, request: ActionRequest, loudest: int
) -> None:
    # The wall clock read another way: as text, not as minutes.
    wall = datetime.fromtimestamp(now, UTC).astimezone(ZoneInfo(hours["timezone"])).strftime("%H:%M")
    start, end = hours["start"], hours["end"]
    quiet = start <= wall < end if start < end else wall >= start or wall < end
    document = with_overrides(
        preset_document("aggressive"),
        {"time_restrictions": {"quiet_hours": dict(hours), "quiet_hour_max_danger": loudest}},
    )
    span = document.settings.quiet_hours
    assert span is not None and span.active(now) == quiet
    if start != end:
        turned = QuietHours(span.end, span.start, span.timezone, span.zone)
        assert turned.active(now) != quiet
    decision = decide(PolicySnapshot(1, "aggressive", document), replace(request, now=now))
    emergency = (request.schema, request.action) == ("hive:emergency/v1", "disable_forwarding")
    silenced = quiet and request.danger > loudest and not request.read_only and not emergency
    assert ("quiet_hours" in decision.rule_ids) == silenced
    assert decision.decision == "deny" or not silenced


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=10,
)
known_keys = st.sampled_from([*PRESETS["moderate"].__struct_fields__, "time_restrictions"])


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
