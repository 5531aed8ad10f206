"""Opening a network of the development environment, and the driver of the embedded one."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hive_devnet import forks, rpc
from hive_devnet.node import DevnetRpcError, Network, NodeHandle

KINDS = ("embedded", "lightningd")
_PACKAGES = Path(__file__).resolve().parents[1]


async def open_network(directory: Path, kind: str | None = None) -> Network:
    """Opens the network under `directory`, new or left there before.

    `kind` None takes HIVE_NODE from the environment, else "lightningd" when that is on PATH, else
    "embedded". Raises ValueError on another kind.
    """
    found = "lightningd" if shutil.which("lightningd") else "embedded"
    chosen = kind or os.environ.get("HIVE_NODE") or found
    if chosen not in KINDS:
        raise ValueError(f"node kind {chosen!r} is not one of {', '.join(KINDS)}")
    if chosen == "embedded":
        return await EmbeddedNetwork.open(directory)
    from hive_devnet.lightningd.driver import LightningdNetwork

    network: Network = await LightningdNetwork.open(directory)
    return network


class EmbeddedNodeHandle:
    """A node inside the network process."""

    def __init__(self, network: EmbeddedNetwork, name: str, node_id: str, port: int) -> None:
        self._network = network
        self.name = name
        self.node_id = node_id
        self.port = port
        self.dir = network.dir / name
        self.net_dir = self.dir / "regtest"
        self.rpc_path = self.net_dir / "lightning-rpc"

    async def call(
        self,
        method: str,
        params: Mapping[str, object] | Sequence[object] | None = None,
        timeout: float = 60,
    ) -> dict[str, Any]:
        """Calls an RPC method of the node."""
        return await rpc.call(self.rpc_path, method, params, timeout)

    async def stop(self) -> None:
        """Stops the node in an orderly way."""
        await self._network.control("stop_node", {"name": self.name})

    async def kill(self) -> None:
        """Ends the node as SIGKILL would."""
        await self._network.control("kill_node", {"name": self.name})

    async def start(self) -> None:
        """Starts the node again."""
        await self._network.control("start_node", {"name": self.name})

    async def ended(self) -> None:
        """Returns when the node is down, however that came."""
        await self._network.control("node_ended", {"name": self.name}, timeout=3_600)

    async def plugin_pid(self, name: str) -> int:
        """Process id of a plugin. Raises LookupError."""
        result = await self._plugin_operation("plugin_pid", name)
        return int(result["pid"])

    async def kill_plugin(self, name: str) -> None:
        """SIGKILLs a plugin; returns when the node has noticed. Raises LookupError."""
        await self._plugin_operation("kill_plugin", name)

    async def _plugin_operation(self, operation: str, plugin: str) -> dict[str, Any]:
        try:
            return await self._network.control(operation, {"name": self.name, "plugin": plugin})
        except DevnetRpcError as error:
            raise LookupError(error.message) from error

    def log_text(self) -> str:
        """The node's log file."""
        return (self.dir / "log").read_text(errors="replace")


class EmbeddedNetwork:
    """The embedded network: one process of `hive_devnet.embedded`, driven over its control socket."""

    kind = "embedded"

    def __init__(self, directory: Path) -> None:
        self.dir = directory.resolve()
        self.nodes: dict[str, EmbeddedNodeHandle] = {}
        self._process: forks.Process | None = None

    @classmethod
    async def open(cls, directory: Path, synchronous: str = "FULL") -> EmbeddedNetwork:
        """Starts the network process of `directory`; nodes that ran there before run again."""
        network = cls(directory)
        network.dir.mkdir(parents=True, exist_ok=True)
        await network._launch(synchronous)
        return network

    async def _launch(self, synchronous: str = "FULL") -> None:
        environment = dict(os.environ)
        paths = [str(_PACKAGES), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        control = self.dir / "control"
        control.unlink(missing_ok=True)
        program = ("-m", "hive_devnet.embedded")
        parent = forks.parent_of(program, environment)
        arguments = ["--dir", str(self.dir), "--synchronous", synchronous, "--parent", str(parent)]
        with (self.dir / "network.log").open("ab") as output:
            self._process = await forks.spawn(
                *program,
                *arguments,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        await self._until_ready(control)
        for row in (await self.control("nodes"))["nodes"]:
            self.nodes[row["name"]] = EmbeddedNodeHandle(self, row["name"], row["node_id"], row["port"])

    async def _until_ready(self, control: Path, seconds: float = 120) -> None:
        assert self._process is not None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process.returncode is not None:
                break
            try:
                await rpc.call(control, "nodes", timeout=5)
                return
            except (FileNotFoundError, ConnectionError, TimeoutError):
                await asyncio.sleep(0.01)
        tail = (self.dir / "network.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the embedded network in {self.dir} did not come up:\n{tail}")

    async def control(
        self, operation: str, params: Mapping[str, object] | None = None, timeout: float = 120
    ) -> dict[str, Any]:
        """Runs a network operation. Raises DevnetRpcError."""
        return await rpc.call(self.dir / "control", operation, params, timeout)

    async def add_node(
        self, name: str, options: Mapping[str, object] | None = None, plugins: Sequence[Path] = ()
    ) -> EmbeddedNodeHandle:
        """Creates and starts a node. Raises DevnetRpcError when it refuses to start."""
        given = {"name": name, "options": dict(options or {}), "plugins": [str(p.resolve()) for p in plugins]}
        result = await self.control("add_node", given, timeout=300)
        self.nodes[name] = EmbeddedNodeHandle(self, name, result["node_id"], result["port"])
        return self.nodes[name]

    async def mine(self, blocks: int = 1) -> int:
        """Mines blocks; returns the new height."""
        return int((await self.control("mine", {"blocks": blocks}))["height"])

    async def fund(self, node: NodeHandle, amount_sat: int) -> str:
        """Gives `node` a confirmed, spendable output; returns its txid."""
        address = (await node.call("newaddr", {"addresstype": "bech32"}))["bech32"]
        result = await self.control("faucet", {"address": address, "amount_sat": amount_sat})
        await self.mine(1)
        return str(result["txid"])

    async def connect(self, a: NodeHandle, b: NodeHandle) -> None:
        """Connects two nodes as peers."""
        info = await b.call("getinfo")
        port = info["binding"][0]["port"]
        await a.call("connect", {"id": f"{b.node_id}@127.0.0.1:{port}"})

    async def open_channel(self, a: NodeHandle, b: NodeHandle, capacity_sat: int, push_msat: int = 0) -> str:
        """Opens a channel from `a` to `b` and makes it usable; returns its scid."""
        await self.connect(a, b)
        params = {"id": b.node_id, "amount": capacity_sat, "push_msat": push_msat}
        funded = await a.call("fundchannel", params)
        await self.mine(6)
        channels = (await a.call("listpeerchannels", {"channel_id": funded["channel_id"]}))["channels"]
        return str(channels[0]["short_channel_id"])

    async def kill(self) -> None:
        """SIGKILLs the network process with all its nodes; `reopen` brings it back."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def reopen(self) -> None:
        """Starts the network process again after `kill`; nodes that ran then run again."""
        await self._launch()

    async def close(self) -> None:
        """Stops every node and the process."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        try:
            await self.control("close")
        except (ConnectionError, FileNotFoundError, TimeoutError):
            pass
        try:
            await asyncio.wait_for(process.wait(), 60)
        except TimeoutError:
            process.kill()
            await process.wait()
