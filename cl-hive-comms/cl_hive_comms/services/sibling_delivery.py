"""Hands messages and events to siblings: in order per sender, retried while they are busy, held while they
are away (docs/protocol/08-client-and-plugins.md §3.4, §1.2 "hive lost").

At least once: a sibling that did not answer in time may have taken it, and gets it again under the same id.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from hive_shared.errors import Busy, HiveError, SiblingUnavailable

from ..domain.sibling_names import Owner
from ..domain.sibling_routes import HELD_S
from .outbound_ways import SiblingCall
from .ports_commands import Log

MAX_HELD: Final = 2_000
"""Messages waiting for one sibling."""
MAX_STRANGERS: Final = 200
"""Of these, messages of senders that it has not accepted anything from yet."""
WORKERS: Final = 4
BUSY_RETRIES_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
CALL_TIMEOUT_S: Final = 30.0
_LOOK_AGAIN_S: Final = 5.0

Outcome = Literal["delivered", "refused", "dropped"]
Done = Callable[[Outcome], None]


class Parcel(msgspec.Struct, frozen=True):
    """One call to make. `method` gives the method at the time of the try, None while nobody serves it.

    `lane`: what has the same one is delivered in the order it came. `needs_queued`: only the answer
    {result: queued} means that it was taken. Once `ended` nobody wants it any more. `done` is told how it
    ended; it must return at once.
    """

    owner: Owner
    lane: str
    method: Callable[[], str | None]
    params: Mapping[str, Any]
    done: Done
    needs_queued: bool = True
    stranger: bool = False
    ended: Callable[[], bool] = lambda: False


@dataclass(slots=True)
class _Waiting:
    parcel: Parcel
    since: float


class SiblingDelivery:
    """Delivers parcels in the background. `present` says whether a sibling is there."""

    def __init__(
        self,
        call: SiblingCall,
        *,
        present: Callable[[Owner], bool],
        log: Log,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._call, self._present, self._log = call, present, log
        self._monotonic, self._sleep = monotonic, sleep
        self._lanes: dict[tuple[Owner, str], deque[_Waiting]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: Counter[Owner] = Counter()
        self._strangers: Counter[Owner] = Counter()
        self._workers: dict[Owner, asyncio.Semaphore] = {
            "archon": asyncio.Semaphore(WORKERS),
            "hive": asyncio.Semaphore(WORKERS),
        }
        self._changed = asyncio.Event()
        self.counters: Counter[str] = Counter()
        """What happened to parcels; for hive-comms-transports."""

    def put(self, parcel: Parcel) -> bool:
        """Take a parcel; False when too many wait for that sibling, then `done` is not called."""
        owner = parcel.owner
        if self._held[owner] >= MAX_HELD or (parcel.stranger and self._strangers[owner] >= MAX_STRANGERS):
            self.counters["dropped_full"] += 1
            return False
        self._held[owner] += 1
        self._strangers[owner] += parcel.stranger
        key = (owner, parcel.lane)
        waiting = _Waiting(parcel, self._monotonic())
        if key in self._lanes:
            self._lanes[key].append(waiting)
            return True
        self._lanes[key] = deque([waiting])
        task = asyncio.create_task(self._run(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def waiting(self, owner: Owner) -> int:
        """How many parcels wait for a sibling."""
        return self._held[owner]

    def wake(self) -> None:
        """A sibling came or registered something: look again now."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def stop(self) -> None:
        """Give up waiting; what was not delivered comes again from where it is kept."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- inside --------------------------------------------------------------------------------------

    async def _run(self, key: tuple[Owner, str]) -> None:
        lane = self._lanes[key]
        try:
            while lane:
                parcel = lane[0].parcel
                outcome = await self._deliver(lane[0])
                lane.popleft()
                self._held[parcel.owner] -= 1
                self._strangers[parcel.owner] -= parcel.stranger
                self.counters[outcome] += 1
                parcel.done(outcome)
        finally:
            del self._lanes[key]

    async def _deliver(self, waiting: _Waiting) -> Outcome:
        parcel, busy = waiting.parcel, 0
        while True:
            left = waiting.since + HELD_S - self._monotonic()
            if left <= 0:
                self._log("warning", "held_message_dropped", sibling=parcel.owner, after_s=HELD_S)
                return "dropped"
            if parcel.ended():
                return "dropped"
            method = parcel.method()
            if method is None or not self._present(parcel.owner):
                await self._pause(min(left, _LOOK_AGAIN_S))
                continue
            try:
                async with self._workers[parcel.owner]:
                    answer = await self._call(
                        parcel.owner, method, dict(parcel.params), timeout=CALL_TIMEOUT_S
                    )
            except SiblingUnavailable as error:
                after = error.data.get("retry_after")
                await self._pause(min(left, after if isinstance(after, int) else _LOOK_AGAIN_S))
                continue
            except Busy:
                if busy == len(BUSY_RETRIES_S):
                    self._log("warning", "busy_sibling_dropped_message", sibling=parcel.owner, method=method)
                    return "dropped"
                self.counters["busy"] += 1
                await self._sleep(BUSY_RETRIES_S[busy])
                busy += 1
                continue
            except HiveError as error:
                self._log("info", "sibling_refused_message", method=method, why=error.symbol)
                return "refused"
            if parcel.needs_queued and answer.get("result") != "queued":
                self._log("warning", "sibling_answered_otherwise", method=method, expected="result queued")
                return "refused"
            return "delivered"

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass
