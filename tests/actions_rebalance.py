"""Entries of hive:rebalance/v1 for the table of actions (02 §4 item 5)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from action_table import Answer, Entry, Params, Stage, given
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import until
from hive_shared.registry import REBALANCE


async def _row(stage: Stage, scid: str) -> dict[str, Any]:
    rows = (await stage.call("listpeerchannels"))["channels"]
    return next(row for row in rows if row.get("short_channel_id") == scid)


async def _row_of(stage: Stage, scid: object) -> dict[str, Any]:
    """The row of a channel that carries payments now; empty for any other."""
    rows = (await stage.call("listpeerchannels"))["channels"]
    live = (row for row in rows if row["state"] == "CHANNELD_NORMAL" and row["peer_connected"])
    return next((row for row in live if row.get("short_channel_id") == scid), {})


async def ring_of(stage: Stage) -> tuple[str, str]:
    """A channel of alice's with bob, and one by which somebody whom bob can pay can pay her."""
    world, network = stage.world, stage.world.network
    if "erin" not in stage.kept:
        stage.kept["erin"] = erin = await network.add_node("erin")
        for node in (world.bob, erin):
            await network.fund(node, 2_000_000)
        stage.kept["between"] = await network.open_channel(world.bob, erin, 300_000)
    if not await _row_of(stage, stage.kept.get("home")):
        stage.kept["home"] = await network.open_channel(stage.kept["erin"], world.alice, 300_000)

    async def known() -> bool:
        rows = (await stage.call("listchannels", short_channel_id=stage.kept["between"]))["channels"]
        return len([row for row in rows if row["active"]]) == 2

    await until(known, "alice to know the channel between her peers")

    async def out() -> Any:
        rows = (await stage.call("listpeerchannels"))["channels"]
        found = [row for row in rows if row["peer_id"] == world.bob.node_id]
        rich = [row for row in found if row["spendable_msat"] > 20_000_000 and row["peer_connected"]]
        return next((row for row in rich if row["state"] == "CHANNELD_NORMAL"), None)

    return str((await until(out, "a channel to send by", 60))["short_channel_id"]), str(stage.kept["home"])


async def _around(stage: Stage) -> Params:
    out, home = await ring_of(stage)
    stage.kept["held"] = [(await _row(stage, scid))["to_us_msat"] for scid in (out, home)]
    return {
        "from_channel": out,
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

    await until(moved, "the balances to move")
    assert 0 < result["fee_msat"] <= 6_000 and result["attempts"] == 1
    layers = (await stage.call("askrene-listlayers"))["layers"]
    assert not [each for each in layers if each["layer"].startswith("hive:")]


async def _into_itself(stage: Stage) -> Params:
    params = await _around(stage)
    return {**params, "to_channel": params["from_channel"]}


SERVICE = Path(__file__).with_name("swap_plugin.py")
"""Somebody else's plugin that swaps and keeps tasks, as a process on the node."""


async def _with_service(stage: Stage) -> None:
    """The node runs the service, and comms knows it."""
    stage.kept["swaps"] = Path(os.environ["HIVE_SWAP_FILE"])

    async def known() -> bool:
        rows = (await stage.call("hive-client-capabilities"))["unsupported_actions"]
        return not any(row["schema"] == REBALANCE and row["action"] == "swap_out" for row in rows)

    if not await known():
        await stage.call("plugin", subcommand="start", plugin=str(SERVICE))
    await until(known, "comms to know the swap service")


def _asked(stage: Stage) -> dict[str, Any]:
    """What the service was asked for last."""
    return dict(json.loads(stage.kept["swaps"].read_text().splitlines()[-1]))


async def _swap(stage: Stage) -> Params:
    await _with_service(stage)
    return {"amount_sats": 40_000, "max_fee_sats": 300}


async def _swapped_out(stage: Stage, params: Params, result: Answer) -> None:
    asked = _asked(stage)
    assert (asked["kind"], asked["amount_sats"], asked["currency"]) == ("reverse", 40_000, "BTC")
    assert asked["address"] == result["address"] and result["fee_sats"] == 245
    try:
        (own,) = (await stage.call("listaddresses", address=result["address"]))["addresses"]
        assert result["address"] in own.values()
    except DevnetRpcError as error:
        # An older node cannot tell.
        assert error.code == -32601, error


async def _swapped_in(stage: Stage, params: Params, result: Answer) -> None:
    assert _asked(stage) == {"kind": "submarine", "amount_sats": 40_000, "currency": "BTC"}
    assert result["fee_sats"] == 245


async def _help(stage: Stage) -> Params:
    await _with_service(stage)
    bob = stage.world.bob.node_id
    return {"peer_id": bob, "amount_sats": 150_000, "direction": "in", "max_fee_ppm": 200}


async def _helped(stage: Stage, params: Params, result: Answer) -> None:
    asked = _asked(stage)
    assert (asked["kind"], asked["task_type"], asked["target"]) == ("task", "rebalance", params["peer_id"])
    assert result["request_id"].startswith("r")


async def _of_a_stranger(stage: Stage) -> Params:
    return {**await _help(stage), "peer_id": "03" + "cd" * 32}


ENTRIES = (
    Entry(REBALANCE, "circular_rebalance", _around, _went_around, _into_itself),
    Entry(REBALANCE, "swap_out", _swap, _swapped_out, given(amount_sats=40_000, max_fee_sats=249)),
    Entry(REBALANCE, "swap_in", _swap, _swapped_in, given(amount_sats=40_000, max_fee_sats=249)),
    Entry(REBALANCE, "peer_rebalance", _help, _helped, _of_a_stranger),
)
