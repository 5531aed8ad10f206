"""Sole writer of escrow_locks (docs/protocol/03-escrow-and-payments.md §8): what comms said of locks."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from hive_shared.cashu.lock_machine import LockState
from hive_shared.store import Tx

from cl_hive.domain.fleet_escrow import FleetLock

_COLUMNS = (
    *("lock_id", "ticket_id", "terms_hash", "item", "share", "role", "locktime", "state", "next_at"),
    *("created_at", "updated_at", "error"),
)


class FleetLockStore:
    """Locks of tickets; every method runs inside the caller's transaction."""

    def add(self, tx: Tx, row: FleetLock) -> bool:
        """Write a lock down that comms will be asked for; False where it is here already."""
        done = tx.execute(
            f"INSERT OR IGNORE INTO escrow_locks ({', '.join(_COLUMNS)})"
            f" VALUES ({', '.join('?' * len(_COLUMNS))})",
            [str(getattr(row, name)) if name == "state" else getattr(row, name) for name in _COLUMNS],
        )
        return done.rowcount == 1

    def note(
        self, tx: Tx, lock_id: str, state: LockState, now: int, next_at: int, error: str = ""
    ) -> FleetLock | None:
        """Write down where a lock stands; what ended stays as it is. The row after it, None without one."""
        tx.execute(
            "UPDATE escrow_locks SET updated_at = CASE state WHEN ? THEN updated_at ELSE ? END, state = ?,"
            " next_at = ?, error = ?"
            " WHERE lock_id = ? AND state NOT IN ('redeemed', 'refunded', 'lost')",
            (state.value, now, state.value, next_at, error, lock_id),
        )
        return self.get(tx, lock_id)

    def get(self, tx: Tx, lock_id: str) -> FleetLock | None:
        """One lock."""
        row = tx.execute("SELECT * FROM escrow_locks WHERE lock_id = ?", (lock_id,)).fetchone()
        return None if row is None else _lock(row)

    def of_terms(self, tx: Tx, terms_hash: str) -> list[FleetLock]:
        """Those of one ticket, by item and share."""
        rows = tx.execute(
            "SELECT * FROM escrow_locks WHERE terms_hash = ? ORDER BY item, share", (terms_hash,)
        )
        return [_lock(row) for row in rows]

    def due(self, tx: Tx, now: int, limit: int) -> list[FleetLock]:
        """Those that comms is to be asked about, the longest due first: at most so many that stand, and as
        many that ended, which none of the others keep waiting."""
        rows = [
            *tx.execute(
                "SELECT * FROM escrow_locks WHERE state NOT IN ('redeemed', 'refunded', 'lost')"
                " AND next_at <= ? ORDER BY next_at, lock_id LIMIT ?",
                (now, limit),
            ),
            *tx.execute(
                "SELECT * FROM escrow_locks WHERE state IN ('redeemed', 'refunded', 'lost')"
                " AND next_at < 9999999999 AND next_at <= ? ORDER BY next_at, lock_id LIMIT ?",
                (now, limit),
            ),
        ]
        return [_lock(row) for row in rows]

    def put_off(self, tx: Tx, lock_id: str, next_at: int) -> None:
        """Ask about it then; where it stands is as it was."""
        tx.execute("UPDATE escrow_locks SET next_at = ? WHERE lock_id = ?", (next_at, lock_id))

    def look_now(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """Ask about these the next time."""
        for lock_id in lock_ids:
            tx.execute("UPDATE escrow_locks SET next_at = 0 WHERE lock_id = ?", (lock_id,))

    def past(self, tx: Tx, locktime: int) -> list[FleetLock]:
        """A payer's that stand and whose locktime was at or before a time."""
        rows = tx.execute(
            "SELECT * FROM escrow_locks WHERE role = 'payer' AND locktime <= ?"
            " AND state IN ('locked', 'delivered', 'refundable') ORDER BY ticket_id, item, share",
            (locktime,),
        )
        return [_lock(row) for row in rows]

    def anything_open(self, tx: Tx) -> bool:
        """Whether there is a ticket, a lock or a message with something left to do or to hear."""
        row = tx.execute(
            "SELECT EXISTS (SELECT 1 FROM escrow_tickets WHERE status IN ('pending', 'active', 'expired',"
            " 'failed', 'disputed')) OR EXISTS (SELECT 1 FROM escrow_outbox WHERE sent_at IS NULL)"
            " OR EXISTS (SELECT 1 FROM escrow_locks WHERE state NOT IN ('redeemed', 'refunded', 'lost',"
            " 'failed'))"
            " OR EXISTS (SELECT 1 FROM escrow_locks WHERE state IN ('redeemed', 'refunded', 'lost')"
            " AND next_at < 9999999999)"
        ).fetchone()
        return bool(row[0])

    def prune(self, tx: Tx, before: int) -> None:
        """Forget what ended, and whose locktime was, before a time."""
        tx.execute(
            "DELETE FROM escrow_locks WHERE state IN ('redeemed', 'refunded', 'lost', 'failed')"
            " AND locktime < ? AND updated_at < ?",
            (before, before),
        )


def _lock(row: sqlite3.Row) -> FleetLock:
    values = {name: row[name] for name in _COLUMNS}
    return FleetLock(**{**values, "state": LockState(row["state"])})
