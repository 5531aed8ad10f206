"""What the policy document refuses outright: limits, protected and forbidden things, quiet hours, rates.

docs/protocol/08-client-and-plugins.md §5.4, docs/protocol/02-fleet-management.md §7.4. Every limit is a
small function from the effective settings and the request to denials; they all speak, and a command that
breaks several is told all.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from .fee_change import exceeds

if TYPE_CHECKING:
    from .policy import ActionRequest
    from .policy_settings import Settings

HOUR_S, DAY_S = 3_600, 86_400


@dataclass(frozen=True, slots=True)
class Denial:
    """A refusal: the symbol of 02 §7.2, the rule that decided, and a sentence for the agent."""

    symbol: str
    rule_id: str
    sentence: str


Limit = Callable[["Settings", "ActionRequest"], Iterator[Denial]]

# Nothing lifts these (08 §5.4): they would hand the node over.
_NEVER: Final = frozenset({("hive:plugin/v1", "start_arbitrary"), ("hive:backup/v1", "restore")})
_PEER_SCHEMAS: Final = frozenset(
    {
        "hive:channel/v1",
        "hive:expansion/v1",
        "hive:splice/v1",
        "hive:liquidity/v1",
        "hive:rebalance/v1",
    }
)


def _blocked(rule: str, sentence: str) -> Denial:
    return Denial("policy_blocked", rule, sentence)


def _floors(_settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    if (request.schema, request.action) in _NEVER:
        yield _blocked("floor", f"{request.action} is never run on remote request")


def _danger(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    if request.danger > settings.max_danger:
        yield _blocked(
            "max_danger", f"danger {request.danger} is above the operator's limit of {settings.max_danger}"
        )


def _forbidden(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    for pattern in settings.forbidden_actions:
        if any(fnmatchcase(key, pattern) for key in request.override_keys):
            yield _blocked(
                f"preset:{settings.preset}", f"the {settings.preset} preset forbids {request.action}"
            )
            return


def _blocked_schemas(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    paths = (request.schema, *(f"hive:{request.category}/{name}" for name in request.names))
    for pattern in settings.blocked_schemas:
        if any(fnmatchcase(path, pattern) for path in paths):
            yield _blocked("blocked_schemas", f"the operator blocks {pattern}")
            return


def _protected(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    if settings.protected_channels.isdisjoint(request.channel_ids):
        return
    for channel in request.channels:
        if not settings.protected_channels.isdisjoint((channel.scid, channel.channel_id)):
            yield Denial(
                "protected_channel",
                "protected_channels",
                f"channel {channel.scid} is protected; nothing was done",
            )


def _forbidden_peers(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    concerned = request.schema in _PEER_SCHEMAS or (request.schema, request.action) == (
        "hive:peer/v1",
        "connect",
    )
    if concerned:
        for peer in sorted(settings.forbidden_peers.intersection(request.peer_ids)):
            yield Denial("forbidden_peer", "forbidden_peers", f"peer {peer[:16]}… is forbidden")


def _quiet_hours(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    quiet = settings.quiet_hours
    if quiet is None or request.danger <= settings.quiet_hour_max_danger or not quiet.active(request.now):
        return
    # Stopping forwards is what an emergency at night is about (02 §7.4).
    if (request.schema, request.action) == ("hive:emergency/v1", "disable_forwarding"):
        return
    doc = quiet.to_doc()
    yield Denial(
        "quiet_hours",
        "quiet_hours",
        f"quiet hours {doc['start']}-{doc['end']} {quiet.timezone}: danger above"
        f" {settings.quiet_hour_max_danger} waits until they end",
    )


def _fees(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    """Caps on new fee rates. One violating channel refuses the whole command (08 §5.4, Bulk)."""
    facts = {channel.scid: channel for channel in request.channels}
    for scid, (_base_msat, ppm) in request.new_fees.items():
        if ppm is None:
            continue
        if ppm < settings.min_fee_ppm:
            yield _blocked("min_fee_ppm", f"{ppm} ppm on {scid} is below {settings.min_fee_ppm}")
        if settings.max_fee_ppm is not None and ppm > settings.max_fee_ppm:
            yield _blocked("max_fee_ppm", f"{ppm} ppm on {scid} is above {settings.max_fee_ppm}")
        channel = facts.get(scid)
        percent = settings.max_fee_change_per_24h_pct
        if channel is None:
            yield _blocked("max_fee_change_per_24h_pct", f"the present fee of {scid} is unknown")
        elif (reference := exceeds(ppm, channel.fee_ppm, channel.ppm_24h_ago, percent)) is not None:
            yield _blocked(
                "max_fee_change_per_24h_pct",
                f"{ppm} ppm on {scid} is more than {percent} % away from {reference} ppm"
                f" ({'now' if reference == channel.fee_ppm else '24 h ago'})",
            )


def _number(request: ActionRequest, name: str) -> int:
    value = request.params.get(name, 0)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _amounts(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    amount = max(request.amount_sat, _number(request, "amount_sats"), _number(request, "capacity_sats"))
    if request.schema == "hive:rebalance/v1" and amount > settings.max_rebalance_sats:
        yield _blocked("max_rebalance_sats", f"{amount} sat is above {settings.max_rebalance_sats}")
    if (
        _number(request, "max_fee_ppm") > settings.max_rebalance_fee_ppm
        and request.schema == "hive:rebalance/v1"
    ):
        yield _blocked("max_rebalance_fee_ppm", f"max_fee_ppm is above {settings.max_rebalance_fee_ppm}")
    opens = request.schema == "hive:expansion/v1" or request.override_keys[0].startswith("channel_open")
    if opens:
        top = settings.max_channel_open_sats
        if top is not None and amount > top:
            yield _blocked("max_channel_open_sats", f"{amount} sat is above {top}")
        pushed = _number(request, "push_msat") or _number(request, "push_sats")
        if pushed and not settings.allow_push:
            yield _blocked("allow_push", "pushing funds at opening is not allowed")
    top = settings.max_feerate_perkw
    if top is not None and _number(request, "feerate_perkw") > top:
        yield _blocked("max_feerate_perkw", f"the feerate is above {top} sat per kw")


def is_public_host(host: str) -> bool:
    """Whether `host` may be connected to without `allow_private_hosts`.

    Names are public unless they say they are local: the address a name resolves to is the connecting
    side's to check, this rule stays pure.
    """
    text = host.strip().rstrip(".").casefold().strip("[]")
    try:
        address = ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        # Old notations such as 127.1 or 0x7f000001 are numbers to a resolver; no public name looks so.
        numeric = not text or text.replace(".", "").isdigit() or text.startswith("0x")
        return not (numeric or text == "localhost" or text.endswith((".localhost", ".local", ".internal")))
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_global and not (mapped or address).is_multicast


def _hosts(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    host = request.params.get("host") or request.params.get("address")
    if (request.schema, request.action) != ("hive:peer/v1", "connect") or not isinstance(host, str):
        return
    if not settings.allow_private_hosts and not is_public_host(host):
        yield _blocked("allow_private_hosts", f"{host[:80]!a} is not a public address")


def _operations(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    """Options and plugins an agent may touch at all."""
    params = request.params
    if request.override_keys[0] in ("config_set_config", "plugin_configure"):
        key = params.get("key", params.get("option"))
        if key not in settings.allowed_config:
            yield _blocked("allowed_config", f"option {str(key)[:60]!a} is not in allowed_config")
    if request.override_keys[0] == "plugin_start_approved":
        name = str(params.get("plugin_name"))
        if not any(path.rpartition("/")[2] == name or path == name for path in settings.approved_plugins):
            yield _blocked("approved_plugins", f"plugin {name[:60]!a} is not on the operator's list")
    if request.override_keys[0] == "plugin_stop" and params.get("plugin_name") in settings.protected_plugins:
        yield _blocked("protected_plugins", "the plugin is protected")


COUNTERS: Final = {"fee_changes": HOUR_S, "rebalances": DAY_S, "total_actions": DAY_S}
"""Names and windows (s) of the counters a request carries in `counts`, used before this command."""


def counters_of(schema: str) -> tuple[str, ...]:
    """The counters a write of this schema uses, one each."""
    special = {"hive:fee-policy/v1": ("fee_changes",), "hive:rebalance/v1": ("rebalances",)}
    return (*special.get(schema, ()), "total_actions")


def _rates(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    limits = settings.rate_limits
    rows = {
        "fee_changes": (limits.fee_changes_per_hour, "rate_limited", "fee changes per hour"),
        "rebalances": (limits.rebalances_per_day, "rate_limited", "rebalances per day"),
        "total_actions": (limits.total_actions_per_day, "daily_cap", "actions per day"),
    }
    for name in counters_of(request.schema):
        limit, symbol, words = rows[name]
        if request.counts.get(name, 0) + 1 > limit:
            yield Denial(symbol, f"rate_limits.{name}", f"the operator's limit of {limit} {words} is reached")


WRITE_LIMITS: Final[tuple[Limit, ...]] = (
    _floors,
    _danger,
    _forbidden,
    _blocked_schemas,
    _protected,
    _forbidden_peers,
    _quiet_hours,
    _fees,
    _amounts,
    _hosts,
    _operations,
    _rates,
)
READ_LIMITS: Final[tuple[Limit, ...]] = (_blocked_schemas,)
"""A read changes nothing: only a blocked schema stops it."""
