"""What the pipeline does by the clock: expiries, reverts, roll-ups, roots, forgetting
(docs/protocol/02-fleet-management.md §5.5, §7.1, §11 "Loops"; docs/decisions/0071)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError, from_symbol
from hive_shared.store import StoreError, Tx

from ..domain.command_machine import FINAL
from ..domain.command_record import ReadGroup, RefusalGroup, TimerRow
from .approval_service import ApprovalService
from .execution import ExecutionService
from .execution_locks import ExecutionLocks
from .executors.action import Caller
from .executors.channel_write import ChannelWriter, FeeTarget, undo_of
from .executors.config_adjust import ConfigRows
from .executors.fee_policy import ANCHOR
from .fee_rules import FeeRules
from .ports_commands import CommandRows, Credentials, Database, FeeRows, Log
from .rebalance_rules import RebalanceRules
from .receipt_service import ReceiptFields, ReceiptService
from .spend_limits import SpendRows
from .spike_end import SpikeEnd
from .timer_end import timer_event, tried_again

PERIOD_S: Final = 30
HOUR_S: Final = 3_600
DAY_S: Final = 86_400
COMMANDS_KEPT_S: Final = 90 * DAY_S
RESPONSES_KEPT_S: Final = 7 * DAY_S
# The longest window of any counter is 30 days.
_COUNTERS_KEPT_S: Final = 31 * DAY_S
_ENFORCE_DELAY_S: Final = 600
_MAX_BATCHES: Final = 100


class TimerService:
    """`tick` every 30 s, `hourly` every hour; both may be called at any time and catch up. `by_clock` are
    further steps of the tick: what single actions ask for or end by the clock."""

    def __init__(
        self,
        *,
        db: Database,
        commands: CommandRows,
        fees: FeeRows,
        receipts: ReceiptService,
        approvals: ApprovalService,
        execution: ExecutionService,
        credentials: Credentials,
        reconcile: Callable[[], Awaitable[bool]],
        by_clock: Sequence[Callable[[], Awaitable[object]]],
        spends: SpendRows,
        settings: ConfigRows,
        writer: ChannelWriter,
        present_fees: Callable[[str], Awaitable[tuple[int, int] | None]],
        spikes: SpikeEnd,
        fee_rules: FeeRules,
        rebalance_rules: RebalanceRules,
        locks: ExecutionLocks,
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._db, self._commands, self._fees, self._receipts = db, commands, fees, receipts
        self._approvals, self._execution, self._credentials = approvals, execution, credentials
        self._reconcile, self._writer, self._present_fees = reconcile, writer, present_fees
        self._by_clock, self._spend_rows = tuple(by_clock), spends
        self._spikes, self._fee_rules, self._settings = spikes, fee_rules, settings
        self._rebalance_rules = rebalance_rules
        self._locks, self._now, self._log = locks, now, log

    async def tick(self) -> None:
        """Finish what a crash or a full disk left, expire what waited too long, fire due timers."""
        for step in (
            self._execution.retry_unwritten,
            self._reconcile,
            self._approvals.expire,
            self._approvals.resume,
            self._approvals.settle_conflicts,
            # Spikes first: a fee that an anchor held may show again only then.
            self._spikes.end_due,
            # Rules before anchors: one that takes over from another spares the channel a change.
            self._fee_rules.act,
            self._end_anchors,
            self._rebalance_rules.act,
            *self._by_clock,
            self._roll_up_refusals,
        ):
            await self._attempt(step)

    async def drain(self) -> None:
        """Wait for what rules began and has not ended; the runtime bounds this by its stop deadline."""
        await self._rebalance_rules.drain()

    async def _attempt(self, step: Callable[[], Awaitable[object]]) -> None:
        try:
            await step()
        except Exception as error:
            # The steps are independent: an expiry that fails must not keep an anchor from ending.
            self._log("error", "timer_step_failed", step=step.__name__, kind=type(error).__name__)

    async def _end_anchors(self) -> None:
        for timer in await self._db.read(lambda tx: self._commands.timers(tx, ANCHOR, self._now())):
            await self._end_anchor(timer)

    async def hourly(self) -> None:
        """Receipts for the hour's reads, then roots over all receipts; forget what is too old."""
        await self._roll_up_reads()
        await self._receipts.hourly_roots()
        await self._receipts.seal_checked()
        now = self._now()

        def prune(tx: Tx) -> None:
            self._fees.prune(tx, now - COMMANDS_KEPT_S)
            self._fees.prune_counters(tx, now - _COUNTERS_KEPT_S)
            self._spend_rows.prune(tx, now - _COUNTERS_KEPT_S)
            self._commands.prune_timers(tx, now - COMMANDS_KEPT_S)
            self._settings.prune(tx, now - COMMANDS_KEPT_S)

        await self._db.write(prune)
        # One agent may send 86,400 commands a day, so one batch an hour would never catch up; batches, so
        # that a command waits for one of them at most.
        await self._until_none(lambda tx: self._commands.prune_responses(tx, now - RESPONSES_KEPT_S))
        await self._until_none(lambda tx: self._commands.prune(tx, tuple(FINAL), now - COMMANDS_KEPT_S))

    async def _until_none(self, forget: Callable[[Tx], int]) -> None:
        for _ in range(_MAX_BATCHES):
            if not await self._db.write(forget):
                return

    # -- anchors ----------------------------------------------------------------------------------------

    async def _end_anchor(self, timer: TimerRow) -> None:
        """Put back the fee from before an anchor. Idempotent: after a crash the fee tells how far it came."""
        payload: Mapping[str, Any] = json.loads(timer.payload_json)
        target = FeeTarget.from_json(payload["target"])
        caller = Caller(timer.timer_id, "", payload["advisor_id"], payload["credential_id"], self._now())
        try:
            async with self._locks.hold({f"channel:{target.channel_id}"}):
                await self._revert(timer, target, caller)
        except (ClnError, StoreError, HiveError) as error:
            # Tried again at the next tick: the timer is still armed.
            self._log("warning", "anchor_revert_postponed", channel=target.scid, reason=type(error).__name__)

    async def _revert(self, timer: TimerRow, target: FeeTarget, caller: Caller) -> None:
        present = await self._present_fees(target.channel_id)
        result: dict[str, JsonValue] = {"anchor": timer.timer_id, "channel": target.scid, "due": timer.due}
        error: HiveError | None = None
        if present is None:
            result["state"] = "channel_gone"
        elif present[1] == target.old[1]:
            result["state"] = "already_back"
        elif present[1] != target.new[1] and await self._spikes.holds(target.channel_id, present[1]):
            # The spike will put the anchored fee back; the anchor ends after that.
            return
        elif present[1] != target.new[1]:
            # Somebody set another fee since: that is the newer will.
            result["state"] = "left_alone"
        else:
            back = FeeTarget(
                target.scid, target.channel_id, target.peer_id, present, (present[0], target.old[1])
            )
            outcome = await self._writer.run(undo_of((back,), _ENFORCE_DELAY_S), caller)
            if outcome.state != "success" and tried_again(timer, outcome.error, self._now()):
                self._log("warning", "anchor_revert_postponed", channel=target.scid, reason=outcome.state)
                return
            if outcome.state != "success":
                error = outcome.error or from_symbol("node_error", "the fee could not be put back")
            result |= outcome.result
            writes = outcome.fee_writes
            await self._db.write(lambda tx: self._reverted(tx, timer, caller, result, error, writes))
            return
        await self._db.write(lambda tx: self._reverted(tx, timer, caller, result, None, ()))

    def _reverted(
        self,
        tx: Tx,
        timer: TimerRow,
        caller: Caller,
        result: dict[str, JsonValue],
        error: HiveError | None,
        writes: tuple[Any, ...],
    ) -> None:
        if not self._commands.timer_done(tx, timer.timer_id, self._now()):
            return
        self._fees.add(tx, writes)
        status = "success" if error is None else "error"
        fields = timer_event(
            "hive:fee-policy/v1",
            "clear_anchor",
            status,
            timer=timer,
            caller=caller,
            error=error,
            result=result,
        )
        self._receipts.append(tx, fields)

    # -- roll-ups ---------------------------------------------------------------------------------------

    async def _roll_up_refusals(self) -> None:
        this_minute = self._now() // 60

        def body(tx: Tx) -> None:
            for group in self._commands.refusals_without_receipt(tx, this_minute):
                receipt = self._receipts.append(tx, self._refusals(tx, group))
                self._commands.cover_refusals(tx, group, receipt.receipt_id)

        if await self._db.read(lambda tx: self._commands.refusals_without_receipt(tx, this_minute)):
            await self._db.write(body)

    def _refusals(self, tx: Tx, group: RefusalGroup) -> ReceiptFields:
        row = self._commands.get(tx, group.last_command_id)
        # The group was read in this transaction, so its command is there.
        assert row is not None
        return ReceiptFields(
            schema=row.schema_id,
            action=row.action,
            status="rejected",
            advisor_id=row.advisor_id,
            agent_id=f"did:nostr:{group.sender_key}",
            credential_id=row.credential_id or None,
            command_id=row.command_id,
            command_hash=row.body_hash,
            error={"slug": group.slug},
            result={"repeats": group.count, "minute": group.minute * 60},
        )

    async def _roll_up_reads(self) -> None:
        hour = self._now() // HOUR_S * HOUR_S
        groups = await self._db.read(lambda tx: self._commands.reads_without_receipt(tx, hour))
        by_agent: dict[tuple[str, str], list[ReadGroup]] = {}
        for group in groups:
            by_agent.setdefault((group.advisor_id, group.credential_id), []).append(group)
        for (advisor_id, credential_id), mine in by_agent.items():
            view = await self._credentials.current(credential_id)
            fields = ReceiptFields(
                schema="hive:monitor/v1",
                action="reads",
                status="success",
                advisor_id=advisor_id,
                agent_id=None if view is None else view.credential.agent_id,
                credential_id=credential_id or None,
                result={
                    "reads": {f"{g.schema_id}#{g.action}": g.count for g in mine},
                    "from": min(g.first_at for g in mine),
                    "to": max(g.last_at for g in mine),
                },
            )
            await self._cover(fields, hour)

    async def _cover(self, fields: ReceiptFields, hour: int) -> None:
        def body(tx: Tx) -> None:
            receipt = self._receipts.append(tx, fields)
            self._commands.cover_reads(
                tx, fields.advisor_id, fields.credential_id or "", hour, receipt.receipt_id
            )

        await self._db.write(body)
