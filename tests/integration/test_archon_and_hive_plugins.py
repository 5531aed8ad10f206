"""cl-hive-archon and cl-hive as processes on a node: options, store, refusals, silence on the network."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hive_devnet.network import open_network
from hive_devnet.node import DevnetRpcError, NodeHandle

ROOT = Path(__file__).parents[2]
ARCHON = ROOT / "cl-hive-archon" / "cl-hive-archon.py"
HIVE = ROOT / "cl-hive" / "cl-hive.py"
ESCROW = ("tickets", "items", "secrets", "disputes", "locks", "outbox", "receipts")
LISTENER = """#!{python}
from pyln.client import Plugin
plugin = Plugin()
seen = []
@plugin.subscribe("hive_ready")
def hive(plugin, **kwargs): seen.append(["hive_ready", kwargs["hive_ready"]])
@plugin.subscribe("hive_archon_ready")
def archon(plugin, **kwargs): seen.append(["hive_archon_ready", kwargs["hive_archon_ready"]])
@plugin.method("seen")
def what(plugin): return {{"seen": seen}}
plugin.run()
"""


@pytest.fixture
async def node(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NodeHandle]:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    network = await open_network(directory)
    try:
        yield await network.add_node("solo")
    finally:
        await network.close()
        shutil.rmtree(directory, ignore_errors=True)


async def start(node: NodeHandle, plugin: Path, **options: Any) -> None:
    named = {name.replace("_", "-"): value for name, value in options.items()}
    await node.call("plugin", {"subcommand": "start", "plugin": str(plugin), **named})


async def stop(node: NodeHandle, plugin: Path) -> None:
    await node.call("plugin", {"subcommand": "stop", "plugin": str(plugin)})


async def until(ready: Callable[[], Awaitable[bool]], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not await ready():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        await asyncio.sleep(0.05)


async def test_databases_are_private_files_beside_the_nodes_own(node: NodeHandle) -> None:
    await start(node, ARCHON)
    await start(node, HIVE)
    for name, tables in (
        ("cl_hive_archon.db", {"archon_audit", "archon_migrations"}),
        ("cl_hive.db", {"hive_meta", *(f"escrow_{name}" for name in ESCROW)}),
    ):
        path = node.net_dir / name
        assert path.stat().st_mode & 0o777 == 0o600
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            found = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert found == tables


async def test_starts_are_counted_over_restarts_and_kills(node: NodeHandle) -> None:
    await start(node, HIVE)
    first = await node.call("hive-status", {"view": "health"})
    await stop(node, HIVE)
    await start(node, HIVE)
    await node.kill_plugin("cl-hive.py")
    await start(node, HIVE)
    last = await node.call("hive-status", {"view": "health"})
    assert (first["starts"], last["starts"]) == (1, 3)
    assert last["first_started"] == first["first_started"] <= last["last_started"]


async def test_a_database_of_a_newer_release_disables_the_plugin_and_stays_untouched(
    node: NodeHandle,
) -> None:
    await start(node, HIVE)
    await stop(node, HIVE)
    path = node.net_dir / "cl_hive.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 999")
    before = path.read_bytes()
    with pytest.raises(DevnetRpcError, match="cannot start"):
        await start(node, HIVE)
    assert path.read_bytes() == before


async def test_two_copies_do_not_share_a_database(node: NodeHandle, tmp_path: Path) -> None:
    await start(node, HIVE, hive_db_path=str(tmp_path / "own" / "hive.db"))
    assert (tmp_path / "own" / "hive.db").exists() and not (node.net_dir / "cl_hive.db").exists()


async def test_acceptance_08_22_dynamic_options_are_applied_or_refused_with_the_reason(
    node: NodeHandle,
) -> None:
    await start(node, HIVE)

    async def row(name: str) -> dict[str, Any]:
        items = (await node.call("hive-config", {"option": name}))["items"]
        assert len(items) == 1
        return dict(items[0])

    await node.call("setconfig", {"config": "hive-market-share-cap", "val": "0.15"})
    assert await row("market-share-cap") == {
        "name": "hive-market-share-cap",
        "value": "0.15",
        "source": "option",
        "served": False,
    }
    for option, value, told in (
        ("hive-market-share-cap", "1.5", "must be from 0 to 1, not 1.5"),
        ("hive-market-share-cap", "abc", "must be a plain decimal such as 0, not 'abc'"),
        ("hive-governance-mode", "chaos", "must be one of advisor, failsafe"),
        ("hive-planner-min-channel-sats", 60_000_000, "must hold: planner-min-channel-sats (60000000) <="),
    ):
        before = await row(option)
        with pytest.raises(DevnetRpcError) as caught:
            await node.call("setconfig", {"config": option, "val": value})
        assert told in caught.value.message and option in caught.value.message
        assert await row(option) == before
    warnings = (await node.call("hive-status", {}))["warnings"]
    assert "hive-market-share-cap is set, but not served by this version" in warnings


async def test_bad_value_at_start_keeps_the_default_and_says_so(node: NodeHandle) -> None:
    await start(node, ARCHON, hive_archon_dmail_interval=5, hive_archon_threshold_k=9)
    warnings = (await node.call("hive-archon-status", {}))["warnings"]
    told = "hive-archon-dmail-interval keeps its default: must be from 30 to 3600, not 5"
    assert told in warnings
    assert any(w.startswith("hive-archon-threshold-k keeps its default") for w in warnings)


async def test_acceptance_08_23_a_concealed_option_is_shown_nowhere(node: NodeHandle) -> None:
    token = "tok-5e1c2d"
    await start(node, ARCHON, hive_archon_gateway_auth_token=token)
    status = await node.call("hive-archon-status", {"verbose": True})
    configs = await node.call("listconfigs", {})
    assert token not in str(status) and token not in str(configs)
    plugin_lines = [line for line in node.log_text().splitlines() if "plugin-cl-hive-archon" in line]
    assert token not in "\n".join(plugin_lines)


async def test_legacy_names_answer_until_they_are_switched_off(node: NodeHandle) -> None:
    await start(node, HIVE)
    siblings = await node.call("hive-siblings", {})
    assert siblings == await node.call("hive-phase6-plugins", {})
    assert siblings["combination"] == "hive"
    assert "starts" in await node.call("hive-health", {})
    await node.call("setconfig", {"config": "hive-legacy-methods", "val": False})
    with pytest.raises(DevnetRpcError) as caught:
        await node.call("hive-siblings", {})
    assert caught.value.code == 4011 and "call hive-status" in caught.value.message


async def test_unknown_view_and_parameter_are_refused(node: NodeHandle) -> None:
    await start(node, HIVE)
    for params in ({"view": "everything"}, {"look": 1}):
        with pytest.raises(DevnetRpcError) as caught:
            await node.call("hive-status", params)
        assert caught.value.code == -32602 and caught.value.message.startswith("invalid_params: ")
    views = [await node.call("hive-status", {"view": view}) for view in ("loops", "features")]
    assert {row["name"] for row in views[0]["loops"]} == {"siblings", "ready", "degraded", "escrow"}
    assert [row["name"] for row in views[1]["features"] if row["served"]] == ["escrow"]


async def test_ready_is_announced_and_the_log_stays_quiet(node: NodeHandle, tmp_path: Path) -> None:
    listener = tmp_path / "listener.py"
    listener.write_text(LISTENER.format(python=sys.executable))
    listener.chmod(0o755)
    await start(node, listener)
    await start(node, ARCHON)
    await start(node, HIVE)

    async def both() -> bool:
        return len((await node.call("seen", {}))["seen"]) == 2

    await until(both)
    seen = dict((await node.call("seen", {}))["seen"])
    assert seen["hive_ready"] == {"version": "0.1.0", "capabilities": []} == seen["hive_archon_ready"]
    assert "Traceback" not in node.log_text() and "method_failed" not in node.log_text()


async def test_alone_neither_plugin_opens_a_network_socket(node: NodeHandle) -> None:
    await start(node, ARCHON)
    await start(node, HIVE)
    for name in ("cl-hive-archon.py", "cl-hive.py"):
        pid = await node.plugin_pid(name)
        links = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
        inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
        internet = {
            line.split()[9]
            for table in ("tcp", "tcp6", "udp", "udp6")
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        }
        assert not inodes & internet


@pytest.mark.parametrize("plugin", [ARCHON, HIVE], ids=["archon", "hive"])
async def test_a_missing_dependency_disables_with_what_to_install(
    node: NodeHandle, tmp_path: Path, plugin: Path
) -> None:
    copy = tmp_path / plugin.parent.name
    shutil.copytree(plugin.parent, copy, symlinks=False)
    # What a half-finished `pip install` leaves behind: the first import fails.
    (copy / "msgspec.py").write_text("raise ImportError('broken', name='msgspec')")
    (copy / "pyln").mkdir()
    (copy / "pyln" / "__init__.py").write_text("raise ImportError('broken', name='pyln.client')")
    with pytest.raises(DevnetRpcError, match=r"needs [a-z.]+: install requirements\.txt"):
        await start(node, copy / plugin.name)
