"""listnodes, listchannels, getroute, listforwards, delforward, listhtlcs."""

from __future__ import annotations

from typing import Any

from hive_devnet.embedded.commands.channels import htlc_state
from hive_devnet.embedded.commands.invoices import index_name
from hive_devnet.embedded.commands.setchannel import find_channel
from hive_devnet.embedded.courier import describe_forward
from hive_devnet.embedded.errors import (
    DELFORWARD_NOT_FOUND,
    INVALID_PARAMS,
    PAY_ROUTE_NOT_FOUND,
    RpcError,
)
from hive_devnet.embedded.ledger.channel import Channel
from hive_devnet.embedded.ledger.routing import Limits, find_route
from hive_devnet.embedded.node import FEATURES, EmbeddedNode
from hive_devnet.embedded.params import (
    anything,
    array,
    bad_param,
    msat,
    node_id,
    number,
    opt,
    req,
    scid,
    string,
    u32,
    u64,
)
from hive_devnet.embedded.registry import Call, Result, command
from hive_devnet.embedded.world import World

_STATES = ("offered", "settled", "local_failed", "failed")


def _known_channels(node: EmbeddedNode) -> list[Channel]:
    """Channels the node's gossip map has: announced ones and its own."""
    return [
        channel
        for channel in node.world.channels.usable()
        if channel.announce or node.node_id in (channel.opener, channel.acceptor)
    ]


@command("listnodes", opt("id", node_id))
async def listnodes(call: Call) -> Result:
    """Nodes of the graph."""
    world = call.node.world
    updates: dict[str, int] = {}
    for channel in _known_channels(call.node):
        for side in channel.sides:
            updates[side.node_id] = max(updates.get(side.node_id, 0), side.last_update)
    shown = [
        _describe_node(world, identity, stamp)
        for identity, stamp in sorted(updates.items())
        if call["id"] in (None, identity)
    ]
    return {"nodes": shown}


def _describe_node(world: World, identity: str, stamp: int) -> dict[str, Any]:
    row = world.database.one("SELECT name, port FROM node WHERE node_id = ?", (identity,))
    live = world.running(identity)
    return {
        "nodeid": identity,
        "alias": live.alias if live is not None else row["name"],
        "color": live.color if live is not None else identity[:6],
        "last_timestamp": stamp,
        "features": FEATURES["node"],
        "addresses": [{"type": "ipv4", "address": "127.0.0.1", "port": row["port"]}],
    }


@command("listchannels", opt("short_channel_id", scid), opt("source", node_id), opt("destination", node_id))
async def listchannels(call: Call) -> Result:
    """Both directions of every channel of the graph."""
    given = [name for name in ("short_channel_id", "source", "destination") if call[name] is not None]
    if len(given) > 1:
        raise RpcError(
            INVALID_PARAMS, "Can only specify one of `short_channel_id`, `source` or `destination`"
        )
    shown = []
    for channel in _known_channels(call.node):
        for source in sorted((channel.opener, channel.acceptor)):
            entry = _describe_direction(call.node.world, channel, source)
            if all(entry[name] == call[name] for name in given):
                shown.append(entry)
    return {"channels": shown}


def _describe_direction(world: World, channel: Channel, source: str) -> dict[str, Any]:
    side = channel.side(source)
    node = world.running(source)
    live = node is not None and node.peers.link(channel.peer_of(source)) is not None
    direction = channel.direction(source)
    return {
        "source": source,
        "destination": channel.peer_of(source),
        "short_channel_id": channel.scid,
        "direction": direction,
        "public": channel.announce,
        "amount_msat": channel.capacity_sat * 1000,
        "message_flags": 1,
        "channel_flags": direction if live else direction | 2,
        "active": live,
        "last_update": side.last_update,
        "base_fee_millisatoshi": side.policy.fee_base_msat,
        "fee_per_millionth": side.policy.fee_ppm,
        "delay": side.policy.cltv_delta,
        "htlc_minimum_msat": side.policy.htlc_min_msat,
        "htlc_maximum_msat": side.policy.htlc_max_msat,
        "features": "",
    }


