"""What can be wrong with something a stranger sent over Nostr: one small exception tree.

Each carries a `reason`, a stable slug for counters and tests, and a sentence. They are not RPC errors:
nothing here is answered to the sender, it is counted and dropped (Protocol 04 §5.2, §6).

    NostrInvalid
    ├── FrameInvalid    JSON text breaks a rule of strict decoding
    ├── EventInvalid    an event's fields have wrong types or sizes
    ├── Nip44Error      an encrypted payload cannot be opened, or a text cannot be encrypted
    ├── WrapInvalid     a gift wrap, its seal or its rumor fails a check
    └── ChunkInvalid    a part of a long message contradicts the rules or the other parts
"""

from __future__ import annotations


class NostrInvalid(ValueError):
    """Root: `reason` is a slug, `detail` a sentence without secrets."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class FrameInvalid(NostrInvalid):
    """JSON text that breaks strict decoding: malformed, too_large, too_deep, duplicate_key, surrogate."""


class EventInvalid(NostrInvalid):
    """An event with wrong field types or sizes: field, too_large, surrogate, id_mismatch, bad_signature."""


class Nip44Error(NostrInvalid):
    """NIP-44: unsupported_encryption, length, base64, mac, padding, encoding, key."""


class WrapInvalid(NostrInvalid):
    """Reasons: kind, recipient, id, signature, encryption, seal, seal_signature, rumor, author, rumor_id."""


class ChunkInvalid(NostrInvalid):
    """A chunk that is malformed, contradicts earlier parts, or whose whole has another hash."""
