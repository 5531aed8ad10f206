"""Offers with periods on two nodes: begun by the operator, gone on by the job, over a kill
(docs/protocol/03-escrow-and-payments.md §7.4, §14.20)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from agent import Agent
from channel_world import plugin_again
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World, until


async def _refused(world: World, **params: Any) -> DevnetRpcError:
    try:
        answer = await world.alice.call("hive-client-pay", params)
    except DevnetRpcError as error:
        return error
    raise AssertionError(answer)


async def _offer(world: World, description: str, **more: Any) -> str:
    params = {"amount": "500sat", "description": description, "recurrence": "1hours", **more}
    return str((await world.bob.call("offer", params))["bolt12"])


async def _periods(world: World) -> list[tuple[str, int]]:
    """(label, period) of every payment that went through, in order."""
    found = []
    for row in (await world.alice.call("listsendpays"))["payments"]:
        if row["status"] == "complete":
            says = await world.alice.call("decode", {"string": row["bolt12"]})
            found.append((row["label"], says["invreq_recurrence_counter"]))
    return found


async def _one(world: World) -> dict[str, Any]:
    (row,) = (await world.alice.call("hive-client-payments", {"action": "subscriptions"}))["items"]
    return dict(row)


async def test_acceptance_03_20_periods_of_an_offer_are_paid_in_order_over_a_kill(
    world: World, agent: Agent
) -> None:
    alice, name = world.alice, agent.npub
    # Payable a day ahead and due at once: 18 hours are left for every attempt. The first period begins with
    # its invoice, which is good until the window ends: ten minutes, of which we want one to be left.
    offer = await _offer(world, "care", recurrence_paywindow="-86400+600")
    params = {"advisor": name, "amount_sats": 500, "target": offer, "idempotency_key": "care"}
    once = await _refused(world, **params)
    assert once.code == -32602 and "give purpose=subscription" in once.message
    params["purpose"] = "subscription"
    wrong = await _refused(world, **{**params, "amount_sats": 499})
    assert wrong.code == 4014 and "asks for 500000 msat, 499000 msat were agreed" in wrong.message
    # Begun in the middle of its period, this one asks for less than it says: no change is taken.
    scaled = await _offer(world, "scaled", recurrence_base=int(time.time()) - 60, proportional_amount=True)
    changed = await _refused(world, **{**params, "target": scaled})
    assert changed.code == 4014 and changed.data["reason"] == "offer_changed", changed.data
    assert await _periods(world) == []
    paid = await alice.call("hive-client-pay", {**params, "idempotency_key": "first"})
    assert paid["status"] == "settled" and paid["method"] == "bolt12"
    assert await alice.call("hive-client-pay", {**params, "idempotency_key": "first"}) == paid
    begun = await _one(world)
    assert (begun["state"], begun["periods_paid"], begun["period"]) == ("active", 1, "3600 seconds")
    label = f"hive:{begun['sub_id']}"
    assert await _periods(world) == [(label, 0)]

    # The job of the next start pays period 1 and dies with the answer in its hands; the start after that
    # finds the payment.
    def armed(_database: Path) -> None:
        world.arm_fault("payment_answered")

    await plugin_again(world, armed)
    reached = world.fault_dir / "payment_answered.reached"

    async def died() -> bool:
        return reached.exists()

    await until(died, "the job to pay")
    await plugin_again(world, None)

    async def counted(periods: int) -> bool:
        return bool((await _one(world))["periods_paid"] >= periods)

    await until(lambda: counted(2), "the payment to be found")
    if (await _one(world))["periods_paid"] == 2:
        await alice.call("hive-client-pay", {**params, "idempotency_key": "third"})
    assert await _periods(world) == [(label, 0), (label, 1), (label, 2)]
    unknown = await _ended(world, "0" * 32)
    assert unknown.code == 4001 and "no subscription has this id" in unknown.message
    await _gone(world, name, begun["sub_id"])


async def _ended(world: World, sub_id: str) -> DevnetRpcError:
    try:
        answer = await world.alice.call("hive-client-payments", {"action": "end", "sub_id": sub_id})
    except DevnetRpcError as error:
        return error
    raise AssertionError(answer)


async def _gone(world: World, name: str, sub_id: str) -> None:
    """An issuer that is not there: the next attempt is an hour away."""
    await world.bob.stop()
    await plugin_again(world, None)

    async def failed() -> bool:
        return bool((await _one(world))["failures"] == 1)

    await until(failed, "the attempt to fail")
    row = await _one(world)
    assert row["state"] == "active" and row["next_due"] >= time.time() + 3_000
    assert row["error"].startswith("no_route")
    ended = await world.alice.call("hive-client-payments", {"action": "end", "sub_id": sub_id})
    assert ended["state"] == "ended"
    assert (await _ended(world, sub_id)).code == 4015
