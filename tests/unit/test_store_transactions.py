"""Writes are whole or absent, reads see snapshots, failures of the disk come out as StoreError."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hive_shared import store
from hive_shared.errors import Busy
from hive_shared.store import Db, StoreError, Tx

SCHEMA = """
CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER NOT NULL REFERENCES parent(id), data BLOB) STRICT;
"""


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Db]:
    migrations = tmp_path / "migrations"
    migrations.mkdir()
    (migrations / "0001_start.sql").write_text(SCHEMA)
    opened = Db.open(tmp_path / "data" / "plugin.db", migrations)
    yield opened
    opened.close()


def add(name: str, tx: Tx) -> int:
    return int(tx.execute("INSERT INTO parent (name) VALUES (?) RETURNING id", (name,)).fetchone()[0])


def names(tx: Tx) -> list[str]:
    return [row["name"] for row in tx.execute("SELECT name FROM parent ORDER BY id")]


async def test_a_write_returns_its_value_and_is_seen_by_reads(db: Db) -> None:
    assert await db.write(lambda tx: add("a", tx)) == 1
    assert await db.read(names) == ["a"]
    assert (db.stats.writes, db.stats.rollbacks) == (1, 0)


async def test_a_raising_body_leaves_nothing_and_its_exception_comes_out_unchanged(db: Db) -> None:
    def body(tx: Tx) -> None:
        add("half", tx)
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        await db.write(body)
    assert await db.read(names) == []
    assert (db.stats.writes, db.stats.rollbacks) == (0, 1)
    await db.write(lambda tx: add("next", tx))


async def test_broken_constraints_stay_integrity_errors(db: Db) -> None:
    await db.write(lambda tx: add("a", tx))
    with pytest.raises(sqlite3.IntegrityError):
        await db.write(lambda tx: add("a", tx))
    with pytest.raises(sqlite3.IntegrityError):  # foreign keys are on
        await db.write(lambda tx: tx.execute("INSERT INTO child (parent) VALUES (99)"))


async def test_a_wrong_statement_stays_an_operational_error(db: Db) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await db.read(lambda tx: tx.execute("SELECT * FROM nowhere").fetchall())


async def test_fifty_concurrent_writes_are_one_after_the_other(db: Db) -> None:
    def increment(tx: Tx) -> None:
        seen = tx.execute("SELECT count(*) FROM parent").fetchone()[0]
        add(f"n{seen}", tx)

    await asyncio.gather(*(db.write(increment) for _ in range(50)))
    assert await db.read(names) == [f"n{i}" for i in range(50)]
    assert db.stats.writes == 50


async def test_a_read_keeps_its_snapshot_while_a_write_commits(db: Db) -> None:
    reading, written = threading.Event(), threading.Event()

    def long_read(tx: Tx) -> tuple[list[str], list[str]]:
        before = names(tx)
        reading.set()
        assert written.wait(10)
        return before, names(tx)

    read = asyncio.create_task(db.read(long_read))
    assert await asyncio.to_thread(reading.wait, 10)
    await db.write(lambda tx: add("late", tx))
    written.set()
    assert await read == ([], [])
    assert await db.read(names) == ["late"]


async def test_reads_cannot_write(db: Db) -> None:
    with pytest.raises(StoreError, match="read-only"):
        await db.read(lambda tx: add("x", tx))


async def test_the_loop_stays_free_while_a_write_runs(db: Db) -> None:
    started, release = threading.Event(), threading.Event()

    def slow(tx: Tx) -> None:
        started.set()
        assert release.wait(10)

    write = asyncio.create_task(db.write(slow))
    assert await asyncio.to_thread(started.wait, 10)
    assert await db.read(names) == []
    release.set()
    await write


async def test_a_coroutine_function_as_body_is_refused(db: Db) -> None:
    async def body(tx: Tx) -> None:
        add("never", tx)

    with pytest.raises(TypeError, match="plain function"):
        await db.write(body)  # type: ignore[unused-coroutine]
    assert db.stats.writes == 0


async def test_a_body_that_commits_by_itself_is_refused(db: Db) -> None:
    with pytest.raises(RuntimeError, match="ended its own transaction"):
        await db.write(lambda tx: tx.execute("COMMIT"))


async def test_a_full_disk_is_a_store_error_and_loses_only_its_own_transaction(db: Db) -> None:
    await db.write(lambda tx: add("kept", tx))

    def limit(pages: int, tx: Tx) -> None:
        used = tx.execute("PRAGMA page_count").fetchone()[0]
        tx.execute(f"PRAGMA max_page_count = {used + pages}")

    def fill(tx: Tx) -> None:
        add("lost", tx)
        tx.execute("INSERT INTO child (parent, data) VALUES (1, zeroblob(4000000))")

    await db.write(lambda tx: limit(2, tx))
    with pytest.raises(StoreError, match="the disk is full"):
        await db.write(fill)
    assert await db.read(names) == ["kept"]

    await db.write(lambda tx: limit(10_000, tx))
    await db.write(fill)
    assert await db.read(names) == ["kept", "lost"]


async def test_writes_beyond_the_queue_are_refused_as_busy(db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_WAITING_WRITES", 2)
    release = threading.Event()
    held = [asyncio.create_task(db.write(lambda tx: release.wait(10))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="2 database writes are waiting"):
        await db.write(names)
    release.set()
    await asyncio.gather(*held)
    await db.write(names)


async def test_a_sound_file_reports_no_damage(db: Db) -> None:
    assert await db.damage() == []


async def test_close_finishes_queued_writes_and_empties_the_wal(db: Db) -> None:
    writes = [asyncio.create_task(db.write(lambda tx, i=i: add(f"n{i}", tx))) for i in range(20)]  # type: ignore[misc]
    await asyncio.sleep(0)
    db.close()
    db.close()
    assert len(await asyncio.gather(*writes)) == 20
    assert not db.path.with_name("plugin.db-wal").exists()
    for use in (db.write, db.read):
        with pytest.raises(StoreError, match="stopping"):
            await use(names)
