"""What advisors did, read from comms_commands (written by command_store)."""

from __future__ import annotations

from hive_shared.store import Tx

from cl_hive_comms.services.ports_trials import Tally

_DONE = "('success', 'partial')"


class AdvisorRecordStore:
    """Counts of commands. Finished ones are kept for 90 days (docs/protocol/02 §11)."""

    def tallies(self, tx: Tx) -> dict[str, Tally]:
        """Writes done and commands refused under each credential, by its id."""
        rows = tx.execute(
            "SELECT credential_id,"
            f" sum(read_only = 0 AND state IN {_DONE}) AS taken, sum(state = 'rejected') AS rejected"
            " FROM comms_commands GROUP BY credential_id"
        )
        return {row["credential_id"]: Tally(row["taken"], row["rejected"]) for row in rows}

    def tally(self, tx: Tx, credential_id: str, since: int, until: int) -> Tally:
        """The same for one credential and the commands received in a span of Unix seconds, both included."""
        row = tx.execute(
            f"SELECT ifnull(sum(read_only = 0 AND state IN {_DONE}), 0) AS taken,"
            " ifnull(sum(state = 'rejected'), 0) AS rejected FROM comms_commands"
            " WHERE credential_id = ? AND received_at BETWEEN ? AND ?",
            (credential_id, since, until),
        ).fetchone()
        return Tally(row["taken"], row["rejected"])
