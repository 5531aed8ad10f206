"""The objects of cl-hive-comms and how they are joined; `app` gives them life.

Part of the composition root (DESIGN "The dependency rule"): each builder makes the objects of one concern
from concrete adapters. Nothing here decides anything.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from hive_shared.cln import ClnClient
from hive_shared.nostr.giftwrap import Message
from hive_shared.nostr.relay_url import normalise_relay_url
from hive_shared.runtime import InitInfo, PluginApp
from hive_shared.siblings import SiblingHub
from hive_shared.store import Db

from cl_hive_comms import __version__
from cl_hive_comms.domain.advisor import CredentialRow
from cl_hive_comms.domain.emergency import Stop
from cl_hive_comms.options import Config
from cl_hive_comms.plugin.backups import compose_backups
from cl_hive_comms.plugin.contracts import compose_contracts
from cl_hive_comms.plugin.fault_point import fault_point
from cl_hive_comms.plugin.health import compose_selfcheck
from cl_hive_comms.plugin.migration import compose_migration
from cl_hive_comms.plugin.pipeline import compose_pipeline, unix_now
from cl_hive_comms.plugin.rest import compose_rest
from cl_hive_comms.plugin.setup import compose_setup
from cl_hive_comms.plugin.sibling_calls import (
    SIBLING_CAPABILITIES,
    SiblingServices,
    compose_sibling_services,
)
from cl_hive_comms.services.advisor_offers import AdvisorOffers
from cl_hive_comms.services.advisor_runes import AdvisorRunes
from cl_hive_comms.services.advisor_service import AdvisorService, Ports
from cl_hive_comms.services.alert_delivery import AlertDelivery, Targets
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.backup_service import BackupService
from cl_hive_comms.services.command_pipeline import Pipeline
from cl_hive_comms.services.command_push import CommandPush
from cl_hive_comms.services.contract_service import ContractService
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.emergency_service import EmergencyService
from cl_hive_comms.services.forwarding_freeze import ForwardingFreeze
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.inbound_routes import PeerRoutes
from cl_hive_comms.services.inbound_service import InboundService
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.legacy_receipts import LegacyReceipts
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.messenger_signed import SignedMessages
from cl_hive_comms.services.migration_service import MigrationService
from cl_hive_comms.services.peer_gate import PeerGate
from cl_hive_comms.services.policy_service import Limits, PolicyService
from cl_hive_comms.services.receipt_archive import ReceiptArchive
from cl_hive_comms.services.receipt_export import ReceiptExport
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.services.restore_service import RestoreService
from cl_hive_comms.services.selfcheck_service import SelfcheckService
from cl_hive_comms.services.setup_service import SetupService
from cl_hive_comms.services.status_sections import StatusSections
from cl_hive_comms.services.status_service import StatusService
from cl_hive_comms.services.trust_service import TrustService
from cl_hive_comms.storage.advisor_store import AdvisorStore
from cl_hive_comms.storage.at_rest import AtRest
from cl_hive_comms.storage.command_store import CommandStore
from cl_hive_comms.storage.identity_store import IdentityStore
from cl_hive_comms.storage.policy_store import PolicyStore
from cl_hive_comms.storage.push_store import PushStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from cl_hive_comms.storage.saved_channel_store import SavedChannelStore
from cl_hive_comms.storage.state_store import StateStore
from cl_hive_comms.storage.transport_store import InboxStore, OutboxStore
from cl_hive_comms.storage.trust_store import TrustStore
from cl_hive_comms.transport.nostr import NostrTransport
from cl_hive_comms.transport.rest import ClnrestRunes
from cl_hive_comms.transport.rest_door import RestDoor
from cl_hive_comms.transport.webhook import HttpWebhook

MIGRATIONS = Path(__file__).parents[1] / "storage" / "migrations"


class Assembly(ABC):
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
    alert_delivery: AlertDelivery
    identity: IdentityService
    kill_switch: KillSwitch
    freeze: ForwardingFreeze
    emergency: EmergencyService
    peer_gate: PeerGate
    siblings: SiblingHub
    for_siblings: SiblingServices
    credentials: CredentialService
    trust: TrustService
    aliases: AliasService
    receipts: ReceiptService
    receipt_export: ReceiptExport
    receipt_archive: ReceiptArchive
    migration: MigrationService
    legacy_receipts: LegacyReceipts
    backups: BackupService
    restores: RestoreService
    messenger: Messenger
    signed_messages: SignedMessages
    inbound: InboundService
    nostr: NostrTransport
    runes: ClnrestRunes
    rest_door: RestDoor
    offers: AdvisorOffers
    contracts: ContractService
    advisor_runes: AdvisorRunes
    advisors: AdvisorService
    setup: SetupService
    policy: PolicyService
    push: CommandPush
    pipeline: Pipeline
    sections: StatusSections
    selfcheck: SelfcheckService

    def log(self, level: str, event: str, /, **fields: object) -> None:
        """One structured line in the node's log."""
        self.app.log(level, event, **fields)

    # -- what the running plugin adds ------------------------------------------------------------------

    @abstractmethod
    async def handle_command(self, text: str, message: Message) -> None:
        """A management command came by direct message."""

    @abstractmethod
    async def identity_changed(self) -> None:
        """The Nostr key was replaced."""

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

    # -- builders, in this order -------------------------------------------------------------------------

    def build_base(self) -> None:
        facts = StateStore()
        self.alerts = AlertService(
            self.db, facts, now=unix_now, log=self.log, channels=lambda: self._alert_targets().channels
        )
        self.identity = IdentityService(
            self.db,
            IdentityStore(),
            self.at_rest.sealer,
            makesecret=self.cln.makesecret,
            now=unix_now,
            random_bytes=os.urandom,
            log=self.log,
            fault=fault_point(self.info.network),
        )
        self.kill_switch = KillSwitch(self.db, facts, self.info.net_dir / "hive", now=unix_now)
        self.receipts = ReceiptService(
            self.db,
            ReceiptStore(),
            self.identity,
            node_id=lambda: self.node["node_id"],
            node_keys=self.identity.all_pubkeys,
            signmessage=self.cln.signmessage,
            now=unix_now,
        )
        self.migration, self.legacy_receipts = compose_migration(
            db=self.db,
            db_path=self.db_path,
            net_dir=self.info.net_dir,
            identity=self.identity,
            receipts=self.receipts,
            signmessage=self.cln.signmessage,
            node_id=self.node["node_id"],
        )
        self.receipt_export = ReceiptExport(
            self.db, ReceiptStore(), self.receipts, self.legacy_receipts, os.urandom
        )
        self.receipt_archive = ReceiptArchive(
            self.db,
            ReceiptStore(),
            self.receipts,
            CommandStore(),
            self.identity,
            directory=self.info.net_dir / "hive" / "archive",
            node_id=self.node["node_id"],
            retention_days=lambda: int(self.config.get("receipt-retention-days")),
            now=unix_now,
            log=self.log,
        )
        self.backups, self.restores = compose_backups(
            db=self.db, identity=self.identity, receipts=self.receipts, node=self.node
        )
        self.credentials = CredentialService(self.db, AdvisorStore(), now=unix_now)
        self.trust = TrustService(
            self.db, TrustStore(), known_since=self.credentials.known_since, now=unix_now
        )
        self.aliases = AliasService(self.db, AdvisorStore(), self.credentials, now=unix_now)

    def build_policy(self) -> None:
        self.policy = PolicyService(
            self.db,
            PolicyStore(),
            StateStore(),
            receipts=self.receipts,
            alerts=self.alerts,
            limits=lambda: Limits(
                self.config.get("confirm-hours-low"), self.config.get("confirm-hours-high")
            ),
            now=unix_now,
            random_bytes=os.urandom,
            log=self.log,
        )
        self.peer_gate = PeerGate(
            self.cln,
            lambda: self.policy.snapshot().settings(unix_now()).forbidden_peers,
            log=self.log,
        )
        self.policy.on_change(self.policy_changed)
        self.credentials.also_known(self.policy.approver_keys)

    def build_transport(self) -> None:
        proxy = self.info.proxy if self.info.always_use_proxy else None
        self.inbound = InboundService(
            self.db,
            InboxStore(),
            self.identity,
            knows=self.credentials.knows,
            handle_command=self.handle_command,
            now=unix_now,
            log=self.log,
        )
        self.nostr = NostrTransport(
            self.db,
            IdentityStore(),
            self.identity,
            on_wrap=self.inbound.on_wrap,
            now=unix_now,
            log=self.log,
            proxy=proxy,
            # Test networks live on loopback; elsewhere a stranger must not send us to private hosts.
            private_relays=self.info.network == "regtest",
        )
        routes = PeerRoutes(
            own_relays=lambda: self.config.relays,
            arrived_from=self.inbound.arrived_from,
            normalise=lambda url: normalise_relay_url(url, foreign=self.info.network != "regtest"),
            lookup=self.nostr.lookup,
            now=unix_now,
        )
        self.messenger = Messenger(
            self.db,
            OutboxStore(self.at_rest.sealer),
            self.identity,
            self.nostr,
            routes,
            now=unix_now,
            log=self.log,
        )

        self.signed_messages = SignedMessages(
            self.db, StateStore(), self.identity, self.messenger, now=unix_now, random_bytes=os.urandom
        )

    def build_alerts(self) -> None:
        """What takes alerts to the operator."""
        self.alert_delivery = AlertDelivery(
            self.db,
            StateStore(),
            self.alerts,
            self.messenger,
            HttpWebhook(
                loopback=self.info.network == "regtest",
                proxy=self.info.proxy,
                only_onion=not self.info.always_use_proxy,
            ),
            targets=self._alert_targets,
            makesecret=self.cln.makesecret,
            node_id=self.node["node_id"],
            now=unix_now,
            log=self.log,
        )

    def _alert_targets(self) -> Targets:
        return Targets(self.config.get("alert-webhook"), self.config.get("alert-nostr-dm"))

    def _build_offers(self) -> None:
        """What advisors are told and given."""
        facts = StateStore()
        self.push = CommandPush(PushStore(self.at_rest.sealer), self.identity, self.messenger, unix_now)
        self.runes, self.rest_door = compose_rest(self.cln, lambda: self.config, self.log)
        self.offers = AdvisorOffers(
            self.db,
            facts,
            identity=self.identity,
            credentials=self.credentials,
            push=self.push,
            messenger=self.messenger,
            receipts=self.receipts,
            alerts=self.alerts,
            signer=self.cln,
            node=self.node,
            relays=lambda: self.config.relays,
            max_skew_s=lambda: self.config.max_skew_s,
            now=unix_now,
        )
        self.identity.announce = self.offers.announce_rotation
        self.identity.on_change(self.identity_changed)
        self.advisor_runes = AdvisorRunes(
            self.db,
            facts,
            AdvisorStore(),
            self.runes,
            credentials=self.credentials,
            offers=self.offers,
            messenger=self.messenger,
            now=unix_now,
            log=self.log,
        )

    def build_advisors(self) -> None:
        self._build_offers()
        self.contracts = compose_contracts(
            db=self.db,
            cln=self.cln,
            node=self.node,
            credentials=self.credentials,
            aliases=self.aliases,
            receipts=self.receipts,
            alerts=self.alerts,
            offers=self.offers,
            advisors=lambda: self.advisors,
            log=self.log,
        )
        self.identity.import_guards += [self.contracts.none_live_in, self.credentials.not_known_in]
        self.advisors = AdvisorService(
            Ports(
                db=self.db,
                store=AdvisorStore(),
                credentials=self.credentials,
                aliases=self.aliases,
                offers=self.offers,
                trials=self.contracts,
                receipts=self.receipts,
                alerts=self.alerts,
                messenger=self.messenger,
                runes=self.advisor_runes,
                signer=self.cln,
                kill_switch=self.kill_switch,
                commands=lambda: self.pipeline.commands,
                node_id=self.node["node_id"],
                now=unix_now,
                random_bytes=os.urandom,
                log=self.log,
            )
        )
        self.advisors.on_revoked = self.credentials_revoked
        self.setup = compose_setup(
            db=self.db,
            cln=self.cln,
            network=self.info.network,
            config=lambda: self.config,
            policy=self.policy,
            advisors=self.advisors,
            aliases=self.aliases,
            receipts=self.receipts,
            alerts=self.alerts,
            selfcheck=lambda: self.selfcheck,
            log=self.log,
        )

    def build_pipeline(self) -> None:
        """The command pipeline."""
        self.pipeline = compose_pipeline(
            db=self.db,
            cln=self.cln,
            at_rest=self.at_rest,
            node=self.node,
            config=lambda: self.config,
            identity=self.identity,
            credentials=self.credentials,
            advisors=self.advisors,
            policy=self.policy,
            kill_switch=self.kill_switch,
            alerts=self.alerts,
            messenger=self.messenger,
            receipts=self.receipts,
            push=self.push,
            offers=self.offers,
            trust=self.trust,
            on_receipt=self.receipt_written,
            log=self.log,
        )

    def build_emergency(self) -> None:
        """The emergency stop with its effects."""
        self.freeze = ForwardingFreeze(
            self.db,
            SavedChannelStore(),
            self.cln,
            receipts=self.receipts,
            alerts=self.alerts,
            wanted=lambda: self.kill_switch.stop is not None and self.kill_switch.stop.freeze,
            now=unix_now,
            log=self.log,
            fault=fault_point(self.node["network"]),
        )

        self.emergency = EmergencyService(
            self.db,
            self.kill_switch,
            self.freeze,
            receipts=self.receipts,
            alerts=self.alerts,
            waiting=lambda: self.pipeline.approvals,
            revoke_all=self.advisors.revoke_all,
            announce=self.emergency_changed,
            token_key=os.urandom(32),
            now=unix_now,
            log=self.log,
        )

    def build_siblings(self, key: bytes) -> None:
        self.siblings = SiblingHub(
            me="comms",
            version=__version__,
            capabilities=SIBLING_CAPABILITIES,
            cln=self.cln,
            key=key,
            now=unix_now,
            random_bytes=os.urandom,
            identity=lambda: {"npub": self.identity.npub, "node_id": self.node["node_id"]},
            db_schema=max(int(file.name[:4]) for file in MIGRATIONS.glob("*.sql")),
            log=self.app.log,
            emergency=self.kill_switch.engaged,
        )
        self.for_siblings = compose_sibling_services(
            db=self.db,
            cln=self.cln,
            node_id=self.node["node_id"],
            identity=self.identity,
            messages=self.signed_messages,
            policy=self.policy,
            receipts=self.receipts,
            alerts=self.alerts,
            kill_switch=self.kill_switch,
            pipeline=self.pipeline,
            on_receipt=self.receipt_written,
        )
        self.app.authenticate = self.siblings.verify

    def build_status(self) -> None:
        self.sections = StatusSections(
            config=lambda: self.config,
            node=self.node,
            identity=self.identity,
            credentials=self.credentials,
            aliases=self.aliases,
            messenger=self.messenger,
            nostr=self.nostr.status,
            inbound=lambda: dict(self.inbound.counters),
            rest=self.rest_door.status,
            rune_warnings=self.advisor_runes.warnings,
            siblings=self.siblings,
            policy=self.policy,
            pending=self.pipeline.approvals.pending,
            emergency=self.emergency.overview,
            alerts=self.alerts,
            tallies=self.contracts.tallies,
            trials=self.contracts.trials,
            now=unix_now,
        )
        self.sections.register(self.status)
        self.selfcheck = compose_selfcheck(
            db=self.db,
            db_path=self.db_path,
            kept=self.info.net_dir / "hive",
            cln=self.cln,
            config=lambda: self.config,
            identity=self.identity,
            credentials=self.credentials,
            policy=self.policy,
            receipts=self.receipts,
            alerts=self.alerts,
            messenger=self.messenger,
            nostr=self.nostr,
            runes=self.runes,
            advisor_runes=self.advisor_runes,
            siblings=self.siblings,
            kill_switch=self.kill_switch,
            emergency=self.emergency,
            republish=self.republish,
            log=self.log,
        )
