"""Receipts taken over from the earlier single plugin: listing, exporting, proving
(docs/protocol/08-client-and-plugins.md §8.3)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

from hive_shared.store import Tx

from ..domain.legacy_record import LegacyReceipt, LegacyVerdict, verify_segments
from .ports_commands import Database
from .ports_migration import LegacyTables

COLUMNS: Final = (
    *("seq", "receipt_id", "executed_at", "credential_id", "schema_id", "action", "danger_score"),
    *("params_json", "result_json", "state_hash_before", "state_hash_after", "executor_signature"),
)
"""Names in an exported legacy receipt, in this order."""


class LegacyReceipts:
    """Reads what was taken over. `node_keys` gives every Nostr key this node had (x-only hex)."""

    def __init__(
        self,
        db: Database,
        store: LegacyTables,
        *,
        node_id: str,
        node_keys: Callable[[], Collection[str]],
    ) -> None:
        self._db, self._store = db, store
        self._node_id, self._node_keys = node_id, node_keys

    async def list(
        self,
        *,
        schema: str | None,
        since: int | None,
        until: int | None,
        before: tuple[int, int] | None,
        limit: int,
    ) -> dict[str, Any]:
        """A page, newest first: {count, items, next_cursor?}."""
        found = await self._db.read(
            lambda tx: self._store.find(
                tx, schema=schema, since=since, until=until, before=before, limit=limit + 1
            )
        )
        shown = found[:limit]
        page: dict[str, Any] = {"count": len(shown), "items": [document(row) for row in shown]}
        if len(found) > limit:
            page["next_cursor"] = f"{shown[-1].executed_at}.{shown[-1].seq}"
        return page

    async def verify(self) -> LegacyVerdict:
        """Check every legacy receipt against the signed checkpoint of its segment."""
        return await self._db.read(
            lambda tx: verify_segments(
                self._store.segments(tx),
                self._store.walk(tx),
                node_keys=tuple(self._node_keys()),
                node_id=self._node_id,
            )
        )

    def documents(self, tx: Tx, since: int) -> Iterator[dict[str, Any]]:
        """Those executed at or after `since`, in order of import."""
        for row in self._store.walk(tx):
            if row.executed_at >= since:
                yield document(row)


def document(row: LegacyReceipt) -> dict[str, Any]:
    """A legacy receipt as the earlier plugin had it, with its number here."""
    return {"seq": row.seq, **row.document(), "digest": row.digest}
