"""Sole writer of comms_config_history (docs/protocol/02-fleet-management.md §5.4, §11)."""

from __future__ import annotations

from collections.abc import Iterable
from sqlite3 import Row

from hive_shared.store import Tx

from ..domain.config_history import ChangeRow, ConfigChange


class ConfigStore:
    """What agents changed of the node's settings."""

    def add(self, tx: Tx, changes: Iterable[ConfigChange], command_id: str, at: int) -> None:
        """Remember what a command changed."""
        tx.executemany(
            'INSERT INTO comms_config_history (parameter, "group", old, new, reason, command_id, at)'
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(c.parameter, c.group, c.old, c.new, c.reason, command_id, at) for c in changes],
        )

    def of_group(self, tx: Tx, group: str, since: int) -> tuple[ChangeRow, ...]:
        """Changes of a group after a time, oldest first."""
        rows = tx.execute(
            'SELECT * FROM comms_config_history WHERE "group" = ? AND at > ? ORDER BY at, command_id',
            (group, since),
        )
        return tuple(map(_change, rows))

    def last(self, tx: Tx) -> dict[str, ChangeRow]:
        """The newest change of each parameter."""
        rows = tx.execute("SELECT *, max(at) FROM comms_config_history GROUP BY parameter")
        return {row["parameter"]: _change(row) for row in rows}

    def prune(self, tx: Tx, before: int) -> int:
        """Forget changes older than a time; returns how many."""
        return int(tx.execute("DELETE FROM comms_config_history WHERE at < ?", (before,)).rowcount)


def _change(row: Row) -> ChangeRow:
    change = ConfigChange(row["parameter"], row["group"], row["old"], row["new"], row["reason"])
    return ChangeRow(change, row["command_id"], row["at"])
