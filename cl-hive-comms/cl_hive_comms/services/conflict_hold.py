"""Commands that only a conflict between advisors holds: both are told and have an hour to settle it, then the
operator decides (docs/protocol/02-fleet-management.md §7.5; docs/decisions/0253-the-hour-of-a-conflict.md).

The hour is a timer of `comms_timers`, so it goes on across restarts and ends once.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Final

from hive_shared.canonical import encode
from hive_shared.cln import ClnError
from hive_shared.errors import Conflict, HiveError
from hive_shared.store import Tx

from ..domain.approval import Workflow, rank
from ..domain.command_machine import Event, State
from ..domain.command_record import CommandRow, TimerRow
from ..domain.conflict import ESCALATE_AFTER_S
from .approval_ends import ApprovalEnds
from .approval_view import ApprovalView
from .command_case import Case, Judged, RuleRefusal
from .command_outcome import CommandOutcomes
from .decision import UNDER_WAY, DecisionService
from .intake import Intake
from .ports_commands import CommandRows, Credentials, Database, KillSwitch, Log

CONFLICT: Final = "conflict"
"""Kind of the timer; its subject is the command that is held."""


class _Next(Enum):
    ENDED = "it ran, was refused or was decided meanwhile"
    HELD = "the conflict goes on, or the node cannot be asked"
    PEOPLE = "it needs approval by itself now"


class ConflictHolds:
    """`approved` moves a waiting command on and runs it."""

    def __init__(
        self,
        *,
        db: Database,
        commands: CommandRows,
        credentials: Credentials,
        intake: Intake,
        decision: DecisionService,
        outcomes: CommandOutcomes,
        view: ApprovalView,
        ends: ApprovalEnds,
        kill_switch: KillSwitch,
        approved: Callable[[Case, Judged], Awaitable[None]],
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._db, self._commands, self._credentials = db, commands, credentials
        self._intake, self._decision, self._outcomes = intake, decision, outcomes
        self._view, self._ends, self._kill, self._approved = view, ends, kill_switch, approved
        self._now, self._log = now, log

    def arm_in(self, tx: Tx, command_id: str, other: CommandRow) -> None:
        """A command is held because of another advisor's alone; the caller's transaction stores both."""
        self._commands.set_timer(
            tx,
            TimerRow(
                timer_id=f"{CONFLICT}:{command_id}",
                kind=CONFLICT,
                subject=command_id,
                due=self._now() + ESCALATE_AFTER_S,
                payload_json=encode({"with": other.command_id}).decode(),
            ),
        )

    async def settle(self) -> None:
        """Run what is free again, hand to the operator what is not within the hour. The timer loop calls
        this."""
        for timer in await self._db.read(lambda tx: self._commands.timers(tx, CONFLICT)):
            await self._settle(timer)

    async def _settle(self, timer: TimerRow) -> None:
        other_id = str(json.loads(timer.payload_json)["with"])

        def look(tx: Tx) -> tuple[CommandRow | None, CommandRow | None]:
            return self._commands.get(tx, timer.subject), self._commands.get(tx, other_id)

        row, other = await self._db.read(look)
        if row is None or row.state != State.PENDING_APPROVAL:
            await self._db.write(lambda tx: self._commands.timer_done(tx, timer.timer_id, self._now()))
            return
        following = _Next.HELD
        if other is None or other.state not in UNDER_WAY:
            following = await self._go_on(row)
        if following is _Next.PEOPLE or (following is _Next.HELD and self._now() >= timer.due):
            case = Case.stored(row, await self._credentials.current(row.credential_id))
            await self._db.write(lambda tx: self._to_operator(tx, timer, case))

    async def _go_on(self, row: CommandRow) -> _Next:
        """Judge anew what only the conflict held, and run it if nothing else keeps it."""
        if self._kill.engaged():
            return _Next.HELD
        case = Case.stored(row, await self._credentials.current(row.credential_id))
        try:
            await self._intake.authorise(case.command, case.transport)
            async with self._decision.judge(case, self._decision.prepare(case)) as verdict:
                judged = verdict.judged
        except ClnError as error:
            self._log("warning", "held_command_not_judged", command=row.command_id, method=error.method)
            return _Next.HELD
        except (HiveError, RuleRefusal) as failure:
            refusal = failure.error if isinstance(failure, RuleRefusal) else failure
            if refusal.symbol == "busy":
                return _Next.HELD
            await self._ends.end(case, row.state, Event.ON_REFUSED, refusal, self._view.judged(row))
            return _Next.ENDED
        if verdict.held_by is not None:
            return _Next.HELD
        if rank(Workflow(judged.workflow)) > rank(Workflow.AUTO):
            return _Next.PEOPLE
        try:
            await self._approved(case, judged)
        except Conflict:
            self._log("info", "command_ended_meanwhile", command=row.command_id)
        return _Next.ENDED

    def _to_operator(self, tx: Tx, timer: TimerRow, case: Case) -> None:
        row = self._commands.get(tx, timer.subject)
        if not self._commands.timer_done(tx, timer.timer_id, self._now()):
            return
        if row is not None and row.state == State.PENDING_APPROVAL:
            self._outcomes.alert_held(tx, case, self._view.judged(row))
