"""Joins the parts of the command pipeline; plugin.py hands in the adapters (DESIGN "the dependency rule")."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping

import msgspec
from hive_shared.crypto import Secret
from hive_shared.rate_limit import SlidingWindows
from hive_shared.store import Tx

from ..domain.access_fee import AccessTerms
from ..domain.compensation import PayTerms
from ..domain.forwarding import BY_ADVISORS
from ..domain.lightning_invoice import Asked, plain
from ..domain.report import PERIODS
from .access_fees import AccessFees, AccessRows
from .action_caps import ActionCaps
from .approval_service import ApprovalService
from .command_capabilities import About, CommandCapabilities
from .command_control import Acknowledgements, ControlActions, Word
from .command_outcome import CommandOutcomes
from .command_push import CommandPush
from .command_service import CommandService
from .compensation import Compensation
from .decision import DecisionService
from .decoded_invoice import decoded
from .execution import ExecutionService
from .execution_locks import ExecutionLocks
from .executors.catalogue import Executors
from .executors.config_adjust import ConfigRows
from .executors.emergency import SPIKE
from .executors.fee_policy import ANCHOR
from .executors.swap import Configured
from .executors.wallet_freeze import FREEZE
from .fee_rules import FeeRules
from .freeze_end import FreezeEnd
from .htlc_watch import HtlcRows, HtlcWatch
from .intake import Intake
from .intake_order import WINDOW_MS, IntakeOrder
from .kept_settings import KeptSettings
from .node_backups import NodeBackups
from .node_command import NodeCommands
from .payment_limits import PaymentLimits
from .peer_bans import BanningPolicies, PeerBans
from .ports_commands import (
    Alerts,
    CommandRows,
    Credentials,
    Database,
    Fault,
    FeeRows,
    Handoffs,
    Identity,
    KillSwitch,
    Log,
    Messages,
    NameRows,
    Node,
    Policies,
    ReceiptRows,
    Revoking,
    SavedRows,
    VerifyCredential,
    no_fault,
)
from .ports_payments import PaymentRows
from .presence_service import PresenceRows, PresenceService
from .rebalance_rules import RebalanceRules
from .receipt_service import ReceiptService
from .report_service import ReportStream, SentRows
from .rule_runs import RuleRuns
from .spend_limits import SpendLimits, SpendRows
from .spike_end import SpikeEnd
from .state_hash_service import StateHashService
from .telemetry_measure import TelemetryMeasure
from .telemetry_service import TelemetryRows, TelemetryService
from .timer_service import TimerService
from .trust_service import TrustService


def unix_now_ms() -> int:
    """The clock of this plugin, milliseconds."""
    return time.time_ns() // 1_000_000


class PipelineParts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the pipeline takes from outside. Times: `now` unix seconds, `now_ms` milliseconds.

    `state_key` keys balances inside state hashes, `access_key` signs what is sold for access; `on_receipt`
    hears id and status of the receipts of commands after their commit (a hint for notifications; the
    listener re-reads).
    """

    db: Database
    commands: CommandRows
    fees: FeeRows
    saved: SavedRows
    settings: ConfigRows
    htlcs: HtlcRows
    names: NameRows
    spends: SpendRows
    telemetry_rows: TelemetryRows
    presence_rows: PresenceRows
    report_rows: SentRows
    revoking: Revoking
    backups: NodeBackups
    receipt_rows: ReceiptRows
    access_rows: AccessRows
    payment_rows: PaymentRows
    payment_limits: PaymentLimits
    pay_terms: Callable[[], PayTerms]
    receipts: ReceiptService
    push: CommandPush
    identity: Identity
    credentials: Credentials
    verify_credential: VerifyCredential
    policies: Policies
    handoffs: Handoffs
    kill_switch: KillSwitch
    alerts: Alerts
    messages: Messages
    acknowledgements: Acknowledgements
    trust: TrustService
    node: Node
    state_key: bytes
    access_key: Secret
    access_terms: Callable[[], AccessTerms]
    node_id: str
    network: str
    about: Callable[[], About]
    trusted_issuers: Callable[[], Collection[str]]
    max_skew_s: Callable[[], int]
    supervised: Callable[[], bool]
    now: Callable[[], int]
    now_ms: Callable[[], int] = unix_now_ms
    random_bytes: Callable[[int], bytes] = os.urandom
    log: Log
    fault: Fault = no_fault
    window_ms: int = WINDOW_MS
    on_receipt: Callable[[int, str], None] | None = None
    swap_rpcs: Configured = lambda: ("", "")


