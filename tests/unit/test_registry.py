"""The management schemas: parameters, danger and tiers of docs/protocol/02-fleet-management.md §3, §4."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hive_shared import registry
from hive_shared.errors import HiveError, InvalidParams, Unsupported
from hive_shared.registry import CONTROL, Danger, DangerFacts, Tier, find, parse_params
from hypothesis import given, settings
from hypothesis import strategies as st

SHEET = (Path(__file__).parents[2] / "docs/protocol/02-fleet-management.md").read_text()
FEES = "hive:fee-policy/v1"


def refused(schema: str, action: str, params: object) -> InvalidParams:
    with pytest.raises(InvalidParams) as caught:
        parse_params(find(schema, action), params)  # type: ignore[arg-type]
    assert caught.value.reason == "invalid_params"
    assert {"param", "expected"} <= set(caught.value.data)
    return caught.value


def test_every_action_of_the_sheet_is_declared() -> None:
    section = SHEET.split("## 4. Actions")[1].split("**hive:control/v1**")[0]
    missing = []
    for row in re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE):
        text = re.sub(r"^expansion: |\(.*?\)", "", row)
        for name in map(str.strip, re.split(r"[,/·]", text)):
            if re.fullmatch(r"[a-z_]+", name) and not any(name == spec.name for spec in registry.actions()):
                missing.append(name)
    assert missing == []


def test_every_alias_in_parentheses_is_found() -> None:
    for schema, alias, name in (
        ("hive:monitor/v1", "get_info", "health_summary"),
        ("hive:monitor/v1", "list_forwards", "forward_history"),
        ("hive:monitor/v1", "get_balance", "onchain_balance"),
        ("hive:channel/v1", "close_force", "close_unilateral"),
        ("hive:peer/v1", "ban_peer", "ban"),
        ("hive:payment/v1", "pay", "pay_invoice"),
        ("hive:wallet/v1", "withdraw", "send_onchain"),
        ("hive:plugin/v1", "start", "start_approved"),
        ("hive:emergency/v1", "emergency_close_all", "force_close_all"),
        ("hive:htlc/v1", "list_htlcs", "list_htlcs"),
    ):
        assert find(schema, alias).name == name


def test_htlc_and_forwarding_actions_are_rerouted() -> None:
    assert find(FEES, "set_htlc_limits").schema == "hive:htlc-policy/v1"
    assert find("hive:config/v1", "disable_channel").schema == "hive:forwarding/v1"
    assert find("hive:config/v1", "disable_forwarding").schema == "hive:config/v1"


def test_unknown_schema_and_action_have_their_own_symbols() -> None:
    for schema, action, symbol in (
        ("hive:monitor/v2", "get_info", "unsupported_schema"),
        ("hive:fee/v1", "set_single", "unsupported_schema"),
        (FEES, "set_double", "unsupported_action"),
    ):
        with pytest.raises(Unsupported) as caught:
            find(schema, action)
        assert caught.value.reason == symbol


def test_an_action_that_is_not_served_says_so() -> None:
    with pytest.raises(Unsupported, match="not served by this version") as caught:
        parse_params(find("hive:liquidity/v1", "jit_request"), {})
    assert caught.value.reason == "unsupported_action"
    assert {
        "schema": "hive:liquidity/v1",
        "action": "jit_request",
        "reason": "not served by this version",
    } in (registry.unsupported())


def test_monitor_and_fee_policy_are_served_whole() -> None:
    for schema in (registry.MONITOR, registry.FEE_POLICY):
        assert all(spec.served for spec in registry.SCHEMAS[schema].actions)


@pytest.mark.parametrize(
    ("schema", "low", "high"),
    [
        ("hive:monitor/v1", 1, 2),
        (FEES, 2, 5),
        ("hive:htlc-policy/v1", 2, 5),
        ("hive:forwarding/v1", 2, 6),
        ("hive:rebalance/v1", 3, 9),
        ("hive:channel/v1", 5, 10),
        ("hive:splice/v1", 5, 9),
        ("hive:peer/v1", 2, 5),
        ("hive:payment/v1", 1, 9),
        ("hive:wallet/v1", 1, 9),
        ("hive:plugin/v1", 1, 9),
        ("hive:config/v1", 1, 7),
        ("hive:backup/v1", 1, 10),
        ("hive:emergency/v1", 3, 10),
        ("hive:htlc-mgmt/v1", 1, 8),
        ("hive:liquidity/v1", 1, 6),
    ],
)
def test_danger_stays_in_the_range_the_sheet_gives_its_schema(schema: str, low: int, high: int) -> None:
    """Ranges of rebalance and splice reach 9 here: their +W rows grow with a foreign destination."""
    totals = [
        vector.total
        for spec in registry.SCHEMAS[schema].actions
        for vector in spec.rule.vectors
        if not (schema == FEES and spec.read_only)
    ]
    assert (min(totals), max(totals)) == (low, high)


def test_tiers_never_fall_below_what_danger_demands() -> None:
    for spec in registry.actions():
        for vector in spec.rule.vectors:
            if spec.tier is None or spec.schema == CONTROL or spec.read_only:
                continue
            exceptions = {"set_cltv_delta", "create_invoice", "generate_address", "propose_channel_open"}
            least = registry.tier_for(vector.total, read_only=False, s5_met=True)
            assert spec.tier >= least or spec.name in exceptions, (spec.name, vector)


def test_set_single_danger_follows_the_field_and_the_outcome() -> None:
    spec = find(FEES, "set_single")
    known = DangerFacts(fees={"1x1x1": (1000, 100)})
    assert spec.danger({"channel_id": "1x1x1", "base_msat": 5}, known).total == 2
    assert spec.danger({"channel_id": "1x1x1", "fee_ppm": 150}, known).total == 3
    assert spec.danger({"channel_id": "1x1x1", "fee_ppm": 0}, known).total == 3
    assert spec.danger({"channel_id": "1x1x1", "fee_ppm": 0, "base_msat": 0}, known).total == 4
    zero_base = DangerFacts(fees={"1x1x1": (0, 100)})
    assert spec.danger({"channel_id": "1x1x1", "fee_ppm": 0}, zero_base).total == 4


def test_set_single_to_zero_is_scored_as_set_zero_fee() -> None:
    spec, facts = find(FEES, "set_single"), DangerFacts(fees={"1x1x1": (0, 100)})
    assert registry.scored_as(spec, {"channel_id": "1x1x1", "fee_ppm": 0}, facts).name == "set_zero_fee"
    assert registry.scored_as(spec, {"channel_id": "1x1x1", "fee_ppm": 1}, facts) is spec


def test_set_bulk_needs_its_constraint_for_the_standard_tier() -> None:
    spec, facts = find(FEES, "set_bulk"), DangerFacts(channels_total=10)
    few = {"channels": ["1x1x1"], "policy": {"fee_ppm": 100}}
    assert spec.danger(few, facts).total == 5
    assert spec.required_tier(few, facts) is Tier.ADVANCED
    assert spec.required_tier(few, facts, {"max_fee_change_pct"}) is Tier.STANDARD
    assert spec.danger({**few, "policy": {"base_msat": 1}}, facts).total == 4


def test_bulk_over_half_of_all_channels_widens_the_blast_radius() -> None:
    spec = find(FEES, "set_bulk")
    params = {"channels": ["1x1x1", "1x1x2"], "policy": {"fee_ppm": 100}}
    assert spec.danger(params, DangerFacts(channels_total=4)).b == 5
    assert spec.danger(params, DangerFacts(channels_total=3)).b == 6
    assert spec.danger(params).b == 6, "an unknown number of channels counts as few"


def test_acceptance_02_08_payments_escalate_with_the_day() -> None:
    spec = find("hive:payment/v1", "pay_invoice")
    assert spec.danger({}, DangerFacts(amount_sat=9_999)).total == 4
    assert spec.danger({}, DangerFacts(amount_sat=9_999, spent_24h_sat=9_999)).total == 6
    assert spec.danger({}, DangerFacts(amount_sat=9_999, spent_24h_sat=90_001)).total == 7
    assert spec.danger({}).total == 9, "an unknown amount scores as the worst"
    close = find("hive:channel/v1", "close_cooperative")
    assert close.danger({"destination": "bc1q"}, DangerFacts(amount_sat=100_000)).total == 8
    assert close.danger({}).total == 6
    opening = find("hive:channel/v1", "open")
    assert opening.danger({"amount_sats": 500_000}).total == 5
    assert opening.danger({"amount_sats": 500_000, "push_msat": 1}).total == 7


def test_valid_parameters_get_their_defaults() -> None:
    single = parse_params(find(FEES, "set_single"), {"channel_id": "103x1x0", "fee_ppm": 150})
    assert single == {"channel_id": "103x1x0", "fee_ppm": 150, "enforce_delay_s": 600}
    anchor = parse_params(find(FEES, "set_anchor"), {"channel_id": "a" * 64, "target_fee_ppm": 25})
    assert anchor == {"channel_id": "a" * 64, "target_fee_ppm": 25, "confidence": 0.5, "ttl_hours": 24}
    assert parse_params(find("hive:monitor/v1", "channel_list"), {}) == {"limit": 100}


@pytest.mark.parametrize(
    ("given_form", "read"),
    [
        ("103x1x0", "103x1x0"),
        (str(103 << 40 | 1 << 16), "103x1x0"),
        (103 << 40 | 1 << 16, "103x1x0"),
        ("ab" * 32, "ab" * 32),
        ("ab" * 32 + ":1", "ab" * 32 + ":1"),
    ],
)
def test_a_channel_may_be_named_in_four_forms(given_form: object, read: str) -> None:
    params = parse_params(find(FEES, "clear_anchor"), {"channel_id": given_form})  # type: ignore[dict-item]
    assert params["channel_id"] == read


@pytest.mark.parametrize(
    "channel",
    ["", "1x1", "01x1x1", "16777216x1x1", "1x1x65536", "AB" * 32, True, -1, 0, 2**64, str(2**64), None],
)
def test_anything_else_is_no_channel(channel: object) -> None:
    assert refused(FEES, "clear_anchor", {"channel_id": channel}).data["param"] == "channel_id"


@pytest.mark.parametrize(
    "params",
    [
        {"channel_id": "1x1x1", "fee_ppm": True},
        {"channel_id": "1x1x1", "fee_ppm": -1},
        {"channel_id": "1x1x1", "fee_ppm": 2**64},
        {"channel_id": "1x1x1", "fee_ppm": 50_001},
        {"channel_id": "1x1x1", "fee_ppm": 150.0},
        {"channel_id": "1x1x1", "fee_ppm": "150"},
        {"channel_id": "1x1x1", "fee_ppm": None},
        {"channel_id": "1x1x1", "fee_ppm": 150, "colour": 1},
        {"channel_id": "1x1x1"},
        {"fee_ppm": 150},
        [],
        None,
        "set",
    ],
)
def test_acceptance_02_09_hostile_parameters_are_refused(params: object) -> None:
    assert refused(FEES, "set_single", params).code == -32602


def test_bulk_groups_are_enforced() -> None:
    refused(FEES, "set_bulk", {"channels": ["1x1x1"], "policy": {"fee_ppm": 1, "fee_delta_pct": 1}})
    refused(FEES, "set_bulk", {"channels": ["1x1x1"], "policy": {}})
    refused(FEES, "set_bulk", {"channels": [], "policy": {"fee_ppm": 1}})
    refused(FEES, "set_bulk", {"channels": ["1x1x1"] * 2, "policy": {"fee_ppm": 1}})
    refused(FEES, "set_bulk", {"channels": [f"1x{i}x0" for i in range(201)], "policy": {"fee_ppm": 1}})
    error = refused(FEES, "set_bulk", {"channels": ["1x1x1"], "policy": {"fee_delta_pct": -51}})
    assert error.data["param"] == "policy.fee_delta_pct"


def test_graph_query_needs_exactly_one_filter() -> None:
    key = "02" + "ab" * 32
    assert parse_params(find("hive:monitor/v1", "graph_query"), {"source": key})["source"] == key
    refused("hive:monitor/v1", "graph_query", {})
    refused("hive:monitor/v1", "graph_query", {"source": key, "destination": key})


@pytest.mark.parametrize("reason", ["", "a\x00b", "a\nb", "a\u2028b", "a" * 2_001, "\x9bescape"])
def test_texts_are_short_and_without_control_characters(reason: str) -> None:
    refused(FEES, "set_zero_fee", {"channel_id": "1x1x1", "reason": reason})


def test_a_nonce_is_a_number_or_decimal_text() -> None:
    spec = find(CONTROL, "command_status")
    assert parse_params(spec, {"nonce": str(2**63 - 1)}) == {"nonce": 2**63 - 1}
    for nonce in (0, -1, True, str(2**63), "01", "1.0", ""):
        refused(CONTROL, "command_status", {"nonce": nonce})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
served = st.sampled_from([spec for spec in registry.actions() if spec.served])


@settings(max_examples=200)
@given(served, st.data())
def test_any_json_is_read_or_refused_with_invalid_params(
    spec: registry.ActionSpec, data: st.DataObject
) -> None:
    assert spec.params is not None
    keys = st.sampled_from([param.name for param in spec.params.params] or ["x"]) | st.text()
    raw = data.draw(json_values | st.dictionaries(keys, json_values, max_size=5))
    try:
        parsed = parse_params(spec, raw)
    except InvalidParams as err:
        assert err.reason == "invalid_params"
        return
    again = parse_params(spec, dict(parsed))
    assert again == parsed
    danger = spec.danger(parsed)
    assert all(1 <= part <= 10 for part in danger) and danger.total == max(danger)
    spec.required_tier(parsed)


@settings(max_examples=100)
@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_more_money_is_never_less_dangerous(first: int, more: int) -> None:
    for scale in (registry.lightning_spend, registry.onchain_spend):
        assert scale(first).total <= scale(first + more).total <= scale(None).total
        assert scale(first, more).total == scale(first + more).total


def test_export_lists_every_schema_and_action() -> None:
    doc = registry.export()
    schemas = doc["schemas"]
    assert isinstance(schemas, dict) and doc["count"] == len(registry.SCHEMAS) == len(schemas)
    single = schemas[FEES]["actions"]["set_single"]  # type: ignore[index,call-overload]
    assert single["danger"] == {"r": 2, "f": 2, "t": 2, "b": 2, "d": 1, "total": 2}  # type: ignore[index,call-overload]
    assert single["required_tier"] == "standard"  # type: ignore[index,call-overload]
    assert single["params"]["properties"]["fee_ppm"] == {"type": "integer", "minimum": 0, "maximum": 50_000}  # type: ignore[index,call-overload]
    assert registry.export("hive:htlc/v1")["count"] == 1
    with pytest.raises(HiveError) as caught:
        registry.export("hive:nothing/v1")
    assert caught.value.symbol == "unsupported_schema"


def test_prices_follow_the_danger_table() -> None:
    assert [registry.base_price_sats(danger) for danger in (1, 5, 10)] == [0, 50, 2500]
    from fractions import Fraction

    assert registry.access_price_sats(25, Fraction(3, 2), Fraction(9, 10)) == 34
    registry.check_price_table(registry.BASE_PRICE_SATS)
    with pytest.raises(ValueError, match="danger 3"):
        registry.check_price_table((0, 5, 4, 25, 50, 100, 250, 500, 1000, 2500))


def test_a_danger_vector_is_read_from_the_sheet_notation() -> None:
    assert Danger.of("2/3/3/3/2").total == 3
    for text in ("1/2/3/4", "0/1/1/1/1", "11/1/1/1/1", "a/b/c/d/e"):
        with pytest.raises(ValueError):
            Danger.of(text)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1, "1"), (0, "0"), (True, "true"), (None, "null"), (1.5, "1.5"), ("1", "'1'"), ([1], "a list of 1")],
)
def test_a_refusal_shows_the_value_that_was_given(value: object, shown: str) -> None:
    params = {"from_channel": "1x1x1", "to_channel": "2x1x1", "amount_sats": value, "max_fee_ppm": 5}
    error = refused("hive:rebalance/v1", "circular_rebalance", params)
    assert error.detail.endswith(f"not {shown}"), error.detail
