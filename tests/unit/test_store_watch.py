"""What counts as a write that somebody caused: everything but what the plugin writes by the clock."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import outside
import pytest
from outside import StoreWatch


class Clock:
    """A clock by which nothing happens unless told."""

    def __init__(self) -> None:
        self.now = 1_800_003_599

    def time(self) -> int:
        return self.now


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    opened = sqlite3.connect(tmp_path / "db", isolation_level=None)
    for table in ("comms_inbox", "comms_state", "management_receipts"):
        opened.execute(f"CREATE TABLE {table} (x)")
    yield opened
    opened.close()


def test_a_write_is_noticed_unless_the_clock_caused_it(
    plugin: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(outside, "time", clock)

    def after(*writes: str, passed: int = 0) -> tuple[bool, set[str]]:
        watch = StoreWatch(tmp_path / "db")
        version, tables = watch.commits(), watch.tables()
        for write in writes:
            plugin.execute(write)
        clock.now += passed
        seen = watch.unwritten(version, tables), watch.changed(tables)
        watch.close()
        return seen

    state, inbox, receipt = (
        f"INSERT INTO {table} VALUES (1)" for table in ("comms_state", "comms_inbox", "management_receipts")
    )
    assert after() == (True, set())
    assert after(state) == (True, set())
    assert after(state, inbox) == (False, {"comms_inbox"})
    assert after(inbox, "DELETE FROM comms_inbox WHERE rowid = 2") == (False, set()), "written and gone again"
    assert after(receipt) == (False, {"management_receipts"})
    assert after(receipt, passed=1) == (True, set()), "the hour is over"
