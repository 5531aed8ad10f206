"""The pipeline every remote command takes, in the order of the sheet
(docs/protocol/02-fleet-management.md §7.1; 08 §1.3).

1 to 8 are `intake`, 9 is here, 10 to 16 are `decision`, 17 to 21 `execution` and `command_outcome`.
Crash windows of an automatic write: see `execution`. A read takes two transactions (nonce; answer), a
write three (nonce; intent; outcome).
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import msgspec
from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue, decode_object
from hive_shared.cln import ClnError
from hive_shared.envelope import Command
from hive_shared.errors import Busy, HiveError, Internal, from_symbol
from hive_shared.registry import CONTROL, find
from hive_shared.store import StoreError, Tx

from ..domain.access_fee import Fee
from ..domain.command_machine import State
from ..domain.command_record import CommandRow
from ..domain.sibling_routes import CALLER_ANSWERED
from .access_fees import AccessFees
from .approval_service import ApprovalService
from .command_case import WAITING, Case, Judged, RuleRefusal, received_row
from .command_control import ControlActions
from .command_outcome import CommandOutcomes, Response, StateMoved
from .decision import DecisionService, Preparation, check_no_root
from .execution import ExecutionService, store_unavailable
from .executors.action import Params, ReadAction
from .executors.node_errors import node_error
from .intake import Admitted, Ingress, Intake, Refused
from .intake_order import IntakeOrder, Turn
from .ports_commands import Alerts, CommandRows, Credentials, Database, Fault, Log, no_fault

READS_PER_DAY: Final = 5_000
_DAY: Final = 86_400


class _Repeat(msgspec.Struct, frozen=True):
    """The command is known: `response` is the reply it got, None while it has none."""

    row: CommandRow
    response: str | None


class _Late(msgspec.Struct, frozen=True):
    """The nonce cannot be used (any more)."""

    error: HiveError


class CommandService:
    """Takes envelopes from every transport and gives back signed responses."""

    def __init__(
        self,
        *,
        db: Database,
        commands: CommandRows,
        credentials: Credentials,
        intake: Intake,
        order: IntakeOrder,
        decision: DecisionService,
        execution: ExecutionService,
        approvals: ApprovalService,
        control: ControlActions,
        outcomes: CommandOutcomes,
        access: AccessFees,
        alerts: Alerts,
        find_read: Callable[[str, str], ReadAction | None],
        random_bytes: Callable[[int], bytes],
        now: Callable[[], int],
        log: Log,
        fault: Fault = no_fault,
    ) -> None:
        self._db, self._commands, self._credentials = db, commands, credentials
        self._intake, self._order, self._decision = intake, order, decision
        self._execution, self._approvals, self._control = execution, approvals, control
        self._outcomes, self._alerts, self._find_read = outcomes, alerts, find_read
        self._random, self._now, self._log, self._fault = random_bytes, now, log, fault
        self._access = access
        self._running: dict[tuple[str, int, str], asyncio.Task[Response | None]] = {}
        # Commands that this process took in and has not ended; a repeat of a stored one is none of them.
        self._live: Counter[str] = Counter()
        # Rows that the last look passed by because they were live.
        self._passed_by: set[str] = set()

    async def handle(self, raw: bytes | str, ingress: Ingress) -> Response | None:
        """Run one envelope through the pipeline; the signed response, or None when it was dropped.

        Unless the caller waits for it (`rest`, `local`), the response is also enqueued for sending over the
        same transport, in the transaction of the outcome.
        """
        admitted = await self._intake.admit(raw, ingress)
        if admitted is None:
            return None
        if isinstance(admitted, Refused):
            return await self._refuse_early(admitted, ingress)
        command = admitted.command
        key = (command.sender, command.nonce, command.body_hash)
        running = self._running.get(key)
        if running is None:
            task = asyncio.create_task(self._process(admitted, ingress))
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
            # Shielded: a caller that hangs up must not stop a change halfway.
            return await asyncio.shield(task)
        response = await asyncio.shield(running)
        if response is not None:
            # The run answers the way its envelope came; this copy may have come another way.
            await self._send(self._case(admitted, ingress), response)
        return response

    async def drain(self) -> None:
        """Wait for the commands under way; the runtime bounds this by its stop deadline."""
        if self._running:
            await asyncio.wait(set(self._running.values()))

    async def _refuse_early(self, refused: Refused, ingress: Ingress) -> Response | None:
        response = self._outcomes.unnumbered(refused.nonce, refused.error, refused.command_id)
        if ingress.transport not in CALLER_ANSWERED:
            try:
                await self._db.write(
                    lambda tx: self._outcomes.send_to(
                        tx,
                        ingress.sender_key,
                        response,
                        key=f"refusal:{ingress.sender_key}:{ingress.message_id}",
                        reply_relays=refused.reply_relays,
                        reply_to=ingress.message_id if ingress.transport == "nostr_dm" else None,
                        transport=ingress.transport,
                    )
                )
                self._outcomes.kick()
            except StoreError:
                self._log("error", "refusal_not_sent", slug=refused.error.symbol)
        return response

    # -- step 9 -----------------------------------------------------------------------------------------

    async def _process(self, admitted: Admitted, ingress: Ingress) -> Response | None:
        with ExitStack() as unused:
            return await self._process_with(unused, admitted, ingress)

    async def _process_with(self, unused: ExitStack, admitted: Admitted, ingress: Ingress) -> Response | None:
        command = admitted.command
        case = self._case(admitted, ingress)
        live = unused.enter_context(ExitStack())
        self._live[case.command_id] += 1
        live.callback(self._ended, case.command_id)
        preparation: Preparation | None = None
        try:
            async with self._order.turn(command.sender, command.nonce) as turn:
                if not _read_only(command):
                    # The node is asked while the nonce is written down: the two do not need each other.
                    preparation = unused.enter_context(self._decision.prepare(case))
                    # Its question goes out now: the writer thread would hold it up until it has written.
                    await asyncio.sleep(0)
                # Whatever the agent or the node sees of this command comes after a later, durable commit.
                got = await self._db.write(lambda tx: self._receive(tx, case, turn), durable=False)
                if isinstance(got, Case):
                    self._order.burned(command.sender, command.nonce, turn)
        except StoreError:
            return await self._without_store(admitted, ingress)
        except Busy as error:
            got = _Late(error)
        if isinstance(got, _Late):
            refused = Refused(got.error, command.nonce, command.command_id, command.reply_relays)
            return await self._refuse_early(refused, ingress)
        if isinstance(got, _Repeat):
            live.close()
            got = await self._settled(got)
            return await self._repeat(got, admitted, ingress)
        await self._fault("after_received")
        try:
            return await self._dispatch(got, preparation)
        except StoreError:
            return await self._paused(got, store_unavailable())
        except StateMoved:
            row = await self._db.read(lambda tx: self._commands.get(tx, got.command_id))
            return self._outcomes.state_of(got, row, None)
        except Exception as error:
            # A fault of ours: the agent gets an answer, and the row an end, if nothing ran yet.
            self._log("error", "command_failed", action=command.action, kind=type(error).__name__)
            return await self._paused(got, Internal("a fault in the node's plugin stopped the command"))

    async def _settled(self, repeat: _Repeat) -> _Repeat:
        """The repeat, its row looked at if the last look took this repeat for the command in work."""
        row = repeat.row
        if row.command_id not in self._passed_by or row.command_id in self._live:
            return repeat
        await self.reconcile()

        def again(tx: Tx) -> _Repeat:
            now = self._commands.get(tx, row.command_id) or row
            stored = self._commands.response(tx, row.sender_key, row.nonce)
            return _Repeat(now, None if stored is None else stored.response_json)

        return await self._db.read(again)

    def _ended(self, command_id: str) -> None:
        self._live[command_id] -= 1
        if not self._live[command_id]:
            del self._live[command_id]

    def _receive(self, tx: Tx, case: Case, turn: Turn) -> Case | _Repeat | _Late:
        command = case.command
        known = self._commands.by_nonce(tx, command.sender, command.nonce)
        if known is None and command.command_id is not None:
            known = self._commands.get(tx, command.command_id)
        if known is not None:
            return self._known(tx, known, command)
        if command.nonce <= turn.floor:
            expected = self._commands.last_nonce(tx, command.sender) + 1
            error = from_symbol(
                "nonce_too_low", f"the nonce must be {expected} or more", expected_min=expected
            )
            return _Late(error)
        row = received_row(case, self._now(), read_only=_read_only(command))
        if row.read_only:
            used = self._commands.reads_since(tx, case.credential_id, row.received_at - _DAY, READS_PER_DAY)
            if used >= READS_PER_DAY:
                return _Late(
                    from_symbol("daily_cap", f"{READS_PER_DAY} reads a day are used", retry_after=3_600)
                )
        self._commands.burn(tx, command.sender, command.nonce)
        self._commands.insert(tx, row)
        return case

    def _known(self, tx: Tx, known: CommandRow, command: Command) -> _Repeat | _Late:
        same = known.sender_key == command.sender and (
            known.body_hash == command.body_hash
            if known.nonce == command.nonce
            else known.payload_hash == command.payload_hash
        )
        if same:
            stored = self._commands.response(tx, known.sender_key, known.nonce)
            return _Repeat(known, None if stored is None else stored.response_json)
        what = "nonce" if known.nonce == command.nonce else "command_id"
        text = f"agent {command.sender} used {what} of command {known.command_id} for something else"
        self._alerts.raise_in(tx, Level.WARNING, "nonce_reuse", text, f"nonce_reuse:{command.sender}")
        return _Late(from_symbol("nonce_reuse", f"this {what} was used for another command"))

    def _case(self, admitted: Admitted, ingress: Ingress) -> Case:
        command_id = admitted.command.command_id or str(uuid.UUID(bytes=self._random(16), version=4))
        view = admitted.view
        return Case(
            command=admitted.command,
            view=view,
            command_id=command_id,
            transport=ingress.transport,
            message_id=ingress.message_id,
            received_at=ingress.received_at,
            advisor_id="" if view is None else view.advisor_id,
            credential_id="" if view is None else view.credential.credential_id,
        )

    async def _repeat(self, repeat: _Repeat, admitted: Admitted, ingress: Ingress) -> Response:
        case = self._case(admitted, ingress)
        response: Response
        if repeat.response is not None and repeat.row.nonce == case.command.nonce:
            response = decode_object(repeat.response, floats=True)
        else:
            response = self._outcomes.state_of(case, repeat.row, repeat.response)
        await self._send(case, response)
        return response

    async def _send(self, case: Case, response: Response) -> None:
        """Send a response that is on record once more; the caller has it in any case."""
        if case.transport in CALLER_ANSWERED:
            return
        try:
            await self._db.write(lambda tx: self._outcomes.send(tx, case, response))
            self._outcomes.kick()
        except StoreError:
            self._log("error", "response_not_sent", command=case.command_id)

    async def _without_store(self, admitted: Admitted, ingress: Ingress) -> Response:
        """The disk takes nothing: reads still answer, unnumbered and with their nonce unused (02 §15.22)."""
        command = admitted.command
        case = self._case(admitted, ingress)
        self._log("error", "command_not_stored", action=command.action)
        if not _read_only(command) or command.schema_type == CONTROL:
            return self._outcomes.unnumbered(command.nonce, store_unavailable(), command.command_id)
        try:
            read, params, fee = await self._readable(case)
            if fee is not None:
                raise store_unavailable()
            result, failed = await self._read(case, read, params)
        except ClnError as error:
            result, failed = None, node_error(error)
        except (HiveError, RuleRefusal) as refusal:
            result, failed = None, refusal.error if isinstance(refusal, RuleRefusal) else refusal
        return self._outcomes.unstored(case, result, failed)

    # -- steps 10 to 21 -----------------------------------------------------------------------------------

    async def _dispatch(self, case: Case, preparation: Preparation | None) -> Response:
        if case.command.schema_type == CONTROL:
            return await self._answer_control(case)
        if preparation is None:
            return await self._answer_read(case)
        async with self._order.writing(case.sender):
            return await self._write(case, preparation)

    async def _answer_control(self, case: Case) -> Response:
        try:
            check_no_root(case.command)
            result = await self._control.run(case)
        except HiveError as refusal:
            error = refusal
            return await self._committed(lambda tx: self._outcomes.answer(tx, case, None, error))
        return await self._committed(lambda tx: self._outcomes.answer(tx, case, result, None))

    async def _answer_read(self, case: Case) -> Response:
        try:
            read, params, fee = await self._readable(case)
            if fee is not None:
                # A read has no row of its beginning: its fee is taken before it, and back if it fails.
                await self._db.write(lambda tx: self._access.redeem(tx, case.command_id, fee))
        except (HiveError, RuleRefusal, ClnError) as refusal:
            return await self._refuse(case, refusal, None)
        result, error = await self._read(case, read, params)
        try:
            return await self._committed(lambda tx: self._outcomes.answer(tx, case, result, error))
        except StoreError:
            return self._outcomes.unstored(case, result, error)

    async def _readable(self, case: Case) -> tuple[ReadAction, Params, Fee | None]:
        spec, params, fee = await self._decision.judge_read(case)
        action = self._find_read(spec.schema, spec.name)
        if action is None:
            raise from_symbol(
                "unsupported_action", f"{spec.name} of {spec.schema} is not served by this version"
            )
        return action, params, fee

    async def _read(
        self, case: Case, action: ReadAction, params: Params
    ) -> tuple[JsonValue, HiveError | None]:
        try:
            return await action.read(params, case.caller(self._now())), None
        except HiveError as error:
            return None, error
        except ClnError as error:
            return None, node_error(error)

    async def _write(self, case: Case, preparation: Preparation) -> Response:
        judged: Judged | None = None
        try:
            rate = self._intake.check_danger_rate
            async with self._decision.judge(case, preparation, rate) as verdict:
                judged = verdict.judged
                if judged.workflow == "auto":
                    return await self._execution.run(
                        case, judged, verdict.caps, verdict.spend, from_state=State.RECEIVED
                    )
                return await self._approvals.hold(case, verdict)
        except (HiveError, RuleRefusal, ClnError) as failure:
            return await self._refuse(case, failure, judged)

    async def _refuse(
        self, case: Case, failure: HiveError | RuleRefusal | ClnError, judged: Judged | None
    ) -> Response:
        danger, spec = (judged.danger, (judged.schema, judged.action)) if judged else (None, None)
        if isinstance(failure, RuleRefusal):
            error, danger, spec = failure.error, failure.danger, failure.spec
        else:
            error = failure if isinstance(failure, HiveError) else node_error(failure)
        if error.symbol == "receipt_store_unavailable":
            return await self._paused(case, error)
        return await self._committed(
            lambda tx: self._outcomes.refuse(tx, case, error, danger=danger, spec=spec)
        )

    async def _paused(self, case: Case, error: HiveError) -> Response:
        # A row that began stays `executing`: its outcome is stored when the disk takes it again.
        try:
            row = await self._db.read(lambda tx: self._commands.get(tx, case.command_id))
            if row is not None and row.state == State.RECEIVED:
                return await self._committed(lambda tx: self._outcomes.refuse(tx, case, error))
        except StoreError:
            self._log("error", "refusal_not_stored", command=case.command_id)
        return self._outcomes.unnumbered(case.command.nonce, error, case.command_id)

    async def _committed(self, body: Callable[[Tx], Response]) -> Response:
        response = await self._db.write(body)
        self._outcomes.kick()
        return response

    # -- people and restarts --------------------------------------------------------------------------------

    async def reconcile(self) -> bool:
        """End what a crash left open: ask the node about `executing` rows, answer `received` ones. True when
        nothing is left. Call at start and by the clock: a fault may leave a row behind at any time, and its
        channel takes no other change until it is resolved. `approved` ones: ApprovalService.resume."""
        rows = await self._db.read(lambda tx: self._commands.in_states(tx, (State.RECEIVED, State.EXECUTING)))
        left = 0
        self._passed_by = {row.command_id for row in rows if row.command_id in self._live}
        # What the node gave itself and is about to run.
        self._passed_by |= {
            row.command_id
            for row in rows
            if row.state == State.RECEIVED and self._execution.claimed(row.command_id)
        }
        for row in rows:
            if row.command_id in self._passed_by:
                continue
            try:
                left += not await self._settle(row)
            except Exception as error:
                # One row that cannot be read must not keep all others, and the timers after us, waiting.
                self._log("error", "not_reconciled", command=row.command_id, kind=type(error).__name__)
                left += 1
        return left == 0

    async def watch_external(self) -> None:
        """Ask the node about the commands it has not finished (02 §7.1 `pending_external`); by the clock."""
        rows = await self._db.read(lambda tx: self._commands.in_states(tx, (State.PENDING_EXTERNAL,)))
        for row in rows:
            try:
                await self._execution.watch(row, await self.case_of(row))
            except Exception as error:
                # One that cannot be asked about now must not keep the others waiting.
                self._log("error", "not_watched", command=row.command_id, kind=type(error).__name__)

    async def _settle(self, row: CommandRow) -> bool:
        case = await self.case_of(row)
        if row.state == State.EXECUTING:
            return await self._execution.reconcile(row, case)
        await self._never_started(case, row)
        return True

    async def _never_started(self, case: Case, row: CommandRow) -> None:
        # The intent was never stored, so nothing ran; the agent may send it again under a new nonce.
        what = "the plugin stopped before the command ran; nothing was changed"
        if row.schema_id == CONTROL:
            # A confirmation or a vote may have been taken just before: only its own answer is lost.
            what = "the plugin stopped before it answered; command_status tells what became of the matter"
        error = from_symbol("shutting_down", what)
        try:
            if row.read_only:
                await self._committed(lambda tx: self._outcomes.answer(tx, case, None, error))
            else:
                await self._committed(lambda tx: self._outcomes.refuse(tx, case, error))
        except StateMoved:
            return

    async def case_of(self, row: CommandRow) -> Case:
        """A stored command as a case again."""
        return Case.stored(row, await self._credentials.current(row.credential_id))

    def cancel_in(self, tx: Tx, advisor_id: str, reason: str) -> int:
        """Cancel an advisor's waiting commands in the caller's transaction (revocation); how many."""
        return self._approvals.cancel_in(tx, advisor_id, reason)

    async def waiting(self, advisor_id: str) -> int:
        """How many commands of an advisor wait for people."""
        rows = await self._db.read(lambda tx: self._commands.open_of_advisor(tx, advisor_id, WAITING))
        return len(rows)


def _read_only(command: Command) -> bool:
    """Whether a command changes nothing that a receipt has to prove; unknown actions count as writes."""
    if command.schema_type == CONTROL:
        return True
    try:
        return find(command.schema_type, command.action).read_only
    except HiveError:
        return False
