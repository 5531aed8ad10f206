"""Takes the parts of long messages and asks, once, for those that do not come (Protocol 04 §6 "Larger")."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from hive_shared.nostr.chunks import RESEND_AFTER_SECONDS, ChunkBuffer, Completed, Missing

Ask = Callable[[Missing], Awaitable[bool]]
"""Sends a request for lost parts to their sender; False, or an exception, when it did not get out."""
Forgotten = Callable[[str, str], None]
"""`forgotten(sender, id)`: a message was dropped before it was whole."""


def _nobody(_sender: str, _chunk_id: str) -> None:
    return None


class LongMessages:
    """Unfinished messages of all peers. A task watches over them while there are any, and ends with the last.

    `now` gives Unix seconds, `pause` waits for so many.
    """

    def __init__(
        self,
        ask: Ask,
        *,
        now: Callable[[], int],
        forgotten: Forgotten = _nobody,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ask, self._now, self._pause = ask, now, pause
        self._buffer = ChunkBuffer(forgotten=forgotten)
        self._watching: asyncio.Task[None] | None = None
        self._asking = False
        self._stopped = False

    @property
    def held_bytes(self) -> int:
        """Bytes of unfinished messages."""
        return self._buffer.total_bytes

    @property
    def idle(self) -> bool:
        """Whether nothing is unfinished and nothing runs."""
        return not self.held_bytes and (self._watching is None or self._watching.done())

    def take(self, sender: str, part: Mapping[str, object]) -> Completed | None:
        """Take one part; the message when it is whole. Raises ChunkInvalid as `ChunkBuffer.add` does."""
        try:
            return self._buffer.add(sender, part, self._now())
        finally:
            running = self._watching is not None and not self._watching.done()
            if self._watching is not None and running and not self.held_bytes and not self._asking:
                self._watching.cancel()
                self._watching = None
            elif not running and self.held_bytes and not self._stopped:
                self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Ask for nothing more."""
        self._stopped = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self) -> None:
        while (wait := self._buffer.next_look(self._now())) is not None:
            # A message that begins meanwhile is due no earlier than this.
            await self._pause(min(wait, RESEND_AFTER_SECONDS))
            self._asking = True
            # At once: a relay that hangs holds up each request for seconds.
            await asyncio.gather(*(self._ask_for(one) for one in self._buffer.missing(self._now())))
            self._asking = False

    async def _ask_for(self, missing: Missing) -> None:
        try:
            out = await self._ask(missing)
        except Exception:
            # The watch over all other messages goes on, and this one is asked for again.
            out = False
        if not out:
            self._buffer.not_asked(missing, self._now())
