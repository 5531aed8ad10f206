"""What no policy opens, and limits that must not be limits in name only (08 §5.4, 02 §12, §15.23)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from cl_hive_comms.domain.approval import only_reduces
from cl_hive_comms.domain.policy import ActionRequest, PolicySnapshot, decide
from cl_hive_comms.domain.policy_document import parse_document
from cl_hive_comms.domain.policy_limits import COUNTERS
from cl_hive_comms.domain.policy_rules import Override, parse_rule
from hive_shared.canonical import JsonValue
from hive_shared.credential_scope import check_constraints
from hive_shared.errors import InvalidParams
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

PEER = "02" + "aa" * 32
NOW = 1_770_033_600
OUTPOINT = "ab" * 32 + ":1"


def policy(**overrides: JsonValue) -> PolicySnapshot:
    """As open as a policy gets, with these keys on top."""
    document = parse_document({"policy_version": 1, "preset": "aggressive", "overrides": overrides})
    return PolicySnapshot(
        1, "aggressive", document, override=Override("o", {"max_danger": 10}, NOW - 1, NOW + 1)
    )


def asked(schema: str, action: str, params: dict[str, JsonValue], **changes: Any) -> ActionRequest:
    request = ActionRequest(
        schema=schema,
        action=action,
        params=params,
        danger=2,
        read_only=False,
        advisor_id="a",
        trust=Fraction(2),
        now=NOW,
        counts=dict.fromkeys(COUNTERS, 0),
    )
    return replace(request, **changes)


OPEN: dict[str, JsonValue] = {
    "approvers": ["local", "ab" * 32],
    "allow_private_hosts": True,
    "allowed_config": ["hive-comms-policy-preset", "plugin", "wallet", "fee-base"],
    "approved_plugins": [{"path": "/opt/x.py", "sha256": "ab" * 32}],
    "approval_overrides": {"*": "auto_execute"},
}


@pytest.mark.parametrize(
    ("schema", "action", "params"),
    [
        ("hive:plugin/v1", "start_arbitrary", {"path": "/opt/x.py"}),
        ("hive:plugin/v1", "start_approved", {"plugin_name": "/opt/x.py"}),
        ("hive:plugin/v1", "start_approved", {"plugin_name": "../x.py"}),
        ("hive:plugin/v1", "stop", {"plugin_name": "./x.py"}),
        ("hive:plugin/v1", "configure", {"option": "hive-comms-policy-file", "value": "/x"}),
        ("hive:backup/v1", "restore", {"backup_id": "b", "mode": "emergencyrecover"}),
        ("hive:config/v1", "set_config", {"key": "hive-comms-policy-preset", "value": "aggressive"}),
        ("hive:config/v1", "set_config", {"key": "Plugin", "value": "/opt/x.py"}),
        ("hive:config/v1", "set_config", {"key": "wallet", "value": "sqlite:///x"}),
    ],
)
def test_acceptance_02_23_no_policy_opens_this(
    schema: str, action: str, params: dict[str, JsonValue]
) -> None:
    decision = decide(policy(**OPEN), asked(schema, action, params))
    assert (decision.decision, decision.symbol, decision.rule_ids[0]) == ("deny", "policy_blocked", "floor")


def test_an_allowed_option_and_a_plugin_by_its_name_are_not_caught_by_the_floors() -> None:
    assert decide(policy(**OPEN), asked("hive:config/v1", "set_config", {"key": "fee-base"})).symbol is None
    start = asked("hive:plugin/v1", "start_approved", {"plugin_name": "x.py"})
    assert decide(policy(**OPEN), start).symbol is None


@pytest.mark.parametrize("host", ["127.0.0.1", "169.254.169.254", "::1", "localhost", "2130706433"])
@pytest.mark.parametrize("name", ["host", "address"])
def test_acceptance_02_23_a_private_host_under_either_name(host: str, name: str) -> None:
    connect = asked("hive:peer/v1", "connect", {"peer_id": PEER, "host": "8.8.8.8", name: host})
    assert decide(policy(), connect).rule_ids == ("allow_private_hosts",)
    assert decide(policy(allow_private_hosts=True), connect).symbol is None


def test_a_protected_channel_that_is_only_named_is_protected() -> None:
    # Whatever the executor says it touches: here it says nothing.
    rebalance = asked(
        "hive:rebalance/v1",
        "circular_rebalance",
        {"from_channel": "2x1x0", "to": [{"channel": "1x1x0"}], "amount_sats": 1},
    )
    for name in ("1x1x0", "2x1x0"):
        assert decide(policy(protected_channels=[name]), rebalance).symbol == "protected_channel"
    assert decide(policy(protected_channels=["3x1x0"]), rebalance).symbol is None


def test_a_forbidden_peer_may_be_closed_and_paid_nothing() -> None:
    forbidding = policy(forbidden_peers=[PEER])
    close = asked("hive:channel/v1", "close_cooperative", {"channel_id": "1x1x0", "peer_id": PEER})
    assert decide(forbidding, close).symbol is None
    for schema, action in (
        ("hive:channel/v1", "open"),
        ("hive:channel/v1", "open_batch"),
        ("hive:peer/v1", "connect"),
        ("hive:splice/v1", "splice_in"),
        ("hive:expansion/v1", "propose_channel_open"),
    ):
        params: dict[str, JsonValue] = {"destinations": [{"peer_id": PEER, "amount_sats": 1}]}
        if action != "open_batch":
            params = {"peer_id": PEER}
        assert decide(forbidding, asked(schema, action, params)).symbol == "forbidden_peer", action
    assert (
        decide(forbidding, asked("hive:payment/v1", "keysend", {"destination": PEER})).symbol
        == "forbidden_peer"
    )


@pytest.mark.parametrize(
    "overrides",
    [
        {"blocked_schemas": ["hive:walet/*"]},
        {"blocked_schemas": ["wallet/*"]},
        {"blocked_schemas": ["hive:fee/*"]},
        {"approval_overrides": {"chanel_close_*": "always_confirm"}},
        {"approval_overrides": {"hive_channel_*": "always_confirm"}},
        {"protected_channels": [OUTPOINT]},
    ],
)
def test_a_limit_that_means_nothing_refuses_the_document(overrides: dict[str, JsonValue]) -> None:
    with pytest.raises(InvalidParams, match=next(iter(overrides))):
        parse_document({"policy_version": 1, "overrides": overrides})


@pytest.mark.parametrize(
    "overrides",
    [
        {
            "blocked_schemas": [
                "hive:*",
                "hive:wallet/*",
                "hive:fee-policy/v1",
                "hive:channel/close_*",
                "hive:wallet/withdraw",
            ]
        },
        {"approval_overrides": {"channel_close_*": "always_confirm", "emergency_*": "multi_sig_2_of_3"}},
        {"approval_overrides": {"channel_close_force": "always_confirm"}},
        {"protected_channels": ["1x1x0", "ab" * 32]},
    ],
)
def test_limits_that_mean_something_are_taken(overrides: dict[str, JsonValue]) -> None:
    parse_document({"policy_version": 1, "overrides": overrides})


def test_channels_are_not_compared_by_outpoint_so_no_list_takes_one() -> None:
    with pytest.raises(InvalidParams, match="channels"):
        parse_rule({"match": {"channels": [OUTPOINT]}, "effect": "deny"}, rule_id="r")
    for name in ("allowed_channels", "denied_channels"):
        with pytest.raises(InvalidParams, match=name):
            check_constraints({name: [OUTPOINT]})


@pytest.mark.parametrize(
    ("original", "edited", "fine"),
    [
        ({"amount_sats": 5}, {"amount_sats": 5}, True),
        ({"amount_sats": 5}, {"amount_sats": 0}, True),
        ({"amount_sats": 5}, {"amount_sats": 6}, False),
        ({"amount_sats": 5}, {"amount_sats": -1}, False),
        ({"amount_sats": 5}, {"amount_sats": True}, False),
        ({"amount_sats": 5}, {"amount_sats": 4.0}, False),
        ({"amount_sats": 5}, {}, False),
        ({"amount_sats": 5}, {"amount_sats": 5, "more": 1}, False),
        ({"min_fee_ppm": 5}, {"min_fee_ppm": 4}, False),
        ({"htlc_min_msat": 5}, {"htlc_min_msat": 4}, False),
        ({"reserve_sats": 5}, {"reserve_sats": 4}, False),
        ({"min_fee_ppm": 5}, {"min_fee_ppm": 5}, True),
        ({"minutes": 5}, {"minutes": 4}, True),
        ({"delta": -5}, {"delta": -4}, True),
        ({"delta": -5}, {"delta": -6}, False),
        ({"delta": -5}, {"delta": 1}, False),
        ({"to": "bc1a"}, {"to": "bc1b"}, False),
        ({"to": None}, {"to": "bc1b"}, False),
        ({"force": False}, {"force": True}, False),
        ({"force": True}, {"force": False}, False),
        ({"share": 0.5}, {"share": 0.25}, True),
        ({"list": ["a", "b"]}, {"list": ["b"]}, True),
        ({"list": ["a", "b"]}, {"list": ["b", "a"]}, False),
        ({"list": ["a"]}, {"list": []}, False),
        ({"list": ["a"]}, {"list": ["a", "a"]}, False),
        ({"list": [{"sats": 5}, {"sats": 9}]}, {"list": [{"sats": 7}]}, True),
        ({"list": [{"sats": 5}, {"sats": 9}]}, {"list": [{"sats": 7}, {"sats": 7}]}, False),
        ({"deep": {"a": {"sats": 5}}}, {"deep": {"a": {"sats": 4}}}, True),
        ({"deep": {"a": {"sats": 5}}}, {"deep": {"a": 5}}, False),
        ({"n": 5}, {"n": "5"}, False),
    ],
)
def test_acceptance_02_10_edits_of_every_kind_of_value(original: Any, edited: Any, fine: bool) -> None:
    assert only_reduces(original, edited) is fine


leaves = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=2)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
)


def size(value: Any) -> int:
    """Numbers by magnitude, lists by length: what an edit may shrink."""
    if isinstance(value, dict):
        return sum(size(item) for item in value.values())
    if isinstance(value, list):
        return sum(1 + size(item) for item in value)
    return abs(value) if isinstance(value, int) and not isinstance(value, bool) else 0


@given(values, values)
def test_an_edit_never_makes_more_of_it(original: Any, edited: Any) -> None:
    assert only_reduces(original, original)
    if only_reduces(original, edited):
        assert size(edited) <= size(original)
