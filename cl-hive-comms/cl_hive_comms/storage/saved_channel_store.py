"""Sole writer of comms_saved_channel (docs/protocol/08-client-and-plugins.md §5.3)."""

from __future__ import annotations

from sqlite3 import Row

from hive_shared.store import Tx

from cl_hive_comms.domain.emergency import Limits, SavedChannel
from cl_hive_comms.domain.forwarding import Hold


class SavedChannelStore:
    """HTLC bounds from before a freeze, by the reason of that freeze."""

    def save(self, tx: Tx, reason: str, channel: SavedChannel, now: int) -> None:
        """Keep the bounds of a channel. What was saved first stays: later ones are already frozen ones."""
        tx.execute(
            "INSERT INTO comms_saved_channel (channel_id, reason, scid, htlcmin, htlcmax, saved_at)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (channel_id, reason) DO NOTHING",
            (channel.channel_id, reason, channel.scid, *channel.limits, now),
        )

    def hold(self, tx: Tx, hold: Hold, now: int) -> None:
        """Keep a hold whose bounds are known to be the original ones, in place of an older one."""
        self.drop(tx, hold.reason, hold.channel.channel_id)
        self.save(tx, hold.reason, hold.channel, now)
        self.mark_frozen(tx, hold.reason, hold.channel.channel_id, now)

    def holds(self, tx: Tx) -> tuple[Hold, ...]:
        """Everything that is saved, for whatever reason, by short channel id."""
        rows = tx.execute("SELECT * FROM comms_saved_channel ORDER BY scid, channel_id, reason")
        return tuple(Hold(row["reason"], _channel(row)) for row in rows)

    def names(self, tx: Tx) -> frozenset[tuple[str, str]]:
        """Reason and channel id of everything that is saved."""
        rows = tx.execute("SELECT reason, channel_id FROM comms_saved_channel")
        return frozenset((row["reason"], row["channel_id"]) for row in rows)

    def mark_frozen(self, tx: Tx, reason: str, channel_id: str, now: int) -> None:
        """A receipt says that this channel is frozen."""
        tx.execute(
            "UPDATE comms_saved_channel SET frozen_at = ? WHERE channel_id = ? AND reason = ?",
            (now, channel_id, reason),
        )

    def drop(self, tx: Tx, reason: str, channel_id: str) -> None:
        """Forget a channel whose bounds are back."""
        tx.execute(
            "DELETE FROM comms_saved_channel WHERE channel_id = ? AND reason = ?", (channel_id, reason)
        )

    def all(self, tx: Tx, reason: str) -> tuple[SavedChannel, ...]:
        """What is saved for a reason, by short channel id."""
        rows = tx.execute(
            "SELECT * FROM comms_saved_channel WHERE reason = ? ORDER BY scid, channel_id", (reason,)
        )
        return tuple(_channel(row) for row in rows)


def _channel(row: Row) -> SavedChannel:
    return SavedChannel(
        channel_id=row["channel_id"],
        scid=row["scid"],
        limits=Limits(row["htlcmin"], row["htlcmax"]),
        frozen_at=row["frozen_at"],
    )
