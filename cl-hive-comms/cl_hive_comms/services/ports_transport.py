"""What the messenger and the inbound service need from storage and from the Nostr adapter."""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hive_shared.crypto import Secret

from cl_hive_comms.domain.outbox import MessageKind, Outgoing, Queued, Seen


class OutboxStore(Protocol):
    """Durable outgoing messages (comms_outbox)."""

    def add(self, tx: sqlite3.Connection, message: Outgoing) -> bool: ...
    def find(self, tx: sqlite3.Connection, idempotency_key: str) -> tuple[Outgoing, str] | None: ...
    def queued_count(self, tx: sqlite3.Connection) -> int: ...
    def drop_oldest(self, tx: sqlite3.Connection, kinds: Sequence[MessageKind], now: int) -> bool: ...
    def due(self, tx: sqlite3.Connection, now: int, limit: int) -> list[Queued]: ...
    def next_due(self, tx: sqlite3.Connection) -> int | None: ...
    def mark_sent(self, tx: sqlite3.Connection, outbox_id: int, now: int) -> None: ...
    def mark_failed(
        self, tx: sqlite3.Connection, outbox_id: int, *, attempts: int, next_at: int, error: str
    ) -> None: ...
    def expire(self, tx: sqlite3.Connection, now: int) -> int: ...
    def prune(self, tx: sqlite3.Connection, before: int) -> None: ...
    def counts(self, tx: sqlite3.Connection) -> dict[str, int]: ...
    def last_sent(self, tx: sqlite3.Connection) -> int | None: ...


class InboxStore(Protocol):
    """Ids of received messages (comms_inbox)."""

    def remember(self, tx: sqlite3.Connection, rows: Sequence[Seen]) -> None: ...
    def recent_ids(self, tx: sqlite3.Connection, since: int, limit: int) -> list[str]: ...
    def prune_seen(self, tx: sqlite3.Connection, before: int) -> None: ...


@dataclass(frozen=True)
class Delivery:
    """What the relays said: who took the message, and why the others did not."""

    accepted: tuple[str, ...]
    refused: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """One relay that took it is enough (docs/protocol/02 §6.2)."""
        return bool(self.accepted)

    def why(self) -> str:
        """One line about the failure."""
        return "; ".join(f"{url}: {reason}" for url, reason in self.refused.items()) or "no relay to send to"


class DirectMessages(Protocol):
    """Wraps, chunks and publishes one message. Raises ValueError when it can never be sent."""

    async def send(self, secret: Secret, message: Outgoing, relays: Sequence[str]) -> Delivery: ...


class Routes(Protocol):
    """Where a peer reads its messages."""

    async def relays_for(self, message: Outgoing, attempts: int) -> list[str]: ...
