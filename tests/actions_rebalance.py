"""Entries of hive:rebalance/v1 for the table of actions (02 §4 item 5)."""

from __future__ import annotations

from typing import Any

from action_table import Answer, Entry, Params, Stage
from hive_devnet.world import until
from hive_shared.registry import REBALANCE


async def _row(stage: Stage, scid: str) -> dict[str, Any]:
    rows = (await stage.call("listpeerchannels"))["channels"]
    return next(row for row in rows if row.get("short_channel_id") == scid)


async def _ring(stage: Stage) -> str:
    """The channel by which somebody whom bob can pay can pay alice."""
    if "ring" not in stage.kept:
        world, network = stage.world, stage.world.network
        erin = await network.add_node("erin")
        for node in (world.bob, erin):
            await network.fund(node, 1_000_000)
        between = await network.open_channel(world.bob, erin, 300_000)
        stage.kept["ring"] = await network.open_channel(erin, world.alice, 300_000)

        async def known() -> bool:
            rows = (await stage.call("listchannels", short_channel_id=between))["channels"]
            return len([row for row in rows if row["active"]]) == 2

        await until(known, "alice to know the channel between her peers", 90)
    return str(stage.kept["ring"])


async def _around(stage: Stage) -> Params:
    home = await _ring(stage)
    stage.kept["held"] = [(await _row(stage, scid))["to_us_msat"] for scid in (stage.world.scid, home)]
    return {
        "from_channel": stage.world.scid,
        "to_channel": home,
        "amount_sats": 12_000,
        "max_fee_ppm": 500,
        "retry_for": 30,
    }


async def _went_around(stage: Stage, params: Params, result: Answer) -> None:
    out, home = (str(params[name]) for name in ("from_channel", "to_channel"))
    sent = 12_000_000 + result["fee_msat"]

    async def moved() -> bool:
        held = [(await _row(stage, scid))["to_us_msat"] for scid in (out, home)]
        before = stage.kept["held"]
        return held == [before[0] - sent, before[1] + 12_000_000]

    await until(moved, "the balances to move", 60)
    assert 0 < result["fee_msat"] <= 6_000 and result["attempts"] == 1
    layers = (await stage.call("askrene-listlayers"))["layers"]
    assert not [each for each in layers if each["layer"].startswith("hive:")]


async def _into_itself(stage: Stage) -> Params:
    return {**await _around(stage), "to_channel": stage.world.scid, "from_channel": stage.world.scid}


ENTRIES = (Entry(REBALANCE, "circular_rebalance", _around, _went_around, _into_itself),)
