"""Start time, memory and idle CPU of each plugin; a trivial RPC beside an empty pyln plugin on one node.

The trivial RPC of cl-hive-comms is `hive-schema-validate` of a read: like the empty plugin's method it
answers from memory, with a small object, and still passes the runtime and one of our services.
`hive-comms-transports`, judged here before (it misses 1.3), and `hive-client-status` are given beside
it for information: they read the database, which takes two changes of thread each time
(docs/decisions/0401-the-yardstick-of-a-trivial-call.md). All plugins run. Each
round goes through the methods, a few calls of each in turns with the empty plugin's, so that both are equally
awake. The ratio is the median over pairs of neighbouring calls: what the machine does besides hits both of a
pair alike, and its changes over the minutes cancel. Start times are the best of all rounds.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import tempfile
import time
from pathlib import Path

from figures import Figure, cpu_s, percentile, rss_mb, wakeups
from hive_devnet.network import open_network
from hive_devnet.node import NodeHandle
from hive_devnet.world import PLUGINS

Params = dict[str, object]

EMPTY = """#!/usr/bin/env python3
from pyln.client import Plugin
plugin = Plugin()
@plugin.method("empty-ping")
def ping(plugin):
    return {"pong": True}
plugin.run()
"""
_VALIDATE: Params = {"schema_id": "hive:monitor/v1", "action": "peer_list"}
# The first method of a plugin is judged, the others are for information.
_CALLS: dict[str, list[tuple[str, Params]]] = {
    "cl-hive-comms": [
        ("hive-schema-validate", _VALIDATE),
        ("hive-comms-transports", {}),
        ("hive-client-status", {}),
    ],
    "cl-hive-archon": [("hive-archon-status", {})],
    "cl-hive": [("hive-status", {})],
}
_IDLE_S = 60
_IDLE_GOAL = 0.5
_IN_TURNS = 5


def main(smoke: bool) -> list[Figure]:
    """See the module's first line."""
    # The first start of all compiles, as after an installation: the best of two at least.
    return asyncio.run(_measure(5 if smoke else 200, 2 if smoke else 5))


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
            figures += await _rpc(node, empty, calls)
            figures += await _idle(node, 0.5 if starts == 2 else _IDLE_S)
        finally:
            await network.close()
    return figures


async def _starts(node: NodeHandle, empty: Path, rounds: int) -> list[Figure]:
    figures = []
    for name, path in [("empty pyln plugin", empty), *PLUGINS.items()]:
        took, spent, rss = [], [], 0.0
        for _ in range(rounds):
            started = time.perf_counter()
            await node.call("plugin", ["start", str(path)])
            took.append(time.perf_counter() - started)
            pid = await node.plugin_pid(path.name)
            spent.append(cpu_s(pid))
            rss = max(rss, rss_mb(pid))
            await node.call("plugin", ["stop", path.name])
        goal = None if path is empty else 0.5
        figures.append(Figure(f"start to init answered: {name}", min(took), "s", goal))
        figures.append(Figure(f"  processor time of it: {name}", min(spent), "s"))
        figures.append(Figure(f"RSS after start: {name}", rss, "MB", None if path is empty else 80))
    return figures


async def _rpc(node: NodeHandle, empty: Path, calls: int) -> list[Figure]:
    for path in (empty, *PLUGINS.values()):
        await node.call("plugin", ["start", str(path)])
    base, ours, ratios = await _latencies(node, calls)
    computed = await _computed(node, empty, max(calls, 20))
    for path in PLUGINS.values():
        await node.call("plugin", ["stop", path.name])
    figures = [
        Figure("RPC p50: empty pyln plugin", percentile(base, 0.5) * 1000, "ms"),
        Figure("RPC p99: empty pyln plugin", percentile(base, 0.99) * 1000, "ms"),
    ]
    for methods in _CALLS.values():
        for number, (method, _) in enumerate(methods):
            for share in (50, 99):
                mine = percentile(ours[method], share / 100) * 1000
                figures.append(Figure(f"RPC p{share}: {method}", mine, "ms"))
            ratio = percentile(ratios[method], 0.5)
            goal = 1.3 if number == 0 else None
            figures.append(Figure(f"  p50 ratio to the empty plugin: {method}", ratio, "x", goal))
            figures.append(
                Figure(f"  processor time, to the empty plugin's: {method}", computed[method], "x")
            )
    return figures


async def _latencies(
    node: NodeHandle, calls: int
) -> tuple[list[float], dict[str, list[float]], dict[str, list[float]]]:
    """Seconds per call of the empty plugin and of each method of ours, and the ratios of neighbours."""
    base: list[float] = []
    ours: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    for _ in range(max(1, calls // _IN_TURNS)):
        for method, params in (call for methods in _CALLS.values() for call in methods):
            for number in range(_IN_TURNS + 1):
                theirs, mine = await _took(node, "empty-ping", {}), await _took(node, method, params)
                # The first of each wakes a process that others took the caches from.
                if number:
                    base.append(theirs)
                    ours.setdefault(method, []).append(mine)
                    ratios.setdefault(method, []).append(mine / theirs)
    return base, ours, ratios


async def _computed(node: NodeHandle, empty: Path, calls: int) -> dict[str, float]:
    """Processor time of a call of each method of ours by that of the empty plugin: nobody else's work is in
    it, and the node's is not."""
    spent: dict[str, float] = {}
    plugins = {"empty-ping": (empty.name, {})} | {
        method: (PLUGINS[plugin].name, params)
        for plugin, methods in _CALLS.items()
        for method, params in methods
    }
    for method, (plugin, params) in plugins.items():
        pid = await node.plugin_pid(plugin)
        await node.call(method, params)
        before = cpu_s(pid)
        for _ in range(calls):
            await node.call(method, params)
        spent[method] = cpu_s(pid) - before
    return {method: each / spent["empty-ping"] for method, each in spent.items()}


async def _took(node: NodeHandle, method: str, params: Params) -> float:
    started = time.perf_counter()
    await node.call(method, params)
    return time.perf_counter() - started


async def _idle(node: NodeHandle, seconds: float) -> list[Figure]:
    """What the three plugins do side by side while nobody asks anything."""
    for path in PLUGINS.values():
        await node.call("plugin", ["start", str(path)])
    # The siblings greet each other first.
    await asyncio.sleep(min(seconds, 2))
    pids = {name: await node.plugin_pid(path.name) for name, path in PLUGINS.items()}
    before = {name: (cpu_s(pid), wakeups(pid)) for name, pid in pids.items()}
    await asyncio.sleep(seconds)
    goal = _IDLE_GOAL if seconds >= _IDLE_S else None
    figures = []
    for name, pid in pids.items():
        cpu, woken = cpu_s(pid) - before[name][0], wakeups(pid) - before[name][1]
        figures += [
            Figure(f"idle CPU over {seconds:g} s: {name}", cpu / seconds * 100, "%", goal),
            Figure(f"  its threads woken: {name}", woken / seconds, "/s"),
        ]
    return figures
