"""The control socket of the network process: what a test or the demo may do to the network itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hive_devnet.embedded import bech32
from hive_devnet.embedded.errors import LIGHTNINGD, METHOD_NOT_FOUND, NodeStartError, RpcError
from hive_devnet.embedded.node import EmbeddedNode
from hive_devnet.embedded.rpc_server import Connection, RpcServer
from hive_devnet.embedded.world import World

Operation = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Control:
    """Operations on a World, as JSON-RPC methods."""

    def __init__(self, world: World, path: Path) -> None:
        self._world = world
        self.closing = asyncio.Event()
        self.server = RpcServer(path, self._dispatch)
        self._operations: dict[str, Operation] = {
            "add_node": self._add_node,
            "start_node": self._start_node,
            "stop_node": self._stop_node,
            "kill_node": self._kill_node,
            "node_ended": self._node_ended,
            "nodes": self._nodes,
            "mine": self._mine,
            "faucet": self._faucet,
            "plugin_pid": self._plugin_pid,
            "kill_plugin": self._kill_plugin,
            "set_fault": self._set_fault,
            "clear_faults": self._clear_faults,
            "release_faults": self._release_faults,
            "fault_count": self._fault_count,
            "totals": self._totals,
            "close": self._close,
        }

    async def _dispatch(self, method: str, params: Any, _id: str, _from: Connection) -> dict[str, Any]:
        operation = self._operations.get(method)
        if operation is None:
            raise RpcError(METHOD_NOT_FOUND, f"the network knows no operation {method!r}")
        try:
            return {"result": await operation(params if isinstance(params, dict) else {})}
        except (NodeStartError, LookupError, ValueError) as error:
            raise RpcError(LIGHTNINGD, str(error)) from error

    def _node(self, params: dict[str, Any]) -> EmbeddedNode:
        node = self._world.nodes.get(str(params["name"]))
        if node is None:
            raise LookupError(f"node {params['name']!r} is not running")
        return node

    async def _add_node(self, params: dict[str, Any]) -> dict[str, Any]:
        plugins = [Path(item) for item in params.get("plugins", ())]
        node = await self._world.add_node(params["name"], params.get("options", {}), plugins)
        return {"node_id": node.node_id, "port": node.port}

    async def _start_node(self, params: dict[str, Any]) -> dict[str, Any]:
        node = await self._world.start_node(params["name"])
        return {"node_id": node.node_id, "port": node.port}

    async def _stop_node(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["name"] in self._world.nodes:
            await self._node(params).stop()
        return {}

    async def _kill_node(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["name"] in self._world.nodes:
            await self._node(params).kill()
        return {}

    async def _node_ended(self, params: dict[str, Any]) -> dict[str, Any]:
        await self._world.ended(str(params["name"]))
        return {}

    async def _nodes(self, _params: dict[str, Any]) -> dict[str, Any]:
        rows = self._world.database.rows("SELECT name, node_id, port FROM node ORDER BY rowid")
        nodes = [dict(row) | {"running": row["name"] in self._world.nodes} for row in rows]
        return {"nodes": nodes, "height": self._world.chain.height}

    async def _mine(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"height": self._world.mine(int(params.get("blocks", 1)))}

    async def _faucet(self, params: dict[str, Any]) -> dict[str, Any]:
        script = bech32.address_script(str(params["address"]))
        return {"txid": self._world.chain.faucet(script, int(params["amount_sat"]))}

    async def _plugin_pid(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"pid": self._plugin(params).pid}

    def _plugin(self, params: dict[str, Any]) -> Any:
        plugin = self._node(params).plugins.find(str(params["plugin"]))
        if plugin is None:
            raise LookupError(f"node {params['name']!r} runs no plugin {params['plugin']!r}")
        return plugin

    async def _kill_plugin(self, params: dict[str, Any]) -> dict[str, Any]:
        import os
        import signal

        plugin = self._plugin(params)
        os.kill(plugin.pid, signal.SIGKILL)
        # Its pipes close before it is gone: who killed it may look at what it had open.
        await plugin.gone()
        return {}

    async def _set_fault(self, params: dict[str, Any]) -> dict[str, Any]:
        self._node(params).faults.add(
            params["command"], params["kind"], float(params.get("seconds", 0)), int(params.get("times", 1))
        )
        return {}

    async def _clear_faults(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"struck": self._node(params).faults.clear()}

    async def _release_faults(self, params: dict[str, Any]) -> dict[str, Any]:
        self._node(params).faults.release()
        return {}

    async def _fault_count(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"struck": self._node(params).faults.struck(params["command"])}

    async def _totals(self, _params: dict[str, Any]) -> dict[str, Any]:
        issued, present = self._world.database.totals_msat()
        return {"issued_msat": issued, "present_msat": present}

    async def _close(self, _params: dict[str, Any]) -> dict[str, Any]:
        self.closing.set()
        return {}
