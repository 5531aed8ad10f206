"""Sheet 02 §15, check 1, its last part: the root of an hour of receipts, checked by another node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent import Agent
from clock_world import ROUND_S, world_at
from hive_devnet.world import until
from hive_shared import receipts

CONTROL = "hive:control/v1"
HOUR_S = 3_600


async def test_acceptance_02_01_an_hours_root_is_signed_by_the_lightning_key(tmp_path: Path) -> None:
    async with (
        # Early in an hour: all of it fits in.
        world_at(tmp_path, lambda now: now // HOUR_S * HOUR_S + HOUR_S + 60) as (world, clock),
        Agent(world.alice, world.relay.url, now=clock.now) as agent,
    ):
        await agent.hired("fees")
        done = await agent.rest(agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 510}))
        assert done["status"] == 0, done
        clock.wait(HOUR_S + ROUND_S)

        async def shown() -> dict[str, Any] | None:
            asked = agent.signed("receipts_list", {"since_id": 0}, CONTROL)
            answer = await agent.rest(asked)
            assert answer["status"] == 0, answer
            signed = [root for root in answer["result"]["roots"] if root["zbase"]]
            return answer["result"] if signed else None

        result = await until(shown, "the root of the hour", pause=1)
        (root,) = [each for each in result["roots"] if each["kind"] == "hour"]
        assert root["first_id"] <= done["receipt"]["receipt_id"] <= root["last_id"]
        text = receipts.root_text(
            "hour", root["start"], root["first_id"], root["last_id"], root["merkle_root"]
        )
        signed = {"message": text, "zbase": root["zbase"], "pubkey": world.alice.node_id}
        assert (await world.bob.call("checkmessage", signed))["verified"] is True
        forged = {**signed, "message": text.replace("hour", "day")}
        assert (await world.bob.call("checkmessage", forged))["verified"] is False
        # What the root is made of: the hashes of the receipts that the operator can show.
        items = (await world.alice.call("hive-client-receipts", {"limit": 100}))["items"]
        hashes = {item["receipt_id"]: item["receipt_hash"] for item in items}
        span = range(root["first_id"], root["last_id"] + 1)
        assert receipts.merkle_root([hashes[each] for each in span]) == root["merkle_root"]