class Pipeline(msgspec.Struct, frozen=True):
    """The services other parts of the plugin talk to."""

    commands: CommandService
    approvals: ApprovalService
    timers: TimerService
    capabilities: CommandCapabilities
    executors: Executors
    decision: DecisionService
    execution: ExecutionService
    bans: PeerBans
    telemetry: TelemetryService
    presence: PresenceService
    settings: KeptSettings
    access: AccessFees
    rewards: Compensation


class _Core(msgspec.Struct, frozen=True):
    """What the services of the pipeline share."""

    locks: ExecutionLocks
    access: AccessFees
    rewards: Compensation
    bans: PeerBans
    executors: Executors
    outcomes: CommandOutcomes
    decision: DecisionService
    execution: ExecutionService
    intake: Intake
    htlcs: HtlcWatch
    settings: KeptSettings


def build_pipeline(parts: PipelineParts) -> Pipeline:
    """All services of the pipeline over the given adapters."""
    core = _core(parts)
    approvals = ApprovalService(
        db=parts.db,
        commands=parts.commands,
        caps=ActionCaps(parts.fees, parts.alerts),
        access=core.access,
        credentials=parts.credentials,
        intake=core.intake,
        decision=core.decision,
        execution=core.execution,
        outcomes=core.outcomes,
        push=parts.push,
        kill_switch=parts.kill_switch,
        approvers=lambda: _approvers(parts),
        random_bytes=parts.random_bytes,
        now=parts.now,
        log=parts.log,
    )
    capabilities = CommandCapabilities(
        db=parts.db,
        commands=parts.commands,
        credentials=parts.credentials,
        decision=core.decision,
        access=core.access,
        rewards=core.rewards,
        about=parts.about,
        served=core.executors.served,
        why_not=core.executors.why_not,
        partly=core.executors.parameters.missing,
        random_bytes=parts.random_bytes,
        now=parts.now,
    )
    presence = _presence(parts)
    telemetry = _telemetry(parts, core, presence)
    further: Mapping[str, Word] = {
        "telemetry_subscribe": telemetry.subscribe,
        "telemetry_unsubscribe": telemetry.unsubscribe,
        "ping_ack": presence.ping_ack,
    }
    commands = _commands(parts, core, approvals, capabilities, further)
    timers = _timers(parts, core, approvals, commands)
    return Pipeline(
        commands,
        approvals,
        timers,
        capabilities,
        core.executors,
        core.decision,
        core.execution,
        core.bans,
        telemetry,
        presence,
        core.settings,
        core.access,
        core.rewards,
    )


def _timers(
    parts: PipelineParts, core: _Core, approvals: ApprovalService, commands: CommandService
) -> TimerService:
    spikes, runs = _spikes(parts, core), _rule_runs(parts, core)
    return TimerService(
        db=parts.db,
        commands=parts.commands,
        fees=parts.fees,
        receipts=parts.receipts,
        approvals=approvals,
        execution=core.execution,
        credentials=parts.credentials,
        reconcile=commands.reconcile,
        by_clock=(
            *(commands.watch_external, core.htlcs.note, core.bans.end_due),
            *(_freezes(parts).end_due, core.access.tidy),
        ),
        spends=parts.spends,
        settings=parts.settings,
        writer=core.executors.channel_writer,
        present_fees=core.executors.present_fees,
        spikes=spikes,
        fee_rules=_fee_rules(parts, runs, spikes),
        rebalance_rules=_rebalance_rules(parts, core, runs),
        locks=core.locks,
        now=parts.now,
        log=parts.log,
    )


def _presence(parts: PipelineParts) -> PresenceService:
    return PresenceService(
        db=parts.db,
        rows=parts.presence_rows,
        credentials=parts.credentials,
        kill_switch=parts.kill_switch,
        push=parts.push,
        messages=parts.messages,
        random_bytes=parts.random_bytes,
        now=parts.now,
    )


def _telemetry(parts: PipelineParts, core: _Core, presence: PresenceService) -> TelemetryService:
    return TelemetryService(
        db=parts.db,
        rows=parts.telemetry_rows,
        commands=parts.commands,
        spends=parts.spends,
        receipt_rows=parts.receipt_rows,
        credentials=parts.credentials,
        decision=core.decision,
        kill_switch=parts.kill_switch,
        measure=TelemetryMeasure(parts.node),
        push=parts.push,
        messages=parts.messages,
        reports={stream: ReportStream(parts.report_rows, kind) for kind, stream in PERIODS.items()},
        measured=presence.somebody_new,
        now=parts.now,
    )


