"""A node with its backups over a real database, with a clock of the test's own."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cl_hive_comms.plugin.backups import compose_backups
from cl_hive_comms.services.backup_service import BackupService
from cl_hive_comms.services.policy_in_force import Limits
from cl_hive_comms.services.policy_record import PolicyRecord
from cl_hive_comms.services.policy_service import PolicyService
from cl_hive_comms.services.restore_parts import Outcome
from cl_hive_comms.services.restore_service import RestoreService, Running
from cl_hive_comms.storage.policy_store import PolicyStore
from cl_hive_comms.storage.state_store import StateStore
from hiring_world import NODE_ID, HiringWorld
from hive_shared.crypto import Secret

WORD = Secret(b"correct horse battery staple")


class BackupWorld(HiringWorld):
    """A node with its backups."""

    def build(self) -> None:
        super().build()
        now = lambda: self.now  # noqa: E731
        ids = iter(range(1, 1_000))
        self.record = PolicyRecord(self.receipts, self.alerts, now=now)
        self.policy = PolicyService(
            self.db,
            PolicyStore(),
            StateStore(),
            record=self.record,
            alerts=self.alerts,
            limits=lambda: Limits(24, 4),
            now=now,
            random_bytes=lambda n: next(ids).to_bytes(n, "big"),
            log=self._note,
        )
        self.backups, self.restores = self.composed(NODE_ID)

    def composed(self, node_id: str) -> tuple[BackupService, RestoreService]:
        """Both services as the plugin has them, for a node of this id."""
        return compose_backups(
            db=self.db,
            identity=self.identity,
            receipts=self.receipts,
            running=Running(self.restoring, lambda: self.policy.source == "file", self.record),
            node={"node_id": node_id, "network": "regtest"},
            now=lambda: self.now,
        )

    @asynccontextmanager
    async def restoring(self) -> AsyncIterator[None]:
        async with self.policy.restoring():
            yield

    async def rows(self, table: str) -> list[dict[str, Any]]:
        found = await self.db.read(lambda tx: tx.execute(f"SELECT * FROM {table}").fetchall())
        return sorted((dict(row) for row in found), key=repr)

    async def run(self, *statements: tuple[str, tuple[object, ...]]) -> None:
        def body(tx: sqlite3.Connection) -> None:
            for sql, values in statements:
                tx.execute(sql, values)

        await self.db.write(body)

    async def restored(self, path: Path, **options: Any) -> dict[str, Outcome]:
        done = await self.restores.restore(path, WORD, **{"dry_run": False, **options})
        return {outcome.part: outcome for outcome in done.outcomes}
