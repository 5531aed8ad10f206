"""Start time and memory of each plugin, and a trivial RPC beside an empty pyln plugin on the same node."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import tempfile
import time
from pathlib import Path

from figures import Figure, percentile
from hive_devnet.network import open_network
from hive_devnet.node import Network, NodeHandle
from hive_devnet.world import PLUGINS

EMPTY = """#!/usr/bin/env python3
from pyln.client import Plugin
plugin = Plugin()
@plugin.method("empty-ping")
def ping(plugin):
    return {"pong": True}
plugin.run()
"""
_TRIVIAL = {
    "cl-hive-comms": "hive-comms-transports",
    "cl-hive-archon": "hive-archon-status",
    "cl-hive": "hive-status",
}


def main(smoke: bool) -> list[Figure]:
    """See the module's first line."""
    return asyncio.run(_measure(5 if smoke else 200, 1 if smoke else 5))


async def _measure(calls: int, starts: int) -> list[Figure]:
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as directory:
        empty = Path(directory) / "empty.py"
        empty.write_text(EMPTY)
        empty.chmod(empty.stat().st_mode | stat.S_IXUSR)
        network = await open_network(Path(directory) / "net")
        try:
            node = await network.add_node("alice", None, [])
            figures = [Figure("node kind", 0, network.kind)]
            figures += await _starts(node, empty, starts)
            figures += await _rpc(network, node, empty, calls)
        finally:
            await network.close()
    return figures


async def _starts(node: NodeHandle, empty: Path, rounds: int) -> list[Figure]:
    figures = []
    for name, path in [("empty pyln plugin", empty), *PLUGINS.items()]:
        took, rss = [], 0.0
        for _ in range(rounds):
            started = time.perf_counter()
            await node.call("plugin", ["start", str(path)])
            took.append(time.perf_counter() - started)
            pid = await node.plugin_pid(path.name)
            rss = max(rss, _rss_mb(pid))
            await node.call("plugin", ["stop", path.name])
        goal = None if path is empty else 0.5
        figures.append(Figure(f"start to init answered: {name}", min(took), "s", goal))
        figures.append(Figure(f"RSS after start: {name}", rss, "MB", None if path is empty else 80))
    return figures


def _rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"no VmRSS for process {pid}")


async def _rpc(network: Network, node: NodeHandle, empty: Path, calls: int) -> list[Figure]:
    await node.call("plugin", ["start", str(empty)])
    base = await _latency(node, "empty-ping", calls)
    figures = [Figure("trivial RPC p50: empty pyln plugin", base[0] * 1000, "ms")]
    figures.append(Figure("trivial RPC p99: empty pyln plugin", base[1] * 1000, "ms"))
    for name, method in _TRIVIAL.items():
        await node.call("plugin", ["start", str(PLUGINS[name])])
        ours = await _latency(node, method, calls)
        figures.append(Figure(f"trivial RPC p50: {name} {method}", ours[0] * 1000, "ms"))
        figures.append(Figure(f"trivial RPC p99: {name} {method}", ours[1] * 1000, "ms"))
        figures.append(Figure(f"  p50 ratio to the empty plugin: {name}", ours[0] / base[0], "x", 1.3))
        await node.call("plugin", ["stop", PLUGINS[name].name])
    return figures


async def _latency(node: NodeHandle, method: str, calls: int) -> tuple[float, float]:
    samples = []
    for number in range(calls + 3):
        started = time.perf_counter()
        await node.call(method)
        if number >= 3:
            samples.append(time.perf_counter() - started)
    return percentile(samples, 0.5), percentile(samples, 0.99)
