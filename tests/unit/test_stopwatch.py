"""The measure of delays on a busy machine excuses no waiting of the measured process's own (0341)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import outside
import pytest
from outside import Stopwatch, stood_ready


def test_time_that_the_process_itself_waits_or_works_counts() -> None:
    watch = Stopwatch(os.getpid())
    time.sleep(0.1)
    assert watch.stop().own >= 0.095
    watch, used = Stopwatch(os.getpid()), time.thread_time()
    while time.thread_time() - used < 0.1:
        pass
    took = watch.stop()
    assert 0.095 <= took.own <= took.wall


def test_time_off_the_processor_is_taken_out_and_nothing_where_nobody_counts_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waited = iter((2.0, 2.25))
    clock = iter((10.0, 11.0))
    monkeypatch.setattr(outside, "stood_ready", lambda pid: next(waited))
    monkeypatch.setattr(outside, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    took = Stopwatch(1).stop()
    assert (took.wall, took.own) == (1.0, 0.75)
    monkeypatch.undo()
    assert stood_ready(2**30) == 0.0
