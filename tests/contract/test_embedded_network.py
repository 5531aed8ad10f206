"""The embedded network itself: starts, stops, kills, faults, and what survives them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cln_contract import Probe
from hive_devnet.faults import FaultKind, NodeFaults
from hive_devnet.network import EmbeddedNetwork, open_network
from hive_devnet.node import DevnetRpcError


@pytest_asyncio.fixture
async def network(tmp_path: Path) -> AsyncIterator[EmbeddedNetwork]:
    opened = await EmbeddedNetwork.open(tmp_path / "net", synchronous="OFF")
    try:
        yield opened
    finally:
        await opened.close()


def _hold(name: str) -> dict[str, Any]:
    return {"manifest": {"hooks": [name]}, "answers": {name: {"__hold__": True}}}


async def _pair(network: EmbeddedNetwork) -> tuple[Any, Any, str]:
    a, b = await network.add_node("alice"), await network.add_node("bob")
    await network.fund(a, 5_000_000)
    return a, b, await network.open_channel(a, b, 1_000_000)


async def test_the_kind_comes_from_the_argument_then_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVE_NODE", "embedded")
    opened = await open_network(tmp_path / "n")
    assert opened.kind == "embedded"
    await opened.close()
    monkeypatch.setenv("HIVE_NODE", "cardboard")
    with pytest.raises(ValueError, match="'cardboard' is not one of embedded, lightningd"):
        await open_network(tmp_path / "n")


async def test_a_restarted_node_keeps_its_identity_channels_and_peers(network: EmbeddedNetwork) -> None:
    a, b, scid = await _pair(network)
    await a.call("datastore", {"key": "k", "string": "v"})
    await a.call("setchannel", {"id": scid, "feeppm": 321})
    await a.stop()
    with pytest.raises((FileNotFoundError, ConnectionError)):
        await a.call("getinfo")
    await a.start()
    assert (await a.call("getinfo"))["id"] == a.node_id
    (channel,) = (await a.call("listpeerchannels"))["channels"]
    assert (channel["fee_proportional_millionths"], channel["peer_connected"]) == (321, True)
    assert (await a.call("listdatastore", {"key": "k"}))["datastore"][0]["string"] == "v"
    assert (await b.call("listpeers"))["peers"][0]["connected"] is True


async def test_everything_that_was_answered_survives_sigkill(network: EmbeddedNetwork) -> None:
    a, b, scid = await _pair(network)
    await b.stop()
    await a.call("setchannel", {"id": scid, "feeppm": 77})
    await network.kill()
    await network.reopen()
    (channel,) = (await a.call("listpeerchannels"))["channels"]
    assert channel["fee_proportional_millionths"] == 77
    with pytest.raises((FileNotFoundError, ConnectionError)):
        await b.call("getinfo")
    await b.start()
    assert (await a.call("listpeers"))["peers"][0]["connected"] is True


async def test_a_payment_in_flight_goes_on_after_sigkill(network: EmbeddedNetwork, tmp_path: Path) -> None:
    a, b, _ = await _pair(network)
    holder = Probe(tmp_path, "hold.py", **_hold("htlc_accepted"))
    await b.call("plugin", ["start", str(holder.path)])
    invoice = await b.call("invoice", {"amount_msat": 1_000_000, "label": "x", "description": "d"})
    paying = asyncio.ensure_future(a.call("xpay", [invoice["bolt11"]]))
    async with asyncio.timeout(60):
        while not holder.received("htlc_accepted"):
            await asyncio.sleep(0.02)
    (channel,) = (await a.call("listpeerchannels"))["channels"]
    assert [htlc["amount_msat"] for htlc in channel["htlcs"]] == [1_000_000]
    await network.kill()
    with pytest.raises(ConnectionError):
        await paying
    await network.reopen()
    paid = await b.call("waitinvoice", ["x"], timeout=20)
    assert paid["status"] == "paid"
    async with asyncio.timeout(60):
        while (await a.call("listpays", [invoice["bolt11"]]))["pays"][0]["status"] != "complete":
            await asyncio.sleep(0.02)
    totals = await network.control("totals")
    assert totals["issued_msat"] == totals["present_msat"]


async def test_a_killed_node_breaks_its_sockets_and_ends_its_plugins(
    network: EmbeddedNetwork, tmp_path: Path
) -> None:
    probe = Probe(tmp_path, "p.py", manifest={"subscriptions": ["shutdown"]})
    node = await network.add_node("alice", plugins=[probe.path])
    await node.plugin_pid("p.py")
    waiting = asyncio.ensure_future(node.call("waitblockheight", {"blockheight": 10**6}))
    await node.call("getinfo")
    await node.kill()
    with pytest.raises(ConnectionError):
        await waiting
    assert probe.received("shutdown") == []
    await node.start()
    assert len(probe.received("init")) == 2


async def test_stop_over_rpc_tells_the_plugins(network: EmbeddedNetwork, tmp_path: Path) -> None:
    probe = Probe(tmp_path, "p.py", manifest={"subscriptions": ["shutdown"]})
    node = await network.add_node("alice", plugins=[probe.path])
    assert await node.call("stop") == {"result": "Shutdown complete"}
    async with asyncio.timeout(60):
        while node.rpc_path.exists():
            await asyncio.sleep(0.02)
    assert len(probe.received("shutdown")) == 1


async def test_a_lost_answer_leaves_the_effect(network: EmbeddedNetwork) -> None:
    a, _, scid = await _pair(network)
    faults = NodeFaults(network, a)
    await faults.set("setchannel", FaultKind.LOSE_AFTER)
    with pytest.raises(TimeoutError):
        await a.call("setchannel", {"id": scid, "feeppm": 4242}, timeout=0.5)
    (channel,) = (await a.call("listpeerchannels"))["channels"]
    assert channel["fee_proportional_millionths"] == 4242
    assert await faults.struck("setchannel") == 1
    await a.call("setchannel", {"id": scid, "feeppm": 1})
    assert await faults.clear() == 1


async def test_a_call_lost_before_it_acts_has_no_effect(network: EmbeddedNetwork) -> None:
    a, _, scid = await _pair(network)
    faults = NodeFaults(network, a)
    await faults.set("setchannel", FaultKind.LOSE_BEFORE, times=0)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await a.call("setchannel", {"id": scid, "feeppm": 4242}, timeout=0.3)
    (channel,) = (await a.call("listpeerchannels"))["channels"]
    assert channel["fee_proportional_millionths"] == 10


async def test_calls_may_be_delayed_or_failed(network: EmbeddedNetwork) -> None:
    node = await network.add_node("alice")
    faults = NodeFaults(network, node)
    await faults.set("getinfo", FaultKind.FAIL_BEFORE)
    with pytest.raises(DevnetRpcError, match="fault switch"):
        await node.call("getinfo")
    await faults.set("getinfo", FaultKind.DELAY_AFTER, seconds=3_600, times=2)
    with pytest.raises(TimeoutError):
        await node.call("getinfo", timeout=0.3)
    held = asyncio.create_task(node.call("getinfo"))
    async with asyncio.timeout(60):
        while await faults.struck("getinfo") < 3:
            await asyncio.sleep(0.02)
    await faults.release()
    assert (await held)["id"] == node.node_id


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"no-such-option": "1"}, "--no-such-option: unrecognized option"),
        ({"fee-base": "x"}, "--fee-base=x: 'x' is not a number"),
        ({"offline": "yes"}, "--offline=yes: doesn't allow an argument"),
    ],
)
async def test_a_node_with_a_bad_option_does_not_start(
    network: EmbeddedNetwork, options: dict[str, object], words: str
) -> None:
    with pytest.raises(DevnetRpcError) as caught:
        await network.add_node("alice", options)
    assert caught.value.message == words
    await network.add_node("alice")


async def test_a_taken_option_stops_the_node_at_startup(network: EmbeddedNetwork, tmp_path: Path) -> None:
    option = {"name": "same", "type": "string", "description": "d"}
    probes = [Probe(tmp_path, name, manifest={"options": [option]}) for name in ("a.py", "b.py")]
    with pytest.raises(DevnetRpcError, match="option name 'same' is already taken"):
        await network.add_node("alice", plugins=[probe.path for probe in probes])


async def test_a_taken_method_kills_the_plugin_only(network: EmbeddedNetwork, tmp_path: Path) -> None:
    method = {"name": "same", "usage": "", "description": "d"}
    probes = [Probe(tmp_path, name, manifest={"rpcmethods": [method]}) for name in ("a.py", "b.py")]
    node = await network.add_node("alice", plugins=[probe.path for probe in probes])
    assert len((await node.call("plugin", ["list"]))["plugins"]) == 1
    assert 'Could not register method "same"' in node.log_text()


async def test_an_important_plugin_takes_the_node_with_it(network: EmbeddedNetwork, tmp_path: Path) -> None:
    probe = Probe(tmp_path, "vital.py")
    node = await network.add_node("alice", {"important-plugin": str(probe.path)})
    await node.kill_plugin("vital.py")
    async with asyncio.timeout(60):
        while node.rpc_path.exists():
            await asyncio.sleep(0.02)
    assert "Plugin marked as important, shutting down lightningd!" in node.log_text()


async def test_options_come_from_config_files_too(network: EmbeddedNetwork, tmp_path: Path) -> None:
    option = {"name": "probe-level", "type": "int", "default": 1, "description": "d", "dynamic": True}
    script = {"manifest": {"options": [option]}, "answers": {"setconfig": {}}}
    probe = Probe(tmp_path, "conf.py", **script)
    directory = network.dir / "alice"
    directory.mkdir()
    (directory / "config").write_text("# comment\nalias=from-file\nprobe-level=5\n")
    node = await network.add_node("alice", plugins=[probe.path])
    assert (await node.call("getinfo"))["alias"] == "from-file"
    assert probe.received("init")[0]["params"]["options"] == {"probe-level": 5}
    await node.call("setconfig", {"config": "probe-level", "val": 9})
    assert (
        "# setconfig commented out (see config.setconfig): probe-level=5"
        in (directory / "config").read_text()
    )
    assert (node.net_dir / "config.setconfig").read_text().splitlines()[1] == "probe-level=9"
    await node.stop()
    await node.start()
    assert probe.received("init")[1]["params"]["options"] == {"probe-level": 9}


async def test_deprecated_options_go_with_deprecated_apis(network: EmbeddedNetwork, tmp_path: Path) -> None:
    option = {"name": "old", "type": "string", "default": "x", "description": "d", "deprecated": True}
    probe = Probe(tmp_path, "old.py", manifest={"options": [option]})
    await network.add_node("alice", plugins=[probe.path])
    assert probe.received("getmanifest")[0]["params"] == {"allow-deprecated-apis": True}
    strict = await network.add_node("bob", {"allow-deprecated-apis": "false"}, [probe.path])
    assert (await strict.call("plugin", ["list"]))["plugins"] == []
    assert "Invalid default 'x': deprecated option (will be removed!)" in strict.log_text()


async def test_disabled_and_directory_plugins(network: EmbeddedNetwork, tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    wanted, unwanted = Probe(folder, "yes.py"), Probe(folder, "no.py")
    node = await network.add_node("alice", {"plugin-dir": str(folder), "disable-plugin": "no.py"})
    names = [entry["name"] for entry in (await node.call("plugin", ["list"]))["plugins"]]
    assert names == [str(wanted.path)]
    assert unwanted.received() == []


async def test_a_plugin_may_call_the_node_from_init_and_from_a_call(
    network: EmbeddedNetwork, tmp_path: Path
) -> None:
    source = """#!{python}
