"""Sole writer of escrow_outbox (docs/protocol/03-escrow-and-payments.md §8): what comms is to send."""

from __future__ import annotations

import json

from hive_shared.canonical import encode
from hive_shared.store import Tx

from cl_hive.domain.fleet_escrow import Outgoing, Parcel


class FleetMailStore:
    """Messages and alerts; every method runs inside the caller's transaction."""

    def add(self, tx: Tx, row: Outgoing) -> None:
        """Store one; the same key stores nothing twice."""
        tx.execute(
            "INSERT OR IGNORE INTO escrow_outbox (key, kind, recipient, body_json, expires_at, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                *(row.key, row.kind.value, row.recipient, encode(dict(row.body)).decode()),
                *(row.expires_at, row.created_at),
            ),
        )

    def stored(self, tx: Tx, key: str) -> bool:
        """Whether one of this key was stored."""
        return tx.execute("SELECT 1 FROM escrow_outbox WHERE key = ?", (key,)).fetchone() is not None

    def waiting(self, tx: Tx, limit: int) -> list[Outgoing]:
        """What was not sent yet, the oldest first."""
        rows = tx.execute(
            "SELECT * FROM escrow_outbox WHERE sent_at IS NULL ORDER BY created_at, rowid LIMIT ?", (limit,)
        )
        return [
            Outgoing(
                *(row["key"], Parcel(row["kind"]), row["recipient"], json.loads(row["body_json"])),
                *(row["expires_at"], row["created_at"]),
            )
            for row in rows
        ]

    def sent(self, tx: Tx, key: str, now: int) -> None:
        """It left, or cannot any more."""
        tx.execute("UPDATE escrow_outbox SET sent_at = ? WHERE key = ?", (now, key))

    def prune(self, tx: Tx, before: int) -> None:
        """Forget what ran out before a time."""
        tx.execute("DELETE FROM escrow_outbox WHERE sent_at IS NOT NULL AND expires_at < ?", (before,))
