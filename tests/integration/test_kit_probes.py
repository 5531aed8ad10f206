"""The kit tries a mint out as soon as it has the sats for it, and trusts it with more than a thousand then
(docs/protocol/11-advisor-kit.md §8; docs/protocol/03-escrow-and-payments.md §4.2)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from crash_points import Countdown
from hive_advisor.advisor import Advisor
from hive_shared.cashu.journal import Op, OpKind, OpState
from hive_shared.cashu.keysets import split
from hive_shared.cashu.mints import MintStatus
from hive_shared.cashu.probe_service import AGAIN_S
from hive_shared.cashu.ticket_messages import TicketAck, TicketReject
from hive_shared.cashu.token import Token, encode_token
from hive_shared.cashu.wire import MintInfo
from kit_ecash import KitEcash
from kit_tickets import PaidKit, sats
from kit_world import run_fee
from locked_at_mint import locked, plain
from pipeline_world import Crash

pytestmark = pytest.mark.asyncio(loop_scope="module")
_KILLED_AT = (8, 26)
"""A probe has some ninety points; every one of them is tried for the plugin, which has the same engine."""
_SATS = 96


async def test_tickets_of_a_thousand_sats_pay_the_probe_that_lifts_that(
    tmp_path: Path, mint_url: str
) -> None:
    world = PaidKit(tmp_path, mint_url)
    world.probing = True
    async with world.open() as kit:
        await world.hired(kit)
        await kit.ecash.tick()
        assert await made(kit) == 0, "there is nothing to pay it with"
        await world.handed(kit, 900)
        await world.handed(kit, 101)
        assert (await run_fee(kit)).state == "done"
        await kit.tickets.tend()
        assert await sats(kit) == 900
        kit.guard._halt.path.touch()
        await kit.ecash.tick()
        assert await made(kit) == 0, "what is halted begins nothing"
        kit.guard._halt.path.unlink()
        await kit.ecash.tick()
        await kit.ecash.probes.ended()
        row = kit.ecash.book.row(mint_url)
        assert row is not None and (row.status, await made(kit)) == (MintStatus.TRUSTED, 1)
        assert 900 - 8 <= await sats(kit) < 900
        await world.handed(kit, 2_000)
        answers = await world.decided(kit)
        assert [type(each) for each in answers] == [TicketAck, TicketReject, TicketAck]
        assert isinstance(answers[1], TicketReject) and answers[1].reason == "exposure_limit"
    await world.close()


async def made(kit: Advisor) -> int:
    """How many probes the journal has."""
    return sum(op.kind is OpKind.PROBE for op in await kit.ecash.service.ops(None, None, 100))


async def test_a_probe_that_a_kill_ends_costs_its_fees_and_comes_again_after_a_while(
    tmp_path: Path, mint_url: str
) -> None:
    for at in _KILLED_AT:
        world = KitEcash(tmp_path / str(at), mint_url)
        world.now = int(time.time())
        await started(world)
        await world.ecash.tick()
        await world.service.receive(await token(world), 30)
        before = await world.sats()
        paid = fees_of(await world.ops())
        world.probing = True
        await started(world)
        countdown = Countdown(at)
        countdown.watch(world.db, "write")
        countdown.watch(world.mints.client, "swap", "restore")
        with suppress(Crash):
            await world.ecash.tick()
            await world.ecash.probes.ended()
        assert countdown.left == 0, "it ended before"
        countdown.left = -1
        await started(world)
        begun = await probes(world)
        await world.ecash.tick()
        assert not begun or await probes(world) == begun, at
        for _ in range(4):
            world.now += AGAIN_S
            await world.ecash.tick()
            await world.ecash.probes.ended()
        ops = await world.ops()
        assert not [op for op in ops if op.open] and world.alerts == [], at
        # One lock only the probe that made it could open.
        lost = before - (fees_of(ops) - paid) - await world.sats()
        assert 0 <= lost <= 2, at
        row = world.ecash.book.row(mint_url)
        assert row is not None and row.status is MintStatus.TRUSTED, at
        await world.close()


async def started(world: KitEcash) -> None:
    """The next process; the mint's clock is the test's."""
    await world.restart()
    info = world.mints.client.info

    async def at_our_time() -> MintInfo:
        return msgspec.structs.replace(await info(), time=world.now)

    world.mints.client.info = at_our_time


async def token(world: KitEcash) -> str:
    """Ecash of the mint, for whoever takes it in."""
    keyset = next(each for each in (await world.mints.keysets(world.mint_url)).values() if each.active)
    proofs = await locked(world.mints.client, keyset, plain(split(_SATS, keyset.denominations), keyset))
    return encode_token(Token(world.mint_url, tuple(proofs)))


def fees_of(ops: Sequence[Op]) -> int:
    return sum(op.fee_sats for op in ops if op.state is OpState.DONE)


async def probes(world: KitEcash) -> int:
    return sum(op.kind is OpKind.PROBE for op in await world.ops())
