"""Sheet 02 §15.24: commands mean the same in every supported combination of the plugins."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from agent import Agent
from hive_devnet.world import PLUGINS, World

COMBINATIONS = (
    ("cl-hive-comms",),
    ("cl-hive-comms", "cl-hive-archon"),
    ("cl-hive-comms", "cl-hive"),
    tuple(PLUGINS),
)


@pytest.mark.parametrize("plugins", COMBINATIONS, ids="+".join)
async def test_acceptance_02_24_checks_1_to_4_pass_in_every_combination(plugins: tuple[str, ...]) -> None:
    # Not tmp_path: with the test's long name in it, a socket's path exceeds what AF_UNIX takes.
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    world = await World.start(directory, plugins=plugins)
    try:
        async with Agent(world.alice, world.relay.url) as agent:
            await agent.hired("fees")
            # 1: a fee by Nostr, seen on the channel, in a chain of receipts that holds.
            document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 600})
            await agent.dm(document)
            answer = await agent.answer(document["nonce"])
            assert answer["status"] == 0, answer
            assert (await world.channel_fees())[1] == 600
            before = len(world.witnessed("setchannel"))
            # 2: the same envelope by another way is answered the same and runs nothing.
            assert await agent.rest(document) == answer
            # 3: too old, and for another node.
            for fields, slug in (
                ({"timestamp": document["timestamp"] - 400}, "stale_timestamp"),
                ({"node": "11" * 32}, "wrong_node"),
            ):
                refused = await agent.rest(agent.signed("ping", {}, "hive:control/v1", **fields))
                assert refused["error"]["slug"] == slug, refused
            # 4: a flipped byte.
            forged = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 610})
            forged["schema_payload"]["params"]["fee_ppm"] = 620
            refused = await agent.rest(forged)
            assert refused["error"]["slug"] == "bad_signature", refused
            # What needs cl-hive's rebalancing is refused by name, not ignored.
            params = {"channel_id": world.scid}
            refused = await agent.rest(agent.signed("peer_rebalance", params, "hive:rebalance/v1"))
            assert refused["error"]["slug"] == "unsupported_action", refused
            assert len(world.witnessed("setchannel")) == before
            assert (await world.alice.call("hive-client-receipts-verify"))["ok"]
    finally:
        await world.close()
        shutil.rmtree(directory, ignore_errors=True)
