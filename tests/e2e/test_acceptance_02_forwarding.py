"""Sheet 02 §15.21 and §15.12 for forwarding and emergencies, over real processes: exact limits after kills,
spikes that end, and the operator's stop on top of an advisor's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from agent import Agent
from channel_world import Limits, all_frozen, channels, exists, plugin_again, receipts, saved, varied_channels
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World, until

STOP = "hive-client-emergency-stop"
FORWARDING = "hive:forwarding/v1"
EMERGENCY = "hive:emergency/v1"


@pytest_asyncio.fixture
async def agent(world: World) -> AsyncIterator[Agent]:
    """An agent for everything whose forwarding commands the operator lets run by themselves."""
    overrides = {"approval_overrides": {"forwarding_*": "auto_execute", "emergency_*": "auto_execute"}}
    await world.alice.call("hive-client-policy", {"action": "set-preset", "preset": "aggressive"})
    await world.alice.call("hive-client-policy", {"action": "set", "overrides": overrides})
    async with Agent(world.alice, world.relay.url) as made:
        yield await made.hired("everything")


async def run(agent: Agent, action: str, schema: str = FORWARDING, **params: Any) -> dict[str, Any]:
    answer = await agent.rest(agent.signed(action, params, schema))
    assert answer["status"] == 0, answer
    return dict(answer["result"])


async def finished(world: World, command_id: str) -> dict[str, Any]:
    """The receipt of a command that the plugin was killed in."""

    async def found() -> dict[str, Any] | None:
        items = (await world.alice.call("hive-client-receipts", {"limit": 200}))["items"]
        return next((item for item in items if item.get("command_id") == command_id), None)

    return dict(await until(found, "the receipt of the killed command"))


async def killed_in(world: World, agent: Agent, document: dict[str, Any], point: str) -> dict[str, Any]:
    """Send, kill -9 at the point, start again; returns the receipt."""
    reached = world.arm_fault(point)
    calling = asyncio.create_task(agent.rest(document))
    await until(lambda: exists(reached), f"the plugin to reach {point}")
    await plugin_again(world)
    with pytest.raises((DevnetRpcError, ConnectionError)):
        await calling
    return await finished(world, document["command_id"])


async def test_acceptance_02_21_exact_limits_also_after_a_restart(world: World, agent: Agent) -> None:
    before = await varied_channels(world)
    off = await run(agent, "disable_all", reason="night")
    assert (off["applied"], off["count"]) == (3, 3), off
    assert all_frozen(before, await channels(world))
    await plugin_again(world)
    assert all_frozen(before, await channels(world))
    on = await run(agent, "enable_all")
    assert on["applied"] == 3 and await channels(world) == before
    assert await saved(world) == {}
    assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True


async def test_acceptance_02_21_a_channel_disabled_alone_is_respected(world: World, agent: Agent) -> None:
    before = await varied_channels(world)
    alone = next(iter(before))
    await run(agent, "disable_channel", channel_id=alone, reason="flapping")
    await run(agent, "disable_all", reason="night")
    await plugin_again(world)
    await run(agent, "enable_all")
    now = await channels(world)
    assert all_frozen({alone: before[alone]}, {alone: now[alone]})
    assert {scid: now[scid] for scid in now if scid != alone} == {
        scid: before[scid] for scid in before if scid != alone
    }
    await run(agent, "enable_channel", channel_id=alone)
    assert await channels(world) == before


async def test_acceptance_02_21_disabled_by_an_advisor_then_frozen_by_the_operator(
    world: World, agent: Agent
) -> None:
    before = await varied_channels(world)
    alone = next(iter(before))
    await run(agent, "disable_channel", channel_id=alone, reason="flapping")
    disabled = await channels(world)
    await world.alice.call(STOP, {"action": "engage", "freeze_forwarding": True})
    assert all_frozen(before, await channels(world))
    await plugin_again(world)
    token = (await world.alice.call(STOP, {"action": "status"}))["release"]["token"]
    released = await world.alice.call(STOP, {"action": "release", "token": token})
    assert released["forwarding"]["saved"] == 0, released
    assert await channels(world) == disabled, "it comes back as disabled"
    await run(agent, "enable_channel", channel_id=alone)
    assert await channels(world) == before


async def test_bounds_set_by_hand_are_not_overwritten(world: World, agent: Agent) -> None:
    before = await varied_channels(world)
    by_hand = next(iter(before))
    await run(agent, "disable_all", reason="night")
    await world.alice.call("setchannel", {"id": by_hand, "htlcmax": 55_000_000})
    on = await run(agent, "enable_all")
    assert on["left"] == [{"channel": by_hand, "state": "left_alone"}], on
    now = await channels(world)
    assert now[by_hand][:2] == (before[by_hand][0], 55_000_000)
    assert {**now, by_hand: ()} == {**before, by_hand: ()}


def applied_of(receipt: dict[str, Any]) -> set[str]:
    result = receipt["result"]
    if isinstance(result, str):
        result = json.loads(result)
    return {part["channel"] for part in result.get("channels", ()) if part["state"] == "applied"}


def now_frozen(before: Limits, now: Limits) -> set[str]:
    return {scid for scid in before if now[scid] != before[scid]}


async def test_acceptance_02_12_disable_all_killed_at_every_channel(world: World, agent: Agent) -> None:
    before = await varied_channels(world)
    for number, scid in enumerate(before, 1):
        document = agent.signed("disable_all", {"reason": "night"}, FORWARDING)
        receipt = await killed_in(world, agent, document, f"channel_set_{scid}")
        frozen = now_frozen(before, await channels(world))
        assert len(frozen) == number and applied_of(receipt) == frozen, receipt
        assert receipt["status"] == ("success" if number == 3 else "partial"), receipt
        assert set(await saved(world)) == frozen
        await run(agent, "enable_all")
        assert await channels(world) == before
    assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True


async def test_acceptance_02_12_enable_all_killed_at_every_channel(world: World, agent: Agent) -> None:
    before = await varied_channels(world)
    for number, scid in enumerate(before, 1):
        await run(agent, "disable_all", reason="night")
        receipt = await killed_in(
            world, agent, agent.signed("enable_all", {}, FORWARDING), f"channel_set_{scid}"
        )
        frozen = now_frozen(before, await channels(world))
        assert len(frozen) == 3 - number and applied_of(receipt) == set(before) - frozen, receipt
        assert set(await saved(world)) == frozen
        await run(agent, "enable_all")
        assert await channels(world) == before and await saved(world) == {}


def due_now(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as db, db:
        changed = db.execute(
            "UPDATE comms_timers SET due = ? WHERE kind = 'fee_spike' AND done_at IS NULL",
            (int(time.time()) - 1,),
        ).rowcount
        assert changed == 1


async def test_acceptance_02_21_a_fee_spike_killed_at_every_channel_ends_on_time(
    world: World, agent: Agent
) -> None:
    before = await varied_channels(world)
    for number, scid in enumerate(before, 1):
        document = agent.signed("fee_spike", {"reason": "drained", "hours": 1}, EMERGENCY)
        receipt = await killed_in(world, agent, document, f"channel_set_{scid}")
        spiked = {s for s, limits in (await channels(world)).items() if limits[3] == 50_000}
        assert len(spiked) == number and applied_of(receipt) == spiked, receipt
        await plugin_again(world)
        assert {s for s, limits in (await channels(world)).items() if limits[3] == 50_000} == spiked
        await plugin_again(world, due_now)

        async def back() -> bool:
            return await channels(world) == before

        await until(back, "the end of the spike after the restart")

        async def recorded(count: int = number) -> bool:
            ends = [r for r in await receipts(world, "fee_spike") if r["params"] == {"by": "timer"}]
            return len(ends) == count

        await until(recorded, "one receipt of each end")
    assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True
