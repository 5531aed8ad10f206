"""Sheet 11 §11 and §18.13-17: programs with the MCP server's two roles, on real nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from approver_shell import PIN
from hive_advisor.domain.figure_tools import FIGURE_TOOLS
from hive_devnet.certificates import make_certificates
from hive_devnet.world import AdvisorFailed, AdvisorShell, World
from mcp_client import McpProgram, allow, config_dir, mcp_program
from rest_calls import post_in_turn
from terminal import at_terminal


@asynccontextmanager
async def hung_socket(path: Path) -> AsyncIterator[None]:
    """A node that takes calls and never answers."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(silent, path)
    try:
        yield
    finally:
        server.close()


def three_nodes(world: World, shell: AdvisorShell, hung: Path, rune: Path) -> None:
    other = shell.directory / "other-authority"
    other.mkdir()
    make_certificates(other, "127.0.0.1")
    (config_dir(shell) / "nodes.toml").write_text(
        f'[nodes.own]\nsocket = "{world.alice.net_dir / "lightning-rpc"}"\n'
        f'[nodes.hung]\nsocket = "{hung}"\n'
        f'[nodes.wrong]\nrest_url = "{world.rest_url}"\nrune_file = "{rune}"\n'
        f'ca_cert = "{other / "ca.pem"}"\n'
    )


async def test_acceptance_11_17_three_nodes_one_hung_one_with_a_wrong_certificate(rest_world: World) -> None:
    world, shell = rest_world, rest_world.advisor
    hung, rune = world.directory / "hung.sock", shell.directory / "r.rune"
    (config_dir(shell) / "nodes.toml").write_text(
        f'[nodes.own]\nsocket = "{world.alice.net_dir / "lightning-rpc"}"\n'
    )
    await shell.run("node", "rune", "own", "--out", str(rune))
    three_nodes(world, shell, hung, rune)
    invoice = await world.bob.call("invoice", {"amount_msat": 10_000, "label": "a", "description": "for bob"})
    await world.alice.call("pay", {"bolt11": invoice["bolt11"]})
    async with hung_socket(hung), mcp_program(shell, "--role", "operator") as program:
        listed = await program.tools()
        assert set(FIGURE_TOOLS) < set(listed) and "hive_client_policy" not in listed
        assert len(listed) <= 25 and all(tool.annotations.read_only_hint for tool in listed.values())
        said = await program.call("fleet_snapshot")
        assert said["data"]["errors"] == {"hung": "timeout", "wrong": "transport_unavailable"}
        (node,) = said["data"]["nodes"]
        assert (node["id"], node["channels_open"]) == (world.alice.node_id, 1)
        assert said["data"]["totals"]["capacity_msat"] == 1_000_000_000
        await every_figure(world, program)
        await searched_and_called(program)
        status = await program.session.read_resource("hive://node/own/status")
        assert json.loads(status.contents[0].text)["data"]["policy"]["preset"] == "moderate"
        assert "Traceback" not in program.errors.read_text()
    await a_rune_holds(world, rune.read_text().strip())


async def every_figure(world: World, program: McpProgram) -> None:
    """Each is made of what this node answers."""
    needed: dict[str, dict[str, Any]] = {
        "channel_deep_dive": {"channel": world.scid},
        "graph_peer": {"peer_id": world.bob.node_id},
    }
    said = {
        name: (await program.call(name, node="own", **needed.get(name, {})))["data"] for name in FIGURE_TOOLS
    }
    assert said["fleet_health"]["answers"] is True and said["fleet_health"]["channels_offline"] == 0
    assert said["channel_deep_dive"]["channel"]["fee_ppm"] == 500
    assert [row["short_channel_id"] for row in said["stagnant_channels"]["items"]] == [world.scid]
    assert said["pending"]["queues"] == {"hive-client-pending": []}
    assert said["compare_periods"]["recent"]["forwards"] == 0 and said["forwards"]["items"] == []
    (payment,) = said["payments"]["items"]
    assert (payment["status"], payment["amount_msat"]) == ("complete", 10_000)
    assert "preimage" not in json.dumps(payment) and "lnbc" not in json.dumps(payment)
    assert said["graph_peer"]["peer_id"] == world.bob.node_id
    assert "deposit" in said["earnings"]["income"]


async def searched_and_called(program: McpProgram) -> None:
    """What is not shown is found and called, under the same rules."""
    found = (await program.call("tools_search", words="policy explain"))["data"]["items"]
    assert [row["tool"] for row in found] == ["hive_client_policy"]
    policy = await program.call(
        "hive_call", node="own", method="hive-client-policy", params={"action": "get"}
    )
    assert policy["data"]["preset"] == "moderate"
    error = await program.refused(
        "hive_call", node="own", method="hive-client-policy", params={"action": "reset"}, dry_run=False
    )
    assert error["slug"] == "operator_only"
    for method in ("hive-client-approve", "hive_client_approve", "pay", "hive_call"):
        error = await program.refused("hive_call", node="own", method=method, params={}, dry_run=False)
        assert error["slug"] in ("operator_only", "not_found"), error
    error = await program.refused("hive_call", node="own", method="hive-client-alias", params={"node": "x"})
    assert error["slug"] == "invalid_params" and "beside params" in error["message"]


