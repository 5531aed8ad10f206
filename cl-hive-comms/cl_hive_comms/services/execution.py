"""Steps 17 to 21: run an allowed write exactly once, also when the process dies in between
(docs/protocol/02-fleet-management.md §7.1, §9.2).

Transaction boundaries and what a crash after each leaves:

    executing   undo and old values are on disk; nothing ran or something did: `reconcile` asks the node
    (run)       the node acted; same as above
    outcome     receipt, state, response and outgoing message are on disk; only the sending is left

A receipt that cannot be written pauses further writes until it can: what ran must be on record first.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import msgspec
from hive_shared import envelope
from hive_shared.canonical import JsonValue
from hive_shared.errors import Busy, HiveError, from_symbol
from hive_shared.store import StoreError, Tx
from msgspec.structs import replace

from ..domain.command_machine import MAX_EXTERNAL_S, Event, State
from ..domain.command_record import CommandRow
from .access_fees import AccessFees
from .action_caps import ActionCaps, Cap
from .command_case import Case, Judged, judged_from, walk
from .command_outcome import CommandOutcomes, Response, StateMoved, by_message
from .compensation import Compensation
from .executors.action import Outcome, WriteAction
from .ports_commands import (
    CommandRows,
    Credentials,
    Database,
    Fault,
    KillSwitch,
    Log,
    no_fault,
)
from .spend_limits import SpendCap, SpendLimits
from .state_hash_service import StateHashService


class _Unwritten(msgspec.Struct, frozen=True):
    case: Case
    judged: Judged
    outcome: Outcome
    state_before: str | None
    state_after: str | None
    deferred: bool
    from_state: State = State.EXECUTING


class ExecutionService:
    """Runs writes. `find_action` gives the executor of a (schema, action)."""

    def __init__(
        self,
        *,
        db: Database,
        commands: CommandRows,
        caps: ActionCaps,
        spends: SpendLimits,
        access: AccessFees,
        rewards: Compensation,
        outcomes: CommandOutcomes,
        credentials: Credentials,
        kill_switch: KillSwitch,
        state_hash: StateHashService,
        find_action: Callable[[str, str], WriteAction],
        now: Callable[[], int],
        log: Log,
        fault: Fault = no_fault,
    ) -> None:
        self._db, self._commands, self._caps, self._outcomes = db, commands, caps, outcomes
        self._state_hash, self._find, self._now, self._log = state_hash, find_action, now, log
        self._credentials, self._kill, self._fault = credentials, kill_switch, fault
        self._spends, self._access, self._rewards = spends, access, rewards
        self._live: set[str] = set()
        self._unwritten: list[_Unwritten] = []
        self.going_on: set[asyncio.Future[None]] = set()
        """What was begun after its outcome was stored (`Outcome.then`)."""

    @property
    def paused(self) -> bool:
        """Whether outcomes wait for the disk; no further write runs before they are stored."""
        return bool(self._unwritten)

    def claim(self, command_id: str) -> None:
        """A stored command is about to run: nobody may end it meanwhile, until `disclaim`."""
        self._live.add(command_id)

    def disclaim(self, command_id: str) -> None:
        """It ran, or will not."""
        self._live.discard(command_id)

    def claimed(self, command_id: str) -> bool:
        """Whether a command runs or is about to."""
        return command_id in self._live

    async def run(
        self,
        case: Case,
        judged: Judged,
        caps: Iterable[Cap],
        spend: SpendCap | None = None,
        *,
        from_state: str,
        deferred: bool = False,
    ) -> Response:
        """Run a judged write and store its outcome.

        Raises HiveError when it may not start after all (caps, disk), before anything was changed.
        """
        await self._write_waiting()
        action = self._find(judged.schema, judged.action)
        self._live.add(case.command_id)
        try:
            with self._state_hash.moving(judged.plan):
                before = await self._state_hash.of_plan(judged.plan)
                await self._begin(case, judged, (tuple(caps), spend), from_state, before)
                await self._fault("after_executing")
                unpaid = await self._access.redeemed(case.command_id, judged.fee)
                outcome = unpaid or await self._run(action, case, judged)
                await self._fault("after_cln")
                after = await self._hash_after(judged, outcome)
                ended = _Unwritten(case, judged, outcome, before, after, deferred)
                response = await self._end(ended)
        finally:
            self._live.discard(case.command_id)
        await self._fault("after_outcome")
        self._outcomes.kick(messages=by_message(case, deferred=deferred))
        if outcome.then is not None and response["status"] == envelope.STATUS_PENDING:
            self._go_on(outcome.then)
        return response

    def _go_on(self, then: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.ensure_future(then())
        self.going_on.add(task)
        task.add_done_callback(self.going_on.discard)

    async def _begin(
        self,
        case: Case,
        judged: Judged,
        uses: tuple[tuple[Cap, ...], SpendCap | None],
        from_state: str,
        before: str | None,
    ) -> None:
        now, (caps, spend) = self._now(), uses
        # An automatic command is allowed and started in one transaction: nobody could decide in between.
        allowed = (Event.ON_ALLOWED,) if from_state == State.RECEIVED else ()
        executing = walk(from_state, *allowed, Event.ON_STARTED)
        record = json.dumps({"judged": judged.to_json(), "state_before": before})

        def body(tx: Tx) -> None:
            # Between admission and here lie waits for locks and for the node. Asked in the transaction that
            # starts the command, so that a revocation is either before it or finds it running.
            self._check_still_wanted(tx, case)
            self._caps.take(tx, caps, case.command_id, now)
            if spend is not None:
                self._spends.take(tx, spend, case.command_id, now)
            self._rewards.reserve(tx, case, judged.reward)
            moved = self._commands.move(
                tx,
                case.command_id,
                from_state,
                executing,
                now,
                danger=judged.danger.total,
                hold_json=record,
                undo_json=json.dumps(judged.plan.undo),
            )
            if not moved:
                raise StateMoved(f"command {case.command_id} is no longer {from_state}")
            if from_state == State.APPROVED:
                self._commands.move_pending(tx, case.command_id, ("approved",), "executing")

        try:
            await self._access.begin(case, judged.fee, body)
        except StoreError as error:
            raise store_unavailable() from error

    def _check_still_wanted(self, tx: Tx, case: Case) -> None:
        if self._kill.engaged():
            raise from_symbol("emergency_stop", "the emergency stop was engaged before the command ran")
        status = self._credentials.standing(tx, case.credential_id)
        if status == "superseded":
            raise from_symbol("credential_superseded", "the credential was replaced before the command ran")
        if status != "active":
            raise from_symbol("credential_revoked", "the credential was revoked before the command ran")
        if case.view is not None and self._now() >= case.view.credential.valid_until:
            raise from_symbol("credential_expired", "the credential expired before the command ran")

    async def _hash_after(self, judged: Judged, outcome: Outcome) -> str | None:
        try:
            return await self._state_hash.after(judged.plan, outcome)
        except Exception as error:
            # The node has acted: a hash that cannot be computed must not cost the receipt.
            self._log("error", "state_hash_failed", action=judged.action, kind=type(error).__name__)
            return None

    async def _run(self, action: WriteAction, case: Case, judged: Judged) -> Outcome:
        if self._kill.engaged():
            # Engaged while the disk took the row.
            stop = from_symbol("emergency_stop", "the emergency stop was engaged before the command ran")
            return Outcome("error", {}, stop, acted=False)
        try:
            return await action.run(judged.plan, case.caller(self._now()))
        except Exception as error:
            # An executor must not raise; if one does, the change may be half done and only a look can tell.
            self._log("error", "executor_failed", action=judged.action, kind=type(error).__name__)
            unclear = from_symbol("indeterminate", "the action broke off; what it changed is not known")
            return Outcome("indeterminate", {}, unclear)

    async def _end(self, ended: _Unwritten) -> Response:
        try:
            return await self._db.write(lambda tx: self._finish(tx, ended))
        except (StoreError, Busy) as error:
            self._unwritten.append(ended)
            self._log("error", "outcome_not_stored", command=ended.case.command_id)
            raise _outcome_unrecorded() from error
        except StateMoved:
            raise
        except Exception as error:
            # What ran gets its receipt even if its result cannot be written down as it is.
            self._log("error", "outcome_unfit", command=ended.case.command_id, kind=type(error).__name__)
            if ended.outcome.state == "indeterminate" and not ended.outcome.result:
                raise
            unclear = from_symbol("indeterminate", "the action ran; its result could not be recorded")
            bare = replace(ended.outcome, state="indeterminate", result={}, error=unclear, arm=(), disarm=())
            return await self._end(replace(ended, outcome=bare, state_after=None))

    def _finish(self, tx: Tx, ended: _Unwritten) -> Response:
        response = self._outcomes.finish(
            tx,
            ended.case,
            ended.judged,
            ended.outcome,
            state_before=ended.state_before,
            state_after=ended.state_after,
            deferred=ended.deferred,
            from_state=ended.from_state,
        )
        if ended.outcome.state == "pending_external":
            return response
        self._commands.move_pending(
            tx,
            ended.case.command_id,
            ("executing",),
            "done",
            result_json=json.dumps({"state": ended.outcome.state}),
        )
        return response

    async def _write_waiting(self) -> None:
        """Store outcomes that the disk refused. Raises receipt_store_unavailable while it still does."""
        while self._unwritten:
            ended = self._unwritten[0]
            try:
                await self._db.write(partial(self._finish, ended=ended))
            except (StoreError, Busy) as error:
                raise store_unavailable() from error
            except StateMoved:
                self._log("warning", "outcome_already_stored", command=ended.case.command_id)
            self._unwritten.pop(0)
            self._outcomes.kick()

    # -- after a restart ------------------------------------------------------------------------------

    async def retry_unwritten(self) -> None:
        """Store what could not be stored; the timer loop calls this. Quiet while the disk still refuses."""
        try:
            await self._write_waiting()
        except HiveError:
            return

    async def reconcile(self, row: CommandRow, case: Case) -> bool:
        """Ask the node what became of an `executing` row and end it; False when it cannot be asked now."""
        if row.command_id in self._live or any(row.command_id == u.case.command_id for u in self._unwritten):
            return False
        record = json.loads(row.hold_json or "{}")
        undo: dict[str, JsonValue] = json.loads(row.undo_json or "{}")
        judged = judged_from(record["judged"], undo)
        action = self._find(judged.schema, judged.action)
        unpaid = await self._access.found(row.command_id)
        outcome = unpaid or await action.probe(undo, case.caller(self._now()))
        if outcome is None:
            return False
        found = "the plugin stopped while the command ran; the node was asked afterwards what became of it"
        outcome = replace(outcome, result={**outcome.result, "reconciled": True, "how": found})
        return await self._settle(
            row, _Unwritten(case, judged, outcome, record.get("state_before"), None, True)
        )

    async def watch(self, row: CommandRow, case: Case) -> bool:
        """Ask the node about a `pending_external` row; ends it when the node is done, or as
        indeterminate after 30 days. False while it is not."""
        if row.command_id in self._live or any(row.command_id == u.case.command_id for u in self._unwritten):
            return False
        record = json.loads(row.hold_json or "{}")
        undo: dict[str, JsonValue] = json.loads(row.undo_json or "{}")
        judged = judged_from(record["judged"], undo)
        outcome = await self._access.found(row.command_id)
        if outcome is None:
            outcome = await self._find(judged.schema, judged.action).probe(undo, case.caller(self._now()))
        if outcome is None or outcome.state == "pending_external":
            # Moving there was the row's last change.
            if self._now() < row.updated_at + MAX_EXTERNAL_S:
                return False
            unclear = from_symbol("indeterminate", "the node had not finished this after 30 days; check it")
            outcome = Outcome("indeterminate", {}, unclear)
        before = record.get("state_before")
        return await self._settle(
            row, _Unwritten(case, judged, outcome, before, None, True, State.PENDING_EXTERNAL)
        )

    async def _settle(self, row: CommandRow, ended: _Unwritten) -> bool:
        outcome = ended.outcome
        ended = replace(ended, state_after=await self._state_hash.found(outcome))
        try:
            await self._end(ended)
        except StateMoved:
            return True
        self._log("info", "command_reconciled", command=row.command_id, state=outcome.state)
        self._outcomes.kick()
        return True


def store_unavailable() -> HiveError:
    """The refusal while the disk takes nothing."""
    return from_symbol(
        "receipt_store_unavailable",
        "the node cannot write its records now, so it changes nothing; reads still work",
    )


def _outcome_unrecorded() -> HiveError:
    # Not `store_unavailable`: that one promises that nothing was changed.
    return from_symbol(
        "receipt_store_unavailable",
        "the command ran, but the node cannot write its records now; its outcome follows when it can,"
        " command_status will tell",
    )
