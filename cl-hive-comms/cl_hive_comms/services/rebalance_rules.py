"""Follows auto_rebalance_rules by the clock (docs/protocol/02-fleet-management.md §4 item 12, §5.6;
docs/decisions/0427).

A rule that is in force asks for one `circular_rebalance` under the credential that set it, judged, counted
and receipted like the agent's own. A rebalance may take minutes, so it runs beside the clock, one at a time
for each credential; none is begun while the node still owes the end of an earlier one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.envelope import STATUS_SUCCESS
from hive_shared.errors import HiveError, from_symbol
from hive_shared.store import Tx

from ..domain.command_machine import State
from ..domain.command_record import TimerRow
from ..domain.fee_rules import local_permille
from ..domain.lightning_invoice import fee_bound_msat, sats_up
from ..domain.rebalance_rules import RebalanceRule
from ..domain.spend import REBALANCE
from .executors.channels import find_channel
from .executors.rebalance_rules import DONE_BY, RULES, rebalance_rules_of
from .ports_commands import CommandRows, Database, FeeNode, KillSwitch, Log
from .rule_runs import RETRY_FAILED_S, RETRY_S, RuleRuns, Standing
from .spend_limits import SpendLimits

RETRY_FOR_S: Final = 60
_UNENDED: Final = (State.EXECUTING, State.PENDING_EXTERNAL)


class RebalanceRules:
    """Acts on all stored rules; `act` only begins what they want."""

    def __init__(
        self,
        *,
        db: Database,
        commands: CommandRows,
        runs: RuleRuns,
        spends: SpendLimits,
        kill_switch: KillSwitch,
        node: FeeNode,
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._db, self._commands, self._runs, self._spends = db, commands, runs, spends
        self._kill, self._node, self._now, self._log = kill_switch, node, now, log
        self._running: dict[str, asyncio.Task[None]] = {}

    async def act(self) -> None:
        """Begin one rebalance for each credential whose rules want one; during the emergency stop, none."""
        if self._kill.engaged() or self._kill.draining():
            return
        stored = await self._db.read(self._stored)
        idle = [timer for timer in stored if timer.subject not in self._running]
        standing = [each for timer in idle if (each := await self._runs.standing(timer, DONE_BY))]
        if not standing:
            return
        try:
            listing = await self._node.listpeerchannels()
        except ClnError as error:
            self._log("warning", "rebalance_rules_postponed", code=error.code)
            return
        for rules in standing:
            task = asyncio.create_task(self._follow(rules, listing))
            self._running[rules.timer.subject] = task
            task.add_done_callback(partial(self._ended, rules.timer.subject))

    async def drain(self) -> None:
        """Wait for the rebalances under way; the runtime bounds this by its stop deadline."""
        if self._running:
            await asyncio.wait(set(self._running.values()))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        del self._running[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log("error", "rebalance_rules_failed", kind=type(error).__name__)

    def _stored(self, tx: Tx) -> list[TimerRow]:
        """The rules whose credential has no rebalance of theirs under way."""
        timers = self._commands.timers(tx, RULES)
        if not timers:
            return []
        rows = self._commands.in_states(tx, _UNENDED)
        busy = {row.credential_id for row in rows if (row.schema_id, row.action) == DONE_BY}
        return [timer for timer in timers if timer.subject not in busy]

    async def _follow(self, this: Standing, listing: Sequence[Mapping[str, Any]]) -> None:
        for rule in rebalance_rules_of(this.payload["rules"]):
            now, since = self._now(), self._since(rule, listing)
            key = str(rule.index)
            if since is None or this.waits(key, since, now):
                continue
            ran = await self._begin(this, rule)
            if isinstance(ran, HiveError):
                this.refuse(key, since, ran, now, rule=rule.index)
                continue
            if ran is not None:
                good = ran["status"] == STATUS_SUCCESS
                word, wait = ("done", RETRY_S) if good else ("failed", RETRY_FAILED_S)
                this.pause(key, since, self._now() + wait, word)
            # What this one moved has changed what the others see.
            break
        await self._runs.remember(this)

    def _since(self, rule: RebalanceRule, listing: Sequence[Mapping[str, Any]]) -> int | None:
        try:
            source, target = find_channel(listing, rule.source), find_channel(listing, rule.target)
        except HiveError:
            return None  # closed since
        return rule.since(local_permille(source), local_permille(target), self._now())

    async def _begin(self, this: Standing, rule: RebalanceRule) -> Mapping[str, Any] | HiveError | None:
        budget = int(this.payload["daily_budget_sats"])
        most = sats_up(fee_bound_msat(rule.amount_sat * 1_000, rule.max_fee_ppm))
        paid = await self._db.read(
            lambda tx: self._spends.fees(tx, this.timer.subject, REBALANCE, self._now())
        )
        if paid + most > budget:
            return from_symbol(
                "budget_exhausted",
                f"rebalances of this credential cost {paid} of {budget} sat in 24 hours; up to {most} more do"
                " not fit",
            )
        params: dict[str, JsonValue] = {
            "from_channel": rule.source,
            "to_channel": rule.target,
            "amount_sats": rule.amount_sat,
            "max_fee_ppm": rule.max_fee_ppm,
            "retry_for": RETRY_FOR_S,
            "rule": rule.index,
            "schedule": this.timer.timer_id,
        }
        return await self._runs.run(this, DONE_BY, params)
