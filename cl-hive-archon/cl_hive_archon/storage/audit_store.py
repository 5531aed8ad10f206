"""SQL of archon_audit and archon_migrations. docs/protocol/09-archon.md section 14."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from hive_shared.store import Tx

from cl_hive_archon.domain.audit import AUDIT_ROWS_MAX, AuditEntry, AuditEvent

MIGRATIONS: Final = Path(__file__).parent / "migrations"


class AuditStore:
    """The audit trail: appended to, never changed, the oldest rows dropped beyond 100,000."""

    def append(self, tx: Tx, entry: AuditEntry) -> None:
        """Write one entry inside the caller's transaction."""
        tx.execute(
            "INSERT INTO archon_audit (event, actor, detail_json, at) VALUES (?, ?, ?, ?)",
            (entry.event.value, entry.actor, json.dumps(entry.detail, sort_keys=True), entry.at),
        )
        tx.execute(
            "DELETE FROM archon_audit WHERE id <= (SELECT max(id) FROM archon_audit) - ?", (AUDIT_ROWS_MAX,)
        )

    def latest(self, tx: Tx, limit: int) -> list[AuditEntry]:
        """The newest entries first."""
        rows = tx.execute(
            "SELECT event, actor, detail_json, at FROM archon_audit ORDER BY id DESC LIMIT ?", (limit,)
        )
        return [
            AuditEntry(AuditEvent(row["event"]), row["actor"], json.loads(row["detail_json"]), row["at"])
            for row in rows
        ]

    def schema_version(self, tx: Tx) -> int:
        """Number of the newest migration applied."""
        return int(tx.execute("SELECT max(version) FROM archon_migrations").fetchone()[0])
