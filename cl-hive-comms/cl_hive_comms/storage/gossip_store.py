"""Sole writer of comms_gossip_credentials (docs/protocol/02-fleet-management.md §2.5, §11)."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from hive_shared import credential as credentials
from hive_shared.canonical import decode, encode
from hive_shared.store import Tx

from ..domain.gossip import GossipRow


class GossipStore:
    """Credentials and revocations that other nodes told."""

    def get(self, tx: Tx, issuer_id: str, credential_id: str) -> GossipRow | None:
        """What an issuer told of a credential."""
        row = tx.execute(
            "SELECT * FROM comms_gossip_credentials WHERE issuer_id = ? AND credential_id = ?",
            (issuer_id, credential_id),
        ).fetchone()
        return None if row is None else _row(row)

    def end_of(self, tx: Tx, issuer_id: str, credential_id: str) -> tuple[int, str] | None:
        """When and why its issuer revoked a credential; None when nobody told of it."""
        row = tx.execute(
            "SELECT revoked_at, revocation_reason FROM comms_gossip_credentials"
            " WHERE issuer_id = ? AND credential_id = ? AND revoked_at IS NOT NULL",
            (issuer_id, credential_id),
        ).fetchone()
        return None if row is None else (row["revoked_at"], row["revocation_reason"])

    def add(self, tx: Tx, row: GossipRow) -> None:
        """Insert a row. Raises sqlite3.IntegrityError when it is there."""
        document = None if row.credential is None else encode(credentials.to_doc(row.credential)).decode()
        tx.execute(
            "INSERT INTO comms_gossip_credentials (issuer_id, credential_id, document_json, first_seen_at,"
            " keep_until, revoked_at, revocation_reason) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                row.issuer_id,
                row.credential_id,
                document,
                row.first_seen_at,
                row.keep_until,
                row.revoked_at,
                row.revocation_reason,
            ),
        )

    def revoke(self, tx: Tx, issuer_id: str, credential_id: str, reason: str, now: int) -> None:
        """Note the end of a credential that is there; the first one stands."""
        tx.execute(
            "UPDATE comms_gossip_credentials SET revoked_at = ?, revocation_reason = ?"
            " WHERE issuer_id = ? AND credential_id = ? AND revoked_at IS NULL",
            (now, reason, issuer_id, credential_id),
        )

    def forget(self, tx: Tx, now: int) -> None:
        """Drop what could not come back anyway."""
        tx.execute("DELETE FROM comms_gossip_credentials WHERE keep_until <= ?", (now,))

    def counts(self, tx: Tx, issuer_id: str, apart_from: Collection[str]) -> tuple[int, int]:
        """Rows of an issuer, and of all issuers but some."""
        marks = ", ".join("?" * len(apart_from))
        row = tx.execute(
            "SELECT COALESCE(SUM(issuer_id = ?), 0) AS own,"
            f" COALESCE(SUM(issuer_id NOT IN ({marks})), 0) AS others FROM comms_gossip_credentials",
            (issuer_id, *apart_from),
        ).fetchone()
        return int(row["own"]), int(row["others"])

    def rows(self, tx: Tx) -> list[GossipRow]:
        """All of them, oldest first."""
        found = tx.execute("SELECT * FROM comms_gossip_credentials ORDER BY first_seen_at, credential_id")
        return [_row(row) for row in found]

    # -- whole rows, for backups ---------------------------------------------------------------------

    def raw_gossip(self, tx: Tx) -> Iterator[dict[str, object]]:
        """Every column of every row."""
        for row in tx.execute("SELECT * FROM comms_gossip_credentials ORDER BY issuer_id, credential_id"):
            yield dict(row)

    def put_raw_gossip(self, tx: Tx, row: Mapping[str, Any]) -> bool:
        """Insert a row; of one that is here only a revocation is taken over. False when nothing changed."""
        done = tx.execute(
            f"INSERT INTO comms_gossip_credentials ({', '.join(_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (issuer_id, credential_id) DO UPDATE SET revoked_at = excluded.revoked_at,"
            " revocation_reason = excluded.revocation_reason"
            " WHERE revoked_at IS NULL AND excluded.revoked_at IS NOT NULL",
            [row[name] for name in _COLUMNS],
        )
        return done.rowcount == 1


_COLUMNS = (
    *("issuer_id", "credential_id", "document_json", "first_seen_at", "keep_until", "revoked_at"),
    "revocation_reason",
)


def _row(row: sqlite3.Row) -> GossipRow:
    text = row["document_json"]
    return GossipRow(
        issuer_id=row["issuer_id"],
        credential_id=row["credential_id"],
        credential=None if text is None else credentials.parse(decode(text, floats=True)),
        first_seen_at=row["first_seen_at"],
        keep_until=row["keep_until"],
        revoked_at=row["revoked_at"],
        revocation_reason=row["revocation_reason"],
    )
