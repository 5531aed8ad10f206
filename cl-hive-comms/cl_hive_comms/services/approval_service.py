"""Commands that wait for people (docs/protocol/02-fleet-management.md §7.3; 11 §15.5, §15.6).

queue     the operator approves, rejects, or approves with reduced parameters
confirm   the operator approves, then the agent signs a challenge within 30 minutes
multisig  N of M approvers sign; the requester's own vote does not count

Whatever waited is judged again before it runs: the node, the policy or the credential may have changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Literal

from hive_shared import crypto
from hive_shared.canonical import JsonValue, encode
from hive_shared.cln import ClnError
from hive_shared.envelope import STATUS_PENDING, approve_digest, confirm_digest
from hive_shared.errors import Conflict, HiveError, InvalidParams, Unauthorized, from_symbol
from hive_shared.registry import find, parse_params
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.approval import CHALLENGE_S, LOCAL, Workflow, only_reduces, rank, voters
from ..domain.command_machine import Event, State
from ..domain.command_record import Vote
from .access_fees import AccessFees
from .action_caps import ActionCaps
from .approval_ends import ApprovalEnds
from .approval_hold import ApprovalHold
from .approval_view import ApprovalView, not_found
from .command_case import Case, Judged, RuleRefusal, walk
from .command_outcome import CommandOutcomes, StateMoved
from .command_push import CommandPush
from .conflict_hold import ConflictHolds
from .decision import DecisionService
from .execution import ExecutionService
from .executors.node_errors import node_error
from .intake import Intake
from .ports_commands import CommandRows, Credentials, Database, KillSwitch, Log


class ApprovalService:
    """The decisions of people; what ends or reads waiting commands hangs on it too."""

    def __init__(
        self,
        *,
        db: Database,
        commands: CommandRows,
        caps: ActionCaps,
        access: AccessFees,
        credentials: Credentials,
        intake: Intake,
        decision: DecisionService,
        execution: ExecutionService,
        outcomes: CommandOutcomes,
        push: CommandPush,
        kill_switch: KillSwitch,
        approvers: Callable[[], Collection[str]],
        random_bytes: Callable[[int], bytes],
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._db, self._commands, self._credentials = db, commands, credentials
        self._intake, self._decision, self._execution = intake, decision, execution
        self._outcomes, self._push, self._kill = outcomes, push, kill_switch
        self._approvers, self._random, self._now, self._log = approvers, random_bytes, now, log
        self._live: set[str] = set()
        self._view = ApprovalView(db, commands)
        self._ends = ApprovalEnds(
            db=db,
            commands=commands,
            credentials=credentials,
            outcomes=outcomes,
            view=self._view,
            now=now,
            log=log,
        )
        conflicts = self._conflict_holds()
        self.settle_conflicts = conflicts.settle
        hold = ApprovalHold(
            db=db,
            commands=commands,
            caps=caps,
            access=access,
            outcomes=outcomes,
            push=push,
            conflicts=conflicts,
            approvers=approvers,
            now=now,
        )
        self.hold = hold.hold
        self.pending = self._view.pending
        self.cancel, self.cancel_all = self._ends.cancel, self._ends.cancel_all
        self.cancel_in, self.expire = self._ends.cancel_in, self._ends.expire

    def _conflict_holds(self) -> ConflictHolds:
        return ConflictHolds(
            db=self._db,
            commands=self._commands,
            credentials=self._credentials,
            intake=self._intake,
            decision=self._decision,
            outcomes=self._outcomes,
            view=self._view,
            ends=self._ends,
            kill_switch=self._kill,
            approved=lambda case, judged: self._approved(case, judged, State.PENDING_APPROVAL, None),
            now=self._now,
            log=self._log,
        )

    # -- the operator -----------------------------------------------------------------------------------

    async def approve(
        self,
        action_id: str,
        *,
        reject: bool = False,
        reason: str = "",
        params: Mapping[str, JsonValue] | None = None,
        approver: str = "",
        signature: str = "",
    ) -> dict[str, JsonValue]:
        """The operator's word, or an approver's that the operator hands in (`approver` and `signature`).

        Returns {action_id, state, approvals, needed, result?}. Raises NotFound, Conflict, Unauthorized,
        InvalidParams, EmergencyStop.
        """
        # The clockwork looks twice a minute; nothing is approved in between either.
        await self.expire()
        row, pending = await self._view.waiting(action_id, self._now())
        case = Case.stored(row, await self._credentials.current(row.credential_id))
        judged = self._view.judged(row)
        if reject and not approver:
            await self._ends.reject(case, row.state, judged, reason or "the operator rejected it")
            return await self._view.state(action_id)
        if self._kill.engaged():
            raise from_symbol("emergency_stop", "nothing can be approved while the emergency stop is engaged")
        if row.state != State.PENDING_APPROVAL:
            raise Conflict(
                f"action {action_id} is {row.state}; it was approved already", reason="already_approved"
            )
        if params is not None:
            judged = self._reduced(judged, params)
        if pending.workflow == Workflow.MULTISIG:
            if params is not None:
                # A vote signs the command as it was asked; a reduction known to one voter would be lost.
                raise InvalidParams(
                    f"action {action_id} needs several signatures over what was asked; it cannot be edited"
                )
            await self._vote(case, judged, approver or LOCAL, "reject" if reject else "approve", signature)
        elif approver and approver != LOCAL:
            raise InvalidParams(
                f"action {action_id} needs the operator only; leave approver and signature out"
            )
        elif pending.workflow == Workflow.CONFIRM:
            await self._challenge(case, judged)
        else:
            await self._approved(
                case,
                replace(judged, approvers=(LOCAL,)),
                State.PENDING_APPROVAL,
                Vote(action_id, LOCAL, "approve", None, self._now()),
            )
        return await self._view.state(action_id)

    async def vote(
        self, sender: str, action_id: str, decision: Literal["approve", "reject"], signature: str
    ) -> None:
        """An approver's vote that came as a command of the control schema. Raises as `approve` does."""
        await self.expire()
        row, pending = await self._view.waiting(action_id, self._now())
        if pending.workflow != Workflow.MULTISIG or row.state != State.PENDING_APPROVAL:
            raise Conflict(f"action {action_id} takes no votes", reason="conflict_held")
        case = Case.stored(row, await self._credentials.current(row.credential_id))
        await self._vote(case, self._view.judged(row), sender, decision, signature)

    async def _vote(
        self,
        case: Case,
        judged: Judged,
        approver: str,
        decision: Literal["approve", "reject"],
        signature: str,
    ) -> None:
        self._check_approver(case, approver, decision, signature)
        vote = Vote(case.command_id, approver, decision, signature or None, self._now())

        def body(tx: Tx) -> tuple[Vote, ...]:
            self._commands.vote(tx, vote)
            return self._commands.votes(tx, case.command_id)

        votes = await self._db.write(body)
        able = voters(self._approvers(), case.sender)
        current = [v for v in votes if v.approver in able]
        yes = tuple(v.approver for v in current if v.decision == "approve")
        no = sum(v.decision == "reject" for v in current)
        if len(yes) >= judged.needed:
            await self._approved(case, replace(judged, approvers=yes), State.PENDING_APPROVAL, None)
        elif len(able) - no < judged.needed:
            await self._ends.reject(case, State.PENDING_APPROVAL, judged, "the approvers rejected it")

    def _check_approver(
        self, case: Case, approver: str, decision: Literal["approve", "reject"], signature: str
    ) -> None:
        if approver not in self._approvers():
            raise Unauthorized(f"{approver} is none of the approvers of the policy", reason="unauthorized")
        if approver == case.sender:
            raise Unauthorized("who asked for a command cannot approve it", reason="unauthorized")
        if approver == LOCAL:
            return
        if approver not in voters(self._approvers(), case.sender):
            raise Unauthorized(
                f"the vote of {approver[:100]!a} cannot be checked: nothing on this node verifies signatures"
                " of DIDs; put the approver's Nostr key into the policy's approvers instead",
                reason="unauthorized",
            )
        if not crypto.schnorr_verify(approver, approve_digest(case.command.hash, decision), signature):
            raise Unauthorized(f"the signature is not {approver}'s on {decision}", reason="bad_signature")

    def _reduced(self, judged: Judged, params: Mapping[str, JsonValue]) -> Judged:
        parsed = parse_params(find(judged.schema, judged.action), dict(params))
        if not only_reduces(dict(judged.params), parsed):
            raise InvalidParams(
                "an approval may only lower numbers and shorten lists; all else must stay as asked",
                reason="invalid_params",
            )
        asked = crypto.sha256(encode(dict(judged.params))).hex()
        return replace(judged, params=parsed, original_params_hash=judged.original_params_hash or asked)

    async def _challenge(self, case: Case, judged: Judged) -> None:
        challenge = self._random(32).hex()
        expires = self._now() + CHALLENGE_S
        told = replace(judged, approvers=(LOCAL,))

        def body(tx: Tx) -> None:
            self._to(tx, case, State.PENDING_APPROVAL, Event.ON_CHALLENGED, told, deadline=expires)
            self._commands.vote(tx, Vote(case.command_id, LOCAL, "approve", None, self._now()))
            self._commands.move_pending(
                tx,
                case.command_id,
                ("pending",),
                "pending",
                challenge=challenge,
                challenge_expires=expires,
                expires_at=expires,
            )
            self._push.push(
                tx,
                case.sender,
                "confirm_challenge",
                {
                    "command_id": case.command_id,
                    "command_hash": case.command.hash,
                    "challenge": challenge,
                    "expires": expires,
                },
            )
            error = from_symbol(
                "confirmation_required",
                f"the operator approved; sign the challenge before {expires}",
                action_id=case.command_id,
                challenge=challenge,
                command_hash=case.command.hash,
                expires=expires,
            )
            self._outcomes.respond(tx, case, STATUS_PENDING, error=error, deferred=True)

        await self._db.write(body)
        self._outcomes.kick()

    async def confirm(self, sender: str, command_id: str, signature: str) -> str:
        """The agent's signature under the challenge; returns the state the command ended in.

        Raises NotFound, Unauthorized (bad_signature), Conflict.
        """
        row, pending = await self._view.waiting(command_id, self._now())
        if row.sender_key != sender:
            raise not_found(command_id)
        if row.state != State.CONFIRM_WAIT or pending.challenge is None:
            raise Conflict(
                f"command {command_id} is {row.state}; it waits for no confirmation", reason="stale_state"
            )
        if self._now() >= (pending.challenge_expires or 0):
            raise from_symbol("approval_expired", f"the challenge expired at {pending.challenge_expires}")
        case = Case.stored(row, await self._credentials.current(row.credential_id))
        digest = confirm_digest(case.command.hash, pending.challenge)
        if not crypto.schnorr_verify(sender, digest, signature):
            raise from_symbol("bad_signature", "challenge_sig does not sign this command and challenge")
        judged = replace(self._view.judged(row), confirm_signature=signature)
        await self._approved(case, judged, State.CONFIRM_WAIT, None, confirm_signature=signature)
        return str((await self._view.state(command_id))["state"])

    # -- running what was approved ------------------------------------------------------------------------

    async def _approved(
        self,
        case: Case,
        judged: Judged,
        from_state: str,
        vote: Vote | None,
        *,
        confirm_signature: str | None = None,
    ) -> None:
        event = Event.ON_CONFIRMED if from_state == State.CONFIRM_WAIT else Event.ON_APPROVED

        def body(tx: Tx) -> None:
            row = self._commands.get(tx, case.command_id)
            # Permission does not outlive the time people gave it for, also when the disk or a restart
            # come between it and the run.
            until = None if row is None else row.deadline
            self._to(tx, case, from_state, event, judged, deadline=until)
            if vote is not None:
                self._commands.vote(tx, vote)
            self._commands.move_pending(
                tx,
                case.command_id,
                ("pending",),
                "approved",
                params_json=json.dumps(dict(judged.params)),
                confirm_signature=confirm_signature,
            )

        await self._db.write(body)
        await self._run(case, judged)

    async def resume(self) -> None:
        """Go on with what was approved and did not start: the process ended, or the disk took nothing. The
        timer loop calls this."""
        for row in await self._db.read(lambda tx: self._commands.in_states(tx, (State.APPROVED,))):
            case = Case.stored(row, await self._credentials.current(row.credential_id))
            if row.deadline is not None and self._now() >= row.deadline:
                error = from_symbol("approval_expired", f"approved, but not run before {row.deadline}")
                await self._ends.end(case, State.APPROVED, Event.ON_EXPIRED, error, self._view.judged(row))
            else:
                await self._run(case, self._view.judged(row))

    async def _run(self, case: Case, approved: Judged) -> None:
        if case.command_id in self._live:
            return
        self._live.add(case.command_id)
        try:
            await self._run_once(case, approved)
        finally:
            self._live.discard(case.command_id)

    async def _run_once(self, case: Case, approved: Judged) -> None:
        try:
            if self._kill.engaged():
                raise from_symbol("emergency_stop", "the emergency stop was engaged before the command ran")
            await self._intake.authorise(case.command, case.transport)
            async with self._decision.judge(case, self._decision.prepare(case, approved.params)) as verdict:
                self._check_unchanged(approved, verdict.judged)
                judged = replace(
                    verdict.judged,
                    workflow=approved.workflow,
                    approvers=approved.approvers,
                    confirm_signature=approved.confirm_signature,
                    original_params_hash=approved.original_params_hash,
                )
                await self._execution.run(
                    case, judged, verdict.caps, verdict.spend, from_state=State.APPROVED, deferred=True
                )
        except (HiveError, RuleRefusal, ClnError) as failure:
            error = _error(failure)
            if error.symbol == "receipt_store_unavailable":
                # Still approved, or executing with its outcome kept: the timer loop goes on with either.
                self._log("error", "approved_command_waits_for_disk", command=case.command_id)
                return
            await self._ends.end(case, State.APPROVED, Event.ON_REFUSED, error, approved)
        except StateMoved:
            self._log("info", "command_ended_meanwhile", command=case.command_id)

    def _check_unchanged(self, approved: Judged, now: Judged) -> None:
        # People approved a change from certain values; from others it is another change.
        if not _same_basis(approved, now):
            raise from_symbol(
                "stale_state", "the channel was changed since the command was approved; ask again"
            )
        if rank(Workflow(now.workflow)) > rank(Workflow(approved.workflow)):
            raise from_symbol(
                "policy_blocked",
                f"the policy now asks for {now.workflow}, the command was approved by {approved.workflow}",
                rule=", ".join(now.rule_ids) or "approval",
            )
        if now.workflow == Workflow.MULTISIG and len(approved.approvers) < now.needed:
            raise from_symbol(
                "policy_blocked",
                f"the policy now asks for {now.needed} signatures, {len(approved.approvers)} were given",
                rule=", ".join(now.rule_ids) or "approval",
            )

    def _to(
        self, tx: Tx, case: Case, old: str, event: Event, judged: Judged, *, deadline: int | None = None
    ) -> None:
        moved = self._commands.move(
            tx,
            case.command_id,
            old,
            walk(old, event),
            self._now(),
            deadline=deadline,
            hold_json=json.dumps({"judged": judged.to_json()}),
        )
        if not moved:
            raise Conflict(f"action {case.command_id} was decided meanwhile", reason="already_decided")


def _same_basis(approved: Judged, now: Judged) -> bool:
    before, after = approved.plan.basis, now.plan.basis
    if approved.original_params_hash is not None and isinstance(before, list) and isinstance(after, list):
        # An edit may drop channels; those that stay must be as they were.
        return all(row in before for row in after)
    return before == after


def _error(failure: HiveError | RuleRefusal | ClnError) -> HiveError:
    if isinstance(failure, RuleRefusal):
        return failure.error
    return failure if isinstance(failure, HiveError) else node_error(failure)
