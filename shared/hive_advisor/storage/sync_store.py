"""adv_sync and adv_evidence: where we stand with the record of each client."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from hive_shared.store import Tx

from hive_advisor.domain.rows import HeadWord, StoredEvidence


class SyncStore:
    """Due times, heads, missing pushes and evidence. Methods join the caller's transaction."""

    def due_at(self, tx: Tx, client_id: str) -> int | None:
        """When receipts are to be fetched next; None when nothing has said so yet."""
        row = tx.execute("SELECT due_at FROM adv_sync WHERE client_id = ?", (client_id,)).fetchone()
        return row["due_at"] if row else None

    def set_due(self, tx: Tx, client_id: str, at: int) -> None:
        self._row(tx, client_id)
        tx.execute("UPDATE adv_sync SET due_at = ? WHERE client_id = ?", (at, client_id))

    def bring_forward(self, tx: Tx, client_id: str, at: int) -> None:
        """Fetch at `at` if it would be later otherwise."""
        self._row(tx, client_id)
        tx.execute(
            "UPDATE adv_sync SET due_at = min(coalesce(due_at, ?1), ?1) WHERE client_id = ?2", (at, client_id)
        )

    def head(self, tx: Tx, client_id: str) -> HeadWord | None:
        row = tx.execute("SELECT * FROM adv_sync WHERE client_id = ?", (client_id,)).fetchone()
        if row is None or row["head_by"] is None:
            return None
        return HeadWord(row["head_id"], row["head_at"], row["head_seq"], row["head_by"])

    def set_head(self, tx: Tx, client_id: str, head: HeadWord) -> None:
        self._row(tx, client_id)
        tx.execute(
            "UPDATE adv_sync SET head_id = ?, head_at = ?, head_seq = ?, head_by = ? WHERE client_id = ?",
            (head.receipt_id, head.at, head.seq, head.asked_by, client_id),
        )

    def poll_since(self, tx: Tx, client_id: str) -> int | None:
        """After which number pushes may be missing; None when none is."""
        row = tx.execute("SELECT poll_since FROM adv_sync WHERE client_id = ?", (client_id,)).fetchone()
        return row["poll_since"] if row else None

    def want_poll(self, tx: Tx, client_id: str, since: int) -> None:
        """Pushes after this number may be missing; an earlier gap that is not closed yet stays open."""
        self._row(tx, client_id)
        tx.execute(
            "UPDATE adv_sync SET poll_since = min(coalesce(poll_since, ?1), ?1) WHERE client_id = ?2",
            (since, client_id),
        )

    def polled(self, tx: Tx, client_id: str, since: int, to: int | None) -> None:
        """What was missing after `since` has come up to `to`, or to its end with None."""
        tx.execute(
            "UPDATE adv_sync SET poll_since = ? WHERE client_id = ? AND poll_since = ?",
            (to, client_id, since),
        )

    def add_evidence(self, tx: Tx, client_id: str, why: str, document: dict[str, Any], now: int) -> int:
        done = tx.execute(
            "INSERT INTO adv_evidence (client_id, why, doc_json, at) VALUES (?,?,?,?)",
            (client_id, why, json.dumps(document), now),
        )
        return int(done.lastrowid or 0)

    def evidence(self, tx: Tx, client_id: str) -> list[StoredEvidence]:
        """What a client was found with, newest first."""
        rows = tx.execute(
            "SELECT * FROM adv_evidence WHERE client_id = ? ORDER BY evidence_id DESC", (client_id,)
        ).fetchall()
        return [_evidence(row) for row in rows]

    @staticmethod
    def _row(tx: Tx, client_id: str) -> None:
        tx.execute("INSERT OR IGNORE INTO adv_sync (client_id) VALUES (?)", (client_id,))

    def forget(self, tx: Tx, client_id: str) -> int:
        """Erase what is kept of a client; how many rows."""
        return int(tx.execute("DELETE FROM adv_sync WHERE client_id = ?", (client_id,)).rowcount)


def _evidence(row: sqlite3.Row) -> StoredEvidence:
    return StoredEvidence(
        row["evidence_id"], row["client_id"], row["why"], json.loads(row["doc_json"]), row["at"]
    )
