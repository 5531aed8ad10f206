"""Backup and restore on this node's adapters; part of the composition root."""

import os

from hive_shared.crypto import Sealer
from hive_shared.storage.cashu_store import CashuStore
from hive_shared.storage.escrow_store import EscrowStore
from hive_shared.storage.families import NODE_ECASH, NODE_TICKETS
from hive_shared.store import Db

from cl_hive_comms import __version__
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.backup_service import BackupService
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.ports_backup import Tables
from cl_hive_comms.services.ports_identity import Clock
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.services.restore_service import RestoreService, Running
from cl_hive_comms.storage.advert_store import AdvertStore
from cl_hive_comms.storage.advisor_store import AdvisorStore
from cl_hive_comms.storage.command_store import CommandStore
from cl_hive_comms.storage.contract_store import ContractStore
from cl_hive_comms.storage.gossip_store import GossipStore
from cl_hive_comms.storage.legacy_store import LegacyStore
from cl_hive_comms.storage.lock_store import LockStore
from cl_hive_comms.storage.marketplace_store import MarketplaceStore
from cl_hive_comms.storage.payment_store import PaymentStore
from cl_hive_comms.storage.policy_store import PolicyStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from cl_hive_comms.storage.saved_channel_store import SavedChannelStore
from cl_hive_comms.storage.state_store import StateStore
from cl_hive_comms.storage.subscription_store import SubscriptionStore
from cl_hive_comms.storage.trust_store import TrustStore


def compose_backups(
    *,
    db: Db,
    identity: IdentityService,
    receipts: ReceiptService,
    running: Running,
    node: dict[str, str],
    sealer: Sealer,
    now: Clock = unix_now,
) -> tuple[BackupService, RestoreService]:
    """Both services over the same tables."""
    commands = CommandStore()
    tables = Tables(
        advisors=AdvisorStore(),
        counters=commands,
        policy=PolicyStore(),
        receipts=ReceiptStore(),
        trials=MarketplaceStore(),
        contracts=ContractStore(),
        adverts=AdvertStore(),
        trust=TrustStore(),
        gossip=GossipStore(),
        legacy=LegacyStore(),
        payments=PaymentStore(sealer),
        subscriptions=SubscriptionStore(),
        saved=SavedChannelStore(),
        timers=commands,
        wallet=CashuStore(sealer, NODE_ECASH),
        locks=LockStore(sealer),
        tickets=EscrowStore(sealer, NODE_TICKETS),
        facts=StateStore(),
    )
    backups = BackupService(
        db,
        tables,
        identity,
        receipts,
        StateStore(),
        node_id=node["node_id"],
        network=node["network"],
        version=__version__,
        now=now,
        random_bytes=os.urandom,
    )
    restores = RestoreService(db, tables, identity, receipts, running, node_id=node["node_id"], now=now)
    return backups, restores
