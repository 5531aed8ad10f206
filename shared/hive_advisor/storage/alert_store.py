"""adv_alerts: what nodes and the kit want a human to see."""

from __future__ import annotations

import sqlite3

from hive_shared.store import Tx

from hive_advisor.domain.rows import Alert, AlertState

_KEPT = 5_000
_COLUMNS = "number, client_id, origin, alert_id, level, code, text, subject, state, at, updated"


class AlertStore:
    """Alerts and how far their acknowledgement got. Methods join the caller's transaction."""

    def add(self, tx: Tx, alert: Alert) -> bool:
        """Keep a new one; False when it is known already. The oldest closed beyond 5,000 go."""
        done = tx.execute(
            "INSERT OR IGNORE INTO adv_alerts"
            " (client_id, origin, alert_id, level, code, text, subject, state, at, updated)"
            " VALUES (?,?,?,?,?,?,?,?,?,?)",
            (
                alert.client_id,
                alert.origin,
                alert.alert_id,
                alert.level,
                alert.code,
                alert.text,
                alert.subject,
                alert.state,
                alert.at,
                alert.updated,
            ),
        )
        if done.rowcount == 1:
            tx.execute(
                "DELETE FROM adv_alerts WHERE state IN ('acked', 'resolved')"
                " AND number <= (SELECT max(number) FROM adv_alerts) - ?",
                (_KEPT,),
            )
        return done.rowcount == 1

    def get(self, tx: Tx, number: int) -> Alert | None:
        row = tx.execute(f"SELECT {_COLUMNS} FROM adv_alerts WHERE number = ?", (number,)).fetchone()
        return _alert(row) if row else None

    def named(self, tx: Tx, client_id: str, origin: str, alert_id: str) -> Alert | None:
        row = tx.execute(
            f"SELECT {_COLUMNS} FROM adv_alerts WHERE client_id = ? AND origin = ? AND alert_id = ?",
            (client_id, origin, alert_id),
        ).fetchone()
        return _alert(row) if row else None

    def listed(self, tx: Tx, *, closed: bool, limit: int) -> list[Alert]:
        """Newest first; with `closed` also those that a human has dealt with."""
        where = "1" if closed else "state IN ('open', 'acking')"
        rows = tx.execute(
            f"SELECT {_COLUMNS} FROM adv_alerts WHERE {where} ORDER BY number DESC LIMIT ?", (limit,)
        ).fetchall()
        return [_alert(row) for row in rows]

    def move(self, tx: Tx, alert: Alert, to: AlertState, now: int, ack_next: int | None = None) -> bool:
        """Old state in the WHERE: False when somebody else moved it first."""
        done = tx.execute(
            "UPDATE adv_alerts SET state = ?, updated = ?, ack_next = ? WHERE number = ? AND state = ?",
            (to, now, ack_next, alert.number, alert.state),
        )
        return done.rowcount == 1

    def ack_due(self, tx: Tx, now: int, limit: int) -> list[Alert]:
        """Acknowledged by a human, and the node has not heard it yet."""
        rows = tx.execute(
            f"SELECT {_COLUMNS} FROM adv_alerts WHERE state = 'acking' AND ack_next <= ?"
            " ORDER BY number LIMIT ?",
            (now, limit),
        ).fetchall()
        return [_alert(row) for row in rows]

    def forget(self, tx: Tx, client_id: str) -> int:
        """Erase what is kept of a client; how many rows."""
        return int(tx.execute("DELETE FROM adv_alerts WHERE client_id = ?", (client_id,)).rowcount)


def _alert(row: sqlite3.Row) -> Alert:
    return Alert(**dict(row))
