"""Entries of hive:splice/v1 for the table of actions (02 §4 item 7)."""

from __future__ import annotations

from action_table import Answer, Entry, Params, Stage
from actions_channel import channel, enough
from hive_devnet.world import until
from hive_shared.registry import SPLICE


async def _ready(stage: Stage) -> Params:
    """A channel of 500,000 sat whose peer is there, and a coin to put in."""

    await enough(stage)
    if "spliced" not in stage.kept:
        scid = await stage.world.network.open_channel(stage.world.alice, stage.world.bob, 500_000)
        rows = (await stage.call("listpeerchannels"))["channels"]
        stage.kept["spliced"] = next(row for row in rows if row.get("short_channel_id") == scid)["channel_id"]
    row = await channel(stage, stage.kept["spliced"])
    assert row["state"] == "CHANNELD_NORMAL", row["state"]
    stage.kept["before splice"] = row
    return {"channel_id": stage.kept["spliced"]}


async def _to_grow(stage: Stage) -> Params:
    return {**await _ready(stage), "amount_sats": 100_000, "feerate_perkw": 700}


async def _to_shrink(stage: Stage) -> Params:
    return {**await _ready(stage), "amount_sats": 60_000}


async def _spliced(stage: Stage, params: Params, result: Answer) -> None:
    """The channel as the splice leaves it, once it is confirmed."""
    before, amount = stage.kept["before splice"], params["amount_sats"]
    assert isinstance(amount, int)
    row = await channel(stage, str(params["channel_id"]))
    assert row["state"] == "CHANNELD_AWAITING_SPLICE"
    assert row["inflight"][0]["funding_txid"] == result["txid"]
    assert row["inflight"][0]["funding_outnum"] == result["outnum"]

    async def locked() -> bool:
        await stage.world.network.mine(1)
        return bool((await channel(stage, str(params["channel_id"])))["state"] == "CHANNELD_NORMAL")

    await until(locked, "the splice to be confirmed", pause=0.2)
    row = await channel(stage, str(params["channel_id"]))
    change = amount if "destination" not in result else -(amount + result["fee_sats"])
    assert row["total_msat"] == before["total_msat"] + change * 1_000 == result["capacity_sats"] * 1_000
    assert row["to_us_msat"] == before["to_us_msat"] + change * 1_000
    assert row["funding_txid"] == result["txid"] and 0 < result["fee_sats"] < 2_000


async def _more_than_coins(stage: Stage) -> Params:
    return {**await _ready(stage), "amount_sats": 2_000_000_000}


async def _below_reserve(stage: Stage) -> Params:
    params = await _ready(stage)
    row = stage.kept["before splice"]
    return {**params, "amount_sats": row["to_us_msat"] // 1_000 - 1_000}


ENTRIES = (
    Entry(SPLICE, "splice_in", _to_grow, _spliced, _more_than_coins),
    Entry(SPLICE, "splice_out", _to_shrink, _spliced, _below_reserve),
)
