"""A rule of auto_rebalance_rules on a real plugin, killed with kill -9 while it pays: paid once (02 §5.6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from action_table import Stage
from actions_rebalance import ring_of
from channel_world import exists, plugin_again, receipts
from hive_devnet.world import World, until
from hive_shared.registry import CONFIG


async def test_acceptance_02_12_a_rebalance_by_a_rule_of_a_killed_plugin_pays_once(world: World) -> None:
    stage = await Stage(world).open()
    overrides = {"approval_overrides": {"config_*": "auto_execute", "rebalance_*": "auto_execute"}}
    await stage.call("hive-client-policy", action="set", overrides=overrides)
    out, home = await ring_of(stage)
    agent = await stage.agent()

    async def held(scid: str) -> int:
        rows = (await stage.call("listpeerchannels"))["channels"]
        return next(int(row["to_us_msat"]) for row in rows if row.get("short_channel_id") == scid)

    try:
        rule = {
            "from_channel": out,
            "to_channel": home,
            "amount_sats": 20_000,
            "max_fee_ppm": 500,
            # Erin opened the channel, so that alice has nothing of it yet.
            "to_permille_below": 10,
        }
        params = {"rules": [rule], "daily_budget_sats": 100}
        answer = await agent.rest(agent.signed("auto_rebalance_rules", params, CONFIG))
        assert answer["status"] == 0, answer
        assert await held(home) == 0
        reached: list[Path] = []
        await plugin_again(world, lambda _: reached.append(world.arm_fault("after_cln")))
        await until(lambda: exists(reached[0]), "the rule to pay", 60)
        await plugin_again(world)

        async def told() -> Any:
            return await receipts(world, "circular_rebalance")

        (receipt,) = await until(told, "the receipt of the killed rebalance", 60)
        assert (receipt["status"], receipt["params"]["rule"]) == ("success", 0), receipt

        async def moved() -> bool:
            return await held(home) == 20_000_000

        await until(moved, "the amount to be home", 60)
        assert len(await told()) == 1
        assert (await stage.call("hive-client-receipts-verify"))["ok"] is True
    finally:
        await agent.__aexit__()
