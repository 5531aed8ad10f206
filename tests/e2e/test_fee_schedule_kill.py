"""A fee schedule on a real plugin: killed with kill -9 while a rule acts, over restarts (02 §5.5, §5.6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from channel_world import exists, plugin_again, receipts
from hive_devnet.world import START_PPM, World, until
from hive_shared.registry import CONFIG
from killed_command import trusted_agent


async def test_acceptance_02_12_a_rule_of_a_killed_plugin_acts_once_and_ends(world: World) -> None:
    async with trusted_agent(world, {"config_*": "auto_execute"}) as agent:
        # Alice holds seven tenths of her channel.
        rule = {
            "channels": [world.scid],
            "fee_ppm": 600,
            "threshold": {"local_permille_above": 500},
        }
        reached: list[Path] = []
        answer = await agent.rest(agent.signed("fee_schedule", {"rules": [rule]}, CONFIG))
        assert answer["status"] == 0, answer
        # The clock's first turn comes with the start.
        point = f"channel_set_{world.scid}"
        await plugin_again(world, lambda _: reached.append(world.arm_fault(point)))
        await until(lambda: exists(reached[0]), "the rule to act")
        await plugin_again(world)

        async def ended(action: str) -> Any:
            return [each for each in await receipts(world, action) if each["status"] == "success"]

        (held,) = await until(lambda: ended("set_anchor"), "the receipt of the killed change")
        assert (held["params"]["rule"], held["params"]["schedule"]) == (0, answer["command_id"])
        assert (await world.channel_fees())[1] == 600
        answer = await agent.rest(agent.signed("fee_schedule", {"rules": []}, CONFIG))
        assert answer["result"] == {"state": "cleared"}, answer
        await plugin_again(world)
        (back,) = await until(lambda: ended("clear_anchor"), "the end of the rate")
        assert (await world.channel_fees())[1] == START_PPM, back
        assert len(await receipts(world, "set_anchor")) == 1
        assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True
