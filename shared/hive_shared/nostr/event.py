"""Nostr events: strict reading, building, id and signature checks (NIP-01; Protocol 04 §4.2, §5.2).

A received id is only a claim: it is recomputed before the signature is looked at, so an event that passes
`verify` is exactly what the holder of `pubkey` signed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from hive_shared.crypto import Secret, public_key, schnorr_sign, xonly_pubkey
from hive_shared.nostr.reasons import EventInvalid

MAX_EVENT_BYTES: Final = 65_536
MAX_TAGS: Final = 500
MAX_TAG_VALUES: Final = 32
MAX_TAG_VALUE_BYTES: Final = 8_192
MAX_CREATED_AT: Final = 2**53 - 1

Tags = tuple[tuple[str, ...], ...]

_HEX64 = re.compile(r"[0-9a-f]{64}\Z").match
_HEX128 = re.compile(r"[0-9a-f]{128}\Z").match
# Escapes as all deployed clients do: short forms and \u00XX for control characters, everything else verbatim.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)


class Event(msgspec.Struct, frozen=True):
    """One event as it travels; hex fields lower case, `created_at` in Unix seconds."""

    id: str
    pubkey: str
    created_at: int
    kind: int
    tags: Tags
    content: str
    sig: str

    def to_json(self) -> dict[str, Any]:
        """Return the event as the JSON object of NIP-01."""
        return {
            "id": self.id,
            "pubkey": self.pubkey,
            "created_at": self.created_at,
            "kind": self.kind,
            "tags": [list(tag) for tag in self.tags],
            "content": self.content,
            "sig": self.sig,
        }

    def tag_values(self, name: str) -> list[str]:
        """Return the first value of every tag of this name that has one, in order."""
        return [tag[1] for tag in self.tags if tag[0] == name and len(tag) > 1]

    @property
    def expiration(self) -> int | None:
        """The NIP-40 expiration in Unix seconds, or None if absent or not a plain number."""
        for value in self.tag_values("expiration"):
            return int(value) if value.isascii() and value.isdigit() and len(value) <= 16 else None
        return None


# What an event's JSON has around the values that the id preimage also holds.
_PREIMAGE_FRAME = len('[0,"",,,,]')
_EVENT_FRAME = len('{"id":"","pubkey":"","created_at":,"kind":,"tags":,"content":,"sig":""}') + 64 + 128


def to_text(value: object) -> str:
    """Serialise compactly in the form event ids are computed over.

    Raises ValueError on what JSON cannot hold.
    """
    return _ENCODER.encode(value)


def _preimage(pubkey: str, created_at: int, kind: int, tags: object, content: str) -> bytes:
    try:
        return _ENCODER.encode([0, pubkey, created_at, kind, tags, content]).encode()
    except UnicodeEncodeError:
        raise EventInvalid("surrogate", "a string holds half of a surrogate pair") from None


def event_id(pubkey: str, created_at: int, kind: int, tags: Sequence[Sequence[str]], content: str) -> str:
    """Return the NIP-01 id (64 hex) of these fields; raises EventInvalid on text that UTF-8 cannot hold."""
    return hashlib.sha256(_preimage(pubkey, created_at, kind, tags, content)).hexdigest()


def build(secret: Secret, kind: int, tags: Sequence[Sequence[str]], content: str, created_at: int) -> Event:
    """Build and sign an event; raises EventInvalid if the result breaks the limits every reader applies."""
    pubkey = xonly_pubkey(secret)
    frozen = tuple(tuple(tag) for tag in tags)
    digest = event_id(pubkey, created_at, kind, frozen, content)
    signed = Event(
        digest, pubkey, created_at, kind, frozen, content, schnorr_sign(secret, bytes.fromhex(digest))
    )
    return parse_event(signed.to_json())


def parse_event(obj: object) -> Event:
    """Read an event object of a stranger: exact types and sizes, nothing coerced.

    Unknown fields are ignored. Raises EventInvalid (`field`, `too_large`, `surrogate`). Says nothing about
    the id and the signature; `verify` does.
    """
    if type(obj) is not dict:
        raise EventInvalid("field", "an event is a JSON object")
    get = obj.get
    identity, pubkey, sig = get("id"), get("pubkey"), get("sig")
    if type(identity) is not str or not _HEX64(identity):
        raise EventInvalid("field", "id must be 64 lower-case hex characters")
    if type(pubkey) is not str or not _HEX64(pubkey):
        raise EventInvalid("field", "pubkey must be 64 lower-case hex characters")
    if type(sig) is not str or not _HEX128(sig):
        raise EventInvalid("field", "sig must be 128 lower-case hex characters")
    created_at, kind, tags, content = body_fields(obj)
    return Event(identity, pubkey, created_at, kind, tags, content, sig)


def body_fields(obj: Mapping[str, object]) -> tuple[int, int, Tags, str]:
    """Check created_at, kind, tags and content of an event or rumor; raises EventInvalid."""
    created_at, kind, content = obj.get("created_at"), obj.get("kind"), obj.get("content")
    # `type() is int` keeps out bool, which is a subclass of int.
    if type(created_at) is not int or not 0 <= created_at <= MAX_CREATED_AT:
        raise EventInvalid("field", "created_at must be a whole number of Unix seconds")
    if type(kind) is not int or not 0 <= kind <= 65_535:
        raise EventInvalid("field", "kind must be an integer from 0 to 65535")
    if type(content) is not str:
        raise EventInvalid("field", "content must be a string")
    if len(content) > MAX_EVENT_BYTES:
        raise EventInvalid("too_large", f"content has more than {MAX_EVENT_BYTES} bytes")
    return created_at, kind, _parse_tags(obj.get("tags")), content


def _parse_tags(tags: object) -> Tags:
    if type(tags) is not list:
        raise EventInvalid("field", "tags must be a list")
    if len(tags) > MAX_TAGS:
        raise EventInvalid("too_large", f"{len(tags)} tags, at most {MAX_TAGS} are read")
    for tag in tags:
        if type(tag) is not list or not tag:
            raise EventInvalid("field", "every tag must be a non-empty list")
        if len(tag) > MAX_TAG_VALUES:
            raise EventInvalid(
                "too_large", f"a tag with {len(tag)} values, at most {MAX_TAG_VALUES} are read"
            )
        for value in tag:
            if type(value) is not str:
                raise EventInvalid("field", "every tag value must be a string")
            if len(value) > 2_048 and _utf8_size(value) > MAX_TAG_VALUE_BYTES:
                raise EventInvalid("too_large", f"a tag value has more than {MAX_TAG_VALUE_BYTES} bytes")
    return tuple(map(tuple, tags))


def _utf8_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def check(event: Event) -> str | None:
    """Return None for an authentic event, else `too_large`, `surrogate`, `id_mismatch` or `bad_signature`."""
    try:
        preimage = _preimage(event.pubkey, event.created_at, event.kind, event.tags, event.content)
    except EventInvalid as error:
        return error.reason
    if len(preimage) - _PREIMAGE_FRAME + _EVENT_FRAME > MAX_EVENT_BYTES:
        return "too_large"
    digest = hashlib.sha256(preimage)
    if digest.hexdigest() != event.id:
        return "id_mismatch"
    # libsecp256k1 reads 32 and 64 bytes whatever it is given, so lengths are checked before it sees anything.
    if len(event.pubkey) != 64 or len(event.sig) != 128:
        return "bad_signature"
    try:
        key = public_key(event.pubkey)
        return None if key.verify(bytes.fromhex(event.sig), digest.digest()) else "bad_signature"
    except ValueError:
        # The claimed author is not a point of the curve, so nobody can have signed as it.
        return "bad_signature"


def verify(event: Event) -> bool:
    """True if the id is the hash of the fields and the author's BIP-340 signature covers it; never raises."""
    return check(event) is None
