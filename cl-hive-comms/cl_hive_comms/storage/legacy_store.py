"""Sole writer of comms_migrations, comms_legacy_receipts and comms_legacy_rows
(docs/protocol/08-client-and-plugins.md §5.3, §8.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hive_shared.canonical import encode
from hive_shared.store import Tx
from msgspec.structs import astuple

from cl_hive_comms.domain.legacy import LegacyRow
from cl_hive_comms.domain.legacy_record import LegacyReceipt, Segment

_ROW = ("source_table", "row_key", "digest", "migration_id", "row_json")
_MIGRATION = (
    *("migration_id", "at", "source_sha256", "report_json", "first_seq", "last_seq", "merkle_root"),
    *("last_digest", "node_signature", "hsm_signature"),
)
_RECEIPT = "seq, receipt_id, executed_at, schema_id, digest, row_json"


class LegacyStore:
    """What was taken over from the earlier single plugin."""

    def receipt_digest(self, tx: Tx, receipt_id: str) -> str | None:
        """The digest of a kept receipt, None when there is none of that id."""
        row = tx.execute(
            "SELECT digest FROM comms_legacy_receipts WHERE receipt_id = ?", (receipt_id,)
        ).fetchone()
        return None if row is None else str(row["digest"])

    def last_seq(self, tx: Tx) -> int:
        """Number of the newest kept receipt, 0 when there is none."""
        (last,) = tx.execute("SELECT MAX(seq) FROM comms_legacy_receipts").fetchone()
        return int(last or 0)

    def add_receipt(self, tx: Tx, receipt: LegacyReceipt) -> None:
        """Keep a receipt. Raises sqlite3.IntegrityError when its number or id is taken."""
        tx.execute(
            f"INSERT INTO comms_legacy_receipts ({_RECEIPT}) VALUES (?, ?, ?, ?, ?, ?)", astuple(receipt)
        )

    def walk(self, tx: Tx) -> Iterator[LegacyReceipt]:
        """Every kept receipt in order of import, streamed."""
        for row in tx.execute(f"SELECT {_RECEIPT} FROM comms_legacy_receipts ORDER BY seq"):
            yield LegacyReceipt(*row)

    def find(
        self,
        tx: Tx,
        *,
        schema: str | None,
        since: int | None,
        until: int | None,
        before: tuple[int, int] | None,
        limit: int,
    ) -> tuple[LegacyReceipt, ...]:
        """Kept receipts that match, newest first; `before` is (executed_at, seq) of the page's end."""
        at, seq = before or (None, None)
        rows = tx.execute(
            f"SELECT {_RECEIPT} FROM comms_legacy_receipts WHERE (?1 IS NULL OR schema_id = ?1)"
            " AND (?2 IS NULL OR executed_at >= ?2) AND (?3 IS NULL OR executed_at < ?3)"
            " AND (?4 IS NULL OR (executed_at, seq) < (?4, ?5))"
            " ORDER BY executed_at DESC, seq DESC LIMIT ?6",
            (schema, since, until, at, seq, limit),
        )
        return tuple(LegacyReceipt(*row) for row in rows)

    def has_row(self, tx: Tx, table: str, row_key: str, digest: str) -> bool:
        """Whether a row stands here in just this version."""
        found = tx.execute(
            "SELECT 1 FROM comms_legacy_rows WHERE source_table = ? AND row_key = ? AND digest = ?",
            (table, row_key, digest),
        ).fetchone()
        return found is not None

    def add_row(self, tx: Tx, table: str, row: LegacyRow, migration_id: int) -> None:
        """Keep a row. Raises sqlite3.IntegrityError when it stands here already."""
        tx.execute(
            "INSERT INTO comms_legacy_rows (source_table, row_key, digest, migration_id, row_json)"
            " VALUES (?, ?, ?, ?, ?)",
            (table, row.key, row.digest, migration_id, row.text),
        )

    def next_migration(self, tx: Tx) -> int:
        """The number the next migration gets."""
        (last,) = tx.execute("SELECT MAX(migration_id) FROM comms_migrations").fetchone()
        return int(last or 0) + 1

    def add_migration(
        self,
        tx: Tx,
        migration_id: int,
        *,
        at: int,
        source_sha256: str,
        report: Mapping[str, Any],
        segment: Segment | None,
    ) -> None:
        """Record a migration and the checkpoint that closes its receipts."""
        closing: tuple[object, ...] = (None,) * 6 if segment is None else astuple(segment)[1:]
        tx.execute(
            "INSERT INTO comms_migrations (migration_id, at, source_sha256, report_json, first_seq, last_seq,"
            " merkle_root, last_digest, node_signature, hsm_signature) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (migration_id, at, source_sha256, encode(dict(report)).decode(), *closing),
        )

    # -- whole rows, for backups ---------------------------------------------------------------------

    def raw_migrations(self, tx: Tx) -> Iterator[dict[str, object]]:
        """Every column of every migration, in their order."""
        for row in tx.execute("SELECT * FROM comms_migrations ORDER BY migration_id"):
            yield dict(row)

    def put_raw_migration(self, tx: Tx, row: Mapping[str, Any]) -> None:
        """Insert a migration. Raises KeyError for a missing column, sqlite3.IntegrityError."""
        tx.execute(
            f"INSERT INTO comms_migrations ({', '.join(_MIGRATION)})"
            f" VALUES ({', '.join('?' * len(_MIGRATION))})",
            [row[name] for name in _MIGRATION],
        )

    def raw_rows(self, tx: Tx) -> Iterator[dict[str, object]]:
        """Every column of every kept row, streamed."""
        for row in tx.execute("SELECT * FROM comms_legacy_rows ORDER BY source_table, row_key, digest"):
            yield dict(row)

    def put_raw_row(self, tx: Tx, row: Mapping[str, Any]) -> None:
        """Insert a kept row. Raises KeyError for a missing column, sqlite3.IntegrityError."""
        tx.execute(
            f"INSERT INTO comms_legacy_rows ({', '.join(_ROW)}) VALUES ({', '.join('?' * len(_ROW))})",
            [row[name] for name in _ROW],
        )

    def segments(self, tx: Tx) -> tuple[Segment, ...]:
        """The checkpoints over legacy receipts, in their order."""
        rows = tx.execute(
            "SELECT at, first_seq, last_seq, merkle_root, last_digest, node_signature, hsm_signature"
            " FROM comms_migrations WHERE first_seq IS NOT NULL ORDER BY migration_id"
        )
        return tuple(Segment(*row) for row in rows)
