"""The agent process: rounds until a signal ends them (docs/protocol/11-advisor-kit.md §3)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from hive_advisor.advisor import Advisor
    from hive_advisor.cli.context import Settings

DRAIN_S: Final = 5
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Ending:
    """The first SIGTERM or SIGINT asks to end; the second ends the process at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for signum in _SIGNALS:
            self._loop.add_signal_handler(signum, self._ask)

    def _ask(self) -> None:
        self.asked.set()
        for signum in _SIGNALS:
            self._loop.remove_signal_handler(signum)
            # Every commit is whole: dying now leaves what a kill leaves.
            signal.signal(signum, signal.SIG_DFL)


@asynccontextmanager
async def leaving(ending: Ending, settings: Settings) -> AsyncIterator[None]:
    """From the signal on, what other processes sent has the same five seconds, not five more."""

    async def body() -> None:
        await ending.asked.wait()
        if settings.listening is not None:
            await settings.listening.stop()

    task = asyncio.create_task(body())
    try:
        yield
    finally:
        if not ending.asked.is_set():
            task.cancel()
        await asyncio.wait([task])


async def once(kit: Advisor, ending: Ending) -> dict[str, Any]:
    """Fetch, act, flush. What it did."""

    async def body() -> dict[str, Any]:
        summary = await kit.pump()
        taken = await kit.hooks.deliver()
        await kit.flush(DRAIN_S)
        return summary if not taken else {**summary, "hook_took": taken}

    return await _drained(kit, ending, body) or {}


async def rounds(kit: Advisor, ending: Ending, interval_s: int) -> dict[str, Any]:
    """Round after round until it is asked to end; what is under way then has five seconds. Last summary."""
    last: dict[str, Any] = {}

    async def body() -> dict[str, Any]:
        while not ending.asked.is_set():
            last.update(await kit.pump())
            with suppress(TimeoutError):
                await asyncio.wait_for(ending.asked.wait(), interval_s)
        return last

    kit.ecash.probing = True
    hooks = asyncio.create_task(kit.hooks.work())
    try:
        await _drained(kit, ending, body)
    finally:
        hooks.cancel()
        await asyncio.wait([hooks])
    return last


async def _drained(
    kit: Advisor, ending: Ending, body: Callable[[], Coroutine[Any, Any, dict[str, Any]]]
) -> dict[str, Any] | None:
    """Run `body`; from the signal on it, and answers that are on their way, have five seconds together."""
    clock = asyncio.get_running_loop().time
    work: asyncio.Task[Any] = asyncio.create_task(body())
    asked: asyncio.Task[Any] = asyncio.create_task(ending.asked.wait())
    try:
        await asyncio.wait([work, asked], return_when=asyncio.FIRST_COMPLETED)
        if ending.asked.is_set():
            end = clock() + DRAIN_S
            await asyncio.wait([work], timeout=DRAIN_S)
            await kit.commands.answered(end - clock())
            await kit.flush(max(0.0, end - clock()))
        done: dict[str, Any] | None = await work if work.done() else None
        return done
    finally:
        for task in (work, asked):
            task.cancel()
        await asyncio.wait([work, asked])
