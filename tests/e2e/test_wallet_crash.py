"""kill -9 around a withdrawal: paid once or not at all, and the receipt says which (02 §7.1, §15.12)."""

from __future__ import annotations

import asyncio
from typing import Any

from agent import Agent
from channel_world import plugin_again
from hive_devnet.world import World, until
from hive_shared.registry import WALLET

AMOUNT = 40_000


async def _hired(world: World) -> Agent:
    """An agent whose sends below 100,000 sat a day run by themselves."""
    agent = Agent(world.alice, world.relay.url)
    await agent.__aenter__()
    issued = await world.alice.call(
        "hive-mgmt-credential-issue",
        {"agent_id": agent.npub, "tier": "admin", "allowed_schemas_json": ["*"], "trust": "2.0"},
    )
    agent.credential_id = str(issued["credential"]["credential_id"])
    overrides = {"approval_overrides": {"wallet_*": "auto_execute"}}
    await world.alice.call("hive-client-policy", {"action": "set-preset", "preset": "aggressive"})
    await world.alice.call("hive-client-policy", {"action": "set", "overrides": overrides})
    return agent


async def _killed_at(world: World, agent: Agent, point: str, destination: str) -> str:
    """Ask for a send that is killed at a point; the plugin is up again."""
    reached = world.arm_fault(point)
    params = {"destination": destination, "amount_sats": AMOUNT, "feerate_perkw": 500}
    document = agent.signed("send_onchain", params, WALLET)
    sending = asyncio.create_task(agent.rest(document))

    async def there() -> bool:
        return reached.exists()

    await until(there, f"the plugin to reach {point}", 60)
    await plugin_again(world)
    await asyncio.gather(sending, return_exceptions=True)
    return str(document["command_id"])


async def _receipt(world: World, command_id: str) -> dict[str, Any]:
    async def written() -> Any:
        items = (await world.alice.call("hive-client-receipts", {"limit": 200}))["items"]
        return next((item for item in items if item.get("command_id") == command_id), None)

    return dict(await until(written, "the receipt", 90))


async def _received(world: World) -> int:
    """Sats that bob's wallet got, once a block has what waits."""
    await world.network.mine(1)
    rows = (await world.bob.call("listfunds"))["outputs"]
    return sum(int(row["amount_msat"]) for row in rows) // 1_000


async def test_acceptance_02_12_a_withdrawal_killed_is_paid_once_or_not_at_all(
    world: World,
) -> None:
    agent = await _hired(world)
    try:
        destination = str((await world.bob.call("newaddr", {"addresstype": "bech32"}))["bech32"])
        before = await _received(world)
        sent = await _killed_at(world, agent, "after_cln", destination)
        receipt = await _receipt(world, sent)
        assert receipt["status"] == "success" and receipt["result"]["reconciled"] is True, receipt
        assert await _received(world) == before + AMOUNT
        unsent = await _killed_at(world, agent, "wallet_prepared", destination)
        if world.network.kind != "embedded":
            # With the plugin the node went down: only blocks can tell now.
            await world.network.mine(6)
        receipt = await _receipt(world, unsent)
        expected = "error" if world.network.kind == "embedded" else "indeterminate"
        assert receipt["status"] == expected, receipt
        assert await _received(world) == before + AMOUNT
        assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True
    finally:
        await agent.__aexit__()
