"""Sole writer of comms_channel_names (docs/protocol/02-fleet-management.md §11; docs/decisions/0417)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hive_shared.store import Tx


class ChannelNameStore:
    """The short ids that channels were seen under."""

    def note(self, tx: Tx, names: Iterable[tuple[str, str]], now: int) -> None:
        """Keep pairs of (short id, channel id); known ones stay as they are."""
        tx.executemany(
            "INSERT INTO comms_channel_names (scid, channel_id, first_seen) VALUES (?, ?, ?)"
            " ON CONFLICT (scid) DO NOTHING",
            [(*pair, now) for pair in names],
        )

    def all(self, tx: Tx) -> dict[str, str]:
        """Channel id by short id."""
        rows = tx.execute("SELECT scid, channel_id FROM comms_channel_names")
        return {row["scid"]: row["channel_id"] for row in rows}

    def of(self, tx: Tx, channel_ids: Sequence[str]) -> dict[str, frozenset[str]]:
        """Every short id that channels were seen under, by channel id."""
        found: dict[str, set[str]] = {}
        for start in range(0, len(channel_ids), 500):
            part = channel_ids[start : start + 500]
            marks = ",".join("?" * len(part))
            query = f"SELECT channel_id, scid FROM comms_channel_names WHERE channel_id IN ({marks})"
            for row in tx.execute(query, tuple(part)):
                found.setdefault(row["channel_id"], set()).add(row["scid"])
        return {channel_id: frozenset(scids) for channel_id, scids in found.items()}

    def strangers(self, tx: Tx, scids: Iterable[str]) -> bool:
        """Whether one of these short ids was never seen, though others were."""
        known = self.all(tx)
        return bool(known) and not set(scids) <= known.keys()
