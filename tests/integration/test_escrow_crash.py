"""A ticket killed at every disk and mint call from the wish to the hand-over, and every answer of the mint
lost: there is one ticket and no sat too few (docs/protocol/03-escrow-and-payments.md §6.6 steps 2 and 3)."""

from __future__ import annotations

from pathlib import Path

import pytest
from crash_points import Countdown
from escrow_world import EscrowWorld
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_shared.cashu.escrow_terms import TicketPlan
from hive_shared.cashu.journal import OpKind, OpState
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.terms import TicketType
from hive_shared.cashu.ticket_machine import TicketStatus
from hive_shared.cashu.ticket_messages import Ticket
from hive_shared.cashu.wire import SpendState
from hive_shared.errors import PaymentFailed
from payee_world import PayeeWorld
from pipeline_world import Crash

pytestmark = pytest.mark.asyncio
MINT_CALLS = ("keysets", "swap", "checkstate", "restore")
START, AMOUNTS = 256, (60, 37)
_MOST_POINTS = 60
_AGO_S = 21_600 + 3_600 + 3_600


def plan_of(world: EscrowWorld, payee: PayeeWorld) -> TicketPlan:
    return world.plan(payee, AMOUNTS, type=TicketType.BATCH)


async def opened(directory: Path, via: str) -> EscrowWorld:
    """A payer so long ago that its ticket's locktime is past for the mint, whose clock is real."""
    world = EscrowWorld(directory, via)
    await world.service.fund(START, None, None, 30)
    world.now -= _AGO_S
    return world


async def settled(world: EscrowWorld) -> None:
    """The loops of a plugin that is up again, as long as an unlocked ticket is waited for."""
    for _ in range(2):
        await world.sweep()
        await world.engine.tick()


async def balanced(world: EscrowWorld) -> str:
    """Every sat is accounted for and each side of the books says the same; how the one ticket ended."""
    ops = [op for op in await world.ops() if op.kind is not OpKind.FUND]
    assert all(not op.open for op in ops), ops
    locks = await world.every()
    assert {row.state for row in locks} <= {LockState.LOCKED, LockState.DELIVERED, LockState.FAILED}
    face = sum(row.face_sats for row in locks if row.state is not LockState.FAILED)
    fees = sum(op.fee_sats for op in ops if op.state is OpState.DONE)
    assert await world.sats() == START - face - fees and await world.held() == 0
    assert await world.counted() == face
    for row in locks:
        told = {each.state for each in await world.mints.client.checkstate(row.ys)}
        assert told == {SpendState.UNSPENT}
    tickets = await world.every_ticket()
    assert len(tickets) <= 1
    if not tickets:
        assert locks == [] and world.letters == {}
        return "none"
    (ticket,) = tickets
    states, sent = await world.item_states(ticket.ticket_id), len(world.letters)
    if ticket.status is TicketStatus.CANCELLED:
        assert face == 0 and sent == 0 and set(states) == {"cancelled"}
        return "cancelled"
    # Whole, it is handed over once; in part, not at all, and what is locked waits for its locktime.
    if "cancelled" in states:
        assert sent == 0 and sorted(set(states)) == ["cancelled", "locked"]
        return "in part"
    assert states == ["delivered", "delivered"] and sent == 1
    (letter,) = world.letters.values()
    assert isinstance(letter, Ticket) and letter.ticket_id == ticket.ticket_id
    return "delivered"


async def test_killed_at_every_disk_and_mint_call_a_ticket_is_made_once_or_given_up(
    mint_url: str, tmp_path: Path
) -> None:
    payee = PayeeWorld(tmp_path / "payee", mint_url)
    ends: set[str] = set()
    # Behind one call is before the next.
    for at in (0, *range(1, _MOST_POINTS, 2)):
        world = await opened(tmp_path / str(at), mint_url)
        world.most_outputs = 5  # It takes two swaps.
        plan, payee.now = plan_of(world, payee), world.now
        countdown = Countdown(at)
        countdown.watch(world.db, "write")
        countdown.watch(world.mints.client, *MINT_CALLS)
        died = True
        try:
            await world.create(plan)
            died = False
        except Crash:
            pass
        countdown.left = -1
        await world.restart()
        await settled(world)
        end = await balanced(world)
        ends.add(end)
        # The caller asks again, as it must: the same ticket, or a word on why there is none.
        if end == "cancelled":
            with pytest.raises(PaymentFailed, match="was given up"):
                await world.create(plan)
            assert await balanced(world) == "cancelled"
        elif end == "in part":
            await came_back(world)
        else:
            ticket = await world.create(plan)
            assert await balanced(world) == "delivered"
            await world.carry(payee)
            assert await world.item_states(ticket.ticket_id) == ["accepted", "accepted"], at
            assert (await payee.states(ticket.ticket_id)) == ["accepted", "accepted"]
        await world.close()
        if not died:
            break
    else:
        pytest.fail(f"more than {_MOST_POINTS} points")
    await payee.close()
    assert ends == {"none", "cancelled", "in part", "delivered"}, ends


async def came_back(world: EscrowWorld) -> None:
    """What was locked of a ticket that never was whole is ours again after its locktime."""
    world.now += _AGO_S
    await world.sweep()
    (ticket,) = await world.every_ticket()
    assert sorted(await world.item_states(ticket.ticket_id)) == ["cancelled", "refunded"]
    fees = sum(op.fee_sats for op in await world.ops() if op.state is OpState.DONE)
    assert await world.sats() == START - fees and await world.counted() == 0 and world.letters == {}


async def test_an_answer_of_the_mint_that_is_lost_makes_no_second_ticket_and_costs_no_sat(
    mint_url: str, tmp_path: Path
) -> None:
    payee = PayeeWorld(tmp_path / "payee", mint_url)
    async with MintFaultFront.before(mint_url) as front:
        for at in range(_MOST_POINTS):
            world = await opened(tmp_path / str(at), front.url)
            # The mint acted, and nobody heard of it; that it did not is asked of locks alone.
            front.set(MintFault(MintFaultKind.LOSE_AFTER, skip=at, times=1))
            plan = plan_of(world, payee)
            ticket = await world.create(plan)
            struck = front.clear()
            await settled(world)
            assert await balanced(world) == "delivered", at
            assert await world.create(plan) == ticket
            await world.close()
            if not struck:
                break
        else:
            pytest.fail(f"more than {_MOST_POINTS} requests")
    await payee.close()
