"""Sole writer of comms_reports and comms_baselines (docs/protocol/02-fleet-management.md §10, §11)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hive_shared.canonical import JsonValue, encode
from hive_shared.store import Tx

from cl_hive_comms.domain.trial import Baseline


class ReportStore:
    """Reports on advisors' work. Every method runs inside the caller's transaction."""

    def add(
        self, tx: Tx, credential_id: str, kind: str, until: int, doc: Mapping[str, JsonValue], now: int
    ) -> bool:
        """Keep a report; False when that period has one."""
        done = tx.execute(
            "INSERT OR IGNORE INTO comms_reports (credential_id, kind, until, document_json, created_at)"
            " VALUES (?, ?, ?, ?, ?)",
            (credential_id, kind, until, encode(dict(doc)).decode(), now),
        )
        return done.rowcount == 1

    def ends(self, tx: Tx) -> dict[tuple[str, str], int]:
        """Where the last report of each credential and kind ended."""
        rows = tx.execute(
            "SELECT credential_id, kind, MAX(until) AS until FROM comms_reports GROUP BY credential_id, kind"
        )
        return {(row["credential_id"], row["kind"]): int(row["until"]) for row in rows}

    def next(self, tx: Tx, credential_id: str, kind: str, after: int) -> dict[str, Any] | None:
        """The oldest report that ends after a time."""
        row = tx.execute(
            "SELECT document_json FROM comms_reports WHERE credential_id = ? AND kind = ? AND until > ?"
            " ORDER BY until LIMIT 1",
            (credential_id, kind, after),
        ).fetchone()
        return None if row is None else dict(json.loads(row["document_json"]))

    def newest(self, tx: Tx, credential_id: str, kind: str, limit: int) -> list[dict[str, Any]]:
        """The newest reports first."""
        rows = tx.execute(
            "SELECT document_json FROM comms_reports WHERE credential_id = ? AND kind = ?"
            " ORDER BY until DESC LIMIT ?",
            (credential_id, kind, limit),
        )
        return [json.loads(row["document_json"]) for row in rows]

    def prune(self, tx: Tx, before: int) -> None:
        """Forget reports made before a time."""
        tx.execute("DELETE FROM comms_reports WHERE created_at < ?", (before,))

    # -- baselines ------------------------------------------------------------------------------------

    def with_baseline(self, tx: Tx) -> frozenset[str]:
        """Credentials whose baseline was taken."""
        rows = tx.execute("SELECT credential_id FROM comms_baselines")
        return frozenset(str(row["credential_id"]) for row in rows)

    def add_baseline(
        self, tx: Tx, credential_id: str, doc: Mapping[str, JsonValue], signature: str, now: int
    ) -> bool:
        """Keep a signed baseline; False when there is one, which stays."""
        done = tx.execute(
            "INSERT OR IGNORE INTO comms_baselines (credential_id, document_json, signature, created_at)"
            " VALUES (?, ?, ?, ?)",
            (credential_id, encode(dict(doc)).decode(), signature, now),
        )
        return done.rowcount == 1

    def baseline(self, tx: Tx, credential_id: str) -> tuple[dict[str, Any], str] | None:
        """A baseline and its signature."""
        row = tx.execute(
            "SELECT document_json, signature FROM comms_baselines WHERE credential_id = ?", (credential_id,)
        ).fetchone()
        return None if row is None else (json.loads(row["document_json"]), str(row["signature"]))

    def of_trial(self, tx: Tx, credential_id: str) -> Baseline | None:
        """What was measured when the trial of a credential began."""
        row = tx.execute(
            "SELECT baseline_json FROM marketplace_trials WHERE credential_id = ?", (credential_id,)
        ).fetchone()
        return None if row is None else Baseline.from_doc(json.loads(row["baseline_json"]))
