"""What a benchmark reports, and the table that `make bench` prints."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One measured value. ``goal`` is an upper bound unless ``at_least``; None: for information."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        held = self.value >= self.goal if self.at_least else self.value <= self.goal
        return "ok" if held else "MISS"


def percentile(samples: list[float], share: float) -> float:
    """The value below which ``share`` of the samples lie (nearest rank)."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def rss_mb(pid: int) -> float:
    """Resident memory of a process now, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"no VmRSS for process {pid}")


def cpu_ms(call: Callable[[], object], times: int) -> list[float]:
    """Processor time of this thread for each of so many calls, in milliseconds: other programs on the machine
    do not change it."""
    samples = []
    gc.collect()
    for _ in range(times):
        began = time.thread_time_ns()
        call()
        samples.append((time.thread_time_ns() - began) / 1e6)
    return samples


def cpu_s(pid: int) -> float:
    """Seconds of processor time of all living threads of a process so far, to the nanosecond."""
    spent = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end while we look.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            spent += int((task / "schedstat").read_text().split()[0])
    return spent / 1e9


def wakeups(pid: int) -> int:
    """How often a living thread of a process has gone to sleep so far, to be woken for something."""
    slept = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches:"):
                    slept += int(line.split()[1])
    return slept


def render(figures: list[Figure]) -> str:
    rows = [("figure", "value", "unit", "goal", "", "note")]
    for figure in figures:
        sign = ">=" if figure.at_least else "<="
        goal = "" if figure.goal is None else f"{sign} {figure.goal:g}"
        value = f"{figure.value:.3f}" if figure.value < 100 else f"{figure.value:,.0f}"
        rows.append((figure.name, value, figure.unit, goal, figure.verdict, figure.note))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
