"""The kit and nodes that want to be paid: what is demanded is checked, what was paid is taken along once
(docs/protocol/11-advisor-kit.md §8)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hive_advisor.advisor import Advisor
from hive_shared.errors import HiveError, InvalidParams
from kit_world import FEE, PARAMS, KitWorld
from kit_world import run_fee as run
from selling_node import PaidNode, hire


@pytest.fixture
def world(tmp_path: Path) -> KitWorld:
    return KitWorld(tmp_path)


@pytest.fixture
def node(world: KitWorld) -> PaidNode:
    made = PaidNode(world)
    world.node.answer = made.answer
    return made


@pytest_asyncio.fixture
async def kit(world: KitWorld, node: PaidNode) -> AsyncIterator[Advisor]:
    async with world.open() as opened:
        await hire(world, opened)
        yield opened


async def test_what_was_paid_for_one_action_goes_with_one_that_runs(kit: Advisor, node: PaidNode) -> None:
    node.sells = ("bolt11",)
    refused = await run(kit)
    assert (refused.state, refused.slug) == ("rejected", "payment_required")
    (demand,) = await kit.fees.demands(refused)
    assert (demand.method, demand.amount_sats) == ("bolt11", 10)
    preimage = node.preimage(1).hex()
    with pytest.raises(HiveError, match="none of the invoices"):
        await kit.fees.attach(refused, "07" * 32)
    _, new = await kit.fees.attach(refused, preimage)
    assert new and not (await kit.fees.attach(refused, preimage))[1]
    # A refusal before it ran leaves the fee good.
    node.fails = True
    assert (await run(kit, 151)).state == "rejected"
    assert [how for _, how in await kit.fees.listed(10)] == ["good"]
    node.fails = False
    assert (await run(kit, 152)).state == "done"
    assert [how for _, how in await kit.fees.listed(10)] == ["used"]
    assert (await run(kit, 153)).slug == "payment_required"
    proof = {"method": "bolt11", "preimage": preimage}
    assert node.proofs == [{"method": "none"}, proof, proof, {"method": "none"}]


async def test_a_token_goes_with_every_action_until_the_node_says_it_is_used_up(
    kit: Advisor, node: PaidNode
) -> None:
    refused = await run(kit)
    token, one = await kit.fees.demands(refused)
    assert (token.method, one.method) == ("l402", "bolt11")
    await kit.fees.attach(refused, node.preimage(2).hex())
    states = [(await run(kit, fee)).slug for fee in (151, 152, 153)]
    assert states == [None, None, "payment_required"]
    assert [how for _, how in await kit.fees.listed(10)] == ["used"]
    last = await run(kit, 154)
    assert last.slug == "payment_required" and node.proofs[-1] == {"method": "none"}


async def test_reading_costs_nothing_and_takes_nothing_along(kit: Advisor, node: PaidNode) -> None:
    refused = await run(kit)
    await kit.fees.attach(refused, node.preimage(2).hex())
    client = await kit.clients.named("alice")
    plan = await kit.plan(client, "hive:monitor/v1", "channel_list", {})
    assert plan.summary()["price_sats"] == 0
    await kit.execute(plan, wait_s=60)
    assert node.proofs[-1] == {"method": "none"}
    assert (await kit.plan(client, *FEE, PARAMS)).summary()["price_sats"] == 10


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"amount_sats": 999}, "999 sat"),
        ({"invoice": "lnbc1q"}, "no BOLT 11 invoice|damaged"),
        ({"invoice": 5}, "names no invoice"),
        ({"macaroon": "AgEE"}, "macaroon"),
        ({"bolt11": {"invoice": "x", "amount_sats": 10}}, "no BOLT 11 invoice"),
        ({"bolt11": {"amount_sats": True, "invoice": "x"}}, "names no invoice"),
    ],
)
async def test_a_demand_that_contradicts_itself_is_not_shown_for_payment(
    kit: Advisor, node: PaidNode, changes: dict[str, Any], why: str
) -> None:
    node.changes = changes
    refused = await run(kit)
    with pytest.raises(HiveError, match=why):
        await kit.fees.demands(refused)


async def test_an_invoice_of_another_hash_than_the_macaroons_is_not_shown(
    kit: Advisor, node: PaidNode
) -> None:
    node.changes = {"invoice": node.invoice(1_000)[0]}
    with pytest.raises(HiveError, match="not bound"):
        await kit.fees.demands(await run(kit))


async def test_a_command_that_ran_demands_nothing(kit: Advisor, world: KitWorld) -> None:
    world.node.answer = world.node.honest
    done = await run(kit)
    with pytest.raises(InvalidParams, match="not refused for a payment"):
        await kit.fees.demands(done)


async def test_no_two_commands_take_the_same_fee_at_once(kit: Advisor, node: PaidNode) -> None:
    node.sells = ("bolt11",)
    await kit.fees.attach(await run(kit), node.preimage(1).hex())
    client = await kit.clients.named("alice")
    issued = [
        await kit.plans.issue(
            await kit.plan(client, *FEE, {**PARAMS, "channel_id": f"10{n}x1x0"}), origin="cli", human=True
        )
        for n in (1, 2)
    ]
    assert [each.envelope["payment_proof"]["method"] for each in issued] == ["bolt11", "none"]
    assert [how for _, how in await kit.fees.listed(10)] == ["in use"]


async def test_a_paid_command_killed_anywhere_takes_its_fee_to_one_run(
    world: KitWorld, node: PaidNode, tmp_path: Path
) -> None:
    async with world.open() as kit:
        await hire(world, kit)
        node.sells = ("bolt11",)
        refused = await run(kit)
        await kit.fees.attach(refused, node.preimage(1).hex())
    for at in range(40):
        copy = world.copy(tmp_path / str(at))
        there = PaidNode(copy)
        copy.node.answer, there.sells = there.answer, ("bolt11",)
        died = await copy.killed(at, lambda kit: run(kit, 160))
        async with copy.open() as kit:
            # What was signed goes out again as the same bytes.
            client = await kit.clients.named("alice")
            for command in await kit.commands.open():
                await kit.send_again(command, client)
                await kit.commands.settled(command.command_id, 5)
            await run(kit, 161)
            fees = await kit.fees.listed(10)
            assert [how for _, how in fees] == ["used"], at
        assert there.uses == {node.preimage(1).hex(): 1}, at
        if not died:
            assert at > 3
            return
    pytest.fail("the command touches disk and node at more than 40 points")


async def test_preimage_and_macaroon_are_sealed_in_the_list_of_fees(
    world: KitWorld, node: PaidNode, kit: Advisor
) -> None:
    await kit.fees.attach(await run(kit), node.preimage(2).hex())
    rows = await kit._db.read(lambda tx: [tuple(row) for row in tx.execute("SELECT * FROM adv_l402")])
    assert node.preimage(2).hex() not in str(rows) and "macaroon" not in str(rows)


async def test_the_proof_a_plan_names_goes_unchanged_and_is_part_of_its_hash(
    kit: Advisor, node: PaidNode, world: KitWorld
) -> None:
    await kit.fees.attach(await run(kit), node.preimage(2).hex())
    world.node.answer = world.node.honest
    client = await kit.clients.named("alice")
    params = {**PARAMS, "fee_ppm": 155}
    unknown = {"method": "cashu_escrow", "ticket_id": "ab" * 16, "item": 0}
    with pytest.raises(HiveError, match="is not here"):
        await kit.execute(await kit.plan(client, *FEE, params, payment=unknown), wait_s=60, human=True)
    proof = {"method": "bolt11", "invoice": "lnbcrt1"}
    plan = await kit.plan(client, *FEE, params, payment=proof)
    bare = await kit.plan(client, *FEE, params)
    assert plan.hash != bare.hash and plan.summary()["payment"] == proof
    done = await kit.execute(plan, wait_s=60, human=True)
    assert done.state == "done" and done.payment == proof
    assert dict(world.node.commands[-1].payment_proof) == proof
    assert [how for _, how in await kit.fees.listed(10)] == ["good"]
