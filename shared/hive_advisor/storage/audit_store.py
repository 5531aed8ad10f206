"""adv_audit: what programs asked through the MCP server."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from hive_shared.errors import Internal, NotFound
from hive_shared.store import Tx

from hive_advisor.domain.rows import AuditRow

_KEPT = 100_000
_COLUMNS = "audit_id, at, client, tool, node, klass, args_hash, decision, slug, out_hash, coalesce(plan, '')"


class AuditStore:
    """Rows of calls. Methods join the caller's transaction."""

    def add(self, tx: Tx, row: AuditRow) -> int:
        """Keep one call; the oldest beyond 100,000 go."""
        cursor = tx.execute(
            "INSERT INTO adv_audit (at, client, tool, node, klass, args_hash, decision, slug)"
            " VALUES (?,?,?,?,?,?,?,?)",
            (row.at, row.client, row.tool, row.node, row.klass, row.args_hash, row.decision, row.slug),
        )
        number = int(cursor.lastrowid or 0)
        tx.execute("DELETE FROM adv_audit WHERE audit_id <= ?", (number - _KEPT,))
        return number

    def end(self, tx: Tx, row: AuditRow) -> None:
        """What became of the call, and the plan it was about."""
        tx.execute(
            "UPDATE adv_audit SET decision = ?, slug = ?, out_hash = ?, plan = ? WHERE audit_id = ?",
            (row.decision, row.slug, row.out_hash, row.plan or None, row.audit_id),
        )

    def count(self, tx: Tx, since: int, tool: str | None = None, klass: str | None = None) -> int:
        """Calls after ``since`` that were not turned away for their rate."""
        found = tx.execute(
            "SELECT count(*) FROM adv_audit WHERE at > ? AND decision <> 'limited'"
            " AND (? IS NULL OR tool = ?) AND (? IS NULL OR klass = ?)",
            (since, tool, tool, klass, klass),
        ).fetchone()
        return int(found[0])


def read_audit(path: Path, limit: int) -> list[AuditRow]:
    """The newest rows of a database that another process may have open. Raises NotFound, Internal."""
    if not path.exists():
        raise NotFound(f"{path} does not exist: no program has called anything yet")
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            found = connection.execute(
                f"SELECT {_COLUMNS} FROM adv_audit ORDER BY audit_id DESC LIMIT ?", (limit,)
            ).fetchall()
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return []
        raise Internal(f"{path} cannot be read: {error}") from error
    return [AuditRow(*row) for row in found]
