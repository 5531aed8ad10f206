"""SQL of comms_state (small facts that survive a restart) and comms_alerts."""

import sqlite3
from collections.abc import Collection

from hive_shared.alerts import Level

from cl_hive_comms.domain.alert import Alert, Channel, Delivery

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
        """Counts a repeat on the newest alert of this key that was told after `since`; its id.

        One from the future, told before the clock was put back, holds nothing up.
        """
        row = tx.execute(
            "SELECT alert_id FROM comms_alerts WHERE dedup_key = ? AND first_at > ? AND first_at <= ?"
            " ORDER BY alert_id DESC LIMIT 1",
            (dedup_key, since, now),
        ).fetchone()
        if row is None:
            return None
        tx.execute(
            "UPDATE comms_alerts SET count = count + 1, last_at = ? WHERE alert_id = ?",
            (now, row["alert_id"]),
        )
        return int(row["alert_id"])

    def untold(self, tx: sqlite3.Connection, dedup_key: str) -> tuple[int, int]:
        """How many repeats were only counted since the newest alert of this key, and when that was told."""
        row = tx.execute(
            "SELECT count, first_at FROM comms_alerts WHERE dedup_key = ? ORDER BY alert_id DESC LIMIT 1",
            (dedup_key,),
        ).fetchone()
        return (0, 0) if row is None else (int(row["count"]) - 1, int(row["first_at"]))

    def raised_since(self, tx: sqlite3.Connection, level: Level, since: int) -> int:
        """How many alerts of a level were raised at or after `since`."""
        (count,) = tx.execute(
            "SELECT count(*) FROM comms_alerts WHERE level = ? AND first_at >= ?", (level.value, since)
        ).fetchone()
        return int(count)

    def add_alert(
        self,
        tx: sqlite3.Connection,
        level: Level,
        *,
        code: str,
        text: str,
        dedup_key: str,
        now: int,
        channels: Collection[Channel] = (),
    ) -> int:
        """Inserts an alert, to be sent by these channels, and drops the oldest beyond the cap; the new id."""
        cursor = tx.execute(
            "INSERT INTO comms_alerts (level, code, text, dedup_key, first_at, last_at, webhook_state,"
            " webhook_next_at, email_state, email_next_at, dm_state)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                level.value,
                code,
                text,
                dedup_key,
                now,
                now,
                "waiting" if Channel.WEBHOOK in channels else "none",
                now,
                "waiting" if Channel.EMAIL in channels else "none",
                now,
                "waiting" if Channel.DM in channels else "none",
            ),
        )
        alert_id = int(cursor.lastrowid or 0)
        tx.execute("DELETE FROM comms_alerts WHERE alert_id <= ?", (alert_id - KEPT_ALERTS,))
        return alert_id

    def recent_alerts(self, tx: sqlite3.Connection, limit: int) -> list[Alert]:
        """The newest alerts first."""
        rows = tx.execute("SELECT * FROM comms_alerts ORDER BY alert_id DESC LIMIT ?", (limit,)).fetchall()
        return [_alert(row) for row in rows]

    def alert(self, tx: sqlite3.Connection, alert_id: int) -> Alert | None:
        """One alert."""
        row = tx.execute("SELECT * FROM comms_alerts WHERE alert_id = ?", (alert_id,)).fetchone()
        return None if row is None else _alert(row)

    def ack_alert(self, tx: sqlite3.Connection, alert_id: int, now: int) -> None:
        """The operator has seen it; the first time counts, and nothing more is sent."""
        tx.execute(
            "UPDATE comms_alerts SET acked_at = ifnull(acked_at, ?),"
            " webhook_state = iif(webhook_state = 'waiting', 'none', webhook_state),"
            " email_state = iif(email_state = 'waiting', 'none', email_state),"
            " dm_state = iif(dm_state = 'waiting', 'none', dm_state) WHERE alert_id = ?",
            (now, alert_id),
        )

    def alerts_between(self, tx: sqlite3.Connection, since: int, until: int) -> list[Alert]:
        """Alerts that came, or came again last, from one moment to before another; oldest first."""
        rows = tx.execute(
            "SELECT * FROM comms_alerts WHERE last_at >= ? AND last_at < ? ORDER BY alert_id", (since, until)
        )
        return [_alert(row) for row in rows.fetchall()]

    def due(self, tx: sqlite3.Connection, way: Channel, now: int, limit: int) -> list[Alert]:
        """Alerts whose next try by webhook or mail has come, oldest first."""
        rows = tx.execute(
            f"SELECT * FROM comms_alerts WHERE {way}_state = 'waiting' AND {way}_next_at <= ?"
            " ORDER BY alert_id LIMIT ?",
            (now, limit),
        ).fetchall()
        return [_alert(row) for row in rows]

    def sent(self, tx: sqlite3.Connection, way: Channel, alert_id: int) -> None:
        """The webhook or mail server took it."""
        tx.execute(
            f"UPDATE comms_alerts SET {way}_state = 'sent', {way}_attempts = {way}_attempts + 1,"
            f" {way}_error = NULL WHERE alert_id = ?",
            (alert_id,),
        )

    def failed(
        self, tx: sqlite3.Connection, way: Channel, alert_id: int, error: str, next_at: int | None
    ) -> None:
        """It was not taken; try again at `next_at`, or (None) never."""
        state = "failed" if next_at is None else "waiting"
        tx.execute(
            f"UPDATE comms_alerts SET {way}_attempts = {way}_attempts + 1, {way}_error = ?,"
            f" {way}_next_at = ?, {way}_state = ? WHERE alert_id = ? AND {way}_state = 'waiting'",
            (error[:200], next_at or 0, state, alert_id),
        )

    def dm_due(self, tx: sqlite3.Connection, limit: int) -> list[Alert]:
        """Alerts that still have to become messages, oldest first."""
        rows = tx.execute(
            "SELECT * FROM comms_alerts WHERE dm_state = 'waiting' ORDER BY alert_id LIMIT ?", (limit,)
        ).fetchall()
        return [_alert(row) for row in rows]

    def set_dm(self, tx: sqlite3.Connection, alert_id: int, state: str) -> None:
        """How far the message is."""
        tx.execute("UPDATE comms_alerts SET dm_state = ? WHERE alert_id = ?", (state, alert_id))


def _alert(row: sqlite3.Row) -> Alert:
    return Alert(
        alert_id=row["alert_id"],
        level=Level(row["level"]),
        code=row["code"],
        text=row["text"],
        count=row["count"],
        first_at=row["first_at"],
        last_at=row["last_at"],
        acked_at=row["acked_at"],
        webhook=Delivery(row["webhook_state"], row["webhook_attempts"], row["webhook_error"]),
        email=Delivery(row["email_state"], row["email_attempts"], row["email_error"]),
        dm=row["dm_state"],
    )
