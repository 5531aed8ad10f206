"""A payment of the node itself, killed wherever it touches disk or node: paid once or not at all, and the row
says which (docs/protocol/03-escrow-and-payments.md §7.3, §14.19)."""

from __future__ import annotations

from pathlib import Path

import pytest
from cl_hive_comms.domain.payment import SETTLE_S, Order
from cl_hive_comms.domain.payment_machine import State
from crash_points import MOST_POINTS, Countdown
from hive_shared.errors import PaymentFailed
from paying_world import PayingWorld
from payment_world import FRIEND
from pipeline_world import Crash


def _order(world: PayingWorld, method: str) -> Order:
    if method == "keysend":
        return world.order(FRIEND, key="sibling:k", budget="fleet", method=method, advisor_id=None)
    if method == "bolt12":
        return world.order(world.node.offer_of("cake", 50_000, 50_000), key="client:k", method=method)
    return world.order(world.bill(), key="client:k")


async def _finish(world: PayingWorld) -> None:
    world.node.end("complete")
    await world.service.settle()
    world.now += SETTLE_S
    await world.service.settle()
    await world.service.settle()


@pytest.mark.parametrize("method", ["bolt11", "bolt12", "keysend"])
@pytest.mark.parametrize("ends", ["complete", "pending", "failed"])
async def test_acceptance_08_09_a_payment_killed_anywhere_is_made_once_or_not_at_all(
    tmp_path: Path, method: str, ends: str
) -> None:
    seen: set[State | None] = set()
    for at in range(MOST_POINTS):
        (tmp_path / str(at)).mkdir()
        world = PayingWorld(tmp_path / str(at))
        order, died = _order(world, method), True
        world.node.ends = ends
        killer = Countdown(at)
        killer.watch(world.db, "write", "read")
        killer.watch(world.node, "call", "getinfo")
        try:
            await world.service.pay(order)
            died = False
        except Crash:
            pass
        except PaymentFailed:
            died = False
        killer.left = -1
        for name in ("call", "getinfo"):
            world.node.__dict__.pop(name, None)
        world.restart()
        asked = len(world.node.sent)
        await _finish(world)
        rows = world.stored()
        state = rows[0].state if rows else None
        seen.add(state)
        assert len(rows) <= 1 and len(world.node.sent) == asked <= 1, (at, rows)
        assert state in (None, State.SETTLED, State.FAILED), (at, state)
        assert (state is State.SETTLED) == (world.paid_msat() > 0), (at, state)
        world.check_books()
        # Conservation: what counts against the limits is what left the node, rounded up.
        scope = "fleet" if method == "keysend" else "operator"
        assert world.used(scope=scope) == (51 if world.paid_msat() else 0), at
        # The same order again: what was paid is not paid anew, what was not may be, once.
        world.node.ends = "complete"
        paid_before = world.paid_msat()
        if rows and state is State.SETTLED:
            assert (await world.service.pay(order)).payment_id == rows[0].payment_id
            assert world.paid_msat() == paid_before
        world.check_books()
        world.db.close()
        if not died:
            break
    else:
        pytest.fail(f"disk and node are touched at more than {MOST_POINTS} points")
    assert {None, State.FAILED} <= seen and (State.SETTLED in seen) == (ends != "failed"), seen
