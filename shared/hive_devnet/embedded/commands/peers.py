"""connect, disconnect, listpeers, sendcustommsg, ping."""

from __future__ import annotations

from typing import Any

from hive_devnet.embedded.errors import INVALID_PARAMS, INVALID_REQUEST, LIGHTNINGD, RpcError
from hive_devnet.embedded.node import FEATURES
from hive_devnet.embedded.params import (
    anything,
    bad_param,
    boolean,
    hex_bytes,
    is_node_id,
    node_id,
    number,
    opt,
    req,
    string,
)
from hive_devnet.embedded.registry import Call, Result, command

# Types of BOLT messages that lightningd keeps for itself (peer_storage, 7 and 9, are let through).
_INTERNAL_TYPES = {
    0: "WIRE_PROTOCOL_BATCH_ELEMENT",
    1: "WIRE_WARNING",
    2: "WIRE_STFU",
    16: "WIRE_INIT",
    17: "WIRE_ERROR",
    18: "WIRE_PING",
    19: "WIRE_PONG",
    32: "WIRE_OPEN_CHANNEL",
    33: "WIRE_ACCEPT_CHANNEL",
    34: "WIRE_FUNDING_CREATED",
    35: "WIRE_FUNDING_SIGNED",
    36: "WIRE_CHANNEL_READY",
    38: "WIRE_SHUTDOWN",
    39: "WIRE_CLOSING_SIGNED",
    40: "WIRE_CLOSING_COMPLETE",
    41: "WIRE_CLOSING_SIG",
    64: "WIRE_OPEN_CHANNEL2",
    65: "WIRE_ACCEPT_CHANNEL2",
    66: "WIRE_TX_ADD_INPUT",
    67: "WIRE_TX_ADD_OUTPUT",
    68: "WIRE_TX_REMOVE_INPUT",
    69: "WIRE_TX_REMOVE_OUTPUT",
    70: "WIRE_TX_COMPLETE",
    71: "WIRE_TX_SIGNATURES",
    72: "WIRE_TX_INIT_RBF",
    73: "WIRE_TX_ACK_RBF",
    74: "WIRE_TX_ABORT",
    77: "WIRE_SPLICE_LOCKED",
    80: "WIRE_SPLICE",
    81: "WIRE_SPLICE_ACK",
    127: "WIRE_START_BATCH",
    128: "WIRE_UPDATE_ADD_HTLC",
    130: "WIRE_UPDATE_FULFILL_HTLC",
    131: "WIRE_UPDATE_FAIL_HTLC",
    132: "WIRE_COMMITMENT_SIGNED",
    133: "WIRE_REVOKE_AND_ACK",
    134: "WIRE_UPDATE_FEE",
    135: "WIRE_UPDATE_FAIL_MALFORMED_HTLC",
    136: "WIRE_CHANNEL_REESTABLISH",
    137: "WIRE_UPDATE_BLOCKHEIGHT",
    256: "WIRE_CHANNEL_ANNOUNCEMENT",
    257: "WIRE_NODE_ANNOUNCEMENT",
    258: "WIRE_CHANNEL_UPDATE",
    259: "WIRE_ANNOUNCEMENT_SIGNATURES",
    261: "WIRE_QUERY_SHORT_CHANNEL_IDS",
    262: "WIRE_REPLY_SHORT_CHANNEL_IDS_END",
    263: "WIRE_QUERY_CHANNEL_RANGE",
    264: "WIRE_REPLY_CHANNEL_RANGE",
    265: "WIRE_GOSSIP_TIMESTAMP_FILTER",
    513: "WIRE_ONION_MESSAGE",
}


def _port(name: str, value: Any) -> int:
    text = str(value)
    if not text.isdigit() or int(text) > 65535:
        raise bad_param(name, "should be a 16-bit integer", value)
    if int(text) == 0:
        raise bad_param(name, "should be non-zero", value)
    return int(text)


