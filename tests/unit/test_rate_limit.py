"""Sliding windows: limits, ageing, bounded memory (02 §7.5)."""

from __future__ import annotations

from hive_shared.rate_limit import SlidingWindows
from hypothesis import given
from hypothesis import strategies as st


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_acceptance_02_17_the_61st_command_of_a_minute_is_refused() -> None:
    clock = Clock()
    windows = SlidingWindows(clock)
    assert all(windows.allow("commands", "alice", 60) for _ in range(60))
    assert not windows.allow("commands", "alice", 60)
    assert windows.allow("commands", "bob", 60)
    assert windows.allow("dangerous", "alice", 5)


def test_uses_age_out_one_by_one_and_refused_ones_do_not_count() -> None:
    clock = Clock()
    windows = SlidingWindows(clock)
    for _ in range(3):
        assert windows.allow("w", "k", 3)
        clock.now += 10
    for _ in range(50):
        assert not windows.allow("w", "k", 3)
    assert windows.retry_after("w", "k", 3) == 30
    clock.now += 29.5
    assert not windows.allow("w", "k", 3) and windows.retry_after("w", "k", 3) == 1
    clock.now += 0.5
    assert windows.allow("w", "k", 3)
    assert not windows.allow("w", "k", 3)


def test_memory_is_bounded_and_the_least_recently_used_key_goes_first() -> None:
    windows = SlidingWindows(Clock(), max_keys=100)
    windows.allow("w", "kept", 2)
    for number in range(1_000):
        windows.allow("w", f"stranger{number}", 2)
        assert number % 50 or windows.allow("w", "kept", 10**6)
    assert len(windows) == 100
    assert windows.retry_after("w", "kept", 1) > 0


def test_a_limit_of_zero_allows_nothing() -> None:
    windows = SlidingWindows(Clock())
    assert not windows.allow("w", "k", 0)
    assert len(windows) == 0


def test_a_clock_that_goes_back_locks_nobody_out() -> None:
    clock = Clock()
    windows = SlidingWindows(clock)
    assert windows.allow("w", "k", 1)
    clock.now -= 500
    assert windows.allow("w", "k", 1)


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 5))
def test_no_window_ever_holds_more_than_the_limit(steps: list[int], limit: int) -> None:
    clock = Clock()
    windows = SlidingWindows(clock)
    accepted: list[float] = []
    for step in steps:
        clock.now += step
        wait = windows.retry_after("w", "k", limit)
        allowed = windows.allow("w", "k", limit)
        assert allowed == (wait == 0)
        if allowed:
            accepted.append(clock.now)
        assert sum(clock.now - 60 < at <= clock.now for at in accepted) <= limit
