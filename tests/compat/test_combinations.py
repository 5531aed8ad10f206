"""The plugin combinations of docs/protocol/08-client-and-plugins.md section 1.2, in every order."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hive_devnet.node import DevnetRpcError
from outside import internet_sockets

if TYPE_CHECKING:
    from compat.conftest import Suite

COMBINATIONS = {
    ("comms",): "comms",
    ("comms", "archon"): "comms+archon",
    ("comms", "hive"): "comms+hive",
    ("comms", "archon", "hive"): "all",
    ("archon", "hive"): "archon+hive",
}


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
async def test_every_plugin_sees_the_combination(suite: Suite, names: tuple[str, ...]) -> None:
    for name in names:
        await suite.start(name)
    await suite.settle(COMBINATIONS[names], *names)
    for name in names:
        rows = await suite.siblings(name)
        assert len(rows) == 2
        assert sum(row["present"] for row in rows.values()) == len(names) - 1
        assert all(row["breaker"] == "closed" and "error" not in row for row in rows.values())


@pytest.mark.parametrize("order", list(itertools.permutations(("comms", "archon", "hive"))), ids="-".join)
async def test_acceptance_08_02_any_start_order_gives_the_same_capabilities(
    suite: Suite, order: tuple[str, ...]
) -> None:
    for name in order:
        await suite.start(name)
    await suite.settle("all", *order, seconds=10)
    seen: dict[str, set[tuple[str, ...]]] = {}
    for name in order:
        for plugin, row in (await suite.siblings(name)).items():
            assert row["present"] and row["proto"] == 1 and row["last_ok"]
            seen.setdefault(plugin, set()).add(tuple(row["capabilities"]))
    assert set(seen) == {"cl-hive-comms", "cl-hive-archon", "cl-hive"}
    assert all(len(views) == 1 for views in seen.values())


async def test_acceptance_08_02_plugins_come_and_go_live(suite: Suite) -> None:
    await suite.start("comms")
    await suite.start("hive")
    await suite.settle("comms+hive", "comms", "hive")
    await suite.start("archon")
    await suite.settle("all", "comms", "archon", "hive", seconds=10)
    await suite.stop("archon")
    await suite.settle("comms+hive", "comms", "hive", seconds=10)
    await suite.node.kill_plugin("cl-hive-comms.py")
    await suite.settle("hive", "hive", seconds=10)
    assert (await suite.status("hive"))["mode"] == "safe"
    await suite.start("archon")
    await suite.start("comms")
    await suite.settle("all", "comms", "archon", "hive", seconds=10)
    assert (await suite.status("hive"))["mode"] == "normal"


async def test_acceptance_08_03_archon_alone_answers_hello_and_status_only(suite: Suite) -> None:
    await suite.start("archon")
    status = await suite.status("archon")
    assert status["combination"] == "archon" and status["supported"] is False
    assert status["state"] == "NONE" and status["did"] is None
    assert any("cl-hive-comms is not running" in warning for warning in status["warnings"])
    commands = {item["command"].split(" ")[0] for item in (await suite.node.call("help", {}))["help"]}
    assert {c for c in commands if c.startswith("hive-")} == {"hive-archon-hello", "hive-archon-status"}
    assert internet_sockets(await suite.node.plugin_pid("cl-hive-archon.py")) == set()


async def test_acceptance_08_03_hive_alone_is_in_safe_mode_and_recovers(suite: Suite) -> None:
    await suite.start("hive")
    status = await suite.status("hive")
    assert (status["combination"], status["mode"], status["supported"]) == ("hive", "safe", False)
    assert any("cl-hive-comms is not running" in warning for warning in status["warnings"])
    await suite.start("comms")
    await suite.settle("comms+hive", "hive", "comms")
    recovered = await suite.status("hive")
    assert (recovered["mode"], recovered["supported"], recovered["warnings"]) == ("normal", True, [])


async def test_acceptance_08_05_a_broad_rune_does_not_reach_sibling_methods(suite: Suite) -> None:
    for name in ("comms", "archon", "hive"):
        await suite.start(name)
    await suite.settle("all", "comms", "archon", "hive")
    rune = (await suite.node.call("createrune", {"restrictions": [["method^hive-"]]}))["rune"]
    hello = {
        "plugin": "cl-hive",
        "version": "0.1.0",
        "proto_min": 1,
        "proto_max": 1,
        "nonce": "00" * 16,
        "ts": 1_700_000_000,
    }
    for method in ("hive-comms-hello", "hive-archon-hello", "hive-hello"):
        allowed = await suite.node.call("checkrune", {"rune": rune, "method": method, "params": hello})
        assert allowed["valid"] is True
        for forged in (hello, {**hello, "auth": "00" * 32}, {**hello, "auth": 7}):
            with pytest.raises(DevnetRpcError) as caught:
                await suite.node.call(method, forged)
            assert caught.value.code == 4003 and caught.value.message.startswith("unauthorized: ")
