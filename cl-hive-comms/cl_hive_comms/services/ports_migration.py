"""What a migration from the earlier single plugin needs from the outside."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from hive_shared.crypto import Secret
from hive_shared.store import Tx

from ..domain.identity import KeyRing
from ..domain.legacy import LegacyRow, LegacyTable
from ..domain.legacy_record import LegacyReceipt, Segment


class LegacySource(Protocol):
    """A private copy of the earlier database, open for reading (storage.legacy_source)."""

    sha256: str
    """Of the source's bytes, its write-ahead log included."""

    def missing(self, table: LegacyTable) -> str | None:
        """Why the table cannot be read at all, or None; a table that is not there gives ''."""
        ...

    def rows(self, table: LegacyTable) -> Iterator[LegacyRow | str]:
        """Every row in the order of ids; in place of a row that cannot be taken, the reason."""
        ...

    def close(self) -> None:
        """Close and remove the copy."""
        ...


class LegacyFiles(Protocol):
    """Makes such copies."""

    def open(self, path: Path) -> LegacySource:
        """Copy, check and open. Raises InvalidParams or Conflict with the reason of a refusal."""
        ...


class LegacyTables(Protocol):
    """Where legacy rows are kept (storage.legacy_store.LegacyStore)."""

    def receipt_digest(self, tx: Tx, receipt_id: str) -> str | None: ...
    def last_seq(self, tx: Tx) -> int: ...
    def add_receipt(self, tx: Tx, receipt: LegacyReceipt) -> None: ...
    def walk(self, tx: Tx) -> Iterator[LegacyReceipt]: ...
    def has_row(self, tx: Tx, table: str, row_key: str, digest: str) -> bool: ...
    def add_row(self, tx: Tx, table: str, row: LegacyRow, migration_id: int) -> None: ...
    def next_migration(self, tx: Tx) -> int: ...
    def add_migration(
        self,
        tx: Tx,
        migration_id: int,
        *,
        at: int,
        source_sha256: str,
        report: Mapping[str, Any],
        segment: Segment | None,
    ) -> None: ...
    def segments(self, tx: Tx) -> tuple[Segment, ...]: ...
    def find(
        self,
        tx: Tx,
        *,
        schema: str | None,
        since: int | None,
        until: int | None,
        before: tuple[int, int] | None,
        limit: int,
    ) -> tuple[LegacyReceipt, ...]: ...


class OwnKeys(Protocol):
    """The node's keys (services.identity_service.IdentityService)."""

    changing: asyncio.Lock

    @property
    def ring(self) -> KeyRing: ...
    def all_pubkeys(self) -> Collection[str]: ...
    def readable_secrets(self) -> dict[str, Secret]: ...
    def store_in(self, tx: Tx, ring: KeyRing, secrets: Mapping[str, Secret]) -> set[str]: ...
    async def reload(self) -> None: ...
