"""The earlier single plugin's database, read from a private copy
(docs/protocol/08-client-and-plugins.md §8.3).

The source itself is opened for plain reading only. SQLite never sees it: even a reading connection would
write its shared-memory file, and recover its log.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sqlite3
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from hive_shared.errors import Conflict, InvalidParams

from cl_hive_comms.domain.legacy import (
    MARKER,
    Cell,
    LegacyRow,
    LegacyTable,
    Text,
    legacy_row,
)
from cl_hive_comms.services.ports_migration import LegacySource

MAX_ROW: Final = 1 << 20
"""Bytes of a row that is taken; a larger one is none the earlier plugin wrote."""
SPARE: Final = 64 << 20
"""Bytes of disk that must stay free beside the copy."""
_MAGIC: Final = b"SQLite format 3\0"
_CHUNK: Final = 1 << 20
_MAX_COLUMNS: Final = 100
# Where SQLite's processes keep their advisory locks: in the file itself from 1 GiB on, and in the shared
# memory file of the write-ahead log (https://www.sqlite.org/walformat.html, "WAL locks").
_FILE_LOCKS: Final = (0x40000000, 512)
_SHM_LOCKS: Final = (120, 9)


class LegacyCopies:
    """Makes private copies in `directory`, which holds nothing else. `own` is this plugin's database."""

    def __init__(self, directory: Path, own: Path) -> None:
        self._directory, self._own = directory, own

    def clear(self) -> None:
        """Remove what a killed run left: a copy holds the earlier plugin's key."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def open(self, path: Path) -> LegacySource:
        """Copy the database with its log, check the copy and open it.

        Raises InvalidParams for a file that is no sound database of the earlier plugin, Conflict when it is
        in use or there is no room for the copy. The source is never written.
        """
        self._refuse_other_files(path)
        self._refuse_when_in_use(path)
        self.clear()
        try:
            sha256 = self._copy(path)
            self._refuse_when_in_use(path)
            return _open(self._directory / "source.db", path, sha256, self.clear)
        except OSError as error:
            self.clear()
            raise Conflict(f"{path} cannot be copied to {self._directory}: {error.strerror}") from None
        except BaseException:
            self.clear()
            raise

    def _refuse_other_files(self, path: Path) -> None:
        if not path.is_absolute():
            raise InvalidParams(
                f"source {str(path)[:200]!a} is relative; give an absolute path, the node has its own place"
            )
        try:
            found = path.stat()
            own = [file.stat() for file in _siblings(self._own) if file.exists()]
        except OSError as error:
            raise InvalidParams(f"{path} cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(found.st_mode):
            raise InvalidParams(f"{path} is no file")
        # Before anything opens it: closing any descriptor of our own database would drop the locks that
        # protect it (POSIX locks belong to the process, not to the descriptor).
        if any(os.path.samestat(found, mine) for mine in own):
            raise InvalidParams(f"{path} is this plugin's own database; source is the earlier plugin's")
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
        if head != _MAGIC:
            what = "is empty" if not head else "is not an SQLite database"
            raise InvalidParams(f"{path} {what}")

    def _refuse_when_in_use(self, path: Path) -> None:
        for file, (start, length) in ((path, _FILE_LOCKS), (_beside(path, "-shm"), _SHM_LOCKS)):
            if file.exists() and _locked(file, start, length):
                raise Conflict(
                    f"{path} is in use: the earlier plugin still runs, or another program has it open; stop"
                    " it first (`lightning-cli plugin stop cl-hive.py`)",
                    reason="source_in_use",
                )
        journal = _beside(path, "-journal")
        if journal.exists() and journal.stat().st_size:
            raise Conflict(
                f"{journal} is there: a transaction was cut off; open {path} once with sqlite3 to end it",
                reason="source_unfinished",
            )

    def _copy(self, path: Path) -> str:
        """Copy file and log; SHA-256 over both."""
        log = _beside(path, "-wal")
        parts = [(path, "source.db"), *([(log, "source.db-wal")] if log.exists() else [])]
        before = [_version(file) for file, _ in parts]
        size = sum(file.stat().st_size for file, _ in parts)
        self._directory.mkdir(mode=0o700, parents=True)
        free = shutil.disk_usage(self._directory).free
        if free < size + SPARE:
            raise Conflict(
                f"the copy of {path} needs {size + SPARE} bytes beside {self._directory}, {free} are free",
                reason="disk_full",
            )
        digest = hashlib.sha256()
        for file, name in parts:
            target = os.open(self._directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with file.open("rb") as reading, os.fdopen(target, "wb") as writing:
                _stream(reading, writing, digest.update)
        if before != [_version(file) for file, _ in parts]:
            raise Conflict(f"{path} changed while it was copied; stop what uses it", reason="source_in_use")
        return digest.hexdigest()


class _Copy:
    """An open copy."""

    def __init__(self, connection: sqlite3.Connection, sha256: str, clear: Callable[[], None]) -> None:
        self._connection, self.sha256, self._clear = connection, sha256, clear

    def missing(self, table: LegacyTable) -> str | None:
        """Why the table cannot be read: '' when it is not there, a sentence when it is not as it was."""
        kind = self._connection.execute(
            "SELECT type, sql FROM sqlite_schema WHERE name = ?", (table.name,)
        ).fetchone()
        if kind is None:
            return ""
        names = {row[1].read() for row in self._connection.execute(f"PRAGMA table_info({table.name})")}
        made = kind[1].raw[:40].upper() if isinstance(kind[1], Text) else b""
        plain = kind[0] == Text(b"table") and b"VIRTUAL" not in made
        if not plain or len(names) > _MAX_COLUMNS or {"rowid", None} & names:
            return "it is no table that the earlier plugin made"
        if lacking := sorted(table.columns - names):
            return f"its columns are not those of the earlier plugin, {', '.join(lacking)} is missing"
        try:
            self._connection.execute(f"SELECT rowid FROM {table.name} LIMIT 1").fetchone()
        except sqlite3.OperationalError:
            return "it is no table that the earlier plugin made"
        return None

    def rows(self, table: LegacyTable) -> Iterator[LegacyRow | str]:
        """Every row in the order of ids; of ids that stand twice the first, then the reason."""
        read = self._connection.cursor()
        before: str | None = None
        for rowid in self._rowids(table):
            try:
                cells = read.execute(f"SELECT * FROM {table.name} WHERE rowid = ?", (rowid,)).fetchone()
            except sqlite3.DataError:
                yield "larger than 1 MiB"
                continue
            names = [column[0] for column in read.description]
            row = legacy_row(table, names, [_cell(value) for value in cells])
            if row is None:
                yield "without a usable id"
            elif row.key == before:
                yield "with an id that stands twice in the source"
            else:
                before = row.key
                yield row

    def _rowids(self, table: LegacyTable) -> Iterator[int]:
        # In the order of ids, so that equal ones follow each other whatever keys the table has.
        order = f"{table.key} COLLATE BINARY, rowid"
        try:
            for (rowid,) in self._connection.execute(f"SELECT rowid FROM {table.name} ORDER BY {order}"):
                yield rowid
        except sqlite3.DataError:
            raise InvalidParams(
                f"{table.name} holds an id larger than 1 MiB; this is no table that the earlier plugin wrote",
                reason=_DAMAGED,
            ) from None

    def close(self) -> None:
        """Close and remove."""
        self._connection.close()
        self._clear()


def _open(copy: Path, source: Path, sha256: str, clear: Callable[[], None]) -> _Copy:
    try:
        # The log is folded in, so that the copy can be opened as a file that nobody changes.
        folding = sqlite3.connect(copy, isolation_level=None)
        try:
            folding.execute("PRAGMA trusted_schema = OFF")
            folding.execute("PRAGMA journal_mode = DELETE").fetchone()
        finally:
            folding.close()
        uri = f"{copy.absolute().as_uri()}?mode=ro&immutable=1"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA cache_size = -8192")
            _check(connection, source)
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_ROW)
            connection.text_factory = Text  # texts of any bytes, told apart from blobs
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise InvalidParams(
            f"{source} is damaged ({error}); nothing was imported. Try a backup of it", reason=_DAMAGED
        ) from None
    return _Copy(connection, sha256, clear)


_DAMAGED: Final = "source_damaged"


def _check(connection: sqlite3.Connection, source: Path) -> None:
    """Refuse a database that is damaged or not of the earlier single plugin."""
    verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if verdict != "ok":
        first = str(verdict).splitlines()[0][:200]
        raise InvalidParams(
            f"{source} is damaged ({first}); nothing was imported. Try a backup of it", reason=_DAMAGED
        )
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if {"comms_state", "comms_policy"} <= tables:
        raise InvalidParams(
            f"{source} is a database of cl-hive-comms itself (schema version {version}); to move one use"
            " hive-client-backup and hive-client-restore",
            reason="source_foreign",
        )
    if version:
        raise InvalidParams(
            f"{source} has schema version {version}, the earlier single plugin wrote none: it is newer than"
            " this version of cl-hive-comms knows, or of another program",
            reason="source_newer",
        )
    if MARKER not in tables:
        raise InvalidParams(
            f"{source} is not a database of the earlier single cl-hive plugin: it has no table {MARKER}",
            reason="source_foreign",
        )


def _siblings(path: Path) -> tuple[Path, ...]:
    return (path, *(_beside(path, end) for end in ("-wal", "-shm", ".lock")))


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def _version(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _stream(reading: BinaryIO, writing: BinaryIO, note: Callable[[bytes], None]) -> None:
    while chunk := reading.read(_CHUNK):
        note(chunk)
        writing.write(chunk)


def _locked(path: Path, start: int, length: int) -> bool:
    """Whether another process holds a lock there; asks, takes none. Raises OSError."""
    darwin = sys.platform == "darwin"
    layout = "qqihh" if darwin else "hhqqi4x"
    lock = (start, length, 0, fcntl.F_WRLCK, os.SEEK_SET) if darwin else (fcntl.F_WRLCK, 0, start, length, 0)
    try:
        with path.open("rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(layout, *lock))
    except OSError as error:
        raise InvalidParams(f"{path} cannot be read: {error.strerror}") from None
    return bool(struct.unpack(layout, answer)[3 if darwin else 0] != fcntl.F_UNLCK)


def _cell(value: object) -> Cell | Text:
    assert value is None or isinstance(value, int | float | bytes | Text)
    return value
