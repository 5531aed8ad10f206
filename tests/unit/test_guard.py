"""The guard judges plans: each rule at its edge, missing data, strictest level, nothing loosens (11 §6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hive_advisor.domain.guard import (
    FEE_WRITES,
    OUT,
    REBALANCE_FEES,
    REBALANCES,
    Asked,
    Counters,
    Situation,
    Verdict,
    judge,
)
from hive_advisor.domain.guard_rules import (
    DEFAULT_RULES,
    KINDS,
    ORIGINS,
    GuardRules,
    Limits,
    Origin,
    describe,
    parse_rules,
)
from hive_advisor.domain.observed import FeeSeen, Observed
from hive_shared.errors import InvalidParams
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import fields, replace

NOW = 1_770_000_000
SCID = "103x1x0"
FRESH = Observed({SCID: FeeSeen(1_000, 200, NOW - 60)}, 2_000_000, NOW - 60)
FEE = "hive:fee-policy/v1"
ALLOW, HOLD, DENY = Verdict


def asked(schema: str, action: str, params: Mapping[str, Any], danger: int = 3, ro: bool = False) -> Asked:
    return Asked("alice", schema, action, params, danger, ro)


def fee(ppm: int, danger: int = 3) -> Asked:
    return asked(FEE, "set_single", {"channel_id": SCID, "fee_ppm": ppm}, danger)


def at(origin: Origin = "lib", **changes: Any) -> Situation:
    return replace(Situation(DEFAULT_RULES, origin, FRESH, Counters(), NOW), **changes)


def rules_of(found: Any) -> set[str]:
    return {reason.rule for reason in found.reasons}


def test_acceptance_11_11_a_fee_step_of_15_percent_passes_and_one_of_16_is_held() -> None:
    assert judge(fee(230), at()).verdict is ALLOW
    assert judge(fee(170), at()).verdict is ALLOW
    for ppm in (231, 232, 169):
        assert rules_of(judge(fee(ppm), at())) == {"fee_step"}
        assert judge(fee(ppm), at()).verdict is HOLD


def test_acceptance_11_11_a_stale_or_missing_value_is_held() -> None:
    for seen_at, verdict in ((NOW - 600, ALLOW), (NOW - 601, HOLD), (NOW + 1, HOLD)):
        observed = Observed({SCID: FeeSeen(1_000, 200, seen_at)})
        assert judge(fee(210), at(observed=observed)).verdict is verdict, seen_at
    assert rules_of(judge(fee(210), at(observed=Observed()))) == {"fee_value"}


def test_acceptance_11_11_the_11th_write_in_3_hours_and_the_21st_of_a_day_are_held() -> None:
    for hours, day, verdict in ((9, 19, ALLOW), (10, 10, HOLD), (0, 20, HOLD)):
        counters = Counters({FEE_WRITES: hours}, {FEE_WRITES: day})
        assert judge(fee(210), at(counters=counters)).verdict is verdict, (hours, day)
    assert judge(fee(210), at()).uses == {FEE_WRITES: 1}
    bulk = asked(FEE, "set_bulk", {"channels": [SCID] * 7, "policy": {"fee_ppm": 210}}, 4)
    assert judge(bulk, at()).uses == {FEE_WRITES: 7}
    assert judge(bulk, at(counters=Counters({FEE_WRITES: 4}, {}))).verdict is HOLD


@pytest.mark.parametrize(
    ("origin", "danger", "verdict"),
    [
        *(("cli", 4, ALLOW), ("cli", 5, HOLD), ("cli", 7, HOLD), ("lib", 4, ALLOW), ("lib", 5, HOLD)),
        *(("auto", 3, ALLOW), ("auto", 4, HOLD), ("mcp", 3, ALLOW), ("mcp", 4, HOLD)),
    ],
)
def test_acceptance_11_11_danger_without_a_human(origin: Origin, danger: int, verdict: Verdict) -> None:
    assert judge(fee(210, danger), at(origin)).verdict is verdict


def test_danger_seven_is_a_humans_whatever_the_file_says() -> None:
    most = parse_rules({"origin": {name: {"max_danger": 6} for name in ORIGINS}})
    assert judge(fee(210, 6), at(rules=most)).verdict is ALLOW
    assert judge(fee(210, 7), at(rules=most)).verdict is HOLD
    with pytest.raises(InvalidParams, match="from 1 to 6"):
        parse_rules({"origin": {"lib": {"max_danger": 7}}})
    with pytest.raises(InvalidParams, match="from 1 to 6"):
        parse_rules({"origin": {"lib": {"max_danger": "off"}}})


@pytest.mark.parametrize(("ppm", "held"), [(24, True), (25, False), (5_000, False), (5_001, True)])
def test_the_range_of_fees(ppm: int, held: bool) -> None:
    near = Observed({SCID: FeeSeen(0, ppm, NOW)})
    assert ("fee_range" in rules_of(judge(fee(ppm), at(observed=near)))) is held


def test_what_a_fee_action_will_set_decides() -> None:
    zero = asked(FEE, "set_zero_fee", {"channel_id": SCID, "reason": "x"}, 4)
    assert rules_of(judge(zero, at())) == {"fee_range", "fee_step"}
    anchor = asked(FEE, "set_anchor", {"channel_id": SCID, "target_fee_ppm": 220})
    assert judge(anchor, at()).verdict is ALLOW
    assert judge(asked(FEE, "set_anchor", {"channel_id": SCID, "target_fee_ppm": 300}), at()).verdict is HOLD
    cleared = asked(FEE, "clear_anchor", {"channel_id": SCID}, 2)
    assert rules_of(judge(cleared, at())) == {"fee_value"}
    base = asked(FEE, "set_single", {"channel_id": SCID, "base_msat": 1_151})
    assert rules_of(judge(base, at())) == {"fee_step"}
    up = asked(FEE, "set_bulk", {"channels": [SCID], "policy": {"fee_delta_pct": 15}}, 4)
    assert judge(up, at()).verdict is ALLOW
    assert rules_of(judge(up, at(observed=Observed()))) == {"fee_value"}
    other = asked(FEE, "set_bulk", {"channels": [SCID, "9x9x9"], "policy": {"fee_ppm": 210}}, 4)
    assert rules_of(judge(other, at())) == {"fee_value"}


REBALANCE = "hive:rebalance/v1"


def move(amount: int, ppm: int = 500) -> Asked:
    params = {"from_channel": SCID, "to_channel": "1x1x1", "amount_sats": amount, "max_fee_ppm": ppm}
    return asked(REBALANCE, "circular_rebalance", params)


def test_rebalances() -> None:
    assert judge(move(500_000), at()).verdict is ALLOW
    assert judge(move(500_000), at()).uses == {REBALANCES: 1, REBALANCE_FEES: 250}
    assert rules_of(judge(move(500_001), at())) == {"rebalance_amount"}
    assert judge(move(100_000, 20_000), at()).verdict is ALLOW
    assert rules_of(judge(move(100_000, 20_001), at())) == {"rebalance_fee"}
    for hours, day, held in ((4, 9, False), (5, 5, True), (0, 10, True)):
        counters = Counters({REBALANCES: hours}, {REBALANCES: day})
        assert (judge(move(1_000), at(counters=counters)).verdict is HOLD) is held
    spent = Counters({}, {REBALANCE_FEES: 49_750})
    assert judge(move(500_000), at(counters=spent)).verdict is ALLOW
    assert rules_of(judge(move(500_001, 500), at(counters=spent))) == {"rebalance_amount", "rebalance_fees"}
    unknown = asked(REBALANCE, "swap_in", {"amount_sats": 1_000})
    assert rules_of(judge(unknown, at())) == {"rebalance_fee", "rebalance_fees"}


KIND = {
    ("hive:channel/v1", "open"): {"peer_id": "02" * 33, "amount_sats": 1_400_000},
    ("hive:channel/v1", "open_batch"): {"destinations": [{"peer_id": "02" * 33, "amount_sats": 1}]},
    ("hive:channel/v1", "close_cooperative"): {"channel_id": SCID, "reason": "x"},
    ("hive:expansion/v1", "propose_channel_open"): {"capacity_sats": 1_400_000, "push_sats": 0},
    ("hive:splice/v1", "splice_in"): {"channel_id": SCID, "amount_sats": 1_000},
    ("hive:wallet/v1", "generate_address"): {},
    ("hive:payment/v1", "create_invoice"): {"amount_msat": 1, "label": "x"},
    ("hive:plugin/v1", "configure"): {"option": "x", "value": "y"},
    ("hive:config/v1", "set_config"): {"key": "x", "value": "y"},
    ("hive:emergency/v1", "fee_spike"): {"reason": "x"},
    ("hive:liquidity/v1", "lease_renew"): {},
}


@pytest.mark.parametrize("name", KIND, ids=lambda name: name[1])
def test_groups_that_ask_a_human(name: tuple[str, str]) -> None:
    one = asked(*name, KIND[name], 1)
    for origin in ORIGINS:
        found = judge(one, at(origin))
        assert found.verdict is HOLD and "hold" in rules_of(found), found
    # And not by another rule alone.
    free = parse_rules({"global": {"hold": [kind for kind in KINDS if kind != one.kind]}})
    assert "hold" not in rules_of(judge(one, at(rules=free)))


def test_the_emergency_brake_is_free_for_a_person_at_the_command_line() -> None:
    stop = asked("hive:emergency/v1", "disable_forwarding", {"reason": "x"}, 6)
    assert judge(stop, at("cli")).verdict is ALLOW
    for origin in ("lib", "auto", "mcp"):
        assert judge(stop, at(origin)).verdict is HOLD


def test_openings_leave_funds_on_chain() -> None:
    rules = parse_rules({"global": {"hold": []}})
    for amount, verdict in ((1_400_000, ALLOW), (1_400_001, HOLD)):
        one = asked("hive:channel/v1", "open", {"peer_id": "02" * 33, "amount_sats": amount}, 4)
        assert judge(one, at(rules=rules)).verdict is verdict
        batch = asked("hive:channel/v1", "open_batch", {"destinations": [{"amount_sats": amount}]}, 4)
        assert judge(batch, at(rules=rules)).verdict is verdict
    stale = at(rules=rules, observed=replace(FRESH, onchain_at=NOW - 601))
    assert rules_of(judge(one, stale)) == {"onchain_reserve"}


MONEY = {
    "pay": ("hive:payment/v1", "keysend", {"destination": "02" * 33, "amount_msat": 1_001}, 2),
    "unknown": ("hive:payment/v1", "pay_invoice", {"bolt11": "lnbc1"}, None),
    "send": ("hive:wallet/v1", "send_onchain", {"destination": "bc1", "amount_sats": 5}, 5),
    "sweep": ("hive:wallet/v1", "sweep", {"destination": "bc1"}, None),
    "bump": ("hive:wallet/v1", "bump_fee", {"max_fee_sats": 7}, 7),
    "push": ("hive:channel/v1", "open", {"amount_sats": 20_000, "push_msat": 9_000}, 9),
    "close to": ("hive:channel/v1", "close_cooperative", {"channel_id": SCID, "destination": "bc1"}, None),
    "splice": ("hive:splice/v1", "splice_out", {"amount_sats": 4, "destination": "bc1"}, 4),
    "own": ("hive:splice/v1", "splice_out", {"amount_sats": 4}, 0),
    "in": ("hive:payment/v1", "create_invoice", {"amount_msat": 5}, 0),
}


@pytest.mark.parametrize("name", MONEY)
def test_money_leaves_only_as_far_as_it_was_set(name: str) -> None:
    schema, action, params, sats = MONEY[name]
    one = asked(schema, action, params, 4)
    nothing = parse_rules({"global": {"hold": [], "onchain_reserve_sats": "off"}})
    assert (judge(one, at(rules=nothing)).verdict is HOLD) is (sats != 0)
    limits = {"hold": [], "onchain_reserve_sats": "off", "out_command_sats": 9, "out_24h_sats": 10}
    some = parse_rules({"global": limits})
    found = judge(one, at(rules=some))
    assert (found.verdict is HOLD) is (sats is None)
    assert found.uses.get(OUT, 0) == (sats or 0)
    if sats:
        spent = Counters({}, {OUT: 11 - sats})
        assert rules_of(judge(one, at(rules=some, counters=spent))) == {"out_24h"}
        less = parse_rules({"global": {**limits, "out_command_sats": sats - 1}})
        assert rules_of(judge(one, at(rules=less))) == {"out_command"}


@pytest.mark.parametrize(
    ("hours", "moment", "held"),
    [
        *(("22:00-06:00", "21:59", False), ("22:00-06:00", "22:00", True), ("22:00-06:00", "05:59", True)),
        *(("22:00-06:00", "06:00", False), ("09:00-10:00", "09:30", True), ("09:00-10:00", "10:00", False)),
    ],
)
def test_quiet_hours(hours: str, moment: str, held: bool) -> None:
    rules = parse_rules({"global": {"quiet_hours": hours}})
    hour, _, minute = moment.partition(":")
    now = NOW // 86_400 * 86_400 + int(hour) * 3_600 + int(minute) * 60
    observed = Observed({SCID: FeeSeen(0, 200, now)})
    found = judge(fee(210), at(rules=rules, now=now, observed=observed))
    assert (found.verdict is HOLD) is held


def test_lists_deny_reads_too_and_nobody_confirms_them_away() -> None:
    read = asked("hive:monitor/v1", "channel_list", {}, 1, ro=True)
    assert judge(read, at("mcp")).verdict is ALLOW
    for section in ({"denied": ["hive:monitor/v1#*"]}, {"denied": ["hive:monitor/v1#list_channels"]}):
        assert judge(read, at(rules=parse_rules({"global": section}))).verdict is DENY
        assert judge(fee(210), at(rules=parse_rules({"global": section}))).verdict is ALLOW
    for names, verdict in ((["Alice"], ALLOW), (["bob"], DENY), ([], DENY)):
        only = parse_rules({"global": {"clients": names}})
        assert judge(read, at(rules=only)).verdict is verdict


def test_acceptance_11_11_a_halt_stops_all_but_withdrawing_and_asking() -> None:
    control = "hive:control/v1"
    for action in ("cancel", "command_status", "receipts_list", "ping_ack"):
        assert judge(asked(control, action, {}, 1, ro=True), at(halted=True)).verdict is ALLOW
    for action in ("confirm", "approve", "telemetry_subscribe", "quote"):
        assert judge(asked(control, action, {}, 1, ro=True), at(halted=True)).verdict is DENY
    assert judge(fee(210), at("cli", halted=True)).verdict is DENY
    assert judge(asked("hive:monitor/v1", "channel_list", {}, 1, ro=True), at(halted=True)).verdict is DENY


def test_what_the_guard_cannot_judge_is_denied() -> None:
    for params in ({}, {"channel_id": SCID, "fee_ppm": "many"}, {"channels": None}):
        found = judge(asked(FEE, "set_single", params), at())
        assert found.verdict is DENY and rules_of(found) == {"error"}
    odd = {"from_channel": SCID, "to_channel": "1x1x1", "amount_sats": "x", "max_fee_ppm": 5}
    assert judge(asked(REBALANCE, "circular_rebalance", odd), at()).verdict is DENY


@pytest.mark.parametrize("action", ["fee_schedule", "auto_rebalance_rules"])
def test_what_writes_later_by_itself_asks_a_human(action: str) -> None:
    assert rules_of(judge(asked("hive:config/v1", action, {"rules": []}, 3), at())) == {"unchecked"}


# -- nothing loosens -----------------------------------------------------------------------------------

SOME = [
    *(fee(ppm, danger) for ppm in (24, 180, 210, 230, 260, 6_000) for danger in (2, 3, 4, 5, 7)),
    asked(FEE, "set_bulk", {"channels": [SCID, "9x9x9"], "policy": {"fee_delta_pct": 10}}, 4),
    *(move(amount, ppm) for amount in (1_000, 400_000, 600_000) for ppm in (100, 30_000)),
    *(asked(*name, params, 3) for name, params in KIND.items()),
    *(asked(schema, action, params, 4) for schema, action, params, _ in MONEY.values()),
    asked("hive:monitor/v1", "channel_list", {}, 1, ro=True),
]
numbers = {
    "max_danger": st.integers(1, 6),
    "min_fee_ppm": st.integers(0, 300),
    "max_fee_ppm": st.integers(100, 7_000),
    "fee_step_pct": st.integers(0, 40),
    **dict.fromkeys(
        ("fee_writes_3h", "fee_writes_24h", "rebalances_3h", "rebalances_24h"), st.integers(0, 25)
    ),
    "rebalance_max_sats": st.integers(0, 700_000),
    "rebalance_max_pct": st.integers(0, 5),
    "rebalance_fees_24h_sats": st.integers(0, 60_000),
    "onchain_reserve_sats": st.integers(0, 3_000_000),
    **dict.fromkeys(("out_command_sats", "out_24h_sats"), st.integers(0, 20)),
    "hold": st.lists(st.sampled_from(KINDS)),
    "quiet_hours": st.sampled_from(("00:00-12:00", "12:00-00:00", "22:00-03:00")),
    "denied": st.lists(st.sampled_from(("hive:fee-policy/v1#*", "hive:monitor/v1#channel_list")), max_size=1),
    "clients": st.just(["alice", "bob"]),
}
assert set(numbers) == {field.name for field in fields(Limits)}
sections = st.fixed_dictionaries({}, optional=numbers)
counts = st.fixed_dictionaries(
    {FEE_WRITES: st.integers(0, 25), REBALANCES: st.integers(0, 12), OUT: st.integers(0, 20)}
)
situations = st.builds(
    lambda document, origin, hours, day: at(
        origin,
        rules=parse_rules(document),
        counters=Counters(hours, {k: v + hours[k] for k, v in day.items()}),
    ),
    st.fixed_dictionaries({"global": sections}),
    st.sampled_from(ORIGINS),
    counts,
    counts,
)


@settings(max_examples=150, deadline=None)
@given(one=st.sampled_from(SOME), situation=situations, client=sections, origin=sections, more=counts)
def test_nothing_loosens(
    one: Asked, situation: Situation, client: dict[str, Any], origin: dict[str, Any], more: dict[str, int]
) -> None:
    """A section for client or origin, more that was used, less that is known, a halt: never looser."""
    verdict = judge(one, situation).verdict
    levels = parse_rules({"client": {"alice": client}})
    rules = replace(situation.rules, clients=levels.clients)
    assert judge(one, replace(situation, rules=rules)).verdict >= verdict
    # The origin's own section replaces its default, so it is measured against no section of the kind.
    bare = replace(situation.rules, origins=dict.fromkeys(ORIGINS, Limits()))
    given_ = parse_rules(
        {"origin": {situation.origin: {**origin, "max_danger": origin.get("max_danger", 6)}}}
    )
    both = replace(situation.rules, origins=given_.origins)
    loosest = judge(one, replace(situation, rules=bare)).verdict
    assert judge(one, replace(situation, rules=both)).verdict >= loosest
    used = situation.counters
    raised = Counters(
        {k: v + more.get(k, 0) for k, v in used.hours_3.items()},
        {k: v + more.get(k, 0) for k, v in used.day.items()},
    )
    assert judge(one, replace(situation, counters=raised)).verdict >= verdict
    assert judge(one, replace(situation, observed=Observed())).verdict >= verdict
    assert judge(one, replace(situation, halted=True)).verdict is DENY


# -- guard.toml ----------------------------------------------------------------------------------------


def test_without_a_file_the_sheets_defaults_hold() -> None:
    assert parse_rules({}) == GuardRules()
    assert describe(DEFAULT_RULES.everything)["fee_step_pct"] == 15
    shown = describe(parse_rules({"global": {"quiet_hours": "22:00-06:05"}}).everything)
    assert shown["quiet_hours"] == "22:00-06:05"


BAD: dict[str, Any] = {
    "unknown section 'gobal'": {"gobal": {}},
    "unknown key 'fee_setp_pct'": {"global": {"fee_setp_pct": 3}},
    "is no origin": {"origin": {"ai": {}}},
    "takes a number from 0 to 10000, not True": {"global": {"fee_step_pct": True}},
    "not 1.5": {"global": {"fee_writes_3h": 1.5}},
    "not -1": {"client": {"alice": {"out_24h_sats": -1}}},
    "takes a list of texts": {"global": {"hold": "open"}},
    "does not know 'opens'": {"global": {"hold": ["opens"]}},
    "is no action": {"global": {"denied": ["hive:fee-policy/v1#set_all"]}},
    'takes "22:00-06:00"': {"global": {"quiet_hours": "22-6"}},
    "begins when it ends": {"global": {"quiet_hours": "10:00-10:00"}},
    "stands there twice": {"client": {"Alice": {}, "alice": {}}},
    "reserved": {"client": {"all": {}}},
    "global is a section": {"global": 3},
    r"client\.alice is a section": {"client": {"alice": 3}},
    "unknown key 'per_hour'": {"tool": {"adv_commit": {"per_hour": 3}}},
    "is not the name of a tool": {"tool": {"A": {}}},
}


@pytest.mark.parametrize("said", BAD)
def test_a_guard_toml_that_is_not_understood_is_refused(said: str) -> None:
    with pytest.raises(InvalidParams, match=said):
        parse_rules(BAD[said])
