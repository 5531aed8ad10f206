"""Requests for lost parts of long messages: reading them, and how often they are obeyed (Protocol 04 §6
"Larger").

The sender of a message answers for the parts that were lost, to the peer it was sent to. What it sends again
is bounded here: whoever was sent a long message could otherwise have it sent over and over.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from hive_shared.nostr.chunks import KEEP_SECONDS, MAX_CHUNKS, RESEND_SCHEMA, is_chunk_id
from hive_shared.nostr.frames import decode_json
from hive_shared.nostr.reasons import ChunkInvalid, FrameInvalid

MAX_REQUEST_BYTES: Final = 512
"""A request for 63 parts takes 290 bytes."""
PARTS_PER_PEER: Final = MAX_CHUNKS
"""Parts sent again to one peer in ten minutes: the longest message once."""
PARTS_IN_ALL: Final = 8 * MAX_CHUNKS
"""Parts sent again to everybody in ten minutes."""
_MAX_REMEMBERED: Final = 1_000
_FIELDS = frozenset({"schema", "id", "missing"})


class ResendRequest(msgspec.Struct, frozen=True):
    """Which parts of which message a peer has not got."""

    chunk_id: str
    missing: tuple[int, ...]


def parse_resend(text: str) -> ResendRequest:
    """Read a request strictly. Raises ChunkInvalid(`malformed`, `too_large`).

    `missing` names 1 to 63 parts: of a message of which nothing came nobody knows.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_REQUEST_BYTES:
        raise ChunkInvalid("too_large", f"a resend request has at most {MAX_REQUEST_BYTES} bytes")
    try:
        content = decode_json(text)
    except FrameInvalid as error:
        raise ChunkInvalid("malformed", str(error)) from None
    if not isinstance(content, Mapping) or content.keys() != _FIELDS or content["schema"] != RESEND_SCHEMA:
        raise ChunkInvalid(
            "malformed", f"a resend request has exactly the fields {', '.join(sorted(_FIELDS))}"
        )
    chunk_id, missing = content["id"], content["missing"]
    if not is_chunk_id(chunk_id):
        raise ChunkInvalid("malformed", "id must be 16 hex characters")
    if not isinstance(missing, list) or not 1 <= len(missing) < MAX_CHUNKS:
        raise ChunkInvalid("malformed", f"missing must be a list of 1 to {MAX_CHUNKS - 1} numbers")
    if not all(type(index) is int and 0 <= index < MAX_CHUNKS for index in missing):
        raise ChunkInvalid("malformed", f"missing must hold whole numbers from 0 to {MAX_CHUNKS - 1}")
    if len(set(missing)) != len(missing):
        raise ChunkInvalid("malformed", "missing names a part twice")
    return ResendRequest(chunk_id, tuple(missing))


class ResentParts:
    """What was sent again: each part once per peer and message, a bounded number of them in ten minutes."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._sent: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._recent: deque[tuple[int, str, int]] = deque()

    def claim(self, peer: str, message: str, indexes: Iterable[int]) -> tuple[int, ...]:
        """Those of the parts that may go out now, noted as sent; empty when none may.

        `message` names the message as it was sent: one that is sent anew may lose parts anew. Over the bounds
        nothing goes, rather than a part of what is missing: the message would not become whole.
        """
        key = (peer, message)
        before = self._sent.get(key, 0)
        fresh = tuple(sorted({index for index in indexes if not before >> index & 1}))
        if not fresh or not self._has_room(peer, len(fresh)):
            return ()
        self._recent.append((self._now(), peer, len(fresh)))
        self._sent[key] = before | sum(1 << index for index in fresh)
        self._sent.move_to_end(key)
        if len(self._sent) > _MAX_REMEMBERED:
            self._sent.popitem(last=False)
        return fresh

    def _has_room(self, peer: str, wanted: int) -> bool:
        now = self._now()
        # A clock that was set back must not refuse everybody for longer than the window.
        while self._recent and not now - KEEP_SECONDS < self._recent[0][0] <= now:
            self._recent.popleft()
        total = sum(count for _, _, count in self._recent)
        of_peer = sum(count for _, who, count in self._recent if who == peer)
        return of_peer + wanted <= PARTS_PER_PEER and total + wanted <= PARTS_IN_ALL
