"""A period that is due, killed wherever it touches disk or node: paid once, by this attempt or a later one
(docs/protocol/03-escrow-and-payments.md §7.4)."""

from __future__ import annotations

from pathlib import Path

import pytest
from cl_hive_comms.domain.payment import SETTLE_S
from cl_hive_comms.domain.subscription_machine import State
from crash_points import MOST_POINTS, Countdown
from pipeline_world import Crash
from subscription_world import MONTH_S, SubscribedWorld

HOUR_S = 3_600


async def _hours(world: SubscribedWorld, hours: int) -> None:
    for _ in range(hours):
        world.node.end("complete")
        await world.service.settle()
        await world.subscriptions.tick()
        world.at(HOUR_S)


@pytest.mark.parametrize(
    ("ends", "again"),
    [("complete", "job"), ("pending", "job"), ("failed", "job"), ("complete", "operator")],
)
async def test_a_period_killed_anywhere_is_paid_once(tmp_path: Path, ends: str, again: str) -> None:
    for at in range(MOST_POINTS):
        (tmp_path / str(at)).mkdir()
        world = SubscribedWorld(tmp_path / str(at))
        offer = world.node.series()
        await world.subscriptions.pay(world.begin(offer))
        world.at(MONTH_S)
        world.node.ends, died = ends, True
        killer = Countdown(at)
        killer.watch(world.db, "write", "read")
        killer.watch(world.node, "call", "getinfo")
        try:
            await world.subscriptions.tick()
            died = False
        except Crash:
            pass
        killer.left = -1
        for name in ("call", "getinfo"):
            world.node.__dict__.pop(name, None)
        world.restart()
        world.node.ends = "complete"
        if again == "operator":
            world.node.end("complete")
            await world.service.settle()
            world.at(SETTLE_S)
            await world.service.settle()
            if world.one().recurrence_counter == 1:
                await world.subscriptions.pay(world.begin(offer, "client:mine"))
        await _hours(world, 5)
        assert world.node.periods_paid() == [0, 1], at
        row = world.one()
        assert (row.state, row.recurrence_counter, row.failures) == (State.ACTIVE, 2, 0), at
        settled = [each for each in world.stored() if each.state == "settled"]
        assert [each.period_key for each in settled] == [f"{row.sub_id}:0", f"{row.sub_id}:1"], at
        assert sum(each.counted_sats for each in settled) == 2 * 51, at
        world.check_books()
        world.db.close()
        if not died:
            break
    else:
        raise AssertionError("the work never ended")


async def test_a_beginning_killed_anywhere_is_paid_once_or_never(tmp_path: Path) -> None:
    for at in range(MOST_POINTS):
        (tmp_path / str(at)).mkdir()
        world = SubscribedWorld(tmp_path / str(at))
        order, died = world.begin(world.node.series()), True
        killer = Countdown(at)
        killer.watch(world.db, "write", "read")
        killer.watch(world.node, "call", "getinfo")
        try:
            await world.subscriptions.pay(order)
            died = False
        except Crash:
            pass
        killer.left = -1
        for name in ("call", "getinfo"):
            world.node.__dict__.pop(name, None)
        world.restart()
        await _hours(world, 2)
        paid = world.node.periods_paid()
        # What was paid is a subscription, what was not is none.
        assert [row.recurrence_counter for row in world.every()] == ([1] if paid else []), at
        assert paid in ([], [0]), at
        world.check_books()
        world.db.close()
        if not died:
            break
