"""Locks killed at every disk and mint call, answers lost before and after the mint acted: no sat and no lock
is lost or doubled, limits count what is locked, nothing stays open over two sweeps (03 §14.12)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from cashu_tickets import preimage
from cl_hive_comms.domain.cashu_lock import LockRow, Role
from crash_points import Countdown
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_shared.cashu.journal import OpKind, OpState
from hive_shared.cashu.lock_machine import HOLDING, LockState
from hive_shared.cashu.terms import Terms
from hive_shared.cashu.wire import SpendState
from hive_shared.errors import PaymentFailed
from lock_world import LockWorld, taken_in
from mint_releases import each_release
from pipeline_world import Crash

pytestmark = pytest.mark.asyncio(loop_scope="module")
mint_url = each_release
MINT_CALLS = ("swap", "checkstate", "restore")
START, AMOUNTS = 256, (60, 37)
_MOST_POINTS = 60


@dataclass
class Case:
    """A node that is about to do one thing, and what it has by then."""

    world: LockWorld
    act: Callable[[], Awaitable[object]]
    start: int
    rows: tuple[LockRow, ...] = ()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def payer(mint_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LockWorld]:
    """Somebody else who locks for us."""
    world = LockWorld(tmp_path_factory.mktemp("payer"), mint_url)
    world.now = int(time.time())
    await world.service.fund(20_000, None, None, 30)
    yield world
    await world.close()


async def prepared(directory: Path, payer: LockWorld, kind: str, via: str) -> Case:
    world = LockWorld(directory, via)
    world.now = int(time.time())
    if kind == "redeem":
        return await before_redeeming(world, payer)
    await world.service.fund(START, None, None, 30)
    end = world.now + (90_000 if kind in ("lock", "two swaps") else -120)
    terms = world.terms(payer, AMOUNTS, locktime=end)
    if kind == "two swaps":
        world.most_outputs = 5

    async def lock() -> object:
        return await world.locked(terms)

    if kind != "refund":
        return Case(world, lock, START)
    rows = await world.locked(terms)

    async def refund() -> object:
        return await world.locks.refund([row.lock_id for row in rows])

    return Case(world, refund, START - sum(op.fee_sats for op in await world.ops()), rows)


async def before_redeeming(world: LockWorld, payer: LockWorld) -> Case:
    terms: Terms = payer.terms(world, AMOUNTS, mints=[{"url": payer.mint_url, "permille": 1_000}])
    given = await payer.locked(terms, terms.ticket_id)
    rows = await taken_in(terms, given, world)

    async def redeem() -> object:
        return await world.locks.redeem({row.lock_id: preimage(row.item).hex() for row in rows})

    return Case(world, redeem, 0, rows)


async def balanced(case: Case, kind: str) -> set[LockState]:
    """Every sat is accounted for, and the mint says the same of each."""
    world, rows = case.world, await case.world.every()
    ops = [op for op in await world.ops() if op.kind not in (OpKind.FUND,)]
    assert all(not op.open for op in ops), ops
    states = {row.state for row in rows}
    assert states <= {
        *(LockState.LOCKED, LockState.FAILED, LockState.DELIVERED),
        *(LockState.REDEEMED, LockState.REFUNDED),
    }, states
    fees = sum(op.fee_sats for op in ops if op.state is OpState.DONE and op.kind is not OpKind.REDEEM)
    fees -= START - case.start if kind == "refund" else 0
    face = sum(row.face_sats for row in rows if row.state is LockState.LOCKED)
    redeemed = sum(op.amount_sats for op in ops if op.kind is OpKind.REDEEM and op.state is OpState.DONE)
    held = sum(row.face_sats for row in rows if row.state in HOLDING and row.role is Role.PAYER)
    assert await world.sats() == case.start + redeemed - face - fees, (kind, rows, ops)
    assert await world.held() == 0 and face == held == await world.counted()
    for row in rows:
        told = {each.state for each in await world.mints.client.checkstate(row.ys)}
        standing = row.state in (LockState.LOCKED, LockState.DELIVERED, LockState.FAILED)
        assert told == {SpendState.UNSPENT if standing else SpendState.SPENT}, row
    assert world.alerts == [] and world.lock_alerts.raised in ([], ["limit_near"])
    return states


KINDS = ("lock", "two swaps", "redeem", "refund")


@pytest.mark.parametrize("kind", KINDS)
async def test_acceptance_03_12_locks_killed_at_every_disk_and_mint_call(
    mint_url: str, payer: LockWorld, tmp_path: Path, kind: str
) -> None:
    ends: set[LockState] = set()
    # Behind one call is before the next.
    for at in (0, *range(1, _MOST_POINTS, 2)):
        case = await prepared(tmp_path / str(at), payer, kind, mint_url)
        countdown = Countdown(at)
        countdown.watch(case.world.db, "write")
        countdown.watch(case.world.mints.client, *MINT_CALLS)
        died = True
        try:
            await case.act()
            died = False
        except Crash:
            pass
        countdown.left = -1
        await case.world.restart()
        await case.world.sweep()
        await case.world.sweep()
        ends |= await balanced(case, kind)
        if kind == "redeem":
            await case.act()
            assert await balanced(case, kind) == {LockState.REDEEMED}
        await case.world.close()
        if not died:
            break
    else:
        pytest.fail(f"more than {_MOST_POINTS} points")
    last = {"redeem": LockState.REDEEMED, "refund": LockState.REFUNDED}.get(kind, LockState.LOCKED)
    assert last in ends and (LockState.FAILED in ends) == (kind in ("lock", "two swaps")), ends


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_lost_about_a_lock_costs_nothing(
    mint_url: str, payer: LockWorld, tmp_path: Path, kind: str
) -> None:
    async with MintFaultFront.before(mint_url) as front:
        for at in range(_MOST_POINTS):
            struck = 0
            for fault in (MintFaultKind.LOSE_BEFORE, MintFaultKind.LOSE_AFTER):
                case = await prepared(tmp_path / f"{at}{fault}", payer, kind, front.url)
                front.set(MintFault(fault, skip=at, times=1))
                with suppress(PaymentFailed):
                    await case.act()
                struck += front.clear()
                await case.world.sweep()
                await case.world.sweep()
                states = await balanced(case, kind)
                if kind in ("redeem", "refund"):
                    assert states in ({LockState.REDEEMED}, {LockState.REFUNDED})
                await case.world.close()
            if not struck:
                return
    pytest.fail(f"more than {_MOST_POINTS} requests")
