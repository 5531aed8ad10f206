"""One node of the embedded network: its start, its end, and the way of every RPC call through it."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hive_devnet.embedded import NETWORK_NAME
from hive_devnet.embedded.commando import Commando
from hive_devnet.embedded.errors import (
    INVALID_PARAMS,
    LIGHTNINGD,
    LIGHTNINGD_SHUTDOWN,
    METHOD_NOT_FOUND,
    RpcError,
)
from hive_devnet.embedded.faultboard import FaultBoard
from hive_devnet.embedded.keys import NodeKeys
from hive_devnet.embedded.ledger.layers import Layers
from hive_devnet.embedded.ledger.wallet import Payment, Wallet
from hive_devnet.embedded.logbook import Entry, LogBook, iso_time
from hive_devnet.embedded.options import OptionTable
from hive_devnet.embedded.params import parse_params
from hive_devnet.embedded.peers import Peers
from hive_devnet.embedded.plugin import Plugin
from hive_devnet.embedded.plugin_host import PluginHost
from hive_devnet.embedded.registry import COMMANDS, Call, Command
from hive_devnet.embedded.rpc_command_hook import apply_rpc_command_hook
from hive_devnet.embedded.rpc_server import Connection, RpcServer
from hive_devnet.embedded.splicing import Negotiation

if TYPE_CHECKING:
    from hive_devnet.embedded.world import World

# What lightningd v26.06 announces on regtest.
FEATURES = {
    "init": "800898880a8a59a1",
    "node": "808898880a8a59a1",
    "channel": "",
    "invoice": "02000002024100",
    "bolt12_offer": "",
    "bolt12_invreq": "",
    "bolt12_invoice": "020000",
    "channel_type": "08800000800000",
}


@dataclass
class Timings:
    """When the node started, for uptime questions."""

    started: float = field(default_factory=time.time)


class EmbeddedNode:
    """A running node. Made and ended by the World that owns it."""

    def __init__(
        self,
        *,
        world: World,
        name: str,
        directory: Path,
        port: int,
        options: Mapping[str, object],
        plugins: Sequence[Path],
    ) -> None:
        self.world = world
        self.name = name
        self.dir = directory
        self.net_dir = directory / NETWORK_NAME
        self.rpc_path = self.net_dir / "lightning-rpc"
        self.port = port
        self.net_dir.mkdir(parents=True, exist_ok=True)
        self.keys = NodeKeys.load(self.net_dir / "hsm_secret")
        self.node_id = self.keys.node_id
        self.log = LogBook(directory / "log")
        self.log.on_entry = self._on_log_entry
        self.options = OptionTable()
        self._cmdline = options
        self._plugin_paths = plugins
        self.wallet = Wallet(world.database, world.chain, self.keys)
        self.peers = Peers(self)
        self.commando = Commando(self)
        self.faults = FaultBoard()
        self.stopping = False
        self.in_grace = False
        self.unreleased: dict[str, Payment] = {}
        self.layers = Layers(world.database, self.node_id)
        self.splicing: dict[str, Negotiation] = {}
        self.finished = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._rpc = RpcServer(self.rpc_path, self._dispatch)
        self.plugins = PluginHost(
            directory=directory,
            net_dir=self.net_dir,
            log=self.log,
            options=self.options,
            configuration=self._configuration,
            is_builtin=COMMANDS.__contains__,
        )
        self.plugins.on_important_death = self._on_important_death
        self.timings = Timings()

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Brings the node up as lightningd does: manifests, options, RPC, init. Raises NodeStartError."""
        self.options.load_file(self.dir / "config")
        self.options.load_file(self.net_dir / "config")
        self.options.load_cmdline(self._cmdline)
        self.log.write("info", "lightningd", f"Creating lightningd node {self.node_id} ({self.name})")
        named = [Path(str(item)) for item in self.options.get("plugin")]
        folders = [Path(str(item)) for item in self.options.get("plugin-dir")]
        from hive_devnet.embedded.plugin_host import plugins_in

        found = [path for folder in folders for path in plugins_in(folder)]
        important = [Path(str(item)) for item in self.options.get("important-plugin")]
        try:
            await self.plugins.load(
                [*self._plugin_paths, *named, *found], important, self.options.get("disable-plugin")
            )
            self.options.check_settings()
            await self._rpc.listen()
            await self.plugins.initialize()
        except BaseException:
            await self._rpc.close(drain=False)
            await self.plugins.shut_down()
            self.log.close()
            raise
        text = f"Server started with public key {self.node_id}, alias {self.alias}"
        self.log.write("info", "lightningd", text)

    async def stop(self) -> None:
        """Orderly end: plugins are told, the RPC stays open for them until they are gone."""
        if self.stopping:
            await self.finished.wait()
            return
        self.stopping = True
        self.log.write("info", "lightningd", "Shutting down")
        self.world.forget(self)
        self.peers.drop_all()
        await self.plugins.shut_down()
        await self._end(drain=True)

    async def kill(self) -> None:
        """End as by SIGKILL: sockets break, plugins find their pipes closed."""
        self.stopping = True
        self.world.forget(self)
        self.peers.drop_all()
        await self._rpc.close(drain=False)
        await self.plugins.crash()
        await self._end(drain=False)

    async def _end(self, drain: bool) -> None:
        for task in self._tasks:
            task.cancel()
        await self._rpc.close(drain)
        self.log.close()
        self.finished.set()

    def spawn(self, coroutine: Any) -> None:
        """Runs a coroutine for as long as the node lives; its failure is logged."""
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and not self.stopping:
            self.log.write("broken", "lightningd", "".join(traceback.format_exception(task.exception())))

    def _on_important_death(self, _plugin: Plugin) -> None:
        self.world.spawn(self.stop())

    # -- what the node is --------------------------------------------------------------------------

    @property
    def alias(self) -> str:
        """Its alias: the option, or the node's name."""
        return str(self.options.get("alias") or self.name)

    @property
    def color(self) -> str:
        """Its colour, six hex digits."""
        return str(self.options.get("rgb") or self.node_id[:6])

    def _configuration(self, startup: bool) -> dict[str, Any]:
        configuration: dict[str, Any] = {
            "lightning-dir": str(self.net_dir),
            "rpc-file": "lightning-rpc",
            "startup": startup,
            "network": NETWORK_NAME,
            "feature_set": FEATURES,
        }
        proxy = self.options.get("proxy")
        if proxy:
            host, _, port = str(proxy).rpartition(":")
            configuration["proxy"] = {"type": "ipv4", "address": host or proxy, "port": int(port or 9050)}
            configuration["torv3-enabled"] = True
            configuration["always_use_proxy"] = bool(self.options.get("always-use-proxy"))
        return configuration

    def _on_log_entry(self, entry: Entry) -> None:
        if entry.level < 4 or not hasattr(self, "plugins"):
            return
        self.plugins.notify(
            "warning",
            {
                "level": "error" if entry.level == 5 else "warn",
                "time": f"{entry.time:.9f}",
                "timestamp": iso_time(entry.time),
                "source": entry.source,
                "log": entry.text,
            },
        )

    def notify(self, topic: str, payload: dict[str, Any]) -> None:
        """Tells this node's plugins about an event."""
        self.plugins.notify(topic, payload)

    # -- RPC ---------------------------------------------------------------------------------------

    async def answer(self, method: str, params: Any, request_id: str) -> dict[str, Any]:
        """Runs a command for a peer as if it had come by the socket: `{"result": ..}` or `{"error": ..}`."""
        try:
            return await self._dispatch(method, params, request_id, None)
        except RpcError as error:
            return {"error": error.as_json()}

    async def _dispatch(
        self, method: str, params: Any, request_id: str, connection: Connection | None
    ) -> dict[str, Any]:
        if self.stopping and self.plugins.owner_of(method) is None and method not in COMMANDS:
            raise RpcError(LIGHTNINGD_SHUTDOWN, "lightningd is shutting down")
        if self.plugins.owner_of(method) is None and method not in COMMANDS:
            raise RpcError(METHOD_NOT_FOUND, f"Unknown command '{method}'")
        await self.faults.before(method)
        reply = await self._run(method, params, request_id, connection)
        await self.faults.after(method)
        return reply

    async def _run(
        self, method: str, params: Any, request_id: str, connection: Connection | None
    ) -> dict[str, Any]:
        if self.plugins.hooks.anyone("rpc_command", method):
            request = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
            taken = await apply_rpc_command_hook(self, request)
            if taken.reply is not None:
                return taken.reply
            method, params = taken.method, taken.params
        return await self.execute(method, params, request_id, connection)

    async def execute(
        self, method: str, params: Any, request_id: str, connection: Connection | None = None
    ) -> dict[str, Any]:
        """Runs a command, built-in or a plugin's; returns `{"result": ...}` or `{"error": ...}`."""

        def tell(level: str, message: str) -> None:
            if connection is not None and connection.notifications:
                note = {"id": request_id, "level": level, "message": message}
                connection.send({"jsonrpc": "2.0", "method": "message", "params": note})

        known = COMMANDS.get(method)
        if known is None:
            return await self._forward(method, params, request_id, connection)
        if method == "notifications" and connection is not None:
            connection.notifications = parse_params(known.params, params)["enable"]
            return {"result": {}}
        return {"result": await self._call(known, params, request_id, tell)}

    async def _call(self, known: Command, params: Any, request_id: str, tell: Any) -> dict[str, Any]:
        args = parse_params(known.params, params, known.allow_extra)
        try:
            return await known.handler(Call(self, args, params, request_id, False, tell))
        except RpcError:
            raise
        except Exception as error:  # a bug of ours must not take the node down with it
            self.log.write("broken", "lightningd", f"{known.name}: {traceback.format_exc()}")
            raise RpcError(LIGHTNINGD, f"{known.name} failed inside the node: {error!r}") from error

    async def check(self, method: str, params: Any, request_id: str) -> None:
        """The `check` command: raises what the call would raise without doing anything."""
        known = COMMANDS.get(method)
        if known is not None:
            args = parse_params(known.params, params, known.allow_extra)
            if known.checks:
                await known.handler(Call(self, args, params, request_id, True, lambda _level, _text: None))
            return
        plugin = self.plugins.owner_of(method)
        if plugin is None:
            raise RpcError(INVALID_PARAMS, f"Unknown command '{method}'")
        if plugin.manifest.can_check:
            given = params if isinstance(params, list) else {"command_to_check": method} | params
            full = [method, *given] if isinstance(given, list) else given
            reply = await plugin.request("check", full, request_id)
            _raise_error(reply)

    async def _forward(
        self, method: str, params: Any, request_id: str, connection: Connection | None
    ) -> dict[str, Any]:
        plugin = self.plugins.owner_of(method)
        if plugin is None:
            raise RpcError(METHOD_NOT_FOUND, f"Unknown command '{method}'")

        def pass_on(kind: str, note: dict[str, Any]) -> None:
            if connection is not None and connection.notifications:
                message = {"jsonrpc": "2.0", "method": kind, "params": note | {"id": request_id}}
                connection.send(message)

        reply = await plugin.request(method, params, request_id, pass_on)
        return {key: reply[key] for key in ("result", "error") if key in reply}

    async def call(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Calls a command of this node from inside. Raises RpcError."""
        reply = await self.execute(method, dict(params or {}), "internal")
        _raise_error(reply)
        result = reply["result"]
        return result if isinstance(result, dict) else {"result": result}


def _raise_error(reply: dict[str, Any]) -> None:
    error = reply.get("error")
    if isinstance(error, dict):
        raise RpcError(int(error.get("code", LIGHTNINGD)), str(error.get("message", "")), error.get("data"))
