"""Background work of a plugin: supervised loops with jitter and backoff, and the watchdog of development
mode.

docs/protocol/08-client-and-plugins.md section 2: slow work begins after ``init``, and nothing blocks the
loop.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

__all__ = ["Log", "LoopWatchdog", "Supervisor", "where_raised"]

_BACKOFF_FIRST: Final = 1.0
_BACKOFF_MAX: Final = 300.0
_BEAT: Final = 0.010


class Log(Protocol):
    """``log("warning", "relay_lost", url=...)``: one structured line."""

    def __call__(self, level: str, event: str, /, **fields: Any) -> None: ...


def where_raised(error: BaseException) -> str:
    """``file.py:line`` of the innermost frame: enough to find a defect, free of paths and of values."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown"
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"


@dataclass
class _Loop:
    name: str
    task: asyncio.Task[None] | None = None
    runs: int = 0
    failures: int = 0
    last_ok: int | None = None
    last_error: str | None = None


class Supervisor:
    """Keeps background coroutines alive on the plugin's loop: a failure is counted, logged and retried
    later."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: Log) -> None:
        self._loop = loop
        self._log = log
        self._loops: dict[str, _Loop] = {}
        self._stopping = False

    def spawn(
        self,
        name: str,
        factory: Callable[[], Awaitable[object]],
        *,
        every: float | None,
        jitter: float,
        first: float | None,
    ) -> None:
        """Start the work on the loop (from any thread); a second one of the same name replaces the first."""
        self._loop.call_soon_threadsafe(self._start, name, factory, every, jitter, first)

    def _start(
        self,
        name: str,
        factory: Callable[[], Awaitable[object]],
        every: float | None,
        jitter: float,
        first: float | None,
    ) -> None:
        if self._stopping:
            return
        old = self._loops.get(name)
        if old is not None and old.task is not None:
            old.task.cancel()
        state = _Loop(name)
        self._loops[name] = state
        state.task = self._loop.create_task(self._keep(state, factory, every, jitter, first), name=name)

    async def _keep(
        self,
        state: _Loop,
        factory: Callable[[], Awaitable[object]],
        every: float | None,
        jitter: float,
        first: float | None,
    ) -> None:
        if first:
            await asyncio.sleep(first)
        while True:
            try:
                await factory()
            except Exception as error:
                await asyncio.sleep(self._failed(state, error, every))
                continue
            if state.failures:
                self._log("info", "loop_recovered", loop=state.name, failures=state.failures)
            state.runs += 1
            state.failures = 0
            state.last_error = None
            state.last_ok = int(time.time())
            if every is None:
                return
            await asyncio.sleep(every * random.uniform(1 - jitter, 1 + jitter))

    def _failed(self, state: _Loop, error: Exception, every: float | None) -> float:
        state.failures += 1
        state.last_error = type(error).__name__
        # Powers of two only: a loop that fails all night writes a dozen lines, not thousands.
        if state.failures & (state.failures - 1) == 0:
            self._log(
                "warning",
                "loop_failed",
                loop=state.name,
                error=type(error).__name__,
                where=where_raised(error),
                failures=state.failures,
            )
        delay: float = min(_BACKOFF_FIRST * 2.0 ** min(state.failures - 1, 10), _BACKOFF_MAX)
        return max(delay, every or 0.0) * random.uniform(0.9, 1.1)

    def status(self) -> list[dict[str, Any]]:
        """One row per loop: name, running, runs, consecutive failures, last success (unix seconds), last
        error."""
        return [
            {
                "name": s.name,
                "running": s.task is not None and not s.task.done(),
                "runs": s.runs,
                "failures": s.failures,
                "last_ok": s.last_ok,
                "last_error": s.last_error,
            }
            for s in self._loops.values()
        ]

    async def stop(self) -> None:
        """Cancel everything and wait until it has ended. Called on the loop."""
        self._stopping = True
        tasks = [s.task for s in self._loops.values() if s.task is not None and not s.task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class LoopWatchdog:
    """Development aid (HIVE_DEV_WATCHDOG=1): logs ``loop_stall`` when a callback holds the loop for ``limit``
    s.

    A thread samples the loop thread while the heartbeat is overdue, so the line names the place. A loop that
    is merely waiting in its selector on a busy machine is not a stall.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, log: Log, *, limit: float = 0.050) -> None:
        self._loop = loop
        self._log = log
        self._limit = limit
        self._last = time.monotonic()
        self._loop_thread = 0
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin watching; called on the loop's own thread."""
        self._loop_thread = threading.get_ident()
        self._beat()
        threading.Thread(target=self._watch, name="hive-watchdog", daemon=True).start()

    def stop(self) -> None:
        """End the watching thread."""
        self._ended.set()

    def _beat(self) -> None:
        self._last = time.monotonic()
        if not self._ended.is_set():
            self._loop.call_later(_BEAT, self._beat)

    def _watch(self) -> None:
        stalled_at = ""
        seen = 0.0
        while not self._ended.wait(_BEAT):
            late = time.monotonic() - self._last
            if late >= self._limit:
                stalled_at = stalled_at or self._place()
                seen = max(seen, late)
            elif stalled_at:
                if stalled_at != "selector":
                    self._log("warning", "loop_stall", ms=int(seen * 1000), at=stalled_at)
                stalled_at, seen = "", 0.0

    def _place(self) -> str:
        frame = sys._current_frames().get(self._loop_thread)
        if frame is None or os.path.basename(frame.f_code.co_filename) == "selectors.py":
            return "selector"
        return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_code.co_name}:{frame.f_lineno}"
