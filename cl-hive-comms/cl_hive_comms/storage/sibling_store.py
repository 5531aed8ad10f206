"""SQL of comms_transports and comms_handlers."""

import sqlite3
from collections.abc import Collection

from cl_hive_comms.domain.sibling_routes import Handler, Transport


class SiblingStore:
    """What sibling plugins registered."""

    def transports(self, tx: sqlite3.Connection) -> list[Transport]:
        """All transports, first to try first."""
        rows = tx.execute("SELECT * FROM comms_transports ORDER BY priority, name").fetchall()
        return [Transport(**{**dict(row), "enabled": bool(row["enabled"])}) for row in rows]

    def put_transport(self, tx: sqlite3.Connection, row: Transport) -> None:
        """Stores a transport in place of one of the same name."""
        tx.execute(
            "INSERT OR REPLACE INTO comms_transports (name, send_method, enabled, max_bytes, priority,"
            " metadata_json, registered_at, gone_at, last_ok) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.name,
                row.send_method,
                int(row.enabled),
                row.max_bytes,
                row.priority,
                row.metadata_json,
                row.registered_at,
                row.gone_at,
                row.last_ok,
            ),
        )

    def delivered(self, tx: sqlite3.Connection, name: str, now: int) -> None:
        """A message went over this transport."""
        tx.execute("UPDATE comms_transports SET last_ok = ? WHERE name = ?", (now, name))

    def handlers(self, tx: sqlite3.Connection) -> list[Handler]:
        """All handlers."""
        return [Handler(**dict(row)) for row in tx.execute("SELECT * FROM comms_handlers ORDER BY pattern")]

    def put_handler(self, tx: sqlite3.Connection, row: Handler) -> None:
        """Stores a handler in place of one of the same pattern."""
        tx.execute(
            "INSERT OR REPLACE INTO comms_handlers (pattern, handler_id, method, registered_at, gone_at)"
            " VALUES (?, ?, ?, ?, ?)",
            (row.pattern, row.handler_id, row.method, row.registered_at, row.gone_at),
        )

    def gone(self, tx: sqlite3.Connection, methods: Collection[str], now: int) -> None:
        """The plugin that serves these methods stopped."""
        for method in methods:
            tx.execute(
                "UPDATE comms_transports SET gone_at = ? WHERE send_method = ? AND gone_at IS NULL",
                (now, method),
            )
            tx.execute(
                "UPDATE comms_handlers SET gone_at = ? WHERE method = ? AND gone_at IS NULL", (now, method)
            )

    def forget(self, tx: sqlite3.Connection, before: int) -> None:
        """Removes what is gone since before a time."""
        tx.execute("DELETE FROM comms_transports WHERE gone_at < ?", (before,))
        tx.execute("DELETE FROM comms_handlers WHERE gone_at < ?", (before,))
