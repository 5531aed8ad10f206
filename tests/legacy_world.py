"""The parts of cl-hive-comms that a migration touches, over one database file: for tests."""

from __future__ import annotations

import os
from pathlib import Path

from cl_hive_comms.plugin.migration import compose_migration
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.migration_service import Migrated
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.storage import identity_store
from cl_hive_comms.storage.identity_store import IdentityStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from hive_shared import crypto
from hive_shared.crypto import Sealer, Secret
from hive_shared.store import Db, Tx

HSM = Secret((7).to_bytes(32, "big"))
NODE_ID = crypto.cln_recover_message("who", crypto.cln_sign_message(HSM, "who")) or ""
MIGRATIONS = Path(identity_store.__file__).parent / "migrations"
NOW = 1_770_000_000


def quiet(level: str, event: str, /, **fields: object) -> None:
    """A log nobody reads."""


class Plugin:
    """The parts of the plugin that a migration touches, over one database file."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.path = directory, directory / "cl_hive_comms.db"

    async def start(self) -> Plugin:
        """Open, load the identity, build the services."""
        self.db = Db.open(self.path, MIGRATIONS)
        self.identity = IdentityService(
            self.db,
            IdentityStore(),
            Sealer({1: Secret(b"k" * 32)}, 1),
            makesecret=self._makesecret,
            now=lambda: NOW,
            random_bytes=os.urandom,
            log=quiet,
        )
        await self.identity.load_or_create()
        self.receipts = ReceiptService(
            self.db,
            ReceiptStore(),
            self.identity,
            node_id=lambda: NODE_ID,
            node_keys=self.identity.all_pubkeys,
            signmessage=self._sign,
            now=lambda: NOW,
        )
        self.service, self.legacy = compose_migration(
            db=self.db,
            db_path=self.path,
            net_dir=self.directory,
            identity=self.identity,
            receipts=self.receipts,
            signmessage=self._sign,
            node_id=NODE_ID,
        )
        return self

    def stop(self) -> None:
        """Close the database."""
        self.db.close()

    async def _makesecret(self, text: str) -> bytes:
        return text.encode().ljust(32, b".")[:32]

    async def _sign(self, text: str) -> str:
        return crypto.cln_sign_message(HSM, text)

    async def run(self, path: Path, *, dry_run: bool = False, take_key: bool = False) -> Migrated:
        """One migration."""
        return await self.service.migrate(path, dry_run=dry_run, take_key=take_key)

    async def count(self, table: str) -> int:
        """Rows of a table."""

        def body(tx: Tx) -> int:
            return int(tx.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

        return await self.db.read(body)
