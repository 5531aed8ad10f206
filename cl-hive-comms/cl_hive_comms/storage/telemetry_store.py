"""Sole writer of comms_telemetry (docs/protocol/02-fleet-management.md §10, §11)."""

from __future__ import annotations

from sqlite3 import Row

from hive_shared.store import Tx

from ..domain.telemetry import Subscription


class TelemetryStore:
    """Subscriptions of agents. Every method runs inside the caller's transaction."""

    def add(self, tx: Tx, row: Subscription) -> None:
        """A new one."""
        tx.execute(
            "INSERT INTO comms_telemetry (sub_id, credential_id, advisor_id, recipient, metrics, interval_s,"
            " until, seq, dropped, next_at, created_at, told_to) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.sub_id,
                row.credential_id,
                row.advisor_id,
                row.recipient,
                " ".join(row.metrics),
                row.interval_s,
                row.until,
                row.seq,
                row.dropped,
                row.next_at,
                row.created_at,
                row.told_to,
            ),
        )

    def all(self, tx: Tx) -> tuple[Subscription, ...]:
        """All there are, the oldest first."""
        rows = tx.execute("SELECT * FROM comms_telemetry ORDER BY created_at, sub_id")
        return tuple(_subscription(row) for row in rows)

    def of_credential(self, tx: Tx, credential_id: str) -> tuple[Subscription, ...]:
        """Those of a credential, the oldest first."""
        rows = tx.execute(
            "SELECT * FROM comms_telemetry WHERE credential_id = ? ORDER BY created_at, sub_id",
            (credential_id,),
        )
        return tuple(_subscription(row) for row in rows)

    def get(self, tx: Tx, sub_id: str) -> Subscription | None:
        """One of them."""
        row = tx.execute("SELECT * FROM comms_telemetry WHERE sub_id = ?", (sub_id,)).fetchone()
        return None if row is None else _subscription(row)

    def prolong(self, tx: Tx, sub_id: str, until: int) -> None:
        """Let it end at another time."""
        tx.execute("UPDATE comms_telemetry SET until = ? WHERE sub_id = ?", (until, sub_id))

    def advance(self, tx: Tx, sub_id: str, seq: int, next_at: int, *, dropped: bool) -> None:
        """Note a push, or one that was dropped, and when the next is due."""
        tx.execute(
            "UPDATE comms_telemetry SET seq = ?, next_at = ?, dropped = dropped + ? WHERE sub_id = ?",
            (seq, next_at, int(dropped), sub_id),
        )

    def tell(self, tx: Tx, sub_id: str, seq: int, next_at: int, told_to: int) -> None:
        """Note a push of an action log, and the last receipt it tells of."""
        tx.execute(
            "UPDATE comms_telemetry SET seq = ?, next_at = ?, told_to = ? WHERE sub_id = ?",
            (seq, next_at, told_to, sub_id),
        )

    def end(self, tx: Tx, sub_id: str) -> None:
        """Forget one."""
        tx.execute("DELETE FROM comms_telemetry WHERE sub_id = ?", (sub_id,))

    def end_of(self, tx: Tx, credential_id: str) -> None:
        """Forget those of a credential that ended."""
        tx.execute("DELETE FROM comms_telemetry WHERE credential_id = ?", (credential_id,))

    def actions(self, tx: Tx, credential_id: str, since: int) -> dict[str, int]:
        """How many changes a credential asked for since a time, by state."""
        rows = tx.execute(
            "SELECT state, COUNT(*) AS n FROM comms_commands WHERE credential_id = ? AND read_only = 0"
            " AND received_at > ? GROUP BY state ORDER BY state",
            (credential_id, since),
        )
        return {row["state"]: int(row["n"]) for row in rows}


def _subscription(row: Row) -> Subscription:
    return Subscription(
        sub_id=row["sub_id"],
        credential_id=row["credential_id"],
        advisor_id=row["advisor_id"],
        recipient=row["recipient"],
        metrics=tuple(row["metrics"].split(" ")),
        interval_s=row["interval_s"],
        until=row["until"],
        seq=row["seq"],
        dropped=row["dropped"],
        next_at=row["next_at"],
        created_at=row["created_at"],
        told_to=row["told_to"],
    )
