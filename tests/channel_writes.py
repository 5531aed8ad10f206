"""The writes of channels, options and emergencies that tests carry out or kill, each on a node of two
channels (docs/protocol/02-fleet-management.md §4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hive_shared.canonical import JsonValue
from hive_shared.registry import PLUGIN, Tier
from pipeline_world import View, World, issue

FEES = "hive:fee-policy/v1"
FORWARDING = "hive:forwarding/v1"
EMERGENCY = "hive:emergency/v1"
CONFIG = "hive:config/v1"
HTLC_POLICY = "hive:htlc-policy/v1"
CHANNELS: list[JsonValue] = ["101x1x0", "102x1x0"]
ALL = {"reason": "night"}


@dataclass(frozen=True)
class Case:
    """An action with its parameters, and the commands that came before it."""

    params: Mapping[str, JsonValue]
    before: tuple[tuple[str, str, Mapping[str, JsonValue]], ...] = ()


CASES = {
    (FEES, "set_single"): Case({"channel_id": "101x1x0", "fee_ppm": 120}),
    (FEES, "set_zero_fee"): Case({"channel_id": "101x1x0", "reason": "a friend"}),
    (FEES, "set_bulk"): Case({"channels": CHANNELS, "policy": {"fee_ppm": 110}}),
    (FEES, "set_anchor"): Case({"channel_id": "101x1x0", "target_fee_ppm": 120}),
    (FEES, "clear_anchor"): Case(
        {"channel_id": "101x1x0"}, ((FEES, "set_anchor", {"channel_id": "101x1x0", "target_fee_ppm": 120}),)
    ),
    (HTLC_POLICY, "set_htlc_limits"): Case({"channel_id": "101x1x0", "htlc_maximum_msat": 800_000_000}),
    (HTLC_POLICY, "set_htlc_limits_bulk"): Case({"channels": CHANNELS, "htlc_minimum_msat": 5_000}),
    (FORWARDING, "disable_channel"): Case({"channel_id": "101x1x0", **ALL}),
    (FORWARDING, "enable_channel"): Case(
        {"channel_id": "101x1x0"}, ((FORWARDING, "disable_channel", {"channel_id": "101x1x0", **ALL}),)
    ),
    (FORWARDING, "set_routing_hints"): Case(
        {"hints": CHANNELS}, ((FORWARDING, "set_routing_hints", {"hints": CHANNELS[:1]}),)
    ),
    (FORWARDING, "disable_all"): Case(ALL),
    (FORWARDING, "enable_all"): Case({}, ((FORWARDING, "disable_all", ALL),)),
    (CONFIG, "set_config"): Case({"key": "askrene-timeout", "value": 20, "transient": True}),
    (PLUGIN, "configure"): Case({"option": "askrene-timeout", "value": 20}),
    (CONFIG, "adjust"): Case(
        {"parameter": "sling_max_hops", "value": 7, "trigger_reason": "rebalance_inefficiency"}
    ),
    (CONFIG, "set_min_channel_size"): Case({"sats": 50_000}),
    (CONFIG, "set_max_channel_size"): Case({"sats": 2_000_000}),
    (CONFIG, "disable_forwarding"): Case({}),
    (CONFIG, "enable_forwarding"): Case({}, ((FORWARDING, "disable_all", ALL),)),
    (EMERGENCY, "disable_forwarding"): Case(ALL),
    (EMERGENCY, "fee_spike"): Case({**ALL, "fee_ppm": 40_000, "hours": 1}),
    (EMERGENCY, "revoke_all_credentials"): Case(ALL),
}


PROPOSALS = {
    (HTLC_POLICY, "set_cltv_delta"),
    *((CONFIG, name) for name in ("set_alias", "set_network_address", "set_tor", "set_dust_limit")),
}
"""Actions that change nothing (tests/integration/test_proposals.py)."""


def trusted(directory: Path) -> World:
    """Two channels and an agent that may do everything by itself."""
    directory.mkdir(parents=True, exist_ok=True)
    world = World(directory, channels=2)
    world.credentials.add(View(issue(template="complete_management", tier=Tier.ADMIN), "adv-1"))
    world.policies.override(
        "aggressive",
        max_fee_change_per_24h_pct=100,
        allowed_config=["askrene-timeout", "sling-max-hops"],
        approval_overrides=dict.fromkeys(
            ("fee_policy_*", "htlc_policy_*", "forwarding_*", "config_*", "plugin_*", "emergency_*"),
            "auto_execute",
        ),
    )
    return world
