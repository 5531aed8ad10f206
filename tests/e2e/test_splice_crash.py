"""kill -9 around a splice: done once or not at all, the channel lives on, and the receipt says which
(02 §7.1, §15.12)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from hive_devnet.world import World, until
from hive_shared.canonical import JsonValue
from hive_shared.registry import SPLICE
from killed_command import killed_at, receipt_of, trusted_agent

GROW = (SPLICE, "splice_in")
AMOUNT = 100_000


def _long_ago(database: Path) -> None:
    """The splice was begun a while before the plugin comes back."""
    moved = "json_set(undo_json, '$.started', json_extract(undo_json, '$.started') - 60)"
    with closing(sqlite3.connect(database, timeout=30)) as opened:
        opened.execute(f"UPDATE comms_commands SET undo_json = {moved} WHERE state = 'executing'")
        opened.commit()


async def _row(world: World, channel_id: str) -> dict[str, Any]:
    asked = {"channel_id": channel_id}
    return dict((await world.alice.call("listpeerchannels", asked))["channels"][0])


async def _free(world: World) -> bool:
    return not any(coin["reserved"] for coin in (await world.alice.call("listfunds"))["outputs"])


async def _paid(world: World, label: str) -> None:
    """The channel carries payments, and so its commitments fit together."""

    async def through() -> bool:
        rows = (await world.alice.call("listpeerchannels"))["channels"]
        return all(row["peer_connected"] and row.get("reestablished") for row in rows)

    await until(through, "the channel to be usable")
    invoice = await world.bob.call("invoice", [5_000, label, label])
    assert (await world.alice.call("xpay", [invoice["bolt11"]]))["amount_msat"] == 5_000


async def test_acceptance_02_12_a_splice_killed_is_done_once_or_not_at_all(world: World) -> None:
    before = (await world.alice.call("listpeerchannels"))["channels"][0]
    channel_id = str(before["channel_id"])
    params: dict[str, JsonValue] = {"channel_id": channel_id, "amount_sats": AMOUNT}
    async with trusted_agent(world, {"splice_*": "auto_execute"}) as agent:
        for point in ("splice_noted", "splice_secured"):
            unsigned = await killed_at(world, agent, point, GROW, params, _long_ago)
            receipt = await receipt_of(world, unsigned)
            assert (receipt["status"], receipt["error"]["slug"]) == ("error", "shutting_down"), receipt
            row = await _row(world, channel_id)
            assert (row["state"], row["total_msat"]) == ("CHANNELD_NORMAL", before["total_msat"])
            assert not row.get("inflight")
            # A node that is just up reads its last blocks again.
            await until(lambda: _free(world), "the coins to be let go")
            await _paid(world, point)
        signed = await killed_at(world, agent, "after_cln", GROW, params, _long_ago)
        receipt = await receipt_of(world, signed)
        assert receipt["status"] == "success" and receipt["result"]["reconciled"] is True, receipt

        async def locked() -> bool:
            await world.network.mine(1)
            return bool((await _row(world, channel_id))["total_msat"] != before["total_msat"])

        await until(locked, "the splice to be confirmed", pause=0.2)
        row = await _row(world, channel_id)
        assert row["total_msat"] == before["total_msat"] + AMOUNT * 1_000
        assert row["funding_txid"] == receipt["result"]["txid"]
        await _paid(world, "afterwards")
        assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True
