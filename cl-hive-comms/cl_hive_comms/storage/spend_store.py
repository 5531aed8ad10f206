"""Sole writer of comms_spend (docs/protocol/02-fleet-management.md §11)."""

from __future__ import annotations

from hive_shared.store import Tx

from ..domain.spend import Spend, SpentRow


class SpendStore:
    """Spends that executions reserved and settled."""

    def of_credential(self, tx: Tx, credential_id: str, kind: str, since: int, *, but: str = "") -> int:
        """Sats of a class that a credential's commands spent after a time, without those of `but`."""
        row = tx.execute(
            "SELECT COALESCE(SUM(amount_sat), 0) AS n FROM comms_spend WHERE credential_id = ? AND class = ?"
            " AND at > ? AND command_id <> ?",
            (credential_id, kind, since, but),
        ).fetchone()
        return int(row["n"])

    def fees_of(self, tx: Tx, credential_id: str, kind: str, since: int, *, but: str = "") -> int:
        """Fees (sat) that a credential's commands of a class paid after a time, without those of `but`."""
        row = tx.execute(
            "SELECT COALESCE(SUM(fee_sat), 0) AS n FROM comms_spend WHERE credential_id = ? AND class = ?"
            " AND at > ? AND command_id <> ?",
            (credential_id, kind, since, but),
        ).fetchone()
        return int(row["n"])

    def of_node(self, tx: Tx, since: int, *, but: str = "") -> int:
        """Sats that all commands spent after a time, fees included, without those of `but`."""
        row = tx.execute(
            "SELECT COALESCE(SUM(amount_sat + fee_sat), 0) AS n FROM comms_spend WHERE at > ?"
            " AND command_id <> ?",
            (since, but),
        ).fetchone()
        return int(row["n"])

    def spent(self, tx: Tx, since: int) -> tuple[SpentRow, ...]:
        """Sums per credential and class of what was spent after a time or is on its way."""
        rows = tx.execute(
            "SELECT credential_id, class, SUM(amount_sat), SUM(fee_sat),"
            " SUM(CASE state WHEN 'reserved' THEN amount_sat + fee_sat ELSE 0 END)"
            " FROM comms_spend WHERE at > ? GROUP BY credential_id, class",
            (since,),
        )
        return tuple(
            SpentRow(str(row[0]), str(row[1]), int(row[2]), int(row[3]), int(row[4])) for row in rows
        )

    def reserve(self, tx: Tx, command_id: str, credential_id: str, spend: Spend, now: int) -> None:
        """Count a spend before it happens."""
        tx.execute(
            "INSERT INTO comms_spend (command_id, class, credential_id, amount_sat, fee_sat, at, state)"
            " VALUES (?, ?, ?, ?, ?, ?, 'reserved')",
            (command_id, spend.kind, credential_id, spend.amount_sat, spend.fee_sat, now),
        )

    def settle(self, tx: Tx, command_id: str, spend: Spend | None) -> None:
        """What it came to; None: as much as was reserved."""
        if spend is None:
            tx.execute("UPDATE comms_spend SET state = 'settled' WHERE command_id = ?", (command_id,))
            return
        tx.execute(
            "UPDATE comms_spend SET state = 'settled', amount_sat = ?, fee_sat = ? WHERE command_id = ?"
            " AND class = ?",
            (spend.amount_sat, spend.fee_sat, command_id, spend.kind),
        )

    def release(self, tx: Tx, command_id: str) -> None:
        """Give back what a command reserved: nothing was spent."""
        tx.execute("DELETE FROM comms_spend WHERE command_id = ? AND state = 'reserved'", (command_id,))

    def prune(self, tx: Tx, before: int) -> int:
        """Forget settled spends that no window reaches any more; returns how many."""
        return int(
            tx.execute("DELETE FROM comms_spend WHERE at < ? AND state = 'settled'", (before,)).rowcount
        )
