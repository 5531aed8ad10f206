"""What the identity and alert services need from the outside."""

import sqlite3
from collections.abc import Awaitable, Callable
from typing import Protocol

from cl_hive_comms.domain.alert import Alert, Level

Clock = Callable[[], int]
RandomBytes = Callable[[int], bytes]
MakeSecret = Callable[[str], Awaitable[bytes]]
"""CLN's `makesecret string=...`: 32 bytes that only this node can derive."""


class Log(Protocol):
    """One structured log line; fields never hold secrets."""

    def __call__(self, level: str, event: str, /, **fields: object) -> None: ...


class KeyStore(Protocol):
    """Sealed keys and relay cursors (nostr_state)."""

    def get(self, tx: sqlite3.Connection, key: str) -> bytes | None: ...
    def put(self, tx: sqlite3.Connection, key: str, value: bytes, now: int) -> None: ...
    def delete(self, tx: sqlite3.Connection, key: str) -> None: ...
    def with_prefix(self, tx: sqlite3.Connection, prefix: str) -> dict[str, bytes]: ...


class FactStore(Protocol):
    """Small facts that survive a restart (comms_state)."""

    def get(self, tx: sqlite3.Connection, key: str) -> str | None: ...
    def put(self, tx: sqlite3.Connection, key: str, value: str, now: int) -> None: ...
    def delete(self, tx: sqlite3.Connection, key: str) -> None: ...
    def with_prefix(self, tx: sqlite3.Connection, prefix: str) -> dict[str, str]: ...


class AlertStore(Protocol):
    """Alerts (comms_alerts)."""

    def count_repeat(self, tx: sqlite3.Connection, dedup_key: str, since: int, now: int) -> int | None: ...
    def raised_since(self, tx: sqlite3.Connection, level: Level, since: int) -> int: ...
    def add_alert(
        self, tx: sqlite3.Connection, level: Level, *, code: str, text: str, dedup_key: str, now: int
    ) -> int: ...
    def recent_alerts(self, tx: sqlite3.Connection, limit: int) -> list[Alert]: ...
