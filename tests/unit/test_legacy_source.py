"""Copies of the earlier plugin's database: what is refused, and that the source stays as it is (08 §8.3)."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import legacy_database as legacy
import pytest
from cl_hive_comms.domain.legacy import RECEIPTS, TABLES, LegacyRow, LegacyTable
from cl_hive_comms.services.ports_migration import LegacySource
from cl_hive_comms.storage.legacy_source import MAX_ROW, LegacyCopies
from hive_shared.errors import Conflict, InvalidParams

NODE_ID = "02" + "ab" * 32


@pytest.fixture
def copies(tmp_path: Path) -> LegacyCopies:
    own = tmp_path / "cl_hive_comms.db"
    own.write_bytes(b"SQLite format 3\0 of our own")
    return LegacyCopies(tmp_path / "hive" / "migration", own)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return legacy.filled(tmp_path / "cl_hive.db", node_id=NODE_ID)


def table(name: str) -> LegacyTable:
    return next(table for table in TABLES if table.name == name)


def rows(source: LegacySource, name: str = RECEIPTS) -> list[LegacyRow | str]:
    return list(source.rows(table(name)))


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.parent.glob(path.name + "*"))}


def test_rows_come_in_the_order_of_their_ids_and_the_source_is_untouched(
    copies: LegacyCopies, old: Path, tmp_path: Path
) -> None:
    before = files(old)
    source = copies.open(old)
    found = rows(source)
    assert [row.key for row in found if isinstance(row, LegacyRow)] == [
        legacy.receipt(number)["receipt_id"] for number in range(1, 21)
    ]
    copied = tmp_path / "hive" / "migration"
    assert oct(copied.stat().st_mode)[-3:] == "700"
    assert {oct(file.stat().st_mode)[-3:] for file in copied.iterdir()} == {"600"}
    source.close()
    assert not copied.exists()
    assert files(old) == before, "no byte and no file of the source changed"


def test_a_source_in_a_directory_that_cannot_be_written_is_read(copies: LegacyCopies, old: Path) -> None:
    directory = old.parent / "locked"
    directory.mkdir()
    moved = directory / old.name
    old.rename(moved)
    moved.chmod(0o400)
    directory.chmod(0o500)
    try:
        source = copies.open(moved)
        assert len(rows(source)) == 20
        source.close()
    finally:
        directory.chmod(0o700)


def test_what_only_the_log_holds_is_read(copies: LegacyCopies, old: Path) -> None:
    """As after kill -9 of the earlier plugin: the newest rows are in the -wal file alone."""
    script = (
        "import sqlite3, sys, os\n"
        "c = sqlite3.connect(sys.argv[1])\n"
        "c.execute('PRAGMA wal_autocheckpoint = 0')\n"
        "c.execute(\"UPDATE management_receipts SET action = 'from the log'\")\n"
        "c.commit()\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(old)], check=True)
    log = old.with_name(old.name + "-wal")
    assert log.stat().st_size
    before = files(old)
    source = copies.open(old)
    assert all(isinstance(row, LegacyRow) and row.text_of("action") == "from the log" for row in rows(source))
    source.close()
    assert files(old) == before


@pytest.fixture
def user(old: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the database open and does nothing."""
    script = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('SELECT count(*) FROM hive_members').fetchone()\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(old)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.stdin.close()


def test_a_source_that_another_process_has_open_is_refused(
    copies: LegacyCopies, old: Path, user: subprocess.Popen[str], tmp_path: Path
) -> None:
    before = files(old)
    with pytest.raises(Conflict, match="the earlier plugin still runs") as refused:
        copies.open(old)
    assert refused.value.reason == "source_in_use"
    assert files(old) == before
    assert not (tmp_path / "hive" / "migration").exists()
    assert user.stdin is not None
    user.stdin.close()
    user.wait(10)
    copies.open(old).close()


def test_a_cut_off_transaction_is_refused(copies: LegacyCopies, old: Path) -> None:
    old.with_name(old.name + "-journal").write_bytes(b"x" * 600)
    with pytest.raises(Conflict, match=r"open .* once with sqlite3"):
        copies.open(old)


def damaged(old: Path) -> Path:
    data = bytearray(old.read_bytes())
    for page in range(2, len(data) // 4096):
        data[page * 4096 : page * 4096 + 200] = os.urandom(200)
    old.write_bytes(data)
    return old


def cut_off(old: Path) -> Path:
    old.write_bytes(old.read_bytes()[: 3 * 4096 + 100])
    return old


def renumbered(old: Path) -> Path:
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("PRAGMA user_version = 9")
    return old


def of_another_program(old: Path) -> Path:
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("DROP TABLE hive_members")
    return old


def of_this_plugin(old: Path) -> Path:
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("CREATE TABLE comms_state (key)")
        connection.execute("CREATE TABLE comms_policy (id)")
    return old


def text(old: Path) -> Path:
    old.write_text("-- an SQL dump\n" * 100)
    return old


def empty(old: Path) -> Path:
    old.write_bytes(b"")
    return old


def only_a_head(old: Path) -> Path:
    old.write_bytes(b"SQLite format 3\0")
    return old


def absent(old: Path) -> Path:
    return old.with_name("nothing.db")


def pipe(old: Path) -> Path:
    os.mkfifo(old.with_name("pipe"))
    return old.with_name("pipe")


def directory(old: Path) -> Path:
    return old.parent


def relative(old: Path) -> Path:
    return Path(os.path.relpath(old))


def own(old: Path) -> Path:
    return old.with_name("cl_hive_comms.db")


def link_to_own(old: Path) -> Path:
    made = old.with_name("link.db")
    os.link(own(old), made)
    return made


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (damaged, "is damaged"),
        (cut_off, "is damaged"),
        (only_a_head, "is damaged"),
        (renumbered, "schema version 9.*newer"),
        (of_another_program, "not a database of the earlier single cl-hive plugin"),
        (of_this_plugin, "a database of cl-hive-comms itself"),
        (text, "not an SQLite database"),
        (empty, "is empty"),
        (absent, "No such file"),
        (pipe, "is no file"),
        (directory, "is no file"),
        (relative, "is relative"),
        (own, "own database"),
        (link_to_own, "own database"),
    ],
)
def test_other_files_are_refused_with_the_reason(
    copies: LegacyCopies, old: Path, tmp_path: Path, spoil: object, says: str
) -> None:
    assert callable(spoil)
    path = spoil(old)
    with pytest.raises(InvalidParams, match=says):
        copies.open(path)
    assert not (tmp_path / "hive" / "migration").exists(), "no copy stays"


