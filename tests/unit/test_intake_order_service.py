"""Order of one agent's commands: the 500 ms window (docs/protocol/02-fleet-management.md §6.5)."""

from __future__ import annotations

import asyncio

from cl_hive_comms.services.intake_order import IntakeOrder

AGENT = "aa" * 32
CLOCK_NONCE = 1_770_000_000_000_000


class Scene:
    """An agent whose nonces burn into a list; the clock moves by hand, waits are as short as given."""

    def __init__(self, last: int = 0, window_ms: int = 500) -> None:
        self.ms = 1_000_000
        self.last = last
        self.burned: list[int] = []
        self.late: list[int] = []
        self.order = IntakeOrder(self._read, lambda: self.ms, window_ms=window_ms)

    async def _read(self, _key: str) -> int:
        return self.last

    async def arrive(self, nonce: int) -> None:
        async with self.order.turn(AGENT, nonce) as turn:
            if nonce <= turn.floor or nonce in self.burned:
                self.late.append(nonce)
                return
            self.burned.append(nonce)
            self.order.burned(AGENT, nonce, turn)


async def test_a_command_without_a_gap_does_not_wait() -> None:
    scene = Scene(last=4, window_ms=60_000)
    async with asyncio.timeout(30):
        for nonce in (5, 6, CLOCK_NONCE, CLOCK_NONCE + 250_000):
            await scene.arrive(nonce)
    assert scene.burned == [5, 6, CLOCK_NONCE, CLOCK_NONCE + 250_000]


async def test_a_first_clock_nonce_does_not_wait() -> None:
    scene = Scene(window_ms=60_000)
    async with asyncio.timeout(30):
        await scene.arrive(CLOCK_NONCE)
    assert scene.burned == [CLOCK_NONCE]


async def test_acceptance_02_02_nonces_6_and_5_run_in_order() -> None:
    scene = Scene(last=4, window_ms=60_000)
    sixth = asyncio.create_task(scene.arrive(6))
    await asyncio.sleep(0)
    scene.ms += 200
    async with asyncio.timeout(30):
        await scene.arrive(5)
        await sixth
    assert scene.burned == [5, 6]


async def test_a_whole_reversed_burst_runs_in_order() -> None:
    scene = Scene(last=0, window_ms=60_000)
    tasks = [asyncio.create_task(scene.arrive(nonce)) for nonce in (5, 4, 3, 2)]
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await scene.arrive(1)
        await asyncio.gather(*tasks)
    assert scene.burned == [1, 2, 3, 4, 5]


async def test_a_gap_that_nobody_fills_holds_a_command_only_for_the_window() -> None:
    scene = Scene(last=4, window_ms=30)
    await scene.arrive(6)
    assert scene.burned == [6]


async def test_acceptance_02_02_a_lower_nonce_is_too_late_a_second_after() -> None:
    scene = Scene(last=4, window_ms=30)
    await scene.arrive(6)
    scene.ms += 1_000
    await scene.arrive(5)
    assert (scene.burned, scene.late) == ([6], [5])


async def test_swapped_clock_nonces_both_run_inside_the_window() -> None:
    scene = Scene(last=CLOCK_NONCE)
    await scene.arrive(CLOCK_NONCE + 200_000)
    scene.ms += 200
    await scene.arrive(CLOCK_NONCE + 100_000)
    await scene.arrive(CLOCK_NONCE - 1)
    scene.ms += 400
    await scene.arrive(CLOCK_NONCE + 150_000)
    assert scene.burned == [CLOCK_NONCE + 200_000, CLOCK_NONCE + 100_000]
    assert scene.late == [CLOCK_NONCE - 1, CLOCK_NONCE + 150_000]


async def test_after_a_restart_the_rule_is_strict() -> None:
    scene = Scene(last=CLOCK_NONCE)
    await scene.arrive(CLOCK_NONCE - 100_000)
    assert scene.late == [CLOCK_NONCE - 100_000]


async def test_agents_do_not_wait_for_each_other() -> None:
    scene = Scene(last=4, window_ms=60_000)
    held = asyncio.create_task(scene.arrive(6))
    await asyncio.sleep(0)
    async with asyncio.timeout(30), scene.order.turn("bb" * 32, 5) as turn:
        assert turn.floor == 4
    held.cancel()
