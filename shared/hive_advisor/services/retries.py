"""A node that was busy, or whose cooldown ran: the same planned anew (docs/protocol/11-advisor-kit.md §5.2).

The refused command is final; what follows is a new one with a number of its own that names it (`retry_of`),
judged by the guard as every other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hive_shared.errors import NotFound
from hive_shared.store import Db, Tx

from hive_advisor.domain.command_machine import CommandState
from hive_advisor.domain.guard import DAY
from hive_advisor.domain.rows import StoredCommand
from hive_advisor.services.clients import ClientService
from hive_advisor.services.plans import PlanService
from hive_advisor.services.ports import CommandRows

MAX_BUSY: Final = 3
BUSY_FOR_S: Final = 600
"""Nobody wants a command to run much later by surprise."""
_WAIT_S: Final = {"busy": 5, "cooldown": 60}
_ENDS: Final = (CommandState.REJECTED, CommandState.ERROR)


class RetryService:
    """Finds what may be planned anew, and does so."""

    def __init__(
        self,
        db: Db,
        commands: CommandRows,
        clients: ClientService,
        plans: PlanService,
        *,
        now: Callable[[], int],
    ) -> None:
        self._db, self._commands, self._clients, self._plans = db, commands, clients, plans
        self._now = now

    async def when(self, command: StoredCommand) -> int | None:
        """When a command may be planned anew (unix seconds); None when it must not."""
        return await self._db.read(lambda tx: self._when(tx, command))

    def pending(self, tx: Tx, command: StoredCommand) -> bool:
        """Whether a command may still be planned anew by itself: `due` will name it, or does."""
        return command.updated >= self._now() - DAY and self._when(tx, command) is not None

    async def due(self) -> list[StoredCommand]:
        """Refused commands whose next try is due, oldest first."""
        now = self._now()

        def body(tx: Tx) -> list[StoredCommand]:
            found = self._commands.refused_for_now(tx, now - DAY)
            return [row for row in found if (at := self._when(tx, row)) is not None and at <= now]

        return await self._db.read(body)

    async def again(self, command: StoredCommand) -> StoredCommand:
        """The same as a new command: ready, or held; the one that was made already, if there is. A human's
        yes to the first is one to this: it is the same plan.

        Raises what planning raises: PolicyDenied (guard), Conflict, CredentialInvalid, NotFound.
        """
        known = await self._db.read(lambda tx: self._commands.retried_by(tx, command.command_id))
        if known is not None:
            return known
        client = next((c for c in await self._clients.all() if c.client_id == command.client_id), None)
        if client is None:
            raise NotFound("the client of this command is gone")
        credential = await self._clients.usable_credential(client)
        plan = self._plans.plan(
            client,
            credential,
            command.schema,
            command.action,
            command.params,
            note=command.note,
            retry_of=command.command_id,
            expected_policy_root=command.expected_root,
            payment=command.payment,
        )
        same = plan.hash == command.plan_hash
        return await self._plans.issue(
            plan,
            origin=command.origin,
            human=same and command.passed in ("human", "pin"),
            confirmed_danger=command.confirmed_danger if same else None,
            retry_until=command.retry_until,
        )

    def _when(self, tx: Tx, command: StoredCommand) -> int | None:
        slug = command.slug or ""
        if command.state not in _ENDS or slug not in _WAIT_S or command.origin == "kit":
            return None
        at = command.updated + (_retry_after(command.response) or _WAIT_S[slug])
        if slug == "cooldown":
            return at if command.retry_until is not None and at <= command.retry_until else None
        first, tries = command, 1
        while first.retry_of is not None and (earlier := self._commands.get(tx, first.retry_of)) is not None:
            first, tries = earlier, tries + (earlier.slug == "busy")
        last = max(first.created + BUSY_FOR_S, command.retry_until or 0)
        return at if tries <= MAX_BUSY and at <= last else None


def _retry_after(response: dict[str, Any] | None) -> int | None:
    error = (response or {}).get("error")
    value = error.get("retry_after") if isinstance(error, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= DAY else None