@command("connect", req("id", string), opt("host", string), opt("port", _port))
async def connect(call: Call) -> Result:
    """Connects to a peer, `id` or `id@host:port`."""
    peer_id, at, address = call["id"].partition("@")
    if not is_node_id(peer_id):
        raise bad_param("id", "should be a node id", call["id"])
    host, port = call["host"], call["port"]
    if at:
        if host is not None:
            text = "Can't specify host as both xxx@yyy and separate argument"
            raise RpcError(INVALID_PARAMS, text)
        host, colon, number_text = address.partition(":")
        if (colon and not number_text.isdigit()) or not host:
            raise RpcError(INVALID_PARAMS, "malformed host @part")
        if colon and port is not None:
            text = "Can't specify port as both xxx@yyy:port and separate argument"
            raise RpcError(INVALID_PARAMS, text)
        port = int(number_text) if colon else port
    if port is not None and host is None:
        raise RpcError(INVALID_PARAMS, "Can't specify port without host")
    link = await call.node.peers.connect(peer_id.lower(), host, port)
    return {
        "id": link.peer.node_id,
        "features": FEATURES["init"],
        "direction": link.direction,
        "address": link.address,
    }


@command("disconnect", req("id", node_id), opt("force", boolean, False), checks=True)
async def disconnect(call: Call) -> Result:
    """Hangs up on a peer; with live channels only by force."""
    node, peer_id = call.node, call["id"]
    everything = node.world.channels.of_node(node.node_id)
    channels = [channel for channel in everything if channel.peer_of(node.node_id) == peer_id]
    if node.peers.link(peer_id) is None:
        if not channels:
            raise RpcError(INVALID_PARAMS, f"Unknown peer '{peer_id}'")
        raise RpcError(LIGHTNINGD, "Peer not connected")
    if channels and not call["force"]:
        text = f"Peer has (at least one) channel in state {channels[0].state}"
        raise RpcError(LIGHTNINGD, text)
    if not call.check_only:
        node.peers.drop(peer_id)
    return {}


@command("listpeers", opt("id", node_id), opt("level", anything))
async def listpeers(call: Call) -> Result:
    """Connected peers and peers with channels."""
    node = call.node
    counts: dict[str, int] = dict.fromkeys(node.peers.connected_ids(), 0)
    for channel in node.world.channels.of_node(node.node_id):
        peer_id = channel.peer_of(node.node_id)
        counts[peer_id] = counts.get(peer_id, 0) + 1
    peers = []
    for peer_id, count in counts.items():
        if call["id"] not in (None, peer_id):
            continue
        link = node.peers.link(peer_id)
        entry: dict[str, Any] = {"id": peer_id, "connected": link is not None, "num_channels": count}
        if link is not None:
            entry["netaddr"] = [f"{link.address['address']}:{link.address['port']}"]
            entry["features"] = FEATURES["init"]
        peers.append(entry)
    return {"peers": peers}


@command("sendcustommsg", req("node_id", node_id), req("msg", hex_bytes), checks=True)
async def sendcustommsg(call: Call) -> Result:
    """Sends a message of a type the protocol does not use to a connected peer."""
    node, peer_id, message = call.node, call["node_id"], call["msg"]
    kind = int.from_bytes(message[:2], "big") if len(message) >= 2 else -1
    if kind in _INTERNAL_TYPES:
        raise RpcError(
            INVALID_REQUEST,
            f"Cannot send messages of type {kind} ({_INTERNAL_TYPES[kind]}). It is not possible to send"
            " messages that have a type managed internally since that might cause issues with the internal"
            " state tracking.",
        )
    if node.peers.link(peer_id) is None:
        channels = node.world.channels.of_node(node.node_id)
        if any(channel.peer_of(node.node_id) == peer_id for channel in channels):
            raise RpcError(INVALID_REQUEST, "Peer is not connected")
        raise RpcError(INVALID_REQUEST, f"No such peer: {peer_id}")
    if call.check_only:
        return {}
    node.peers.send_custom(peer_id, message)
    return {"status": "Message sent to connectd for delivery"}


@command("ping", req("id", node_id), opt("len", number, 128), opt("pongbytes", number, 128), checks=True)
async def ping(call: Call) -> Result:
    """Pings a connected peer; the length of the answer is what was asked for."""
    if call.node.peers.link(call["id"]) is None:
        raise RpcError(LIGHTNINGD, "Peer not connected")
    if call["len"] > 65535 - 4:
        raise RpcError(LIGHTNINGD, f"{call['len']} would result in oversize ping")
    return {"totlen": call["pongbytes"] + 4 if call["pongbytes"] < 65532 else 0}
