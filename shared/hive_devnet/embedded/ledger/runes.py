"""What a node remembers of its runes: the ones it made, when they were used, which are blacklisted."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from hive_devnet.embedded.ledger.database import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS rune (
    node_id TEXT NOT NULL, unique_id INTEGER NOT NULL, rune TEXT NOT NULL, last_used_ns INTEGER,
    PRIMARY KEY (node_id, unique_id));
CREATE TABLE IF NOT EXISTS rune_blacklist (
    node_id TEXT NOT NULL, unique_id INTEGER NOT NULL, PRIMARY KEY (node_id, unique_id));
"""
MAX_BLACKLIST = 1_000_000


class RuneBook:
    """The runes of one node. Times are nanoseconds since the epoch."""

    def __init__(self, database: Database, node_id: str) -> None:
        self._db = database
        self._node_id = node_id

    def next_id(self) -> int:
        """The unique id the next rune gets."""
        row = self._db.one("SELECT COUNT(*) FROM rune WHERE node_id = ?", (self._node_id,))
        return int(row[0])

    def add(self, unique_id: int, rune: str) -> None:
        """Records a new rune."""
        with self._db.transaction():
            self._db.run(
                "INSERT INTO rune (node_id, unique_id, rune) VALUES (?, ?, ?)",
                (self._node_id, unique_id, rune),
            )

    def all(self) -> list[sqlite3.Row]:
        """All recorded runes by id."""
        return self._db.rows("SELECT * FROM rune WHERE node_id = ? ORDER BY unique_id", (self._node_id,))

    def get(self, unique_id: int) -> sqlite3.Row | None:
        """The recorded rune with that id."""
        query = "SELECT * FROM rune WHERE node_id = ? AND unique_id = ?"
        return self._db.find(query, (self._node_id, unique_id))

    def mark_used(self, unique_id: int, now_ns: int) -> None:
        """Notes a successful check."""
        with self._db.transaction():
            self._db.run(
                "UPDATE rune SET last_used_ns = ? WHERE node_id = ? AND unique_id = ?",
                (now_ns, self._node_id, unique_id),
            )

    def is_blacklisted(self, unique_id: int) -> bool:
        """Whether runes with that id are refused."""
        query = "SELECT 1 FROM rune_blacklist WHERE node_id = ? AND unique_id = ?"
        return self._db.find(query, (self._node_id, unique_id)) is not None

    def blacklist(self, ids: Iterable[int]) -> None:
        """Refuses runes with these ids from now on."""
        with self._db.transaction():
            for unique_id in ids:
                self._db.run("INSERT OR IGNORE INTO rune_blacklist VALUES (?, ?)", (self._node_id, unique_id))

    def relist(self, start: int, end: int) -> None:
        """Accepts runes with ids start..end again."""
        with self._db.transaction():
            self._db.run(
                "DELETE FROM rune_blacklist WHERE node_id = ? AND unique_id BETWEEN ? AND ?",
                (self._node_id, start, end),
            )

    def ranges(self) -> list[tuple[int, int]]:
        """The blacklist as inclusive ranges."""
        found: list[tuple[int, int]] = []
        query = "SELECT unique_id FROM rune_blacklist WHERE node_id = ? ORDER BY unique_id"
        for (unique_id,) in self._db.rows(query, (self._node_id,)):
            if found and found[-1][1] == unique_id - 1:
                found[-1] = (found[-1][0], unique_id)
            else:
                found.append((unique_id, unique_id))
        return found
