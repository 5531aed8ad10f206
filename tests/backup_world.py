"""A node with its backups over a real database, with a clock of the test's own."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cl_hive_comms.domain.emergency import Stop
from cl_hive_comms.plugin.backups import compose_backups
from cl_hive_comms.services.backup_service import BackupService
from cl_hive_comms.services.emergency_record import EmergencyRecord
from cl_hive_comms.services.emergency_service import EmergencyService
from cl_hive_comms.services.forwarding_freeze import ForwardingFreeze
from cl_hive_comms.services.handoff_service import HandoffService
from cl_hive_comms.services.policy_in_force import Limits
from cl_hive_comms.services.policy_record import PolicyRecord
from cl_hive_comms.services.policy_service import PolicyService
from cl_hive_comms.services.ports_commands import no_fault
from cl_hive_comms.services.restore_parts import Outcome
from cl_hive_comms.services.restore_service import RestoreService, Running
from cl_hive_comms.storage.policy_store import PolicyStore
from cl_hive_comms.storage.saved_channel_store import SavedChannelStore
from cl_hive_comms.storage.state_store import StateStore
from hiring_world import NODE_ID, HiringWorld
from hive_shared.crypto import Sealer, Secret

WORD = Secret(b"correct horse battery staple")
SEALER = Sealer({1: Secret(bytes(32))}, 1)


class Channels:
    """The node's channels: by id the short id and the bounds, msat. `calls` are those that set some."""

    def __init__(self) -> None:
        self.rows = {"aa": ["1x1x1", 1, 990], "bb": ["2x1x1", 0, 880]}
        self.calls = 0

    def bounds(self) -> list[tuple[int, int]]:
        return [(int(row[1]), int(row[2])) for row in self.rows.values()]

    async def listpeerchannels(self, *_: object) -> list[dict[str, Any]]:
        return [self._shown(channel_id) for channel_id in self.rows]

    async def setchannel(self, id: str, **bounds: Any) -> list[dict[str, Any]]:
        self.calls += 1
        self.rows[id][1:] = [bounds["htlcmin"], bounds["htlcmax"]]
        return [self._shown(id)]

    def _shown(self, channel_id: str) -> dict[str, Any]:
        scid, low, high = self.rows[channel_id]
        return {
            "channel_id": channel_id,
            "short_channel_id": scid,
            "state": "CHANNELD_NORMAL",
            "minimum_htlc_out_msat": low,
            "maximum_htlc_out_msat": high,
        }


class BackupWorld(HiringWorld):
    """A node with its backups, its policy and its emergency stop."""

    def __init__(self, path: Path, channels: Channels | None = None) -> None:
        # They outlive a lost disk.
        self.channels = channels or Channels()
        self.announced: list[Stop | None] = []
        super().__init__(path)

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
        self.stops = EmergencyRecord(self.kill_switch, self.receipts, self.alerts)
        switch = self.kill_switch
        self.freeze = ForwardingFreeze(
            self.db,
            SavedChannelStore(),
            self.channels,
            receipts=self.receipts,
            alerts=self.alerts,
            wanted=lambda: switch.stop is not None and switch.stop.freeze,
            now=now,
            log=self._note,
            fault=no_fault,
        )
        self.emergency = EmergencyService(
            self.db,
            switch,
            self.freeze,
            record=self.stops,
            receipts=self.receipts,
            alerts=self.alerts,
            waiting=lambda: self,
            revoke_all=self.service.revoke_all,
            announce=self.announced.append,
            token_key=b"t" * 32,
            now=now,
            log=self._note,
        )
        self.handoffs = HandoffService(
            self.db,
            self.facts,
            credentials=self.credentials,
            receipts=self.receipts,
            alerts=self.alerts,
            revoke=self.service.revoke,
            name_of=self.service.name_of,
            now=now,
            log=self._note,
        )
        self.backups, self.restores = self.composed(NODE_ID)

    async def cancel_all(self, symbol: str, reason: str) -> int:
        return 0

    def composed(self, node_id: str) -> tuple[BackupService, RestoreService]:
        """Both services as the plugin has them, for a node of this id."""
        return compose_backups(
            db=self.db,
            identity=self.identity,
            receipts=self.receipts,
            running=Running(
                self.restoring,
                lambda: self.policy.source == "file",
                self.record,
                self.kill_switch.in_force,
                self.stops.engaged,
            ),
            node={"node_id": node_id, "network": "regtest"},
            sealer=SEALER,
            now=lambda: self.now,
        )

    @asynccontextmanager
    async def restoring(self) -> AsyncIterator[None]:
        async with self.emergency.restoring(), self.policy.restoring(), self.handoffs.restoring():
            try:
                yield
            finally:
                await self.kill_switch.load()
                await self.identity.reload()
                await self.credentials.load()

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
