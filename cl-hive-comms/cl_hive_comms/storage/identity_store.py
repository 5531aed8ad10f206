"""SQL of nostr_state: the sealed keys of this node and its relay cursors."""

import sqlite3

MAX_ROWS = 100
"""A cap of docs/protocol/08 §5.3: a peer must not be able to grow this table."""


class IdentityStore:
    """Reads and writes nostr_state."""

    def get(self, tx: sqlite3.Connection, key: str) -> bytes | None:
        """The value of a key, or None."""
        row = tx.execute("SELECT value FROM nostr_state WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row["value"])

    def put(self, tx: sqlite3.Connection, key: str, value: bytes, now: int) -> None:
        """Stores a value. Raises OverflowError when a new key would exceed the cap."""
        changed = tx.execute(
            "UPDATE nostr_state SET value = ?, updated_at = ? WHERE key = ?", (value, now, key)
        ).rowcount
        if changed:
            return
        (rows,) = tx.execute("SELECT count(*) FROM nostr_state").fetchone()
        if rows >= MAX_ROWS:
            raise OverflowError(f"nostr_state already holds {MAX_ROWS} rows")
        tx.execute("INSERT INTO nostr_state (key, value, updated_at) VALUES (?, ?, ?)", (key, value, now))

    def delete(self, tx: sqlite3.Connection, key: str) -> None:
        """Removes a key if it is there."""
        tx.execute("DELETE FROM nostr_state WHERE key = ?", (key,))

    def with_prefix(self, tx: sqlite3.Connection, prefix: str) -> dict[str, bytes]:
        """All rows whose key starts with `prefix`."""
        rows = tx.execute(
            "SELECT key, value FROM nostr_state WHERE substr(key, 1, ?) = ?", (len(prefix), prefix)
        ).fetchall()
        return {row["key"]: bytes(row["value"]) for row in rows}
