"""Sole writer of management_receipts, comms_receipt_roots and comms_receipt_acks
(docs/protocol/02-fleet-management.md §9, 08 §5.3). Triggers refuse every change of a receipt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from hive_shared.store import Tx

from ..domain.receipt_record import AckRow, ReceiptQuery, ReceiptRow, RootRow

_NAMES = tuple(field.name for field in fields(ReceiptRow))
_COLUMNS = ", ".join(_NAMES)
_INSERT = f"INSERT INTO management_receipts ({_COLUMNS}) VALUES ({', '.join('?' * len(_NAMES))})"


class ReceiptStore:
    """The append-only chain, its roots and what agents acknowledged."""

    def head(self, tx: Tx) -> ReceiptRow | None:
        """The newest receipt."""
        row = tx.execute(
            f"SELECT {_COLUMNS} FROM management_receipts ORDER BY receipt_id DESC LIMIT 1"
        ).fetchone()
        return ReceiptRow(**dict(row)) if row else None

    def append(self, tx: Tx, row: ReceiptRow) -> None:
        """Add the next receipt. Raises sqlite3.IntegrityError when its id is not head + 1."""
        tx.execute(_INSERT, [getattr(row, name) for name in _NAMES])

    def get(self, tx: Tx, receipt_id: int) -> ReceiptRow | None:
        """The receipt of that id."""
        row = tx.execute(
            f"SELECT {_COLUMNS} FROM management_receipts WHERE receipt_id = ?", (receipt_id,)
        ).fetchone()
        return ReceiptRow(**dict(row)) if row else None

    def walk(self, tx: Tx, from_id: int, to_id: int) -> Iterator[ReceiptRow]:
        """Receipts `from_id..to_id` in id order, streamed."""
        for row in tx.execute(
            f"SELECT {_COLUMNS} FROM management_receipts WHERE receipt_id BETWEEN ? AND ?"
            " ORDER BY receipt_id",
            (from_id, to_id),
        ):
            yield ReceiptRow(*row)

    def find(self, tx: Tx, query: ReceiptQuery) -> tuple[ReceiptRow, ...]:
        """Receipts that match, newest first."""
        rows = tx.execute(
            f"SELECT {_COLUMNS} FROM management_receipts WHERE (?1 IS NULL OR advisor_id = ?1)"
            " AND (?2 IS NULL OR schema_id = ?2) AND (?3 IS NULL OR created_at >= ?3)"
            " AND (?4 IS NULL OR created_at < ?4) AND (?5 IS NULL OR receipt_id < ?5)"
            " ORDER BY receipt_id DESC LIMIT ?6",
            (query.advisor_id, query.schema, query.since, query.until, query.before_id, query.limit),
        )
        return tuple(ReceiptRow(**dict(row)) for row in rows)

    def of_command(self, tx: Tx, command_id: str) -> tuple[ReceiptRow, ...]:
        """The receipts of a command, oldest first."""
        rows = tx.execute(
            f"SELECT {_COLUMNS} FROM management_receipts WHERE command_id = ? ORDER BY receipt_id LIMIT 100",
            (command_id,),
        )
        return tuple(ReceiptRow(**dict(row)) for row in rows)

    def after(self, tx: Tx, receipt_id: int, limit: int) -> tuple[ReceiptRow, ...]:
        """Receipts with a higher id, oldest first."""
        rows = tx.execute(
            f"SELECT {_COLUMNS} FROM management_receipts WHERE receipt_id > ? ORDER BY receipt_id LIMIT ?",
            (receipt_id, limit),
        )
        return tuple(ReceiptRow(**dict(row)) for row in rows)

    def hashes(self, tx: Tx, first_id: int, last_id: int) -> list[str]:
        """Receipt hashes in id order."""
        rows = tx.execute(
            "SELECT receipt_hash FROM management_receipts WHERE receipt_id BETWEEN ? AND ?"
            " ORDER BY receipt_id",
            (first_id, last_id),
        )
        return [str(row["receipt_hash"]) for row in rows]

    def span(self, tx: Tx, after_id: int, before: int) -> tuple[int, int] | None:
        """First and last id above `after_id` written before a time; None when there is none."""
        row = tx.execute(
            "SELECT MIN(receipt_id) AS first, MAX(receipt_id) AS last FROM management_receipts"
            " WHERE receipt_id > ? AND created_at < ?",
            (after_id, before),
        ).fetchone()
        return None if row["first"] is None else (int(row["first"]), int(row["last"]))

    # -- archiving ----------------------------------------------------------------------------------

    def first_id(self, tx: Tx) -> int | None:
        """Id of the oldest receipt that is not archived."""
        (first,) = tx.execute("SELECT MIN(receipt_id) FROM management_receipts").fetchone()
        return None if first is None else int(first)

    def first_of_commands(self, tx: Tx, command_ids: Sequence[str]) -> int | None:
        """The oldest receipt of any of these commands."""
        found = [
            tx.execute(
                "SELECT MIN(receipt_id) AS first FROM management_receipts WHERE command_id = ?", (command_id,)
            ).fetchone()["first"]
            for command_id in command_ids
        ]
        return min((int(first) for first in found if first is not None), default=None)

    def root_across(self, tx: Tx, receipt_id: int) -> RootRow | None:
        """A root of an hour or day over both this receipt and the next one."""
        row = tx.execute(
            "SELECT * FROM comms_receipt_roots WHERE kind IN ('hour', 'day') AND first_id <= ?1"
            " AND last_id > ?1 ORDER BY first_id LIMIT 1",
            (receipt_id,),
        ).fetchone()
        return self._root(dict(row)) if row else None

    def checkpoints(self, tx: Tx) -> tuple[RootRow, ...]:
        """The checkpoints that stand for archived receipts, oldest first."""
        rows = tx.execute("SELECT * FROM comms_receipt_roots WHERE kind = 'prune' ORDER BY first_id, last_id")
        return tuple(self._root(dict(row)) for row in rows)

    def forget(self, tx: Tx, first_id: int, last_id: int) -> int:
        """Remove archived receipts with their acknowledgements; how many receipts. Raises
        sqlite3.IntegrityError when no checkpoint stands for them."""
        span = (first_id, last_id)
        tx.execute("DELETE FROM comms_receipt_acks WHERE receipt_id BETWEEN ? AND ?", span)
        return tx.execute("DELETE FROM management_receipts WHERE receipt_id BETWEEN ? AND ?", span).rowcount

    # -- roots and acknowledgements -----------------------------------------------------------------

    def last_root(self, tx: Tx, kind: str) -> RootRow | None:
        """The newest root of a kind."""
        row = tx.execute(
            "SELECT * FROM comms_receipt_roots WHERE kind = ? ORDER BY last_id DESC LIMIT 1", (kind,)
        ).fetchone()
        return self._root(dict(row)) if row else None

    def add_root(self, tx: Tx, root: RootRow) -> bool:
        """Store the root of a period; False when the period already has one."""
        done = tx.execute(
            "INSERT OR IGNORE INTO comms_receipt_roots (period, kind, start, first_id, last_id, count,"
            " merkle_root, last_hash, node_signature, hsm_signature) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                root.period,
                root.kind,
                root.start,
                root.first_id,
                root.last_id,
                root.count,
                root.merkle_root,
                root.last_hash,
                root.node_signature,
                root.hsm_signature,
            ),
        )
        return done.rowcount == 1

    def roots(self, tx: Tx, since_id: int, limit: int) -> tuple[RootRow, ...]:
        """Roots that cover receipts above an id, oldest first."""
        rows = tx.execute(
            "SELECT * FROM comms_receipt_roots WHERE last_id > ? ORDER BY last_id, kind LIMIT ?",
            (since_id, limit),
        )
        return tuple(self._root(dict(row)) for row in rows)

    def add_ack(self, tx: Tx, ack: AckRow) -> bool:
        """Store an agent's acknowledgement; False when it stands already."""
        done = tx.execute(
            "INSERT OR IGNORE INTO comms_receipt_acks (receipt_id, sender_key, signature, at)"
            " VALUES (?, ?, ?, ?)",
            (ack.receipt_id, ack.sender_key, ack.signature, ack.at),
        )
        return done.rowcount == 1

    def acks(self, tx: Tx, receipt_id: int) -> tuple[AckRow, ...]:
        """Acknowledgements of a receipt."""
        rows = tx.execute("SELECT * FROM comms_receipt_acks WHERE receipt_id = ? ORDER BY at", (receipt_id,))
        return tuple(AckRow(**dict(row)) for row in rows)

    def all_acks(self, tx: Tx) -> Iterator[AckRow]:
        """Every acknowledgement, in order of receipts."""
        for row in tx.execute("SELECT * FROM comms_receipt_acks ORDER BY receipt_id, at"):
            yield AckRow(**dict(row))

    @staticmethod
    def _root(values: dict[str, object]) -> RootRow:
        values.pop("period")
        return RootRow(**values)  # type: ignore[arg-type]
