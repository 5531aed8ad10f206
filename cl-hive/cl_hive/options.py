"""Every option of cl-hive, in one place: the table and the rules across options.

docs/protocol/08-client-and-plugins.md section 10; the settlement and provisioning groups are in
``options_money``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hive_shared.runtime_config import Config, OptionGroup, OptionTable, Rule
from hive_shared.runtime_values import fraction, one_of, whole, words

from cl_hive.options_money import provisioning, settlement

PREFIX: Final = "hive-"
_DAY: Final = 86_400


def _base() -> OptionGroup:
    group = OptionGroup(PREFIX)
    group.add("db-path", None, "Database file (default: cl_hive.db beside the node's own).", dynamic=False)
    group.add("legacy-methods", True, "Answer to the older names of our methods.")
    group.later(
        "governance-mode",
        "advisor",
        "advisor: actions wait for approval; failsafe: emergencies and capped automation run.",
        one_of("advisor", "failsafe", autonomous="failsafe"),
    )
    group.later("rpc-pool-size", 3, "Node calls in parallel (1-8).", whole(1, 8), dynamic=False)
    group.later("dm-fallback", True, "Reach absent members by Nostr message.")
    group.later("developer", False, "Developer methods.")
    group.later("nostr-relays", None, "Without effect; relays belong to cl-hive-comms.", deprecated=True)
    return group


def _membership() -> OptionGroup:
    group = OptionGroup(PREFIX)
    group.later("membership-enabled", True, "Membership of a hive.")
    group.later("auto-vouch", True, "Vouch on our own for neophytes that qualify.")
    group.later("auto-promote", True, "Execute promotions that hold a quorum.")
    group.later("auto-join", False, "Join a hive on our own.")
    group.later("ban-autotrigger", False, "Propose bans on our own.")
    group.later("neophyte-fee-discount", "0.5", "Fee share for neophytes (0-1).", fraction("0", "1"))
    group.later("member-fee-ppm", 0, "Fee between members (0-100000).", whole(0, 100_000))
    group.later("probation-days", 90, "Days as a neophyte (1-365).", whole(1, 365))
    group.later("vouch-threshold", "0.51", "Share of members that must vouch (0-1).", fraction("0", "1"))
    group.later("min-vouch-count", 3, "Vouches needed at least.", whole(1, 100))
    group.later("max-members", 50, "Members at most (2-100).", whole(2, 100))
    group.later("market-share-cap", "0.20", "Largest share of a target's capacity (0-1).", fraction("0", "1"))
    group.later("min-contribution-ratio", "1.0", "Contribution needed for promotion.", fraction("0", "100"))
    group.later("min-uptime-pct", 95, "Uptime needed for promotion (0-100).", whole(0, 100))
    group.later("min-unique-peers", 1, "Unique peers needed for promotion.", whole(0, 1_000))
    group.later("min-join-channel-sats", 1_000_000, "Channel needed to join; 0: none.", whole())
    return group


def _coordination() -> OptionGroup:
    group = OptionGroup(PREFIX)
    group.later("intent-hold-seconds", 60, "Wait after announcing an intent (10-600).", whole(10, 600))
    group.later("intent-lock-timeout", 300, "Life of an intent (60-3600).", whole(60, 3_600))
    group.later("gossip-threshold", "0.10", "Change that is gossiped (0.01-0.5).", fraction("0.01", "0.5"))
    group.later("gossip-interval", 60, "Seconds between gossip checks.", whole(10, 3_600))
    group.later("heartbeat-interval", 300, "Seconds between heartbeats (60-3600).", whole(60, 3_600))
    group.later("transport-mode", "any", "Ways to reach members.", one_of("any", "vpn-only", "vpn-preferred"))
    group.later("vpn-subnets", "", "Networks that count as VPN, comma separated.", words())
    group.later("vpn-bind", "", "Address to bind on the VPN.")
    group.later("vpn-peers", "", "Members and their VPN addresses, comma separated.", words(limit=100))
    group.later(
        "vpn-required-messages",
        "all",
        "Messages that must use the VPN.",
        one_of("all", "gossip", "intent", "sync", "none"),
    )
    group.later("intelligence-share", True, "Send our data products to members.")
    group.later("intelligence-buy", True, "Accept purchases of intelligence.")
    return group


def _planner() -> OptionGroup:
    group = OptionGroup(PREFIX)
    group.later("planner-interval", 3_600, "Seconds between planner runs (300-86400).", whole(300, _DAY))
    group.later("planner-enable-expansions", False, "Let the planner propose channels.")
    group.later("planner-min-channel-sats", 1_000_000, "Smallest channel.", whole())
    group.later("planner-max-channel-sats", 50_000_000, "Largest channel.", whole())
    group.later("planner-default-channel-sats", 5_000_000, "Usual channel.", whole())
    group.later(
        "failsafe-budget-per-day", 10_000_000, "Sats per day (100000-10000000).", whole(100_000, 10_000_000)
    )
    group.later("failsafe-actions-per-hour", 2, "Actions per hour (1-5).", whole(1, 5))
    group.later("budget-reserve-pct", "0.20", "Share kept in reserve (0.05-0.5).", fraction("0.05", "0.5"))
    group.later("budget-max-per-channel-pct", "0.50", "Share for one channel (0.1-1).", fraction("0.1", "1"))
    group.later("max-expansion-feerate", 5_000, "sat/kvB above which nothing is opened; 0: off.", whole())
    group.later("auto-suggest-channels", True, "Planner may queue channel opens for approval.")
    group.later("clboss", "auto", "Work with clboss where it runs.", one_of("auto", "off"))
    return group


def _fees_and_liquidity() -> OptionGroup:
    group = OptionGroup(PREFIX)
    group.later("fee-floor-ppm", 50, "Lowest fee recommended.", whole(0, 1_000_000))
    group.later("fee-ceiling-ppm", 2_500, "Highest fee recommended.", whole(0, 1_000_000))
    group.later("fee-default-ppm", 500, "Fee without other knowledge.", whole(0, 1_000_000))
    group.later(
        "fee-apply", "recommend", "What happens to a recommendation.", one_of("recommend", "pending", "off")
    )
    group.later("fee-explore", False, "Try other fees on our own.")
    group.later("pheromone-decay", "0.02", "Decay of route memory per hour (0-1).", fraction("0", "1"))
    group.later("physarum-auto", False, "Act on Physarum recommendations.")
    group.later("probe", False, "Probe routes.")
    group.later("mcf-interval", 3_600, "Seconds between flow solutions.", whole(300, _DAY))
    group.later("mcf-fee-budget-sats-per-day", 0, "Fees for flow assignments; 0: they queue.", whole())
    group.later("fleet-rebalance", True, "Take part in fleet rebalancing.")
    group.later("rebalance-max-sats", 10_000_000, "Most for one rebalance.", whole())
    group.later("rebalance-daily-sats", 50_000_000, "Most for rebalances in 24 h.", whole())
    group.later("assist", False, "Help members with liquidity.")
    group.later("assist-max-sats", 10_000_000, "Most per member in 30 days.", whole())
    group.later("did-auto-issue", True, "Issue credentials about members on our own.")
    group.later("did-auto-negative", False, "Also negative ones.")
    group.later("did-rebroadcast-interval", 14_400, "Seconds between rebroadcasts (3600 up).", whole(3_600))
    return group


def _ordered(*names: str) -> Rule:
    full = tuple(PREFIX + name for name in names)

    def broken(values: Mapping[str, Any]) -> str | None:
        numbers = [values[name] for name in full]
        if numbers == sorted(numbers):
            return None
        shown = " <= ".join(f"{name} ({number})" for name, number in zip(names, numbers, strict=True))
        return f"must hold: {shown}"

    return Rule(full, broken)


def _intent(values: Mapping[str, Any]) -> str | None:
    hold, lock = values[PREFIX + "intent-hold-seconds"], values[PREFIX + "intent-lock-timeout"]
    if 2 * hold < lock:
        return None
    return f"intent-hold-seconds ({hold}) must be below half of intent-lock-timeout ({lock})"


TABLE: Final = OptionTable(
    (
        _base(),
        _membership(),
        _coordination(),
        _planner(),
        _fees_and_liquidity(),
        settlement(),
        provisioning(),
    ),
    (
        _ordered("planner-min-channel-sats", "planner-default-channel-sats", "planner-max-channel-sats"),
        Rule((PREFIX + "intent-hold-seconds", PREFIX + "intent-lock-timeout"), _intent),
        _ordered("fee-floor-ppm", "fee-default-ppm", "fee-ceiling-ppm"),
        _ordered("provision-min-channel-sats", "provision-max-channel-sats"),
        _ordered("provision-ratio-ppm-terminal", "provision-ratio-ppm-critical", "provision-ratio-ppm-warn"),
    ),
)


def settlement_mints(config: Config) -> tuple[str, ...]:
    """The mints of fleet tickets; those of the old name where the new one is empty (sheet 06 section 2)."""
    named = config[PREFIX + "settlement-mints"] or config[PREFIX + "cashu-mints"] or ()
    return tuple(named)
