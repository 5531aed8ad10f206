"""What the identity and alert services need from the outside."""

from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from hive_shared.alerts import Level
from hive_shared.crypto import Secret
from hive_shared.store import Tx

from cl_hive_comms.domain.alert import Alert, Channel

Clock = Callable[[], int]
RandomBytes = Callable[[int], bytes]
MakeSecret = Callable[[str], Awaitable[bytes]]
"""CLN's `makesecret string=...`: 32 bytes that only this node can derive."""


class Log(Protocol):
    """One structured log line; fields never hold secrets."""

    def __call__(self, level: str, event: str, /, **fields: object) -> None: ...


class NodeKeys(Protocol):
    """The node's Nostr keys (services.identity_service)."""

    @property
    def pubkey(self) -> str:
        """The current x-only public key, 64 hex digits."""
        ...

    def secret(self) -> Secret:
        """The current private key."""
        ...

    def readable_secrets(self) -> dict[str, Secret]:
        """Every key that still opens messages, by public key."""
        ...


class KeyStore(Protocol):
    """Sealed keys and relay cursors (nostr_state)."""

    def get(self, tx: Tx, key: str) -> bytes | None: ...
    def put(self, tx: Tx, key: str, value: bytes, now: int) -> None: ...
    def delete(self, tx: Tx, key: str) -> None: ...
    def with_prefix(self, tx: Tx, prefix: str) -> dict[str, bytes]: ...


class FactStore(Protocol):
    """Small facts that survive a restart (comms_state)."""

    def get(self, tx: Tx, key: str) -> str | None: ...
    def put(self, tx: Tx, key: str, value: str, now: int) -> None: ...
    def delete(self, tx: Tx, key: str) -> None: ...
    def with_prefix(self, tx: Tx, prefix: str) -> dict[str, str]: ...


class NewAlerts(Protocol):
    """Where an alert is put (comms_alerts)."""

    def add_alert(
        self,
        tx: Tx,
        level: Level,
        *,
        code: str,
        text: str,
        dedup_key: str,
        now: int,
        channels: Collection[Channel] = (),
    ) -> int: ...


class AlertStore(NewAlerts, Protocol):
    """Alerts (comms_alerts)."""

    def count_repeat(self, tx: Tx, dedup_key: str, since: int, now: int) -> int | None: ...
    def untold(self, tx: Tx, dedup_key: str) -> tuple[int, int]: ...
    def raised_since(self, tx: Tx, level: Level, since: int) -> int: ...
    def recent_alerts(self, tx: Tx, limit: int) -> list[Alert]: ...