def _core(parts: PipelineParts) -> _Core:
    locks, spends = ExecutionLocks(), SpendLimits(parts.spends, parts.alerts)
    access, rewards = _access(parts), _rewards(parts)
    bans = PeerBans(parts.db, parts.commands, parts.receipts, parts.now)
    state_hash = StateHashService(
        parts.node,
        key=parts.state_key,
        policy_version=lambda: parts.policies.snapshot().version,
        holds=lambda: parts.db.peek(lambda tx: _disabled(tx, parts.saved)),
        banned=bans.banned,
        armed=lambda: parts.db.peek(
            lambda tx: [parts.commands.armed(tx, kind) for kind in (ANCHOR, SPIKE, FREEZE)]
        ),
        now=parts.now,
    )
    htlcs = HtlcWatch(parts.node, parts.db, parts.htlcs, parts.names, parts.now)
    settings = KeptSettings(parts.db, parts.commands)
    policies = BanningPolicies(parts.policies, bans.banned)
    executors = _executors(parts, policies, state_hash, htlcs, settings)
    outcomes = _outcomes(parts, access, rewards)
    decision = DecisionService(
        db=parts.db,
        commands=parts.commands,
        fees=parts.fees,
        names=parts.names,
        policies=policies,
        handoffs=parts.handoffs,
        spends=spends,
        access=access,
        rewards=rewards,
        locks=locks,
        find_write=executors.to_run,
        policy_root=state_hash.policy_root,
        trust_of=parts.trust.of,
        now=parts.now,
    )
    execution = ExecutionService(
        db=parts.db,
        commands=parts.commands,
        caps=ActionCaps(parts.fees, parts.alerts),
        spends=spends,
        access=access,
        rewards=rewards,
        outcomes=outcomes,
        credentials=parts.credentials,
        kill_switch=parts.kill_switch,
        state_hash=state_hash,
        find_action=executors.must_write,
        now=parts.now,
        log=parts.log,
        fault=parts.fault,
    )
    return _Core(
        *(locks, access, rewards, bans, executors, outcomes, decision, execution),
        *(_intake(parts), htlcs, settings),
    )


def _executors(
    parts: PipelineParts,
    policies: Policies,
    state_hash: StateHashService,
    htlcs: HtlcWatch,
    settings: KeptSettings,
) -> Executors:
    return Executors(
        node=parts.node,
        db=parts.db,
        commands=parts.commands,
        fees=parts.fees,
        saved=parts.saved,
        history=parts.settings,
        revoking=parts.revoking,
        backups=parts.backups,
        node_id=parts.node_id,
        engaged=parts.kill_switch.engaged,
        state_hash=state_hash.describe,
        seen=htlcs.seen,
        setting=settings.value,
        names=parts.names,
        look_at_names=htlcs.look_at_names,
        approved=lambda: parts.policies.snapshot().settings(parts.now()).approved_plugins,
        swap_rpcs=parts.swap_rpcs,
        forbidden=lambda: policies.snapshot().settings(parts.now()).forbidden_peers,
        supervised=parts.supervised,
        now=parts.now,
        fault=parts.fault,
    )


def _access(parts: PipelineParts) -> AccessFees:
    return AccessFees(
        db=parts.db,
        rows=parts.access_rows,
        income=parts.payment_rows,
        node=parts.node,
        credentials=parts.credentials,
        trust=parts.trust,
        key=parts.access_key,
        node_id=parts.node_id,
        terms=parts.access_terms,
        random_bytes=parts.random_bytes,
        now=parts.now,
        log=parts.log,
    )


def _rewards(parts: PipelineParts) -> Compensation:
    async def read(text: str) -> Asked:
        return await decoded(parts.node, *plain(text, parts.network))

    return Compensation(
        db=parts.db,
        rows=parts.payment_rows,
        limits=parts.payment_limits,
        commands=parts.commands,
        trust=parts.trust,
        read=read,
        node_id=parts.node_id,
        terms=parts.pay_terms,
        now=parts.now,
    )


