"""Enforcing the constraints of a credential (docs/protocol/02-fleet-management.md §2.4, pipeline step 12).

Where the node's policy speaks for the operator in general, these are what one credential was issued with;
both must be satisfied. `transports` is checked when the credential is (step 6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from hive_shared.canonical import JsonValue
from hive_shared.errors import HiveError, from_symbol
from hive_shared.registry import SPLICE

from .fee_change import exceeds
from .json_value import whole
from .policy import ActionRequest
from .spend import ONCHAIN, PAYMENT

DAILY_ACTIONS: Final = "daily_actions"
PAYMENT_SATS: Final = "payment_sats_24h"
ONCHAIN_SATS: Final = "onchain_sats_24h"
LIQUIDITY_DAILY_SATS: Final = "liquidity_sats_24h"
LIQUIDITY_MONTHLY_SATS: Final = "liquidity_sats_30d"
"""Names under which `ActionRequest.counts` carries what the credential used in the window so far."""

Check = Callable[[JsonValue, ActionRequest], Iterator[str]]


def check(constraints: Mapping[str, JsonValue], request: ActionRequest) -> None:
    """Refuse a write that breaks a constraint; reads pass, they are bounded elsewhere.

    Raises the error of symbol `constraint_violated` with data {constraint, limit}, or `daily_cap` for
    max_daily_actions. Constraints unknown here are skipped: they have lowered the tier already.
    """
    if request.read_only:
        return
    if request.danger >= 9:
        _check_critical(constraints, request)
    for name, limit in constraints.items():
        enforce = _CHECKS.get(name)
        for sentence in enforce(limit, request) if enforce is not None else ():
            raise _violated(name, limit, sentence)


def _violated(name: str, limit: JsonValue, sentence: str) -> HiveError:
    symbol = "daily_cap" if name == "max_daily_actions" else "constraint_violated"
    shown: JsonValue = limit if isinstance(limit, int) else None
    return from_symbol(symbol, f"{name}: {sentence}", constraint=name, limit=shown)


def _check_critical(constraints: Mapping[str, JsonValue], request: ActionRequest) -> None:
    granted = constraints.get("grants_critical")
    wanted = f"{request.schema}#{request.action}"
    if not isinstance(granted, list) or wanted not in granted:
        raise _violated(
            "grants_critical", None, f"{wanted} has danger {request.danger} and is not granted by name"
        )


def _names(value: JsonValue) -> frozenset[str]:
    return (
        frozenset(item for item in value if isinstance(item, str)) if isinstance(value, list) else frozenset()
    )


def _fee_change(limit: JsonValue, request: ActionRequest) -> Iterator[str]:
    facts = {channel.scid: channel for channel in request.channels}
    for scid, (_base_msat, ppm) in request.new_fees.items():
        channel = facts.get(scid)
        if ppm is None:
            continue
        if channel is None:
            yield f"the present fee of {scid} is unknown"
            continue
        reference = exceeds(ppm, channel.fee_ppm, channel.ppm_24h_ago, whole(limit))
        if reference is not None:
            yield f"{ppm} ppm on {scid} is more than {limit} % away from {reference} ppm"


def _fee_ppm(limit: JsonValue, request: ActionRequest) -> Iterator[str]:
    for scid, (_base_msat, ppm) in request.new_fees.items():
        if ppm is not None and ppm > whole(limit):
            yield f"{ppm} ppm on {scid} is above {limit} ppm"


def _amount_sat(request: ActionRequest) -> int:
    named = (whole(request.params.get(name)) for name in ("amount_sats", "capacity_sats"))
    return max(request.amount_sat, *named)


def _at_most(applies: Callable[[ActionRequest], bool], counter: str | None = None) -> Check:
    """The amount of the actions it applies to, plus what the window has used, stays at or below the limit."""

    def enforce(limit: JsonValue, request: ActionRequest) -> Iterator[str]:
        if not applies(request):
            return
        used_sat = 0 if counter is None else request.counts.get(counter)
        if used_sat is None:
            yield "what was spent in the window so far is unknown"
            return
        total_sat = _amount_sat(request) + used_sat
        if total_sat > whole(limit):
            yield f"{total_sat} sat is above {limit} sat"

    return enforce


def _of_schema(*schemas: str) -> Callable[[ActionRequest], bool]:
    return lambda request: request.schema in schemas


def _is_swap(request: ActionRequest) -> bool:
    return request.action.startswith("swap_")


def _is_rebalance(request: ActionRequest) -> bool:
    return request.schema == "hive:rebalance/v1" and not _is_swap(request)


def _is_onchain(request: ActionRequest) -> bool:
    sends = request.schema == "hive:wallet/v1" and request.action in ("send_onchain", "sweep")
    leaves = request.spend is not None and request.spend.kind == ONCHAIN and request.spend.amount_sat > 0
    return sends or leaves


def _is_payment(request: ActionRequest) -> bool:
    # An invoice of one's own spends nothing.
    pays = request.schema == "hive:payment/v1" and request.action != "create_invoice"
    return pays or (request.spend is not None and request.spend.kind == PAYMENT)


def _rebalance_fee(limit: JsonValue, request: ActionRequest) -> Iterator[str]:
    asked = whole(request.params.get("max_fee_ppm"))
    if request.schema == "hive:rebalance/v1" and asked > whole(limit):
        yield f"max_fee_ppm {asked} is above {limit}"


def _open_sats(limit: JsonValue, request: ActionRequest) -> Iterator[str]:
    grows = (request.schema, request.action) == (SPLICE, "splice_in")
    if not (grows or request.action.startswith("open") or request.schema == "hive:expansion/v1"):
        return
    amounts = [_amount_sat(request)]
    destinations = request.params.get("destinations")
    for item in destinations if isinstance(destinations, list) else ():
        amounts.append(whole(item.get("amount_sats")) if isinstance(item, dict) else 0)
    if max(amounts) > whole(limit):
        yield f"a channel of {max(amounts)} sat is above {limit} sat"


def _daily_actions(limit: JsonValue, request: ActionRequest) -> Iterator[str]:
    used = request.counts.get(DAILY_ACTIONS)
    if used is None:
        yield "how many actions of the last 24 hours were used is unknown"
    elif used + 1 > whole(limit):
        yield f"all {limit} actions of the last 24 hours are used"


def _channels_per_call(limit: JsonValue, request: ActionRequest) -> Iterator[str]:
    named = request.params.get("channels")
    count = max(len(request.channels), len(named) if isinstance(named, list) else 0)
    if count > whole(limit):
        yield f"{count} channels in one command, at most {limit}"


def _allowed_channels(limit: JsonValue, request: ActionRequest) -> Iterator[str]:
    allowed = _names(limit)
    for channel in request.channels:
        if allowed.isdisjoint(channel.names):
            yield f"channel {channel.scid} is not on the credential's list"


def _denied_channels(limit: JsonValue, request: ActionRequest) -> Iterator[str]:
    denied = _names(limit)
    for channel in request.channels:
        if not denied.isdisjoint(channel.names):
            yield f"channel {channel.scid} is excluded by the credential"


def _allowed_peers(limit: JsonValue, request: ActionRequest) -> Iterator[str]:
    for peer in sorted(request.peer_ids - _names(limit)):
        yield f"peer {peer[:16]}… is not on the credential's list"


def _service_types(limit: JsonValue, request: ActionRequest) -> Iterator[str]:
    wanted = request.params.get("service_type")
    if isinstance(wanted, str) and wanted not in _names(limit):
        yield f"service type {wanted[:40]!a} is not on the credential's list"


def _forbidden_providers(limit: JsonValue, request: ActionRequest) -> Iterator[str]:
    wanted = request.params.get("provider_id")
    if isinstance(wanted, str) and wanted in _names(limit):
        yield "the provider is excluded by the credential"


def _auto_renew(limit: JsonValue, request: ActionRequest) -> Iterator[str]:
    if limit is not True and request.params.get("auto_renew") is True:
        yield "automatic renewal is not allowed"


_LIQUIDITY: Final = _of_schema("hive:liquidity/v1")

_CHECKS: Final[Mapping[str, Check]] = MappingProxyType(
    {
        "max_fee_change_pct": _fee_change,
        "max_fee_ppm": _fee_ppm,
        "max_rebalance_sats": _at_most(_is_rebalance),
        "max_rebalance_fee_ppm": _rebalance_fee,
        "max_swap_sats": _at_most(_is_swap),
        "max_daily_actions": _daily_actions,
        "max_channels_per_call": _channels_per_call,
        "max_channel_open_sats": _open_sats,
        "max_payment_sats_24h": _at_most(_is_payment, PAYMENT_SATS),
        "max_onchain_sats_24h": _at_most(_is_onchain, ONCHAIN_SATS),
        "allowed_channels": _allowed_channels,
        "denied_channels": _denied_channels,
        "allowed_peers": _allowed_peers,
        "max_liquidity_spend_daily_sats": _at_most(_LIQUIDITY, LIQUIDITY_DAILY_SATS),
        "max_liquidity_spend_monthly_sats": _at_most(_LIQUIDITY, LIQUIDITY_MONTHLY_SATS),
        "max_single_lease_sats": _at_most(_LIQUIDITY),
        "allowed_service_types": _service_types,
        "forbidden_providers": _forbidden_providers,
        "auto_renew_enabled": _auto_renew,
    }
)
