"""Every numbered check of sheets 02 §15, 03 §14, 08 §13 and 11 §18 that this version must pass has a test."""

from __future__ import annotations

import re

import pytest
from architecture.sources import ROOT

SHEETS = {
    "02": ("docs/protocol/02-fleet-management.md", "## 15. Acceptance"),
    "03": ("docs/protocol/03-escrow-and-payments.md", "## 14. Acceptance"),
    "08": ("docs/protocol/08-client-and-plugins.md", "## 13. Acceptance"),
    "11": ("docs/protocol/11-advisor-kit.md", "## 18. Acceptance"),
}
LATER = {
    "02": {},
    "03": {},
    "11": {8: "the market"},
    "08": {
        **{12: "archon", 13: "archon", 14: "liquidity", 19: "the image"},
    },
}
"""Checks of what comes later, with the part they are about."""
HALVES = {
    # Checks whose sentence names several things of which one is easily forgotten.
    "08.04": ("by_any_name_of_its_sender", "altered_and_signed_anew", "for_another_node"),
    "08.05": ("a_broad_rune", "the_sender_in_a_call_proves_nothing"),
    "08.06": ("thirty_percent", "ten_steps_of_ten_percent", "protected_channel"),
    "08.07": ("presets_by_danger_and_trust", "quiet_hours_over_a_midnight", "an_override_expires_while"),
    "08.08": ("revo", "emergency", "drift"),
    "08.11": ("engaged_by_call", "the_file_stops_too", "mid_bulk_the_rest", "given_back_exactly"),
    "08.15": ("a_changed_byte_is_named", "prune_then_verify"),
    "08.16": ("same_names_are_ambiguous", "a_look_alike", "a_stale_index"),
    "08.17": ("dry_run_then_once_and_never_twice", "a_source_that_is_refused"),
    "08.20": ("ten_thousand_unknown_senders", "monsters_by_dm", "monsters_by_rpc"),
    "08.23": ("no_secret_in_any_log_error_receipt", "key_files_and_bad_keys", "concealed_option"),
    "08.22": ("every_dynamic_option", "keeps_the_last_good"),
    "03.22": ("comms_alone_full_marketplace_hire_paid_by_ticket", "a_fleet_ticket_through_cl_hive"),
    "03.23": ("no_ticket_is_made_and_nothing_paid", "due_refunds_and_redemptions_run"),
    "03.25": ("of_300_kb_loses_a_part", "old_releases_and_altered_terms"),
    "11.19": (
        "wallet_of_nip04_only",
        "repeated_answer",
        "offline_leaves_it_unknown",
        "on_this_machine",
        "answers_otherwise",
    ),
    "11.20": ("a_day_of_pings", "alerts_stay_open"),
    "02.03": ("time_window", "another_node"),
    "02.04": ("burns_no_nonce", "seal_and_rumor"),
    "02.05": (
        "names_our_node_by_gossip",
        "gossip_authorises_by_a_trusted",
        "strangers_credential_for_our_node",
    ),
    "02.06": ("tier_cannot|may_not_set", "refused_at_issue", "patterns"),
    "02.08": ("payments_escalate", "foreign_destination", "pushing_is_a_payment"),
    "02.09": ("depth_13_and_70_kb", "a_thousand_fuzzed", "hostile_parameters"),
    "02.10": (
        "an_edit_may_only_reduce",
        "expiry_ends",
        "signed_challenge",
        "the_requester_has_no_vote",
        "danger_9",
    ),
    "02.11": ("revoked_while_three_wait_and_one_runs", "rune_is_blacklisted", "cannot_be_verified"),
    "02.12": ("every_action_killed_anywhere", "indeterminate", "two_kills_in_a_row"),
    "02.16": (
        "any_field_is_named",
        "update_and_delete",
        "above_the_limit_archives",
        "100_001st",
        "under_a_seal",
    ),
    "02.17": ("61st|sixty_first", "flood_of_five_thousand_keys", "loses_no_command"),
    "02.18": ("moves_balance_within_its_cap", "without_a_route"),
    "02.19": ("cannot_be_failed_or_settled", "static_option_is_proposed"),
    "02.20": ("waits_300_s_and_an_hour", "quiet_hours_over_midnight_and_dst"),
    "02.21": ("exact_limits_also_after_a_restart", "a_fee_spike_ends_on_time"),
    "02.22": ("disk_full", "relays_down_rest_serves"),
    "02.23": ("private_host", "never_run_remotely"),
    "02.25": ("no_secret_in_any_log_error_receipt_or_table", "an_agent_sends_where_they_do_not_belong"),
}


def numbers(sheet: str) -> set[int]:
    """The numbers of the sheet's own list."""
    page, heading = SHEETS[sheet]
    text = (ROOT / page).read_text(encoding="utf-8").partition(heading)[2].partition("\n## ")[0]
    return {int(number) for number in re.findall(r"^(\d+)\. ", text, re.MULTILINE)}


def found() -> dict[str, list[str]]:
    """Names of the acceptance tests behind their number, by `sheet.number`."""
    tests: dict[str, list[str]] = {}
    for file in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"def test_acceptance_(\w+)", file.read_text(encoding="utf-8")):
            for sheet, number in re.findall(r"(?:^|_)(0\d|1\d)_(\d\d)(?=_)", name):
                tests.setdefault(f"{sheet}.{number}", []).append(name)
    return tests


@pytest.mark.parametrize("sheet", sorted(SHEETS))
def test_every_check_of_this_version_has_a_test(sheet: str) -> None:
    listed = numbers(sheet)
    assert len(listed) >= 22 and set(LATER[sheet]) <= listed
    tests = found()
    missing = [number for number in sorted(listed - set(LATER[sheet])) if f"{sheet}.{number:02}" not in tests]
    assert missing == []


@pytest.mark.parametrize("check", sorted(HALVES))
def test_every_part_of_a_check_is_shown(check: str) -> None:
    tests = found()[check]
    missing = [part for part in HALVES[check] if not any(re.search(part, name) for name in tests)]
    assert missing == []
