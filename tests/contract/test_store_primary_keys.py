"""Every plugin's database passes SQLite's own check once it holds rows.

SQLite up to 3.40 reads the wrong columns of a WITHOUT ROWID table in quick_check when its primary key does
not stand first, and reports NULLs that are not there: the self-check would call a sound database damaged.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MIGRATIONS = sorted(ROOT.glob("cl-hive*/cl_hive*/storage/migrations"))


@pytest.mark.parametrize("directory", MIGRATIONS, ids=lambda path: str(path.relative_to(ROOT).parts[0]))
def test_a_key_that_is_the_table_stands_first(directory: Path) -> None:
    with closing(sqlite3.connect(":memory:")) as database:
        for migration in sorted(directory.glob("*.sql")):
            database.executescript(migration.read_text())
        for name, columns in without_rowid(database).items():
            keys = [place for place in columns if place]
            assert columns[: len(keys)] == sorted(keys), f"{name}: key columns are not first"


def without_rowid(database: sqlite3.Connection) -> dict[str, list[int]]:
    """Tables with the place of each column in the primary key (0: not in it), in order of declaration."""
    tables = [row[1] for row in database.execute("PRAGMA table_list") if row[4]]
    return {
        name: [row[5] for row in database.execute(f'PRAGMA table_info("{name}")')]
        for name in tables
        if not name.startswith("sqlite_")
    }


def test_there_is_something_to_look_at() -> None:
    assert len(MIGRATIONS) == 3