def _outcomes(parts: PipelineParts, access: AccessFees, rewards: Compensation) -> CommandOutcomes:
    return CommandOutcomes(
        access=access,
        rewards=rewards,
        commands=parts.commands,
        fees=parts.fees,
        saved=parts.saved,
        settings=parts.settings,
        spends=parts.spends,
        receipts=parts.receipts,
        identity=parts.identity,
        messages=parts.messages,
        alerts=parts.alerts,
        trust=parts.trust,
        now=parts.now,
        on_receipt=parts.on_receipt,
    )


def _intake(parts: PipelineParts) -> Intake:
    return Intake(
        identity=parts.identity,
        credentials=parts.credentials,
        kill_switch=parts.kill_switch,
        windows=SlidingWindows(parts.now),
        node_id=lambda: parts.node_id,
        trusted_issuers=parts.trusted_issuers,
        approvers=lambda: _approvers(parts),
        verify=parts.verify_credential,
        max_skew_s=parts.max_skew_s,
        now=parts.now,
    )


def _commands(
    parts: PipelineParts,
    core: _Core,
    approvals: ApprovalService,
    capabilities: CommandCapabilities,
    further: Mapping[str, Word],
) -> CommandService:
    async def last_nonce(sender_key: str) -> int:
        return await parts.db.read(lambda tx: parts.commands.last_nonce(tx, sender_key))

    control = ControlActions(
        db=parts.db,
        commands=parts.commands,
        receipt_rows=parts.receipt_rows,
        receipts=parts.receipts,
        approvals=approvals,
        push=parts.push,
        acknowledgements=parts.acknowledgements,
        capabilities=capabilities.of_case,
        quote=capabilities.quote,
        further=further,
        now=parts.now,
    )
    return CommandService(
        db=parts.db,
        commands=parts.commands,
        credentials=parts.credentials,
        intake=core.intake,
        order=IntakeOrder(last_nonce, parts.now_ms, window_ms=parts.window_ms),
        decision=core.decision,
        execution=core.execution,
        approvals=approvals,
        control=control,
        outcomes=core.outcomes,
        access=core.access,
        alerts=parts.alerts,
        find_read=core.executors.read,
        random_bytes=parts.random_bytes,
        now=parts.now,
        log=parts.log,
        fault=parts.fault,
    )


def _disabled(tx: Tx, saved: SavedRows) -> frozenset[tuple[str, str]]:
    """Reason and channel id of every hold of advisors."""
    return frozenset(name for name in saved.names(tx) if name[0] in BY_ADVISORS)


def _spikes(parts: PipelineParts, core: _Core) -> SpikeEnd:
    return SpikeEnd(
        db=parts.db,
        commands=parts.commands,
        fees=parts.fees,
        receipts=parts.receipts,
        node=parts.node,
        writer=core.executors.channel_writer,
        engaged=parts.kill_switch.engaged,
        locks=core.locks,
        now=parts.now,
        log=parts.log,
    )


def _rule_runs(parts: PipelineParts, core: _Core) -> RuleRuns:
    return RuleRuns(
        db=parts.db,
        commands=parts.commands,
        credentials=parts.credentials,
        intake=core.intake,
        decision=core.decision,
        execution=core.execution,
        outcomes=core.outcomes,
        receipts=parts.receipts,
        node_commands=NodeCommands(parts.db, parts.commands, parts.identity, parts.random_bytes, parts.now),
        now=parts.now,
        log=parts.log,
    )


def _fee_rules(parts: PipelineParts, runs: RuleRuns, spikes: SpikeEnd) -> FeeRules:
    return FeeRules(
        db=parts.db,
        commands=parts.commands,
        runs=runs,
        spikes=spikes,
        kill_switch=parts.kill_switch,
        node=parts.node,
        now=parts.now,
        log=parts.log,
    )


def _rebalance_rules(parts: PipelineParts, core: _Core, runs: RuleRuns) -> RebalanceRules:
    return RebalanceRules(
        db=parts.db,
        commands=parts.commands,
        runs=runs,
        spends=SpendLimits(parts.spends, parts.alerts),
        kill_switch=parts.kill_switch,
        node=parts.node,
        now=parts.now,
        log=parts.log,
    )


def _freezes(parts: PipelineParts) -> FreezeEnd:
    return FreezeEnd(parts.db, parts.commands, parts.receipts, parts.node, parts.now, parts.log)


def _approvers(parts: PipelineParts) -> Collection[str]:
    return parts.policies.snapshot().settings(parts.now()).approvers
