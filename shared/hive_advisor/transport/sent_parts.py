"""Long messages this process sent in parts, kept for the peer that asks for lost ones
(docs/protocol/04-marketplace-and-nostr.md §6 "Larger").

In memory alone: a later process sends what is still unanswered as a whole anyway (11 §5.2).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec
from hive_shared.nostr.chunk_resend import ResentParts, parse_resend
from hive_shared.nostr.chunks import KEEP_SECONDS
from hive_shared.nostr.giftwrap import long_id, split_chunks

from hive_advisor.services.ports import COMMANDS

MAX_BYTES: Final = 4_194_304
"""Of all messages kept; the oldest go first."""


class SentMessage(msgspec.Struct, frozen=True):
    """One message as it went out; times are Unix seconds."""

    recipient: str
    content: str
    relays: tuple[str, ...]
    sent_at: int
    expires_at: int
    topic: str = COMMANDS


class Again(msgspec.Struct, frozen=True):
    """Parts to send once more."""

    message: SentMessage
    parts: tuple[str, ...]


class SentParts:
    """What can still be sent again, and to whom."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._sent: OrderedDict[tuple[str, str], SentMessage] = OrderedDict()
        self._resent = ResentParts(now)
        self._bytes = 0

    def keep(self, message: SentMessage) -> None:
        """Remember a message if it went out in parts."""
        chunk_id = long_id(message.content)
        if chunk_id is None:
            return
        self._drop((message.recipient, chunk_id))
        self._sent[message.recipient, chunk_id] = message
        self._bytes += len(message.content.encode())
        while self._bytes > MAX_BYTES:
            self._drop(next(iter(self._sent)))

    def asked(self, peer: str, text: str, asked_at: int) -> Again | None:
        """The parts to send to a peer for its request; None when there are none for it.

        Raises ChunkInvalid for a request that is none.
        """
        request = parse_resend(text)
        now = self._now()
        found = self._sent.get((peer, request.chunk_id))
        if found is None or found.expires_at <= now or asked_at < now - KEEP_SECONDS:
            return None
        parts = split_chunks(found.content)
        if max(request.missing) >= len(parts):
            return None
        # A message sent anew, under another time, may lose parts anew.
        claimed = self._resent.claim(peer, f"{request.chunk_id}:{found.sent_at}", request.missing)
        return Again(found, tuple(parts[index] for index in claimed)) if claimed else None

    def _drop(self, key: tuple[str, str]) -> None:
        found = self._sent.pop(key, None)
        if found is not None:
            self._bytes -= len(found.content.encode())
