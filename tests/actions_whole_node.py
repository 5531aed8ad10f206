"""Entries of actions that take all channels or the whole node, for the table of actions (02 §4 items 6, 12
and 14)."""

from __future__ import annotations

import asyncio

from action_table import Answer, Entry, Params, Stage, given
from actions_channel import CLOSED
from hive_devnet.node import NodeHandle
from hive_devnet.world import START_PPM, until
from hive_shared.registry import CHANNEL, CONFIG, EMERGENCY


async def _all(stage: Stage) -> Params:
    """Two channels at least, all of them usable, also where earlier entries left no coins."""
    await stage.world.network.fund(stage.world.alice, 3_000_000)
    await stage.world.network.open_channel(stage.world.alice, stage.world.bob, 90_000)
    # Without a destination: channels that promised theirs at the opening are not closed to another one.
    return {"reason": "the machine is sold"}


async def _to_a_stranger(stage: Stage) -> Params:
    address = (await stage.world.bob.call("newaddr", {"addresstype": "bech32"}))["bech32"]
    return {"reason": "a test", "destination": address}


async def _none_left(stage: Stage, params: Params, result: Answer) -> None:
    assert result["count"] == result["closed"] == len(result["channels"]) >= 2, result
    assert (result["closing"], result["open"]) == (0, 0) and "left" not in result

    async def closed() -> bool:
        await stage.world.network.mine(1)
        coins = (await stage.call("listfunds"))["outputs"]
        shown = {row["state"] for row in (await stage.call("listpeerchannels"))["channels"]}
        return shown <= {*CLOSED} and all(row["status"] == "confirmed" for row in coins)

    await until(closed, "no channel and no coin that waits for a block", pause=0.2)
    await _channel_again(stage)


async def _channel_again(stage: Stage) -> None:
    """The channel the world began with, for whatever comes next."""
    world = stage.world
    world.scid = await world.network.open_channel(world.alice, world.bob, 1_000_000, 300_000_000)
    await stage.call("setchannel", id=world.scid, feebase=1_000, feeppm=START_PPM)


async def _supervised(stage: Stage) -> Params:
    """A supervisor that starts the node once it is down, and the run that it is in now."""
    stage.kept["run"] = await _run_of(stage)
    stage.kept["supervisor"] = asyncio.create_task(_started_once(stage.world.alice))
    return {"reason": "an update of the kernel", "graceful_timeout_s": 5}


async def _started_once(node: NodeHandle) -> None:
    await node.ended()
    await node.start()


async def _run_of(stage: Stage) -> str:
    return str((await stage.call("getlog", level="broken"))["created_at"])


async def _in_another_run(stage: Stage, params: Params, result: Answer) -> None:
    await stage.kept.pop("supervisor")
    now = await _run_of(stage)
    assert now != stage.kept["run"] and result["node_state"] == "up_again"
    assert result["up_since"] == int(now.partition(".")[0])
    statuses = [
        item["status"]
        for item in (await stage.call("hive-client-receipts", limit=20))["items"]
        if item["action"] in ("stop_node", "restart_node")
    ]
    assert {"pending_external", "success"} <= set(statuses)

    async def connected() -> bool:
        rows = (await stage.call("listpeerchannels"))["channels"]
        up = [row for row in rows if row["state"] == "CHANNELD_NORMAL"]
        return bool(up) and all(row["peer_connected"] and row.get("reestablished", True) for row in up)

    await until(connected, "the peers to be back", pause=0.2)
    seen = [await stage.shown()]

    async def at_rest() -> bool:
        # Peers of channels that are closing, and coins, come back one by one after a start.
        seen.append(await stage.shown())
        return seen[-1] == seen[-2]

    await until(at_rest, "the node to be at rest after its start", pause=3)


ENTRIES = (
    Entry(CHANNEL, "close_all", _all, _none_left, _to_a_stranger, critical=True),
    Entry(
        *(CONFIG, "restart_node", _supervised, _in_another_run, given(reason="x", graceful_timeout_s=3_601)),
        stirs=True,
    ),
    Entry(EMERGENCY, "stop_node", _supervised, _in_another_run, given(reason=""), stirs=True),
    Entry(EMERGENCY, "force_close_all", _all, _none_left, _to_a_stranger, critical=True),
)
