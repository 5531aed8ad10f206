"""graceful: the node takes no more payments and lets its peers go, so that it can be stopped."""

from __future__ import annotations

import asyncio
from typing import Any

from hive_devnet.embedded.node import EmbeddedNode
from hive_devnet.embedded.params import opt, u64
from hive_devnet.embedded.registry import Call, Result, command


@command("graceful", opt("timeout", u64))
async def graceful(call: Call) -> Result:
    """Returns when no HTLC is open and no peer connected, or after `timeout` seconds with what is left."""
    node, left = call.node, call["timeout"]
    node.in_grace = True
    node.log.write("unusual", "lightningd", "JSON-RPC graceful: preventing more connections")
    try:
        async with asyncio.timeout(left):
            while _busy(node):
                await node.world.courier.finished.wait()
    except TimeoutError:
        pass
    pending: dict[str, Any] = {}
    if expiries := sorted(int(row["expiry"]) for row in _htlcs(node)):
        pending["pending_htlc_expiries"] = expiries
    if peers := node.peers.connected_ids():
        pending["pending_peers"] = peers
    return pending


def _htlcs(node: EmbeddedNode) -> list[Any]:
    channels = node.world.channels
    return [row for channel in channels.of_node(node.node_id) for row in channels.htlcs(channel)]


def _busy(node: EmbeddedNode) -> bool:
    """Lets go of every peer without an HTLC; whether one is left."""
    channels = node.world.channels
    with_htlcs = {c.peer_of(node.node_id) for c in channels.of_node(node.node_id) if channels.htlcs(c)}
    for peer_id in node.peers.connected_ids():
        if peer_id not in with_htlcs:
            node.peers.drop(peer_id)
    return bool(with_htlcs)
