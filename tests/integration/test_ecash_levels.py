"""The wallet refills and empties itself inside the operator's options and limits
(docs/protocol/03-escrow-and-payments.md §4.2, §5)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from cl_hive_comms.domain.payment import BOLT11, INTERNAL, OUT, REPLENISH, Payment, Target
from cl_hive_comms.domain.payment_machine import Event, State
from cl_hive_comms.services.ecash_levels import APART_S, EcashLevels, Levels
from cl_hive_comms.services.wallet_funding import REPLENISH_KEY
from cl_hive_comms.storage.payment_store import PaymentStore
from hive_shared.alerts import Level
from hive_shared.cashu.ports import MintUnavailable
from hive_shared.cashu.settling import Paid
from hive_shared.cashu.wire import QuoteState
from hive_shared.crypto import Sealer, Secret
from lock_world import LockWorld
from msgspec.structs import replace

pytestmark = pytest.mark.asyncio(loop_scope="module")
OPTIONS = Levels(refill=True, refill_below=1_000, refill_by=5_000, melt_above=0, most=50_000)


class Desk:
    """A wallet with its levels; `options` are the operator's."""

    def __init__(self, world: LockWorld) -> None:
        self.world, self.options, self.healthy = world, OPTIONS, True
        self.levels = EcashLevels(
            world.db,
            world.store,
            world.service,
            world.mints,
            world.limits,
            levels=lambda: self.options,
            fit=lambda _url: self.healthy,
            stopped=lambda: world.stopped,
            alert=world._alert,
            now=lambda: world.now,
            random_bytes=os.urandom,
            log=lambda *_, **__: None,
        )

    async def later(self, seconds: int = APART_S) -> int:
        """One round so much later; what is free then."""
        self.world.now += seconds
        await self.levels.tick()
        return await self.world.sats()

    async def refills(self) -> list[str]:
        ops = await self.world.ops()
        return [op.state.value for op in ops if op.idempotency_key.startswith(REPLENISH_KEY)]


@pytest_asyncio.fixture(loop_scope="module")
async def desk(mint_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    world = LockWorld(tmp_path, mint_url)
    yield Desk(world)
    await world.close()


async def test_a_wallet_that_runs_low_is_refilled_ten_minutes_apart(desk: Desk) -> None:
    world = desk.world
    desk.healthy = False
    assert await desk.later() == 0
    desk.healthy, world.stopped = True, True
    assert await desk.later() == 0
    world.stopped = False
    assert await desk.later() == 5_000
    assert await desk.later() == 5_000
    await world.service.send(4_200, None, None, None, 30)
    assert await desk.later(APART_S) > 5_000
    await world.service.send(5_000, None, None, None, 30)
    left = await desk.later(APART_S - 1)
    assert left < 1_000 and len(await desk.refills()) == 2
    assert await desk.later(1) == left + 5_000
    desk.options = replace(OPTIONS, refill=False, refill_below=9_000)
    assert await desk.later() == left + 5_000


async def test_a_refill_fits_into_what_the_limits_and_the_mint_leave(desk: Desk) -> None:
    world = desk.world
    world.limits_now = replace(world.limits_now, daily=3_000)
    # The highest fee of a payment of 5,000 sat is 50 sat.
    assert await desk.later() == 2_950 and desk.options.refill_by == 5_000
    world.limits_now = replace(world.limits_now, daily=0)
    desk.options = replace(OPTIONS, refill_below=4_000)
    assert await desk.later() == 2_950
    world.limits_now = replace(world.limits_now, daily=50_000)
    desk.options = replace(OPTIONS, refill_below=4_000, most=3_500)
    assert await desk.later() == 3_500


async def test_while_a_refill_is_under_way_the_limits_count_it_and_then_no_more(desk: Desk) -> None:
    world, rows = desk.world, PaymentStore(Sealer({1: Secret(b"k" * 32)}, 1))
    before = await world.db.read(world.limits.left)
    row = Payment(
        *("p1", "wallet:x", "00" * 32, None, INTERNAL, BOLT11, REPLENISH, OUT, 5_000_000, 50_000),
        *(State.RESERVED, Target("lnbcrt1"), "hive:p1", world.now, world.now),
        counted_sats=5_050,
        payment_hash="ab" * 32,
    )

    def begin(tx: Any) -> None:
        world.limits.take(tx, row)
        rows.insert(tx, row)

    await world.db.write(begin)
    assert await world.db.read(world.limits.left) == before - 5_050
    await world.db.write(lambda tx: rows.move(tx, row, Event.ON_REFUSED, world.now))
    assert await world.db.read(world.limits.left) == before


async def test_three_failures_end_refilling_until_a_fund_succeeds(desk: Desk) -> None:
    world = desk.world
    quote, state = world.mints.client.mint_quote, world.mints.client.mint_quote_state

    async def silent(*_: object, **__: object) -> object:
        raise MintUnavailable(world.mint_url, "no answer", sent=False)

    async def unpaid(quote_id: str) -> object:
        return msgspec.structs.replace(await state(quote_id), state=QuoteState.UNPAID, paid=None)

    # Twice the mint gives no quote, once the payment fails.
    world.mints.client.mint_quote = silent
    assert [await desk.later(), await desk.later()] == [0, 0] and await world.ops() == []
    world.mints.client.mint_quote = quote
    world.mints.client.mint_quote_state = unpaid
    world.payer.end = Paid.FAILED
    assert await desk.later() == 0 and await desk.refills() == ["failed"]
    world.mints.client.mint_quote_state = state
    world.payer.end = None
    assert [await desk.later(), await desk.later()] == [0, 0] and await desk.refills() == ["failed"]
    ((level, code, text),) = world.alerts
    assert (level, code) == (Level.CRITICAL, "wallet_refill") and "action=fund" in text
    await world.service.fund(100, None, None, 30)
    assert await desk.later() == 5_100 and len(world.alerts) == 1


async def test_what_is_above_the_threshold_or_the_most_goes_home(desk: Desk) -> None:
    world = desk.world
    await world.service.fund(9_000, None, None, 30)
    assert await desk.later() == 9_000
    # A refill brings up to 6,000: what it brings is not taken home again.
    desk.options = replace(OPTIONS, melt_above=2_000)
    assert 5_900 <= await desk.later() <= 6_000
    desk.options = replace(OPTIONS, refill=False, melt_above=2_000)
    assert 1_900 <= await desk.later() <= 2_000
    desk.options = replace(OPTIONS, refill=False, most=1_000)
    assert await desk.later(APART_S - 1) > 1_500
    assert 900 <= await desk.later(1) <= 1_000
    assert [op.kind for op in await world.ops() if op.idempotency_key.startswith("automelt:")] == ["melt"] * 3


async def test_what_is_kept_at_a_mint() -> None:
    assert OPTIONS.kept(primary=True) == 50_000
    low = replace(OPTIONS, melt_above=500)
    assert (low.kept(primary=True), low.kept(primary=False)) == (6_000, 500)
    assert replace(low, refill=False).kept(primary=True) == 500
    assert replace(low, most=400).kept(primary=True) == 400
