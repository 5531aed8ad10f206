"""Fee changes of an advisor on a running plugin: run, refused, queued, over the RPC socket too."""

import os
from pathlib import Path

from comms_world import PLUGIN, Agent, call, refused, world
from hive_devnet.node import Network, NodeHandle
from outside import Stopwatch, parent


async def channel(network: Network, node: NodeHandle) -> str:
    bob = await network.add_node("bob")
    await network.fund(node, 2_000_000)
    return await network.open_channel(node, bob, 1_000_000)


async def ppm(node: NodeHandle, scid: str) -> int:
    (row,) = (await call(node, "listpeerchannels", short_channel_id=scid))["channels"]
    return int(row["fee_proportional_millionths"])


async def test_a_fee_change_runs_and_its_receipts_verify(tmp_path: Path) -> None:
    async with world(tmp_path) as (network, node, relay), Agent(relay.url) as agent:
        scid = await channel(network, node)
        await agent.hired(node)
        was = await ppm(node, scid)
        answer = await agent.run("hive:fee-policy/v1", "set_single", {"channel_id": scid, "fee_ppm": was + 2})
        assert (answer["status"], await ppm(node, scid)) == (0, was + 2)
        report = await call(node, "hive-client-receipts-verify")
        assert report["ok"] is True and report["checked"] >= 2


async def test_what_policy_forbids_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as (network, node, relay), Agent(relay.url) as agent:
        scid = await channel(network, node)
        await agent.hired(node)
        await call(node, "hive-client-policy", action="protect", channels=scid)
        was = await ppm(node, scid)
        answer = await agent.run("hive:fee-policy/v1", "set_single", {"channel_id": scid, "fee_ppm": was + 1})
        assert answer["status"] == 1 and answer["error"]["slug"] == "protected_channel"
        assert await ppm(node, scid) == was


async def test_what_a_rule_holds_waits_and_runs_when_the_operator_approves(tmp_path: Path) -> None:
    async with world(tmp_path) as (network, node, relay), Agent(relay.url) as agent:
        scid = await channel(network, node)
        await agent.hired(node)
        rule = {"match": {"schema": "hive:fee-policy/*"}, "effect": "confirm", "note": "ask me"}
        await call(node, "hive-client-policy", action="add-rule", rule=rule)
        was = await ppm(node, scid)
        params = {"channel_id": scid, "fee_ppm": was + 1}
        answer = await agent.run("hive:fee-policy/v1", "set_single", params)
        assert answer["status"] == 3
        status = await call(node, "hive-client-status", pending=True)
        (waiting,) = status["pending"]["items"]
        await call(node, "hive-client-approve", action_id=waiting["action_id"])
        final = await agent.wait_for(
            lambda message: message.get("request_nonce") == agent.nonce and message["status"] != 3
        )
        assert (final["status"], await ppm(node, scid)) == (0, was + 1)


async def test_the_same_envelope_over_the_rpc_socket_gets_the_same_answer(tmp_path: Path) -> None:
    async with world(tmp_path) as (network, node, relay), Agent(relay.url) as agent:
        scid = await channel(network, node)
        await agent.hired(node)
        was = await ppm(node, scid)
        text = agent.command("hive:fee-policy/v1", "set_single", {"channel_id": scid, "fee_ppm": was + 1})
        await agent.send(agent.node_key, text)
        by_message = await agent.response(agent.nonce)
        by_socket = await call(node, "hive-comms-rpc", request=text, sender=agent.npub)
        assert by_message == by_socket and by_socket["status"] == 0
        forged = await refused(node, "hive-comms-rpc", request=text, sender="11" * 32)
        assert forged.code == 4003


async def test_a_wrong_or_missing_rune_is_refused_when_runes_are_demanded(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        await agent.hired(node)
        text = agent.command("hive:monitor/v1", "health_summary")
        await call(node, "setconfig", config="hive-comms-rest-rune-required", val="true")
        missing = await refused(node, "hive-comms-rpc", request=text, sender=agent.pubkey)
        assert (missing.code, missing.data["reason"]) == (4003, "rune_rejected")
        other = await call(node, "createrune", restrictions=[["method=getinfo"]])
        wrong = await refused(node, "hive-comms-rpc", request=text, sender=agent.pubkey, rune=other["rune"])
        assert wrong.data["reason"] == "rune_rejected"
        right = await call(
            node,
            "createrune",
            restrictions=[["method=hive-comms-rpc"], [f"pnamesender={agent.pubkey}"]],
        )
        answer = await call(node, "hive-comms-rpc", request=text, sender=agent.pubkey, rune=right["rune"])
        assert answer["status"] == 0


async def test_the_emergency_stop_refuses_commands_until_it_is_released(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        await agent.hired(node)
        stop = node.net_dir / "hive" / "EMERGENCY_STOP"
        stop.parent.mkdir(exist_ok=True)
        stop.touch()
        answer = await agent.run("hive:monitor/v1", "health_summary")
        assert answer["error"]["slug"] == "emergency_stop"
        stop.unlink()
        assert (await agent.run("hive:monitor/v1", "health_summary"))["status"] == 1
        token = (await call(node, "hive-client-emergency-stop", action="status"))["release"]["token"]
        await call(node, "hive-client-emergency-stop", action="release", token=token)
        assert (await agent.run("hive:monitor/v1", "health_summary"))["status"] == 0


async def test_stopping_the_plugin_takes_less_than_five_seconds(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        await agent.hired(node)
        watch = Stopwatch(parent(await node.plugin_pid(PLUGIN.name)), os.getpid())
        await node.call("plugin", {"subcommand": "stop", "plugin": str(PLUGIN)})
        assert watch.stop().own < 5
