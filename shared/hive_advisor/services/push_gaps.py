"""Pushes whose numbers are missing, asked for at the node that kept them
(docs/protocol/11-advisor-kit.md §5.3, §15.1).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from hive_shared.errors import HiveError
from hive_shared.store import Db, Tx

from hive_advisor.domain.answer import number_of
from hive_advisor.domain.rows import Client
from hive_advisor.services.clients import ClientService
from hive_advisor.services.ports import Control, SyncRows

_RETRY_S = 900
_WAIT_S = 10
_PAGE = 100


class PushGaps:
    """Closes gaps. `receive` takes a push in as if it had come by a relay."""

    def __init__(
        self,
        db: Db,
        rows: SyncRows,
        clients: ClientService,
        control: Control,
        receive: Callable[[Client, dict[str, Any], str], Awaitable[None]],
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._clients, self._control = db, rows, clients, control
        self._receive, self._now = receive, now
        self._not_before: dict[str, int] = {}

    async def close(self, client: Client) -> int:
        """Ask for what is missing; how many pushes came. A node that does not answer is asked again later."""
        since = await self._db.read(lambda tx: self._rows.poll_since(tx, client.client_id))
        if since is None or self._now() < self._not_before.get(client.client_id, 0):
            return 0
        self._not_before[client.client_id] = self._now() + _RETRY_S
        came = 0
        try:
            key = (await self._clients.usable_credential(client)).agent_key
            while since is not None:
                asked = {"since_seq": since, "limit": _PAGE}
                answer = await self._control(client.client_id, "push_poll", asked, _WAIT_S)
                result = answer["result"]
                if not isinstance(result, dict):
                    return came
                items = result.get("items")
                for item in items if isinstance(items, list) else []:
                    if isinstance(item, dict):
                        await self._receive(client, item, key)
                        came += 1
                since = await self._noted(client, since, result.get("next_cursor"))
        except HiveError:
            # Paused or suspect, or without a credential now.
            return came
        self._not_before.pop(client.client_id, None)
        return came

    async def _noted(self, client: Client, since: int, cursor: object) -> int | None:
        """How far it came is on disk; where to go on, None at the end."""
        found = number_of(cursor)
        # A cursor that does not rise would have us ask for ever.
        to = found if found is not None and found > since else None

        def body(tx: Tx) -> None:
            self._rows.polled(tx, client.client_id, since, to)

        await self._db.write(body)
        return to
