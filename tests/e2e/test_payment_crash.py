"""kill -9 around a payment, on a node: paid once or not at all, and the receipt says which; offers (02 §4
item 9, §7.1, §15.12)."""

from __future__ import annotations

from agent import Agent
from hive_devnet.world import World
from hive_shared.canonical import JsonValue
from hive_shared.registry import PAYMENT
from killed_command import killed_at, receipt_of, trusted_agent


async def _parts(world: World) -> list[tuple[int, str]]:
    rows = (await world.alice.call("listsendpays"))["payments"]
    return [(row["amount_msat"], row["status"]) for row in rows]


async def test_acceptance_02_12_a_payment_killed_is_made_once_and_offers_are_paid(world: World) -> None:
    async with trusted_agent(world, {"payment_*": "auto_execute"}) as agent:
        bill = await world.bob.call(
            "invoice", {"amount_msat": 4_000_000, "label": "bill", "description": "tea"}
        )
        params: dict[str, JsonValue] = {"bolt11": bill["bolt11"]}
        killed = await killed_at(world, agent, "after_cln", (PAYMENT, "pay_invoice"), params)
        receipt = await receipt_of(world, killed)
        assert receipt["status"] == "success" and receipt["result"]["reconciled"] is True, receipt
        assert receipt["result"]["payment_hash"] == bill["payment_hash"]
        gift: dict[str, JsonValue] = {"destination": world.bob.node_id, "amount_msat": 5_000_000}
        killed = await killed_at(world, agent, "after_cln", (PAYMENT, "keysend"), gift)
        receipt = await receipt_of(world, killed)
        assert receipt["status"] == "success" and receipt["result"]["amount_msat"] == 5_000_000, receipt
        assert await _parts(world) == [(4_000_000, "complete"), (5_000_000, "complete")]
        again = await agent.rest(agent.signed("pay_invoice", params, PAYMENT))
        assert "has paid this invoice already" in again["error"]["message"], again
        await _offer(world, agent)
        assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True


async def _offer(world: World, agent: Agent) -> None:
    offer = await world.bob.call("offer", {"amount": "6000sat", "description": "cake"})
    params: dict[str, JsonValue] = {"bolt11": offer["bolt12"], "amount_msat": 6_000_001}
    answer = await agent.rest(agent.signed("pay_invoice", params, PAYMENT))
    assert "asks for 6000000 msat, not 6000001" in answer["error"]["message"], answer
    answer = await agent.rest(agent.signed("pay_invoice", {"bolt11": offer["bolt12"]}, PAYMENT))
    assert answer["status"] == 0 and answer["result"]["amount_msat"] == 6_000_000, answer
    assert (await _parts(world))[2:] == [(6_000_000, "complete")]
