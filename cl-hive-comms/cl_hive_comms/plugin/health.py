"""The self-check on this node's parts; part of the composition root."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hive_shared.cashu.mint_book import MintBookService
from hive_shared.cashu.wallet_service import WalletService
from hive_shared.cln import ClnClient, version_problem
from hive_shared.siblings import SiblingHub
from hive_shared.store import Db

from cl_hive_comms.options import Config
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.advisor_runes import AdvisorRunes
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.emergency_service import EmergencyService
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.payment_history import PaymentHistory
from cl_hive_comms.services.policy_service import PolicyService
from cl_hive_comms.services.ports_identity import Log
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.services.selfcheck_hive import Hive, HiveChecks
from cl_hive_comms.services.selfcheck_machine import Machine, MachineChecks, offsets_of
from cl_hive_comms.services.selfcheck_repairs import Repairs
from cl_hive_comms.services.selfcheck_service import SelfcheckService
from cl_hive_comms.services.spend_report import SpendReport, Unresolved
from cl_hive_comms.storage.command_store import CommandStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from cl_hive_comms.storage.spend_store import SpendStore
from cl_hive_comms.storage.state_store import StateStore
from cl_hive_comms.transport.nostr import NostrTransport
from cl_hive_comms.transport.rest import ClnrestRunes


def compose_selfcheck(
    *,
    db: Db,
    db_path: Path,
    kept: Path,
    cln: ClnClient,
    config: Callable[[], Config],
    identity: IdentityService,
    credentials: CredentialService,
    policy: PolicyService,
    receipts: ReceiptService,
    alerts: AlertService,
    messenger: Messenger,
    nostr: NostrTransport,
    runes: ClnrestRunes,
    advisor_runes: AdvisorRunes,
    siblings: SiblingHub,
    kill_switch: KillSwitch,
    emergency: EmergencyService,
    spending: SpendReport,
    payments: PaymentHistory,
    mints: MintBookService,
    ecash: Callable[[], WalletService | None],
    republish: Callable[[], bool],
    log: Log,
) -> SelfcheckService:
    """All checks and repairs."""
    machine = _machine(db, db_path, kept, cln, nostr)
    hive = HiveChecks(
        Hive(
            db=db,
            facts=StateStore(),
            options=config,
            identity=identity,
            policy=policy,
            receipts=receipts,
            last_receipt=lambda: _last_receipt(db),
            messenger=messenger,
            nostr=nostr.status,
            rest_url=runes.url,
            rune_warnings=advisor_runes.warnings,
            siblings=siblings,
            kill_switch=kill_switch,
            unresolved=lambda: _unresolved(spending, payments),
            advisors=lambda: len(credentials.live_rows()),
            mints=mints.every,
            ecash=ecash,
            now=unix_now,
        )
    )
    repairs = _repairs(db, machine, messenger, nostr, advisor_runes, emergency, republish)
    return SelfcheckService(
        {**machine.all(), **hive.all()},
        repairs.all(),
        db=db,
        facts=StateStore(),
        alerts=alerts,
        now=unix_now,
        log=log,
    )


async def _unresolved(spending: SpendReport, payments: PaymentHistory) -> tuple[Unresolved, ...]:
    return (*await spending.unresolved(), *await payments.unresolved())


def compose_spending(db: Db, policy: PolicyService) -> SpendReport:
    """What agents' commands spent on this node."""
    return SpendReport(
        db=db,
        rows=SpendStore(),
        commands=CommandStore(),
        budget_sat=lambda: policy.snapshot().settings(unix_now()).daily_budget_sats,
        now=unix_now,
    )


def _repairs(
    db: Db,
    machine: MachineChecks,
    messenger: Messenger,
    nostr: NostrTransport,
    advisor_runes: AdvisorRunes,
    emergency: EmergencyService,
    republish: Callable[[], bool],
) -> Repairs:
    return Repairs(
        db,
        machine,
        messenger,
        dial_relays=nostr.dial_now,
        republish=republish,
        settle_runes=advisor_runes.settle,
        rune_warnings=advisor_runes.warnings,
        watch_emergency=emergency.watch,
        effects_due=emergency.effects_due,
    )


def _machine(db: Db, db_path: Path, kept: Path, cln: ClnClient, nostr: NostrTransport) -> MachineChecks:
    return MachineChecks(
        Machine(
            db=db,
            db_path=db_path,
            kept=kept,
            node=cln,
            version_problem=version_problem,
            offsets=lambda: offsets_of(nostr.status()["relays"]),
            now=unix_now,
        )
    )


async def _last_receipt(db: Db) -> int:
    head = await db.read(ReceiptStore().head)
    return 0 if head is None else head.receipt_id
