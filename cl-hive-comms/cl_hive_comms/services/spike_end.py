"""Ending fee spikes by the clock (docs/protocol/02-fleet-management.md §5.5; docs/decisions/0221)."""

from __future__ import annotations

import json
from collections.abc import Callable

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError, from_symbol
from hive_shared.registry import EMERGENCY
from hive_shared.store import StoreError, Tx
from msgspec.structs import replace

from ..domain.command_record import FeeWrite, TimerRow
from .execution_locks import ExecutionLocks
from .executors.action import Caller, Outcome
from .executors.channel_write import MAX_PARTS, ChannelWriter, FeeTarget, undo_of
from .executors.channels import FEE_STATES, fees_of
from .executors.emergency import SPIKE, spiked
from .ports_commands import CommandRows, Database, FeeNode, FeeRows, Log
from .receipt_service import ReceiptService
from .timer_end import timer_event, tried_again

_Shown = dict[str, tuple[int, int]]


class SpikeEnd:
    """Puts the fees from before a spike back when it is over. `engaged` is the kill switch: while it is on
    the fees stay."""

    def __init__(
        self,
        *,
        db: Database,
        commands: CommandRows,
        fees: FeeRows,
        receipts: ReceiptService,
        node: FeeNode,
        writer: ChannelWriter,
        engaged: Callable[[], bool],
        locks: ExecutionLocks,
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._db, self._commands, self._fees, self._receipts = db, commands, fees, receipts
        self._node, self._writer, self._engaged = node, writer, engaged
        self._locks, self._now, self._log = locks, now, log

    async def holds(self, channel_id: str, ppm: int) -> bool:
        """Whether this rate of a channel is that of a spike which will end."""
        timers = await self._db.read(lambda tx: self._commands.timers(tx, SPIKE))
        return any(
            target.channel_id == channel_id and target.new[1] == ppm
            for timer in timers
            for target in spiked(timer)
        )

    async def end_due(self) -> None:
        """End every spike whose time has come. Idempotent: after a crash the fees tell how far it came."""
        if self._engaged():
            return
        for timer in await self._db.read(lambda tx: self._commands.timers(tx, SPIKE, self._now())):
            targets = spiked(timer)
            try:
                async with self._locks.hold(f"channel:{target.channel_id}" for target in targets):
                    await self._end(timer, targets)
            except (ClnError, StoreError, HiveError) as error:
                # Tried again at the next tick: the timer is still armed.
                self._log("warning", "fee_spike_end_postponed", reason=type(error).__name__)

    async def _end(self, timer: TimerRow, targets: tuple[FeeTarget, ...]) -> None:
        shown: _Shown = {
            str(row["channel_id"]): fees_of(row)
            for row in await self._node.listpeerchannels()
            if row.get("state") in FEE_STATES
        }
        back: list[FeeTarget] = []
        others: list[JsonValue] = []
        for target in targets:
            present = shown.get(target.channel_id)
            if present is not None and present[1] == target.new[1] != target.old[1]:
                # The base fee may have been changed since; a spike never touched it.
                back.append(replace(target, old=present, new=(present[0], target.old[1])))
            else:
                others.append({"channel": target.scid, "state": _state(target, present)})
        caller = self._caller(timer)
        outcome = await self._writer.run({**undo_of(back, 0), "many": True}, caller)
        if outcome.state != "success" and tried_again(timer, outcome.error, self._now()):
            await self._keep(outcome.fee_writes)
            self._log("warning", "fee_spike_end_postponed", reason=outcome.state)
            return
        await self._db.write(lambda tx: self._ended(tx, timer, caller, outcome, others))

    def _caller(self, timer: TimerRow) -> Caller:
        payload = json.loads(timer.payload_json)
        return Caller(timer.timer_id, "", payload["advisor_id"], payload["credential_id"], self._now())

    async def _keep(self, writes: tuple[FeeWrite, ...]) -> None:
        if writes:
            await self._db.write(lambda tx: self._fees.add(tx, writes))

    def _ended(
        self, tx: Tx, timer: TimerRow, caller: Caller, outcome: Outcome, others: list[JsonValue]
    ) -> None:
        if not self._commands.timer_done(tx, timer.timer_id, self._now()):
            return
        self._fees.add(tx, outcome.fee_writes)
        error = outcome.error
        if outcome.state != "success" and error is None:
            error = from_symbol("node_error", "the fees could not be put back")
        result: dict[str, JsonValue] = {**outcome.result, "due": timer.due}
        if others:
            result["others"] = others[:MAX_PARTS]
        fields = timer_event(
            EMERGENCY, SPIKE, outcome.state, timer=timer, caller=caller, error=error, result=result
        )
        self._receipts.append(tx, fields)


def _state(target: FeeTarget, present: tuple[int, int] | None) -> str:
    if present is None:
        return "channel_gone"
    # Somebody set another fee since: that is the newer will.
    return "already_back" if present[1] == target.old[1] else "left_alone"
