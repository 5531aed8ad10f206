"""Real lightningd nodes for the development network (`Network` and `NodeHandle` of `hive_devnet.node`).

Each network owns one `RegtestChain` file; each node runs `bitcoin_backend` on it in place of `bcli`. Options
a caller gives go to the node's config file, not to the command line, where a `setconfig` could not outlive
a restart.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hive_devnet import rpc
from hive_devnet.lightningd.bitcoin_backend import CHAIN_OPTION, OWNER_OPTION
from hive_devnet.lightningd.chain import RegtestChain
from hive_devnet.lightningd.processes import child_running, group_running, is_running
from hive_devnet.node import DevnetRpcError, NodeHandle
from hive_devnet.ports import free_port

START_SECONDS = 60.0
SYNC_SECONDS = 60.0
GOSSIP_SECONDS = 60.0
STOP_SECONDS = 45.0
ANNOUNCE_DEPTH = 6
_POLL_SECONDS = 0.1
_UP = b"Server started with public key"


class NodeStartError(RuntimeError):
    """Raised when a node does not come up; carries the end of what it said."""


async def wait_until(what: str, seconds: float, ready: Callable[[], Awaitable[bool]]) -> None:
    """Return once `ready` is true; raise `TimeoutError` naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not await ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain until {what}")
        await asyncio.sleep(_POLL_SECONDS)


def _config_lines(options: Mapping[str, object], plugins: Sequence[Path]) -> list[str]:
    lines = []
    for name, value in options.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            text = str(item).lower() if isinstance(item, bool) else str(item)
            if "\n" in name + text:
                raise ValueError(f"option {name} holds a line break, which a config file cannot carry")
            lines.append(name if item is None else f"{name}={text}")
    return lines + [f"plugin={plugin.resolve()}" for plugin in plugins]


class LightningdNode:
    """One lightningd process and its directory; made by `LightningdNetwork.add_node`."""

    def __init__(self, name: str, directory: Path, command: Sequence[str]) -> None:
        self.name = name
        self.dir = directory
        self.net_dir = directory / "regtest"
        self.rpc_path = self.net_dir / "lightning-rpc"
        self.node_id = ""
        self._command = list(command)
        self._process: asyncio.subprocess.Process | None = None
        self._log_from = 0

    @property
    def _log(self) -> Path:
        return self.dir / "log"

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.returncode is None

    @property
    def process_id(self) -> int:
        """The pid of lightningd; raises `LookupError` while the node does not run."""
        if self._process is None or self._process.returncode is not None:
            raise LookupError(f"node {self.name} is not running")
        return self._process.pid

    async def call(
        self,
        method: str,
        params: Mapping[str, object] | Sequence[object] | None = None,
        timeout: float = 60,
    ) -> dict[str, Any]:
        """Call an RPC method. Raises `DevnetRpcError`, `TimeoutError` or `ConnectionError`."""
        try:
            return await rpc.call(self.rpc_path, method, params, timeout)
        except FileNotFoundError:
            raise ConnectionRefusedError(f"node {self.name} has no RPC socket at {self.rpc_path}") from None

    async def start(self) -> None:
        """Start the process and return when it serves; raises `NodeStartError` with its last words."""
        if self.running:
            raise NodeStartError(f"node {self.name} is running already")
        self._log_from = self._log.stat().st_size if self._log.exists() else 0
        # A killed node leaves its socket behind, which would look like a node that refuses callers.
        self.rpc_path.unlink(missing_ok=True)
        # Plugins start with `#!/usr/bin/env python3`: that has to be the interpreter with their packages.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        with (self.dir / "stdout").open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PATH": path},
                # A group of its own lets kill() take the subdaemons and plugins with it.
                start_new_session=True,
            )
        try:
            await wait_until(f"node {self.name} answers", START_SECONDS, self._answers)
        except TimeoutError as error:
            await self.kill()
            raise NodeStartError(f"{error}: {self._last_words()}") from None

    async def _answers(self) -> bool:
        if not self.running:
            raise NodeStartError(f"node {self.name} ended while starting: {self._last_words()}")
        try:
            self.node_id = str((await self.call("getinfo", timeout=5))["id"])
        except (ConnectionError, TimeoutError):
            return False
        except DevnetRpcError as error:
            # Plugins are still starting: methods are not there yet.
            if error.code != -32601:
                raise
            return False
        # It answers before it is up; a plugin that is started until then never gets its init.
        with self._log.open("rb") as log:
            log.seek(self._log_from)
            return _UP in log.read()

    def _last_words(self) -> str:
        shown = (self.dir / "stdout").read_text(errors="replace")[-2000:].strip()
        return shown or self.log_text()[-2000:].strip() or "it said nothing"

    async def stop(self) -> None:
        """Ask the node to stop and return when it has; its plugins see `shutdown`."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        try:
            await self.call("stop")
        except ConnectionError:
            # The answer may be lost as the socket closes; only the end of the process counts.
            pass
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()

    async def kill(self) -> None:
        """End the node, its subdaemons and its plugins with SIGKILL, as a power cut would."""
        process = self._process
        if process is None:
            return
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        await process.wait()

        async def gone() -> bool:
            return not group_running(process.pid)

        # The kernel ends the others in its own time; a restart must not meet them.
        await wait_until(f"all processes of {self.name} ended", 10, gone)

    async def ended(self) -> None:
        """Return when the process has ended, whoever stopped it."""
        if self._process is not None:
            await self._process.wait()

    async def plugin_pid(self, name: str) -> int:
        """Return the pid of the plugin whose executable's basename is `name`; `LookupError` if none runs."""
        pid = child_running(self.process_id, name)
        if pid is None:
            raise LookupError(f"node {self.name} runs no plugin {name}")
        return pid

    async def kill_plugin(self, name: str) -> None:
        """SIGKILL a plugin; return when lightningd no longer lists it. Raises `LookupError`."""
        pid = await self.plugin_pid(name)
        os.kill(pid, signal.SIGKILL)

        async def unlisted() -> bool:
            if is_running(pid):
                return False
            if not self.running:
                return True
            listed = (await self.call("plugin", {"subcommand": "list"}))["plugins"]
            return all(Path(plugin["name"]).name != name for plugin in listed)

        await wait_until(f"node {self.name} notices the end of {name}", 15, unlisted)

    def log_text(self) -> str:
        """Return the node's whole log file so far, empty before its first line."""
        try:
            return self._log.read_text(errors="replace")
        except FileNotFoundError:
            return ""


