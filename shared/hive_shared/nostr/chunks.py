"""Messages larger than one gift wrap: `hive:chunk/v1` parts and their reassembly (Protocol 04 §6 "Larger").

Who may send parts at all (peers with a credential, contract, open thread, membership or ticket) is the
caller's decision; this module bounds what an allowed peer can make us hold.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeGuard

import msgspec

from hive_shared.nostr.event import to_text
from hive_shared.nostr.reasons import ChunkInvalid

CHUNK_SCHEMA: Final = "hive:chunk/v1"
RESEND_SCHEMA: Final = "hive:chunk-resend/v1"
CHUNK_BYTES: Final = 16_384
MAX_CHUNKS: Final = 64
MAX_MESSAGE_BYTES: Final = CHUNK_BYTES * MAX_CHUNKS
MAX_PEER_BYTES: Final = 4 * MAX_MESSAGE_BYTES
MAX_TOTAL_BYTES: Final = 8 * MAX_PEER_BYTES
MAX_PEER_MESSAGES: Final = 128
"""Unfinished messages of one peer: each costs memory beside its bytes, and a request for what is missing."""
MAX_TOTAL_MESSAGES: Final = 8 * MAX_PEER_MESSAGES
KEEP_SECONDS: Final = 600
RESEND_AFTER_SECONDS: Final = 20
"""Longer than the 15 s that one part may take while a relay hangs, so that a slow sender is not asked."""

ID_LENGTH: Final = 16

_ID = re.compile(r"[0-9a-f]{16}\Z")
_HASH = re.compile(r"[0-9a-f]{64}\Z")
_FIELDS = frozenset({"schema", "id", "i", "n", "sha256", "data"})


def chunk_id_of(text: str) -> str:
    """The id of a text's parts: the start of its hash."""
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def is_chunk_id(value: object) -> TypeGuard[str]:
    """Whether something is an id of parts."""
    return type(value) is str and _ID.match(value) is not None


def split(text: str) -> list[str]:
    """Cut a text into chunk contents; the id is taken from its hash, so sending again yields the same parts.

    Raises ChunkInvalid(`too_large`) above 1 MiB.
    """
    data = text.encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise ChunkInvalid("too_large", f"{len(data)} bytes; a message has at most {MAX_MESSAGE_BYTES}")
    digest = hashlib.sha256(data).hexdigest()
    parts = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
    return [
        to_text(
            {
                "schema": CHUNK_SCHEMA,
                "id": digest[:ID_LENGTH],
                "i": index,
                "n": len(parts),
                "sha256": digest,
                "data": base64.urlsafe_b64encode(part).rstrip(b"=").decode("ascii"),
            }
        )
        for index, part in enumerate(parts)
    ]


class Completed(msgspec.Struct, frozen=True):
    """A whole message: its sender (64 hex), text, and the hash that was checked."""

    sender: str
    text: str
    sha256: str


class Missing(msgspec.Struct, frozen=True):
    """Parts of one message that have not come; asked for once with `hive:chunk-resend/v1`."""

    sender: str
    chunk_id: str
    indexes: tuple[int, ...]

    def content(self) -> str:
        """Return the resend request as message content."""
        return to_text({"schema": RESEND_SCHEMA, "id": self.chunk_id, "missing": list(self.indexes)})


@dataclass(slots=True)
class _Assembly:
    count: int
    sha256: str
    started: int
    touched: int
    parts: dict[int, bytes] = field(default_factory=dict)
    asked: bool = False
    size: int = 0


def _nobody(_sender: str, _chunk_id: str) -> None:
    return None


