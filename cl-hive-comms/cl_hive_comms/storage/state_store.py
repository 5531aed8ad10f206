"""SQL of comms_state (small facts that survive a restart) and comms_alerts."""

import sqlite3

from cl_hive_comms.domain.alert import Alert, Level

KEPT_ALERTS = 1_000
"""Older alerts are dropped: they are hints, the receipts are the record."""


class StateStore:
    """Reads and writes comms_state and comms_alerts."""

    def get(self, tx: sqlite3.Connection, key: str) -> str | None:
        """The value of a key, or None."""
        row = tx.execute("SELECT value FROM comms_state WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row["value"])

    def put(self, tx: sqlite3.Connection, key: str, value: str, now: int) -> None:
        """Stores a value."""
        tx.execute(
            "INSERT INTO comms_state (key, value, updated_at) VALUES (?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
            (key, value, now),
        )

    def delete(self, tx: sqlite3.Connection, key: str) -> None:
        """Removes a key if it is there."""
        tx.execute("DELETE FROM comms_state WHERE key = ?", (key,))

    def with_prefix(self, tx: sqlite3.Connection, prefix: str) -> dict[str, str]:
        """All rows whose key starts with `prefix`."""
        rows = tx.execute(
            "SELECT key, value FROM comms_state WHERE substr(key, 1, ?) = ?", (len(prefix), prefix)
        ).fetchall()
        return {row["key"]: row["value"] for row in rows}

    def count_repeat(self, tx: sqlite3.Connection, dedup_key: str, since: int, now: int) -> int | None:
        """Counts a repeat on the newest alert of this key that was last seen at or after `since`; its id."""
        row = tx.execute(
            "SELECT alert_id FROM comms_alerts WHERE dedup_key = ? AND last_at >= ?"
            " ORDER BY alert_id DESC LIMIT 1",
            (dedup_key, since),
        ).fetchone()
        if row is None:
            return None
        tx.execute(
            "UPDATE comms_alerts SET count = count + 1, last_at = ? WHERE alert_id = ?",
            (now, row["alert_id"]),
        )
        return int(row["alert_id"])

    def raised_since(self, tx: sqlite3.Connection, level: Level, since: int) -> int:
        """How many alerts of a level were raised at or after `since`."""
        (count,) = tx.execute(
            "SELECT count(*) FROM comms_alerts WHERE level = ? AND first_at >= ?", (level.value, since)
        ).fetchone()
        return int(count)

    def add_alert(
        self, tx: sqlite3.Connection, level: Level, *, code: str, text: str, dedup_key: str, now: int
    ) -> int:
        """Inserts an alert and drops the oldest beyond the cap; the new id."""
        cursor = tx.execute(
            "INSERT INTO comms_alerts (level, code, text, dedup_key, first_at, last_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (level.value, code, text, dedup_key, now, now),
        )
        alert_id = int(cursor.lastrowid or 0)
        tx.execute("DELETE FROM comms_alerts WHERE alert_id <= ?", (alert_id - KEPT_ALERTS,))
        return alert_id

    def recent_alerts(self, tx: sqlite3.Connection, limit: int) -> list[Alert]:
        """The newest alerts first."""
        rows = tx.execute("SELECT * FROM comms_alerts ORDER BY alert_id DESC LIMIT ?", (limit,)).fetchall()
        return [
            Alert(
                row["alert_id"],
                Level(row["level"]),
                row["code"],
                row["text"],
                row["count"],
                row["first_at"],
                row["last_at"],
                row["acked_at"],
            )
            for row in rows
        ]
