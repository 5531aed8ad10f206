"""The objects of cl-hive-comms, by name: `parts_ledger`, `parts_traffic`, `parts_command` build them,
`app` gives them life. Part of the composition root (DESIGN "The dependency rule")."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from hive_shared.cashu.derive import EscrowKeys
from hive_shared.cln import ClnClient
from hive_shared.runtime import InitInfo, PluginApp
from hive_shared.siblings import SiblingHub
from hive_shared.store import Db

from cl_hive_comms.domain.advisor import CredentialRow
from cl_hive_comms.domain.arrival import Arrival
from cl_hive_comms.domain.emergency import Stop
from cl_hive_comms.options import Config
from cl_hive_comms.plugin.alerting import Alerting
from cl_hive_comms.plugin.engagements import EngagementParts
from cl_hive_comms.plugin.escrow import EscrowParts
from cl_hive_comms.plugin.market import MarketParts
from cl_hive_comms.plugin.mints import MintParts
from cl_hive_comms.plugin.payments import Payments
from cl_hive_comms.plugin.sibling_calls import (
    SiblingServices,
)
from cl_hive_comms.plugin.wallet import EcashParts
from cl_hive_comms.services.advisor_offers import AdvisorOffers
from cl_hive_comms.services.advisor_runes import AdvisorRunes
from cl_hive_comms.services.advisor_service import AdvisorService
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.backup_service import BackupService
from cl_hive_comms.services.command_pipeline import Pipeline
from cl_hive_comms.services.command_push import CommandPush
from cl_hive_comms.services.contract_service import ContractService
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.emergency_record import EmergencyRecord
from cl_hive_comms.services.emergency_service import EmergencyService
from cl_hive_comms.services.forwarding_freeze import ForwardingFreeze
from cl_hive_comms.services.gossip_credentials import GossipCredentials
from cl_hive_comms.services.handoff_service import HandoffService
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.inbound_service import InboundService
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.legacy_peers import LegacyPeers
from cl_hive_comms.services.legacy_receipts import LegacyReceipts
from cl_hive_comms.services.lock_restore import LockRestore
from cl_hive_comms.services.lock_service import LockService
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.messenger_signed import SignedMessages
from cl_hive_comms.services.migration_service import MigrationService
from cl_hive_comms.services.node_backups import NodeBackups
from cl_hive_comms.services.part_resend import PartResend
from cl_hive_comms.services.peer_gate import PeerGate
from cl_hive_comms.services.policy_service import PolicyService
from cl_hive_comms.services.receipt_archive import ReceiptArchive
from cl_hive_comms.services.receipt_export import ReceiptExport
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.services.report_service import ReportService
from cl_hive_comms.services.restore_service import RestoreService
from cl_hive_comms.services.selfcheck_service import SelfcheckService
from cl_hive_comms.services.setup_service import SetupService
from cl_hive_comms.services.sibling_locks import SiblingLocks
from cl_hive_comms.services.sibling_registry import SiblingRegistry
from cl_hive_comms.services.sibling_watch import SiblingWatch
from cl_hive_comms.services.status_sections import StatusSections
from cl_hive_comms.services.status_service import StatusService
from cl_hive_comms.services.trial_verdicts import TrialVerdicts
from cl_hive_comms.services.trust_service import TrustService
from cl_hive_comms.services.vc_verifier import VcVerifier
from cl_hive_comms.storage.at_rest import AtRest
from cl_hive_comms.transport.nostr import NostrTransport
from cl_hive_comms.transport.rest import ClnrestRunes
from cl_hive_comms.transport.rest_door import RestDoor

MIGRATIONS = Path(__file__).parents[1] / "storage" / "migrations"


class Parts(ABC):
    """All objects of the running plugin. Attributes without a value exist once they were built.

    The subclass says what happens when something changes; builders only register these methods.
    """

    app: PluginApp
    status: StatusService
    config: Config
    info: InitInfo
    cln: ClnClient
    node: dict[str, str]
    db: Db
    db_path: Path
    at_rest: AtRest
    alerts: AlertService
    alerting: Alerting
    mints: MintParts
    identity: IdentityService
    kill_switch: KillSwitch
    stops: EmergencyRecord
    freeze: ForwardingFreeze
    emergency: EmergencyService
    peer_gate: PeerGate
    siblings: SiblingHub
    sibling_watch: SiblingWatch
    for_siblings: SiblingServices
    sibling_registry: SiblingRegistry
    credentials: CredentialService
    trust: TrustService
    aliases: AliasService
    receipts: ReceiptService
    receipt_export: ReceiptExport
    receipt_archive: ReceiptArchive
    migration: MigrationService
    legacy_receipts: LegacyReceipts
    backups: BackupService
    node_backups: NodeBackups
    restores: RestoreService
    legacy_peers: LegacyPeers
    messenger: Messenger
    signed_messages: SignedMessages
    inbound: InboundService
    part_resend: PartResend
    nostr: NostrTransport
    runes: ClnrestRunes
    rest_door: RestDoor
    offers: AdvisorOffers
    contracts: ContractService
    advisor_runes: AdvisorRunes
    advisors: AdvisorService
    gossip: GossipCredentials
    handoffs: HandoffService
    verifier: VcVerifier
    setup: SetupService
    policy: PolicyService
    push: CommandPush
    pipeline: Pipeline
    payments: Payments
    ecash_keys: EscrowKeys | None
    wallet: EcashParts | None
    locks: LockService | None
    sibling_locks: SiblingLocks | None
    lock_restore: LockRestore | None
    escrow: EscrowParts | None
    market: MarketParts
    engagements: EngagementParts
    sections: StatusSections
    selfcheck: SelfcheckService
    reports: ReportService
    verdicts: TrialVerdicts

    def log(self, level: str, event: str, /, **fields: object) -> None:
        """One structured line in the node's log."""
        self.app.log(level, event, **fields)

    # -- what the running plugin adds ------------------------------------------------------------------

    @abstractmethod
    async def handle_command(self, text: str, arrival: Arrival) -> bool:
        """A management command came in over a transport that does not wait for its answer."""

    @abstractmethod
    async def identity_changed(self) -> None:
        """The Nostr key was replaced."""

    @abstractmethod
    def restoring(self) -> AbstractAsyncContextManager[None]:
        """Held around the transaction of a restore; memory follows at its end."""

    @abstractmethod
    def policy_changed(self) -> None:
        """The operator's policy changed."""

    @abstractmethod
    def emergency_changed(self, stop: Stop | None) -> None:
        """The emergency stop was engaged, or released (None)."""

    @abstractmethod
    def republish(self) -> bool:
        """Tell all relays again where we read; False while that may not be."""

    @abstractmethod
    def credentials_revoked(self, rows: Sequence[CredentialRow]) -> None:
        """Credentials were revoked."""

    @abstractmethod
    def receipt_written(self, receipt_id: int, status: str) -> None:
        """A command left a receipt."""
