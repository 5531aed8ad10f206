"""askrene: layers, and getroutes over them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from hive_devnet.embedded.errors import (
    INVALID_PARAMS,
    PAY_ROUTE_NOT_FOUND,
    PAY_ROUTE_TOO_EXPENSIVE,
    PAY_USER_ERROR,
    RpcError,
)
from hive_devnet.embedded.ledger.channel import Channel
from hive_devnet.embedded.ledger.layers import Layer
from hive_devnet.embedded.ledger.routing import Hop, Limits, find_route, hop_fee
from hive_devnet.embedded.node import EmbeddedNode
from hive_devnet.embedded.params import (
    array,
    bad_param,
    boolean,
    msat,
    node_id,
    opt,
    req,
    string,
    u16,
    u32,
)
from hive_devnet.embedded.registry import Call, Result, command

_LOCAL, _FREE, _SINGLE = "auto.localchans", "auto.sourcefree", "auto.no_mpp_support"
_MAX_DELAY: Final = 2016
_SCIDD: Final = re.compile(r"[0-9]+x[0-9]+x[0-9]+/[01]")
_UPDATES: Final = (
    *("enabled", "htlc_minimum_msat", "htlc_maximum_msat"),
    *("fee_base_msat", "fee_proportional_millionths", "cltv_expiry_delta"),
)
_POLICY: Final = {
    "htlc_minimum_msat": "htlc_min_msat",
    "htlc_maximum_msat": "htlc_max_msat",
    "fee_base_msat": "fee_base_msat",
    "fee_proportional_millionths": "fee_ppm",
    "cltv_expiry_delta": "cltv_delta",
}
"""Fields of a layer's update, and what a side's policy calls them."""


def _scidd(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _SCIDD.fullmatch(value):
        raise bad_param(name, "should be a short_channel_id_dir of form NxNxN/N", value)
    return value


def _layer(call: Call) -> Layer:
    found = call.node.layers.get(call["layer"])
    if found is None:
        raise bad_param("layer", "Unknown layer", call["layer"])
    return found


def _describe(layer: Layer) -> dict[str, Any]:
    return {
        "layer": layer.name,
        "persistent": layer.persistent,
        "disabled_nodes": layer.disabled_nodes,
        "created_channels": [],
        "channel_updates": [{"short_channel_id_dir": key, **values} for key, values in layer.updates.items()],
        "constraints": [{"short_channel_id_dir": key, **values} for key, values in layer.limits.items()],
        "biases": [],
        "node_biases": [],
    }


@command("askrene-create-layer", req("layer", string), opt("persistent", boolean, False))
async def create_layer(call: Call) -> Result:
    """A new, empty layer; a persistent one may be there already."""
    found = call.node.layers.get(call["layer"])
    if found is not None and not (found.persistent and call["persistent"]):
        raise RpcError(INVALID_PARAMS, "Layer already exists")
    layer = found or Layer(call["layer"], call["persistent"])
    call.node.layers.keep(layer)
    return {"layers": [_describe(layer)]}


@command("askrene-remove-layer", req("layer", string))
async def remove_layer(call: Call) -> Result:
    """Forgets a layer."""
    call.node.layers.drop(_layer(call))
    return {}


@command("askrene-listlayers", opt("layer", string))
async def listlayers(call: Call) -> Result:
    """One layer, or all of them."""
    shown = call.node.layers.all() if call["layer"] is None else [_layer(call)]
    return {"layers": [_describe(layer) for layer in shown]}


@command("askrene-disable-node", req("layer", string), req("node", node_id))
async def disable_node(call: Call) -> Result:
    """No route of this layer goes by a node."""
    layer = _layer(call)
    if call["node"] not in layer.disabled_nodes:
        layer.disabled_nodes.append(call["node"])
    call.node.layers.keep(layer)
    return {}


@command(
    "askrene-update-channel",
    req("layer", string),
    req("short_channel_id_dir", _scidd),
    opt("enabled", boolean),
    opt("htlc_minimum_msat", msat),
    opt("htlc_maximum_msat", msat),
    opt("fee_base_msat", msat),
    opt("fee_proportional_millionths", u32),
    opt("cltv_expiry_delta", u16),
)
async def update_channel(call: Call) -> Result:
    """What this layer says of a directed channel in place of gossip."""
    layer = _layer(call)
    given = {name: call[name] for name in _UPDATES if call[name] is not None}
    layer.updates.setdefault(call["short_channel_id_dir"], {}).update(given)
    call.node.layers.keep(layer)
    return {}


def _inform(name: str, value: Any) -> str:
    if value not in ("constrained", "unconstrained", "succeeded"):
        raise bad_param(name, "should be one of constrained, unconstrained, succeeded", value)
    return str(value)


@command(
    "askrene-inform-channel",
    req("layer", string),
    req("short_channel_id_dir", _scidd),
    req("amount_msat", msat),
    req("inform", _inform),
)
async def inform_channel(call: Call) -> Result:
    """What a payment showed of a directed channel: it carries less, at least as much, or that much less."""
    layer, name = _layer(call), call["short_channel_id_dir"]
    if call["inform"] == "succeeded":
        # What it could carry besides is not known any more than before.
        return {"constraints": []}
    field, amount = ("minimum_msat", call["amount_msat"])
    if call["inform"] == "constrained":
        field, amount = ("maximum_msat", max(0, call["amount_msat"] - 1))
    learned = {"timestamp": int(time.time()), field: amount}
    layer.limits[name] = layer.limits.get(name, {}) | learned
    call.node.layers.keep(layer)
    return {"constraints": [{"layer": layer.name, "short_channel_id_dir": name, **learned}]}


# -- getroutes ----------------------------------------------------------------------------------------------


def _layer_names(name: str, value: Any) -> list[str]:
    for item in array(name, value):
        if not isinstance(item, str):
            raise bad_param(name, "should be a string", item)
    return list(value)


@dataclass
class _Map:
    """The channels as the layers show them; `carries` is what a direction takes, by (number, source)."""

    channels: list[Channel]
    excluded: frozenset[tuple[int, str]]
    nodes: frozenset[str]
    carries: dict[tuple[int, str], int]


def _map(node: EmbeddedNode, names: Iterable[str], layers: list[Layer]) -> _Map:
    local = _LOCAL in names
    channels = [each for each in node.world.channels.usable() if _is_known(node, each, local=local)]
    excluded: set[tuple[int, str]] = set()
    carries: dict[tuple[int, str], int] = {}
    shown = []
    for channel in channels:
        as_updated = channel
        for source in (channel.opener, channel.acceptor):
            key = f"{channel.scid}/{channel.direction(source)}"
            own = local and node.node_id in (channel.opener, channel.acceptor)
            top = channel.spendable_msat(source) if own else channel.capacity_sat * 1000
            limits = (layer.limits[key] for layer in layers if key in layer.limits)
            carries[channel.id, source] = min([top, *(each.get("maximum_msat", top) for each in limits)])
            updates = [layer.updates[key] for layer in layers if key in layer.updates]
            enabled = [each["enabled"] for each in updates if "enabled" in each]
            if enabled and not enabled[-1]:
                excluded.add((channel.id, source))
            for each in updates:
                as_updated = _updated(as_updated, source, each)
        shown.append(as_updated)
    disabled = frozenset(each for layer in layers for each in layer.disabled_nodes)
    return _Map(shown, frozenset(excluded), disabled, carries)


def _is_known(node: EmbeddedNode, channel: Channel, *, local: bool) -> bool:
    """In the graph and enabled by both ends, or our own and asked for."""
    ends = [node.world.running(each) for each in (channel.opener, channel.acceptor)]
    up = all(ends) and ends[0] is not None and ends[0].peers.link(channel.acceptor) is not None
    own = local and node.node_id in (channel.opener, channel.acceptor)
    return up and channel.scid is not None and (channel.announce or own)


def _updated(channel: Channel, source: str, update: Mapping[str, Any]) -> Channel:
    changes = {_POLICY[name]: value for name, value in update.items() if name in _POLICY}
    side = channel.side(source)
    new = replace(side, policy=replace(side.policy, **changes))
    first, second = channel.sides
    return replace(channel, sides=(new, second) if source == channel.opener else (first, new))


@command(
    "getroutes",
    req("source", node_id),
    req("destination", node_id),
    req("amount_msat", msat),
    req("layers", _layer_names),
    req("maxfee_msat", msat),
    req("final_cltv", u32),
    opt("maxdelay", u32, _MAX_DELAY),
    opt("maxparts", u32, 100),
)
async def getroutes(call: Call) -> Result:
    """Routes that together carry an amount from one node to another."""
    layers = _known_layers(call)
    if call["amount_msat"] == 0:
        raise RpcError(INVALID_PARAMS, "amount must be non-zero")
    if call["maxdelay"] > _MAX_DELAY:
        raise RpcError(PAY_USER_ERROR, f"maximum delay allowed is {_MAX_DELAY}")
    if call["source"] == call["destination"]:
        raise RpcError(INVALID_PARAMS, "source and destination must be different")
    shown = _map(call.node, call["layers"], layers)
    for name in ("source", "destination"):
        if not any(call[name] in (each.opener, each.acceptor) for each in shown.channels):
            raise RpcError(PAY_ROUTE_NOT_FOUND, f"Unknown {name} node {call[name]}")
    routes = _routes(call, shown)
    described = [_describe_route(call, shown, route) for route in routes]
    fee = sum(each["path"][0]["amount_in_msat"] - each["amount_msat"] for each in described)
    if fee > call["maxfee_msat"]:
        raise RpcError(PAY_ROUTE_TOO_EXPENSIVE, "Could not find route without excessive cost")
    if max(each["path"][0]["cltv_in"] for each in described) > call["maxdelay"]:
        raise RpcError(PAY_ROUTE_TOO_EXPENSIVE, "Could not find route without excessive delays")
    chance = 1_000_000
    for each in described:
        chance = chance * each["probability_ppm"] // 1_000_000
    return {"probability_ppm": chance, "routes": described}


def _known_layers(call: Call) -> list[Layer]:
    found = []
    for name in call["layers"]:
        layer = call.node.layers.get(name)
        if layer is not None:
            found.append(layer)
        elif name not in (_LOCAL, _FREE, _SINGLE):
            raise bad_param("layers", "unknown layer", name)
    return found


def _routes(call: Call, shown: _Map) -> list[list[Hop]]:
    """The amount whole, else in halves of halves, as few as it takes."""
    most = 1 if _SINGLE in call["layers"] else call["maxparts"]
    limits = Limits(call["final_cltv"], shown.excluded, shown.nodes, source_free=_FREE in call["layers"])
    amounts, routes = [call["amount_msat"]], list[list[Hop]]()
    while amounts:
        amount = amounts.pop(0)
        ends = (call["source"], call["destination"])
        route = None
        if not shown.nodes.intersection(ends):
            route = find_route(shown.channels, *ends, amount, limits, shown.carries)
        if route is None:
            if amount < 2 or len(amounts) + len(routes) + 2 > most:
                total = sum(each.capacity_sat for each in shown.channels if ends[0] in _ends(each)) * 1000
                count = sum(ends[0] in _ends(each) for each in shown.channels)
                text = "We could not find a usable set of paths. "
                text += f"Total source capacity is only {total}msat (in {count} channels)."
                raise RpcError(PAY_ROUTE_NOT_FOUND, text)
            amounts[:0] = [amount - amount // 2, amount // 2]
            continue
        for hop in route:
            shown.carries[hop.channel, hop.source] -= hop.amount_msat
        routes.append(route)
    return routes


def _ends(channel: Channel) -> tuple[str, str]:
    return channel.opener, channel.acceptor


def _describe_route(call: Call, shown: _Map, route: list[Hop]) -> dict[str, Any]:
    channels = {channel.id: channel for channel in shown.channels}
    path, chance = [], 1_000_000
    for hop in route:
        channel = channels[hop.channel]
        free = hop.source == call["source"] and _FREE in call["layers"]
        fee = 0 if free else hop_fee(channel, hop.source, hop.amount_msat)
        wait = 0 if free else channel.side(hop.source).policy.cltv_delta
        came, due = hop.amount_msat + fee, hop.delay + wait
        if not (_LOCAL in call["layers"] and call.node.node_id in _ends(channel)):
            # As if every split of a channel's capacity were as likely as any other.
            top = channel.capacity_sat * 1000
            chance = chance * max(0, top - hop.amount_msat) // top
        path.append(
            {
                "short_channel_id_dir": f"{hop.scid}/{channel.direction(hop.source)}",
                "node_id_in": hop.source,
                "node_id_out": hop.target,
                "amount_in_msat": came,
                "amount_out_msat": hop.amount_msat,
                "cltv_in": due,
                "cltv_out": hop.delay,
                "next_node_id": hop.target,
                "amount_msat": came,
                "delay": due,
            }
        )
    return {
        "probability_ppm": chance,
        "amount_msat": route[-1].amount_msat,
        "final_cltv": call["final_cltv"],
        "path": path,
    }
