"""kill -9 in the middle of writes: every acknowledged transaction is there, none is half there."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hive_shared.store import Db

SHARED = Path(__file__).parents[2] / "shared"

WRITER = """
import asyncio, sys
from pathlib import Path
from hive_shared.store import Db

def pair(tx, number):
    tx.execute("INSERT INTO entry (number, side) VALUES (?, 'debit')", (number,))
    tx.execute("INSERT INTO entry (number, side) VALUES (?, 'credit')", (number,))

async def main():
    db = Db.open(Path(sys.argv[1]), Path(sys.argv[2]))
    start = await db.read(lambda tx: tx.execute("SELECT coalesce(max(number), 0) FROM entry").fetchone()[0])
    for number in range(start + 1, 10**9):
        await db.write(lambda tx: pair(tx, number))
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()

asyncio.run(main())
"""


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    directory = tmp_path / "migrations"
    directory.mkdir()
    (directory / "0001_start.sql").write_text(
        "CREATE TABLE entry (number INTEGER NOT NULL, side TEXT NOT NULL, PRIMARY KEY (number, side)) STRICT;"
    )
    return directory


def _write_until_killed(path: Path, migrations: Path, acknowledged: int) -> int:
    """Let a process commit pairs, kill it without warning, return the last number it acknowledged."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(migrations)],
        env={**os.environ, "PYTHONPATH": str(SHARED)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for _ in range(acknowledged):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split("\n")
    process.stdout.close()
    process.wait(timeout=60)
    whole = [int(line) for line in rest[:-1]]
    return whole[-1] if whole else 0


def test_killed_writers_lose_nothing_acknowledged_and_leave_nothing_half(
    tmp_path: Path, migrations: Path
) -> None:
    path = tmp_path / "plugin.db"
    for acknowledged in (1, 7, 40):
        last = _write_until_killed(path, migrations, acknowledged)
        # Opening again also proves that the kernel freed the lock with the process.
        Db.open(path, migrations).close()
        with sqlite3.connect(path) as connection:
            numbers = connection.execute("SELECT number, count(*) FROM entry GROUP BY number").fetchall()
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
        assert all(sides == 2 for _, sides in numbers)
        assert [number for number, _ in numbers] == list(range(1, len(numbers) + 1))
        assert len(numbers) >= max(last, acknowledged)
