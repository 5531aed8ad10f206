"""Every option of cl-hive-comms in one place: name, type, default, range, help, and who reads it.

The table of docs/protocol/08-client-and-plugins.md §5.1 with the additions of 02 §11, 03 §10, 04 §13 and
07 §20 (index: docs/protocol/00-index.md §8). Options whose feature is not served by this version are
declared all the same, so that a configuration written today stays valid: their help text says so, and a
value other than the default is reported by hive-client-status and hive-client-selfcheck.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
from hive_shared.crypto import Secret
from hive_shared.runtime_spec import OptionSpec

from cl_hive_comms import option_parsers as read
from cl_hive_comms.domain import mail
from cl_hive_comms.domain.relay_sets import RelaySets
from cl_hive_comms.options_later import awaited

PREFIX = "hive-comms-"
NOT_SERVED = "Not served by this version: the value is kept and reported, nothing reads it yet"


class Row(msgspec.Struct, frozen=True):
    """One option: how CLN sees it, and whether this version acts on it."""

    name: str
    kind: str
    default: str | int | bool
    help: str
    parse: read.Parser
    dynamic: bool = True
    served: bool = False
    deprecated: bool = False

    def spec(self) -> OptionSpec:
        """The declaration for the manifest."""
        waits = not self.served and not self.deprecated
        note = f" {NOT_SERVED}; it waits for {awaited(self.name)}." if waits else ""
        return OptionSpec(
            name=PREFIX + self.name,
            kind=cast(Any, self.kind),
            # CLN kills a plugin that gives a deprecated option a default while deprecated APIs are off.
            default=None if self.deprecated else self.default,
            description=self.help + note,
            dynamic=self.dynamic,
            deprecated=self.deprecated,
            parse=self.parse,
        )


def _text(name: str, default: str, text: str, parse: read.Parser = read.text, **more: bool) -> Row:
    return Row(name, "string", default, text, parse, **more)


def _hidden(name: str, text: str, **more: bool) -> Row:
    return Row(name, "string-conceal", "", text, _secret, **more)


def _secret(value: Any) -> Secret | None:
    shown = read.text(value)
    return Secret(shown.encode()) if shown else None


def _int(
    name: str, default: int, text: str, low: int, high: int = 2_100_000_000_000_000, **more: bool
) -> Row:
    return Row(name, "int", default, text, read.whole(low, high), **more)


def _bool(name: str, default: bool, text: str, **more: bool) -> Row:
    return Row(name, "bool", default, text, read.flag, **more)


CORE = (
    _text(
        "db-path",
        "",
        "Database file; empty: cl_hive_comms.db in the node's network directory.",
        dynamic=False,
        served=True,
    ),
    _text(
        "nostr-relays",
        "wss://nos.lol,wss://relay.damus.io",
        "Relays for messages, comma separated, at most 8; wss (ws only on loopback or onion).",
        read.relays,
        served=True,
    ),
    _hidden(
        "nsec", "Nostr key to import once, if none is stored (nsec1 or hex).", dynamic=False, served=True
    ),
    _text(
        "nsec-file",
        "",
        "File with the Nostr key to import once, if none is stored; mode 0600.",
        dynamic=False,
        served=True,
    ),
    _bool(
        "nostr-allow-plaintext",
        False,
        "Regtest only: also read messages of kind 4 that are not encrypted.",
        dynamic=False,
        served=True,
    ),
    _text(
        "rest-rune-static",
        "",
        "Regtest only: one rune for every advisor.",
        read.rune,
        dynamic=False,
        served=True,
    ),
    _bool(
        "rest-enabled",
        True,
        "Take commands by hive-comms-rpc (clnrest, commando, RPC socket); rune for advisors.",
        served=True,
    ),
    _bool("rest-rune-required", False, "Also demand a valid rune argument in hive-comms-rpc.", served=True),
    _int(
        "rest-port",
        9737,
        "Ignored: there is no own HTTP server, clnrest serves REST.",
        0,
        65_535,
        dynamic=False,
        deprecated=True,
    ),
    _int(
        "transport-max-skew-seconds",
        300,
        "Largest clock difference of a command (30-900).",
        30,
        900,
        served=True,
    ),
    _text(
        "policy-preset",
        "moderate",
        "Policy to start from: conservative, moderate or aggressive.",
        read.one_of("conservative", "moderate", "aggressive"),
        served=True,
    ),
    _text("policy-file", "", "Policy document to use instead of the stored one (JSON).", served=True),
    _int("confirm-hours-low", 24, "Hours an action of danger up to 6 waits for you.", 1, 168, served=True),
    _int("confirm-hours-high", 4, "Hours an action of danger 7 or 8 waits for you.", 1, 168, served=True),
    _text(
        "trusted-issuers",
        "",
        "Node ids whose credentials are honoured beside your own.",
        read.node_ids,
        served=True,
    ),
    _bool(
        "supervised",
        False,
        "The node is restarted by a supervisor when it stops; without it advisors cannot restart it.",
        served=True,
    ),
    _text(
        "swap-out-rpc",
        "",
        "Method that swaps Lightning funds to the chain.",
        read.foreign_method,
        served=True,
    ),
    _text("swap-in-rpc", "", "Method that swaps chain funds to Lightning.", read.foreign_method, served=True),
    _bool("private-relationships", False, "Say nothing in public about who manages this node.", served=True),
    _text(
        "publish-kinds", "", "Further event kinds that sibling plugins may publish.", read.kinds, served=True
    ),
    _text("directory-urls", "", "Curated advisor directories.", read.https_urls),
    _int(
        "receipt-retention-days",
        0,
        "Days until receipts move to an archive file; 0 keeps all.",
        0,
        36_500,
        served=True,
    ),
)

ALERTS = (
    _text(
        "alert-nostr-dm",
        "",
        "Key (npub) that gets warnings and worse as messages.",
        read.public_key,
        served=True,
    ),
    _text(
        "alert-webhook",
        "",
        "https address that gets notices and worse, signed in X-Hive-Signature.",
        read.webhook,
        served=True,
    ),
    _text(
        "alert-email",
        "",
        "Mail address that gets critical alerts and the daily digest.",
        read.mail_address,
        served=True,
    ),
    Row(
        "alert-smtp",
        "string-conceal",
        "",
        f"Mail server for alerts with its password: {mail.FORM}.",
        read.mail_server,
        served=True,
    ),
    _int("alert-digest-hour", 9, "Hour (UTC) of the daily digest.", 0, 23, served=True),
)

MONEY = (
    _text(
        "payment-methods",
        "bolt11,bolt12",
        "Payment methods in your order of preference.",
        read.payment_methods,
        served=True,
    ),
    _text(
        "escrow-method",
        "cashu",
        "How conditional payments are locked: cashu.",
        read.one_of("cashu"),
        dynamic=False,
        served=True,
    ),
    _text("escrow-mint", "", "Mint for escrow; empty: no escrow.", read.mint_url, served=True),
    _text(
        "escrow-backup-mints",
        "",
        "Mints used while the first is down, comma separated.",
        read.mint_urls,
        served=True,
    ),
    _int("escrow-min-danger", 3, "Danger from which pay is held in escrow.", 1, 10, served=True),
    _text(
        "escrow-verify-methods",
        "",
        "Methods of this node that may judge items of tickets, comma separated.",
        read.method_names,
        served=True,
    ),
    _bool("escrow-auto-replenish", True, "Refill the escrow wallet inside the limits.", served=True),
    _int(
        "escrow-replenish-threshold", 1_000, "Sats below which the escrow wallet is refilled.", 0, served=True
    ),
    _int("escrow-replenish-amount", 5_000, "Sats per refill.", 0, served=True),
    _text(
        "escrow-replenish-source",
        "lightning",
        "Where refills come from: lightning.",
        read.one_of("lightning"),
        served=True,
    ),
    _int(
        "escrow-redemption-buffer",
        3_600,
        "Seconds left to redeem (600-86400).",
        600,
        86_400,
        served=True,
    ),
    _int(
        "escrow-refund-grace",
        86_400,
        "Seconds after its locktime that a released lock is left alone.",
        0,
        served=True,
    ),
    _int("mint-health-interval", 3_600, "Seconds between checks of the mints.", 60, served=True),
    _int("mint-max-balance", 50_000, "Sats held free at one mint.", 0, served=True),
    _int("mint-max-locked", 250_000, "Sats locked at one mint.", 0, served=True),
    _int("mint-max-ticket", 25_000, "Sats of one ticket at one mint.", 0, served=True),
    _int("cashu-automelt-threshold", 0, "Sats above which ecash is melted; 0: off.", 0, served=True),
    _int("daily-limit", 50_000, "Sats spent per day on advisors.", 0, served=True),
    _int("weekly-limit", 200_000, "Sats spent per week on advisors.", 0, served=True),
    _int("per-advisor-daily-limit", 25_000, "Sats per advisor and day.", 0, served=True),
    _int("per-action-limit", 0, "Sats per action; 0: no limit.", 0, served=True),
    _int("max-fee-ppm", 10_000, "Routing fee of payments, ppm.", 0, 1_000_000, served=True),
    _text(
        "sibling-limits",
        "fleet=100000/500000,provision=250000/500000,archon=1000/5000",
        "Sats per day/week that sibling plugins may spend; one left out may spend nothing.",
        read.sibling_limits,
        served=True,
    ),
    _bool(
        "l402-enabled",
        False,
        "Sell access by L402 to agents whose credential charges for it (access_json).",
        served=True,
    ),
    _int("l402-price", 1_000, "Sats per L402 token.", 1, served=True),
    _int("l402-days", 30, "Days an L402 token is valid.", 1, 730, served=True),
    _int("l402-actions", 1_000, "Actions an L402 token is good for.", 1, 1_000_000, served=True),
    _text(
        "l402-hosts",
        "",
        "Hosts (host or host:port, comma separated) whose web services hive-client-pay method=l402 may ask"
        " and pay; empty: none.",
        read.web_hosts,
        served=True,
    ),
)

NOSTR = (
    _text(
        "nostr-search-relays",
        "wss://relay.nostr.band",
        "Relays that get and are searched for adverts; their failure is no error.",
        read.relays,
        served=True,
    ),
    _text(
        "nostr-profile-relays",
        "wss://purplepag.es",
        "Relays that hold profiles and relay lists.",
        read.relays,
        served=True,
    ),
    _text(
        "nostr-private-relays",
        "",
        "Relays for messages with your own advisors only; never adverts, never named in public.",
        read.relays,
        served=True,
    ),
    _text(
        "nostr-privacy",
        "standard",
        "How much relays may learn: standard; isolated (adverts are read over sockets of their own); strict"
        " (isolated, no socket without the node's proxy, no search relay).",
        read.one_of("standard", "isolated", "strict"),
        served=True,
    ),
    _bool(
        "nostr-legacy-dm",
        False,
        "Also read messages of kind 4 with NIP-44 content, and answer them alike.",
        dynamic=False,
        served=True,
    ),
    _bool("nostr-metadata", True, "Publish a name card when a profile is published.", dynamic=False),
)

MARKET = (
    _bool("marketplace-enabled", True, "The advisor market.", dynamic=False, served=True),
    _bool("marketplace-publish", True, "Publish your own adverts.", served=True),
    _bool("marketplace-subscribe", True, "Receive adverts.", served=True),
    _bool("marketplace-dual-nip99", True, "Copy adverts as NIP-99 classifieds."),
    _bool("marketplace-dual-nip15", False, "Copy adverts as NIP-15 stalls."),
    _int("marketplace-pow-bits", 20, "Proof of work on own adverts, bits (0-28).", 0, 28),
    _bool("marketplace-provider", False, "Answer proposals and bid: this node offers its services."),
    _int("marketplace-min-pow", 0, "Proof of work demanded of adverts, bits.", 0, 64, served=True),
    _bool("marketplace-require-did", False, "Hide adverts without a verified DID.", served=True),
    _int("marketplace-min-trust", 0, "Trust below which adverts are hidden.", 0, served=True),
    _int("marketplace-min-relays", 2, "Relays that must answer a query.", 1, 8, served=True),
    _text(
        "marketplace-weights",
        "rep=0.35,cap=0.25,spec=0.15,price=0.10,avail=0.10,fresh=0.05",
        "Weights of the ranking.",
        read.weights,
        served=True,
    ),
    _text(
        "marketplace-confirm",
        "ask",
        "Publish contract confirmations: ask, always or never.",
        read.one_of("ask", "always", "never"),
    ),
    _bool("marketplace-heartbeat-public", False, "Publish heartbeats."),
    _int("marketplace-heartbeat-interval", 3_600, "Seconds between heartbeats (at least 600).", 600),
    _bool("marketplace-link-node", False, "Show this node's id in the profile."),
    _bool("marketplace-premium", False, "Show premium listings."),
    _bool("marketplace-auto-accept", False, "Accept proposals that fit without asking."),
    _int("marketplace-max-client-trials", 3, "Trials granted to one client.", 0),
    _int(
        "marketplace-rehire-days",
        30,
        "Days after a contract was terminated before its advisor is hired by contract again.",
        0,
        3_650,
        served=True,
    ),
    _int("marketplace-relay-min-reputation", 0, "Reputation below which gossip is not relayed.", 0),
)

LIQUIDITY = (
    _bool("liquidity-enabled", True, "The liquidity market.", dynamic=False),
    _bool("liquidity-publish", True, "Publish your own offers of liquidity.", served=True),
    _bool("liquidity-subscribe", True, "Receive offers of liquidity."),
    _bool("liquidity-provider", False, "Sell liquidity."),
    _bool("liquidity-auto-quote", False, "Answer requests with quotes."),
    _bool("liquidity-auto-open", False, "Open leased channels without asking."),
    _int("liquidity-max-deployed-sats", 0, "Sats deployed in leases.", 0),
    _int("liquidity-max-single-client-pct", 20, "Share of one client, percent.", 0, 100),
    _int("liquidity-daily-limit", 10_000, "Sats spent per day on liquidity.", 0),
    _int("liquidity-monthly-limit", 100_000, "Sats spent per month on liquidity.", 0),
    _int("liquidity-max-single-lease", 50_000, "Sats paid for one lease.", 0),
    _text("liquidity-allowed-services", "leasing,jit,insurance", "Services that may be bought.", read.words),
    _text("liquidity-forbidden-providers", "", "Providers never used.", read.words),
    _bool("liquidity-auto-renew", False, "Renew leases that run out."),
    _bool("liquidity-auto-relist", False, "Offer freed capacity again."),
    _int("liquidity-min-reputation", 0, "Reputation asked of clients.", 0),
    _int("liquidity-turbo-max-sats", 2_000_000, "Largest channel used before it confirms.", 0),
    _int("liquidity-max-mint-exposure", 250_000, "Sats at risk at one mint.", 0),
    _int("liquidity-heartbeat-interval", 3_600, "Seconds between lease heartbeats.", 600),
    _bool("liquidity-public-heartbeats", False, "Publish lease heartbeats."),
    _int("liquidity-min-event-score", 10, "Trust below which offers are hidden.", 0),
    _int("liquidity-min-pow", 0, "Proof of work demanded of offers, bits.", 0, 64),
    _bool("liquidity-require-did", False, "Hide offers without a verified DID."),
    _bool("liquidity-swaps", False, "Submarine swaps."),
    _bool("liquidity-pool-manager", False, "Manage a liquidity pool."),
    _int("liquidity-pool-custodial-max-sats", 0, "Sats held for pool members.", 0),
    _bool("liquidity-ads-sync", False, "Copy CLN's liquidity ads."),
)

RELAY_OPTIONS = frozenset(
    PREFIX + name
    for name in (
        "nostr-relays",
        "nostr-search-relays",
        "nostr-profile-relays",
        "nostr-private-relays",
        "nostr-privacy",
    )
)
"""Options that `Config.relay_sets` is made of."""
ROWS: tuple[Row, ...] = CORE + ALERTS + MONEY + NOSTR + MARKET + LIQUIDITY
_BY_NAME: Mapping[str, Row] = {PREFIX + row.name: row for row in ROWS}


def option_specs() -> Sequence[OptionSpec]:
    """The declarations for the manifest, in the order of the table."""
    return [row.spec() for row in ROWS]


class Config(msgspec.Struct, frozen=True):
    """All options, parsed; one immutable snapshot that is replaced as a whole on a change."""

    values: Mapping[str, Any]

    @classmethod
    def build(cls, parsed: Mapping[str, Any]) -> "Config":
        """From the parsed values of `init`; what is missing takes its default."""
        values = {}
        for name, row in _BY_NAME.items():
            given = parsed.get(name)
            fallback = None if row.deprecated else row.parse(row.default)
            values[name] = fallback if given is None else given
        return cls(values)

    def changed(self, name: str, value: Any) -> "Config":
        """The same with one option replaced; raises KeyError for a name that is not ours."""
        if name not in _BY_NAME:
            raise KeyError(name)
        return Config({**self.values, name: value})

    def get(self, name: str) -> Any:
        """The parsed value of an option by its name without prefix."""
        return self.values[PREFIX + name]

    @property
    def relays(self) -> tuple[str, ...]:
        """Relays we read from and write to (the primary set)."""
        return cast(tuple[str, ...], self.get("nostr-relays"))

    @property
    def relay_sets(self) -> RelaySets:
        """All lists of relays, and how much relays may learn."""
        names = ("nostr-relays", "nostr-search-relays", "nostr-profile-relays", "nostr-private-relays")
        primary, search, profile, private = (cast(tuple[str, ...], self.get(name)) for name in names)
        return RelaySets(primary, search, profile, private, cast(str, self.get("nostr-privacy")))

    @property
    def max_skew_s(self) -> int:
        """Largest accepted clock difference of a command, seconds."""
        return cast(int, self.get("transport-max-skew-seconds"))

    @property
    def preset(self) -> str:
        """Name of the policy preset that applies while nothing else was chosen."""
        return cast(str, self.get("policy-preset"))

    @property
    def policy_file(self) -> str:
        """Path of the policy document, or empty."""
        return cast(str, self.get("policy-file"))

    def problem_on(self, network: str) -> str | None:
        """Why these options must not be used on this network, or None."""
        if self.get("rest-rune-static") and network != "regtest":
            return (
                f"{PREFIX}rest-rune-static is for regtest only: one rune would open the door to everybody"
                " who has it, and no revocation would close it; remove the option"
            )
        if self.get("nostr-allow-plaintext") and network != "regtest":
            return (
                f"{PREFIX}nostr-allow-plaintext is for regtest only: every relay would read what is sent to"
                " this node; remove the option"
            )
        return None

    @property
    def trusted_issuers(self) -> tuple[str, ...]:
        """Node ids, beside our own, whose credentials authorise."""
        return cast(tuple[str, ...], self.get("trusted-issuers"))

    def ignored(self) -> list[str]:
        """Names of options that were set although nothing will ever read them."""
        return [name for name, row in _BY_NAME.items() if row.deprecated and self.values[name] is not None]

    def unserved(self) -> list[str]:
        """Names of options that were changed although nothing reads them yet."""
        return [
            name
            for name, row in _BY_NAME.items()
            if not row.served and not row.deprecated and self.values[name] != row.parse(row.default)
        ]
