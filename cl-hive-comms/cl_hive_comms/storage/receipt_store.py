"""Sole writer of management_receipts, comms_receipt_roots, comms_receipt_acks and comms_receipt_seals
(docs/protocol/02-fleet-management.md §9, 08 §5.3). Triggers refuse every change of a receipt."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from hive_shared.store import Tx

from ..domain.receipt_record import AckRow, ReceiptQuery, ReceiptRow, RootRow, SealRow

_COLUMNS = ", ".join(ReceiptRow._fields)
_WALK = f"SELECT {_COLUMNS} FROM management_receipts WHERE receipt_id BETWEEN ? AND ? ORDER BY receipt_id"
_INSERT = f"INSERT INTO management_receipts ({_COLUMNS}) VALUES ({', '.join('?' * len(ReceiptRow._fields))})"


class ReceiptStore:
    """The append-only chain, its roots and what agents acknowledged."""

    def head(self, tx: Tx) -> ReceiptRow | None:
        """The newest receipt."""
        row = tx.execute(
            f"SELECT {_COLUMNS} FROM management_receipts ORDER BY receipt_id DESC LIMIT 1"
        ).fetchone()
        return ReceiptRow(*row) if row else None

    def append(self, tx: Tx, row: ReceiptRow) -> None:
        """Add the next receipt. Raises sqlite3.IntegrityError when its id is not head + 1."""
        tx.execute(_INSERT, row)

    def get(self, tx: Tx, receipt_id: int) -> ReceiptRow | None:
        """The receipt of that id."""
        row = tx.execute(
            f"SELECT {_COLUMNS} FROM management_receipts WHERE receipt_id = ?", (receipt_id,)
        ).fetchone()
        return ReceiptRow(*row) if row else None

    def walk(self, tx: Tx, from_id: int, to_id: int) -> Iterator[ReceiptRow]:
        """Receipts `from_id..to_id` in id order, streamed. Damaged text comes with U+FFFD in it."""
        cursor = tx.cursor()
        # Plain tuples: rows that can be asked by name would cost a long walk a fifth of its time.
        cursor.row_factory = None
        rows = cursor.execute(_WALK, (from_id, to_id))
        while True:
            try:
                row = ReceiptRow._make(next(rows))
            except StopIteration:
                return
            except sqlite3.OperationalError:
                break
            yield row
            from_id = row.receipt_id + 1
        yield from self._walk_bytes(tx, from_id, to_id)

    def _walk_bytes(self, tx: Tx, from_id: int, to_id: int) -> Iterator[ReceiptRow]:
        # Text that is no UTF-8 stops the module sqlite3; `verify` is to name that receipt all the same.
        was, tx.text_factory = tx.text_factory, bytes
        try:
            cursor = tx.cursor()
            cursor.row_factory = None
            for row in cursor.execute(_WALK, (from_id, to_id)):
                yield ReceiptRow._make(
                    value.decode(errors="replace") if isinstance(value, bytes) else value for value in row
                )
        finally:
            tx.text_factory = was

    def find(self, tx: Tx, query: ReceiptQuery) -> tuple[ReceiptRow, ...]:
        """Receipts that match, newest first."""
        wanted = (
            ("advisor_id = ?", query.advisor_id),
            ("schema_id = ?", query.schema),
            ("created_at >= ?", query.since),
            ("created_at < ?", query.until),
            ("receipt_id < ?", query.before_id),
        )
        # Only what is asked for: with `? IS NULL OR ..` SQLite would use no index but that of the ids.
        asked = [(term, value) for term, value in wanted if value is not None]
        where = " AND ".join(term for term, _ in asked) or "TRUE"
        rows = tx.execute(
            f"SELECT {_COLUMNS} FROM management_receipts WHERE {where} ORDER BY receipt_id DESC LIMIT ?",
            [*(value for _, value in asked), query.limit],
        )
        return tuple(ReceiptRow(*row) for row in rows)

    def of_command(self, tx: Tx, command_id: str) -> tuple[ReceiptRow, ...]:
        """The receipts of a command, oldest first."""
        rows = tx.execute(
            f"SELECT {_COLUMNS} FROM management_receipts WHERE command_id = ? ORDER BY receipt_id LIMIT 100",
            (command_id,),
        )
        return tuple(ReceiptRow(*row) for row in rows)

    def after(self, tx: Tx, receipt_id: int, limit: int) -> tuple[ReceiptRow, ...]:
        """Receipts with a higher id, oldest first."""
        rows = tx.execute(
            f"SELECT {_COLUMNS} FROM management_receipts WHERE receipt_id > ? ORDER BY receipt_id LIMIT ?",
            (receipt_id, limit),
        )
        return tuple(ReceiptRow(*row) for row in rows)

    def of_advisor(self, tx: Tx, advisor_id: str, after_id: int, limit: int) -> tuple[ReceiptRow, ...]:
        """An advisor's receipts with a higher id, oldest first."""
        rows = tx.execute(
            f"SELECT {_COLUMNS} FROM management_receipts WHERE advisor_id = ? AND receipt_id > ?"
            " ORDER BY receipt_id LIMIT ?",
            (advisor_id, after_id, limit),
        )
        return tuple(ReceiptRow(*row) for row in rows)

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
        tx.execute("DELETE FROM comms_receipt_seals WHERE first_id BETWEEN ? AND ?", span)
        return tx.execute("DELETE FROM management_receipts WHERE receipt_id BETWEEN ? AND ?", span).rowcount

    # -- seals --------------------------------------------------------------------------------------

    def seals(self, tx: Tx, from_id: int, to_id: int) -> tuple[SealRow, ...]:
        """Seals over receipts that all lie in `from_id..to_id`, in order."""
        rows = tx.execute(
            "SELECT first_id, last_id, signature FROM comms_receipt_seals"
            " WHERE first_id >= ? AND last_id <= ? ORDER BY first_id",
            (from_id, to_id),
        )
        return tuple(SealRow(*row) for row in rows)

    def last_sealed(self, tx: Tx) -> int:
        """The highest receipt id under a seal; 0 when there is none."""
        (last,) = tx.execute("SELECT MAX(last_id) FROM comms_receipt_seals").fetchone()
        return int(last or 0)

    def add_seal(self, tx: Tx, seal: SealRow) -> None:
        """Store a seal; the one that stands there already is replaced."""
        tx.execute(
            "INSERT OR REPLACE INTO comms_receipt_seals (first_id, last_id, signature) VALUES (?, ?, ?)", seal
        )

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
