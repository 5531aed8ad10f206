"""Opening: modes, lock, migrations, backups; foreign, newer and damaged files are refused untouched."""

from __future__ import annotations

import os
import resource
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hive_shared.store import Db, StoreCorrupt, StoreError, StoreLocked, StoreNewer, Tx

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    directory = tmp_path / "migrations"
    directory.mkdir()
    step(directory, 1, "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;")
    return directory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net" / "plugin.db"


def step(directory: Path, number: int, sql: str) -> None:
    (directory / f"{number:04}_step_{number}.sql").write_text(sql)


def reopen(path: Path, migrations: Path) -> None:
    Db.open(path, migrations).close()


def pragma(path: Path, name: str) -> object:
    with sqlite3.connect(path) as connection:
        value: object = connection.execute(f"PRAGMA {name}").fetchone()[0]
    connection.close()
    return value


async def test_files_are_private_and_a_made_directory_too(path: Path, migrations: Path) -> None:
    old = os.umask(0)
    try:
        db = Db.open(path, migrations)
        await db.write(lambda tx: tx.execute("INSERT INTO note (text) VALUES ('x')").rowcount)
    finally:
        os.umask(old)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes) == {"plugin.db", "plugin.db-wal", "plugin.db-shm", "plugin.db.lock"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    db.close()


async def test_pragmas_of_the_sheet_are_set(path: Path, migrations: Path) -> None:
    db = Db.open(path, migrations)

    def settings(tx: Tx) -> list[object]:
        asked = ("journal_mode", "synchronous", "foreign_keys", "user_version")
        return [tx.execute(f"PRAGMA {name}").fetchone()[0] for name in asked]

    assert await db.write(settings) == ["wal", 2, 1, 1]
    db.close()


def test_a_second_opener_is_refused_until_the_first_closes(path: Path, migrations: Path) -> None:
    db = Db.open(path, migrations)
    with pytest.raises(StoreLocked, match="in use by another process"):
        Db.open(path, migrations)
    db.close()
    reopen(path, migrations)


def test_a_second_process_is_refused(path: Path, migrations: Path) -> None:
    db = Db.open(path, migrations)
    script = (
        "import sys; from pathlib import Path; from hive_shared.store import Db\n"
        "Db.open(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    env = {**os.environ, "PYTHONPATH": str(SHARED)}
    other = subprocess.run(
        [sys.executable, "-c", script, str(path), str(migrations)],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    db.close()
    assert "StoreLocked" in other.stderr


def test_migrations_run_in_order_and_only_once(path: Path, migrations: Path) -> None:
    step(migrations, 2, "ALTER TABLE note ADD COLUMN at INTEGER; INSERT INTO note (text) VALUES ('two');")
    reopen(path, migrations)
    step(migrations, 3, "INSERT INTO note (text) SELECT 'three' FROM note;")
    reopen(path, migrations)
    reopen(path, migrations)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT text FROM note ORDER BY id").fetchall() == [("two",), ("three",)]
    connection.close()
    assert pragma(path, "user_version") == 3


def test_a_failing_migration_changes_nothing_and_names_itself(path: Path, migrations: Path) -> None:
    reopen(path, migrations)
    step(migrations, 2, "CREATE TABLE half (id INTEGER); INSERT INTO nowhere VALUES (1);")
    with pytest.raises(StoreError, match=r"0002_step_2\.sql failed, the database is as before: no such"):
        Db.open(path, migrations)
    assert pragma(path, "user_version") == 1
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("note",)]
    connection.close()
    (migrations / "0002_step_2.sql").write_text("CREATE TABLE whole (id INTEGER);")
    reopen(path, migrations)


def test_an_upgrade_leaves_a_copy_of_the_old_file_and_keeps_three(path: Path, migrations: Path) -> None:
    for number in range(2, 8):
        reopen(path, migrations)
        step(migrations, number, f"CREATE TABLE t{number} (id INTEGER);")
    reopen(path, migrations)
    copies = sorted(file.name for file in path.parent.glob("*.bak-*"))
    assert copies == ["plugin.db.bak-4", "plugin.db.bak-5", "plugin.db.bak-6"]
    for name in copies:
        copy = path.with_name(name)
        assert pragma(copy, "user_version") == int(name[-1])
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600


def test_no_room_for_the_copy_leaves_nothing_behind_and_upgrades_nothing(
    path: Path, migrations: Path
) -> None:
    """The write that does not fit fails as on a full disk; with room again the same start succeeds."""
    reopen(path, migrations)
    with sqlite3.connect(path) as connection:
        connection.executemany("INSERT INTO note (text) VALUES (?)", [("x" * 2_000,)] * 200)
    connection.close()
    step(migrations, 2, "CREATE TABLE t2 (id INTEGER); DELETE FROM note;")
    before = sorted(file.name for file in path.parent.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, hard))
    try:
        with pytest.raises(StoreError, match=r"plugin\.db"):
            Db.open(path, migrations)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    left = {file.name for file in path.parent.iterdir()}
    assert left - set(before) <= {"plugin.db-wal", "plugin.db-shm"}
    assert pragma(path, "user_version") == 1
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM note").fetchone() == (200,)
    connection.close()
    reopen(path, migrations)
    assert pragma(path, "user_version") == 2
    assert pragma(path.with_name("plugin.db.bak-1"), "user_version") == 1


def test_a_half_copy_of_a_start_that_was_killed_is_replaced(path: Path, migrations: Path) -> None:
    reopen(path, migrations)
    step(migrations, 2, "CREATE TABLE t2 (id INTEGER);")
    path.with_name("plugin.db.bak-1.partial").write_bytes(b"half a copy")
    reopen(path, migrations)
    assert [file.name for file in path.parent.glob("*.bak-*")] == ["plugin.db.bak-1"]
    assert pragma(path.with_name("plugin.db.bak-1"), "user_version") == 1


def test_a_new_file_needs_no_copy(path: Path, migrations: Path) -> None:
    step(migrations, 2, "CREATE TABLE t2 (id INTEGER);")
    reopen(path, migrations)
    assert not list(path.parent.glob("*.bak-*"))


def test_a_newer_file_is_refused_and_left_alone(path: Path, migrations: Path) -> None:
    step(migrations, 2, "CREATE TABLE t2 (id INTEGER);")
    reopen(path, migrations)
    (migrations / "0002_step_2.sql").unlink()
    before = path.read_bytes()
    with pytest.raises(StoreNewer, match="schema version 2, this plugin knows up to 1"):
        Db.open(path, migrations)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path, migrations: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"these are somebody's notes, not a database\n" * 100)
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="not a database"):
        Db.open(path, migrations)
    assert path.read_bytes() == before


