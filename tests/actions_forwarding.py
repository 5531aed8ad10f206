"""Entries of hive:forwarding/v1 for the table of actions (02 §4 item 4)."""

from __future__ import annotations

from action_table import Answer, Entry, Params, Stage, given
from channel_world import channels
from hive_shared.registry import FORWARDING


async def _channel(stage: Stage) -> Params:
    stage.kept["limits"] = (await channels(stage.world))[stage.world.scid]
    return {"channel_id": stage.world.scid, "reason": "a test"}


async def _disabled(stage: Stage, params: Params, result: Answer) -> None:
    low, high, *_ = (await channels(stage.world))[stage.world.scid]
    assert high == max(1, low)
    # The next way starts from an open channel.
    old_low, old_high, *_ = stage.kept["limits"]
    await stage.call("setchannel", id=stage.world.scid, htlcmin=old_low, htlcmax=old_high)


ENTRIES = (
    Entry(
        FORWARDING,
        "disable_channel",
        _channel,
        _disabled,
        given(channel_id="9x9x9", reason="no such channel"),
    ),
)
