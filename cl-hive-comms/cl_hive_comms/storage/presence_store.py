"""Sole writer of comms_pings (docs/protocol/02-fleet-management.md §10, §11)."""

from __future__ import annotations

from hive_shared.store import Tx

from cl_hive_comms.domain.presence import HOUR_S, Presence


class PresenceStore:
    """Pings and what is known of agents' hours. Every method runs inside the caller's transaction."""

    def asked_for(self, tx: Tx, now: int) -> frozenset[str]:
        """Credentials whose agents are pinged: on trial, or with a subscription to reports."""
        rows = tx.execute(
            "SELECT credential_id FROM comms_telemetry WHERE until > ?1 AND metrics GLOB 'report_*'"
            " UNION SELECT credential_id FROM marketplace_trials WHERE outcome IS NULL AND end_at > ?1",
            (now,),
        )
        return frozenset(str(row["credential_id"]) for row in rows)

    def last_sent(self, tx: Tx, credential_id: str) -> int | None:
        """When the newest ping of a credential was sent."""
        (at,) = tx.execute(
            "SELECT MAX(sent_at) FROM comms_pings WHERE credential_id = ?", (credential_id,)
        ).fetchone()
        return None if at is None else int(at)

    def add(self, tx: Tx, ping_id: str, credential_id: str, now: int) -> None:
        """Note a ping."""
        tx.execute(
            "INSERT INTO comms_pings (ping_id, credential_id, sent_at) VALUES (?, ?, ?)",
            (ping_id, credential_id, now),
        )

    def answer(self, tx: Tx, ping_id: str, credential_id: str, now: int, sent_since: int) -> bool:
        """Note the first answer to a ping of this credential; False for any other, and for a late one."""
        done = tx.execute(
            "UPDATE comms_pings SET answered_at = ? WHERE ping_id = ? AND credential_id = ?"
            " AND answered_at IS NULL AND sent_at >= ?",
            (now, ping_id, credential_id, sent_since),
        )
        return done.rowcount == 1

    def prune(self, tx: Tx, before: int, limit: int = 1_000) -> int:
        """Forget pings sent before a time; how many."""
        return tx.execute(
            "DELETE FROM comms_pings WHERE ping_id IN (SELECT ping_id FROM comms_pings WHERE sent_at < ?"
            " LIMIT ?)",
            (before, limit),
        ).rowcount

    def presence(self, tx: Tx, credential_id: str, since: int, until: int) -> Presence:
        """What was heard under a credential in a span of Unix seconds."""
        pings = tx.execute(
            "SELECT sent_at, answered_at FROM comms_pings WHERE credential_id = ? AND sent_at >= ?"
            " AND sent_at < ?",
            (credential_id, since, until),
        ).fetchall()
        commands = tx.execute(
            "SELECT DISTINCT (received_at - ?) / ? AS hour FROM comms_commands"
            " WHERE credential_id = ? AND received_at BETWEEN ? AND ? AND state <> 'received'",
            (since, HOUR_S, credential_id, since, until),
        )
        answered = [row for row in pings if row["answered_at"] is not None]
        heard = {int(row["hour"]) for row in commands}
        return Presence(
            len(pings),
            frozenset((row["sent_at"] - since) // HOUR_S for row in pings),
            frozenset(heard | {(row["sent_at"] - since) // HOUR_S for row in answered}),
            tuple(sorted(max(0, row["answered_at"] - row["sent_at"]) for row in answered)),
        )