@command(
    "getroute",
    req("id", node_id),
    req("amount_msat", msat),
    req("riskfactor", anything),
    opt("cltv", number, 9),
    opt("fromid", node_id),
    opt("fuzzpercent", anything),
    opt("exclude", array),
    opt("maxhops", number, 20),
)
async def getroute(call: Call) -> Result:
    """The cheapest route by the graph, whatever the balances."""
    node, target = call.node, call["id"]
    channels = _known_channels(node)
    if not any(target in (channel.opener, channel.acceptor) for channel in channels):
        text = f"{target}: unknown destination node_id (no public channels?)"
        raise RpcError(INVALID_PARAMS, text)
    excluded, nodes = _exclusions(channels, call["exclude"] or [])
    limits = Limits(call["cltv"], excluded, nodes, call["maxhops"])
    source = call["fromid"] or node.node_id
    route = find_route(channels, source, target, call["amount_msat"], limits)
    if route is None:
        raise RpcError(PAY_ROUTE_NOT_FOUND, "Could not find a route")
    return {
        "route": [
            {
                "id": hop.target,
                "channel": hop.scid,
                "direction": 0 if hop.source < hop.target else 1,
                "amount_msat": hop.amount_msat,
                "delay": hop.delay,
                "style": "tlv",
            }
            for hop in route
        ]
    }


def _exclusions(
    channels: list[Channel], items: list[Any]
) -> tuple[frozenset[tuple[int, str]], frozenset[str]]:
    directed: set[tuple[int, str]] = set()
    nodes: set[str] = set()
    for item in items:
        name, slash, direction = str(item).partition("/")
        if not slash:
            nodes.add(node_id("exclude", item))
            continue
        for channel in channels:
            if channel.scid == name:
                ends = sorted((channel.opener, channel.acceptor))
                directed.add((channel.id, ends[int(direction) & 1]))
    return frozenset(directed), frozenset(nodes)


def _forward_status(name: str, value: Any) -> str:
    if value not in _STATES:
        raise bad_param(name, "Unrecognized status", value)
    return str(value)


@command(
    "listforwards",
    opt("status", _forward_status),
    opt("in_channel", scid),
    opt("out_channel", scid),
    opt("index", index_name),
    opt("start", u64, 0),
    opt("limit", u32),
)
async def listforwards(call: Call) -> Result:
    """HTLCs this node was asked to forward."""
    rows = call.node.world.courier.payments.forwards(call.node.node_id)
    for name in ("status", "in_channel", "out_channel"):
        if call[name] is not None:
            rows = [row for row in rows if getattr(row, name) == call[name]]
    if call["index"] == "updated":
        rows = sorted((row for row in rows if row.updated_index), key=lambda row: row.updated_index or 0)
        rows = [row for row in rows if (row.updated_index or 0) >= call["start"]]
    else:
        rows = [row for row in rows if row.created_index >= call["start"]]
    rows = rows if call["limit"] is None else rows[: call["limit"]]
    return {"forwards": [describe_forward(row) for row in rows]}


@command("delforward", req("in_channel", scid), req("in_htlc_id", u64), req("status", _forward_status))
async def delforward(call: Call) -> Result:
    """Forgets a forward that has ended."""
    if call["status"] == "offered":
        raise bad_param("status", "delforward status must not be offered", "offered")
    database = call.node.world.database
    with database.transaction():
        removed = database.run(
            "DELETE FROM forward WHERE node_id = ? AND in_channel = ? AND in_htlc_id = ? AND status = ?",
            (call.node.node_id, call["in_channel"], call["in_htlc_id"], call["status"]),
        )
    if not removed:
        raise RpcError(DELFORWARD_NOT_FOUND, "Could not find that forward")
    return {}


@command("listhtlcs", opt("id", string), opt("index", index_name), opt("start", u64, 0), opt("limit", u32))
async def listhtlcs(call: Call) -> Result:
    """Every HTLC there ever was, of the node or of one channel."""
    node = call.node
    chosen = {find_channel(node, "id", call["id"]).id} if call["id"] is not None else None
    rows = node.world.database.rows(
        "SELECT htlc.*, channel.scid FROM htlc JOIN channel ON channel.id = htlc.channel"
        " WHERE channel.opener = ? OR channel.acceptor = ? ORDER BY htlc.id",
        (node.node_id, node.node_id),
    )
    shown = []
    for row in rows:
        if (chosen is not None and row["channel"] not in chosen) or row["id"] < call["start"]:
            continue
        sent = row["sender"] == node.node_id
        shown.append(
            {
                "short_channel_id": row["scid"],
                "created_index": row["id"],
                "id": row["number"],
                "expiry": row["expiry"],
                "amount_msat": row["amount_msat"],
                "direction": "out" if sent else "in",
                "payment_hash": row["payment_hash"],
                "state": htlc_state(row["state"], sent),
            }
        )
    return {"htlcs": shown if call["limit"] is None else shown[: call["limit"]]}
