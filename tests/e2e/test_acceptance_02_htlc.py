"""HTLC bounds, proposals and looks at HTLCs on a node with channels (02 §4 items 3 and 15, §15.19)."""

from __future__ import annotations

from typing import Any

from agent import hired_agent
from channel_world import channels
from hive_devnet.world import World

HTLC = "hive:htlc-policy/v1"


async def ask(agent: Any, action: str, schema: str = HTLC, **params: Any) -> dict[str, Any]:
    return dict(await agent.rest(agent.signed(action, params, schema)))


async def test_acceptance_02_19_bounds_are_set_and_static_options_are_proposed(world: World) -> None:
    await world.alice.call("hive-client-policy", {"action": "set-preset", "preset": "aggressive"})
    overrides = {"approval_overrides": {"htlc_policy_*": "auto_execute"}}
    await world.alice.call("hive-client-policy", {"action": "set", "overrides": overrides})
    agent = await hired_agent(world, "fees")
    try:
        (scid, before), *_ = (await channels(world)).items()
        row = (await world.alice.call("listpeerchannels"))["channels"][0]
        most = await ask(agent, "set_htlc_limits", channel_id=scid, htlc_maximum_msat=row["total_msat"])
        assert most["status"] == 0 and most["result"]["state"] == "applied", most
        # What the plan foresaw is what the node made of it, so nothing had to be corrected afterwards.
        assert "now" not in most["result"] and "the most this channel" in most["result"]["warnings"][0], most
        assert (await channels(world))[scid][1] == most["result"]["new"]["htlc_maximum_msat"]
        both = await ask(
            agent, "set_htlc_limits", channel_id=scid, htlc_minimum_msat=5_000, htlc_maximum_msat=9_000_000
        )
        assert both["status"] == 0, both
        assert (await channels(world))[scid] == (5_000, 9_000_000, *before[2:])
        wrong = await ask(agent, "set_htlc_limits", channel_id=scid, htlc_maximum_msat=4_999)
        assert wrong["error"]["slug"] == "invalid_params" and "forward nothing" in wrong["error"]["message"]
        bulk = await ask(agent, "set_htlc_limits_bulk", channels=[scid], htlc_minimum_msat=6_000)
        assert bulk["error"]["slug"] == "tier_insufficient", "danger 5 without max_channels_per_call"
        assert (await channels(world))[scid] == (5_000, 9_000_000, *before[2:])
        delta = await ask(agent, "set_cltv_delta", cltv_expiry_delta=40)
        assert delta["error"]["slug"] == "requires_restart", delta
        assert delta["result"]["config_lines"] == ["cltv-delta=40"], delta
        alerts = (await world.alice.call("hive-client-alerts"))["items"]
        assert any("put cltv-delta=40 into" in each["text"] for each in alerts), alerts
        again = await ask(agent, "set_cltv_delta", cltv_expiry_delta=delta["result"]["options"][0]["now"])
        if delta["result"]["options"][0]["now"] >= 18:
            assert again["result"] == {"state": "already_set"}, again
    finally:
        await agent.__aexit__()
