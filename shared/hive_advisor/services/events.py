"""What happened, as rows with a rising cursor: a consumer that crashed goes on where it stopped
(docs/protocol/11-advisor-kit.md §3).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from hive_shared.errors import InvalidParams
from hive_shared.store import Db

from hive_advisor.domain.rows import Event
from hive_advisor.services.ports import RecordRows

DROPPED: Final = "events_dropped"
"""Kind of the row that stands for events that are gone: they are kept for 30 days."""
_PAGE: Final = 500
_LOOK_S: Final = 0.5


class EventService:
    """Reads events. Who writes them does so in the transaction of what they tell of."""

    def __init__(self, db: Db, records: RecordRows) -> None:
        self._db, self._records = db, records

    async def past(self, since: int, limit: int) -> list[Event]:
        """Events after a cursor that are there now, the oldest first, at most `limit`."""
        return list(await self._db.read(lambda tx: self._records.events(tx, since, limit)))

    async def newest(self) -> int:
        """The cursor of the newest event there ever was; 0 before the first."""
        return (await self._db.read(self._records.event_span))[1]

    async def stream(self, since: int = 0, *, once: bool = False) -> AsyncGenerator[Event, None]:
        """Every event after a cursor, in order, and then those that come; `once`: only those that are there.

        Where events after `since` are gone already, the first row says so (kind ``events_dropped``).
        Raises InvalidParams for a cursor that no event has had.
        """
        oldest, newest = await self._db.read(self._records.event_span)
        if since > newest:
            raise InvalidParams(
                f"cursor {since} is ahead of the newest event, {newest}: this profile never told of it. If it"
                f" was restored from a backup, go on with {newest}"
            )
        if 0 < since < oldest - 1:
            yield Event(oldest - 1, DROPPED, "", f"{oldest - 1 - since} events after {since} are gone", 0)
            since = oldest - 1
        while True:
            rows = await self.past(since, _PAGE)
            for row in rows:
                yield row
                since = row.cursor
            if len(rows) == _PAGE:
                continue
            if once:
                return
            await asyncio.sleep(_LOOK_S)
