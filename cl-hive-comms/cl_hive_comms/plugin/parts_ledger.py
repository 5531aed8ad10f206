"""What stays on disk and what the operator decides: identity, receipts, credentials, policy, emergency stop.

Part of the composition root: concrete adapters are joined here, nothing is decided.
"""

import os

from cl_hive_comms.plugin.alerting import targets_of
from cl_hive_comms.plugin.backups import compose_backups
from cl_hive_comms.plugin.fault_point import fault_point
from cl_hive_comms.plugin.migration import compose_migration
from cl_hive_comms.plugin.parts import Parts
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.emergency_record import EmergencyRecord
from cl_hive_comms.services.emergency_service import EmergencyService
from cl_hive_comms.services.forwarding_freeze import ForwardingFreeze
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.node_backups import NodeBackups
from cl_hive_comms.services.peer_gate import PeerGate
from cl_hive_comms.services.policy_in_force import Limits
from cl_hive_comms.services.policy_record import PolicyRecord
from cl_hive_comms.services.policy_service import PolicyService
from cl_hive_comms.services.receipt_archive import ReceiptArchive
from cl_hive_comms.services.receipt_export import ReceiptExport
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.services.restore_service import Running
from cl_hive_comms.services.trust_service import TrustService
from cl_hive_comms.storage.advisor_store import AdvisorStore
from cl_hive_comms.storage.command_store import CommandStore
from cl_hive_comms.storage.identity_store import IdentityStore
from cl_hive_comms.storage.marketplace_store import MarketplaceStore
from cl_hive_comms.storage.policy_store import PolicyStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from cl_hive_comms.storage.saved_channel_store import SavedChannelStore
from cl_hive_comms.storage.state_store import StateStore
from cl_hive_comms.storage.trust_store import TrustStore


class LedgerParts(Parts):
    """Builders; `app` calls them in its order, `build_base` first of all."""

    def build_base(self) -> None:
        facts = StateStore()
        self.alerts = AlertService(
            self.db, facts, now=unix_now, log=self.log, channels=lambda: targets_of(self.config).channels
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
        self.stops = EmergencyRecord(self.kill_switch, self.receipts, self.alerts)
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
            open_since=MarketplaceStore().open_since,
            now=unix_now,
            log=self.log,
        )
        self.credentials = CredentialService(self.db, AdvisorStore(), now=unix_now)
        self.trust = TrustService(
            self.db, TrustStore(), known_since=self.credentials.known_since, now=unix_now
        )
        self.aliases = AliasService(self.db, AdvisorStore(), self.credentials, now=unix_now)

    def build_policy(self) -> None:
        record = PolicyRecord(self.receipts, self.alerts, now=unix_now)
        self.policy = PolicyService(
            self.db,
            PolicyStore(),
            StateStore(),
            record=record,
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
            lambda: self.policy.snapshot().settings(unix_now()).forbidden_peers | self.pipeline.bans.banned(),
            largest=self._largest_channel,
            log=self.log,
        )
        self.policy.on_change(self.policy_changed)
        self.backups, self.restores = compose_backups(
            db=self.db,
            identity=self.identity,
            receipts=self.receipts,
            running=Running(
                self.restoring,
                lambda: self.policy.source == "file",
                record,
                self.kill_switch.in_force,
                self.stops.engaged,
            ),
            node=self.node,
            sealer=self.at_rest.sealer,
        )
        self.node_backups = NodeBackups(
            self.info.net_dir / "hive" / "backup",
            self.backups.backup,
            lambda: self.config.get("alert-nostr-dm"),
            os.urandom,
        )
        self.credentials.also_known(self.policy.approver_keys)

    def _largest_channel(self) -> int | None:
        # The gate stands before the pipeline is built.
        return self.pipeline.settings.largest_channel_sat()

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
            record=self.stops,
            receipts=self.receipts,
            alerts=self.alerts,
            waiting=lambda: self.pipeline.approvals,
            revoke_all=self.advisors.revoke_all,
            announce=self.emergency_changed,
            token_key=os.urandom(32),
            now=unix_now,
            log=self.log,
        )