def test_a_database_of_somebody_else_is_refused(path: Path, migrations: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (id INTEGER)")
    connection.close()
    with pytest.raises(StoreError, match="not a database of this plugin"):
        Db.open(path, migrations)


async def _grow(path: Path, migrations: Path) -> None:
    db = Db.open(path, migrations)
    await db.write(
        lambda tx: tx.executemany("INSERT INTO note (text) VALUES (?)", [("x" * 900,) for _ in range(200)])
    )
    db.close()


def _damage(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[8192:-4096] = b"\xa5" * (len(raw) - 12288)
    path.write_bytes(raw)


async def test_a_damaged_file_is_not_upgraded(path: Path, migrations: Path) -> None:
    await _grow(path, migrations)
    _damage(path)
    step(migrations, 2, "CREATE TABLE t2 (id INTEGER);")
    with pytest.raises(StoreCorrupt, match="damaged"):
        Db.open(path, migrations)
    assert not list(path.parent.glob("*.bak-*"))


async def test_damage_met_later_is_a_corrupt_store_and_is_reported(path: Path, migrations: Path) -> None:
    await _grow(path, migrations)
    _damage(path)
    db = Db.open(path, migrations)
    with pytest.raises(StoreCorrupt):
        await db.read(lambda tx: tx.execute("SELECT text FROM note").fetchall())
    assert await db.damage() != []
    db.close()


@pytest.mark.parametrize(
    ("name", "says"),
    [("1_short.sql", "not named NNNN_name.sql"), ("0001_again.sql", "same number")],
)
def test_misnamed_migrations_are_refused(path: Path, migrations: Path, name: str, says: str) -> None:
    (migrations / name).write_text("SELECT 1;")
    with pytest.raises(StoreError, match=says):
        Db.open(path, migrations)


def test_an_incomplete_installation_is_named(path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not installed completely"):
        Db.open(path, tmp_path / "absent")


def test_an_impossible_directory_is_named(tmp_path: Path, migrations: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot create"):
        Db.open(tmp_path / "file" / "plugin.db", migrations)