async def a_rune_holds(world: World, rune: str) -> None:
    """It opens what the tools read, and nothing beside."""
    for method, body, status in (
        ("wait", {"subsystem": "forwards", "indexname": "created", "nextvalue": 0}, 201),
        ("listforwards", {"index": "created", "start": 1, "limit": 5}, 201),
        ("listpays", {}, 201),
        ("bkpr-listincome", {}, 201),
        ("pay", {"bolt11": "x"}, 401),
        ("hive-client-policy", {"action": "set", "overrides": {"max_danger": 10}}, 401),
        ("setchannel", {"id": "all", "feeppm": 1}, 401),
    ):
        response = await post_in_turn(world, f"/v1/{method}", rune, body)
        assert response.status_code == status, (method, response.text)


async def test_acceptance_11_15_a_program_manages_a_node_and_the_human_keeps_the_last_word(
    world: World,
) -> None:
    shell = world.advisor
    await world.hire("fees")
    await at_terminal(shell, "identity", "pin", answers={"New PIN": PIN, "Repeat for confirmation": PIN})
    allow(shell, json.dumps(["adv_commit", "adv_approve", "adv_release"]))
    fee = {"client": "alice", "action": "hive:fee-policy/set_single"}
    async with mcp_program(shell, "--role", "advisor") as program:
        told = program.errors.read_text()
        assert "adv_approve is of class X" in told and "adv_release is of class X" in told
        tools = await program.tools()
        assert "adv_commit" in tools and "adv_cancel" not in tools and "adv_approve" not in tools
        assert {name for name, tool in tools.items() if tool.annotations.destructive_hint} == {"adv_commit"}
        channels = await program.call("adv_read", client="alice", action="hive:monitor/channel_list")
        assert (channels["source"], channels["verified"]) == ("alice", True)
        (row,) = channels["data"]["result"]["items"]
        assert row["channel"] == world.scid
        # Within the guard: it goes out, once.
        limits = {"channel_id": world.scid, "htlc_minimum_msat": 2_000}
        plan = await program.call(
            "adv_plan", client="alice", action="hive:htlc-policy/set_htlc_limits", params=limits
        )
        assert plan["data"]["guard"]["verdict"] == "allow", plan
        done = await program.call("adv_commit", plan_id=plan["data"]["plan_id"])
        assert done["data"]["state"] == "done" and await htlc_minimum(world) == 2_000, done
        error = await program.refused("adv_commit", plan_id=plan["data"]["plan_id"])
        assert error["slug"] == "plan_used"
        # From 500 to 650 ppm in one step: the guard leaves that to the human.
        bold = await program.call("adv_plan", **fee, params={"channel_id": world.scid, "fee_ppm": 650})
        held = await program.call("adv_commit", plan_id=bold["data"]["plan_id"])
        assert held["data"]["held"] is True and (await world.channel_fees())[1] == 500
        for tool in ("adv_approve", "adv_release", "adv_confirm"):
            error = await program.refused(tool, approval_id=held["data"]["approval_id"], pin=PIN)
            assert error["slug"] == "operator_only"
        receipts = await program.call("adv_receipts", client="alice")
        assert receipts["data"]["items"][-1]["status"] == "success"
        await addresses_and_prompts(program)
        # While the program's server has the profile: the command runs in it, the PIN is typed here.
        await decided_at_a_terminal(world, held["data"]["approval_id"])
        assert "Traceback" not in program.errors.read_text()
    rows = (await shell.run("mcp", "log", "--limit", "500"))["items"]
    commits = [row for row in reversed(rows) if row["tool"] == "adv_commit"]
    assert [(row["decision"], row["slug"]) for row in commits] == [
        ("done", ""),
        ("failed", "plan_used"),
        ("done", ""),
    ]
    assert commits[0]["plan"] == plan["data"]["plan_id"] and commits[2]["plan"] == bold["data"]["plan_id"]


async def htlc_minimum(world: World) -> int:
    """Of alice's side of the channel."""
    (channel,) = (await world.alice.call("listpeerchannels"))["channels"]
    return int(channel["updates"]["local"]["htlc_minimum_msat"])


async def addresses_and_prompts(program: McpProgram) -> None:
    listed = [str(each.uri) for each in (await program.session.list_resources()).resources]
    assert listed == ["hive://advisor/status"]
    client = await program.session.read_resource("hive://client/alice/status")
    assert json.loads(client.contents[0].text)["data"]["credentials"][0]["state"] == "active"
    receipts = await program.session.read_resource("hive://client/alice/receipts")
    assert json.loads(receipts.contents[0].text)["data"]["count"] >= 1
    prompts = {prompt.name for prompt in (await program.session.list_prompts()).prompts}
    assert prompts == {"cycle", "review_client", "fleet_report"}
    review = await program.session.get_prompt("review_client", {"client": "alice"})
    assert 'my client "alice"' in review.messages[0].content.text


async def decided_at_a_terminal(world: World, approval_id: str) -> None:
    """Without the PIN nothing moves; with it the command runs once."""
    shell = world.advisor
    with pytest.raises(AdvisorFailed):
        await shell.run("approvals", "approve", approval_id)
    with pytest.raises(AdvisorFailed):
        await at_terminal(shell, "approvals", "approve", approval_id, answers={"PIN to": "000000"})
    assert (await world.channel_fees())[1] == 500
    done = await at_terminal(shell, "approvals", "approve", approval_id, answers={"PIN to": PIN})
    assert done["state"] == "done" and (await world.channel_fees())[1] == 650
    with pytest.raises(AdvisorFailed):
        await at_terminal(shell, "approvals", "approve", approval_id, answers={"PIN to": PIN})
