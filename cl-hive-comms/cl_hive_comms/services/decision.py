"""Steps 10 to 16: what is asked, how dangerous it is, and whether the operator's rules let it run
(docs/protocol/02-fleet-management.md §7.1 to §7.5).

Nothing here changes the node. The channels a write touches stay locked from the moment they are read
until the caller has run or refused it, so what was judged is what is changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Set
from contextlib import ExitStack, asynccontextmanager
from fractions import Fraction
from functools import partial
from typing import Any, Final, Self

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.envelope import Command
from hive_shared.errors import HiveError, InvalidParams, from_symbol
from hive_shared.registry import (
    EMERGENCY,
    ActionSpec,
    Danger,
    DangerFacts,
    find,
    glob_names,
    parse_params,
)
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain import conflict, constraints
from ..domain.access_fee import Fee
from ..domain.approval import Workflow, expires_in, rank
from ..domain.command_machine import State
from ..domain.command_record import NODE_SCOPE, CommandRow, FeeWrite, Use
from ..domain.compensation import Reward, claims
from ..domain.constraints import DAILY_ACTIONS
from ..domain.policy import ActionRequest, ChannelFact, Decision, PolicySnapshot, decide
from ..domain.policy_limits import COUNTERS, DAY_S, HOUR_S, counters_of, never
from .access_fees import AccessFees, Priced
from .action_caps import PER_DAY, Cap
from .command_case import Case, Judged, RuleRefusal
from .compensation import Compensation
from .decision_facts import amounts_to, changed_fees, channels_of, facts_of_plan, past_write, under_way
from .execution_locks import ExecutionLocks
from .executors.action import Caller, Params, Plan, WriteAction
from .ports_commands import CommandRows, CredentialView, Database, FeeRows, Handoffs, NameRows, Policies
from .spend_limits import SpendCap, SpendLimits

Rate = Callable[[str, int], None]
"""Takes the sender's key and the danger; raises RateLimited."""

UNDER_WAY: Final = (State.PENDING_APPROVAL, State.CONFIRM_WAIT, State.APPROVED, State.EXECUTING)


class Who(msgspec.Struct, frozen=True):
    """Who asks, as the rules see it. `view` None: nobody in particular (`hive-schema-validate`)."""

    view: CredentialView | None
    advisor_id: str = ""
    credential_id: str = ""
    command_id: str = ""

    @classmethod
    def of(cls, case: Case) -> Who:
        """The agent of a command. Raises Unauthorized when its credential is gone."""
        if case.view is None:
            raise from_symbol("unauthorized", "the command has no credential here any more")
        return cls(case.view, case.advisor_id, case.credential_id, case.command_id)


class Verdict(msgspec.Struct, frozen=True):
    """A command that may run now (`judged.workflow` auto) or after people agree, and what it uses."""

    judged: Judged
    caps: tuple[Cap, ...]
    spend: SpendCap | None = None
    held_by: CommandRow | None = None
    only_conflict: bool = False
    """Whether it would run by itself but for `held_by`."""


class _Rated(msgspec.Struct, frozen=True):
    """A command with its computed danger."""

    spec: ActionSpec
    scored: ActionSpec
    params: Params
    plan: Plan
    danger: Danger
    facts: DangerFacts


class _Asked(msgspec.Struct, frozen=True):
    """What is asked, by whom, and what it would change."""

    who: Who
    spec: ActionSpec
    params: Params
    action: WriteAction
    plan: Plan


class Preparation:
    """A write's plan in the making. `released` names the locks that others let go since it began: what the
    plan knows of those channels may be old."""

    def __init__(self, work: Coroutine[Any, Any, _Asked], locks: ExecutionLocks) -> None:
        self._watch = ExitStack()
        self.released: Set[str] = self._watch.enter_context(locks.watch())
        self._task = asyncio.create_task(work)
        # Nobody may come to ask for a failure: that of a command whose nonce was refused meanwhile.
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def asked(self) -> _Asked:
        """Wait for the plan. Raises what making it raised: HiveError, ClnError."""
        return await self._task

    def close(self) -> None:
        """Give up the plan if it is not made yet, and no longer watch the locks."""
        self._task.cancel()
        self._watch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Past(msgspec.Struct, frozen=True):
    """What was done and what is under way, as the rules need it."""

    counts: Mapping[str, int]
    writes: tuple[FeeWrite, ...]
    under_way: tuple[CommandRow, ...]
    unresolved: bool
    channels: tuple[ChannelFact, ...]


