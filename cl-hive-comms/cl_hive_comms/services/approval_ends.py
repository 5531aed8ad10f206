"""How a command stops waiting without running: rejected, cancelled, expired (02 §7.1, §7.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hive_shared.errors import HiveError, from_symbol
from hive_shared.store import Tx

from ..domain.command_machine import Event, State
from ..domain.command_record import CommandRow
from .approval_view import ApprovalView, not_found
from .command_case import WAITING, Case, Judged, walk
from .command_outcome import CommandOutcomes, StateMoved
from .ports_commands import CommandRows, Credentials, Database, Log

_OPEN: Final = ("pending", "approved")


class ApprovalEnds:
    """Ends waiting commands, each with its receipt and a final response to the agent."""

    def __init__(
        self,
        *,
        db: Database,
        commands: CommandRows,
        credentials: Credentials,
        outcomes: CommandOutcomes,
        view: ApprovalView,
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._db, self._commands, self._credentials = db, commands, credentials
        self._outcomes, self._view, self._now, self._log = outcomes, view, now, log

    async def reject(self, case: Case, state: str, judged: Judged, reason: str) -> None:
        """End a command that people turned down."""
        await self.end(case, state, Event.ON_REFUSED, from_symbol("approval_rejected", reason[:500]), judged)

    async def cancel(self, sender: str, command_id: str) -> None:
        """Cancel one's own waiting command. Raises NotFound, Conflict."""
        row, _ = await self._view.waiting(command_id, self._now())
        if row.sender_key != sender:
            raise not_found(command_id)
        case = Case.stored(row, await self._credentials.current(row.credential_id))
        error = from_symbol("approval_rejected", "the agent cancelled the command")
        await self.end(case, row.state, Event.ON_CANCELLED, error, self._view.judged(row))

    async def expire(self) -> int:
        """End what waited too long; returns how many. The timer loop calls this."""
        now = self._now()
        rows = await self._db.read(
            lambda tx: self._commands.in_states(tx, (State.PENDING_APPROVAL, State.CONFIRM_WAIT), due=now)
        )
        for row in rows:
            case = Case.stored(row, await self._credentials.current(row.credential_id))
            error = from_symbol("approval_expired", f"nobody approved the command before {row.deadline}")
            await self.end(case, row.state, Event.ON_EXPIRED, error, self._view.judged(row))
        return len(rows)

    async def cancel_all(self, symbol: str, reason: str) -> int:
        """Cancel everything that waits (emergency stop); returns how many."""

        def body(tx: Tx) -> int:
            rows = self._commands.in_states(tx, WAITING)
            return sum(self._cancel(tx, row, from_symbol(symbol, reason)) for row in rows)

        cancelled = await self._db.write(body)
        self._outcomes.kick()
        return cancelled

    def cancel_in(self, tx: Tx, advisor_id: str, reason: str) -> int:
        """Cancel what waits of one advisor, in the caller's transaction; returns how many."""
        rows = self._commands.open_of_advisor(tx, advisor_id, WAITING)
        error = from_symbol("credential_revoked", reason or "the credential was revoked")
        return sum(self._cancel(tx, row, error) for row in rows)

    def _cancel(self, tx: Tx, row: CommandRow, error: HiveError) -> bool:
        self._end_in(tx, Case.stored(row), row.state, Event.ON_CANCELLED, error, self._view.judged(row))
        return True

    async def end(self, case: Case, from_state: str, event: Event, error: HiveError, judged: Judged) -> None:
        """End a waiting command in a transaction of its own; nothing happens if it ended meanwhile."""
        try:
            await self._db.write(lambda tx: self._end_in(tx, case, from_state, event, error, judged))
        except StateMoved:
            self._log("info", "command_ended_meanwhile", command=case.command_id)
            return
        self._outcomes.kick()

    def _end_in(
        self, tx: Tx, case: Case, from_state: str, event: Event, error: HiveError, judged: Judged
    ) -> None:
        self._outcomes.end_waiting(tx, case, from_state, event, error, judged)
        # A pending row's final states have the names of the command's.
        ended = walk(from_state, event).value
        self._commands.move_pending(tx, case.command_id, _OPEN, ended, reason=error.detail)
