"""Follows the rules of fee schedules by the clock (docs/protocol/02-fleet-management.md §4 item 12, §5.6;
docs/decisions/0426).

Each change is a command of its own: judged by scope, policy and waiting times as they are at that moment,
under the credential that set the rules, and run like any other, with its intent on disk before the node is
asked. It holds the channel by an anchor, so that its end needs no rule: the fee from before comes back when
the anchor ends, whatever has become of the schedule. Which rule holds which channel is read off the anchors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.envelope import STATUS_SUCCESS
from hive_shared.errors import HiveError
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.command_record import TimerRow
from ..domain.fee_rules import FeeRule, Held, Wanted, local_permille, wanted
from .executors.channel_write import FeeTarget
from .executors.channels import FEE_STATES, channel_key, fees_of, find_channel
from .executors.fee_policy import ANCHOR
from .executors.fee_schedule import HELD_BY, SCHEDULE, rules_of
from .ports_commands import CommandRows, Database, FeeNode, KillSwitch, Log
from .rule_runs import RETRY_FAILED_S, RuleRuns, Standing
from .spike_end import SpikeEnd

_DAY_S: Final = 86_400
_Row = Mapping[str, Any]


class _Anchor(msgspec.Struct, frozen=True):
    """An anchor and what it holds; `held` None for one that no rule set."""

    timer: TimerRow
    target: FeeTarget
    credential_id: str
    held: Held | None


class FeeRules:
    """Acts on every stored schedule. `act` belongs before the end of anchors: a rule that takes over from
    another one spares the channel a change."""

    def __init__(
        self,
        *,
        db: Database,
        commands: CommandRows,
        runs: RuleRuns,
        spikes: SpikeEnd,
        kill_switch: KillSwitch,
        node: FeeNode,
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._db, self._commands, self._runs, self._spikes = db, commands, runs, spikes
        self._kill, self._node, self._now, self._log = kill_switch, node, now, log

    async def act(self) -> None:
        """Change what the rules want changed now. Idempotent; while the emergency stop is on, nothing."""
        if self._kill.engaged() or self._kill.draining():
            return
        schedules, anchors = await self._db.read(self._stored)
        ours = [anchor for anchor in anchors if anchor.held is not None]
        if not schedules and not ours:
            return
        standing = [each for timer in schedules if (each := await self._runs.standing(timer, HELD_BY))]
        try:
            listing = await self._node.listpeerchannels()
        except ClnError as error:
            self._log("warning", "fee_rules_postponed", code=error.code)
            return
        for each in standing:
            await self._follow(each, listing, anchors)
        followed = {each.timer.subject for each in standing}
        for anchor in ours:
            if anchor.credential_id not in followed:
                await self._let_go(anchor)

    def _stored(self, tx: Tx) -> tuple[tuple[TimerRow, ...], tuple[_Anchor, ...]]:
        anchors = (_anchor(timer) for timer in self._commands.timers(tx, ANCHOR))
        return self._commands.timers(tx, SCHEDULE), tuple(anchors)

    # -- what they want -------------------------------------------------------------------------------

    async def _follow(self, this: Standing, listing: Sequence[_Row], anchors: Iterable[_Anchor]) -> None:
        schedule = rules_of(this.payload["rules"])
        by_channel = {anchor.timer.subject: anchor for anchor in anchors}
        seen: set[str] = set()
        for row, rules in _named(schedule, listing):
            channel_id = str(row["channel_id"])
            seen.add(channel_id)
            anchor = by_channel.get(channel_id)
            mine = anchor if anchor is not None and anchor.credential_id == this.timer.subject else None
            held = None if mine is None else mine.held
            want = wanted(rules, local_permille(row), held, self._now())
            if want is not None and held is not None and held.fee_ppm == want.rule.fee_ppm:
                await self._prolong(mine, want)
                continue
            free = want is not None and await self._free(row, anchor, held)
            if want is not None and free and await self._change(this, row, want):
                continue
            if mine is not None and held is not None and not _in_force(rules, row, held, self._now()):
                await self._let_go(mine)
        for channel_id, anchor in by_channel.items():
            if anchor.held and anchor.credential_id == this.timer.subject and channel_id not in seen:
                await self._let_go(anchor)
        await self._runs.remember(this)

    async def _free(self, row: _Row, anchor: _Anchor | None, held: Held | None) -> bool:
        """Whether a rule may touch the channel: an anchor that somebody set goes before, and a fee spike."""
        if row.get("state") not in FEE_STATES or (anchor is not None and held is None):
            return False
        return not await self._spikes.holds(str(row["channel_id"]), fees_of(row)[1])

    async def _prolong(self, anchor: _Anchor | None, want: Wanted) -> None:
        """Hold on: to the end of these hours, or a threshold's rate some more weeks."""
        assert anchor is not None
        due = anchor.timer.due
        if (due != want.until) if want.rule.hours is not None else (due < want.until - _DAY_S):
            await self._end_at(anchor, want.until)

    async def _let_go(self, anchor: _Anchor) -> None:
        if anchor.timer.due > self._now():
            await self._end_at(anchor, self._now())

    async def _end_at(self, anchor: _Anchor, due: int) -> None:
        timer = replace(anchor.timer, due=due)
        await self._db.write(lambda tx: self._commands.change_timer(tx, timer))

    # -- one change -----------------------------------------------------------------------------------

    async def _change(self, this: Standing, row: _Row, want: Wanted) -> bool:
        """Have a rule hold a channel; False when it may not now."""
        channel, now = channel_key(row), self._now()
        key = f"{want.rule.index}:{channel}"
        if this.waits(key, want.since, now):
            return False
        params: dict[str, JsonValue] = {
            "channel_id": channel,
            "target_fee_ppm": want.rule.fee_ppm,
            "until": want.until,
            "rule": want.rule.index,
            "schedule": this.timer.timer_id,
        }
        ran = await self._runs.run(this, HELD_BY, params)
        if isinstance(ran, HiveError):
            this.refuse(key, want.since, ran, now, rule=want.rule.index, channel=channel)
        elif ran is not None and ran["status"] == STATUS_SUCCESS:
            this.acted(key)
            return True
        elif ran is not None:
            this.pause(key, want.since, now + RETRY_FAILED_S, "failed")
        return False


def _anchor(timer: TimerRow) -> _Anchor:
    payload = json.loads(timer.payload_json)
    target, rule = FeeTarget.from_json(payload["target"]), payload.get("rule")
    held = None if rule is None else Held(rule["index"], target.new[1], rule["since"], timer.due)
    return _Anchor(timer, target, str(payload["credential_id"]), held)


def _in_force(rules: Sequence[FeeRule], row: _Row, held: Held, now: int) -> bool:
    """Whether the rule that holds the channel is still in force, also while another one goes before it."""
    mine = [rule for rule in rules if (rule.index, rule.fee_ppm) == (held.index, held.fee_ppm)]
    return wanted(mine, local_permille(row), held, now) is not None


def _named(rules: Sequence[FeeRule], listing: Sequence[_Row]) -> list[tuple[_Row, list[FeeRule]]]:
    """Every channel that rules name and the node has, with these rules in their order."""
    found: dict[str, tuple[_Row, list[FeeRule]]] = {}
    for rule in rules:
        for text in rule.channels:
            try:
                row = find_channel(listing, text)
            except HiveError:
                continue  # closed since
            found.setdefault(str(row["channel_id"]), (row, []))[1].append(rule)
    return list(found.values())
