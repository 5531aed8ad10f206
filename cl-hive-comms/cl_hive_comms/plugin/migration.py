"""Migration from the earlier single plugin on this node's adapters; part of the composition root."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from hive_shared.store import Db

from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.legacy_receipts import LegacyReceipts
from cl_hive_comms.services.migration_service import MigrationService
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.storage.legacy_source import LegacyCopies
from cl_hive_comms.storage.legacy_store import LegacyStore


def compose_migration(
    *,
    db: Db,
    db_path: Path,
    net_dir: Path,
    identity: IdentityService,
    receipts: ReceiptService,
    signmessage: Callable[[str], Awaitable[str]],
    node_id: str,
) -> tuple[MigrationService, LegacyReceipts]:
    """The migration, and reading what it brought. Removes what a killed migration left."""
    store = LegacyStore()
    copies = LegacyCopies(net_dir / "hive" / "migration", db_path)
    copies.clear()
    service = MigrationService(
        db,
        store,
        copies,
        identity,
        receipts,
        signmessage=signmessage,
        node_id=node_id,
        now=unix_now,
    )
    return service, LegacyReceipts(db, store, node_id=node_id, node_keys=identity.all_pubkeys)
