"""Entries of hive:channel/v1 and hive:expansion/v1 for the table of actions (02 §4 item 6)."""

from __future__ import annotations

from typing import Any

from action_table import Answer, Entry, Params, Stage, given
from hive_devnet.world import until
from hive_shared.canonical import JsonValue
from hive_shared.registry import CHANNEL, EMERGENCY, EXPANSION

CLOSED = ("ONCHAIN", "FUNDING_SPEND_SEEN", "AWAITING_UNILATERAL")


async def channel(stage: Stage, channel_id: str) -> dict[str, Any]:
    rows = (await stage.call("listpeerchannels"))["channels"]
    return next((row for row in rows if row["channel_id"] == channel_id), {})


async def _settled(stage: Stage, channel_id: str, *states: str) -> None:
    """Blocks until the channel shows one of the states and no coin waits for a block."""

    async def there() -> bool:
        await stage.world.network.mine(1)
        coins = (await stage.call("listfunds"))["outputs"]
        shown = (await channel(stage, channel_id)).get("state", "CLOSED")
        return shown in states and all(row["status"] == "confirmed" for row in coins)

    await until(there, f"channel {channel_id[:8]} in {states}", pause=0.2)


async def enough(stage: Stage) -> str:
    """Coins that are free: a block or more for what earlier entries left."""

    async def free() -> bool:
        await stage.world.network.mine(1)
        coins = (await stage.call("listfunds"))["outputs"]
        return any(
            row["status"] == "confirmed" and not row["reserved"] and row["amount_msat"] > 10**9
            for row in coins
        )

    await until(free, "free coins", pause=0.2)
    return str(stage.world.bob.node_id)


async def _to_open(stage: Stage) -> Params:
    own = await stage.call("newaddr", addresstype="p2tr")
    return {
        "peer_id": await enough(stage),
        "amount_sats": 60_000,
        "push_msat": 5_000_000,
        "feerate": "600perkw",
        "announce": False,
        "close_to": own["p2tr"],
    }


async def _opened(stage: Stage, params: Params, result: Answer) -> None:
    row = await channel(stage, result["channel_id"])
    assert (row["opener"], row["total_msat"], row["private"]) == ("local", 60_000_000, True)
    assert (row["funding_txid"], row["funding_outnum"]) == (result["txid"], result["outnum"])
    assert row["to_us_msat"] == 55_000_000
    await _settled(stage, result["channel_id"], "CHANNELD_NORMAL")


async def _to_propose(stage: Stage) -> Params:
    return {"peer_id": await enough(stage), "capacity_sats": 70_000, "reasoning": "a busy peer"}


async def _proposal_opened(stage: Stage, params: Params, result: Answer) -> None:
    row = await channel(stage, result["channel_id"])
    assert (row["total_msat"], row["to_us_msat"], row["private"]) == (70_000_000, 70_000_000, False)
    await _settled(stage, result["channel_id"], "CHANNELD_NORMAL")


async def _two(stage: Stage) -> list[JsonValue]:
    if "dave" not in stage.kept:
        stage.kept["dave"] = await stage.world.network.add_node("dave")
    await stage.world.network.connect(stage.world.alice, stage.kept["dave"])
    return [
        {"peer_id": await enough(stage), "amount_sats": 61_000},
        {"peer_id": stage.kept["dave"].node_id, "amount_sats": 62_000},
    ]


async def _batch(stage: Stage) -> Params:
    return {"destinations": await _two(stage)}


async def _proposed_batch(stage: Stage) -> Params:
    return {"destinations": await _two(stage), "reasoning": "two busy peers"}


async def _one_peer_twice(stage: Stage) -> Params:
    one = {"peer_id": stage.world.bob.node_id, "amount_sats": 61_000}
    return {"destinations": [one, {**one, "amount_sats": 62_000}]}


async def _one_peer_twice_proposed(stage: Stage) -> Params:
    return {**await _one_peer_twice(stage), "reasoning": "twice"}


async def _batch_opened(stage: Stage, params: Params, result: Answer) -> None:
    assert result["failed"] == [] and len(result["channel_ids"]) == 2
    for each in result["channel_ids"]:
        row = await channel(stage, each["channel_id"])
        assert (row["funding_txid"], row["funding_outnum"]) == (result["txid"], each["outnum"])
        assert row["total_msat"] in (61_000_000, 62_000_000) and row["peer_id"] == each["peer_id"]
    for each in result["channel_ids"]:
        await _settled(stage, each["channel_id"], "CHANNELD_NORMAL")


async def _too_much(stage: Stage) -> Params:
    return {"peer_id": stage.world.bob.node_id, "amount_sats": 2_000_000_000}


async def _too_much_proposed(stage: Stage) -> Params:
    peer_id = stage.world.bob.node_id
    return {"peer_id": peer_id, "capacity_sats": 2_000_000_000, "reasoning": "greed"}


async def _to_close(stage: Stage) -> Params:
    await enough(stage)
    scid = await stage.world.network.open_channel(stage.world.alice, stage.world.bob, 80_000)
    return {"channel_id": scid, "reason": "a test"}


async def _to_punish(stage: Stage) -> Params:
    return {"channel_id": (await _to_close(stage))["channel_id"], "evidence": "an old commitment"}


async def _to_close_here(stage: Stage) -> Params:
    own = await stage.call("newaddr", addresstype="p2tr")
    return {**await _to_close(stage), "destination": own["p2tr"], "feerange": ["253perkw", "2000perkw"]}


async def _closed(stage: Stage, params: Params, result: Answer) -> None:
    assert result["type"] == "mutual" and len(result["txids"]) == 1
    await _settled(stage, result["channel_id"], *CLOSED, "CLOSED")


ENTRIES = (
    Entry(CHANNEL, "open", _to_open, _opened, _too_much),
    Entry(EXPANSION, "propose_channel_open", _to_propose, _proposal_opened, _too_much_proposed),
    Entry(CHANNEL, "open_batch", _batch, _batch_opened, _one_peer_twice),
    Entry(EXPANSION, "propose_open_batch", _proposed_batch, _batch_opened, _one_peer_twice_proposed),
    Entry(CHANNEL, "close_cooperative", _to_close_here, _closed, given(channel_id="9x9x9", reason="none")),
    Entry(CHANNEL, "close_unilateral", _to_close, _closed, given(channel_id="9x9x9", reason="none")),
    Entry(EMERGENCY, "force_close", _to_close, _closed, given(channel_id="9x9x9", reason="none")),
    Entry(CHANNEL, "close_punitive", _to_punish, _closed, given(channel_id="9x9x9", evidence="none")),
)
