"""Connections between nodes of the network, and the custom messages that travel on them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hive_devnet.embedded.errors import (
    CONNECT_ALL_ADDRESSES_FAILED,
    CONNECT_DISCONNECTED_DURING,
    CONNECT_NO_KNOWN_ADDRESS,
    RpcError,
)

if TYPE_CHECKING:
    from hive_devnet.embedded.node import EmbeddedNode


@dataclass(frozen=True)
class Link:
    """A live connection as one end sees it: the other node, who dialled, and the address."""

    peer: EmbeddedNode
    direction: str
    address: dict[str, Any]


class Peers:
    """The peers of one node."""

    def __init__(self, node: EmbeddedNode) -> None:
        self._node = node
        self._links: dict[str, Link] = {}
        self._inbox: dict[str, asyncio.Queue[bytes]] = {}

    def link(self, node_id: str) -> Link | None:
        """The connection to a node, if there is one."""
        return self._links.get(node_id)

    def connected_ids(self) -> list[str]:
        """Ids of connected peers in the order they came."""
        return list(self._links)

    async def connect(self, node_id: str, host: str | None, port: int | None) -> Link:
        """Dials a node unless it is connected. Raises RpcError 400/401/402 as `connect` does."""
        existing = self._links.get(node_id)
        if existing is not None:
            return existing
        target = self._node.world.running(node_id)
        if target is self._node:
            raise RpcError(CONNECT_ALL_ADDRESSES_FAILED, "All addresses failed: that is our own id")
        if target is None and host is None and not self._node.world.is_known(node_id):
            text = "Unable to connect, no address known for peer"
            raise RpcError(CONNECT_NO_KNOWN_ADDRESS, text)
        if target is None or (port is not None and port != target.port):
            where = f"{host or '127.0.0.1'}:{port or 9735}"
            text = f"All addresses failed: {where}: Connection establishment: Connection refused. "
            raise RpcError(CONNECT_ALL_ADDRESSES_FAILED, text)
        if self._node.in_grace or target.in_grace:
            raise RpcError(CONNECT_DISCONNECTED_DURING, "disconnected during connection")
        return await self._establish(target)

    async def _establish(self, target: EmbeddedNode) -> Link:
        ours = Link(target, "out", {"type": "ipv4", "address": "127.0.0.1", "port": target.port})
        theirs = Link(self._node, "in", {"type": "ipv4", "address": "127.0.0.1", "port": self._node.port})
        self._admit(target.node_id, ours)
        target.peers._admit(self._node.node_id, theirs)
        for node, link in ((self._node, ours), (target, theirs)):
            refusal = await _peer_connected_hook(node, link)
            if refusal is not None:
                self.drop(target.node_id)
                raise RpcError(CONNECT_DISCONNECTED_DURING, f"disconnected during connection: {refusal}")
        for node, link in ((self._node, ours), (target, theirs)):
            if node.peers.link(link.peer.node_id) is not link:
                raise RpcError(CONNECT_DISCONNECTED_DURING, "disconnected during connection")
            node.log.write("info", "lightningd", "peer connected", link.peer.node_id)
            payload = {"id": link.peer.node_id, "direction": link.direction, "address": link.address}
            node.notify("connect", payload)
        self._node.world.peers_connected(self._node, target)
        return ours

    def _admit(self, node_id: str, link: Link) -> None:
        self._links[node_id] = link
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._inbox[node_id] = queue
        self._node.spawn(self._deliver(node_id, queue))

    def drop(self, node_id: str) -> None:
        """Ends a connection on both ends; each end's plugins are told."""
        link = self._links.get(node_id)
        if link is None:
            return
        self._forget(node_id)
        link.peer.peers._forget(self._node.node_id)

    def _forget(self, node_id: str) -> None:
        if self._links.pop(node_id, None) is None:
            return
        self._inbox.pop(node_id, None)
        self._node.log.write("info", "lightningd", "peer disconnected", node_id)
        self._node.notify("disconnect", {"id": node_id})

    def drop_all(self) -> None:
        """Ends every connection."""
        for node_id in list(self._links):
            self.drop(node_id)

    def send_custom(self, node_id: str, message: bytes) -> None:
        """Hands a message to the peer, in order. Raises LookupError when it is not connected."""
        link = self._links.get(node_id)
        if link is None:
            raise LookupError(f"{node_id} is not connected")
        link.peer.peers._receive(self._node.node_id, message)

    def _receive(self, sender: str, message: bytes) -> None:
        queue = self._inbox.get(sender)
        if queue is not None:
            queue.put_nowait(message)

    async def _deliver(self, sender: str, queue: asyncio.Queue[bytes]) -> None:
        while self._inbox.get(sender) is queue or not queue.empty():
            message = await queue.get()
            await self._handle(sender, message)

    async def _handle(self, sender: str, message: bytes) -> None:
        payload = {"peer_id": sender, "payload": message.hex()}
        kind = int.from_bytes(message[:2], "big")
        self._node.commando.receive(sender, message)
        answers = await self._node.plugins.hooks.call("custommsg", payload, kind)
        for plugin, answer in answers:
            if answer.get("result") != "continue":
                text = f"Plugin {plugin.name} returned an invalid response to the custommsg hook: {answer}"
                self._node.log.write("broken", "lightningd", text)
        self._node.notify("custommsg", payload)


async def _peer_connected_hook(node: EmbeddedNode, link: Link) -> str | None:
    from hive_devnet.embedded.node import FEATURES

    address = f"{link.address['address']}:{link.address['port']}"
    peer = {
        "id": link.peer.node_id,
        "direction": link.direction,
        "addr": address,
        "features": FEATURES["init"],
    }
    answers = await node.plugins.hooks.call("peer_connected", {"peer": peer})
    for _, answer in answers:
        if answer.get("result") == "disconnect":
            return str(answer.get("error_message", "peer_connected hook"))
    return None
