"""Follows the rules of fee schedules by the clock (docs/protocol/02-fleet-management.md §4 item 12;
docs/decisions/0426).

Each change is a command of its own: judged by scope, policy and waiting times as they are at that moment,
under the credential that set the rules, and run like any other, with its intent on disk before the node is
asked. It holds the channel by an anchor, so that its end needs no rule: the fee from before comes back when
the anchor ends, whatever has become of the schedule. Which rule holds which channel is read off the anchors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.envelope import STATUS_SUCCESS
from hive_shared.errors import CredentialInvalid, HiveError, from_symbol
from hive_shared.registry import CONFIG
from hive_shared.store import StoreError, Tx

from ..domain.approval import Workflow, rank
from ..domain.command_machine import State
from ..domain.command_record import TimerRow
from ..domain.fee_rules import FeeRule, Held, Wanted, local_permille, wanted
from .command_case import Case, RuleRefusal, received_row
from .command_outcome import CommandOutcomes, Response, StateMoved
from .decision import DecisionService, Verdict
from .execution import ExecutionService
from .executors.action import Caller
from .executors.channel_write import FeeTarget
from .executors.channels import FEE_STATES, channel_key, fees_of, find_channel
from .executors.fee_policy import ANCHOR
from .executors.fee_schedule import HELD_BY, SCHEDULE, rules_of
from .executors.node_errors import node_error
from .intake import Intake
from .node_command import NodeCommands
from .ports_commands import CommandRows, Credentials, CredentialView, Database, FeeNode, KillSwitch, Log
from .receipt_service import ReceiptService
from .spike_end import SpikeEnd
from .timer_end import timer_event

RETRY_S: Final = 300
"""A rule that was refused is tried again after this, or when the refusal says."""
RETRY_FAILED_S: Final = 3_600
"""A change that the node refused is tried again after this."""
_DAY_S: Final = 86_400
_Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Anchor:
    """An anchor and what it holds; `held` None for one that no rule of this credential set."""

    timer: TimerRow
    target: FeeTarget
    credential_id: str
    held: Held | None


@dataclass(slots=True)
class _Round:
    """One schedule at one moment. `told` is what it was refused and when to try again, by rule and channel:
    (begin of the hours, slug, time)."""

    timer: TimerRow
    rules: tuple[FeeRule, ...]
    view: CredentialView
    approved: Workflow
    told: dict[str, tuple[int, str, int]]
    refused: list[JsonValue]


class FeeRules:
    """Acts on every stored schedule. `act` belongs before the end of anchors: a rule that takes over from
    another one spares the channel a change."""

    def __init__(
        self,
        *,
        db: Database,
        commands: CommandRows,
        credentials: Credentials,
        intake: Intake,
        decision: DecisionService,
        execution: ExecutionService,
        outcomes: CommandOutcomes,
        receipts: ReceiptService,
        node_commands: NodeCommands,
        spikes: SpikeEnd,
        kill_switch: KillSwitch,
        node: FeeNode,
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._db, self._commands, self._credentials, self._intake = db, commands, credentials, intake
        self._decision, self._execution, self._outcomes = decision, execution, outcomes
        self._receipts = receipts
        self._node_commands, self._spikes, self._kill = node_commands, spikes, kill_switch
        self._node, self._now, self._log = node, now, log

    async def act(self) -> None:
        """Change what the rules want changed now. Idempotent; while the emergency stop is on, nothing."""
        if self._kill.engaged() or self._kill.draining():
            return
        schedules, anchors = await self._db.read(self._stored)
        ours = [anchor for anchor in anchors if anchor.held is not None]
        if not schedules and not ours:
            return
        rounds = [each for timer in schedules if (each := await self._round(timer)) is not None]
        try:
            listing = await self._node.listpeerchannels()
        except ClnError as error:
            self._log("warning", "fee_rules_postponed", code=error.code)
            return
        for each in rounds:
            await self._follow(each, listing, anchors)
        followed = {each.timer.subject for each in rounds}
        for anchor in ours:
            if anchor.credential_id not in followed:
                await self._let_go(anchor)

    def _stored(self, tx: Tx) -> tuple[tuple[TimerRow, ...], tuple[_Anchor, ...]]:
        anchors = (_anchor(timer) for timer in self._commands.timers(tx, ANCHOR))
        return self._commands.timers(tx, SCHEDULE), tuple(anchors)

    # -- whose rules still stand ----------------------------------------------------------------------

    async def _round(self, timer: TimerRow) -> _Round | None:
        """The schedule, None when it may not act now. Ends one whose credential ended."""
        payload = json.loads(timer.payload_json)
        view = await self._credentials.current(payload["credential_id"])
        try:
            if view is None:
                raise from_symbol("credential_revoked", "the credential is gone")
            self._intake.check_standing(view)
            await self._intake.verify(view, *HELD_BY)
        except CredentialInvalid as error:
            if error.symbol in ("credential_revoked", "credential_superseded", "credential_expired"):
                await self._db.write(lambda tx, slug=error.symbol: self._ended(tx, timer, slug))  # type: ignore[misc]
            return None
        except HiveError as error:
            self._log("warning", "fee_schedule_postponed", slug=error.symbol)
            return None
        told = {key: tuple(each) for key, each in payload.get("told", {}).items()}
        approved = await self._db.read(lambda tx: self._approved(tx, timer.timer_id))
        return _Round(timer, rules_of(payload["rules"]), view, approved, told, [])

    def _approved(self, tx: Tx, command_id: str) -> Workflow:
        """By whom the schedule was allowed: by itself, or by people."""
        row = self._commands.get(tx, command_id)
        judged = json.loads((row.hold_json if row is not None else None) or "{}").get("judged", {})
        return Workflow(judged.get("workflow", Workflow.AUTO.value))

    def _ended(self, tx: Tx, timer: TimerRow, slug: str) -> None:
        if self._commands.timer_done(tx, timer.timer_id, self._now()):
            self._tell(tx, timer, "success", {"state": "ended", "reason": slug})

    def _tell(self, tx: Tx, timer: TimerRow, status: str, result: JsonValue) -> None:
        payload = json.loads(timer.payload_json)
        caller = Caller(timer.timer_id, "", payload["advisor_id"], payload["credential_id"], self._now())
        fields = timer_event(CONFIG, SCHEDULE, status, timer=timer, caller=caller, error=None, result=result)
        self._receipts.append(tx, fields)

    # -- what they want -------------------------------------------------------------------------------

    async def _follow(self, this: _Round, listing: Sequence[_Row], anchors: Iterable[_Anchor]) -> None:
        before = dict(this.told)
        by_channel = {anchor.timer.subject: anchor for anchor in anchors}
        seen: set[str] = set()
        for row, rules in _named(this.rules, listing):
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
        if this.told != before or this.refused:
            await self._db.write(lambda tx: self._remember(tx, this))

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

    async def _change(self, this: _Round, row: _Row, want: Wanted) -> bool:
        """Have a rule hold a channel; False when it may not now."""
        key = f"{want.rule.index}:{channel_key(row)}"
        told = this.told.get(key)
        if told is not None and told[0] == want.since and self._now() < told[2]:
            return False
        params: dict[str, JsonValue] = {
            "channel_id": channel_key(row),
            "target_fee_ppm": want.rule.fee_ppm,
            "until": want.until,
            "rule": want.rule.index,
            "schedule": this.timer.timer_id,
        }
        try:
            response = await self._run(this, params)
        except (HiveError, RuleRefusal, ClnError) as failure:
            self._refused(this, key, want, params, _error_of(failure))
        except (StoreError, StateMoved) as failure:
            self._log("warning", "fee_rule_postponed", reason=type(failure).__name__)
        else:
            if response["status"] == STATUS_SUCCESS:
                this.told.pop(key, None)
                return True
            # It has its receipt.
            this.told[key] = (want.since, "failed", self._now() + RETRY_FAILED_S)
        return False

    async def _run(self, this: _Round, params: dict[str, JsonValue]) -> Response:
        case = await self._node_commands.make(*HELD_BY, params, this.view)
        with self._decision.prepare(case, params) as preparation:
            async with self._decision.judge(case, preparation) as verdict:
                _check_allowed(verdict, this.approved)
                await self._db.write(lambda tx: self._admit(tx, case), durable=False)
                try:
                    return await self._execution.run(
                        case, verdict.judged, verdict.caps, verdict.spend, from_state=State.RECEIVED
                    )
                except HiveError as error:
                    # Refused at the last moment, or its outcome waits for the disk: then it is executing.
                    refusal, danger = error, verdict.judged.danger
                    await self._db.write(
                        lambda tx: self._outcomes.refuse(tx, case, refusal, danger=danger, spec=HELD_BY)
                    )
                    raise

    def _admit(self, tx: Tx, case: Case) -> None:
        self._commands.burn(tx, case.sender, case.command.nonce)
        self._commands.insert(tx, received_row(case, self._now(), read_only=False))

    def _refused(
        self, this: _Round, key: str, want: Wanted, params: Mapping[str, JsonValue], error: HiveError
    ) -> None:
        """Note a refusal. Each reason is told once in the hours of a rule, a threshold's once a day."""
        told, after = this.told.get(key), error.data.get("retry_after")
        wait = after if isinstance(after, int) and after > 0 else RETRY_S
        this.told[key] = (want.since, error.symbol, self._now() + wait)
        if told is None or told[:2] != (want.since, error.symbol):
            this.refused.append(
                {
                    "rule": want.rule.index,
                    "channel": params["channel_id"],
                    "error": error.symbol,
                    "message": error.detail,
                }
            )

    def _remember(self, tx: Tx, this: _Round) -> None:
        payload = {**json.loads(this.timer.payload_json), "told": this.told}
        changed = self._commands.change_timer(tx, replace(this.timer, payload_json=json.dumps(payload)))
        if changed and this.refused:
            self._tell(tx, this.timer, "rejected", {"refused": this.refused})


def _check_allowed(verdict: Verdict, approved: Workflow) -> None:
    """Raises what stands against a change that was not denied: others at work, or people to be asked who
    were not asked about the schedule."""
    if verdict.held_by is not None:
        raise from_symbol("conflict_held", "another advisor's command about this channel is under way")
    asked = Workflow(verdict.judged.workflow)
    if rank(asked) > rank(approved):
        raise from_symbol(
            "policy_blocked",
            f"the operator's policy asks people ({asked.value}) about this change, and the schedule was set"
            " without them; set it again to have it approved",
            rule="approval",
        )


def _error_of(failure: HiveError | RuleRefusal | ClnError) -> HiveError:
    if isinstance(failure, RuleRefusal):
        return failure.error
    return failure if isinstance(failure, HiveError) else node_error(failure)


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
