"""Options of settlements and of node provisioning.

docs/protocol/06-settlements.md section 2 and docs/protocol/10-provisioning.md section 2.1.
"""

from __future__ import annotations

from typing import Any

from hive_shared.cashu.mint_url import normal_mint_url
from hive_shared.runtime_config import OptionGroup
from hive_shared.runtime_values import one_of, whole, words

_PPM: int = 1_000_000
_MOST_MINTS: int = 16


def mints(value: Any) -> tuple[str, ...]:
    """Addresses of mints in their normal form (03 §4.2), by which tickets and cl-hive-comms know them."""
    return tuple(dict.fromkeys(normal_mint_url(url) for url in words(limit=_MOST_MINTS)(value)))


def settlement() -> OptionGroup:
    """Options of sheet 06."""
    group = OptionGroup("hive-")
    group.later(
        "settlement-mode",
        "optional_escrow",
        "How far settlement goes.",
        one_of("internal", "receipts", "optional_escrow", "escrow", "trustless"),
    )
    group.later("revenue-mode", "pool", "How revenue is shared.", one_of("pool", "per_htlc"))
    group.later(
        "settlement-window", "daily", "Preferred window.", one_of("per-event", "hourly", "daily", "weekly")
    )
    group.add("settlement-mints", "", "Accepted mints, comma separated; empty: no Cashu.", mints)
    group.later(
        "settlement-rails",
        "cashu,bolt12,bolt11,keysend,onchain",
        "Order of payment rails.",
        words("cashu", "bolt12", "bolt11", "keysend", "onchain"),
    )
    group.later(
        "settlement-auto-execute",
        None,
        "Pay agreed settlements unasked (default: only in failsafe governance).",
        kind="bool",
    )
    group.later("settlement-max-payment-sats", 100_000, "Larger payments need approval.", whole())
    group.later("settlement-weekly-limit-sats", 500_000, "Beyond this in a week, approval.", whole())
    group.later("settlement-max-fee-ppm", 5_000, "Fee limit of Lightning rails.", whole(0, _PPM))
    group.later("settlement-onchain-min-sats", 100_000, "Smallest on-chain payment.", whole())
    group.later("settlement-onchain-max-fee-pct", 1, "On-chain fee limit in percent.", whole(0, 100))
    group.later("settlement-multilateral", True, "Take part in multilateral netting.")
    group.later("settlement-risk-premium-ppm", 0, "Premium on amounts (0-1000).", whole(0, 1_000))
    group.later("settlement-operator-group", "", "Nodes of the same group settle internally.")
    group.later("liquidity-rate-ppm", 0, "Yearly ppm asked for liquidity.", whole(0, _PPM))
    group.later("bond-amount", 0, "Sats offered as bond after joining; 0: none.", whole())
    group.later(
        "intelligence-bonus-threshold-ppm", 100_000, "Improvement that releases the bonus.", whole(0, _PPM)
    )
    group.later("receipt-retention-days", 90, "Days receipts are kept.", whole(1, 3_650))
    group.add("cashu-mints", None, "Old name of hive-settlement-mints.", mints, deprecated=True)
    return group


def provisioning() -> OptionGroup:
    """Options of sheet 10."""
    group = OptionGroup("hive-provision-")
    group.later("enabled", False, "Provisioning of further nodes.", dynamic=False)
    group.later("max-nodes", 3, "Nodes at a time (1-50).", whole(1, 50))
    group.later("max-total-sats", 0, "Most that may be committed; 0: nothing.", whole())
    group.later("scale-gate", True, "A further node needs an earlier one that is profitable.")
    group.later(
        "secrets-dir", None, "Directory of secrets (default: hive/provision beside the node).", dynamic=False
    )
    group.later("recovery-address", "", "On-chain address that receives what is left.")
    group.later("operator-key", "", "BIP-340 key of the operator (64 hex digits).")
    group.later("backup-recipients", "", "X25519 keys that can open backups.", words())
    group.later(
        "recovery-change-delay-hours", 72, "Wait before a new recovery address counts.", whole(0, 8_760)
    )
    group.later("max-single-payment-sats", 100_000, "Most for one payment.", whole())
    group.later("max-daily-spend-sats", 50_000, "Most in 24 h.", whole())
    group.later("min-channel-sats", 1_000_000, "Smallest channel.", whole())
    group.later("max-channel-sats", 5_000_000, "Largest channel.", whole())
    group.later("min-reserve-sats", 50_000, "On-chain reserve.", whole())
    group.later("bill-tolerance-pct", 10, "Deviation a bill may have.", whole(0, 100))
    group.later("bill-lead-days", 7, "Days before the due date.", whole(0, 90))
    group.later("bill-max-sats", 150_000, "Largest bill.", whole())
    group.later("rate-source", "cln", "Source of exchange rates.", one_of("cln", "fixed"))
    group.later("sats-per-usd", 0, "Fixed rate.", whole())
    group.later("rate-max-age-hours", 24, "Oldest rate used.", whole(1, 720))
    group.later("go-multiple-permille", 1_500, "Forecast needed to go ahead.", whole(0, 100_000))
    group.later("go-months", 6, "Months of the forecast.", whole(1, 60))
    group.later("coldstart-days", 180, "Days before judgement (30-365).", whole(30, 365))
    group.later("ratio-ppm-warn", _PPM, "Income ratio that warns.", whole(0, 10 * _PPM))
    group.later("ratio-ppm-critical", 800_000, "Income ratio that is critical.", whole(0, 10 * _PPM))
    group.later("ratio-ppm-terminal", 500_000, "Income ratio that ends a node.", whole(0, 10 * _PPM))
    group.later("terminal-days", 14, "Days below the terminal ratio.", whole(1, 365))
    group.later("critical-days", 14, "Days below the critical ratio.", whole(1, 365))
    group.later("review-days", 14, "Days of review.", whole(1, 365))
    group.later("costcut-months", 2, "Months to cut costs.", whole(0, 60))
    group.later("auto-shutdown", True, "Shut down failing nodes in an orderly way.")
    group.later("shutdown-days", 14, "Days for a shutdown (7-60).", whole(7, 60))
    group.later("close-timeout-hours", 48, "Wait for cooperative closes (12-168).", whole(12, 168))
    group.later("shutdown-notice-hours", 24, "Notice before a shutdown.", whole(0, 720))
    group.later("ai-monthly-sats", 0, "Monthly cost of an advisor program.", whole())
    group.later(
        "chain-source",
        "auto",
        "Where a new node gets its chain.",
        one_of("auto", "remote-rpc", "assumeutxo", "datadir", "ibd"),
    )
    group.later("reciprocal-max-sats", 0, "Largest reciprocal channel; 0: none.", whole())
    group.later("status-interval", 21_600, "Seconds between status reports.", whole(60, 604_800))
    return group
