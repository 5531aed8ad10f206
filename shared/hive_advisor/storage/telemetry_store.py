"""adv_telemetry and adv_telemetry_subs: figures that nodes sent, and what we subscribed to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from sqlite3 import Row

from hive_shared.store import Tx

from hive_advisor.domain.telemetry import Figure, Followed

_MAX_ROWS = 5_000_000


class TelemetryStore:
    """Telemetry of clients. Methods join the caller's transaction."""

    def add(self, tx: Tx, figures: Sequence[Figure]) -> None:
        """Keep the figures of a push; those that are here stay as they are."""
        tx.executemany(
            "INSERT OR IGNORE INTO adv_telemetry (client_id, metric, ts, value_json, sub_id, seq)"
            " VALUES (?,?,?,?,?,?)",
            [(f.client_id, f.metric, f.ts, json.dumps(f.value), f.sub_id, f.seq) for f in figures],
        )
        tx.execute(
            "DELETE FROM adv_telemetry WHERE rowid <= (SELECT max(rowid) FROM adv_telemetry) - ?",
            (_MAX_ROWS,),
        )

    def last_seq(self, tx: Tx, client_id: str, sub_id: str) -> int:
        """The highest number of a subscription that came; 0 before the first."""
        row = tx.execute(
            "SELECT coalesce(max(seq), 0) AS seq FROM adv_telemetry WHERE client_id = ? AND sub_id = ?",
            (client_id, sub_id),
        ).fetchone()
        return int(row["seq"])

    def figures(self, tx: Tx, client_id: str, metric: str | None, since: int, limit: int) -> list[Figure]:
        """The newest figures measured at or after ``since``, the newest first."""
        rows = tx.execute(
            "SELECT * FROM adv_telemetry WHERE client_id = ?1 AND (?2 IS NULL OR metric = ?2) AND ts >= ?3"
            " ORDER BY ts DESC, metric LIMIT ?4",
            (client_id, metric, since, limit),
        ).fetchall()
        return [_figure(row) for row in rows]

    def mark(self, tx: Tx) -> int:
        """The place of the newest row; 0 without any."""
        row = tx.execute("SELECT coalesce(max(rowid), 0) AS mark FROM adv_telemetry").fetchone()
        return int(row["mark"])

    def since(self, tx: Tx, client_id: str, mark: int, limit: int) -> list[tuple[int, Figure]]:
        """A client's figures after a place, in the order they came, each with its place."""
        rows = tx.execute(
            "SELECT rowid AS mark, * FROM adv_telemetry WHERE rowid > ? AND client_id = ?"
            " ORDER BY rowid LIMIT ?",
            (mark, client_id, limit),
        ).fetchall()
        return [(int(row["mark"]), _figure(row)) for row in rows]

    def follow(self, tx: Tx, row: Followed) -> None:
        """Note a subscription, or its new end."""
        tx.execute(
            "INSERT OR REPLACE INTO adv_telemetry_subs (sub_id, client_id, metrics, interval_s, span_s,"
            " until, renew_at) VALUES (?,?,?,?,?,?,?)",
            (
                row.sub_id,
                row.client_id,
                " ".join(row.metrics),
                row.interval_s,
                row.span_s,
                row.until,
                row.renew_at,
            ),
        )

    def followed(self, tx: Tx, client_id: str | None = None) -> list[Followed]:
        """Subscriptions, of one client or of all."""
        rows = tx.execute(
            "SELECT * FROM adv_telemetry_subs WHERE ?1 IS NULL OR client_id = ?1 ORDER BY until, sub_id",
            (client_id,),
        ).fetchall()
        return [
            Followed(
                row["sub_id"],
                row["client_id"],
                tuple(row["metrics"].split(" ")),
                row["interval_s"],
                row["span_s"],
                row["until"],
                row["renew_at"],
            )
            for row in rows
        ]

    def unfollow(self, tx: Tx, sub_id: str) -> None:
        """Forget a subscription that ended."""
        tx.execute("DELETE FROM adv_telemetry_subs WHERE sub_id = ?", (sub_id,))

    def forget(self, tx: Tx, client_id: str) -> int:
        """Erase what is kept of a client; how many rows."""
        gone = tx.execute("DELETE FROM adv_telemetry WHERE client_id = ?", (client_id,)).rowcount
        return int(
            gone + tx.execute("DELETE FROM adv_telemetry_subs WHERE client_id = ?", (client_id,)).rowcount
        )


def _figure(row: Row) -> Figure:
    return Figure(
        row["client_id"],
        row["metric"],
        row["ts"],
        json.loads(row["value_json"]),
        row["sub_id"],
        row["seq"],
    )
