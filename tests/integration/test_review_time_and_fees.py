"""Anchors that end wrongly, outcomes nobody saw, clocks that go back, tables that only grow
(docs/protocol/02-fleet-management.md §2.4, §5.5, §9.2, §11)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.domain.command_record import StoredResponse
from cl_hive_comms.services.intake_order import IntakeOrder
from cl_hive_comms.storage.command_store import CommandStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from pipeline_world import World, slug

FEES = "hive:fee-policy/v1"
ANCHOR = {"channel_id": "101x1x0", "target_fee_ppm": 120, "ttl_hours": 2}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


async def test_an_anchor_over_an_anchor_ends_at_the_fee_before_both(world: World) -> None:
    await world.ask(FEES, "set_anchor", ANCHOR)
    world.pass_time(3_601)
    second = await world.ask(FEES, "set_anchor", {**ANCHOR, "target_fee_ppm": 125})
    assert slug(second) is None, second
    world.pass_time(2 * 3_600)
    await world.pipeline.timers.tick()
    assert world.node.fees("101x1x0")[1] == 100


@pytest.mark.parametrize("hindrance", ["node", "stop"])
async def test_a_revert_that_was_hindered_is_tried_again(world: World, hindrance: str) -> None:
    await world.ask(FEES, "set_anchor", ANCHOR)
    world.pass_time(2 * 3_600)
    if hindrance == "node":
        world.node.fail["setchannel"] = -1
    world.switch.on = hindrance == "stop"
    await world.pipeline.timers.tick()
    assert world.node.fees("101x1x0")[1] == 120
    assert len(await world.docs()) == 1
    world.node.fail.clear()
    world.switch.on = False
    await world.pipeline.timers.tick()
    assert world.node.fees("101x1x0")[1] == 100
    assert [doc["status"] for doc in await world.docs()] == ["success", "success"]


async def test_a_revert_that_never_works_is_given_up_on_record(world: World) -> None:
    await world.ask(FEES, "set_anchor", ANCHOR)
    world.node.fail["setchannel"] = -1
    world.pass_time(2 * 3_600 + 86_400)
    await world.pipeline.timers.tick()
    await world.pipeline.timers.tick()
    assert [doc["status"] for doc in await world.docs()] == ["success", "error"]


async def test_a_change_nobody_saw_still_counts_for_limits_and_cooldown(world: World) -> None:
    listing = world.node.listpeerchannels
    setting = world.node.setchannel

    async def then_blind(*args: Any, **options: Any) -> list[dict[str, Any]]:
        await setting(*args, **options)
        world.node.fail["listpeerchannels"] = -1
        return []

    world.node.setchannel = then_blind  # type: ignore[method-assign]
    response = await world.set_fee(125)
    assert slug(response) == "indeterminate"
    assert "the node took the change" not in response["error"]["message"]
    world.node.fail.clear()
    world.node.setchannel = setting  # type: ignore[method-assign]
    assert (await listing())[0]["fee_proportional_millionths"] == 125
    # 160 is within 30 % of 125, but not of the 100 ppm of a day ago.
    assert slug(await world.set_fee(160)) in ("constraint_violated", "policy_blocked")
    assert slug(await world.set_fee(126)) == "cooldown"


async def test_roots_go_on_after_the_clock_was_set_back(world: World) -> None:
    await world.set_fee(110)
    world.pass_time(2 * 3_600)
    assert await world.receipts.hourly_roots() == 1
    world.pass_time(-2 * 3_600)
    await world.set_fee(110, "102x1x0")
    world.pass_time(5 * 3_600)
    assert await world.receipts.hourly_roots() == 1
    roots = await world.db.read(lambda tx: ReceiptStore().roots(tx, 0, 10))
    assert [(root.first_id, root.last_id) for root in roots] == [(1, 1), (2, 2)]
    assert await world.receipts.hourly_roots() == 0


async def test_a_clock_set_back_does_not_reopen_the_reorder_window() -> None:
    clock = [1_000_000]

    async def last(_key: str) -> int:
        return 0

    order = IntakeOrder(last, lambda: clock[0], window_ms=500)
    async with order.turn("aa", 1_770_000_000_000_000) as turn:
        order.burned("aa", 1_770_000_000_000_000, turn)
    clock[0] -= 600_000
    async with order.turn("aa", 1_769_999_999_000_000) as turn:
        assert turn.floor == 1_770_000_000_000_000


async def test_a_day_of_replies_is_forgotten_in_one_sweep(world: World) -> None:
    def fill(tx: Any) -> None:
        for nonce in range(1, 5_001):
            CommandStore().put_response(tx, StoredResponse("aa", nonce, "", "{}", world.now))

    await world.db.write(fill)
    world.pass_time(8 * 86_400)
    await world.pipeline.timers.hourly()
    left = await world.db.read(lambda tx: tx.execute("SELECT count(*) FROM comms_responses").fetchone()[0])
    assert left == 0
