"""Answers pings at once (docs/protocol/11-advisor-kit.md §7 "Duties", §15.8)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from hive_shared.errors import HiveError
from hive_shared.registry.control import PUSHES

from hive_advisor.domain.rows import Client

ANSWER_S: Final = 120
"""A node counts no later answer."""


class Control(Protocol):
    """Asks a node something of the control schema (services.asking.AskService.control)."""

    async def __call__(
        self, client_id: str, action: str, params: Mapping[str, Any], wait_s: int
    ) -> dict[str, Any]: ...


class PingService:
    """Lets no ping wait: its answer goes out beside the mail that comes in."""

    def __init__(self, control: Control, now: Callable[[], int]) -> None:
        self._control, self._now = control, now
        self._answers: set[asyncio.Task[None]] = set()

    async def settled(self, wait_s: float) -> None:
        """Give answers that are on their way so many seconds."""
        if self._answers:
            await asyncio.wait(tuple(self._answers), timeout=wait_s)

    def take(self, client: Client, body: Mapping[str, Any], sent_at: int) -> None:
        """Answer a ping of ``sent_at``, the node's time. Raises InvalidParams for what is no ping.

        One that lay at a relay until nobody waits for it any more is left alone.
        """
        parsed = PUSHES["ping"].parse(dict(body))
        if self._now() + client.offset_s - sent_at <= ANSWER_S:
            answer = asyncio.create_task(self._answer(client.client_id, str(parsed["ping_id"])))
            self._answers.add(answer)
            answer.add_done_callback(self._answers.discard)

    async def _answer(self, client_id: str, ping_id: str) -> None:
        try:
            await self._control(client_id, "ping_ack", {"ping_id": ping_id}, 0)
        except HiveError:
            # No credential or no way to the node now: there is nobody to be told, and the next ping comes.
            return
