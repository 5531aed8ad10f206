"""Keeps the record of the plugin's runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from hive_shared.store import Tx

from cl_hive.domain.run_record import RunRecord

T = TypeVar("T")


class Database(Protocol):
    """One transaction on the writer thread."""

    def write(self, body: Callable[[Tx], T]) -> Awaitable[T]: ...


class RunStore(Protocol):
    """Where the record is kept."""

    def run_record(self, tx: Tx) -> RunRecord | None: ...

    def save_run_record(self, tx: Tx, record: RunRecord) -> None: ...


class RunService:
    """Counts starts."""

    def __init__(self, db: Database, store: RunStore, now: Callable[[], int], version: str) -> None:
        self._db = db
        self._store = store
        self._now = now
        self._version = version

    async def started(self) -> RunRecord:
        """Write down one more start; returns the record."""
        now = self._now()

        def body(tx: Tx) -> RunRecord:
            before = self._store.run_record(tx)
            record = before.again(now, self._version) if before else RunRecord(now, now, 1, self._version)
            self._store.save_run_record(tx, record)
            return record

        return await self._db.write(body)
