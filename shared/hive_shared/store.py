"""One SQLite file, one writer thread, a few readers; numbered migrations with backups.

Pragmas and why: WAL lets readers work while the writer commits; synchronous=FULL, because in WAL mode
NORMAL may lose the last commits in a power cut and ours say that money moved; foreign_keys, off by
default in SQLite; busy_timeout for an operator's `sqlite3` shell, since no second process of ours gets
past the lock file (docs/protocol/08-client-and-plugins.md §5.3, §8.3).

    StoreError               the disk or the file failed; nothing of the failed transaction is kept
    ├── StoreNewer           written by a newer version of this software
    ├── StoreCorrupt         not a database, or damaged
    └── StoreLocked          another process has it open
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import inspect
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, Self, TypeAlias, TypeVar

from .errors import Busy

T = TypeVar("T")

Tx: TypeAlias = sqlite3.Connection
"""A connection inside a transaction, as handed to `write` and `read` bodies; rows are `sqlite3.Row`."""

BUSY_TIMEOUT_MS: Final = 5_000
KEPT_BACKUPS: Final = 3
MAX_WAITING_WRITES: Final = 5_000
"""Writes that may queue for the one writer: a few seconds of a slow disk; beyond, callers get `busy`."""

_MIGRATION: Final = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


class StoreError(Exception):
    """The database could not be opened, read or written."""


class StoreNewer(StoreError):
    """The file's schema version is above the newest migration we have."""


class StoreCorrupt(StoreError):
    """The file is not a database or fails SQLite's checks."""


class StoreLocked(StoreError):
    """Another process holds the file."""


@dataclass(slots=True)
class StoreStats:
    """Counters since the file was opened: committed write transactions, and those rolled back."""

    writes: int = 0
    rollbacks: int = 0


