"""Probes of the operator's mints: when they come, what they leave (docs/protocol/03 §4.2)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.storage.state_store import StateStore
from crash_points import Countdown
from ecash_world import EcashWorld
from hive_shared.cashu.mint_book import MintBookService
from hive_shared.cashu.mint_ports import MintSettings
from hive_shared.cashu.mints import MintStatus, Wish
from hive_shared.cashu.ports import MintUnavailable
from hive_shared.cashu.probe_service import AGAIN_S, ProbeService
from hive_shared.cashu.wire import MintInfo
from hive_shared.errors import EmergencyStop, PaymentFailed
from hive_shared.storage.families import NODE_ECASH
from hive_shared.storage.mint_store import MintStore
from pipeline_world import Crash

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Desk:
    """A wallet, the book of its mint, and the probes of both."""

    def __init__(self, world: EcashWorld) -> None:
        world.now = int(time.time())
        self.world, self.url = world, world.mint_url
        info = world.mints.client.info

        async def at_our_time() -> MintInfo:
            return msgspec.structs.replace(await info(), time=world.now)

        world.mints.client.info = at_our_time
        alerts = AlertService(world.db, StateStore(), now=lambda: world.now, log=_no_log)
        self.book = MintBookService(
            world.db,
            MintStore(NODE_ECASH),
            world.mints.reached,
            settings=lambda: MintSettings(world.mint_url, (), 3_600),
            alerts=alerts,
            now=lambda: world.now,
            log=_no_log,
        )
        self.asked = 0
        self.probes = ProbeService(
            world.db,
            world.store,
            self.book,
            world.service,
            world.prober(leisure=self.leisure, sleep=self.sleep),
            stopped=lambda: world.stopped,
            now=lambda: world.now,
            log=_no_log,
        )

    def leisure(self, url: str) -> float:
        self.asked += 1
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody else needs the mint")

    async def row(self) -> tuple[MintStatus, int]:
        row = self.book.row(self.url)
        assert row is not None
        return row.status, row.probe_at

    async def tick(self) -> None:
        """One round, to the end of the probe that it began."""
        await self.probes.tick()
        await self.probes.ended()

    async def probes_made(self) -> int:
        return sum(op.kind == "probe" for op in await self.world.ops())


def _no_log(level: str, event: str, /, **fields: object) -> None:
    pass


@pytest_asyncio.fixture(loop_scope="module")
async def desk(mint_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    world = EcashWorld(tmp_path, mint_url)
    made = Desk(world)
    await made.book.load()
    yield made
    await made.world.close()


async def test_a_mint_is_probed_when_there_are_sats_and_takes_locks_from_then_on(desk: Desk) -> None:
    world, wish = desk.world, Wish(100)
    await desk.book.tick()
    await desk.tick()
    assert await desk.row() == (MintStatus.PROBATION, 0) and await desk.probes_made() == 0
    with pytest.raises(PaymentFailed, match="not probed"):
        desk.book.for_lock(wish, world.now + 86_400, {}, 250_000)
    await world.service.fund(31, None, None, 30)
    await desk.tick()
    assert await desk.probes_made() == 0
    world.now += AGAIN_S
    await world.service.fund(20, None, None, 30)
    await desk.tick()
    assert await desk.row() == (MintStatus.TRUSTED, world.now) and await desk.probes_made() == 1
    assert desk.book.for_lock(wish, world.now + 86_400, {}, 250_000)[0] == desk.url
    # By itself it gives way to whoever needs the mint.
    assert desk.asked == 15
    world.now += AGAIN_S
    await desk.tick()
    assert await desk.probes_made() == 1
    # A month later, and after another version, again.
    world.now += 30 * 86_400
    await desk.tick()
    assert await desk.probes_made() == 2
    await desk.book.probed(desk.url, desk.book.every()[0].caps, "Nutshell/0.1")
    world.now += AGAIN_S
    await desk.tick()
    assert await desk.probes_made() == 3 and desk.book.every()[0].probed_version == "Nutshell/0.19.2"


async def test_one_that_is_asked_for_says_what_it_lacks(desk: Desk) -> None:
    world = desk.world
    with pytest.raises(PaymentFailed, match=r"needs 32 sat.*0 sat are free.*action=fund") as refused:
        await desk.probes.probe(desk.url, 30)
    assert refused.value.reason == "insufficient_ecash"
    with pytest.raises(PaymentFailed, match="none of your mints"):
        await desk.probes.probe("https://other.example", 30)
    await world.service.fund(64, None, None, 30)
    world.stopped = True
    with pytest.raises(EmergencyStop):
        await desk.probes.probe(desk.url, 30)
    await desk.tick()
    assert await desk.probes_made() == 0
    world.stopped = False
    state = await desk.probes.probe(desk.url, 30)
    assert state.result is not None and state.result.caps.tickets and desk.asked == 0
    assert await world.sats() == 64 - state.result.cost_sats


async def test_a_mint_that_hangs_is_tried_again_later(desk: Desk) -> None:
    world = desk.world
    await desk.book.tick()
    await world.service.fund(64, None, None, 30)
    swap = world.mints.client.swap

    async def silent(*_: object) -> object:
        raise MintUnavailable(desk.url, "no answer", sent=False)

    world.mints.client.swap = silent
    await desk.tick()
    assert await desk.row() == (MintStatus.PROBATION, 0) and await world.sats() == 64
    world.mints.client.swap = swap
    await desk.tick()
    assert await desk.row() == (MintStatus.PROBATION, 0)
    world.now += AGAIN_S
    await desk.tick()
    assert (await desk.row())[0] is MintStatus.TRUSTED


async def test_what_a_kill_left_locked_is_opened_by_the_next_process(desk: Desk) -> None:
    world = desk.world
    await desk.book.tick()
    await world.service.fund(64, None, None, 30)
    # The locks are made; the process ends before anything that opens them is written down.
    countdown = Countdown(0)
    countdown.watch(world.wallet, "exchange")
    with pytest.raises(Crash):
        await desk.probes.probe(desk.url, 30)
    await world.restart()
    again = Desk(world)
    await again.book.load()
    assert await world.sats() == 64 - 14 - 1
    await again.tick()
    await world.sweep()
    await world.sweep()
    assert world.alerts == [] and await world.held() == 0
    # That one cost a sat more, for the lock that only the probe itself knows how to open; the next was whole.
    assert (await again.row())[0] is MintStatus.TRUSTED
    assert await world.sats() == 64 - 5 - 4 and not [op for op in await world.ops() if op.open]
