"""Trials and reports on this node's adapters; part of the composition root."""

import os
from collections.abc import Callable

from hive_shared.cln import ClnClient
from hive_shared.store import Db

from cl_hive_comms.plugin.fault_point import fault_point
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.advisor_offers import AdvisorOffers
from cl_hive_comms.services.advisor_service import AdvisorService
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.contract_service import ContractService
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.event_publisher import EventPublisher
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.ports_identity import Log
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.services.report_service import ReportService
from cl_hive_comms.services.trial_measure import TrialMeasure
from cl_hive_comms.services.trial_verdicts import TrialVerdicts
from cl_hive_comms.storage.advisor_record_store import AdvisorRecordStore
from cl_hive_comms.storage.marketplace_store import MarketplaceStore
from cl_hive_comms.storage.presence_store import PresenceStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from cl_hive_comms.storage.report_store import ReportStore


def compose_contracts(
    *,
    db: Db,
    cln: ClnClient,
    node: dict[str, str],
    credentials: CredentialService,
    aliases: AliasService,
    receipts: ReceiptService,
    alerts: AlertService,
    offers: AdvisorOffers,
    advisors: Callable[[], AdvisorService],
    log: Log,
) -> ContractService:
    """The service, known to the offers; `advisors` is asked when a trial is over."""
    contracts = ContractService(
        db,
        MarketplaceStore(),
        AdvisorRecordStore(),
        PresenceStore(),
        measure=TrialMeasure(cln),
        credentials=credentials,
        receipts=receipts,
        alerts=alerts,
        node_id=node["node_id"],
        now=unix_now,
        random_bytes=os.urandom,
        log=log,
    )

    def name_of(did: str) -> str:
        advisor = aliases.find(did)
        return did if advisor is None else aliases.name_of(advisor)

    contracts.name_of = name_of
    contracts.drop_rune = lambda tx, credential_id: advisors().drop_rune_in(tx, credential_id)
    offers.trial_of = contracts.trial_of
    return contracts


def compose_reports(
    *,
    db: Db,
    cln: ClnClient,
    node: dict[str, str],
    credentials: CredentialService,
    identity: IdentityService,
    kill_switch: KillSwitch,
    told: Callable[[], None],
    log: Log,
) -> ReportService:
    """Reports by the day and the week; `told` hears of new ones."""
    return ReportService(
        db=db,
        rows=ReportStore(),
        work=AdvisorRecordStore(),
        presence=PresenceStore(),
        measure=TrialMeasure(cln),
        credentials=credentials,
        identity=identity,
        kill_switch=kill_switch,
        node_id=node["node_id"],
        told=told,
        now=unix_now,
        log=log,
        fault=fault_point(node["network"]),
    )


def compose_verdicts(
    *,
    db: Db,
    credentials: CredentialService,
    receipts: ReceiptService,
    identity: IdentityService,
    publisher: Callable[[], EventPublisher],
    private: Callable[[], bool],
    log: Log,
) -> TrialVerdicts:
    """What is said at the end of trials; `publisher` is asked when there is something to publish."""
    return TrialVerdicts(
        db=db,
        rows=MarketplaceStore(),
        receipt_rows=ReceiptStore(),
        receipts=receipts,
        credentials=credentials,
        identity=identity,
        publish=lambda event: publisher().publish(dict(event)),
        private=private,
        now=unix_now,
        log=log,
    )