def test_a_full_disk_is_a_refusal(
    copies: LegacyCopies, old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cl_hive_comms.storage import legacy_source

    monkeypatch.setattr(legacy_source, "SPARE", 1 << 60)
    with pytest.raises(Conflict, match=r"bytes beside .* are free"):
        copies.open(old)
    assert not (tmp_path / "hive" / "migration").exists()


def test_what_a_killed_run_left_is_removed(copies: LegacyCopies, old: Path, tmp_path: Path) -> None:
    left = tmp_path / "hive" / "migration"
    left.mkdir(parents=True)
    (left / "source.db").write_text("half a copy")
    copies.open(old).close()
    assert not left.exists()


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("CREATE TABLE management_receipts (receipt_id TEXT, actor TEXT)", "action, credential_id"),
        (
            "CREATE TABLE management_receipts (receipt_id TEXT PRIMARY KEY, credential_id, schema_id, action,"
            " params_json, danger_score, result_json, state_hash_before, state_hash_after, executed_at,"
            " executor_signature) WITHOUT ROWID",
            "no table that the earlier plugin made",
        ),
        ("CREATE VIEW management_receipts AS SELECT * FROM nostr_state", "no table that the earlier"),
        ("CREATE VIRTUAL TABLE management_receipts USING fts5(receipt_id)", "no table that the earlier"),
        (
            "CREATE TABLE management_receipts (receipt_id, credential_id, schema_id, action, params_json,"
            " danger_score, result_json, state_hash_before, state_hash_after, executed_at,"
            " executor_signature, rowid)",
            "no table that the earlier",
        ),
    ],
)
def test_a_table_that_is_not_the_earlier_plugins_is_not_read(
    copies: LegacyCopies, tmp_path: Path, sql: str, says: str
) -> None:
    path = legacy.build(tmp_path / "cl_hive.db", without=[RECEIPTS])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql)
    source = copies.open(path)
    assert says in (source.missing(table(RECEIPTS)) or "")
    assert source.missing(table("nostr_state")) is None
    source.close()


def test_hostile_rows_are_named_and_the_others_come(copies: LegacyCopies, tmp_path: Path) -> None:
    path = legacy.build(tmp_path / "cl_hive.db", without=[RECEIPTS])
    columns = ", ".join(legacy.receipt(1))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE TABLE management_receipts ({columns})")
    good = legacy.receipt(1)
    legacy.insert(
        path,
        RECEIPTS,
        [
            good,
            {**legacy.receipt(2), "receipt_id": good["receipt_id"]},
            legacy.receipt(3, receipt_id=None),
            legacy.receipt(4, receipt_id=17),
            legacy.receipt(5, receipt_id=b"blob"),
            legacy.receipt(6, receipt_id=""),
            legacy.receipt(7, receipt_id="x" * 300),
            legacy.receipt(8, params_json="y" * (MAX_ROW + 1)),
            legacy.receipt(9, executed_at=float("inf"), danger_score=float("nan")),
            legacy.receipt(10, params_json=b"\x00\xff", danger_score=1 << 62, action=""),
        ],
    )
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "UPDATE management_receipts SET action = CAST(x'ff00' AS TEXT) WHERE receipt_id = ?",
            (legacy.receipt(10)["receipt_id"],),
        )
    source = copies.open(path)
    found = rows(source)
    taken = {row.key: row for row in found if isinstance(row, LegacyRow)}
    refused = sorted(row for row in found if isinstance(row, str))
    source.close()
    assert refused == [
        "larger than 1 MiB",
        "with an id that stands twice in the source",
        *["without a usable id"] * 5,
    ]
    assert set(taken) == {legacy.receipt(number)["receipt_id"] for number in (1, 9, 10)}
    infinite, odd = taken[legacy.receipt(9)["receipt_id"]], taken[legacy.receipt(10)["receipt_id"]]
    assert '"executed_at":{"real":"inf"}' in infinite.text and '"danger_score":null' in infinite.text
    assert infinite.time_of("executed_at") is None
    assert '"action":{"text":"ff00"}' in odd.text and '"params_json":{"blob":"00ff"}' in odd.text
    assert '"danger_score":{"integer":"4611686018427387904"}' in odd.text
