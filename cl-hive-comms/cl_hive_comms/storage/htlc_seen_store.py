"""Sole writer of comms_htlc_seen (docs/protocol/02-fleet-management.md §11)."""

from __future__ import annotations

from collections.abc import Iterable

from hive_shared.store import Tx

from ..domain.htlc_seen import HtlcKey


class HtlcSeenStore:
    """When HTLCs in flight were first seen."""

    def all(self, tx: Tx) -> dict[HtlcKey, int]:
        """First sight of each, unix seconds."""
        rows = tx.execute("SELECT scid, dir, id, first_seen FROM comms_htlc_seen")
        return {HtlcKey(row["scid"], row["dir"], row["id"]): row["first_seen"] for row in rows}

    def note(self, tx: Tx, new: Iterable[HtlcKey], gone: Iterable[HtlcKey], now: int) -> None:
        """Keep the sight of new ones, forget those that ended."""
        tx.executemany("DELETE FROM comms_htlc_seen WHERE scid = ? AND dir = ? AND id = ?", list(gone))
        tx.executemany(
            "INSERT INTO comms_htlc_seen (scid, dir, id, first_seen) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (scid, dir, id) DO NOTHING",
            [(*key, now) for key in new],
        )