class ChunkBuffer:
    """Parts of unfinished messages, bounded per peer (4 MiB, 128 messages), in total (32 MiB, 1,024 messages)
    and in time (10 minutes)."""

    def __init__(
        self,
        *,
        max_total: int = MAX_TOTAL_BYTES,
        forgotten: Callable[[str, str], None] = _nobody,
    ) -> None:
        """`forgotten(sender, id)` is told of each message that was dropped before it was whole."""
        self._max_total, self._forgotten = max_total, forgotten
        self._open: OrderedDict[tuple[str, str], _Assembly] = OrderedDict()
        self._peer_bytes: dict[str, int] = {}
        self.total_bytes = 0

    def add(self, sender: str, content: Mapping[str, object], now: int) -> Completed | None:
        """Take one part; returns the message when it is whole, None while parts are missing.

        A part that is already there is ignored. Raises ChunkInvalid: `malformed`, `contradiction` (another n
        or hash under the same id), `too_large` (over the peer's or the total bound), `hash` (the whole is
        dropped).
        """
        self.expire(now)
        chunk_id, index, count, digest, data = _parse(content)
        key = (sender, chunk_id)
        assembly = self._open.get(key)
        if assembly is not None and (assembly.count, assembly.sha256) != (count, digest):
            raise ChunkInvalid(
                "contradiction", f"chunk {chunk_id} first had {assembly.count} parts or another hash"
            )
        if assembly is not None and index in assembly.parts:
            return None
        if self._peer_bytes.get(sender, 0) + len(data) > MAX_PEER_BYTES:
            raise ChunkInvalid(
                "too_large", f"more than {MAX_PEER_BYTES} bytes of unfinished messages of one peer"
            )
        if self.total_bytes + len(data) > self._max_total:
            raise ChunkInvalid(
                "too_large", f"more than {self._max_total} bytes of unfinished messages in total"
            )
        if assembly is None:
            self._check_open(sender)
            assembly = self._open[key] = _Assembly(count, digest, now, now)
        assembly.parts[index] = data
        assembly.touched = now
        self._account(sender, assembly, len(data))
        return self._finish(key, assembly) if len(assembly.parts) == count else None

    def missing(self, now: int) -> list[Missing]:
        """Return, once per message, the parts to ask for when nothing new has come for a while."""
        self.expire(now)
        found = []
        for (sender, chunk_id), assembly in self._open.items():
            if not assembly.asked and now - assembly.touched >= RESEND_AFTER_SECONDS:
                assembly.asked = True
                absent = tuple(i for i in range(assembly.count) if i not in assembly.parts)
                found.append(Missing(sender, chunk_id, absent))
        return found

    def not_asked(self, missing: Missing, now: int) -> None:
        """The request did not get out: `missing` gives it again after another while."""
        assembly = self._open.get((missing.sender, missing.chunk_id))
        if assembly is not None:
            assembly.asked, assembly.touched = False, now

    def next_look(self, now: int) -> int | None:
        """Seconds until `missing` has something to do, at least 1; None while no message is unfinished."""
        due = [
            assembly.started + KEEP_SECONDS + 1 if assembly.asked else assembly.touched + RESEND_AFTER_SECONDS
            for assembly in self._open.values()
        ]
        # After a step back of the clock the times lie ahead; nothing is kept longer for it.
        return min(KEEP_SECONDS, max(1, min(due) - now)) if due else None

    def expire(self, now: int) -> None:
        """Drop messages that were begun more than ten minutes ago."""
        while self._open:
            key, assembly = next(iter(self._open.items()))
            if now - assembly.started <= KEEP_SECONDS:
                return
            self._drop(key, assembly)
            self._forgotten(*key)

    def _check_open(self, sender: str) -> None:
        of_peer = sum(who == sender for who, _ in self._open)
        if of_peer >= MAX_PEER_MESSAGES or len(self._open) >= MAX_TOTAL_MESSAGES:
            raise ChunkInvalid(
                "too_large",
                f"over {MAX_PEER_MESSAGES} unfinished messages of one peer or {MAX_TOTAL_MESSAGES} in all",
            )

    def _account(self, sender: str, assembly: _Assembly, size: int) -> None:
        assembly.size += size
        self.total_bytes += size
        self._peer_bytes[sender] = self._peer_bytes.get(sender, 0) + size

    def _drop(self, key: tuple[str, str], assembly: _Assembly) -> None:
        del self._open[key]
        self.total_bytes -= assembly.size
        left = self._peer_bytes[key[0]] - assembly.size
        if left:
            self._peer_bytes[key[0]] = left
        else:
            del self._peer_bytes[key[0]]

    def _finish(self, key: tuple[str, str], assembly: _Assembly) -> Completed:
        self._drop(key, assembly)
        whole = b"".join(assembly.parts[i] for i in range(assembly.count))
        if hashlib.sha256(whole).hexdigest() != assembly.sha256:
            self._forgotten(*key)
            raise ChunkInvalid("hash", "the parts do not add up to the announced hash")
        try:
            return Completed(key[0], whole.decode(), assembly.sha256)
        except UnicodeDecodeError:
            self._forgotten(*key)
            raise ChunkInvalid("malformed", "the message is not UTF-8") from None


def _parse(content: Mapping[str, object]) -> tuple[str, int, int, str, bytes]:
    if content.keys() != _FIELDS or content["schema"] != CHUNK_SCHEMA:
        raise ChunkInvalid("malformed", f"a chunk has exactly the fields {', '.join(sorted(_FIELDS))}")
    chunk_id, index, count = content["id"], content["i"], content["n"]
    digest, data = content["sha256"], content["data"]
    if not is_chunk_id(chunk_id):
        raise ChunkInvalid("malformed", "id must be 16 hex characters")
    if type(digest) is not str or not _HASH.match(digest):
        raise ChunkInvalid("malformed", "sha256 must be 64 hex characters")
    if type(count) is not int or not 1 <= count <= MAX_CHUNKS:
        raise ChunkInvalid("malformed", f"n must be 1 to {MAX_CHUNKS}")
    if type(index) is not int or not 0 <= index < count:
        raise ChunkInvalid("malformed", "i must be 0 to n-1")
    if type(data) is not str or len(data) > (CHUNK_BYTES * 4 + 2) // 3:
        raise ChunkInvalid("malformed", f"data must be base64url of at most {CHUNK_BYTES} bytes")
    try:
        raw = base64.b64decode(data + "=" * (-len(data) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ChunkInvalid("malformed", "data is not base64url") from None
    # An empty part would let n=64 cost nothing against the byte bounds and still never complete.
    if not raw:
        raise ChunkInvalid("malformed", "data is empty")
    return chunk_id, index, count, digest, raw
