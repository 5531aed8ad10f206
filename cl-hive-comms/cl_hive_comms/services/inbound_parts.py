"""Parts of long messages, until they are whole or given up (docs/protocol/04-marketplace-and-nostr.md §6
"Larger").

Nothing of them is stored here. What relays hold comes again after a restart, because the ids of parts are
noted only with the end of their message; what a transport handed in is kept in its row until then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
from hive_shared.nostr.chunks import Missing
from hive_shared.nostr.long_messages import LongMessages
from hive_shared.nostr.reasons import ChunkInvalid
from msgspec.structs import replace

from ..domain.arrival import Arrival
from .ports_identity import Clock, Log


class LostParts(Protocol):
    """Asks for lost parts, and answers those who ask (services.part_resend)."""

    async def ask(self, missing: Missing, our_key: str) -> bool: ...
    async def answer(self, text: str, arrival: Arrival) -> bool: ...


class InboundParts:
    """Reassembles. `given_up(arrivals)` is told of the parts of a message that never became whole."""

    def __init__(
        self,
        *,
        given_up: Callable[[tuple[Arrival, ...]], None],
        now: Clock,
        log: Log,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._given_up, self._log = given_up, log
        self._lost: LostParts | None = None
        self._long = LongMessages(self._ask, now=now, forgotten=self._forget, pause=pause)
        # The first arrival of every part, by message.
        self._arrivals: dict[tuple[str, str], dict[int, Arrival]] = {}

    def on_lost(self, lost: LostParts) -> None:
        """Who asks for parts and answers requests; without one neither happens."""
        self._lost = lost

    @property
    def idle(self) -> bool:
        """Whether nothing is held."""
        return self._long.idle and not self._arrivals

    def take(self, text: str, arrival: Arrival) -> tuple[str, Arrival] | Arrival | None:
        """Take one part: the whole text with the arrival of all its parts, the part's own arrival while
        others are missing, None for a repeat. Raises ChunkInvalid."""
        try:
            part = msgspec.json.decode(text, type=dict[str, object])
        except (msgspec.DecodeError, RecursionError) as error:
            raise ChunkInvalid("malformed", str(error)) from None
        chunk_id, index = part.get("id"), part.get("i")
        if type(index) is int and index in self._arrivals.get((arrival.sender, str(chunk_id)), {}):
            return None
        whole = self._long.take(arrival.sender, part)
        if whole is None:
            assert type(index) is int
            self._arrivals.setdefault((arrival.sender, str(chunk_id)), {})[index] = arrival
            return arrival
        others = self._arrivals.pop((arrival.sender, str(chunk_id)), {})
        return whole.text, replace(arrival, parts=tuple(others.values()))

    async def answer(self, text: str, arrival: Arrival) -> bool:
        """Answer a request for parts that we sent; whether any went out again."""
        return self._lost is not None and await self._lost.answer(text, arrival)

    async def stop(self) -> None:
        """Ask for nothing more; what is unfinished begins anew at the next start."""
        await self._long.stop()

    # -- inside --------------------------------------------------------------------------------------

    async def _ask(self, missing: Missing) -> bool:
        came = self._arrivals.get((missing.sender, missing.chunk_id), {}).values()
        ours = next((one.recipient for one in came if one.recipient), None)
        if self._lost is None or ours is None:
            # Parts that a registered transport handed in: it sees to its own losses.
            return True
        try:
            return await self._lost.ask(missing, ours)
        except Exception as error:
            # The watch over all other messages goes on.
            self._log("error", "parts_not_asked_for", kind=type(error).__name__)
            return False

    def _forget(self, sender: str, chunk_id: str) -> None:
        arrivals = self._arrivals.pop((sender, chunk_id), {})
        self._log("debug", "long_message_given_up", parts=len(arrivals))
        self._given_up(tuple(arrivals.values()))
