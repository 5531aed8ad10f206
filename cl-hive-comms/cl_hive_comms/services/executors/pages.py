"""Cutting lists into pages an agent can receive (docs/protocol/02-fleet-management.md §6.1: 24 KB)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from hive_shared.canonical import JsonValue, encode
from hive_shared.errors import from_symbol

PAGE_BYTES: Final = 24_000
# RFC 8785 text carries integers exactly only up to here; CLN has a few 64-bit fields beyond it.
_MAX_EXACT: Final = 2**53 - 1
_SECRET_FIELDS: Final = frozenset(
    {"payment_preimage", "preimage", "rune", "secret", "payment_secret", "filedata", "local_offer_id_secret"}
)


def clean(value: Any) -> JsonValue:
    """A node answer as a JSON value we may sign: secrets gone, fractions and huge integers as text."""
    if isinstance(value, Mapping):
        return {str(k): clean(v) for k, v in value.items() if k not in _SECRET_FIELDS}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, float):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _MAX_EXACT:
        return str(value)
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)


def pick(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, JsonValue]:
    """The named fields of a row that are there, cleaned."""
    return {name: clean(row[name]) for name in names if name in row}


def cursor_number(cursor: JsonValue) -> int:
    """The position a cursor stands for, 0 without one. Raises InvalidParams for a cursor we never gave."""
    if cursor is None:
        return 0
    text = str(cursor)
    if not text.isdecimal() or len(text) > 15:
        raise from_symbol(
            "invalid_params",
            "the cursor is none that this node gave out; start again without it",
            param="cursor",
            expected="next_cursor of the page before",
        )
    return int(text)


def page(
    items: Sequence[dict[str, JsonValue]], limit: int, next_of: Callable[[int], str | None]
) -> dict[str, JsonValue]:
    """As many of the items as the limit and 24 KB allow.

    `next_of(n)` is the cursor after the first n items, None when nothing follows them.
    """
    taken: list[JsonValue] = []
    size = 0
    for item in items[:limit]:
        size += len(encode(item)) + 1
        if taken and size > PAGE_BYTES:
            break
        taken.append(item)
    result: dict[str, JsonValue] = {"count": len(taken), "items": taken}
    cursor = next_of(len(taken))
    if cursor is not None:
        result["next_cursor"] = cursor
    return result


def page_of_list(
    items: Sequence[dict[str, JsonValue]], limit: int, cursor: JsonValue
) -> dict[str, JsonValue]:
    """A page of a list that is complete in memory; the cursor is the position."""
    start = cursor_number(cursor)

    def next_of(taken: int) -> str | None:
        return str(start + taken) if start + taken < len(items) else None

    return page(items[start : start + limit], limit, next_of)
