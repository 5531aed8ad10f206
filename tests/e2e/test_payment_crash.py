"""kill -9 around a payment, on a node: paid once or not at all, and the receipt says which; offers (02 §4
item 9, §7.1, §15.12)."""

from __future__ import annotations

import asyncio
from typing import Any

from agent import Agent
from channel_world import plugin_again
from hive_devnet.world import World, until
from hive_shared.canonical import JsonValue
from hive_shared.registry import PAYMENT


async def _hired(world: World) -> Agent:
    """An agent whose payments below 100,000 sat a day run by themselves."""
    agent = Agent(world.alice, world.relay.url)
    await agent.__aenter__()
    issued = await world.alice.call(
        "hive-mgmt-credential-issue",
        {"agent_id": agent.npub, "tier": "admin", "allowed_schemas_json": ["*"], "trust": "2.0"},
    )
    agent.credential_id = str(issued["credential"]["credential_id"])
    overrides = {"approval_overrides": {"payment_*": "auto_execute"}}
    await world.alice.call("hive-client-policy", {"action": "set-preset", "preset": "aggressive"})
    await world.alice.call("hive-client-policy", {"action": "set", "overrides": overrides})
    return agent


async def _killed_after_the_call(
    world: World, agent: Agent, action: str, params: dict[str, JsonValue]
) -> str:
    """Ask for a payment whose answer the plugin had when it was killed; the plugin is up again."""
    reached = world.arm_fault("after_cln")
    document = agent.signed(action, params, PAYMENT)
    sending = asyncio.create_task(agent.rest(document))

    async def there() -> bool:
        return reached.exists()

    await until(there, "the plugin to have its answer", 60)
    await plugin_again(world)
    await asyncio.gather(sending, return_exceptions=True)
    return str(document["command_id"])


async def _receipt(world: World, command_id: str) -> dict[str, Any]:
    async def written() -> Any:
        items = (await world.alice.call("hive-client-receipts", {"limit": 200}))["items"]
        return next((item for item in items if item.get("command_id") == command_id), None)

    return dict(await until(written, "the receipt", 90))


async def _parts(world: World) -> list[tuple[int, str]]:
    rows = (await world.alice.call("listsendpays"))["payments"]
    return [(row["amount_msat"], row["status"]) for row in rows]


async def test_acceptance_02_12_a_payment_killed_is_made_once_and_offers_are_paid(world: World) -> None:
    agent = await _hired(world)
    try:
        bill = await world.bob.call(
            "invoice", {"amount_msat": 4_000_000, "label": "bill", "description": "tea"}
        )
        params: dict[str, JsonValue] = {"bolt11": bill["bolt11"]}
        receipt = await _receipt(world, await _killed_after_the_call(world, agent, "pay_invoice", params))
        assert receipt["status"] == "success" and receipt["result"]["reconciled"] is True, receipt
        assert receipt["result"]["payment_hash"] == bill["payment_hash"]
        gift: dict[str, JsonValue] = {"destination": world.bob.node_id, "amount_msat": 5_000_000}
        receipt = await _receipt(world, await _killed_after_the_call(world, agent, "keysend", gift))
        assert receipt["status"] == "success" and receipt["result"]["amount_msat"] == 5_000_000, receipt
        assert await _parts(world) == [(4_000_000, "complete"), (5_000_000, "complete")]
        again = await agent.rest(agent.signed("pay_invoice", params, PAYMENT))
        assert "has paid this invoice already" in again["error"]["message"], again
        await _offer(world, agent)
        assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True
    finally:
        await agent.__aexit__()


async def _offer(world: World, agent: Agent) -> None:
    if world.network.kind == "embedded":
        answer = await agent.rest(agent.signed("pay_invoice", {"bolt11": "lno1qqqqqqqq"}, PAYMENT))
        assert "it has no fetchinvoice" in answer["error"]["message"], answer
        return
    offer = await world.bob.call("offer", {"amount": "6000sat", "description": "cake"})
    params: dict[str, JsonValue] = {"bolt11": offer["bolt12"], "amount_msat": 6_000_001}
    answer = await agent.rest(agent.signed("pay_invoice", params, PAYMENT))
    assert "asks for 6000000 msat, not 6000001" in answer["error"]["message"], answer
    answer = await agent.rest(agent.signed("pay_invoice", {"bolt11": offer["bolt12"]}, PAYMENT))
    assert answer["status"] == 0 and answer["result"]["amount_msat"] == 6_000_000, answer
    assert (await _parts(world))[2:] == [(6_000_000, "complete")]
