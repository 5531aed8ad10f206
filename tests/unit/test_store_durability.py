"""Which commits wait for the disk, and reads without a thread (docs/decisions/0110, 0111)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hive_shared.store import Db, StoreError, Tx

SCHEMA = "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;"
_NORMAL, _FULL = 1, 2


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Db]:
    migrations = tmp_path / "migrations"
    migrations.mkdir()
    (migrations / "0001_start.sql").write_text(SCHEMA)
    opened = Db.open(tmp_path / "plugin.db", migrations)
    yield opened
    opened.close()


def level(tx: Tx) -> int:
    return int(tx.execute("PRAGMA synchronous").fetchone()[0])


def add(tx: Tx) -> int:
    return int(tx.execute("INSERT INTO note (text) VALUES ('x') RETURNING id").fetchone()[0])


def count(tx: Tx) -> int:
    return int(tx.execute("SELECT count(*) FROM note").fetchone()[0])


async def test_only_writes_that_say_so_do_not_wait_for_the_disk(db: Db) -> None:
    assert await db.write(level) == _FULL
    assert await db.write(level, durable=False) == _NORMAL
    assert await db.write(level, durable=False) == _NORMAL
    assert await db.write(level) == _FULL


async def test_a_write_that_fails_does_not_make_the_next_one_lax(db: Db) -> None:
    def broken(tx: Tx) -> None:
        add(tx)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await db.write(broken, durable=False)
    assert await db.write(level) == _FULL
    assert await db.read(count) == 0


async def test_a_lax_commit_outlives_the_process(tmp_path: Path) -> None:
    migrations = tmp_path / "migrations"
    migrations.mkdir()
    (migrations / "0001_start.sql").write_text(SCHEMA)
    script = (
        "import asyncio, os, sys\nfrom pathlib import Path\nfrom hive_shared.store import Db\n"
        "db = Db.open(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "insert = lambda tx: tx.execute(\"INSERT INTO note (text) VALUES ('x')\") and None\n"
        "asyncio.run(db.write(insert, durable=False))\nos.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "plugin.db"
    run = [sys.executable, "-c", script, str(path), str(migrations)]
    done = await asyncio.to_thread(subprocess.run, run, check=False)
    assert done.returncode == -9
    again = Db.open(path, migrations)
    assert again.peek(count) == 1
    again.close()


async def test_peek_runs_here_and_sees_what_is_committed(db: Db) -> None:
    await db.write(add, durable=False)
    seen: list[int] = []

    def body(tx: Tx) -> int:
        seen.append(threading.get_ident())
        return count(tx)

    assert db.peek(body) == 1
    assert seen == [threading.get_ident()]


async def test_peek_does_not_wait_for_a_writer(db: Db) -> None:
    def body(tx: Tx) -> int:
        add(tx)
        # On this thread it would deadlock if readers waited for the open transaction.
        return db.peek(count)

    assert await db.write(body) == 0


async def test_peek_cannot_write_and_ends_with_the_store(db: Db) -> None:
    with pytest.raises(Exception, match=r"readonly|read-only"):
        db.peek(add)
    db.close()
    with pytest.raises(StoreError, match="closed"):
        db.peek(count)
