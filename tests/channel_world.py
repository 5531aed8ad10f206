"""Channels with different HTLC bounds on a node that gets killed, for end-to-end tests."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World, until

PLUGIN = "cl-hive-comms.py"

Limits = dict[str, tuple[int, int, int, int]]


async def channels(world: World) -> Limits:
    """htlcmin, htlcmax, base fee and rate of every channel that can carry payments."""
    return {
        row["short_channel_id"]: (
            int(row["minimum_htlc_out_msat"]),
            int(row["maximum_htlc_out_msat"]),
            int(row["fee_base_msat"]),
            int(row["fee_proportional_millionths"]),
        )
        for row in (await world.alice.call("listpeerchannels"))["channels"]
        if row["state"] == "CHANNELD_NORMAL"
    }


async def varied_channels(world: World) -> Limits:
    """Three channels whose bounds differ, so that "exactly" means something."""
    for capacity in (500_000, 400_000):
        await world.network.open_channel(world.alice, world.bob, capacity)
    bounds = [(1_000, 700_000_000), (0, 123_456_789), (25_000, 25_001)]
    for scid, (low, high) in zip(await channels(world), bounds, strict=True):
        await world.alice.call("setchannel", {"id": scid, "htlcmin": low, "htlcmax": high})
    return await channels(world)


def all_frozen(before: Limits, now: Limits) -> bool:
    frozen = {scid: (low, max(1, low), *fees) for scid, (low, _, *fees) in before.items()}
    return now == frozen


async def ready(world: World) -> None:
    """Wait until the plugin answers again."""

    async def answers() -> bool:
        try:
            await world.alice.call("hive-client-identity")
        except DevnetRpcError:
            return False
        return True

    await until(answers, "the plugin to answer")


async def plugin_again(world: World, while_down: Callable[[Path], None] | None = None) -> None:
    """Kill -9 and start: the plugin alone, on real CLN with its node, which dies at a second plugin start.
    `while_down` gets the path of the plugin's database in between."""
    database = world.alice.net_dir / "cl_hive_comms.db"
    if world.network.kind == "embedded":
        await world.alice.kill_plugin(PLUGIN)
        world.disarm_faults()
        if while_down is not None:
            while_down(database)
        plugin = Path(__file__).parents[1] / "cl-hive-comms" / PLUGIN
        await world.alice.call("plugin", ["start", str(plugin)])
    else:
        await world.alice.kill()
        world.disarm_faults()
        if while_down is not None:
            while_down(database)
        await world.alice.start()
    await ready(world)


async def receipts(world: World, action: str) -> list[dict[str, Any]]:
    items = (await world.alice.call("hive-client-receipts", {"limit": 200}))["items"]
    return [item for item in items if item["action"] == action]


async def exists(path: Path) -> bool:
    return path.exists()


async def saved(world: World) -> dict[str, tuple[int, ...]]:
    """What is stored, read beside the plugin: no double save, no frozen value taken for an original."""

    def read() -> dict[str, tuple[int, ...]]:
        with closing(sqlite3.connect(world.alice.net_dir / "cl_hive_comms.db", timeout=60)) as database:
            rows = database.execute("SELECT scid, htlcmin, htlcmax FROM comms_saved_channel").fetchall()
        assert len({row[0] for row in rows}) == len(rows)
        return {row[0]: tuple(row[1:]) for row in rows}

    return await asyncio.to_thread(read)
