"""staticbackup and getemergencyrecoverdata."""

from __future__ import annotations

from typing import Any

from hive_devnet.embedded.ledger.channel import Channel
from hive_devnet.embedded.node import EmbeddedNode
from hive_devnet.embedded.registry import Call, Result, command


def _scb(node: EmbeddedNode, channel: Channel) -> str:
    """One channel in the layout of CLN's static channel backup, without its optional records."""
    peer_id = channel.peer_of(node.node_id)
    row = node.world.database.one("SELECT port FROM node WHERE node_id = ?", (peer_id,))
    address = b"\x01\x7f\x00\x00\x01" + int(row["port"]).to_bytes(2, "big")
    return b"".join(
        (
            channel.id.to_bytes(8, "big"),
            bytes.fromhex(channel.channel_id),
            bytes.fromhex(peer_id),
            address,
            bytes.fromhex(channel.funding_txid)[::-1],
            channel.funding_outnum.to_bytes(4, "big"),
            channel.capacity_sat.to_bytes(8, "big"),
            b"\x00\x03\x40\x10\x00",
        )
    ).hex()


@command("staticbackup")
async def staticbackup(call: Call) -> Result:
    """What is needed to ask each peer to close, per live channel."""
    node = call.node
    return {"scb": [_scb(node, channel) for channel in node.world.channels.of_node(node.node_id)]}


@command("getemergencyrecoverdata")
async def getemergencyrecoverdata(call: Call) -> Result:
    """The node's backup, sealed with a key derived from its seed."""
    node = call.node
    channels = node.world.channels.of_node(node.node_id)
    plain = "".join(_scb(node, channel) for channel in channels)
    result: dict[str, Any] = {
        "filedata": node.keys.seal(bytes.fromhex(plain)).hex(),
        "can_create_penalty": True,
        "backed_up_channel_ids": [channel.channel_id for channel in channels],
    }
    return result
