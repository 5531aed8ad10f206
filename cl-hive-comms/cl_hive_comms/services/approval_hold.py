"""Putting a command before people (docs/protocol/02-fleet-management.md §7.3, §7.5; 11 §15.6)."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Final

from hive_shared.canonical import JsonValue, encode
from hive_shared.envelope import STATUS_PENDING
from hive_shared.errors import from_symbol
from hive_shared.store import Tx

from ..domain.approval import LOCAL, MAX_PENDING, MAX_PENDING_PER_ADVISOR, Workflow, voters
from ..domain.command_machine import Event, State
from ..domain.command_record import CommandRow, PendingRow
from .access_fees import AccessFees
from .action_caps import ActionCaps
from .command_case import Case, Judged, walk
from .command_outcome import CommandOutcomes, Response, StateMoved
from .command_push import CommandPush
from .conflict_hold import ConflictHolds
from .decision import Verdict
from .ports_commands import CommandRows, Database

_WAITS_FOR: Final = {
    Workflow.CONFIRM: "the operator, then your confirmation",
    Workflow.MULTISIG: "its approvers",
}


class ApprovalHold:
    """Holds commands."""

    def __init__(
        self,
        *,
        db: Database,
        commands: CommandRows,
        caps: ActionCaps,
        access: AccessFees,
        outcomes: CommandOutcomes,
        push: CommandPush,
        conflicts: ConflictHolds,
        approvers: Callable[[], Collection[str]],
        now: Callable[[], int],
    ) -> None:
        self._conflicts, self._access = conflicts, access
        self._db, self._commands, self._caps, self._outcomes = db, commands, caps, outcomes
        self._push, self._approvers, self._now = push, approvers, now

    async def hold(self, case: Case, verdict: Verdict) -> Response:
        """Put a command before people; answers status 3. Raises RateLimited when too many wait, PaymentFailed
        for ecash that its approvers could spend."""
        if verdict.judged.workflow == Workflow.MULTISIG:
            self._access.check_shown(case, verdict.judged.fee)
        response = await self._db.write(lambda tx: self._hold(tx, case, verdict))
        self._outcomes.kick()
        return response

    def _hold(self, tx: Tx, case: Case, verdict: Verdict) -> Response:
        now, judged = self._now(), verdict.judged
        self._check_room(tx, case.advisor_id)
        self._caps.take(tx, verdict.caps, case.command_id, now)
        self._access.hold(tx, case, judged.fee)
        if judged.workflow == Workflow.MULTISIG:
            self._check_voters(case, judged)
        expires = now + judged.expires_in
        moved = self._commands.move(
            tx,
            case.command_id,
            State.RECEIVED,
            walk(State.RECEIVED, Event.ON_HELD),
            now,
            danger=judged.danger.total,
            deadline=expires,
            hold_json=json.dumps({"judged": judged.to_json()}),
            undo_json=json.dumps(judged.plan.undo),
        )
        if not moved:
            raise StateMoved(f"command {case.command_id} is no longer received")
        self._commands.add_pending(
            tx,
            PendingRow(
                action_id=case.command_id,
                advisor_id=case.advisor_id,
                envelope_json=encode(case.command.raw).decode(),
                danger=judged.danger.total,
                needed=judged.needed,
                workflow=judged.workflow,
                created_at=now,
                expires_at=expires,
                state="pending",
                reason=", ".join(judged.rule_ids) or None,
            ),
        )
        if judged.workflow == Workflow.MULTISIG:
            self._ask_approvers(tx, case, judged, expires)
        if verdict.held_by is not None:
            self._tell_both(tx, case, verdict.held_by, expires)
        if verdict.held_by is not None and verdict.only_conflict:
            self._conflicts.arm_in(tx, case.command_id, verdict.held_by)
            waits = (
                "another advisor's command touches the same and is not finished; this one goes on when that"
                f" has ended, after an hour the operator decides, until {expires}"
            )
        else:
            self._outcomes.alert_held(tx, case, judged)
            who = _WAITS_FOR.get(Workflow(judged.workflow), "the operator")
            waits = f"danger {judged.danger.total} at your trust waits for {who} until {expires}"
        error = from_symbol(
            "confirmation_required",
            waits,
            action_id=case.command_id,
            workflow=judged.workflow,
            needed=judged.needed,
            expires=expires,
            danger=judged.danger.to_doc(),
        )
        return self._outcomes.respond(tx, case, STATUS_PENDING, error=error)

    def _check_room(self, tx: Tx, advisor_id: str) -> None:
        if self._commands.count_pending(tx, advisor_id) >= MAX_PENDING_PER_ADVISOR:
            raise from_symbol(
                "rate_limited",
                f"{MAX_PENDING_PER_ADVISOR} of your commands wait already; cancel some or wait",
            )
        if self._commands.count_pending(tx) >= MAX_PENDING:
            raise from_symbol(
                "rate_limited", f"{MAX_PENDING} commands wait at this node already; try again later"
            )

    def _check_voters(self, case: Case, judged: Judged) -> None:
        able = len(voters(self._approvers(), case.sender))
        if able < judged.needed:
            raise from_symbol(
                "multisig_not_configured",
                f"{judged.needed} signatures are needed; {able} approvers besides you can give one"
                f"{', since votes of DIDs cannot be checked here' if self._has_dids() else ''}",
            )

    def _has_dids(self) -> bool:
        return any(name.startswith("did:") for name in self._approvers())

    def _ask_approvers(self, tx: Tx, case: Case, judged: Judged, expires: int) -> None:
        body: dict[str, JsonValue] = {
            "command_hash": case.command.hash,
            "envelope": dict(case.command.raw),
            "danger": judged.danger.to_doc(),
            "expires": expires,
        }
        if "command_id" not in case.command.raw:
            # A vote names the command, and only the node knows the id it gave this one.
            body["command_id"] = case.command_id
        for key in sorted(voters(self._approvers(), case.sender) - {LOCAL}):
            self._push.push(tx, key, "approval_request", body)

    def _tell_both(self, tx: Tx, case: Case, other: CommandRow, until: int) -> None:
        body: dict[str, JsonValue] = {"command_id": case.command_id, "until": until}
        for key in (case.sender, other.sender_key):
            self._push.push(tx, key, "conflict_held", body)
