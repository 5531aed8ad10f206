"""Sole writer of comms_fee_history and comms_action_counters (docs/protocol/08 §5.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hive_shared.store import Tx

from ..domain.command_record import FeeWrite, Use


class FeeStore:
    """What fees were before, and how often things were done."""

    def add(self, tx: Tx, writes: Iterable[FeeWrite]) -> None:
        """Remember executed fee changes. What one changed twice in a second is one change."""
        tx.executemany(
            "INSERT INTO comms_fee_history (scid, ts, old_ppm, new_ppm, old_base, new_base, advisor_id,"
            " credential_id, command_id, field) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET new_ppm = excluded.new_ppm, new_base = excluded.new_base",
            [
                (
                    w.scid,
                    w.ts,
                    w.old_ppm,
                    w.new_ppm,
                    w.old_base,
                    w.new_base,
                    w.advisor_id,
                    w.credential_id,
                    w.command_id,
                    w.field,
                )
                for w in writes
            ],
        )

    def since(self, tx: Tx, scids: Sequence[str], ts: int) -> tuple[FeeWrite, ...]:
        """Changes of the channels at or after a time, oldest first, all agents together. What was written
        under a short id that the channel had before a splice is told under the one that is asked for."""
        found: list[FeeWrite] = []
        for start in range(0, len(scids), 500):
            part = scids[start : start + 500]
            marks = ",".join("?" * len(part))
            former = tx.execute(
                "SELECT old.scid AS old, new.scid AS new FROM comms_channel_names AS new"
                " JOIN comms_channel_names AS old ON old.channel_id = new.channel_id AND old.scid <> new.scid"
                f" WHERE new.scid IN ({marks})",
                tuple(part),
            )
            now_named = {row["old"]: row["new"] for row in former}
            names = (*part, *(name for name in now_named if name not in part))
            rows = tx.execute(
                f"SELECT * FROM comms_fee_history WHERE scid IN ({','.join('?' * len(names))}) AND ts >= ?"
                " ORDER BY ts, command_id",
                (*names, ts),
            )
            for row in rows:
                scid = row["scid"] if row["scid"] in part else now_named[row["scid"]]
                found.append(FeeWrite(**{**dict(row), "scid": scid}))
        return tuple(found)

    def prune(self, tx: Tx, before: int) -> int:
        """Forget changes older than a time; returns how many."""
        return int(tx.execute("DELETE FROM comms_fee_history WHERE ts < ?", (before,)).rowcount)

    def count(self, tx: Tx, use: Use, since: int, *, but: str = "") -> int:
        """Uses of a counter after a time, without those of the command `but`."""
        row = tx.execute(
            "SELECT COUNT(*) AS n FROM comms_action_counters WHERE name = ? AND scope = ? AND at > ?"
            " AND command_id <> ?",
            (use.name, use.scope, since, but),
        ).fetchone()
        return int(row["n"])

    def reserve(self, tx: Tx, uses: Iterable[Use], command_id: str, now: int) -> None:
        """Count a command's uses; reserving twice for one command counts once."""
        self.release(tx, command_id)
        tx.executemany(
            "INSERT INTO comms_action_counters (name, scope, at, command_id) VALUES (?, ?, ?, ?)",
            [(use.name, use.scope, now, command_id) for use in dict.fromkeys(uses)],
        )

    def release(self, tx: Tx, command_id: str) -> None:
        """Give back what a command reserved: nothing ran."""
        tx.execute("DELETE FROM comms_action_counters WHERE command_id = ?", (command_id,))

    def prune_counters(self, tx: Tx, before: int) -> int:
        """Drop uses that no window reaches any more; returns how many."""
        return int(tx.execute("DELETE FROM comms_action_counters WHERE at < ?", (before,)).rowcount)
