"""Outgoing and incoming direct messages as rows, and when a failed delivery is tried again.

docs/protocol/04-marketplace-and-nostr.md §6 ("Send to"), docs/protocol/02-fleet-management.md §6.2.
"""

from enum import StrEnum

import msgspec
from hive_shared.nostr.giftwrap import long_id

MAX_QUEUED = 2_000
"""Messages waiting to be sent: with relays down for days the file must not grow without bound."""
KEPT_S = 7 * 86_400
"""Finished rows and seen ids are kept this long (docs/protocol/02 §11)."""
_LONGEST_WAIT_S = 300


class MessageKind(StrEnum):
    """What an outgoing message is; decides what goes first when the queue is full."""

    RESPONSE = "response"
    PUSH = "push"
    MESSAGE = "message"
    EVENT = "event"


class Outgoing(msgspec.Struct, frozen=True):
    """A message to store in the outbox. `sender` and `recipient` are x-only keys in hex.

    `transport` names the registered transport it has to take; "" is a direct message. Of an event to
    publish, `content` is the signed event and `recipient` its id.
    """

    idempotency_key: str
    sender: str
    recipient: str
    kind: MessageKind
    content: str
    created_at: int
    expires_at: int
    reply_relays: tuple[str, ...] = ()
    reply_to: str | None = None
    transport: str = ""

    @property
    def chunk_id(self) -> str | None:
        """The id of its parts when it is sent in parts, else None."""
        return None if self.kind is MessageKind.EVENT else long_id(self.content)


class Queued(msgspec.Struct, frozen=True):
    """A stored message that is due."""

    outbox_id: int
    message: Outgoing
    attempts: int


class Seen(msgspec.Struct, frozen=True):
    """A message that was handled, remembered so that a repeat is recognised."""

    sender_key: str
    msg_id: str
    wrap_id: str | None
    schema: str
    received_at: int


class Kept(msgspec.Struct, frozen=True):
    """A message that a transport handed in, kept until it is handled."""

    sender_key: str
    msg_id: str
    transport: str
    sender_did: str | None
    content: str
    received_at: int


def retry_delay(attempts: int) -> int:
    """Seconds to wait after the n-th failed attempt (n from 1): 2, 4, 8 .. 256, 300."""
    return min(_LONGEST_WAIT_S, 1 << min(attempts, 9))
