"""The order of one agent's commands (docs/protocol/02-fleet-management.md §6.5: 500 ms window per agent;
docs/decisions/0070-reorder-window-without-a-constant-wait.md).

Relays reorder. A command whose nonce shows a small gap waits up to 500 ms for the missing ones, so that
counting agents run in nonce order. Agents that use microsecond clocks as nonces always show a gap; theirs
run at once, and a lower nonce that arrives within 500 ms of a higher one is still taken.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

WINDOW_MS: Final = 500
COUNTING_GAP: Final = 1_000
"""A larger distance to the last nonce is a clock, not a missing command."""
_MAX_LANES: Final = 10_000
_MAX_WAITING: Final = 64
"""Held commands per agent; beyond, a command is not held: the rate limit allows 60 a minute."""


class Turn(NamedTuple):
    """A sender's turn: nonces at or below `floor` come too late; `arrived_ms` is when the command came."""

    floor: int
    arrived_ms: int


@dataclass(slots=True)
class _Lane:
    last: int
    burning: asyncio.Lock = field(default_factory=asyncio.Lock)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: dict[int, asyncio.Event] = field(default_factory=dict)
    # (arrival in ms, last nonce before it): what the lower bound was while the window is open.
    marks: deque[tuple[int, int]] = field(default_factory=deque)
    users: int = 0


class IntakeOrder:
    """Gives each agent's commands their turn. `last_nonce` reads the stored highest nonce of a key."""

    def __init__(
        self,
        last_nonce: Callable[[str], Awaitable[int]],
        now_ms: Callable[[], int],
        *,
        window_ms: int = WINDOW_MS,
    ) -> None:
        self._last_nonce = last_nonce
        self._now_ms = now_ms
        self._window_ms = window_ms
        self._lanes: OrderedDict[str, _Lane] = OrderedDict()

    @asynccontextmanager
    async def turn(self, sender_key: str, nonce: int) -> AsyncIterator[Turn]:
        """Hold the sender's turn to burn `nonce`. The caller burns inside the block and reports success
        with `burned`."""
        arrived = self._now_ms()
        lane = await self._lane(sender_key)
        lane.users += 1
        try:
            await self._wait_for_gap(lane, nonce, arrived)
            async with lane.burning:
                yield Turn(self._floor(lane, arrived), arrived)
        finally:
            lane.users -= 1

    def burned(self, sender_key: str, nonce: int, turn: Turn) -> None:
        """Note a burned nonce: later ones move up."""
        lane = self._lanes[sender_key]
        if nonce > lane.last:
            lane.marks.append((turn.arrived_ms, lane.last))
            lane.last = nonce
        if event := lane.waiting.get(lane.last + 1):
            event.set()

    def writing(self, sender_key: str) -> asyncio.Lock:
        """The lock that runs one agent's writes one after the other, in the order of their turns."""
        return self._lanes[sender_key].writing

    async def _lane(self, sender_key: str) -> _Lane:
        lane = self._lanes.get(sender_key)
        if lane is None:
            last = await self._last_nonce(sender_key)
            lane = self._lanes.setdefault(sender_key, _Lane(last))
            self._trim()
        self._lanes.move_to_end(sender_key)
        return lane

    def _trim(self) -> None:
        for key in list(self._lanes)[: max(0, len(self._lanes) - _MAX_LANES)]:
            lane = self._lanes[key]
            if not lane.users and not lane.writing.locked():
                del self._lanes[key]

    async def _wait_for_gap(self, lane: _Lane, nonce: int, arrived: int) -> None:
        missing = nonce - lane.last - 1
        if not 0 < missing <= COUNTING_GAP or nonce in lane.waiting or len(lane.waiting) >= _MAX_WAITING:
            return
        event = lane.waiting[nonce] = asyncio.Event()
        try:
            left = (arrived + self._window_ms - self._now_ms()) / 1000
            await asyncio.wait_for(event.wait(), max(left, 0))
        except TimeoutError:
            pass
        finally:
            del lane.waiting[nonce]

    def _floor(self, lane: _Lane, arrived: int) -> int:
        # Also marks from the future: a clock that was set back must not hold the door open.
        while lane.marks and not arrived - self._window_ms < lane.marks[0][0] <= arrived + self._window_ms:
            lane.marks.popleft()
        return lane.marks[0][1] if lane.marks else lane.last
