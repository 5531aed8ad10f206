"""adv_action_log: what nodes told of our commands by the action log."""

from __future__ import annotations

import json
from sqlite3 import Row

from hive_shared.store import Tx

from hive_advisor.domain.telemetry import LogEntry

_KEPT = 100_000


class ActionLogStore:
    """Action logs of clients. Methods join the caller's transaction."""

    def add(self, tx: Tx, entry: LogEntry) -> None:
        """Keep an entry; one that is here stays as it is."""
        tx.execute(
            "INSERT OR IGNORE INTO adv_action_log VALUES (?,?,?,?,?,?,?,?)",
            (
                entry.client_id,
                entry.receipt_id,
                entry.receipt_hash,
                entry.at,
                entry.schema,
                entry.action,
                entry.status,
                json.dumps(dict(entry.rest)),
            ),
        )

    def get(self, tx: Tx, client_id: str, receipt_id: int) -> LogEntry | None:
        """The entry of a receipt."""
        row = tx.execute(
            "SELECT * FROM adv_action_log WHERE client_id = ? AND receipt_id = ?", (client_id, receipt_id)
        ).fetchone()
        return None if row is None else _entry(row)

    def trim(self, tx: Tx, client_id: str) -> None:
        """Forget the oldest entries of a client above 100,000."""
        tx.execute(
            "DELETE FROM adv_action_log WHERE client_id = ?1 AND receipt_id <= (SELECT receipt_id"
            " FROM adv_action_log WHERE client_id = ?1 ORDER BY receipt_id DESC LIMIT 1 OFFSET ?2)",
            (client_id, _KEPT),
        )

    def after(self, tx: Tx, client_id: str, receipt_id: int, limit: int) -> list[LogEntry]:
        """Entries of receipts with a higher id, the oldest first."""
        rows = tx.execute(
            "SELECT * FROM adv_action_log WHERE client_id = ? AND receipt_id > ? ORDER BY receipt_id LIMIT ?",
            (client_id, receipt_id, limit),
        ).fetchall()
        return [_entry(row) for row in rows]

    def newest(self, tx: Tx, client_id: str, limit: int) -> list[LogEntry]:
        """The newest entries, the oldest of them first."""
        rows = tx.execute(
            "SELECT * FROM adv_action_log WHERE client_id = ? ORDER BY receipt_id DESC LIMIT ?",
            (client_id, limit),
        ).fetchall()
        return [_entry(row) for row in reversed(rows)]

    def forget(self, tx: Tx, client_id: str) -> int:
        """Erase what is kept of a client; how many rows."""
        return int(tx.execute("DELETE FROM adv_action_log WHERE client_id = ?", (client_id,)).rowcount)


def _entry(row: Row) -> LogEntry:
    return LogEntry(
        row["client_id"],
        row["receipt_id"],
        row["receipt_hash"],
        row["at"],
        row["schema_id"],
        row["action"],
        row["status"],
        json.loads(row["rest_json"]),
    )