class DecisionService:
    """Judges commands. `find_write` gives the executor of a (schema, action), `trust_of` an agent's trust,
    `policy_root` the root over the channels that a plan read."""

    def __init__(
        self,
        *,
        db: Database,
        commands: CommandRows,
        fees: FeeRows,
        names: NameRows,
        policies: Policies,
        handoffs: Handoffs,
        spends: SpendLimits,
        access: AccessFees,
        rewards: Compensation,
        locks: ExecutionLocks,
        find_write: Callable[[str, str], WriteAction | None],
        policy_root: Callable[[Plan], Awaitable[str]],
        trust_of: Callable[[CredentialView], Fraction],
        now: Callable[[], int],
    ) -> None:
        self._db, self._commands, self._fees, self._policies = db, commands, fees, policies
        self._handoffs, self._spends = handoffs, spends
        self._locks, self._find_write, self._trust_of, self._now = locks, find_write, trust_of, now
        self._policy_root, self._names, self._access = policy_root, names, access
        self._rewards = rewards

    # -- reads ------------------------------------------------------------------------------------------

    async def judge_read(self, case: Case) -> tuple[ActionSpec, dict[str, JsonValue], Fee | None]:
        """Steps 10 to 15 of an action that changes nothing, and what pays for it. Raises HiveError,
        RuleRefusal, ClnError."""
        spec = find(case.command.schema_type, case.command.action)
        params = parse_params(spec, case.command.params)
        check_no_root(case.command)
        danger = spec.danger(params)
        who = Who.of(case)
        try:
            self.check_read(who, spec, params)
            fee, _ = await self._paid(case, spec, params, DangerFacts(), danger)
        except HiveError as error:
            raise RuleRefusal(error, danger, (spec.schema, spec.name)) from error
        return spec, params, fee

    def check_read(self, who: Who, spec: ActionSpec, params: Params) -> None:
        """Whether credential and policy let an agent read this now. Raises HiveError."""
        self._check_scope(who, spec, spec, params, DangerFacts())
        request = self._request(who, spec, spec, params, Plan({}), spec.danger(params).total, {})
        decision = decide(self._policies.snapshot(), request)
        if decision.symbol is not None:
            raise decision.error()

    # -- writes -----------------------------------------------------------------------------------------

    def prepare(self, case: Case, params: Params | None = None) -> Preparation:
        """Start step 10 of a write, which asks the node and changes nothing; `judge` goes on with it.

        Close it if the command gets no further. `params` are those an operator reduced.
        """
        return Preparation(self._prepare(case, params), self._locks)

    async def _prepare(self, case: Case, params: Params | None) -> _Asked:
        self._check_never(case.command.schema_type, case.command.action, case.command.params)
        spec = find(case.command.schema_type, case.command.action)
        parsed = parse_params(spec, case.command.params) if params is None else dict(params)
        action = self._find_write(spec.schema, spec.name)
        if action is None:
            raise from_symbol(
                "unsupported_action", f"{spec.name} of {spec.schema} is not served by this version"
            )
        who, caller = Who.of(case), case.caller(self._now())
        return _Asked(who, spec, parsed, action, await action.prepare(parsed, caller))

    @asynccontextmanager
    async def judge(
        self, case: Case, preparation: Preparation, rate: Rate | None = None
    ) -> AsyncIterator[Verdict]:
        """Steps 10 to 16 of a write. Channels stay locked inside. `rate` counts the command by its danger.

        Raises HiveError (step 10), RuleRefusal (later steps), ClnError when the node cannot be asked.
        """
        with preparation:
            asked = await preparation.asked()
            plan = asked.plan
            locks = _locks(case, plan)
            async with self._locks.hold(locks) as waited:
                if waited or not preparation.released.isdisjoint(locks):
                    # Somebody changed the channel after we had read it.
                    plan = await asked.action.prepare(asked.params, case.caller(self._now()))
                preparation.close()
                yield await self._judge(asked.who, asked.spec, asked.params, plan, case, rate)

    def _check_never(self, schema: str, action: str, params: JsonValue) -> None:
        """A floor speaks before "not served": the agent learns that it will never be (02 §12, §15.23)."""
        settings = self._policies.snapshot().settings(self._now())
        try:
            spec = find(schema, action)
            schema, action = spec.schema, spec.name
        except HiveError:
            pass  # an unknown action may still bear the name of a call that is closed to agents
        for denial in never(schema, action, params if isinstance(params, dict) else {}, settings):
            raise from_symbol(denial.symbol, denial.sentence, rule=denial.rule_id)

    async def _judge(
        self,
        who: Who,
        spec: ActionSpec,
        params: Params,
        plan: Plan,
        case: Case | None,
        rate: Rate | None = None,
    ) -> Verdict:
        facts = self._facts(who, params, plan)
        scored = amounts_to(spec, params, facts, plan)
        danger = spec.danger(params, facts).raised(scored.danger(params, facts))
        rated = _Rated(spec, scored, params, plan, danger, facts)
        stale = case is not None and await self._is_stale(case, plan)
        try:
            if case is not None and rate is not None:
                rate(case.sender, danger.total)
            past = self._db.peek(lambda tx: self._past(tx, who, rated))
            verdict = self._verdict(who, rated, past, stale)
            if case is None:
                return verdict
            fee, reward = await self._paid(case, spec, params, facts, danger)
            return replace(verdict, judged=replace(verdict.judged, fee=fee, reward=reward))
        except HiveError as error:
            raise RuleRefusal(error, danger, (spec.schema, spec.name)) from error

    async def _is_stale(self, case: Case, plan: Plan) -> bool:
        """Whether the node's channels are set otherwise than the agent expects."""
        expected = case.command.expected_policy_root
        return expected is not None and await self._policy_root(plan) != expected

    def _verdict(self, who: Who, rated: _Rated, past: _Past, stale: bool) -> Verdict:
        self._check_scope(who, rated.spec, rated.scored, rated.params, rated.facts)
        for schema, action in rated.plan.later:
            self._check_scope(who, find(schema, action), find(schema, action), {}, DangerFacts())
        plan = replace(rated.plan, channels=past.channels)
        request = self._request(
            who, rated.spec, rated.scored, rated.params, plan, rated.danger.total, past.counts
        )
        if who.view is not None:
            self._handoffs.check_write(who.advisor_id)
            constraints.check(who.view.credential.constraints, request)
        snapshot = self._policies.snapshot()
        decision = decide(snapshot, request)
        if decision.symbol is not None:
            raise decision.error()
        if stale:
            raise from_symbol(
                "stale_state",
                "fees or limits of the node's channels are not those of expected_policy_root; read state_hash"
                " and decide again",
            )
        if past.unresolved:
            raise from_symbol(
                "busy", "an earlier change of this channel is not resolved yet; try again in a minute"
            )
        if rated.plan.held_back is not None:
            raise rated.plan.held_back
        other = self._check_others(who, rated, past)
        judged = _judged(rated, decision)
        caps, spend = self._caps(who, rated.spec, snapshot), self._spend_cap(who, rated, snapshot)
        if other is None:
            return Verdict(judged, caps, spend)
        alone = rank(Workflow(judged.workflow)) < rank(Workflow.QUEUE)
        return Verdict(_held(judged, snapshot), caps, spend, other, alone)

    # -- asking without doing -----------------------------------------------------------------------------

    async def preview(self, who: Who, schema: str, action: str, params: JsonValue) -> dict[str, JsonValue]:
        """What would be said to a command: {valid, danger, required_tier, workflow, reason?, message?}.

        Raises HiveError when schema, action or parameters are none, or when the action is not served.
        """
        self._check_never(schema, action, params)
        spec = find(schema, action)
        parsed = parse_params(spec, params)
        if spec.read_only:
            return self._preview_read(who, spec, parsed)
        write = self._find_write(spec.schema, spec.name)
        if write is None:
            raise from_symbol(
                "unsupported_action", f"{spec.name} of {spec.schema} is not served by this version"
            )
        now = self._now()
        plan = await write.prepare(parsed, Caller("", "", who.advisor_id, who.credential_id, now))
        facts = self._facts(who, parsed, plan)
        names = () if who.view is None else tuple(who.view.credential.constraints)
        doc: dict[str, JsonValue] = {
            "valid": True,
            "danger": spec.danger(parsed, facts).to_doc(),
            "required_tier": spec.required_tier(parsed, facts, names).word,
        }
        try:
            verdict = await self._judge(who, spec, parsed, plan, None)
        except RuleRefusal as refusal:
            return {**doc, "valid": False, "reason": refusal.error.symbol, "message": refusal.error.detail}
        return {**doc, "workflow": verdict.judged.workflow}

    def _preview_read(self, who: Who, spec: ActionSpec, params: Params) -> dict[str, JsonValue]:
        doc: dict[str, JsonValue] = {
            "valid": True,
            "danger": spec.danger(params).to_doc(),
            "required_tier": spec.required_tier(params).word,
            "workflow": Workflow.AUTO.value,
        }
        try:
            self._check_scope(who, spec, spec, params, DangerFacts())
        except HiveError as error:
            return {**doc, "valid": False, "reason": error.symbol, "message": error.detail}
        return doc

    # -- step 11 ----------------------------------------------------------------------------------------

    def _check_scope(
        self, who: Who, spec: ActionSpec, scored: ActionSpec, params: Params, facts: DangerFacts
    ) -> None:
        if who.view is None:
            return
        credential = who.view.credential
        for each in dict.fromkeys((spec, scored)):
            tier = each.required_tier(params, facts, tuple(credential.constraints))
            if credential.effective_tier < tier:
                raise from_symbol(
                    "tier_insufficient",
                    f"{each.name} needs tier {tier.word}, yours is {credential.effective_tier.word}",
                    required=tier.word,
                )
            if not credential.has_permission(*each.permissions):
                raise from_symbol(
                    "permission_denied",
                    f"{each.name} needs permission {' or '.join(each.permissions)}",
                    required=list(each.permissions),
                )
            if not credential.allows(each.schema, each.name, glob_names(each, params)):
                other = credential.denied_as(each.schema, each.name)
                why = f": it amounts to {other}, which they deny" if other else ""
                raise from_symbol(
                    "schema_not_allowed",
                    f"the credential's patterns do not allow {each.schema}#{each.name}{why}",
                )

    # -- steps 12 to 15 -----------------------------------------------------------------------------------

    def _check_others(self, who: Who, rated: _Rated, past: _Past) -> CommandRow | None:
        """Cooldowns after finished writes; the first command under way that conflicts too much (0072)."""
        now, channels = self._now(), {fact.scid for fact in rated.plan.channels}
        # An emergency cannot wait for the end of a cooldown (docs/decisions/0222).
        if rated.spec.schema != EMERGENCY:
            self._check_cooldowns(who, rated, past)
        for row in past.under_way:
            value = conflict.score(under_way(row), schema=rated.spec.schema, channels=channels, now=now)
            if conflict.held(value):
                return row
        return None

    def _check_cooldowns(self, who: Who, rated: _Rated, past: _Past) -> None:
        now, channels = self._now(), {fact.scid for fact in rated.plan.channels}
        if rated.plan.new_fees:
            own = [w.ts for w in past.writes if w.credential_id == who.credential_id and changed_fees(w)]
            left = conflict.own_fee_cooldown_left(max(own, default=None), now)
            if left:
                raise _cooldown(left, "you set the fee of this channel less than an hour ago")
        finished = [past_write(write) for write in past.writes]
        left = conflict.cooldown_left(
            finished, who.advisor_id, channels, rated.plan.fields, now, channel_s=_channel_wait(who)
        )
        if left:
            raise _cooldown(left, "another advisor changed this channel a short while ago")

    async def _paid(
        self, case: Case, spec: ActionSpec, params: Params, facts: DangerFacts, danger: Danger
    ) -> tuple[Fee | None, Reward | None]:
        constraints_of = () if case.view is None else tuple(case.view.credential.constraints)
        asked = Priced(spec, params, danger, spec.required_tier(params, facts, constraints_of))
        costs = case.view is not None and self._access.price_sats(case.view, danger.total) > 0
        if claims(case.command.payment_proof) and not costs:
            return None, await self._rewards.check(case, asked)
        return await self._access.check(case, asked), None

    # -- what the rules look at -----------------------------------------------------------------------------

    def _past(self, tx: Tx, who: Who, rated: _Rated) -> _Past:
        now = self._now()
        counts = {
            name: self._fees.count(tx, Use(name, NODE_SCOPE), now - COUNTERS[name], but=who.command_id)
            for name in counters_of(rated.spec.schema)
        }
        daily = Use(DAILY_ACTIONS, who.credential_id)
        counts[DAILY_ACTIONS] = self._fees.count(tx, daily, now - DAY_S, but=who.command_id)
        counts |= self._spends.counts(tx, rated.plan.spend, who.credential_id, now, but=who.command_id)
        scids = tuple(fact.scid for fact in rated.plan.channels)
        # Who takes over is not held up by what the one before it did or asked (02 §7.5).
        gone = partial(self._handoffs.gives_way, who.advisor_id)
        since = self._fees.since(tx, scids, now - max(HOUR_S, _channel_wait(who)))
        writes = tuple(write for write in since if not gone(write.advisor_id))
        under_way = [
            row for row in self._commands.in_states(tx, UNDER_WAY) if row.command_id != who.command_id
        ]
        # Live executions hold the locks of their channels, as we do now: what still stands as executing
        # there was cut off, and neither its fee history nor what it changes is known yet.
        unresolved = any(
            row.state == State.EXECUTING and not channels_of(row).isdisjoint(scids) for row in under_way
        )
        others = tuple(
            row for row in under_way if row.advisor_id != who.advisor_id and not gone(row.advisor_id)
        )
        touched = rated.plan.channels
        named = self._names.of(tx, [fact.channel_id for fact in touched])
        channels = tuple(replace(fact, former=named.get(fact.channel_id, frozenset())) for fact in touched)
        return _Past(counts, writes, others, unresolved, channels)

    def _request(
        self,
        who: Who,
        spec: ActionSpec,
        scored: ActionSpec,
        params: Params,
        plan: Plan,
        danger: int,
        counts: Mapping[str, int],
    ) -> ActionRequest:
        also = spec.aliases if scored is spec else (*spec.aliases, scored.name)
        return ActionRequest(
            schema=spec.schema,
            action=spec.name,
            params=params,
            danger=danger,
            read_only=spec.read_only,
            advisor_id=who.advisor_id,
            trust=Fraction(1) if who.view is None else self._trust_of(who.view),
            channels=plan.channels,
            new_fees=plan.new_fees,
            amount_sat=plan.amount_sat,
            now=self._now(),
            counts=counts,
            also_actions=also,
            spend=plan.spend,
            feerate_perkw=plan.feerate_perkw,
            peers=plan.peers,
            option=plan.option,
        )

    def _caps(self, who: Who, spec: ActionSpec, snapshot: PolicySnapshot) -> tuple[Cap, ...]:
        limits = snapshot.settings(self._now()).rate_limits
        of_node = {
            "fee_changes": limits.fee_changes_per_hour,
            "rebalances": limits.rebalances_per_day,
            "total_actions": limits.total_actions_per_day,
        }
        caps = [
            Cap(Use(name, NODE_SCOPE), COUNTERS[name], of_node[name]) for name in counters_of(spec.schema)
        ]
        daily = None if who.view is None else who.view.credential.constraints.get("max_daily_actions")
        limit = daily if isinstance(daily, int) else None
        if (spec.schema, spec.name) in PER_DAY:
            most = PER_DAY[spec.schema, spec.name]
            caps.append(Cap(Use(f"{spec.category}_{spec.name}", who.credential_id), DAY_S, most))
        return (*caps, Cap(Use(DAILY_ACTIONS, who.credential_id), DAY_S, limit))

    def _facts(self, who: Who, params: Params, plan: Plan) -> DangerFacts:
        """What the node knows that the parameters do not say, the credential's spend of that class too."""
        facts, spend, now = facts_of_plan(params, plan), plan.spend, self._now()
        if spend is None:
            return facts
        asked = (who.credential_id, spend.kind, now)
        spent, fees = self._db.peek(
            lambda tx: (
                self._spends.used(tx, *asked, but=who.command_id),
                self._spends.fees(tx, *asked, but=who.command_id),
            )
        )
        return replace(facts, spent_24h_sat=spent, fee_sat=spend.fee_sat + fees)

    def _spend_cap(self, who: Who, rated: _Rated, snapshot: PolicySnapshot) -> SpendCap | None:
        spend = rated.plan.spend
        if spend is None:
            return None

        def same(spent: int) -> bool:
            return rated.spec.danger(rated.params, replace(rated.facts, spent_24h_sat=spent)).total <= top

        top, constraints_of = rated.danger.total, {} if who.view is None else who.view.credential.constraints
        limit = self._spends.limit_of(constraints_of, spend.kind)
        return SpendCap(
            spend, who.credential_id, snapshot.settings(self._now()).daily_budget_sats, limit, same
        )


