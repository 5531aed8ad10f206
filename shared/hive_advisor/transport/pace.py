"""Calls by rune at the pace a rune allows: ``rate=60`` means one in a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

# The node's clock decides, so a little more than its second.
_RUNE_REST_S: Final = 1.1


class RunePace:
    """One call at a time and place, and a rest between two."""

    def __init__(self) -> None:
        self._turns: dict[str, asyncio.Lock] = {}
        self._last: dict[str, float] = {}

    @asynccontextmanager
    async def turn(self, place: str) -> AsyncIterator[None]:
        """Wait for a turn at ``place``; the rest begins when the block ends."""
        clock = asyncio.get_running_loop().time
        async with self._turns.setdefault(place, asyncio.Lock()):
            since = clock() - self._last.get(place, float("-inf"))
            if since < _RUNE_REST_S:
                await asyncio.sleep(_RUNE_REST_S - since)
            try:
                yield
            finally:
                self._last[place] = clock()
