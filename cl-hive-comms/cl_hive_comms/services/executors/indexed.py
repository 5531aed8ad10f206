"""Lists of which the node gives a page by created_index (docs/protocol/02-fleet-management.md §16)."""

from __future__ import annotations

from collections.abc import Mapping

from hive_shared.canonical import JsonValue

from .action import Params
from .monitor import ReadNode, limit_of
from .pages import cursor_number, page, pick


async def indexed_page(
    node: ReadNode,
    method: str,
    key: str,
    filters: Mapping[str, object],
    params: Params,
    names: tuple[str, ...],
    *,
    status: JsonValue = None,
) -> dict[str, JsonValue]:
    """A page of the rows under `key` with the named fields, in order of creation; `status` leaves out others.

    Raises ClnError, and InvalidParams for a cursor we never gave.
    """
    limit = limit_of(params)
    start = max(1, cursor_number(params.get("cursor")))
    # One more than asked: whether it comes tells whether a next page exists.
    asked = {**filters, "index": "created", "start": start, "limit": limit + 1}
    rows = list((await node.call(method, asked))[key])
    kept = [row for row in rows if status is None or row.get("status") == status]
    items = [pick(row, names) for row in kept]

    def next_of(taken: int) -> str | None:
        if taken < len(kept):
            return str(kept[taken].get("created_index", start + taken))
        if len(rows) > limit:
            return str(int(rows[-1].get("created_index", start + len(rows) - 1)) + 1)
        return None

    return page(items, limit, next_of)
