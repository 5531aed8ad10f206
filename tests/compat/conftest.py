"""A node of the development network and the three plugins on it, started and stopped in any order."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hive_devnet.network import open_network
from hive_devnet.node import NodeHandle
from hive_devnet.world import PATIENCE_S
from outside import Stopwatch, parent

ROOT = Path(__file__).parents[2]
EXECUTABLES = {
    "comms": ROOT / "cl-hive-comms" / "cl-hive-comms.py",
    "archon": ROOT / "cl-hive-archon" / "cl-hive-archon.py",
    "hive": ROOT / "cl-hive" / "cl-hive.py",
}
# A relay nobody serves: these tests are about the node, and nothing may leave the machine.
OPTIONS: dict[str, dict[str, object]] = {
    "comms": {"hive-comms-nostr-relays": "ws://127.0.0.1:9", "hive-comms-nostr-search-relays": ""},
    "archon": {},
    "hive": {},
}
STATUS = {"comms": "hive-client-status", "archon": "hive-archon-status", "hive": "hive-status"}


class Suite:
    """The plugins of one node."""

    def __init__(self, node: NodeHandle) -> None:
        self.node = node

    async def start(self, name: str, **options: object) -> None:
        """``plugin start``; returns when the plugin has answered init."""
        plugin = {"subcommand": "start", "plugin": str(EXECUTABLES[name])}
        await self.node.call("plugin", {**plugin, **OPTIONS[name], **options})

    async def stop(self, name: str) -> None:
        """``plugin stop``."""
        await self.node.call("plugin", {"subcommand": "stop", "plugin": str(EXECUTABLES[name])})

    async def status(self, name: str) -> dict[str, Any]:
        """The plugin's own status."""
        return await self.node.call(STATUS[name], {})

    async def combination(self, name: str) -> str:
        """The combination of plugins that this one sees."""
        status = await self.status(name)
        found = status["siblings"] if name == "comms" else status
        return str(found["combination"])

    async def siblings(self, name: str) -> dict[str, dict[str, Any]]:
        """Rows of the other plugins as this one sees them, by plugin name."""
        status = await self.status(name)
        rows = status["siblings"]["plugins"] if name == "comms" else status["siblings"]
        return {row["plugin"]: row for row in rows}

    async def settle(self, expected: str, *names: str, seconds: float | None = None) -> None:
        """Return when all the named plugins see this combination; after `seconds` at most if given, less
        the time for which they, the node and we stood ready and other programs had the processor."""
        pids = [await self.node.plugin_pid(EXECUTABLES[name].name) for name in names]
        watch = Stopwatch(*pids, parent(pids[0]), os.getpid())

        async def agreed() -> bool:
            return {await self.combination(name) for name in names} == {expected}

        await wait_until(agreed, PATIENCE_S)
        took = watch.stop()
        assert seconds is None or took.own <= seconds, took


async def wait_until(ready: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Poll a condition of another process until it holds; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not await ready():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        await asyncio.sleep(0.05)


@pytest.fixture
async def suite(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Suite]:
    """A fresh node without plugins."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    # Short: a unix socket's path has to fit into 108 bytes.
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    network = await open_network(directory)
    try:
        node = await network.add_node("solo")
        yield Suite(node)
        log = node.log_text()
    finally:
        await network.close()
        shutil.rmtree(directory, ignore_errors=True)
    assert "Traceback" not in log, log[-4_000:]
