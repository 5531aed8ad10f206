"""Telemetry from the plugin on a node (docs/protocol/02-fleet-management.md §10, acceptance 11)."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import sys
import time
from contextlib import closing
from typing import Any

from agent import Agent
from channel_world import plugin_again
from hive_devnet.world import World, until
from hive_shared.registry.control import PUSHES, TELEMETRY_METRICS

CONTROL = "hive:control/v1"


async def told(world: World) -> list[dict[str, Any]]:
    """What the operator sees of telemetry."""
    rows = (await world.alice.call("hive-client-status"))["advisors"]
    return [each for row in rows for each in row.get("telemetry", [])]


async def followed(world: World, alias: str, command_id: str) -> dict[str, Any]:
    """The line of `telemetry follow` that tells of a command; then it is interrupted.

    From the log's beginning: the process that sent the command may have heard of its end already.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hive_advisor", "telemetry", "follow", alias, "--after", "0"),
        env=world.advisor.env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(120):
            while True:
                found: dict[str, Any] = json.loads(await process.stdout.readline())
                if found["metric"] == "action_log" and found.get("command_id") == command_id:
                    return found
    finally:
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130


async def test_acceptance_02_11_telemetry_is_pushed_and_ends_with_the_credential(
    world: World, agent: Agent
) -> None:
    until = int(time.time()) + 86_400
    wanted = {"metrics": [*TELEMETRY_METRICS], "interval_s": 300, "until": until}
    answer = await agent.rest(agent.signed("telemetry_subscribe", wanted, CONTROL))
    assert answer["status"] == 0, answer
    sub_id = answer["result"]["sub_id"]
    body = await agent.pushed("telemetry")
    PUSHES["telemetry"].parse(body)
    assert (body["sub_id"], body["seq"], set(body["metrics"])) == (sub_id, 1, set(TELEMETRY_METRICS))
    metrics = body["metrics"]
    assert metrics["health"]["channels_active"] == 1 and metrics["health"]["blockheight"] > 0
    assert metrics["liquidity"]["capacity_msat"] > 0
    assert metrics["stagnant"] == {"channels": 1, "stagnant": 1, "stagnant_pct": 100}
    assert metrics["revenue"] == {"fees_24h_msat": 0, "fees_7d_msat": 0, "complete": True}
    assert metrics["receipt_head"]["receipt_id"] >= 1, metrics
    (shown,) = await told(world)
    assert (shown["interval_s"], shown["until"], shown["sent"], shown["dropped"]) == (300, until, 1, 0)

    second = {"metrics": ["health"], "until": until}
    other = await agent.rest(agent.signed("telemetry_subscribe", second, CONTROL))
    gone = {"sub_id": other["result"]["sub_id"]}
    assert (await agent.rest(agent.signed("telemetry_unsubscribe", gone, CONTROL)))["status"] == 0
    assert (await agent.rest(agent.signed("telemetry_unsubscribe", gone, CONTROL)))["status"] == 1
    assert len(await told(world)) == 1

    # Who asks for reports is pinged at once; the operator sees the day so far.
    daily = {"metrics": ["report_daily"], "until": until}
    assert (await agent.rest(agent.signed("telemetry_subscribe", daily, CONTROL)))["status"] == 0
    ping = await agent.pushed("ping")
    answered = await agent.rest(agent.signed("ping_ack", ping, CONTROL))
    assert answered["result"] == {"noted": True, "counted": True}
    report = await world.alice.call("hive-client-report", {"advisor": agent.npub})
    so_far = report["so_far"]
    assert (so_far["pings"], so_far["pings_answered"], so_far["uptime_pct"]) == (1, 1, 100)
    assert so_far["response_time_s"]["p95"] <= 120 and report["items"] == []
    assert so_far["not_measured"] == {
        "revenue_delta_pct": "the node could not tell what it earned in the seven days before the hire"
    }, so_far

    await world.alice.call("hive-client-revoke", {"advisor": agent.npub, "reason": "enough"})
    with closing(sqlite3.connect(world.alice.net_dir / "cl_hive_comms.db", timeout=30)) as db:
        assert db.execute("SELECT COUNT(*) FROM comms_telemetry").fetchone() == (0,)
    refused = await agent.rest(agent.signed("telemetry_subscribe", wanted, CONTROL))
    assert refused["error"]["slug"] == "credential_revoked", json.dumps(refused)


async def test_the_kit_subscribes_and_keeps_what_comes_over_a_killed_plugin(world: World) -> None:
    await world.hire()
    alias = "alice"
    asked = ("telemetry", "subscribe", alias, "health", "pending", "--interval", "300", "--days", "2")
    sub_id = (await world.advisor.run(*asked))["sub_id"]

    async def came() -> list[dict[str, Any]]:
        await world.advisor.run("run", "--once")
        found: list[dict[str, Any]] = (await world.advisor.run("telemetry", "show", alias))["items"]
        return found

    items = await until(came, "the first figures")
    # The same rounds measure for the journal.
    measured = await world.advisor.run("journal", "goal", alias, "channels", "3")
    (goal,) = (await world.advisor.run("journal", "goals", alias))["items"]
    assert goal["goal_id"] == measured["goal_id"] and goal["first"] == 1 and goal["target"] == 3
    said = ("--target", "node", "--reasoning", "\x1b[31mtoo few")
    noted = await world.advisor.run("journal", "add", alias, "--kind", "open", *said)
    assert noted["reasoning"] == "too few" and noted["outcome"] is None
    assert {item["metric"] for item in items} == {"health", "pending"}
    assert {item["seq"] for item in items} == {1}
    await plugin_again(world)
    (shown,) = await told(world)
    assert shown["sent"] == 1, "not sent again by the start"
    await world.advisor.run("telemetry", "subscribe", alias, "action_log", "--days", "2")
    fee = ("hive:fee-policy/set_single", f"channel_id={world.scid}", "fee_ppm=520")
    done = await world.advisor.run("--yes", "send", alias, *fee)
    line = await followed(world, alias, done["command_id"])
    assert (line["action"], line["status"]) == ("set_single", "success"), line
    assert line in [
        {"metric": "action_log", **item}
        for item in (await world.advisor.run("telemetry", "log", alias))["items"]
    ]
    ended = await world.advisor.run("telemetry", "unsubscribe", alias, sub_id)
    assert ended["ended"] is True
    (left,) = (await world.advisor.run("telemetry", "show", alias))["running"]
    assert left["metrics"] == ["action_log"]