def _channel_wait(who: Who) -> int:
    return conflict.channel_wait({} if who.view is None else who.view.credential.coordination)


def check_no_root(command: Command) -> None:
    """Raises InvalidParams when a command that changes nothing names a state to change."""
    if command.expected_policy_root is not None:
        raise InvalidParams(
            f"{command.action} changes nothing, so it takes no expected_policy_root",
            data={"param": "expected_policy_root"},
        )


def _locks(case: Case, plan: Plan) -> frozenset[str]:
    """Whoever names a state of all channels keeps all of them as they are until it is done."""
    if case.command.expected_policy_root is None:
        return plan.locks
    return plan.locks | {f"channel:{row['channel_id']}" for row in plan.before if "channel_id" in row}


def _judged(rated: _Rated, decision: Decision) -> Judged:
    # A proposal asks the operator by itself: an approval before it would ask twice (docs/decisions/0370).
    workflow = Workflow.AUTO if rated.plan.proposal else decision.workflow
    return Judged(
        schema=rated.spec.schema,
        action=rated.spec.name,
        params=rated.params,
        danger=rated.danger,
        plan=rated.plan,
        workflow=workflow.value,
        level=decision.level,
        needed=decision.approvals_needed,
        expires_in=decision.expires_in,
        rule_ids=decision.rule_ids,
    )


def _held(judged: Judged, snapshot: PolicySnapshot) -> Judged:
    """A conflict asks the operator at least; a stricter workflow stays (docs/decisions/0072)."""
    rules = (*judged.rule_ids, "conflict")
    if rank(Workflow(judged.workflow)) >= rank(Workflow.QUEUE):
        return replace(judged, rule_ids=rules)
    waits = expires_in(Workflow.QUEUE, snapshot.confirm_hours_low, snapshot.confirm_hours_high)
    return replace(judged, workflow=Workflow.QUEUE.value, needed=1, expires_in=waits, rule_ids=rules)


def _cooldown(left: int, why: str) -> HiveError:
    return from_symbol("cooldown", f"{why}; try again in {left} s", retry_after=left)
