"""A bell: whoever waits for it wakes when it rings."""

from __future__ import annotations

import asyncio


class Bell:
    """Wakes all waiters at each ring; a ring with nobody waiting is lost."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wakes everyone who waits now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Returns at the next ring."""
        await self._event.wait()
