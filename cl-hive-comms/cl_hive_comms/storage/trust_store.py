"""Sole writer of comms_trust_days (docs/protocol/08-client-and-plugins.md §5.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hive_shared.store import Tx

from ..domain.trust import WINDOW_DAYS, Record


class TrustStore:
    """What advisors did, counted by day."""

    def note(self, tx: Tx, advisor_id: str, day: int, record: Record) -> None:
        """Add to an advisor's day; days that no window reaches any more go."""
        tx.execute(
            "INSERT INTO comms_trust_days (advisor_id, day, writes, successes, violations)"
            " VALUES (?, ?, ?, ?, ?) ON CONFLICT (advisor_id, day) DO UPDATE SET"
            " writes = writes + excluded.writes, successes = successes + excluded.successes,"
            " violations = violations + excluded.violations",
            (advisor_id, day, record.writes, record.successes, record.violations),
        )
        tx.execute(
            "DELETE FROM comms_trust_days WHERE advisor_id = ? AND day < ?",
            (advisor_id, day - 2 * WINDOW_DAYS),
        )

    def raw_days(self, tx: Tx) -> Iterator[dict[str, object]]:
        """Every counted day of every advisor."""
        for row in tx.execute("SELECT * FROM comms_trust_days ORDER BY advisor_id, day"):
            yield dict(row)

    def put_raw_day(self, tx: Tx, row: Mapping[str, Any]) -> bool:
        """Insert a day; False when it was counted here. Raises KeyError for a missing column."""
        done = tx.execute(
            "INSERT OR IGNORE INTO comms_trust_days (advisor_id, day, writes, successes, violations)"
            " VALUES (?, ?, ?, ?, ?)",
            [row[name] for name in ("advisor_id", "day", "writes", "successes", "violations")],
        )
        return done.rowcount == 1

    def record(self, tx: Tx, advisor_id: str, from_day: int) -> Record:
        """An advisor's sums from a day on: at most one row a day is read."""
        row = tx.execute(
            "SELECT COALESCE(SUM(writes), 0) AS writes, COALESCE(SUM(successes), 0) AS successes,"
            " COALESCE(SUM(violations), 0) AS violations FROM comms_trust_days"
            " WHERE advisor_id = ? AND day >= ?",
            (advisor_id, from_day),
        ).fetchone()
        return Record(row["writes"], row["successes"], row["violations"])
