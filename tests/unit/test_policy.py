"""Policy decisions: presets, limits, rules, overrides, floors (08 §5.4, 02 §7.3, §7.4)."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cl_hive_comms.domain.approval import Workflow
from cl_hive_comms.domain.policy import (
    ActionRequest,
    ChannelFact,
    PolicySnapshot,
    decide,
    explain,
    locked_snapshot,
)
from cl_hive_comms.domain.policy_document import merged, parse_document, preset_document
from cl_hive_comms.domain.policy_limits import COUNTERS, is_public_host
from cl_hive_comms.domain.policy_rules import Override, parse_rule
from hive_shared.canonical import JsonValue
from msgspec.structs import replace

NOON = int(datetime(2026, 2, 2, 12, tzinfo=UTC).timestamp())
PEER, OTHER_PEER = "02" + "aa" * 32, "03" + "bb" * 32


def channel(number: int = 1, ppm: int = 100, **changes: Any) -> ChannelFact:
    fact = ChannelFact(
        scid=f"{number}x1x0",
        channel_id=f"{number:064x}",
        peer_id=PEER,
        fee_base_msat=1000,
        fee_ppm=ppm,
        htlc_min_msat=1,
        htlc_max_msat=10**9,
        state="CHANNELD_NORMAL",
    )
    return replace(fact, **changes)


def request(danger: int = 3, trust: str = "1", **changes: Any) -> ActionRequest:
    fields: dict[str, Any] = {
        "schema": "hive:fee-policy/v1",
        "action": "set_single",
        "params": {"channel_id": "1x1x0", "fee_ppm": 110},
        "danger": danger,
        "read_only": False,
        "advisor_id": "alice",
        "trust": Fraction(trust),
        "channels": (channel(),),
        "new_fees": {"1x1x0": (None, 110)},
        "now": NOON,
        "counts": dict.fromkeys(COUNTERS, 0),
    }
    return ActionRequest(**{**fields, **changes})


def fees(new: int, *channels: ChannelFact) -> ActionRequest:
    touched = channels or (channel(),)
    return request(channels=touched, new_fees={each.scid: (None, new) for each in touched})


def action(schema: str, name: str, danger: int, **changes: Any) -> ActionRequest:
    fields: dict[str, Any] = {"channels": (), "new_fees": {}, "params": {}, **changes}
    return request(danger, schema=schema, action=name, **fields)


def policy(
    preset: str = "moderate", rules: tuple[dict[str, JsonValue], ...] = (), **overrides: Any
) -> PolicySnapshot:
    return PolicySnapshot(
        1,
        preset,
        merged(preset_document(preset), overrides),
        tuple(parse_rule(rule, rule_id=f"r{index}") for index, rule in enumerate(rules)),
    )


def workflows(snapshot: PolicySnapshot, trust: str) -> dict[int, str]:
    decisions = {danger: decide(snapshot, request(danger, trust)) for danger in range(1, 11)}
    return {d: each.workflow.value if each.symbol is None else "deny" for d, each in decisions.items()}


def bands(auto: int, queue: int, confirm: int) -> dict[int, str]:
    words = ["auto"] * auto + ["queue"] * (queue - auto) + ["confirm"] * (confirm - queue)
    return dict(enumerate(words + ["deny"] * (10 - len(words)), 1))


@pytest.mark.parametrize(
    ("preset", "trust", "expected"),
    [
        ("conservative", "1", bands(3, 4, 4)),
        ("conservative", "2", bands(3, 4, 4)),
        ("moderate", "1", bands(3, 6, 6)),
        ("moderate", "2", bands(5, 6, 6)),
        ("aggressive", "1", bands(3, 6, 8)),
        ("aggressive", "2", bands(6, 6, 8)),
    ],
)
def test_acceptance_08_07_presets_by_danger_and_trust(
    preset: str, trust: str, expected: dict[int, str]
) -> None:
    """conservative 4 waits, 5 denied; aggressive: trust 2 6 auto, 7-8 wait, 9 denied; trust 1 6 waits."""
    assert workflows(policy(preset), trust) == expected


def test_a_novice_needs_more_for_the_same_danger() -> None:
    approvers: list[JsonValue] = ["local", "ab" * 32]
    snapshot = policy("aggressive", approvers=approvers)
    assert decide(snapshot, request(3, "1/2")).workflow is Workflow.QUEUE
    novice = decide(snapshot, request(6, "1/2"))
    assert (novice.decision, novice.workflow, novice.approvals_needed) == ("multi", Workflow.MULTISIG, 2)
    assert decide(policy("aggressive"), request(6, "1/2")).symbol == "multisig_not_configured"


def test_waiting_has_the_deadlines_of_the_options() -> None:
    snapshot = replace(policy("aggressive"), confirm_hours_low=12, confirm_hours_high=2)
    assert decide(snapshot, request(5)).expires_in == 12 * 3600
    assert decide(snapshot, request(7)).expires_in == 2 * 3600
    assert decide(policy(), request(5)).approvals_needed == 1


def test_an_unknown_action_and_a_broken_policy_are_denied() -> None:
    assert decide(policy(), action("hive:fee-policy/v1", "fly", 1)).symbol == "policy_blocked"
    broken = Override("o", {"max_danger": "lots"}, 0, NOON + 60)
    failed = decide(replace(policy(), override=broken), request())
    assert (failed.decision, failed.rule_ids) == ("deny", ("error",))


def test_a_policy_that_could_not_be_read_leaves_monitor_open() -> None:
    snapshot = locked_snapshot("bad file")
    assert decide(snapshot, request()).rule_ids == ("locked",)
    assert decide(snapshot, action("hive:monitor/v1", "earnings", 1, read_only=True)).decision == "allow"
    assert decide(snapshot, action("hive:wallet/v1", "list_funds", 1, read_only=True)).decision == "deny"


# ---------------------------------------------------------------------------------------------- fees


def test_acceptance_08_06_fee_change_is_held_to_the_percentage() -> None:
    assert decide(policy(), fees(130)).decision == "allow"
    denied = decide(policy(), fees(131))
    assert (denied.symbol, denied.rule_ids) == ("policy_blocked", ("max_fee_change_per_24h_pct",))
    assert decide(policy(), fees(70)).decision == "allow"
    assert decide(policy(), fees(69)).decision == "deny"


def test_acceptance_08_06_ten_small_steps_stop_at_the_cap() -> None:
    ppm, steps = 100, 0
    while decide(policy(), fees(ppm * 11 // 10, channel(ppm=ppm, ppm_24h_ago=100))).decision == "allow":
        ppm, steps = ppm * 11 // 10, steps + 1
    assert (ppm, steps) == (121, 2)


def test_acceptance_08_06_one_protected_channel_stops_everything() -> None:
    channels = (channel(1), channel(2), channel(3))
    for name in ("2x1x0", f"{2:064x}"):
        decision = decide(policy(protected_channels=[name]), fees(110, *channels))
        assert decision.symbol == "protected_channel"
        assert "2x1x0" in decision.reasons[0]


def test_bulk_one_violating_channel_rejects_all() -> None:
    assert decide(policy(), fees(110, channel(1), channel(2))).decision == "allow"
    mixed = decide(policy(), fees(110, channel(1), channel(2, ppm=50)))
    assert mixed.decision == "deny"
    assert "2x1x0" in mixed.reasons[0]


def test_a_fee_without_a_known_present_value_is_denied() -> None:
    assert decide(policy(), request(channels=(), new_fees={"9x9x9": (None, 10)})).decision == "deny"


def test_fee_bounds_of_the_document() -> None:
    snapshot = policy(min_fee_ppm=90, max_fee_ppm=120)
    assert decide(snapshot, fees(120)).decision == "allow"
    assert decide(snapshot, fees(121)).rule_ids == ("max_fee_ppm",)
    assert decide(snapshot, fees(89)).rule_ids == ("min_fee_ppm",)


# --------------------------------------------------------------------------------------- quiet hours


def at(text: str, zone: str = "Europe/Berlin") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


BERLIN: dict[str, Any] = {
    "quiet_hours": {"start": "23:00", "end": "07:00", "timezone": "Europe/Berlin"},
    "quiet_hour_max_danger": 2,
}


@pytest.mark.parametrize(
    ("when", "quiet"),
    [
        ("2026-01-15T22:59:59", False),
        ("2026-01-15T23:00:00", True),
        ("2026-01-16T00:00:00", True),
        ("2026-01-16T06:59:59", True),
        ("2026-01-16T07:00:00", False),
        # The night the clock goes forward has one hour less, the one it goes back one more.
        ("2026-03-29T01:59:59", True),
        ("2026-03-29T03:00:00", True),
        ("2026-03-29T06:59:00", True),
        ("2026-03-29T07:00:00", False),
        ("2026-10-25T02:30:00", True),
        ("2026-10-25T06:59:00", True),
        ("2026-10-25T07:00:00", False),
    ],
)
def test_acceptance_02_20_quiet_hours_over_midnight_and_dst(when: str, quiet: bool) -> None:
    decision = decide(policy(time_restrictions=BERLIN), request(3, now=at(when)))
    assert (decision.symbol == "quiet_hours") is quiet


@pytest.mark.parametrize(
    ("utc", "start", "quiet"),
    [
        # In Beirut the clock goes from 24:00 to 01:00 on 29 March 2026, and from 24:00 back to 23:00 on
        # 25 October: local midnight is left out once and comes twice once.
        ("2026-03-28T20:59:59", "23:00", False),
        ("2026-03-28T21:00:00", "23:00", True),
        ("2026-03-28T21:59:59", "23:00", True),
        ("2026-03-28T22:00:00", "23:00", True),
        ("2026-03-29T03:59:59", "23:00", True),
        ("2026-03-29T04:00:00", "23:00", False),
        ("2026-03-28T21:59:59", "00:30", False),
        ("2026-03-28T22:00:00", "00:30", True),
        ("2026-10-24T19:59:59", "23:00", False),
        ("2026-10-24T20:30:00", "23:00", True),
        ("2026-10-24T21:30:00", "23:00", True),
        ("2026-10-25T04:59:59", "23:00", True),
        ("2026-10-25T05:00:00", "23:00", False),
    ],
)
def test_acceptance_08_07_quiet_hours_over_a_midnight_that_the_clock_skips_or_repeats(
    utc: str, start: str, quiet: bool
) -> None:
    hours = {"start": start, "end": "07:00", "timezone": "Asia/Beirut"}
    snapshot = policy(time_restrictions={"quiet_hours": hours, "quiet_hour_max_danger": 2})
    decision = decide(snapshot, request(3, now=at(utc, "UTC")))
    assert (decision.symbol == "quiet_hours") is quiet


def test_quiet_hours_follow_the_wall_clock_not_utc() -> None:
    """23:30 in Berlin is 22:30 UTC in winter and 21:30 UTC in summer."""
    snapshot = policy(time_restrictions=BERLIN)
    for text in ("2026-01-15T22:30:00+00:00", "2026-07-15T21:30:00+00:00"):
        now = int(datetime.fromisoformat(text).timestamp())
        assert decide(snapshot, request(3, now=now)).symbol == "quiet_hours"
    summer = int(datetime.fromisoformat("2026-07-15T20:59:00+00:00").timestamp())
    assert decide(snapshot, request(3, now=summer)).decision == "allow"


def test_what_quiet_hours_let_through() -> None:
    night = int(datetime(2026, 2, 2, 3, tzinfo=UTC).timestamp())
    snapshot = policy("conservative")
    assert decide(snapshot, request(3, now=night)).symbol == "quiet_hours"
    assert decide(snapshot, request(2, now=night)).decision == "allow"
    read = action("hive:monitor/v1", "log_stream", 2, read_only=True, now=night)
    assert decide(snapshot, read).decision == "allow"
    stop = action("hive:emergency/v1", "disable_forwarding", 6, now=night)
    assert "quiet_hours" not in decide(snapshot, stop).rule_ids
    spike = action("hive:emergency/v1", "fee_spike", 5, now=night)
    assert "quiet_hours" in decide(snapshot, spike).rule_ids


def test_the_quiet_hours_of_a_preset_can_be_taken_away() -> None:
    night = int(datetime(2026, 2, 2, 3, tzinfo=UTC).timestamp())
    snapshot = policy("conservative", time_restrictions={"quiet_hours": None})
    assert decide(snapshot, request(3, now=night)).decision == "allow"


# --------------------------------------------------------------------------------- rules, overrides


def test_rules_tighten() -> None:
    deny = policy(rules=({"match": {"advisor": "alice", "danger_gte": 3}, "effect": "deny", "note": "no"},))
    assert decide(deny, request(3)).rule_ids == ("r0",)
    assert decide(deny, request(2)).decision == "allow"
    assert decide(deny, request(3, advisor_id="bob")).decision == "allow"
    ask = policy(rules=({"match": {"action": "set_*"}, "effect": "confirm"},))
    assert decide(ask, request(2)).workflow is Workflow.QUEUE
    several = policy(rules=({"match": {}, "effect": "multi"},), approvers=["local", "ab" * 32, "cd" * 32])
    assert decide(several, request(2)).approvals_needed == 2


def test_rules_match_channels_peers_amounts_and_time() -> None:
    def denied(match: dict[str, JsonValue], **changes: Any) -> bool:
        return (
            decide(policy(rules=({"match": match, "effect": "deny"},)), request(**changes)).decision == "deny"
        )

    assert denied({"channels": ["1x1x0"]}) and denied({"channels": [f"{1:064x}"]})
    assert not denied({"channels": ["7x1x0"]})
    assert denied({"peers": [PEER]}) and not denied({"peers": [OTHER_PEER]})
    assert denied({"amount_gte_sats": 5}, amount_sat=5) and not denied({"amount_gte_sats": 5}, amount_sat=4)
    assert denied({"days": ["mon"]}) and not denied({"days": ["tue", "sun"]})
    assert denied({"hours": "11:00-13:00"}) and denied({"hours": "22:00-12:01"})
    assert not denied({"hours": "12:01-12:00"}) and not denied({"hours": "13:00-11:00"})
    assert denied({"danger_lte": 3}) and not denied({"danger_lte": 2})
    assert denied({"schema": "hive:fee-*"}) and not denied({"schema": "hive:wallet/*"})


def test_caps_hold_parameters_nested_ones_and_computed_fees() -> None:
    cap = policy(rules=({"match": {}, "effect": "cap", "cap": {"field": "fee_ppm", "max": 105}},))
    assert decide(cap, request()).rule_ids == ("r0",)
    nested = request(params={"channels": ["1x1x0"], "policy": {"fee_ppm": 106}}, new_fees={})
    assert decide(cap, nested).decision == "deny"
    by_delta = request(params={"policy": {"fee_delta_pct": 6}}, new_fees={"1x1x0": (None, 106)})
    assert decide(cap, by_delta).decision == "deny"
    assert decide(cap, request(params={"fee_ppm": 105}, new_fees={"1x1x0": (None, 105)})).decision == "allow"


def test_sibling_rules_count_like_own_ones() -> None:
    rule = parse_rule({"match": {}, "effect": "deny"}, rule_id="hive:1", source="hive")
    assert decide(replace(policy(), sibling_rules=(rule,)), request(1)).rule_ids == ("hive:1",)


def test_a_timed_override_loosens_the_preset_while_it_lasts() -> None:
    override = Override("o", {"max_fee_change_per_24h_pct": 60, "max_danger": 8}, NOON, NOON + 3600)
    snapshot = replace(policy(), override=override)
    assert decide(snapshot, fees(160)).decision == "allow"
    assert decide(snapshot, request(7)).workflow is Workflow.CONFIRM
    for now in (NOON - 1, NOON + 3600, NOON + 10**7):
        assert decide(snapshot, replace(fees(160), now=now)).decision == "deny", "expired by the wall clock"


def test_a_timed_override_changes_nested_keys_one_by_one() -> None:
    override = Override("o", {"rate_limits": {"fee_changes_per_hour": 99}}, 0, NOON + 60)
    snapshot = replace(policy(rate_limits={"total_actions_per_day": 3}), override=override)
    settings = snapshot.settings(NOON)
    assert settings.rate_limits.fee_changes_per_hour == 99
    assert settings.rate_limits.total_actions_per_day == 3


def test_acceptance_02_10_danger_9_needs_a_timed_raise_and_two_approvers() -> None:
    approvers = ["ab" * 32, "cd" * 32, "local"]
    raised = Override("o", {"max_danger": 10}, 0, NOON + 60)
    fixed = policy("aggressive", approvers=approvers, max_danger=10)
    assert decide(fixed, request(9)).rule_ids == ("floor",), "a raise in the document is not a timed one"
    granted = decide(replace(fixed, override=raised), request(9))
    assert (granted.decision, granted.approvals_needed, granted.expires_in) == ("multi", 2, 7 * 86400)
    alone = policy("aggressive", approvers=["local"])
    assert decide(replace(alone, override=raised), request(9)).symbol == "multisig_not_configured"
    auto = policy("aggressive", approvers=approvers, approval_overrides={"*": "auto_execute"})
    assert decide(replace(auto, override=raised), request(9)).workflow is Workflow.MULTISIG
    assert decide(replace(auto, override=raised), request(10)).workflow is Workflow.MULTISIG


def test_approval_overrides_loosen_only_up_to_danger_6() -> None:
    auto = policy("aggressive", approval_overrides={"fee_policy_*": "auto_execute"})
    assert {d: w for d, w in workflows(auto, "1").items() if d <= 8} == {
        **dict.fromkeys(range(1, 7), "auto"),
        7: "confirm",
        8: "confirm",
    }
    assert decide(auto, action("hive:forwarding/v1", "disable_all", 6)).workflow is Workflow.QUEUE


def test_a_strict_override_silences_a_loose_one() -> None:
    both = policy(
        approval_overrides={"fee_policy_*": "auto_execute", "fee_policy_set_single": "always_confirm"}
    )
    assert decide(both, request(2)).workflow is Workflow.QUEUE


def test_an_override_may_name_the_number_of_signatures() -> None:
    snapshot = policy(
        approvers=["ab" * 32, "cd" * 32, "ef" * 32],
        approval_overrides={"fee_policy_*": "multi_sig_3_of_3"},
    )
    decision = decide(snapshot, request(2))
    assert (decision.decision, decision.approvals_needed) == ("multi", 3)
    assert decide(policy(approval_overrides={"fee_policy_*": "multi_sig_2_of_3"}), request(2)).symbol == (
        "multisig_not_configured"
    )


def test_an_override_also_meets_what_a_command_amounts_to() -> None:
    snapshot = policy(approval_overrides={"fee_policy_set_zero_fee": "always_confirm"})
    assert decide(snapshot, request(2)).decision == "allow"
    assert decide(snapshot, request(2, also_actions=("set_zero_fee",))).decision == "confirm"


def test_required_confirmations() -> None:
    snapshot = policy(
        "aggressive",
        required_confirmation={"danger_gte": 2, "channel_close": "always", "onchain_send_gte_sats": 1000},
    )
    assert decide(snapshot, request(2)).rule_ids == ("required_confirmation.danger_gte",)
    close = action("hive:channel/v1", "close_cooperative", 1)
    assert "required_confirmation.channel_close" in decide(snapshot, close).rule_ids
    send = action("hive:wallet/v1", "send_onchain", 1, amount_sat=1000)
    assert "required_confirmation.onchain_send_gte_sats" in decide(snapshot, send).rule_ids


# --------------------------------------------------------------------------------------------- floors


@pytest.mark.parametrize(
    ("schema", "name"), [("hive:plugin/v1", "start_arbitrary"), ("hive:backup/v1", "restore")]
)
def test_acceptance_02_23_what_is_never_run_remotely(schema: str, name: str) -> None:
    approvers = ["ab" * 32, "cd" * 32]
    raised = Override("o", {"max_danger": 10}, 0, NOON + 60)
    snapshot = replace(policy("aggressive", approvers=approvers), override=raised)
    assert "floor" in decide(snapshot, action(schema, name, 9)).rule_ids


def test_expansion_proposals_always_wait() -> None:
    auto = policy("aggressive", approval_overrides={"*": "auto_execute"})
    proposal = action("hive:expansion/v1", "propose_channel_open", 3, trust=Fraction(2))
    assert decide(auto, proposal).workflow is Workflow.QUEUE


@pytest.mark.parametrize(
    ("preset", "forbidden", "free"),
    [
        (
            "conservative",
            ["channel/close_cooperative", "wallet/send_onchain", "plugin/start_approved"],
            ["peer/ban"],
        ),
        (
            "moderate",
            ["channel/close_unilateral", "wallet/sweep", "emergency/force_close"],
            ["channel/close_cooperative"],
        ),
        ("aggressive", ["wallet/sweep", "emergency/force_close_all"], ["channel/close_unilateral"]),
    ],
)
def test_presets_forbid_whole_actions(preset: str, forbidden: list[str], free: list[str]) -> None:
    for text in forbidden + free:
        category, name = text.split("/")
        decision = decide(policy(preset), action(f"hive:{category}/v1", name, 1))
        assert (f"preset:{preset}" in decision.rule_ids) is (text in forbidden), text


# --------------------------------------------------------------------------------------- other limits


def test_blocked_schemas_stop_reads_too() -> None:
    snapshot = policy(blocked_schemas=["hive:monitor/log_*", "hive:wallet/*"])
    log = action("hive:monitor/v1", "log_stream", 2, read_only=True)
    assert decide(snapshot, log).rule_ids == ("blocked_schemas",)
    assert decide(snapshot, action("hive:wallet/v1", "list_funds", 1, read_only=True)).decision == "deny"
    assert decide(snapshot, action("hive:monitor/v1", "earnings", 1, read_only=True)).decision == "allow"


def test_forbidden_peers_cover_opens_and_connects_not_fees() -> None:
    snapshot = policy(forbidden_peers=[PEER])
    assert decide(snapshot, request()).decision == "allow"
    for schema, name in (("hive:peer/v1", "connect"), ("hive:channel/v1", "open")):
        assert decide(snapshot, action(schema, name, 2, params={"peer_id": PEER})).symbol == "forbidden_peer"
        assert decide(snapshot, action(schema, name, 2, params={"peer_id": OTHER_PEER})).symbol is None
    batch = action("hive:channel/v1", "open_batch", 2, params={"destinations": [{"peer_id": PEER}]})
    assert decide(snapshot, batch).symbol == "forbidden_peer"
    splice = action("hive:splice/v1", "splice_in", 2, channels=(channel(),))
    assert decide(snapshot, splice).symbol == "forbidden_peer"


def test_pushes_and_sizes_of_opens() -> None:
    pushing = action("hive:channel/v1", "open", 2, params={"amount_sats": 50_000, "push_msat": 1})
    assert decide(policy(), pushing).rule_ids == ("allow_push",)
    assert decide(policy(allow_push=True), pushing).symbol is None
    assert decide(policy(max_channel_open_sats=49_999, allow_push=True), pushing).symbol == "policy_blocked"


def test_rebalance_limits() -> None:
    asked = action(
        "hive:rebalance/v1", "circular_rebalance", 3, params={"amount_sats": 500_001, "max_fee_ppm": 501}
    )
    assert decide(policy(), asked).rule_ids == ("max_rebalance_sats", "max_rebalance_fee_ppm")
    assert decide(policy("aggressive", max_rebalance_fee_ppm=501), asked).symbol is None


@pytest.mark.parametrize(
    ("host", "public"),
    [
        ("8.8.8.8", True),
        ("node.example.com", False),
        ("a" * 56 + ".onion", True),
        ("abcdefghij.onion", False),
        ("127.0.0.1.nip.io", False),
        ("2a01:4f8::1", True),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("10.0.0.1", False),
        ("192.168.1.1", False),
        ("::1", False),
        ("[::1]", False),
        ("fe80::1%eth0", False),
        ("::127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("2002:808:808::", True),
        ("2001:0:7f00:1::", False),
        ("::ffff:8.8.8.8", True),
        ("fec0::1", False),
        ("::ffff:127.0.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("localhost", False),
        ("LOCALHOST.", False),
        ("db.internal", False),
        ("127.1", False),
        ("2130706433", False),
        ("0x7f000001", False),
        ("", False),
    ],
)
def test_acceptance_02_23_private_hosts(host: str, public: bool) -> None:
    assert is_public_host(host) is public
    asked = action("hive:peer/v1", "connect", 2, params={"peer_id": PEER, "host": host})
    assert ("allow_private_hosts" in decide(policy(), asked).rule_ids) is (not public)
    assert decide(policy(allow_private_hosts=True), asked).symbol is None


def test_config_and_plugins_are_allow_lists() -> None:
    asked = action("hive:config/v1", "set_config", 2, params={"key": "min-capacity-sat", "value": 1})
    assert decide(policy(), asked).rule_ids == ("allowed_config",)
    assert decide(policy(allowed_config=["min-capacity-sat"]), asked).symbol is None
    start = action("hive:plugin/v1", "start_approved", 2, params={"plugin_name": "clboss"})
    assert decide(policy(), start).rule_ids == ("approved_plugins",)
    listed = [{"path": "/opt/clboss", "sha256": "ab" * 32}]
    assert decide(policy(approved_plugins=listed), start).symbol is None
    stop = action("hive:plugin/v1", "stop", 2, params={"plugin_name": "bcli"})
    assert decide(policy(protected_plugins=["bcli"]), stop).rule_ids == ("protected_plugins",)


def test_rate_limits_count_what_was_used() -> None:
    def asked(**used: int) -> ActionRequest:
        return request(counts={**dict.fromkeys(COUNTERS, 0), **used})

    assert decide(policy(), asked(fee_changes=9)).decision == "allow"
    assert decide(policy(), asked(fee_changes=10)).symbol == "rate_limited"
    assert decide(policy(), asked(total_actions=100)).symbol == "daily_cap"
    assert decide(policy(), asked(rebalances=1000)).decision == "allow"


def test_uses_that_nobody_counted_are_no_free_uses() -> None:
    blind = decide(policy(), request(counts={"fee_changes": 0}))
    assert blind.decision == "deny" and blind.rule_ids == ("rate_limits.total_actions",)


def test_several_denials_are_all_told_and_the_protection_comes_first() -> None:
    snapshot = policy(protected_channels=["1x1x0"], max_fee_ppm=50)
    decision = decide(snapshot, request(9))
    assert decision.symbol == "protected_channel"
    assert {"max_danger", "protected_channels", "max_fee_ppm"} <= set(decision.rule_ids)
    error = decision.error()
    assert (error.code, error.symbol, error.data["rule"]) == (4004, "protected_channel", "protected_channels")


def test_explain_lists_hits_and_conflicts() -> None:
    snapshot = policy(
        rules=(
            {"match": {"action": "set_*"}, "effect": "confirm"},
            {"match": {"action": "set_*"}, "effect": "deny"},
            {"match": {"action": "open"}, "effect": "deny"},
        )
    )
    told = explain(snapshot, request())
    assert [rule.id for rule in told.hits] == ["r0", "r1"]
    assert [(each.kind, each.rule_ids) for each in told.conflicts] == [("contradictory", ("r0", "r1"))]
    assert told.decision.decision == "deny"


def test_a_document_from_a_file_decides_like_one_that_was_built() -> None:
    document = parse_document(
        {"policy_version": 1, "preset": "moderate", "overrides": {"protected_channels": ["1x1x0"]}}
    )
    assert decide(PolicySnapshot(3, "moderate", document), request()).symbol == "protected_channel"


def test_the_settings_of_a_timed_override_are_read_once() -> None:
    document = preset_document("moderate")
    snapshot = PolicySnapshot(1, "moderate", document, override=Override("o", {"max_danger": 7}, 10, 20))
    assert snapshot.settings(9) is snapshot.settings(20) is document.settings
    assert snapshot.settings(10).max_danger == 7 and snapshot.settings(19) is snapshot.settings(10)
    # Another policy is another snapshot, with settings of its own.
    changed = replace(snapshot, document=preset_document("aggressive"))
    assert changed.settings(10).require_confirmation_above == 7
    ended = replace(snapshot, override=None)
    assert ended.settings(10) is document.settings
