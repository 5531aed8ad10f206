"""What a node and a network of the development network offer, whichever driver runs them.

Two drivers implement these protocols: the embedded node (`hive_devnet.network.EmbeddedNetwork`) and
real Core Lightning (`hive_devnet.lightningd.driver.LightningdNetwork`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class DevnetRpcError(Exception):
    """The node answered a call with a JSON-RPC error: CLN's code, sentence and data."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.data = data


class NodeHandle(Protocol):
    """One node. `dir` is its lightning-dir base, `net_dir` the directory plugins get as lightning-dir."""

    name: str
    dir: Path
    net_dir: Path
    rpc_path: Path
    node_id: str

    async def call(
        self,
        method: str,
        params: Mapping[str, object] | Sequence[object] | None = None,
        timeout: float = 60,
    ) -> dict[str, Any]:
        """Calls an RPC method. Raises DevnetRpcError, TimeoutError or ConnectionError."""
        ...

    async def stop(self) -> None:
        """Stops the node in an orderly way; its plugins see `shutdown`."""
        ...

    async def kill(self) -> None:
        """Ends the node as SIGKILL would; nothing is flushed, no plugin is told."""
        ...

    async def start(self) -> None:
        """Starts a stopped or killed node again: same directory, same options."""
        ...

    async def ended(self) -> None:
        """Returns when the node is down, whoever stopped it; at once when it is."""
        ...

    async def plugin_pid(self, name: str) -> int:
        """Process id of the running plugin whose executable's basename is `name`. Raises LookupError."""
        ...

    async def kill_plugin(self, name: str) -> None:
        """SIGKILLs a plugin; returns when the node has noticed. Raises LookupError."""
        ...

    def log_text(self) -> str:
        """The node's whole log file so far."""
        ...


class Network(Protocol):
    """Several nodes over one chain. `kind` is "embedded" or "lightningd"."""

    kind: str
    dir: Path

    async def add_node(
        self, name: str, options: Mapping[str, object] | None = None, plugins: Sequence[Path] = ()
    ) -> NodeHandle:
        """Creates and starts a node; `options` are lightningd options, `plugins` executables to load."""
        ...

    async def mine(self, blocks: int = 1) -> int:
        """Mines blocks; returns the new height once every live node has seen it."""
        ...

    async def fund(self, node: NodeHandle, amount_sat: int) -> str:
        """Gives `node` a confirmed, spendable wallet output; returns its txid."""
        ...

    async def open_channel(self, a: NodeHandle, b: NodeHandle, capacity_sat: int, push_msat: int = 0) -> str:
        """Opens a channel from `a` to `b`; returns its scid once both sides can use it."""
        ...

    async def connect(self, a: NodeHandle, b: NodeHandle) -> None:
        """Connects two nodes as peers."""
        ...

    async def close(self) -> None:
        """Stops every node and everything the network started."""
        ...
