"""A command that earns something, killed wherever it touches disk or node: paid once or never, and never for
a command that did not succeed (docs/protocol/02-fleet-management.md §7.1, §8; 03 §7.3)."""

from __future__ import annotations

from pathlib import Path

import pytest
from cl_hive_comms.domain.payment import SETTLE_S
from cl_hive_comms.domain.payment_machine import State
from cl_hive_comms.services.debts import AGAIN_S
from crash_points import killed_everywhere
from pipeline_world import World
from reward_world import Rewarding

COST = 25 + 1


async def hours_pass(world: Rewarding) -> None:
    """The loops of the next half hour."""
    for _ in range(3):
        await world.minute()
        world.pass_time(max(AGAIN_S, SETTLE_S))
    await world.debts.drain()


async def books(world: Rewarding, at: int, ran: bool, ids: str) -> State | None:
    """What became of the pay, after checking that exactly what succeeded was paid for, once."""
    rows = world.owed_rows()
    assert len(rows) <= 1, at
    state = rows[0].state if rows else None
    succeeded = await world.state(ids) == "success" if ids else False
    assert ran == succeeded, at
    assert len(world.node.paid()) == int(succeeded), (at, state)
    assert (state is State.SETTLED) == succeeded, (at, state)
    assert world.counted() == (COST if succeeded else 0), (at, state)
    assert len(world.notices()) <= 1
    return state


@pytest.mark.parametrize("ends", ["success", "error"])
async def test_a_command_killed_anywhere_is_paid_once_if_it_succeeded_and_never_else(
    tmp_path: Path, ends: str
) -> None:
    async def order(world: World) -> None:
        assert isinstance(world, Rewarding)
        if ends == "error":
            world.node.fail["setchannel"] = 313
        await world.earn()
        await world.debts.pay_due()

    seen: set[tuple[bool, State | None]] = set()
    async for at, world, died in killed_everywhere(tmp_path, order, Rewarding):
        assert isinstance(world, Rewarding)
        await hours_pass(world)
        row = world.row_of_all("SELECT command_id FROM comms_commands")
        ran = world.node.fees("101x1x0")[1] == 102
        seen.add((died, await books(world, at, ran, row)))
    paid = State.SETTLED if ends == "success" else State.FAILED
    assert {(True, None), (True, paid), (False, paid)} <= seen


async def test_an_answer_with_an_invoice_killed_anywhere_is_paid_once_when_it_comes_again(
    tmp_path: Path,
) -> None:
    keys: dict[int, str] = {}

    async def before(world: World) -> None:
        assert isinstance(world, Rewarding)
        response = await world.earn(expiry=600)
        world.pass_time(700)
        await world.minute()
        row = world.row(response["command_id"])
        assert row is not None
        keys[id(world)] = f"{row.payment_id}:0"

    async def order(world: World) -> None:
        assert isinstance(world, Rewarding)
        await world.answer(keys[id(world)], "fresh", created_at=world.now)

    async for at, world, _died in killed_everywhere(tmp_path, order, Rewarding, before):
        assert isinstance(world, Rewarding)
        await hours_pass(world)
        if world.owed_rows()[0].state is State.OWED:
            # It was lost with the process: the agent is asked again, and answers with another invoice.
            await world.answer(keys[id(world)], "again", created_at=world.now)
            await hours_pass(world)
        ids = world.row_of_all("SELECT command_id FROM comms_commands")
        assert await books(world, at, True, ids) is State.SETTLED


async def test_debts_that_are_paid_side_by_side_are_each_paid_once_wherever_they_are_killed(
    tmp_path: Path,
) -> None:
    async def before(world: World) -> None:
        assert isinstance(world, Rewarding)
        for number in (1, 2):
            await world.earn(channel=f"10{number}x1x0", word=f"bill {number}")

    async def order(world: World) -> None:
        assert isinstance(world, Rewarding)
        await world.debts.pay_due()

    async for at, world, _died in killed_everywhere(tmp_path, order, Rewarding, before):
        assert isinstance(world, Rewarding)
        await hours_pass(world)
        assert [row.state for row in world.owed_rows()] == [State.SETTLED] * 2, at
        assert (len(world.node.paid()), world.counted()) == (2, 2 * COST), at
        assert len({part["payment_hash"] for part in world.node.parts}) == 2, at
