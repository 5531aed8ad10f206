"""The wallet killed at every disk and mint call of every operation, and answers lost before and after the
mint acted: no sat is lost or doubled, nothing stays open over two sweeps (docs/protocol/03 §14.1, §14.12)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from crash_points import Countdown
from ecash_world import EcashWorld
from hive_devnet.mint import MintProcess, mint_environment, mint_installed
from hive_shared.cashu.journal import OpState
from pipeline_world import Crash

pytestmark = [
    pytest.mark.skipif(
        not mint_installed(), reason=f"no mint in {mint_environment()}: `make setup` puts nutshell there"
    ),
    pytest.mark.asyncio(loop_scope="module"),
]
MONEY_CALLS = ("mint_quote", "mint", "melt_quote", "melt", "swap")
MINT_CALLS = (*MONEY_CALLS, "mint_quote_state", "melt_quote_state", "checkstate", "restore")
START, MOVED = 256, 100
_MOST_POINTS = 40

Order = Callable[[EcashWorld, str], Awaitable[object]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mint(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MintProcess]:
    started = await MintProcess.start(tmp_path_factory.mktemp("mint"), input_fee_ppk=100)
    try:
        yield started
    finally:
        await started.stop()


async def fund(world: EcashWorld, _: str) -> object:
    return await world.service.fund(MOVED, None, None, 30)


async def send(world: EcashWorld, _: str) -> object:
    return await world.service.send(MOVED, None, None, None, 30)


async def receive(world: EcashWorld, token: str) -> object:
    return await world.service.receive(token, 30)


async def withdraw(world: EcashWorld, _: str) -> object:
    return await world.service.withdraw(MOVED, None, None, 30)


async def prepared(directory: Path, mint: MintProcess, kind: str) -> tuple[EcashWorld, str]:
    """A wallet that is about to do it, with a token of somebody else's when that is what it takes."""
    directory.mkdir()
    world, token = EcashWorld(directory / "own", mint.url), ""
    if kind in ("send", "withdraw"):
        await world.service.fund(START, None, None, 30)
    if kind == "receive":
        other = EcashWorld(directory / "other", mint.url)
        await other.service.fund(MOVED, None, None, 30)
        token = (await other.service.send(MOVED, None, None, None, 30)).body.token
        await other.close()
    return world, token


async def balanced(world: EcashWorld, kind: str) -> bool:
    """Every sat is accounted for and what the wallet calls unspent the mint does too. Whether it was done."""
    ops = [op for op in await world.ops() if not (op.kind == "fund" and op.amount_sats == START)]
    assert all(not op.open for op in ops), ops
    assert len(ops) <= 1, ops
    done = [op for op in ops if op.state is OpState.DONE]
    start = START if kind in ("send", "withdraw") else 0
    fees = sum(op.fee_sats for op in done)
    expected = {
        "fund": start + len(done) * MOVED,
        "send": start - len(done) * MOVED - fees,
        "receive": start + len(done) * MOVED - fees,
        "withdraw": start - len(done) * MOVED - fees,
    }[kind]
    assert (await world.sats(), await world.held()) == (expected, 0), ops
    assert fees <= 3, fees
    ys = await world.unspent()
    states = await world.mints.client.checkstate(ys)
    assert all(entry.state == "UNSPENT" for entry in states) if ys else True
    assert world.alerts == []
    return bool(done)


KINDS: dict[str, Order] = {"fund": fund, "send": send, "receive": receive, "withdraw": withdraw}


@pytest.mark.parametrize("kind", KINDS)
async def test_acceptance_03_12_killed_at_every_disk_and_mint_call(
    mint: MintProcess, tmp_path: Path, kind: str
) -> None:
    ends: set[bool] = set()
    for at in range(_MOST_POINTS):
        world, token = await prepared(tmp_path / str(at), mint, kind)
        countdown = Countdown(at)
        countdown.watch(world.db, "write")
        countdown.watch(world.mints.client, *MINT_CALLS)
        died = True
        try:
            await KINDS[kind](world, token)
            died = False
        except Crash:
            pass
        countdown.left = -1
        await world.restart()
        await world.sweep()
        await world.sweep()
        done = await balanced(world, kind)
        if kind == "receive" and not done:
            # The token is still good: nothing of it was lost.
            await receive(world, token)
            assert await balanced(world, kind)
        ends.add(done)
        await world.close()
        if not died:
            break
    else:
        pytest.fail(f"more than {_MOST_POINTS} points")
    assert True in ends and (False in ends or kind == "receive")
