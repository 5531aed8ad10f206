"""A receipt chain with its archive, over a real database."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from cl_hive_comms.services.receipt_archive import ReceiptArchive
from cl_hive_comms.services.receipt_service import ReceiptFields, ReceiptService
from cl_hive_comms.storage import receipt_store
from cl_hive_comms.storage.command_store import CommandStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from hive_shared import crypto
from hive_shared.crypto import Secret
from hive_shared.store import Db

NODE = Secret((5).to_bytes(32, "big"))
HSM = Secret((7).to_bytes(32, "big"))
NODE_ID = crypto.cln_recover_message("who", crypto.cln_sign_message(HSM, "who")) or ""
MIGRATIONS = Path(receipt_store.__file__).parent / "migrations"
START = 1_770_000_000


class Keys:
    pubkey = crypto.xonly_pubkey(NODE)

    def secret(self) -> Secret:
        return NODE


class Chain:
    """A receipt chain with its archive, on a clock that tests move."""

    def __init__(self, db: Db, directory: Path) -> None:
        self.db, self.now, self.days = db, START, 0
        self.open_since: int | None = None
        self.rows = ReceiptStore()
        self.service = ReceiptService(
            db,
            self.rows,
            Keys(),
            node_id=lambda: NODE_ID,
            node_keys=lambda: (Keys.pubkey,),
            signmessage=self._sign,
            now=lambda: self.now,
        )
        self.archive = ReceiptArchive(
            db,
            self.rows,
            self.service,
            CommandStore(),
            Keys(),
            directory=directory,
            node_id=NODE_ID,
            retention_days=lambda: self.days,
            open_since=lambda _tx: self.open_since,
            now=lambda: self.now,
            log=lambda *_args, **_fields: None,
        )

    async def _sign(self, text: str) -> str:
        return crypto.cln_sign_message(HSM, text)

    async def add(self, count: int, command_id: str | None = None) -> None:
        what = ReceiptFields(
            schema="hive:fee-policy/v1", action="set_single", status="success", command_id=command_id
        )

        def body(tx: sqlite3.Connection) -> None:
            for _ in range(count):
                self.service.append(tx, what)

        await self.db.write(body)
        self.now += 1

    async def ids(self) -> tuple[int | None, int]:
        return await self.db.read(lambda tx: (self.rows.first_id(tx), self.service.end(tx).receipt_id))

    def tamper(self, sql: str) -> None:
        with sqlite3.connect(self.db.path) as raw:
            for table in ("management_receipts", "comms_receipt_roots"):
                for trigger in ("no_update", "no_delete", "gapless"):
                    raw.execute(f"DROP TRIGGER IF EXISTS {table}_{trigger}")
            assert raw.execute(sql).rowcount > 0
