"""What is sent to one mint at a time, in which order, and when nothing is (docs/protocol/03 §4.2)."""

from __future__ import annotations

import asyncio

import pytest
from hive_shared.cashu.ports import MintUnavailable, request_seconds
from hive_shared.mint_lane import MintLane


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def _lane(clock: Clock, everywhere: asyncio.Semaphore | None = None) -> MintLane:
    return MintLane(
        "https://mint.example",
        everywhere or asyncio.Semaphore(8),
        monotonic=clock.monotonic,
        sleep=clock.sleep,
    )


async def _send(lane: MintLane, *, money: bool = False) -> None:
    async with lane.turn(money=money):
        lane.answered()


def test_the_time_a_mint_is_given_grows_with_the_request() -> None:
    assert [request_seconds(count) for count in (0, 1, 1000, 5000)] == [10.0, 10.01, 20.0, 60.0]


async def test_twenty_money_calls_a_minute_then_the_budget_is_waited_for_or_refused() -> None:
    clock = Clock()
    lane = _lane(clock)
    for _ in range(20):
        await _send(lane, money=True)
    with pytest.raises(MintUnavailable, match="20 money calls were sent in a minute") as caught:
        await _send(lane, money=True)
    assert (caught.value.sent, caught.value.retry_after_s) == (False, 60.0)
    assert caught.value.data == {"retry_after": 60, "reason": "mint_unavailable"}
    assert str(caught.value).endswith("20 money calls were sent in a minute; try again in 60 s")
    assert caught.value.lasting.endswith("20 money calls were sent in a minute")
    assert (lane.traffic.money_in_s, lane.traffic.held_for_s) == (60.0, 0.0)
    await _send(lane)  # reading is not held up by it
    clock.now = 31
    await _send(lane, money=True)
    assert clock.slept == [29.0] and clock.now == 60.0


async def test_what_nobody_waits_for_leaves_half_of_the_money_calls_to_the_others() -> None:
    clock = Clock()
    lane = _lane(clock)
    for second in range(10):
        assert lane.traffic.leisure_in_s == 0.0
        clock.now = float(second)
        await _send(lane, money=True)
    assert lane.traffic.leisure_in_s == 51.0
    # The others are not kept waiting, and what they send is waited for too.
    for _ in range(10):
        await _send(lane, money=True)
    assert clock.slept == [] and lane.traffic.leisure_in_s == 60.0
    clock.now = 69.0
    assert lane.traffic.leisure_in_s == 0.0


async def test_sixty_requests_a_minute() -> None:
    clock = Clock()
    lane = _lane(clock)
    for _ in range(60):
        await _send(lane)
    with pytest.raises(MintUnavailable, match="60 requests were sent in a minute"):
        await _send(lane)
    assert (lane.traffic.requests, lane.traffic.money_calls) == (60, 0)
    clock.now = 60
    await _send(lane)


async def test_money_calls_go_one_by_one_in_order_while_reading_passes() -> None:
    lane = _lane(Clock())
    order: list[str] = []
    go = {name: asyncio.Event() for name in "abr"}

    async def call(name: str, money: bool) -> None:
        async with lane.turn(money=money):
            order.append(name)
            await go[name].wait()
            lane.answered()

    tasks = [
        asyncio.create_task(call(name, money)) for name, money in (("a", True), ("b", True), ("r", False))
    ]
    while len(order) < 2:
        await asyncio.sleep(0)
    assert order == ["a", "r"]
    go["a"].set()
    while len(order) < 3:
        await asyncio.sleep(0)
    assert order == ["a", "r", "b"]
    for event in go.values():
        event.set()
    await asyncio.gather(*tasks)


async def test_two_at_once_per_mint_and_the_common_bound_over_all() -> None:
    clock = Clock()
    everywhere = asyncio.Semaphore(3)
    lanes = [_lane(clock, everywhere), _lane(clock, everywhere)]
    running: list[int] = []
    go = asyncio.Event()

    async def call(which: int) -> None:
        async with lanes[which].turn(money=False):
            running.append(which)
            await go.wait()

    tasks = [asyncio.create_task(call(which)) for which in (0, 0, 0, 1, 1)]
    for _ in range(50):
        await asyncio.sleep(0)
    assert sorted(running) == [0, 0, 1]
    go.set()
    await asyncio.gather(*tasks)
    assert sorted(running) == [0, 0, 0, 1, 1]


async def test_a_call_that_gets_no_turn_ends_unsent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hive_shared.mint_lane.QUEUE_SECONDS", 0.05)
    lane = _lane(Clock())
    async with lane.turn(money=True):
        with pytest.raises(MintUnavailable, match=r"no turn within 0\.05 seconds") as caught:
            await _send(lane, money=True)
    assert not caught.value.sent


async def test_an_outcome_nobody_saw_counts_neither_way() -> None:
    lane = _lane(Clock())
    for _ in range(4):
        async with lane.turn(money=False):
            lane.failed()
    async with lane.turn(money=False):
        pass
    assert lane.traffic.breaker == "closed"
    async with lane.turn(money=False):
        lane.failed()
    assert lane.traffic.breaker == "open"


async def test_a_retry_after_of_a_day_is_not_obeyed_for_a_day() -> None:
    clock = Clock()
    lane = _lane(clock)
    async with lane.turn(money=False):
        lane.failed(86_400.0)
    assert lane.traffic.held_for_s == 3_600.0


async def test_what_fails_meanwhile_does_not_shorten_a_retry_after() -> None:
    clock = Clock()
    lane = _lane(clock)
    for wait, held in ((90.0, 90.0), (5.0, 90.0), (0.0, 90.0), (120.0, 120.0)):
        lane.failed(wait)
        assert lane.traffic.held_for_s == held
