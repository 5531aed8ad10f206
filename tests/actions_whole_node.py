"""Entries of actions that take all channels or the whole node, for the table of actions (02 §4 items 6, 12
and 14)."""

from __future__ import annotations

from action_table import Answer, Entry, Params, Stage
from actions_channel import CLOSED
from hive_devnet.world import START_PPM, until
from hive_shared.registry import CHANNEL, EMERGENCY


async def _all(stage: Stage) -> Params:
    """Two channels at least, all of them usable."""
    await stage.world.network.open_channel(stage.world.alice, stage.world.bob, 90_000)
    own = await stage.call("newaddr", addresstype="p2tr")
    return {"reason": "the machine is sold", "destination": own["p2tr"]}


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

    await until(closed, "no channel and no coin that waits for a block", 90, 0.2)
    await _channel_again(stage)


async def _channel_again(stage: Stage) -> None:
    """The channel the world began with, for whatever comes next."""
    world = stage.world
    world.scid = await world.network.open_channel(world.alice, world.bob, 1_000_000, 300_000_000)
    await stage.call("setchannel", id=world.scid, feebase=1_000, feeppm=START_PPM)


ENTRIES = (
    Entry(CHANNEL, "close_all", _all, _none_left, _to_a_stranger, critical=True),
    Entry(EMERGENCY, "force_close_all", _all, _none_left, _to_a_stranger, critical=True),
)
