"""Sheet 02 §15.12 for fundchannel and close, over real processes: killed while the node works on them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agent import Agent
from channel_world import exists, plugin_again, receipts
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World, until

CHANNEL = "hive:channel/v1"


async def trusted(world: World) -> Agent:
    """An agent that may open and close channels by itself."""
    overrides = {"approval_overrides": {"channel_*": "auto_execute"}, "max_danger": 8}
    await world.alice.call("hive-client-policy", {"action": "set-preset", "preset": "aggressive"})
    await world.alice.call("hive-client-policy", {"action": "set", "overrides": overrides})
    agent = Agent(world.alice, world.relay.url)
    await agent.__aenter__()
    issued = await world.alice.call(
        "hive-mgmt-credential-issue",
        {"agent_id": agent.npub, "tier": "admin", "allowed_schemas_json": [CHANNEL.replace("v1", "*")]},
    )
    agent.credential_id = str(issued["credential"]["credential_id"])
    return agent


async def rows(world: World) -> list[dict[str, Any]]:
    return list((await world.alice.call("listpeerchannels"))["channels"])


async def test_acceptance_02_12_channels_opened_and_closed_through_kills(world: World) -> None:
    agent = await trusted(world)
    try:
        before = {row["channel_id"] for row in await rows(world)}
        opening = agent.signed("open", {"peer_id": world.bob.node_id, "amount_sats": 90_000}, CHANNEL)
        reached = world.arm_fault("after_cln")
        calling = asyncio.create_task(agent.rest(opening))
        await until(lambda: exists(reached), "the node's answer")
        await plugin_again(world)
        with pytest.raises((DevnetRpcError, ConnectionError)):
            await calling

        async def opened() -> Any:
            found = [item for item in await receipts(world, "open") if item["status"] == "success"]
            return found[0] if found else None

        receipt = await until(opened, "the receipt of the killed opening")
        new = [row for row in await rows(world) if row["channel_id"] not in before]
        assert len(new) == 1 and new[0]["total_msat"] == 90_000_000, new
        assert receipt["result"]["channel_id"] == new[0]["channel_id"], receipt
        again = await agent.rest(opening)
        assert again["result"]["channel_id"] == new[0]["channel_id"], "the same envelope gets the same answer"
        assert len(await rows(world)) == len(before) + 1

        await world.bob.kill()

        async def away() -> bool:
            return not (await rows(world))[0]["peer_connected"]

        await until(away, "bob to be gone")
        params = {"channel_id": world.scid, "reason": "a test"}
        closing = await agent.rest(agent.signed("close_cooperative", params, CHANNEL))
        assert closing["status"] == 3 and closing["result"]["state"] == "pending_external", closing
        assert closing["result"]["channel_state"] == "CHANNELD_SHUTTING_DOWN"
        await world.bob.start()
        await world.network.connect(world.alice, world.bob)

        async def agreed() -> bool:
            return "CHANNELD_SHUTTING_DOWN" not in [row["state"] for row in await rows(world)]

        await until(agreed, "the close to be agreed")
        # The clock looks twice a minute and at every start.
        await plugin_again(world)

        async def closed() -> Any:
            found = [i for i in await receipts(world, "close_cooperative") if i["status"] == "success"]
            return found[0] if found else None

        done = await until(closed, "the receipt of the close")
        assert done["result"]["channel"] == world.scid and done["result"]["type"] == "mutual", done
        assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True
    finally:
        await agent.__aexit__()
