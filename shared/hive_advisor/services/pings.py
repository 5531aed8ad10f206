"""Answers pings at once (docs/protocol/11-advisor-kit.md §7 "Duties", §15.8)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from hive_shared.errors import HiveError
from hive_shared.registry.control import PUSHES
from hive_shared.store import Db, Tx

from hive_advisor.domain.rows import Client
from hive_advisor.services.ports import Control

ANSWER_S: Final = 120
"""A node counts no later answer."""
_KEPT_S: Final = 86_400
_FORGET_EVERY_S: Final = 3_600


class AnswerRows(Protocol):
    """adv_commands."""

    def forget_ping_answers(self, tx: Tx, before: int) -> None: ...


class PingService:
    """Lets no ping wait: its answer goes out beside the mail that comes in."""

    def __init__(self, db: Db, rows: AnswerRows, control: Control, now: Callable[[], int]) -> None:
        self._db, self._rows, self._control, self._now = db, rows, control, now
        self._answers: set[asyncio.Task[None]] = set()
        self._forgotten = 0

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
        now = self._now()
        if not 0 <= now - self._forgotten < _FORGET_EVERY_S:
            self._forgotten = now
            await self._db.write(lambda tx: self._rows.forget_ping_answers(tx, now - _KEPT_S))
