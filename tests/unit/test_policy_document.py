"""Policy documents and rules: strict reading, presets, durations, what counts as looser (08 §5.4)."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import pytest
from cl_hive_comms.domain.policy_document import (
    KEYS,
    canonical_text,
    merged,
    parse_document,
    parse_duration,
    preset_document,
    with_overrides,
)
from cl_hive_comms.domain.policy_rules import Override, conflicts, parse_rule
from cl_hive_comms.domain.policy_settings import PRESETS, Settings, apply, loosened
from hive_shared.canonical import JsonValue, decode
from hive_shared.errors import InvalidParams

PEER = "02" + "aa" * 32


def document(**overrides: Any) -> dict[str, JsonValue]:
    return {"policy_version": 1, "preset": "moderate", "overrides": overrides}


def settings(**overrides: Any) -> Settings:
    return parse_document(document(**overrides)).settings


def test_presets_are_exactly_the_table() -> None:
    table = {
        name: (
            each.require_confirmation_above,
            each.max_danger,
            each.max_fee_change_per_24h_pct,
            each.max_rebalance_sats,
            each.quiet_hours and each.quiet_hours.to_doc(),
        )
        for name, each in PRESETS.items()
    }
    assert table == {
        "conservative": (3, 4, 15, 100_000, {"start": "23:00", "end": "07:00", "timezone": "UTC"}),
        "moderate": (5, 6, 30, 500_000, None),
        "aggressive": (7, 8, 50, 2_000_000, None),
    }
    for each in PRESETS.values():
        assert (each.max_rebalance_fee_ppm, each.quiet_hour_max_danger) == (500, 2)
        limits = each.rate_limits
        assert (limits.fee_changes_per_hour, limits.rebalances_per_day, limits.total_actions_per_day) == (
            10,
            20,
            100,
        )
        assert not (each.allow_push or each.allow_private_hosts)


def test_a_document_reads_back_as_it_was_written() -> None:
    overrides = {
        "max_danger": 7,
        "forbidden_peers": [PEER],
        "protected_channels": ["1x2x3"],
        "required_confirmation": {"danger_gte": 5},
        "time_restrictions": {"quiet_hours": {"start": "23:00", "end": "07:00", "timezone": "Europe/Berlin"}},
        "approved_plugins": [{"path": "/opt/x", "sha256": "ab" * 32}],
        "approval_overrides": {"channel_close_*": "multi_sig_2_of_3"},
    }
    read = parse_document(document(**overrides))
    assert read.to_doc() == document(**overrides)
    assert parse_document(decode(canonical_text(read))) == read
    assert read.settings.max_danger == 7
    assert read.settings.forbidden_peers == frozenset({PEER})
    assert read.settings.required_confirmation.danger_gte == 5
    assert str(read.settings.zone) == "Europe/Berlin"
    assert dict(read.settings.approved_plugins) == {"/opt/x": "ab" * 32}


@pytest.mark.parametrize("key", ["max_dange", "quiet_hours", "Max_danger", ""])
def test_an_unknown_key_refuses_the_whole_document_by_its_name(key: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        parse_document(document(max_fee_ppm=100, **{key: 1}))
    assert repr(key) in str(caught.value)


def test_a_key_outside_overrides_is_told_where_it_belongs() -> None:
    with pytest.raises(InvalidParams, match="'max_danger': put it under overrides"):
        parse_document({"policy_version": 1, "max_danger": 3})
    with pytest.raises(InvalidParams, match="'colour'"):
        parse_document({"policy_version": 1, "colour": 3})
    with pytest.raises(InvalidParams, match="burst"):
        parse_document(document(rate_limits={"burst": 3}))


@pytest.mark.parametrize(
    "doc",
    [
        None,
        [],
        {},
        {"policy_version": 2},
        {"policy_version": True},
        {"policy_version": "1"},
        {"policy_version": 1, "preset": "brave"},
        {"policy_version": 1, "preset": 1},
        {"policy_version": 1, "overrides": []},
        document(max_danger=0),
        document(max_danger=11),
        document(max_danger=True),
        document(max_danger="5"),
        document(max_danger=5.0),
        document(max_fee_change_per_24h_pct=-1),
        document(min_fee_ppm=200, max_fee_ppm=100),
        document(forbidden_peers=["02"]),
        document(forbidden_peers=[PEER, PEER]),
        document(protected_channels=["nonsense"]),
        document(approvers=["alice"]),
        document(approvers=["ab" * 32] * 2),
        document(approved_plugins=[{"path": "relative", "sha256": "ab" * 32}]),
        document(approved_plugins=[{"path": "/x"}]),
        document(required_confirmation={"channel_close": "never"}),
        document(time_restrictions={"quiet_hours": {"start": "24:00", "end": "07:00", "timezone": "UTC"}}),
        document(
            time_restrictions={"quiet_hours": {"start": "23:00", "end": "07:00", "timezone": "Mars/Base"}}
        ),
        document(
            time_restrictions={"quiet_hours": {"start": "23:00", "end": "07:00", "timezone": "../etc/passwd"}}
        ),
        document(time_restrictions={"quiet_hours": {"start": 23, "end": 7, "timezone": "UTC"}}),
        document(time_restrictions={"quiet_hours": {"start": "23:00", "end": "07:00"}}),
        document(approval_overrides={"channel_close_*": "sometimes"}),
        document(approval_overrides={"Channel/Close": "always_confirm"}),
        document(approval_overrides={"x": "multi_sig_1_of_3"}),
        document(approval_overrides={"x": "multi_sig_4_of_3"}),
        document(approval_overrides={"x": "multi_sig_2_of_33"}),
        document(allow_push=1),
        document(rate_limits={"fee_changes_per_hour": -1}),
    ],
)
def test_documents_that_break_a_rule_are_refused(doc: JsonValue) -> None:
    with pytest.raises(InvalidParams):
        parse_document(doc)


def test_every_key_of_the_sheet_is_known() -> None:
    sheet = (
        "max_danger require_confirmation_above max_fee_change_per_24h_pct min_fee_ppm max_fee_ppm"
        " max_rebalance_sats max_rebalance_fee_ppm max_channel_open_sats forbidden_peers protected_channels"
        " blocked_schemas allowed_config approved_plugins approvers allow_push allow_private_hosts"
        " max_feerate_perkw protected_plugins daily_budget_sats required_confirmation rate_limits"
        " time_restrictions approval_overrides"
    )
    assert set(KEYS) == set(sheet.split())


def test_single_keys_change_and_go_back_to_the_preset() -> None:
    changed = merged(preset_document("moderate"), {"max_danger": 5, "max_fee_ppm": 900})
    assert (changed.settings.max_danger, changed.settings.max_fee_ppm) == (5, 900)
    back = merged(changed, {"max_danger": None})
    assert (back.settings.max_danger, dict(back.overrides)) == (6, {"max_fee_ppm": 900})
    assert with_overrides(changed, {}).settings == PRESETS["moderate"]
    with pytest.raises(InvalidParams):
        merged(changed, {"nonsense": None, "max_danger": 0})


def test_scids_are_stored_in_one_form() -> None:
    assert settings(protected_channels=[str(103 << 40 | 1 << 16)]).protected_channels == {"103x1x0"}


@pytest.mark.parametrize(("text", "seconds"), [("1m", 60), ("90m", 5400), ("2h", 7200), ("7d", 604_800)])
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0m", "8d", "169h", "1w", "1.5h", "-1h", "h", "1 h", "1h30m", "１h"])
def test_durations_that_are_none_or_too_long(text: str) -> None:
    with pytest.raises(InvalidParams, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("before", "after", "keys"),
    [
        ({}, {"max_danger": 7}, ("max_danger",)),
        ({}, {"max_danger": 5}, ()),
        ({"max_fee_ppm": 100}, {}, ("max_fee_ppm",)),
        ({}, {"max_fee_ppm": 100}, ()),
        ({"min_fee_ppm": 10}, {}, ("min_fee_ppm",)),
        ({"forbidden_peers": [PEER]}, {}, ("forbidden_peers",)),
        ({}, {"forbidden_peers": [PEER]}, ()),
        ({}, {"allowed_config": ["x"]}, ("allowed_config",)),
        ({}, {"approvers": ["local"]}, ("approvers",)),
        ({}, {"allow_push": True}, ("allow_push",)),
        ({}, {"approval_overrides": {"channel_*": "auto_execute"}}, ("approval_overrides",)),
        ({}, {"approval_overrides": {"channel_*": "always_confirm"}}, ()),
        ({"approval_overrides": {"channel_*": "always_confirm"}}, {}, ("approval_overrides",)),
        (
            {"approval_overrides": {"channel_*": "multi_sig_3_of_4"}},
            {"approval_overrides": {"channel_*": "multi_sig_2_of_4"}},
            ("approval_overrides",),
        ),
        ({"required_confirmation": {"channel_close": "always"}}, {}, ("required_confirmation",)),
        (
            {"required_confirmation": {"danger_gte": 3}},
            {"required_confirmation": {"danger_gte": 4}},
            ("required_confirmation",),
        ),
        ({}, {"rate_limits": {"fee_changes_per_hour": 11}}, ("rate_limits",)),
        ({"blocked_schemas": ["hive:wallet/*"]}, {}, ("blocked_schemas",)),
        ({}, {"approved_plugins": [{"path": "/x", "sha256": "ab" * 32}]}, ("approved_plugins",)),
        ({"time_restrictions": {"quiet_hour_max_danger": 1}}, {}, ("quiet_hour_max_danger",)),
    ],
)
def test_loosening_is_told_key_by_key(
    before: dict[str, Any], after: dict[str, Any], keys: tuple[str, ...]
) -> None:
    assert loosened(settings(**before), settings(**after)) == keys


def test_dropping_quiet_hours_is_looser_and_a_stricter_preset_is_not() -> None:
    assert "quiet_hours" in loosened(PRESETS["conservative"], PRESETS["moderate"])
    assert loosened(PRESETS["moderate"], PRESETS["conservative"]) == ()
    assert loosened(PRESETS["moderate"], PRESETS["moderate"]) == ()
    assert PRESETS["moderate"].zone is UTC


def test_an_override_is_active_by_the_clock_alone() -> None:
    override = Override("o", {"max_danger": 10}, 100, 200)
    assert [override.active(now) for now in (99, 100, 199, 200)] == [False, True, True, False]
    assert override.raises_danger_to(9) and override.raises_danger_to(10)
    assert not Override("o", {"max_danger": 9}, 0, 1).raises_danger_to(10)
    assert not Override("o", {}, 0, 1).raises_danger_to(9)
    assert override.apply_to(PRESETS["moderate"]) == apply(PRESETS["moderate"], {"max_danger": 10})


# ----------------------------------------------------------------------------------------------- rules


def test_rules_read_back_as_they_were_written() -> None:
    doc: dict[str, JsonValue] = {
        "id": "night",
        "match": {
            "schema": "hive:fee-*",
            "action": "set_*",
            "advisor": "a1",
            "danger_gte": 2,
            "danger_lte": 5,
            "amount_gte_sats": 7,
            "channels": ["1x1x1"],
            "peers": [PEER],
            "days": ["mon", "sun"],
            "hours": "23:00-07:30",
        },
        "effect": "cap",
        "cap": {"field": "fee_ppm", "max": 900},
        "note": "why",
    }
    assert parse_rule(doc).to_doc() == doc


@pytest.mark.parametrize(
    "doc",
    [
        {"effect": "deny"},
        {"match": {}, "effect": "allow"},
        {"match": {}, "effect": "cap"},
        {"match": {}, "effect": "deny", "cap": {"field": "x", "max": 1}},
        {"match": {"colour": 1}, "effect": "deny"},
        {"match": {"hours": "25:00-01:00"}, "effect": "deny"},
        {"match": {"days": ["monday"]}, "effect": "deny"},
        {"match": {"danger_gte": True}, "effect": "deny"},
        {"match": {}, "effect": "deny", "id": "a b"},
        [],
    ],
)
def test_rules_that_break_a_rule_are_refused(doc: JsonValue) -> None:
    with pytest.raises(InvalidParams):
        parse_rule(doc, rule_id="r")


def test_a_rule_needs_an_id_from_somewhere() -> None:
    with pytest.raises(InvalidParams, match=r"rule\.id"):
        parse_rule({"match": {}, "effect": "deny"})


@pytest.mark.parametrize(
    ("rules", "kinds"),
    [
        ([({}, "deny"), ({"action": "set_single"}, "confirm")], ["unreachable"]),
        ([({}, "confirm"), ({"action": "set_single"}, "deny")], []),
        ([({"danger_gte": 3}, "deny"), ({"danger_gte": 4}, "deny")], ["unreachable"]),
        ([({"danger_lte": 3}, "deny"), ({"danger_lte": 2}, "confirm")], ["unreachable"]),
        ([({"channels": ["1x1x1", "2x1x1"]}, "deny"), ({"channels": ["1x1x1"]}, "deny")], ["unreachable"]),
        ([({"action": "set_*"}, "deny"), ({"action": "set_single"}, "confirm")], ["unreachable"]),
        ([({"danger_gte": 5, "danger_lte": 4}, "deny")], ["unreachable"]),
        ([({"danger_gte": 8}, "deny")], ["unreachable"]),
        ([({"action": "fly"}, "deny")], ["unreachable"]),
        ([({"advisor": "a"}, "deny"), ({"advisor": "a"}, "multi")], ["contradictory"]),
        ([({"advisor": "a"}, "deny"), ({"advisor": "b"}, "multi")], []),
        ([({"schema": "hive:fee-policy/v1"}, "deny"), ({"hours": "01:00-02:00"}, "deny")], []),
    ],
)
def test_conflicts_name_rules_that_disagree_or_never_decide(
    rules: list[tuple[Any, str]], kinds: list[str]
) -> None:
    read = [
        parse_rule({"match": match, "effect": effect}, rule_id=f"r{i}")
        for i, (match, effect) in enumerate(rules)
    ]
    assert [each.kind for each in conflicts(read, PRESETS["moderate"])] == kinds