from pyln.client import Plugin
plugin = Plugin()
@plugin.init()
def init(options, configuration, plugin):
    plugin.seen = plugin.rpc.getinfo()["alias"]
@plugin.method("seen")
def seen(plugin):
    return {{"at_init": plugin.seen, "now": plugin.rpc.listpeers()["peers"]}}
plugin.run()
"""

    path = tmp_path / "pyln_plugin.py"
    path.write_text(source.format(python=sys.executable))
    path.chmod(0o755)
    node = await network.add_node("alice", plugins=[path])
    assert await node.call("seen") == {"at_init": "alice", "now": []}


async def test_nothing_but_json_on_stdout_ends_a_plugin(network: EmbeddedNetwork, tmp_path: Path) -> None:

    path = tmp_path / "noisy.py"
    path.write_text(f"#!{sys.executable}\nprint('hello')\ninput()\n")
    path.chmod(0o755)
    node = await network.add_node("alice")
    with pytest.raises(DevnetRpcError, match="Invalid token in json input"):
        await node.call("plugin", ["start", str(path)])


async def test_hive_cli_speaks_to_a_node(
    network: EmbeddedNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    from hive_devnet import cli

    await network.add_node("alice")
    base = ["--dir", str(network.dir)]
    assert await asyncio.to_thread(cli.main, [*base, "alice", "getinfo"]) == 0
    assert json.loads(capsys.readouterr().out)["alias"] == "alice"
    arguments = [*base, "alice", "datastore", 'key=["a","b"]', "string=one", "mode=must-create"]
    assert await asyncio.to_thread(cli.main, arguments) == 0
    assert json.loads(capsys.readouterr().out)["key"] == ["a", "b"]
    assert await asyncio.to_thread(cli.main, [*base, "alice", "nope"]) == 1
    assert json.loads(capsys.readouterr().out) == {"code": -32601, "message": "Unknown command 'nope'"}
    assert await asyncio.to_thread(cli.main, [*base, "zed", "getinfo"]) == 2
    assert "no answer from node 'zed'" in capsys.readouterr().err
    assert await asyncio.to_thread(cli.main, [*base, "-F", "alice", "getinfo"]) == 0
    assert "our_features.channel=\n" in capsys.readouterr().out
