"""Opening and closing a channel, killed at every point where disk or node is touched: done once or not at
all, and the receipt says which (02 §7.1 "Crash", §15.12)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from channel_node import PEER, ChannelNode, channel_world
from cl_hive_comms.services.executors import channel_close, channel_open
from crash_points import killed, killed_everywhere
from hive_shared.canonical import JsonValue
from pipeline_world import World

CHANNEL = "hive:channel/v1"
CASES: Mapping[str, dict[str, JsonValue]] = {
    "open": {"peer_id": PEER, "amount_sats": 250_000},
    "close_cooperative": {"channel_id": "101x1x0", "reason": "idle"},
}
LATER_S = max(channel_open.SETTLED_S, channel_close.SETTLED_S) + 61


def node(world: World) -> ChannelNode:
    assert isinstance(world.node, ChannelNode)
    return world.node


def effects(world: World) -> int:
    """Channels that were opened and channels that were closed."""
    rows = node(world).rows
    return sum(row["state"] == "CLOSINGD_COMPLETE" for row in rows) + len(rows) - 2


async def external(world: World) -> int:
    sql = "SELECT COUNT(*) FROM comms_commands WHERE state = 'pending_external'"
    return int(await world.db.read(lambda tx: tx.execute(sql).fetchone()[0]))


async def reserved(world: World) -> list[str]:
    sql = "SELECT state FROM comms_spend"
    return [row[0] for row in await world.db.read(lambda tx: tx.execute(sql).fetchall())]


@pytest.mark.parametrize("action", list(CASES))
async def test_acceptance_02_12_a_channel_action_killed_anywhere_is_done_once_or_not_at_all(
    tmp_path: Path, action: str
) -> None:
    async def order(world: World) -> None:
        await world.ask(CHANNEL, action, dict(CASES[action]))

    seen: set[str] = set()
    async for at, world, died in killed_everywhere(tmp_path, order, channel_world):
        # What left no trace counts as not begun only when it had the time to show.
        world.pass_time(LATER_S)
        await world.pipeline.timers.tick()
        docs = await world.docs()
        status = docs[0]["status"] if docs else "none"
        seen.add(status)
        assert len(node(world).asked) <= 1 and len(docs) <= 1, (at, docs)
        assert effects(world) == len(node(world).asked)
        if status == "success":
            assert effects(world) == 1, (at, docs)
            assert await reserved(world) == ["settled"]
        else:
            assert status in ("none", "rejected", "error") and effects(world) == 0, (at, docs)
            assert (docs or died) and await reserved(world) == [], at
    assert seen >= {"none", "error", "success"}, seen


@pytest.mark.parametrize("action", list(CASES))
async def test_acceptance_02_12_what_began_late_is_found(tmp_path: Path, action: str) -> None:
    """Killed while the node works on it: the plugin comes back first, the node's end later."""

    async def order(world: World) -> None:
        await world.ask(CHANNEL, action, dict(CASES[action]))

    async def stop(world: World) -> None:
        world.crash_at = "after_executing"

    world, died = await killed(tmp_path, -1, order, channel_world, stop)
    assert died and node(world).asked == [] and await external(world) == 1
    # As if the call had been on its way when the plugin was killed.
    if action == "open":
        node(world)._fundchannel({"id": PEER, "amount": 250_000})
    else:
        node(world)._close({"id": f"{1:064x}"})
    await world.pipeline.timers.tick()
    (doc,) = await world.docs()
    assert doc["status"] == "success" and doc["result"]["channel_id"], doc
    world.close()


async def test_acceptance_02_12_an_opening_that_cannot_be_proved_is_told_as_that(tmp_path: Path) -> None:
    """Coins moved, no channel came: whether our opening took part in that, the node cannot tell."""

    async def order(world: World) -> None:
        await world.ask(CHANNEL, "open", dict(CASES["open"]))

    async def stop(world: World) -> None:
        world.crash_at = "after_executing"

    world, _ = await killed(tmp_path, -1, order, channel_world, stop)
    node(world).reserved.add(next(iter(node(world).coins)))
    world.pass_time(LATER_S)
    await world.pipeline.timers.tick()
    assert await world.docs() == []
    world.pass_time(channel_open.GIVEN_UP_S)
    await world.pipeline.timers.tick()
    (doc,) = await world.docs()
    assert doc["status"] == "indeterminate" and len(node(world).asked) == 0
    assert await reserved(world) == ["reserved"], "what nobody could prove stays counted"
    world.close()


async def test_two_like_channels_are_not_guessed_at(tmp_path: Path) -> None:
    async def order(world: World) -> None:
        await world.ask(CHANNEL, "open", dict(CASES["open"]))

    async def stop(world: World) -> None:
        world.crash_at = "after_executing"

    world, _ = await killed(tmp_path, -1, order, channel_world, stop)
    for _ in range(2):
        node(world)._fundchannel({"id": PEER, "amount": 250_000})
    await world.pipeline.timers.tick()
    (doc,) = await world.docs()
    assert doc["status"] == "indeterminate" and len(doc["result"]["channel_ids"]) == 2
    world.close()