class Db:
    """An open database. Build it with `open`, end it with `close`.

    `write` bodies run one after the other in the writer thread, `read` bodies in reader threads on
    read-only connections, `peek` bodies on the caller's own thread. Bodies are plain functions: they must
    not await, and should return values, not cursors.
    """

    def __init__(self, path: Path, lock: int, connection: sqlite3.Connection, readers: int) -> None:
        self.path = path
        self.stats = StoreStats()
        self._lock = lock
        self._connection = connection
        self._closed = False
        self._waiting = 0
        self._synced = True
        # `close` may run on another thread than the one that peeks.
        self._peeking = threading.Lock()
        self._local = threading.local()
        self._read_connections: list[sqlite3.Connection] = []
        self._writer = ThreadPoolExecutor(1, f"{path.stem}-writer")
        self._readers = ThreadPoolExecutor(readers, f"{path.stem}-reader")

    @classmethod
    def open(cls, path: Path, migrations: Path, *, readers: int = 2) -> Self:
        """Open or create `path` and bring its schema to the newest file of the `migrations` directory.

        Creates the directory 0700 and the files 0600. Before an existing file is upgraded a copy is left
        as `<path>.bak-<old version>`, the newest three are kept. Blocking: call it off the event loop.
        Raises StoreLocked, StoreNewer, StoreCorrupt, or StoreError with a sentence for the operator.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _acquire(path)
        except OSError as err:
            raise StoreError(f"cannot create {path}: {err.strerror}") from err
        connection: sqlite3.Connection | None = None
        try:
            # SQLite would create the file with the umask's mode; WAL and shm files copy the file's mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            connection = _connect(path)
            _migrate(connection, path, _migration_files(migrations))
        except BaseException as err:
            if connection is not None:
                connection.close()
            os.close(lock)
            if isinstance(err, (sqlite3.Error, OSError)):
                _raise_store_error(err, path)
            raise
        return cls(path, lock, connection, readers)

    async def write(self, body: Callable[[Tx], T], *, durable: bool = True) -> T:
        """Run `body` in one IMMEDIATE transaction; commit when it returns, roll back when it raises.

        With `durable` False the commit does not wait for the disk. It outlives the process all the same, and
        the next durable commit covers it; only a power cut before that one takes it back, together with
        whatever followed it (docs/decisions/0110-commits-that-do-not-wait-for-the-disk.md).

        Exceptions of `body` come out unchanged, except that failures of disk and file become StoreError.
        Raises Busy when MAX_WAITING_WRITES are queued. A caller cancelled while its turn is running does
        not learn the outcome: the transaction completes by itself.
        """
        self._refuse_when_closed()
        if self._waiting >= MAX_WAITING_WRITES:
            raise Busy(f"{self._waiting} database writes are waiting; try again in a few seconds")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._writer, self._write, body, durable)
        finally:
            self._waiting -= 1

    async def read(self, body: Callable[[Tx], T]) -> T:
        """Run `body` on a read-only connection, inside one snapshot of the last committed state."""
        self._refuse_when_closed()
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, body)

    def peek(self, body: Callable[[Tx], T]) -> T:
        """Run `body` at once on this thread, like `read` but without two changes of thread.

        Only for looking up a handful of rows by an index: the event loop stands still meanwhile. In WAL mode
        no writer makes it wait (docs/decisions/0111-short-reads-on-the-loop.md).
        """
        with self._peeking:
            self._refuse_when_closed()
            return self._read(body)

    async def damage(self) -> list[str]:
        """SQLite's quick check of the whole file, for a self-check: what is wrong, empty when sound."""

        def check(tx: Tx) -> list[str]:
            return [str(row[0]) for row in tx.execute("PRAGMA quick_check(20)") if row[0] != "ok"]

        return await self.read(check)

    async def checkpoint(self) -> None:
        """Move the write-ahead log into the file and cut it off, as far as readers allow."""

        def fold() -> None:
            try:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error as err:
                _raise_store_error(err, self.path)

        self._refuse_when_closed()
        await asyncio.get_running_loop().run_in_executor(self._writer, fold)

    async def compact(self) -> None:
        """Write the whole file anew, so that nothing stays in it of what was changed or deleted."""

        def anew() -> None:
            try:
                self._connection.execute("VACUUM")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error as err:
                _raise_store_error(err, self.path)

        self._refuse_when_closed()
        await asyncio.get_running_loop().run_in_executor(self._writer, anew)

    def close(self) -> None:
        """Finish the queued work, move the WAL into the file, close and unlock. Blocking; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._readers.shutdown(wait=True)
        self._writer.shutdown(wait=True)
        try:
            with self._peeking:
                for connection in self._read_connections:
                    connection.close()
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as err:
            _raise_store_error(err, self.path)
        finally:
            self._connection.close()
            os.close(self._lock)

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise StoreError(f"{self.path.name} is closed: the plugin is stopping")

    def _write(self, body: Callable[[Tx], T], durable: bool) -> T:
        tx = self._connection
        try:
            if durable != self._synced:
                tx.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._synced = durable
            tx.execute("BEGIN IMMEDIATE")
            result = _run(body, tx)
            if not tx.in_transaction:
                raise RuntimeError("a write body ended its own transaction; the store does that")
            tx.execute("COMMIT")
        except BaseException as err:
            _roll_back(tx)
            self.stats.rollbacks += 1
            if isinstance(err, sqlite3.Error):
                _raise_store_error(err, self.path)
            raise
        self.stats.writes += 1
        return result

    def _read(self, body: Callable[[Tx], T]) -> T:
        try:
            tx = self._reader()
            tx.execute("BEGIN")
            try:
                return _run(body, tx)
            finally:
                if tx.in_transaction:
                    tx.execute("ROLLBACK")
        except sqlite3.Error as err:
            _raise_store_error(err, self.path)

    def _reader(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            uri = f"{self.path.absolute().as_uri()}?mode=ro"
            connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
            connection.row_factory = sqlite3.Row
            connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            connection.execute("PRAGMA query_only = ON")
            self._local.connection = connection
            self._read_connections.append(connection)
        return connection


def _roll_back(tx: Tx) -> None:
    # SQLite has already rolled back by itself after some failures, a full disk among them; and on a
    # dying disk the rollback fails too, which must not hide the error that led here.
    if tx.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            tx.execute("ROLLBACK")


def _run(body: Callable[[Tx], T], tx: Tx) -> T:
    result = body(tx)
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError("a store body must be a plain function, not a coroutine function")
    return result


@contextlib.contextmanager
def held_closed(path: Path) -> Iterator[None]:
    """Nobody opens the database at `path` while the block runs, so that its file can be exchanged. Raises
    StoreLocked when a process has it open."""
    lock = _acquire(path)
    try:
        yield
    finally:
        os.close(lock)


def copy_of(path: Path, target: Path) -> None:
    """Write a consistent copy of a database to a new file 0600, also while a process has it open. Blocking.
    Raises StoreError."""
    try:
        os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        source = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
        try:
            copy = sqlite3.connect(target)
            try:
                source.backup(copy)
            finally:
                copy.close()
        finally:
            source.close()
    except (OSError, sqlite3.Error) as err:
        target.unlink(missing_ok=True)
        raise StoreError(f"{path} cannot be copied: {err}") from err


def _acquire(path: Path) -> int:
    # flock and not a pid file: the kernel drops it with the process, also after kill -9.
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StoreLocked(f"{path} is in use by another process; stop that one first") from None
    except OSError:
        os.close(lock)
        raise
    return lock


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StoreError(f"{path}: its file system has no shared memory (journal mode {mode}); move it")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
    except BaseException:
        connection.close()
        raise
    return connection


def _migration_files(directory: Path) -> list[tuple[int, Path]]:
    found: dict[int, Path] = {}
    for file in sorted(directory.glob("*.sql")):
        match = _MIGRATION.fullmatch(file.name)
        if match is None:
            raise StoreError(f"migration {file.name} is not named NNNN_name.sql")
        version = int(match[1])
        if version in found:
            raise StoreError(f"migrations {found[version].name} and {file.name} have the same number")
        found[version] = file
    if not found:
        raise StoreError(f"no migrations in {directory}: the plugin is not installed completely")
    return sorted(found.items())


def _migrate(connection: sqlite3.Connection, path: Path, files: list[tuple[int, Path]]) -> None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    newest = files[-1][0]
    if version > newest:
        raise StoreNewer(
            f"{path} has schema version {version}, this plugin knows up to {newest}: install the newer plugin"
            f" again, or restore a {path.name}.bak-* copy"
        )
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if version == 0 and tables:
        raise StoreError(f"{path} holds tables but no schema version: it is not a database of this plugin")
    pending = [(number, file) for number, file in files if number > version]
    if pending and version:
        _check_before_upgrade(connection, path)
        _back_up(connection, path, version)
    for number, file in pending:
        _apply(connection, number, file)


def _apply(connection: sqlite3.Connection, number: int, file: Path) -> None:
    script = file.read_text(encoding="utf-8")
    try:
        # One script, because executescript commits an open transaction before it starts.
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\n;PRAGMA user_version = {number};\nCOMMIT;")
    except sqlite3.Error as err:
        _roll_back(connection)
        if _is_environment(err):
            raise
        raise StoreError(f"migration {file.name} failed, the database is as before: {err}") from err


def _check_before_upgrade(connection: sqlite3.Connection, path: Path) -> None:
    # Rewriting a damaged file would spread the damage and rotate the good backups away.
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise StoreCorrupt(f"{path} is damaged ({verdict}); restore a {path.name}.bak-* copy")


def _back_up(connection: sqlite3.Connection, path: Path, version: int) -> None:
    target = path.with_name(f"{path.name}.bak-{version}")
    partial = path.with_name(f"{path.name}.bak-{version}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        copy = sqlite3.connect(partial)
        try:
            connection.backup(copy)
        finally:
            copy.close()
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, target)
    except BaseException:
        # Nothing was upgraded yet. On a full disk the half copy would take what room is left.
        for left in (partial, partial.with_name(f"{partial.name}-journal")):
            left.unlink(missing_ok=True)
        raise
    backups = [
        (int(match[1]), file)
        for file in path.parent.iterdir()
        if (match := re.fullmatch(re.escape(path.name) + r"\.bak-(\d+)", file.name))
    ]
    for _, old in sorted(backups)[:-KEPT_BACKUPS]:
        old.unlink()


_DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_ENVIRONMENT: Final = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk reports an error",
    sqlite3.SQLITE_READONLY: "the file is read-only",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_BUSY: "another program keeps it locked",
    sqlite3.SQLITE_PERM: "access is denied",
    sqlite3.SQLITE_NOMEM: "memory is exhausted",
}


def _primary(err: BaseException) -> int:
    # Extended result codes carry the primary code in their low byte.
    return int(getattr(err, "sqlite_errorcode", 0)) & 0xFF


def _is_environment(err: BaseException) -> bool:
    return _primary(err) in _DAMAGE or _primary(err) in _ENVIRONMENT


def _raise_store_error(err: sqlite3.Error | OSError, path: Path) -> NoReturn:
    if isinstance(err, OSError):
        raise StoreError(f"{path}: {err.strerror}") from err
    code = _primary(err)
    if code in _DAMAGE:
        raise StoreCorrupt(f"{path} is damaged or not a database ({err}); restore a .bak-* copy") from err
    if code in _ENVIRONMENT:
        raise StoreError(f"{path}: {_ENVIRONMENT[code]} ({err})") from err
    # A wrong statement or a broken constraint is the caller's, and stays what it is.
    raise err
