"""Every option of cl-hive-archon, in one place.

docs/protocol/09-archon.md section 16 and docs/protocol/01-reputation.md section 11.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from hive_shared.runtime_config import OptionGroup, OptionTable, Rule
from hive_shared.runtime_values import duration, fraction, one_of, urls, whole, words

PREFIX: Final = "hive-archon-"
_HOUR: Final = 3_600
_DAY: Final = 86_400


def _weights(value: str) -> dict[str, str]:
    """A JSON object of domain names and decimal weights."""
    try:
        document = json.loads(value, parse_float=str, parse_int=str)
    except ValueError:
        document = None
    if not isinstance(document, dict) or not all(isinstance(weight, str) for weight in document.values()):
        raise ValueError('must be a JSON object such as {"hive:node":1.5}')
    for weight in document.values():
        fraction("0", "100")(weight)
    return document


def _identity() -> OptionGroup:
    group = OptionGroup(PREFIX)
    group.add(
        "db-path", None, "Database file (default: cl_hive_archon.db beside the node's own).", dynamic=False
    )
    group.later(
        "gateway",
        "http://localhost:4224,https://archon.technology",
        "Archon gateways, comma separated, in order of preference.",
        urls,
    )
    group.later("network-enabled", True, "Allow HTTP to Archon gateways.")
    group.later("auto-provision", True, "Make a DID when a gateway can be reached.")
    group.later("registry", "hyperswarm", "Registry of new DIDs.", dynamic=False)
    group.later(
        "gateway-auth-token",
        "",
        "Bearer token, sent only to the first non-loopback gateway.",
        kind="string-conceal",
        dynamic=False,
    )
    group.later("allow-private-gateway", False, "Allow gateways on private addresses.", dynamic=False)
    group.later(
        "trust-mode",
        "verify",
        "Check signatures ourselves, or trust the gateway.",
        one_of("verify", "gateway"),
    )
    group.later("l402-max-sats", 0, "Most to pay for one gateway call.", whole())
    group.later("l402-daily-sats", 0, "Most to pay to gateways in 24 h.", whole())
    group.later("passphrase-file", "", "File with a passphrase that also guards the keys.", dynamic=False)
    group.later("revocation-ttl", _HOUR, "Seconds a revocation check stays good.", whole(60, _HOUR))
    group.later("custodial", False, "Keep DIDs for members that cannot.")
    return group


def _governance() -> OptionGroup:
    group = OptionGroup(PREFIX)
    group.later("governance-min-bond", 50_000, "Bond in sats for the governance tier.", whole())
    group.later("coordinators", None, "DIDs that may mirror the roster.", multi=True)
    group.later("ballot-grace", _HOUR, "Seconds ballots may arrive late (600-86400).", whole(600, _DAY))
    group.later("native-polls", False, "Mirror polls as Archon polls.")
    group.later("publish-polls", False, "Publish polls on Nostr.")
    return group


def _messages() -> OptionGroup:
    group = OptionGroup(PREFIX)
    group.later("dmail-interval", 300, "Seconds between checks for Dmail (30-3600).", whole(30, _HOUR))
    group.later(
        "auto-notify",
        "health_critical,ban_proposal,settlement_complete",
        "Categories sent on their own.",
        words(),
    )
    group.later("message-retention-days", 90, "Days to keep read messages.", whole(1, 3_650))
    group.later("digest-hour", 8, "Hour of the daily digest (0-23, local time).", whole(0, 23))
    return group


def _backup() -> OptionGroup:
    group = OptionGroup(PREFIX)
    group.later("backup-interval", "daily", "How often to back up.", one_of("hourly", "daily", "manual"))
    group.later("backup-hour", 3, "Hour of the backup (0-23, local time).", whole(0, 23))
    group.later("backup-retention", 30, "Days to keep backups.", whole(1, 3_650))
    group.later("backup-vault", "auto", "Vault that holds the backups.")
    group.later("backup-operator", "", "DID of the operator who can open backups.")
    group.later("backup-members", "", "DIDs that can open backups, comma separated.", words())
    group.later("threshold-enabled", False, "Split the recovery key among holders.")
    group.later("threshold-k", 2, "Shares needed to recover.", whole(1, 16))
    group.later("threshold-n", 3, "Shares made.", whole(1, 16))
    group.later("threshold-holders", "", "DIDs of the holders, comma separated.", words(limit=16))
    group.later("threshold-delay", "24h", "Wait before a share is released (0-30d).", duration(0, 30 * _DAY))
    group.later("threshold-notify", "all", "Who is told of a recovery request.")
    group.later("threshold-exclusive", True, "Only the holders together can recover.")
    return group


def _reputation() -> OptionGroup:
    group = OptionGroup(PREFIX)
    group.later("reputation-enabled", True, "Reputation credentials as a whole.")
    group.later("credential-max-rows", 50_000, "Credentials kept.", whole(1_000, 1_000_000))
    group.later("credentials-per-subject", 1_000, "Credentials kept of one subject.", whole(10, 100_000))
    group.later("reputation-cache-max-rows", 10_000, "Scores kept.", whole(100, 1_000_000))
    group.later("reputation-ttl", _HOUR, "Seconds a score stays good.", whole(60, _DAY))
    group.later("recency-lambda", "0.01", "Decay of old credentials per day.", fraction("0", "1"))
    group.later("domain-weights", "{}", "Weights of domains as a JSON object.", _weights)
    group.later("trust-anchor", None, "Issuers that count as anchored.", multi=True)
    group.later("signature-mode", "auto", "Key that signs credentials.", one_of("auto", "hsm", "dual", "did"))
    group.later("hsm-sunset-days", 180, "Days both signatures are accepted after a binding.", whole(0, 3_650))
    group.later("accept-legacy-credentials", True, "Accept credentials of the old format.")
    group.later("reputation-index", None, "Addresses of https registries.", multi=True)
    return group


def _threshold(values: Mapping[str, Any]) -> str | None:
    k, n = values[PREFIX + "threshold-k"], values[PREFIX + "threshold-n"]
    return None if k <= n else f"threshold-k ({k}) must not be above threshold-n ({n})"


TABLE: Final = OptionTable(
    (_identity(), _governance(), _messages(), _backup(), _reputation()),
    (Rule((PREFIX + "threshold-k", PREFIX + "threshold-n"), _threshold),),
)
