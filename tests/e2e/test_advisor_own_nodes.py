"""What an operator does with the own nodes from the kit's command line (docs/protocol/11-advisor-kit.md §10
`node`)."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import pytest_asyncio
from agent import Agent
from hive_devnet.world import AdvisorFailed, AdvisorShell, World
from hive_shared.registry import PEER
from killed_command import trusted_agent
from mcp_client import config_dir


@pytest_asyncio.fixture
async def agent(world: World) -> AsyncIterator[Agent]:
    """An agent whose peer actions wait for the operator."""
    async with trusted_agent(world, {"peer_*": "always_confirm"}) as hired:
        yield hired


async def failed(shell: AdvisorShell, *arguments: str) -> AdvisorFailed:
    try:
        await shell.run(*arguments)
    except AdvisorFailed as error:
        return error
    raise AssertionError(f"{arguments} did not fail")


async def lines(shell: AdvisorShell, *arguments: str) -> list[dict[str, object]]:
    """What a stream printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hive_advisor", *arguments, env=shell.env, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return [json.loads(line) for line in out.splitlines()]


async def test_an_operator_adds_looks_calls_and_decides(world: World, agent: Agent) -> None:
    shell = world.advisor
    assert "no nodes are set up" in (await failed(shell, "node", "list")).error["message"]
    socket = str(world.alice.net_dir / "lightning-rpc")
    assert "either" in (await failed(shell, "node", "add", "home")).error["message"]
    assert (await shell.run("node", "add", "home", "--socket", socket))["way"] == "socket"
    before = (config_dir(shell) / "nodes.toml").read_bytes()
    again = await failed(shell, "node", "add", "home", "--socket", socket)
    assert "has a node 'home' already" in again.error["message"]
    nameless = await failed(shell, "node", "add", "a b", "--socket", socket)
    assert "node name 'a b'" in nameless.error["message"]
    assert (config_dir(shell) / "nodes.toml").read_bytes() == before
    missing = str(shell.directory / "nobody")
    await shell.run("node", "add", "away", "--socket", missing)
    assert (config_dir(shell) / "nodes.toml").read_bytes().startswith(before)

    found = await failed(shell, "node", "check")
    rows = found.error["items"]
    assert found.code == 1 and {"away"} <= {row["node"] for row in rows}
    day = await failed(shell, "node", "report")
    assert day.code == 6 and day.error["snapshot"]["errors"] == {"away": "transport_unavailable"}
    (snapshot,) = (await shell.run("node", "report", "home"))["snapshot"]["nodes"]
    assert snapshot["id"] == world.alice.node_id and snapshot["channels_open"] == 1

    assert (await shell.run("node", "call", "home", "hive-client-status"))["policy"]["preset"]
    held = await failed(
        shell, "node", "call", "home", "hive-client-policy", "action=set-preset", "preset=moderate"
    )
    assert held.code == 5 and "does more than read" in held.error["message"]
    wrong = await failed(shell, "node", "call", "home", "hive-client-receipts", "limit=0")
    assert wrong.code == 2 and "limit" in wrong.error["message"]
    assert (await failed(shell, "node", "call", "home", "withdraw")).code == 3
    assert (await failed(shell, "node", "call", "nobody", "hive-client-status")).code == 3
    await decided(world, shell, agent)


async def decided(world: World, shell: AdvisorShell, agent: Agent) -> None:
    """Two actions wait; one is approved, one rejected, both by what was shown."""
    asked = []
    for _ in range(2):
        document = agent.signed("disconnect", {"peer_id": world.bob.node_id}, PEER)
        assert (await agent.rest(document))["status"] == 3
        asked.append(document["command_id"])
    rows = (await shell.run("node", "pending", "home"))["items"]
    assert len(rows) == 2 and {row["node"] for row in rows} == {"home"}
    told = await lines(shell, "node", "watch", "home", "--once")
    waiting = {row["action_id"] for row in told if row["kind"] == "waiting"}
    assert waiting == {row["action_id"] for row in rows} and {row["event"] for row in told} == {"new"}
    first, second = (str(row["action_id"]) for row in rows)
    unasked = await failed(shell, "node", "approve", "home", first)
    assert unasked.code == 5 and len((await shell.run("node", "pending", "home"))["items"]) == 2
    assert (await failed(shell, "node", "approve", "home", "nothing")).code == 3
    assert (await shell.run("--yes", "node", "reject", "home", first, "--reason", "not now"))["state"]
    assert (await shell.run("--yes", "node", "approve", "home", second))["state"]
    assert (await shell.run("node", "pending", "home"))["items"] == []
    receipts = (await world.alice.call("hive-client-receipts", {"limit": 50}))["items"]
    ended = {row["command_id"]: row["status"] for row in receipts if row.get("command_id") in asked}
    assert "rejected" in ended.values()
