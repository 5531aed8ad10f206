"""The measure of delays on a busy machine excuses no waiting of the measured process's own (0341)."""

from __future__ import annotations

import os
from pathlib import Path

import outside
import pytest
from outside import Stopwatch, age, parent, stood_ready


class Clock:
    """A clock by which nothing happens unless told."""

    def __init__(self) -> None:
        self.now = 10.0

    def monotonic(self) -> float:
        return self.now


def test_what_the_process_itself_waits_or_works_counts_and_time_off_the_processor_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, waited = Clock(), [2.0]
    monkeypatch.setattr(outside, "time", clock)
    monkeypatch.setattr(outside, "stood_ready", lambda pid: waited[-1])
    watch = Stopwatch(1)
    clock.now += 1.0
    took = watch.stop()
    assert (took.wall, took.own) == (1.0, 1.0)
    waited.append(2.25)
    took = watch.stop()
    assert (took.wall, took.own) == (1.0, 0.75)
    waited.append(4.0)
    assert watch.stop().own == 0.0
    between = {1: 0.0, 2: 0.0, 3: 0.0}
    monkeypatch.setattr(outside, "stood_ready", between.__getitem__)
    watch = Stopwatch(1, 2, 3)
    clock.now += 1.0
    between.update({1: 0.25, 2: 0.125, 3: 0.5})
    assert watch.stop().own == 0.125


def test_what_stood_ready_is_read_from_the_kernels_count() -> None:
    before = stood_ready(os.getpid())
    kept = Path(f"/proc/{os.getpid()}/schedstat").read_text().split()
    assert 0.0 <= before <= int(kept[1]) / 1e9 <= stood_ready(os.getpid())
    # Nothing where nobody counts it.
    assert stood_ready(2**30) == 0.0


def test_the_age_of_a_process_grows_and_an_older_one_is_older() -> None:
    assert parent(os.getpid()) == os.getppid()
    first = age(os.getpid())
    assert 0.0 <= first <= age(os.getpid())
    assert age(os.getppid()) >= first
