"""Entries of hive:forwarding/v1 for the table of actions (02 §4 item 4)."""

from __future__ import annotations

from action_table import Answer, Entry, Params, Stage, given
from channel_world import channels
from hive_shared.registry import FORWARDING, PAYMENT


async def _channel(stage: Stage) -> Params:
    stage.kept["limits"] = (await channels(stage.world))[stage.world.scid]
    return {"channel_id": stage.world.scid, "reason": "a test"}


async def _disabled(stage: Stage, params: Params, result: Answer) -> None:
    low, high, *_ = (await channels(stage.world))[stage.world.scid]
    assert high == max(1, low)
    # The next way starts from an open channel.
    old_low, old_high, *_ = stage.kept["limits"]
    await stage.call("setchannel", id=stage.world.scid, htlcmin=old_low, htlcmax=old_high)


async def _named(stage: Stage, params: Params, result: Answer) -> None:
    """Invoices that agents have made name the channel; [] leaves it to the node again."""
    assert result["new"] == [stage.world.scid]
    agent = await stage.agent()
    asked = {"amount_msat": 1_000, "description": "hinted"}
    made = (await agent.rest(agent.signed("create_invoice", asked, PAYMENT)))["result"]
    routes = (await stage.call("decode", string=made["bolt11"]))["routes"]
    assert [[hop["short_channel_id"] for hop in route] for route in routes] == [[stage.world.scid]]
    cleared = await agent.rest(agent.signed("set_routing_hints", {"hints": []}, FORWARDING))
    assert cleared["result"] == {"old": [stage.world.scid], "new": []}, cleared
    made = (await agent.rest(agent.signed("create_invoice", asked, PAYMENT)))["result"]
    if stage.world.network.kind == "embedded":
        # CLN itself names a channel that is not announced yet, as one that was just opened.
        assert "routes" not in await stage.call("decode", string=made["bolt11"])


async def _hint(stage: Stage) -> Params:
    return {"hints": [stage.world.scid]}


ENTRIES = (
    Entry(FORWARDING, "set_routing_hints", _hint, _named, given(hints=["9x9x9"])),
    Entry(
        FORWARDING,
        "disable_channel",
        _channel,
        _disabled,
        given(channel_id="9x9x9", reason="no such channel"),
    ),
)
