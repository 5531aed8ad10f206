"""adv_batches."""

from __future__ import annotations

from hive_shared.store import Tx


class BatchStore:
    """What the ids of batches stand for. Methods join the caller's transaction."""

    def digest(self, tx: Tx, batch_id: str) -> str | None:
        """What was sent under an id; None when nothing was."""
        row = tx.execute("SELECT digest FROM adv_batches WHERE batch_id = ?", (batch_id,)).fetchone()
        return str(row["digest"]) if row else None

    def add(self, tx: Tx, batch_id: str, digest: str, lines: int, now: int) -> None:
        tx.execute(
            "INSERT INTO adv_batches (batch_id, digest, lines, created) VALUES (?,?,?,?)",
            (batch_id, digest, lines, now),
        )
