"""Reading single values out of decoded JSON."""

from __future__ import annotations

from hive_shared.canonical import JsonValue


def whole(value: JsonValue) -> int:
    """The integer, or 0 where there is none; a boolean is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
