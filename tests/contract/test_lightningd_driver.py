"""The driver of real nodes, against a real lightningd; skipped where there is none."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import hive_devnet
import pytest
from hive_devnet.lightningd.driver import LightningdNetwork, NodeStartError, wait_until
from hive_devnet.lightningd.processes import is_running
from hive_devnet.node import DevnetRpcError

pytestmark = pytest.mark.skipif(
    shutil.which("lightningd") is None, reason="no lightningd on PATH: install Core Lightning to run these"
)

PLUGIN = """#!{python}
import json, sys
message = ""
for line in sys.stdin:
    message += line
    if line.strip() or not message.strip():
        continue
    request, message = json.loads(message), ""
    if "id" not in request:
        continue
    result = {{"greeting": "hello"}}
    if request["method"] == "getmanifest":
        option = {{"name": "greet-name", "type": "string", "description": "whom", "default": "x"}}
        method = {{"name": "greet", "usage": "", "description": "says hello"}}
        result = {{"options": [option], "rpcmethods": [method], "dynamic": True}}
    elif request["method"] == "init":
        result = {{}}
    print(json.dumps({{"jsonrpc": "2.0", "id": request["id"], "result": result}}) + "\\n", flush=True)
"""


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[LightningdNetwork]:
    opened = LightningdNetwork(tmp_path / "net")
    yield opened
    await opened.close()


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "greeter.py"
    path.write_text(PLUGIN.format(python=sys.executable))
    path.chmod(0o755)
    return path


async def test_channel_carries_a_payment_both_sides_see(network: LightningdNetwork) -> None:
    alice = await network.add_node("alice")
    bob = await network.add_node("bob")
    txid = await network.fund(alice, 5_000_000)
    assert any(output["txid"] == txid for output in (await alice.call("listfunds"))["outputs"])
    scid = await network.open_channel(alice, bob, 1_000_000, push_msat=50_000_000)
    (channel,) = (await bob.call("listpeerchannels"))["channels"]
    assert channel["short_channel_id"] == scid
    assert channel["to_us_msat"] == 50_000_000
    invoice = await bob.call("invoice", {"amount_msat": 12_345, "label": "one", "description": "one"})
    assert (await alice.call("pay", {"bolt11": invoice["bolt11"]}))["status"] == "complete"
    (paid,) = (await bob.call("listinvoices", {"label": "one"}))["invoices"]
    assert paid["status"] == "paid"


async def test_closed_channel_returns_its_coins_on_chain(network: LightningdNetwork) -> None:
    alice = await network.add_node("alice")
    bob = await network.add_node("bob")
    await network.fund(alice, 5_000_000)
    scid = await network.open_channel(alice, bob, 1_000_000, push_msat=300_000_000)
    closed = await alice.call("close", {"id": scid})
    assert closed["type"] == "mutual"
    await network.mine(1)

    async def bob_has_coins() -> bool:
        outputs = (await bob.call("listfunds"))["outputs"]
        return [output["amount_msat"] for output in outputs if output["status"] == "confirmed"] == [
            300_000_000
        ]

    await wait_until("bob holds his share", 30, bob_has_coins)


async def test_payment_is_forwarded_and_earns_its_fee(network: LightningdNetwork) -> None:
    alice = await network.add_node("alice")
    bob = await network.add_node("bob")
    carol = await network.add_node("carol")
    await network.fund(alice, 5_000_000)
    await network.fund(bob, 5_000_000)
    await network.open_channel(alice, bob, 1_000_000)
    far = await network.open_channel(bob, carol, 1_000_000)

    async def alice_knows() -> bool:
        return len((await alice.call("listchannels", {"short_channel_id": far}))["channels"]) == 2

    await wait_until("gossip reached alice", 60, alice_knows)
    invoice = await carol.call("invoice", {"amount_msat": 100_000, "label": "far", "description": "far"})
    paid = await alice.call("xpay", {"invstring": invoice["bolt11"]})
    assert paid["amount_sent_msat"] == 100_000 + 1 + 1
    (forward,) = (await bob.call("listforwards", {"status": "settled"}))["forwards"]
    assert forward["out_channel"] == far and forward["fee_msat"] == 2


async def test_mine_returns_when_all_live_nodes_are_there(network: LightningdNetwork) -> None:
    alice = await network.add_node("alice")
    bob = await network.add_node("bob")
    await bob.stop()
    height = await network.mine(3)
    assert (await alice.call("getinfo"))["blockheight"] == height
    await bob.start()
    height = await network.mine(1)
    assert (await bob.call("getinfo"))["blockheight"] == height


async def test_backend_commands_move_the_chain_over_rpc(network: LightningdNetwork) -> None:
    alice = await network.add_node("alice")
    address = (await alice.call("newaddr", {"addresstype": "p2tr"}))["p2tr"]
    txid = (await alice.call("faucet", {"address": address, "amount_sat": 40_000}))["txid"]
    mined = (await alice.call("mine", [2]))["blockheight"]
    assert mined == network.chain.height()

    async def seen() -> bool:
        outputs = (await alice.call("listfunds"))["outputs"]
        return any(output["txid"] == txid and output["status"] == "confirmed" for output in outputs)

    await wait_until("the payment is spendable", 30, seen)


async def test_killed_node_keeps_its_identity_and_channel(network: LightningdNetwork) -> None:
    alice = await network.add_node("alice")
    bob = await network.add_node("bob")
    await network.fund(alice, 5_000_000)
    scid = await network.open_channel(alice, bob, 1_000_000)
    identity = alice.node_id
    backend = await alice.plugin_pid("bitcoin_backend.py")
    await alice.kill()
    assert not is_running(backend)
    with pytest.raises(ConnectionError):
        await alice.call("getinfo")
    await alice.start()
    assert alice.node_id == identity

    async def reconnected() -> bool:
        (channel,) = (await alice.call("listpeerchannels"))["channels"]
        assert channel["short_channel_id"] == scid
        return bool(channel["peer_connected"])

    await wait_until("the peers found each other again", 30, reconnected)


async def test_plugin_is_found_killed_and_noticed(network: LightningdNetwork, plugin: Path) -> None:
    alice = await network.add_node("alice", plugins=[plugin])
    assert (await alice.call("greet"))["greeting"] == "hello"
    pid = await alice.plugin_pid("greeter.py")
    await alice.kill_plugin("greeter.py")
    assert not is_running(pid)
    with pytest.raises(DevnetRpcError) as refused:
        await alice.call("greet")
    assert refused.value.code == -32601
    with pytest.raises(LookupError, match=r"runs no plugin greeter\.py"):
        await alice.plugin_pid("greeter.py")
    await alice.call("plugin", {"subcommand": "start", "plugin": str(plugin)})
    assert await alice.plugin_pid("greeter.py") != pid


async def test_options_reach_the_node_and_setconfig_outlives_a_restart(
    network: LightningdNetwork, plugin: Path
) -> None:
    options = {"alias": "carol's", "greet-name": "world", "large-channels": None, "min-capacity-sat": 20_000}
    carol = await network.add_node("carol", options, [plugin])
    assert (await carol.call("getinfo"))["alias"] == "carol's"
    for name, value in (("greet-name", "world"), ("min-capacity-sat", 20_000)):
        (shown,) = (await carol.call("listconfigs", {"config": name}))["configs"].values()
        assert value in shown.values()
    await carol.call("setconfig", {"config": "min-capacity-sat", "val": 30_000})
    await carol.stop()
    await carol.start()
    shown = (await carol.call("listconfigs", {"config": "min-capacity-sat"}))["configs"]["min-capacity-sat"]
    assert shown["value_int"] == 30_000


async def test_node_that_cannot_start_says_why(network: LightningdNetwork) -> None:
    with pytest.raises(NodeStartError, match="no-such-option"):
        await network.add_node("dave", {"no-such-option": "1"})
    with pytest.raises(ValueError, match="line break"):
        await network.add_node("erin", {"alias": "two\nlines"})


async def test_close_leaves_no_process_behind(tmp_path: Path, plugin: Path) -> None:
    network = LightningdNetwork(tmp_path / "net")
    alice = await network.add_node("alice", plugins=[plugin])
    pids = [await alice.plugin_pid("greeter.py"), await alice.plugin_pid("bitcoin_backend.py")]
    log = alice.log_text()
    assert "Server started with public key" in log
    await network.close()
    assert not any(is_running(pid) for pid in pids)


async def test_network_left_behind_is_opened_again_with_its_nodes(tmp_path: Path, plugin: Path) -> None:
    first = await LightningdNetwork.open(tmp_path / "net")
    alice = await first.add_node("alice", {"greet-name": "again"}, [plugin])
    bob = await first.add_node("bob")
    await first.fund(alice, 5_000_000)
    scid = await first.open_channel(alice, bob, 1_000_000)
    await first.close()
    again = await LightningdNetwork.open(tmp_path / "net")
    try:
        assert {name: node.node_id for name, node in again.nodes.items()} == {
            "alice": alice.node_id,
            "bob": bob.node_id,
        }
        (channel,) = (await again.nodes["bob"].call("listpeerchannels"))["channels"]
        assert channel["short_channel_id"] == scid
        assert (await again.nodes["alice"].call("greet"))["greeting"] == "hello"
        with pytest.raises(ValueError, match="already has a node 'bob'"):
            await again.add_node("bob")
    finally:
        await again.close()


OWNER = """
import asyncio, sys
from pathlib import Path
from hive_devnet.lightningd.driver import LightningdNetwork

async def main():
    network = await LightningdNetwork.open(Path(sys.argv[1]))
    node = await network.add_node("alice", plugins=[Path(sys.argv[2])])
    print(node.process_id, await node.plugin_pid("greeter.py"), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_killed_owner_takes_its_nodes_along(tmp_path: Path, plugin: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(hive_devnet.__file__).parents[1])}
    owner = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        OWNER,
        str(tmp_path / "net"),
        str(plugin),
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    assert owner.stdout is not None
    pids = [int(pid) for pid in (await asyncio.wait_for(owner.stdout.readline(), 60)).split()]
    assert len(pids) == 2 and all(is_running(pid) for pid in pids)
    owner.kill()
    await owner.wait()

    async def gone() -> bool:
        return not any(is_running(pid) for pid in pids)

    await wait_until("the node followed its owner", 30, gone)
