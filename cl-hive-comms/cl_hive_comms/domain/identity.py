"""The node's Nostr identity: derivation from the node seed and the record of its keys.

docs/protocol/08-client-and-plugins.md §6 "Identity": scalar = HKDF-SHA256(`makesecret
string=hive-comms-nostr-v1`, info = generation as u32 big endian) mod n; 0 means the next generation.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from hive_shared.canonical import decode_object, encode
from hive_shared.crypto import Secret, hkdf_sha256

SEED_STRING = "hive-comms-nostr-v1"
READABLE_S = 30 * 86_400
"""How long a replaced key still opens messages: 30 days."""

_CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


class KeyRecord(msgspec.Struct, frozen=True):
    """One key of this node: x-only public key, where it came from, and until when it is readable."""

    pubkey: str
    origin: str
    since: int
    readable_until: int | None = None

    def readable(self, now: int) -> bool:
        """Whether messages to this key are still opened."""
        return self.readable_until is None or now < self.readable_until


class KeyRing(msgspec.Struct, frozen=True):
    """The current key, the replaced ones (newest first), and the generation a rotation derives next."""

    current: KeyRecord
    old: tuple[KeyRecord, ...]
    next_generation: int

    def replaced(self, successor: KeyRecord, now: int, next_generation: int) -> "KeyRing":
        """The ring after `successor` took over. Public keys stay for good: they verify old receipts."""
        retired = KeyRecord(self.current.pubkey, self.current.origin, self.current.since, now + READABLE_S)
        kept = tuple(key for key in self.old if key.pubkey != successor.pubkey)
        return KeyRing(successor, (retired, *kept), next_generation)

    def joined(self, other: "KeyRing", now: int, *, take_current: bool) -> "KeyRing":
        """This ring with the keys of a restored one. With `take_current` the other's current key becomes
        ours; else it opens messages for 30 days more. No public key is ever lost."""
        if other.current.pubkey == self.current.pubkey:
            taken = self
        elif take_current:
            taken = self.replaced(other.current, now, self.next_generation)
        else:
            late = KeyRecord(
                other.current.pubkey, other.current.origin, other.current.since, now + READABLE_S
            )
            known = {key.pubkey for key in self.old}
            old = self.old if late.pubkey in known else (late, *self.old)
            taken = KeyRing(self.current, old, self.next_generation)
        known = {taken.current.pubkey, *(key.pubkey for key in taken.old)}
        more = tuple(key for key in other.old if key.pubkey not in known)
        return KeyRing(taken.current, (*taken.old, *more), max(self.next_generation, other.next_generation))

    def knows(self, other: "KeyRing") -> bool:
        """Whether every public key of another ring is in this one."""
        mine = {self.current.pubkey, *(key.pubkey for key in self.old)}
        return mine.issuperset((other.current.pubkey, *(key.pubkey for key in other.old)))

    def with_secret(self, now: int) -> tuple[KeyRecord, ...]:
        """Keys whose private half is kept: the current one and those that still open messages."""
        return (self.current, *(key for key in self.old if key.readable(now)))

    def to_bytes(self) -> bytes:
        """The stored form: canonical JSON."""
        return encode(
            {
                "v": 1,
                "current": _record_doc(self.current),
                "old": [_record_doc(key) for key in self.old],
                "next_generation": self.next_generation,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "KeyRing":
        """Reads the stored form; raises ValueError, KeyError or TypeError when it is not ours."""
        doc: Mapping[str, Any] = decode_object(data)
        return cls(
            _record(doc["current"]),
            tuple(_record(item) for item in doc["old"]),
            int(doc["next_generation"]),
        )


def derive(seed: bytes, generation: int) -> tuple[Secret, int]:
    """The first usable key at or after `generation`, and the generation it has."""
    while True:
        digest = hkdf_sha256(seed, info=generation.to_bytes(4, "big"))
        scalar = int.from_bytes(digest, "big") % _CURVE_ORDER
        if scalar:
            return Secret(scalar.to_bytes(32, "big")), generation
        generation += 1


def usable(key: bytes) -> bool:
    """Whether 32 bytes are a private key of the curve."""
    return len(key) == 32 and 0 < int.from_bytes(key, "big") < _CURVE_ORDER


def _record_doc(key: KeyRecord) -> dict[str, Any]:
    return {
        "pubkey": key.pubkey,
        "origin": key.origin,
        "since": key.since,
        "readable_until": key.readable_until,
    }


def _record(doc: Mapping[str, Any]) -> KeyRecord:
    return KeyRecord(doc["pubkey"], doc["origin"], doc["since"], doc["readable_until"])
