"""Rows of a list that cannot be read: the list shows the others, and names these
(docs/decisions/0698-a-bad-row-of-a-list.md).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

import msgspec

from .canonical import JsonValue
from .errors import HiveError
from .store import StoreError

T = TypeVar("T")
R = TypeVar("R")


class Unreadable(msgspec.Struct, frozen=True):
    """In the place of a row: its name, when it was made (Unix s), and what is wrong with it."""

    name: str
    created_at: int
    why: str

    def shown(self, key: str) -> dict[str, JsonValue]:
        """As an entry of a list in which `key` names a row."""
        return {key: self.name, "created_at": self.created_at, "unreadable": self.why}


def attempted(read: Callable[[], R], name: str, created_at: int) -> R | Unreadable:
    """What `read` gives; what is wrong with one row is answered, not raised. The disk is every row's."""
    try:
        return read()
    except (StoreError, sqlite3.Error):
        raise
    except Exception as error:
        why = error.symbol if isinstance(error, HiveError) else type(error).__name__
        return Unreadable(name, created_at, why)


def read_each(
    rows: Iterable[sqlite3.Row], read: Callable[[sqlite3.Row], T], key: str
) -> list[T | Unreadable]:
    """Rows of a table, in order, each as `read` reads it; `key` is the column of their names."""
    return [attempted(partial(read, row), row[key], row["created_at"]) for row in rows]


def readable(rows: Iterable[T | Unreadable]) -> list[T]:
    """Those that could be read."""
    return [row for row in rows if not isinstance(row, Unreadable)]