class LightningdNetwork:
    """A network of real nodes under one directory; needs `lightningd` on PATH.

    Raises `FileNotFoundError` when there is none.
    """

    kind = "lightningd"

    def __init__(self, directory: Path) -> None:
        found = shutil.which("lightningd")
        if found is None:
            raise FileNotFoundError("no lightningd on PATH: install Core Lightning or use the embedded node")
        self.dir = directory.resolve()
        self.dir.mkdir(parents=True, exist_ok=True)
        self._lightningd = found
        self._chain_path = self.dir / "chain.sqlite3"
        self._chain = RegtestChain(self._chain_path, create=True)
        self.nodes: dict[str, LightningdNode] = {}
        self._backend = self._write_backend()

    @classmethod
    async def open(cls, directory: Path) -> LightningdNetwork:
        """Open the network under `directory`, new or left there before; its nodes run when this returns."""
        network = cls(directory)
        try:
            for config in sorted(network.dir.glob("*/config")):
                await network._launch(config.parent.name)
        except BaseException:
            await network.close()
            raise
        return network

    @property
    def chain(self) -> RegtestChain:
        """The chain that the nodes follow."""
        return self._chain

    def _write_backend(self) -> Path:
        # The wrapper pins the interpreter that runs us; the node's PATH may hold an older one.
        script = Path(__file__).with_name("bitcoin_backend.py")
        wrapper = self.dir / "bitcoin-backend"
        wrapper.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(script))}\n")
        wrapper.chmod(0o755)
        return wrapper

    def _command(self, directory: Path, name: str) -> list[str]:
        return [
            self._lightningd,
            "--developer",
            f"--lightning-dir={directory}",
            "--network=regtest",
            "--disable-plugin=bcli",
            f"--plugin={self._backend}",
            f"--{CHAIN_OPTION}={self._chain_path}",
            f"--{OWNER_OPTION}={os.getpid()}",
            "--dev-allow-localhost",
            "--dev-bitcoind-poll=1",
            "--dev-fast-gossip",
            "--dev-fast-reconnect",
            "--disable-dns",
            # Peers are who a test connects: a node that has few would look for others by itself.
            "--autoconnect-seeker-peers=0",
            "--log-level=debug",
            f"--log-prefix={name} ",
            f"--log-file={directory / 'log'}",
        ]

    async def add_node(
        self, name: str, options: Mapping[str, object] | None = None, plugins: Sequence[Path] = ()
    ) -> LightningdNode:
        """Create and start a node; returns once it follows the chain.

        `options` are lightningd's, None for a flag, a list for a repeated option. Raises `NodeStartError`
        when lightningd refuses to run, `ValueError` for a name taken or an option no config file can hold.
        """
        directory = self.dir / name
        if name in self.nodes or directory.exists():
            raise ValueError(f"this network already has a node {name!r}")
        defaults = {
            "alias": name,
            "addr": f"127.0.0.1:{free_port()}",
            # --developer switches deprecated calls off, which an operator's node allows.
            "allow-deprecated-apis": True,
        }
        lines = _config_lines({**defaults, **(options or {})}, plugins)
        directory.mkdir()
        (directory / "config").write_text("".join(f"{line}\n" for line in lines))
        return await self._launch(name)

    async def _launch(self, name: str) -> LightningdNode:
        directory = self.dir / name
        node = LightningdNode(name, directory, self._command(directory, name))
        self.nodes[name] = node
        await node.start()
        await self._wait_synced([node])
        return node

    async def mine(self, blocks: int = 1) -> int:
        """Mine blocks; return the new height once every live node has seen it."""
        height = self._chain.mine(blocks)
        await self._wait_synced([node for node in self.nodes.values() if node.running])
        return height

    async def _wait_synced(self, nodes: Sequence[LightningdNode]) -> None:
        async def synced() -> bool:
            for node in nodes:
                info = await node.call("getinfo")
                behind = "warning_lightningd_sync" in info or "warning_bitcoind_sync" in info
                if behind or int(info["blockheight"]) < self._chain.height():
                    return False
            return True

        names = ", ".join(node.name for node in nodes)
        await wait_until(f"{names} followed the chain", SYNC_SECONDS, synced)

    async def fund(self, node: NodeHandle, amount_sat: int) -> str:
        """Give `node` a confirmed, spendable wallet output; return its txid."""
        address = str((await node.call("newaddr", {"addresstype": "bech32"}))["bech32"])
        txid = self._chain.faucet(address, amount_sat)
        await self.mine(1)

        async def spendable() -> bool:
            outputs = (await node.call("listfunds"))["outputs"]
            return any(output["txid"] == txid and output["status"] == "confirmed" for output in outputs)

        await wait_until(f"{node.name} can spend {txid}", SYNC_SECONDS, spendable)
        return txid

    async def connect(self, a: NodeHandle, b: NodeHandle) -> None:
        """Connect two nodes as peers; returns when both list each other as connected."""
        port = next(item for item in (await b.call("getinfo"))["binding"] if item["type"] == "ipv4")["port"]
        await a.call("connect", {"id": b.node_id, "host": "127.0.0.1", "port": port})

        async def listed() -> bool:
            peers = (await b.call("listpeers", {"id": a.node_id}))["peers"]
            return any(peer["connected"] for peer in peers)

        await wait_until(f"{b.name} lists {a.name} as peer", SYNC_SECONDS, listed)

    async def open_channel(self, a: NodeHandle, b: NodeHandle, capacity_sat: int, push_msat: int = 0) -> str:
        """Open an announced channel from `a` to `b` and mine it; return its short channel id.

        Returns when both sides are in CHANNELD_NORMAL and both know both directions.
        """
        await self.connect(a, b)
        params = {"id": b.node_id, "amount": capacity_sat, "push_msat": push_msat}
        funded = await a.call("fundchannel", params, 120)
        await self.mine(ANNOUNCE_DEPTH)
        scid = ""

        async def usable() -> bool:
            nonlocal scid
            for node, peer in ((a, b), (b, a)):
                channels = (await node.call("listpeerchannels", {"id": peer.node_id}))["channels"]
                mine = [item for item in channels if item.get("channel_id") == funded["channel_id"]]
                if not mine or mine[0]["state"] != "CHANNELD_NORMAL" or "short_channel_id" not in mine[0]:
                    return False
                scid = str(mine[0]["short_channel_id"])
                gossip = (await node.call("listchannels", {"short_channel_id": scid}))["channels"]
                if len(gossip) != 2:
                    return False
            return True

        await wait_until(f"the channel {a.name} - {b.name} is usable", GOSSIP_SECONDS, usable)
        return scid

    async def close(self) -> None:
        """Stop every node, kill what does not stop, and close the chain."""
        for node in self.nodes.values():
            try:
                await node.stop()
            except (TimeoutError, DevnetRpcError):
                pass
            finally:
                await node.kill()
        self._chain.close()
