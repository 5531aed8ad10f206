"""What the messenger and the inbound service need from storage and from the Nostr adapter."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec
from hive_shared.crypto import Secret
from hive_shared.store import Tx

from cl_hive_comms.domain.outbox import Kept, MessageKind, Outgoing, Queued, Seen


class OutboxStore(Protocol):
    """Durable outgoing messages (comms_outbox)."""

    def add(self, tx: Tx, message: Outgoing) -> bool: ...
    def find(self, tx: Tx, idempotency_key: str) -> tuple[Outgoing, str] | None: ...
    def queued_count(self, tx: Tx) -> int: ...
    def queued_for(self, tx: Tx, recipient: str) -> int: ...
    def drop_oldest(
        self, tx: Tx, kinds: Sequence[MessageKind], now: int, recipient: str | None = None
    ) -> bool: ...
    def due(
        self, tx: Tx, now: int, limit: int, *, each: int = 1_000, but: Collection[str] = ()
    ) -> list[Queued]: ...
    def next_due(self, tx: Tx) -> int | None: ...
    def retry_now(self, tx: Tx, now: int) -> int: ...
    def retry_over(self, tx: Tx, transport: str, now: int) -> int: ...
    def mark_sent(self, tx: Tx, outbox_id: int, now: int) -> None: ...
    def mark_failed(self, tx: Tx, outbox_id: int, *, attempts: int, next_at: int, error: str) -> None: ...
    def expire(self, tx: Tx, now: int) -> int: ...
    def prune(self, tx: Tx, before: int) -> None: ...
    def counts(self, tx: Tx) -> dict[str, int]: ...
    def last_sent(self, tx: Tx) -> int | None: ...
    def waiting(self, tx: Tx) -> dict[str, int]: ...


class InboxStore(Protocol):
    """Received messages: ids of handled ones, texts of those that wait (comms_inbox)."""

    def keep(self, tx: Tx, row: Kept) -> bool: ...
    def kept(self, tx: Tx, limit: int) -> list[Kept]: ...
    def settle(self, tx: Tx, sender_key: str, msg_id: str, schema: str, state: str) -> None: ...

    def remember(self, tx: Tx, rows: Sequence[Seen]) -> None: ...
    def recent_ids(self, tx: Tx, since: int, limit: int) -> list[str]: ...
    def prune_seen(self, tx: Tx, before: int) -> None: ...


class Delivery(msgspec.Struct, frozen=True):
    """What the relays said: who took the message, and why the others did not.

    Of a registered transport `way` is the name; `for_good`: it will not take this message later either.
    """

    accepted: tuple[str, ...]
    refused: Mapping[str, str]
    way: str = "nostr_dm"
    for_good: bool = False

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


class PartMessages(DirectMessages, Protocol):
    """Publishes single parts of a message that was sent before, the same bytes as then. Raises ValueError
    when it has no such parts."""

    async def send_parts(
        self, secret: Secret, message: Outgoing, relays: Sequence[str], indexes: Collection[int]
    ) -> Delivery: ...


class Routes(Protocol):
    """Where a peer reads its messages."""

    async def relays_for(self, message: Outgoing, attempts: int) -> list[str]: ...


class FurtherWays(Protocol):
    """What goes out otherwise than as a direct message, and what a push takes when relays are down."""

    def takes(self, message: Outgoing) -> bool:
        """Whether this message is not for the relays, or is an event."""
        ...

    async def send(self, message: Outgoing) -> Delivery:
        """Send a message that `takes` is true for."""
        ...

    async def instead(self, message: Outgoing, failed: Delivery) -> Delivery:
        """After the relays failed: the answer of the next transport, or why none took it."""
        ...
