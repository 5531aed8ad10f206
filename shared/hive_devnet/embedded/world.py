"""The whole embedded network of a process: its ledger, its nodes, and the events between them."""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hive_devnet.embedded import NETWORK_NAME
from hive_devnet.embedded.bell import Bell
from hive_devnet.embedded.courier import Courier
from hive_devnet.embedded.errors import NodeStartError, RpcError
from hive_devnet.embedded.keys import NodeKeys
from hive_devnet.embedded.ledger import invoices, layers, offers, payments, runes
from hive_devnet.embedded.ledger.chain import Chain
from hive_devnet.embedded.ledger.channel import AWAITING, LIVE, Change
from hive_devnet.embedded.ledger.channels import Channels
from hive_devnet.embedded.ledger.database import Database
from hive_devnet.embedded.ledger.payments import Payments
from hive_devnet.embedded.ledger.splices import Splices
from hive_devnet.embedded.ledger.wallet import Wallet
from hive_devnet.embedded.logbook import iso_time
from hive_devnet.embedded.node import EmbeddedNode

FIRST_PORT = 19735


class World:
    """Nodes and ledger under one directory."""

    def __init__(self, directory: Path, synchronous: str = "FULL") -> None:
        self.directory = directory
        self.database = Database(directory / "ledger.sqlite3", synchronous)
        for schema in (invoices.SCHEMA, offers.SCHEMA, payments.SCHEMA, runes.SCHEMA, layers.SCHEMA):
            self.database.extend(schema)
        self.chain = Chain(self.database)
        self.channels = Channels(self.database, self.chain)
        self.splices = Splices(self.database, self.chain, self.channels)
        self.nodes: dict[str, EmbeddedNode] = {}
        self.last_runs: dict[str, EmbeddedNode] = {}
        self.block_arrived = Bell()
        self.invoice_paid = Bell()
        self.nodes_changed = Bell()
        self.links_changed = Bell()
        self.courier = Courier(self, Payments(self.database, self.channels))
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- nodes -------------------------------------------------------------------------------------

    def _make(
        self, name: str, port: int, options: Mapping[str, object], plugins: Sequence[Path]
    ) -> EmbeddedNode:
        directory = self.directory / name
        return EmbeddedNode(
            world=self, name=name, directory=directory, port=port, options=options, plugins=plugins
        )

    async def add_node(
        self, name: str, options: Mapping[str, object], plugins: Sequence[Path]
    ) -> EmbeddedNode:
        """Creates a node and starts it. Raises NodeStartError; a node that never started is not kept."""
        if self.database.find("SELECT 1 FROM node WHERE name = ?", (name,)):
            raise NodeStartError(f"node {name} exists already")
        count = self.database.one("SELECT COUNT(*) FROM node")[0]
        node = self._make(name, FIRST_PORT + count, options, plugins)
        await node.start()
        self.database.run(
            "INSERT INTO node VALUES (?, ?, ?, ?, ?, 1)",
            (name, node.node_id, node.port, json.dumps(dict(options)), json.dumps([str(p) for p in plugins])),
        )
        self.nodes[name] = node
        self.nodes_changed.ring()
        return node

    async def start_node(self, name: str) -> EmbeddedNode:
        """Starts a stopped node with its recorded options; it dials its channel peers again."""
        if name in self.nodes:
            return self.nodes[name]
        row = self.database.find("SELECT * FROM node WHERE name = ?", (name,))
        if row is None:
            raise NodeStartError(f"there is no node {name}")
        await self.ended(name)
        plugins = [Path(item) for item in json.loads(row["plugins"])]
        options = json.loads(row["options"])
        node = self._make(name, row["port"], options, plugins)
        await node.start()
        self.nodes[name] = node
        self.database.run("UPDATE node SET running = 1 WHERE name = ?", (name,))
        await self.reconnect(node)
        self.nodes_changed.ring()
        return node

    async def resume(self) -> None:
        """Starts every node that ran when the process ended."""
        for row in self.database.rows("SELECT name FROM node WHERE running = 1 ORDER BY rowid"):
            await self.start_node(row["name"])
        self.courier.resume()

    async def reconnect(self, node: EmbeddedNode) -> None:
        """Connects a node to its channel peers that are up."""
        for peer_id in {channel.peer_of(node.node_id) for channel in self.channels.of_node(node.node_id)}:
            if self.running(peer_id) is not None:
                try:
                    await node.peers.connect(peer_id, None, None)
                except RpcError as error:
                    node.log.write("info", "lightningd", f"reconnect failed: {error}", peer_id)

    def forget(self, node: EmbeddedNode) -> None:
        """A node that ends leaves the table of running nodes."""
        if self.nodes.get(node.name) is node:
            del self.nodes[node.name]
            self.last_runs[node.name] = node
            self.database.run("UPDATE node SET running = 0 WHERE name = ?", (node.name,))

    async def ended(self, name: str) -> None:
        """Returns when the node is down, its plugins and its socket too."""
        last = self.nodes.get(name) or self.last_runs.get(name)
        if last is not None:
            await last.finished.wait()

    def running(self, node_id: str) -> EmbeddedNode | None:
        """The running node with that id."""
        return next((node for node in self.nodes.values() if node.node_id == node_id), None)

    async def when_running(self, node_id: str) -> EmbeddedNode:
        """The node with that id, once it runs."""
        while (node := self.running(node_id)) is None:
            await self.nodes_changed.wait()
        return node

    @staticmethod
    def now() -> float:
        """The network's clock, Unix seconds."""
        return time.time()

    def keys_of(self, node_id: str) -> NodeKeys:
        """Keys of a node, running or not, for transactions that both ends of a channel have signed."""
        row = self.database.one("SELECT name FROM node WHERE node_id = ?", (node_id,))
        return NodeKeys.load(self.directory / row["name"] / NETWORK_NAME / "hsm_secret")

    def wallet_of(self, node_id: str) -> Wallet:
        """The wallet of a node, running or not."""
        return Wallet(self.database, self.chain, self.keys_of(node_id))

    def is_known(self, node_id: str) -> bool:
        """Whether the network ever had that node."""
        return self.database.find("SELECT 1 FROM node WHERE node_id = ?", (node_id,)) is not None

    def in_graph(self, node_id: str) -> bool:
        """Whether the gossip graph has that node: it has a usable, announced channel."""
        query = (
            "SELECT 1 FROM channel WHERE state IN (?, ?) AND announce = 1 AND (opener = ? OR acceptor = ?)"
        )
        return self.database.find(query, (*LIVE, node_id, node_id)) is not None

    async def close(self, keep_running_flags: bool = True) -> None:
        """Stops all nodes; with the flags kept, `resume` brings the same ones back."""
        names = list(self.nodes)
        await asyncio.gather(*(node.stop() for node in list(self.nodes.values())))
        if keep_running_flags:
            for name in names:
                self.database.run("UPDATE node SET running = 1 WHERE name = ?", (name,))
        self.database.close()

    def spawn(self, coroutine: Any) -> None:
        """Runs a coroutine outside any node."""
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            traceback.print_exception(task.exception())

    # -- events ------------------------------------------------------------------------------------

    def mine(self, blocks: int) -> int:
        """Mines blocks; nodes are told and channels lock in. Returns the height."""
        height = self.chain.height
        for _ in range(blocks):
            height = self.chain.mine()
            payload = {"hash": self.chain.block_hash(height), "height": height}
            for node in list(self.nodes.values()):
                node.notify("block_added", payload)
            self._lock_in_channels()
            for channel in self.channels.live():
                self.announce(self.channels.bury(channel))
        self.block_arrived.ring()
        return height

    def peers_connected(self, a: EmbeddedNode, b: EmbeddedNode) -> None:
        """Two nodes have a connection: channels between them come to life."""
        self.channels.touch_stable(a.node_id, b.node_id)
        self.links_changed.ring()
        self._lock_in_channels()

    def _lock_in_channels(self) -> None:
        for channel in self.channels.live():
            opener = self.running(channel.opener)
            if opener is not None and opener.peers.link(channel.acceptor) is not None:
                self.announce(self.channels.lock_in(channel))
                self.announce(self.splices.lock(channel))

    def announce(self, changes: Iterable[Change]) -> None:
        """Tells the plugins of both sides about channel state changes."""
        for change in changes:
            node = self.running(change.node_id)
            if node is None:
                continue
            channel = change.channel
            peer_id = channel.peer_of(change.node_id)
            payload: dict[str, Any] = {"peer_id": peer_id, "channel_id": channel.channel_id}
            if channel.scid is not None:
                payload["short_channel_id"] = channel.scid
            payload |= {
                "timestamp": iso_time(change.time),
                "old_state": change.old_state,
                "new_state": change.new_state,
                "cause": change.cause,
                "message": change.message,
            }
            node.notify("channel_state_changed", payload)
            if change.old_state == AWAITING and change.node_id == channel.acceptor:
                self._notify_opened(node, channel.opener, channel.capacity_sat, channel.funding_txid)

    @staticmethod
    def _notify_opened(node: EmbeddedNode, peer_id: str, capacity_sat: int, txid: str) -> None:
        node.notify(
            "channel_opened",
            {"id": peer_id, "funding_msat": capacity_sat * 1000, "funding_txid": txid, "channel_ready": True},
        )
