"""Sliding limits of payments (docs/protocol/03-escrow-and-payments.md §7.2, §14.18)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from cl_hive_comms.domain.payment import INTERNAL, REPLENISH
from cl_hive_comms.domain.payment_machine import State
from hive_shared.errors import BudgetExhausted
from msgspec.structs import replace
from paying_world import ADA, LIMITS, PayingWorld
from pipeline_world import NOW

DAY = 86_400


@pytest.fixture
def world(tmp_path: Path) -> Iterator[PayingWorld]:
    made = PayingWorld(tmp_path)
    yield made
    made.check_books()
    made.db.close()


async def pay(world: PayingWorld, sats: int, **fields: object) -> None:
    word = str(len(world.node.asked))
    # Without room for a fee the amount alone counts.
    await world.service.pay(world.order(world.bill(word, sats), sats, **{"max_fee_msat": 0, **fields}))


def codes(world: PayingWorld) -> list[str]:
    return [code for _, code, _ in world.outside.alerts]


async def test_limits_hold_and_what_fails_frees(world: PayingWorld) -> None:
    await pay(world, 24_000)
    assert codes(world) == ["limit_near"], "80 % of this advisor's"
    with pytest.raises(BudgetExhausted, match="per-advisor-daily-limit: 24000 of 25000 sat") as caught:
        await pay(world, 2_000)
    assert caught.value.data["limit_sats"] == 25_000 and codes(world)[-1] == "budget_hit"
    with pytest.raises(BudgetExhausted, match="daily-limit: 24000 of 50000"):
        await pay(world, 60_000, advisor_id="adv-bob")
    world.node.ends = "failed"
    with pytest.raises(Exception, match="no_route"):
        await pay(world, 25_000, advisor_id="adv-bob")
    world.node.ends = "complete"
    await pay(world, 25_000, advisor_id="adv-bob")
    assert world.used() == 49_000
    # Two at once cannot jointly exceed what is left.
    both = await asyncio.gather(
        *(pay(world, 800, advisor_id=f"adv-{n}") for n in range(2)), return_exceptions=True
    )
    assert sorted(type(each).__name__ for each in both) == ["BudgetExhausted", "NoneType"]
    assert world.used() == 49_800


async def test_a_sibling_cannot_name_its_payment_a_refill_to_go_by_the_operators_limits(
    world: PayingWorld,
) -> None:
    """Refills have no limits of a sibling's; what a payment is called does not change whose money it is."""
    with pytest.raises(BudgetExhausted, match=r"sibling-limits archon \(day\): 0 of 1000 sat"):
        await pay(world, 2_000, budget="archon", advisor_id=None, purpose=REPLENISH)
    await pay(world, 900, budget="archon", advisor_id=None, purpose=REPLENISH)
    assert (world.used(), world.used(scope="archon")) == (0, 900)
    # The wallet's own is counted while it has no end.
    world.node.ends = "pending"
    await pay(world, 700, budget=INTERNAL, advisor_id=None, purpose=REPLENISH)
    assert world.used() == 700


async def test_acceptance_08_09_fifty_at_once_never_exceed_the_advisors_limit(world: PayingWorld) -> None:
    ends = await asyncio.gather(*(pay(world, 1_200) for _ in range(50)), return_exceptions=True)
    assert sum(end is None for end in ends) == 20 and world.used(advisor=ADA) == 24_000
    assert world.paid_msat() == 24_000_000


async def test_a_window_slides_and_the_week_holds_more(world: PayingWorld) -> None:
    for day in range(4):
        world.now = NOW + day * DAY
        await pay(world, 25_000)
        await pay(world, 25_000, advisor_id="adv-bob")
    world.now += DAY - 1
    with pytest.raises(BudgetExhausted, match="daily-limit"):
        await pay(world, 1)
    world.now += 1
    with pytest.raises(BudgetExhausted, match="weekly-limit: 200000 of 200000"):
        await pay(world, 1)
    world.now = NOW + 7 * DAY
    await pay(world, 25_000)


async def test_sums_by_hour_are_exact_at_every_edge(world: PayingWorld) -> None:
    world.limits_now = replace(LIMITS, daily=10**9, weekly=10**9, per_advisor_daily=10**9)
    dice, made = random.Random(7), []
    for _ in range(60):
        world.now += dice.choice((1, 59, 600, 3_599, 3_600, 7_200))
        sats = dice.randrange(1, 500)
        await pay(world, sats)
        made.append((world.now, sats))
    for _ in range(200):
        world.now = made[dice.randrange(len(made))][0] + dice.randrange(0, 2 * DAY)
        for window in (DAY, 7 * DAY, 3_600):
            assert world.used(window) == sum(n for at, n in made if at > world.now - window)


async def test_siblings_have_budgets_of_their_own(world: PayingWorld) -> None:
    await pay(world, 1_000, budget="archon", advisor_id=None)
    with pytest.raises(BudgetExhausted, match=r"sibling-limits archon \(day\): 1000 of 1000"):
        await pay(world, 1, budget="archon", advisor_id=None)
    with pytest.raises(BudgetExhausted, match=r"sibling-limits provision \(day\): 0 of 0"):
        await pay(world, 1, budget="provision", advisor_id=None)
    await pay(world, 90_000, budget="fleet", advisor_id=None)
    assert (world.used(), world.used(scope="fleet"), world.used(scope="archon")) == (0, 90_000, 1_000)
    # What siblings may not spend leaves the operator's limits alone, and the other way round.
    await pay(world, 25_000)


async def test_limits_per_action_per_advisor_and_of_nothing(world: PayingWorld) -> None:
    world.limits_now = replace(LIMITS, per_action=500)
    with pytest.raises(BudgetExhausted, match="per-action-limit: 501 sat, fees included, are above 500"):
        await pay(world, 496, max_fee_msat=5_000)
    await pay(world, 495, max_fee_msat=5_000)
    world.limits_now = LIMITS
    world.own_limits[ADA] = 600
    with pytest.raises(BudgetExhausted, match="daily limit of this advisor: 496 of 600"):
        await pay(world, 105)
    world.limits_now = replace(LIMITS, daily=0)
    with pytest.raises(BudgetExhausted, match="daily-limit: 496 of 0"):
        await pay(world, 1)


async def test_usage_tells_when_the_oldest_counts_no_more(world: PayingWorld) -> None:
    await pay(world, 100)
    world.now += 500
    world.node.ends = "pending"
    await pay(world, 200)
    usage, reserved = await world.limits.usage(ADA)
    shown = {each.bound.name: (each.used, each.resets_at) for each in usage}
    assert shown["daily-limit"] == (300, NOW + DAY) and shown["weekly-limit"] == (300, NOW + 7 * DAY)
    assert shown["sibling-limits fleet (day)"] == (0, None)
    assert reserved["operator"] == 200 and world.stored()[1].state is State.UNKNOWN
