"""What the policy document refuses outright: limits, protected and forbidden things, quiet hours, rates.

docs/protocol/08-client-and-plugins.md §5.4, docs/protocol/02-fleet-management.md §7.4. Every limit is a
small function from the effective settings and the request to denials; they all speak, and a command that
breaks several is told all.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.registry import SPLICE

from .fee_change import exceeds
from .json_value import whole

if TYPE_CHECKING:
    from .policy import ActionRequest
    from .policy_settings import Settings

HOUR_S, DAY_S = 3_600, 86_400


class Denial(msgspec.Struct, frozen=True):
    """A refusal: the symbol of 02 §7.2, the rule that decided, and a sentence for the agent."""

    symbol: str
    rule_id: str
    sentence: str


Limit = Callable[["Settings", "ActionRequest"], Iterator[Denial]]

# Nothing lifts these (08 §5.4): they would hand the node over.
_NEVER: Final = frozenset({("hive:plugin/v1", "start_arbitrary"), ("hive:backup/v1", "restore")})
# Names of node calls that no agent reaches under whatever schema it asks (02 §12).
_NEVER_NAMES: Final = frozenset(
    {
        *("recover", "recoverchannel", "emergencyrecover", "exposesecret", "makesecret", "signmessage"),
        *("createrune", "invoicerune", "commando-rune", "datastore", "deldatastore", "rpc", "raw_rpc"),
    }
)
# Options that decide what runs in the node's process, or who rules it, stay the operator's.
_OWN_OPTIONS: Final = ("hive-", "plugin", "important-plugin", "disable-plugin", "clear-plugins", "wallet")
# Its rate is far from any fee by design and ends by itself; the caps on rates hold (docs/decisions/0221).
_SPIKE: Final = ("hive:emergency/v1", "fee_spike")
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_PEER_SCHEMAS: Final = frozenset(
    {
        "hive:expansion/v1",
        "hive:splice/v1",
        "hive:liquidity/v1",
        "hive:rebalance/v1",
        "hive:payment/v1",
    }
)


def _blocked(rule: str, sentence: str) -> Denial:
    return Denial("policy_blocked", rule, sentence)


def never(schema: str, action: str, params: Mapping[str, JsonValue], settings: Settings) -> Iterator[Denial]:
    """What is refused whether or not this version serves the action (02 §12, §15.23).

    `params` may be unparsed: an action that is not served has no parameters to parse them by.
    """
    if (schema, action) in _NEVER or action in _NEVER_NAMES:
        yield _blocked("floor", f"{action[:64]} is never run on remote request")
    if schema == "hive:plugin/v1":
        name = params.get("plugin_name")
        if isinstance(name, str) and ("/" in name or "\\" in name or name.startswith(".")):
            yield _blocked("floor", "a plugin is named, never given as a path")
    if (schema, action) in (("hive:config/v1", "set_config"), ("hive:plugin/v1", "configure")):
        key = params.get("key", params.get("option"))
        if isinstance(key, str) and key.strip().casefold().startswith(_OWN_OPTIONS):
            yield _blocked("floor", f"option {key[:60]!a} is the operator's alone")
    if (schema, action) == ("hive:peer/v1", "connect") and not settings.allow_private_hosts:
        for name in ("host", "address"):
            host = params.get(name)
            if isinstance(host, str) and not is_public_host(host):
                yield _blocked(
                    "allow_private_hosts",
                    f"{host[:80]!a} is not a public address; give one, or an .onion name",
                )


def _floors(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    yield from never(request.schema, request.action, request.params, settings)


def _danger(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    if request.danger > settings.max_danger:
        yield _blocked(
            "max_danger", f"danger {request.danger} is above the operator's limit of {settings.max_danger}"
        )


def _forbidden(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    for pattern in settings.forbidden_actions:
        if _opened_by_name(settings, request):
            return
        if any(fnmatchcase(key, pattern) for key in request.denial_keys):
            yield _blocked(
                f"preset:{settings.preset}", f"the {settings.preset} preset forbids {request.action}"
            )
            return


def _opened_by_name(settings: Settings, request: ActionRequest) -> bool:
    """Whether the operator named this very action as one that several have to sign
    (docs/decisions/0364). No pattern opens what a preset forbids."""
    words = (settings.approval_overrides.get(key, "") for key in request.override_keys[:1])
    return any(word.startswith("multi_sig_") for word in words)


def _blocked_schemas(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    for pattern in settings.blocked_schemas:
        if any(fnmatchcase(path, pattern) for path in request.denial_paths):
            yield _blocked("blocked_schemas", f"the operator blocks {pattern}")
            return


def _texts(value: JsonValue) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _protected(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    if not settings.protected_channels:
        return
    touched = [
        channel.scid
        for channel in request.channels
        if not settings.protected_channels.isdisjoint(channel.names)
    ]
    # Also what is only named, in whatever parameter: nothing may rest on an executor listing its channels.
    named = () if touched else settings.protected_channels.intersection(_texts(dict(request.params)))
    for name in (*touched, *sorted(named)):
        yield Denial(
            "protected_channel", "protected_channels", f"channel {name} is protected; nothing was done"
        )


def _forbidden_peers(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    opens = request.override_keys[0].startswith(("channel_open", "peer_connect"))
    concerned = request.schema in _PEER_SCHEMAS or opens
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
        if (request.schema, request.action) == _SPIKE:
            continue
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
    return whole(request.params.get(name))


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
    top = settings.max_channel_open_sats
    # What goes into a channel counts, whether it is new or grows.
    if (opens or _grows(request)) and top is not None and amount > top:
        yield _blocked("max_channel_open_sats", f"{amount} sat is above {top}")
    if opens:
        pushed = _number(request, "push_msat") or _number(request, "push_sats")
        if pushed and not settings.allow_push:
            yield _blocked("allow_push", "pushing funds at opening is not allowed")
    top = settings.max_feerate_perkw
    if top is not None and max(_number(request, "feerate_perkw"), request.feerate_perkw) > top:
        yield _blocked("max_feerate_perkw", f"the feerate is above {top} sat per kw")


def _grows(request: ActionRequest) -> bool:
    return (request.schema, request.action) == (SPLICE, "splice_in")


def is_public_host(host: str) -> bool:
    """Whether `host` may be connected to without `allow_private_hosts`: a global address or a Tor name.

    Any other name is not: what it means is said by whoever runs its zone, and may change between a check
    and the connection (docs/decisions/0361).
    """
    text = host.strip().rstrip(".").casefold().strip("[]")
    try:
        address = ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        return re.fullmatch(r"[a-z2-7]{56}\.onion", text) is not None
    if isinstance(address, ipaddress.IPv6Address):
        # Other kinds of IPv6 addresses stand for IPv4 ones too, private ones included.
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address not in _GLOBAL_UNICAST:
            return False
        address = inner or address
    return address.is_global and not address.is_multicast


def _operations(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    """Options and plugins an agent may touch at all."""
    params = request.params
    if request.override_keys[0] in ("config_set_config", "plugin_configure"):
        key = params.get("key", params.get("option"))
        if key not in settings.allowed_config:
            yield _blocked("allowed_config", f"option {str(key)[:60]!a} is not in allowed_config")
    if request.option.startswith(_OWN_OPTIONS):
        yield _blocked("floor", f"option {request.option[:60]!a} is the operator's alone")
    if request.option and request.option not in settings.allowed_config:
        yield _blocked("allowed_config", f"option {request.option[:60]!a} is not in allowed_config")
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
        used = request.counts.get(name)
        if used is None:
            yield _blocked(f"rate_limits.{name}", f"how many {words} were used is unknown")
        elif used + 1 > limit:
            yield Denial(symbol, f"rate_limits.{name}", f"the operator's limit of {limit} {words} is reached")


SPENT_SATS: Final = "spent_sats_24h"
"""Name under which `counts` carries what all commands spent in the last 24 hours, fees included."""


def _budget(settings: Settings, request: ActionRequest) -> Iterator[Denial]:
    top = settings.daily_budget_sats
    if top is None or request.spend is None:
        return
    used, wanted = request.counts.get(SPENT_SATS), request.spend.total_sat
    if used is None:
        yield _blocked("daily_budget_sats", "how much was spent in the last 24 hours is unknown")
    elif used + wanted > top:
        sentence = f"{used} of {top} sat of the daily budget are spent; {wanted} sat more do not fit"
        yield Denial("budget_exhausted", "daily_budget_sats", sentence)


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
    _operations,
    _budget,
    _rates,
)
READ_LIMITS: Final[tuple[Limit, ...]] = (_blocked_schemas,)
"""A read changes nothing: only a blocked schema stops it."""
