"""Encrypted direct messages: rumor (14) in a seal (13) in a gift wrap (1059), Protocol 04 §6.

The wrap is signed by a one-time key and the seal by the sender, so a relay sees who receives but not who
sends. The rumor has no signature: it can be denied, which is why offers carry one of their own inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr import nip44
from hive_shared.nostr.chunks import ChunkBuffer, Completed, chunk_id_of, split
from hive_shared.nostr.event import Event, Tags, body_fields, build, check, event_id, parse_event, to_text
from hive_shared.nostr.frames import decode_json
from hive_shared.nostr.reasons import ChunkInvalid, EventInvalid, FrameInvalid, Nip44Error, WrapInvalid

__all__ = [
    "KIND_RUMOR",
    "KIND_SEAL",
    "KIND_WRAP",
    "MAX_RUMOR",
    "ChunkBuffer",
    "ChunkInvalid",
    "Completed",
    "Message",
    "WrapInvalid",
    "long_id",
    "rumor_size",
    "split_chunks",
    "unwrap",
    "wrap",
]

KIND_SEAL: Final = 13
KIND_RUMOR: Final = 14
KIND_WRAP: Final = 1059
MAX_RUMOR: Final = 28_670
"""Bytes of the serialised rumor; one padding step more and the wrap exceeds the 65,536 B of common relays."""
BACKDATE_SECONDS: Final = 172_800
# What a rumor needs beside its content: id, keys, time, a `p`, two topics and an `e` with some room.
_RUMOR_RESERVE: Final = 768


class Message(msgspec.Struct, frozen=True):
    """A received direct message whose sender is proven by the seal."""

    sender: str
    rumor_id: str
    content: str
    created_at: int
    tags: Tags
    wrap_id: str


def rumor_size(content: str, tags: Sequence[Sequence[str]] = ()) -> int:
    """Return an upper bound of the serialised bytes of a rumor with these tags (`p` is added by `wrap`)."""
    return len(to_text([content, [list(tag) for tag in tags]]).encode()) + 384


def split_chunks(text: str) -> list[str]:
    """Return the contents to send for a text: itself if one rumor holds it, else `hive:chunk/v1` parts.

    Raises ChunkInvalid(`too_large`) above 1 MiB; callers answer `transport_unavailable: message_too_large`.
    """
    return [text] if _fits(text) else split(text)


def long_id(text: str) -> str | None:
    """The id of the parts in which a text is sent; None for one that a single rumor holds."""
    return None if _fits(text) else chunk_id_of(text)


def _fits(text: str) -> bool:
    return len(to_text(text).encode()) + _RUMOR_RESERVE <= MAX_RUMOR


def wrap(
    sender_secret: Secret,
    recipient_hex: str,
    content: str,
    *,
    tags: Sequence[Sequence[str]],
    now: int,
    rng: Callable[[int], bytes],
    expiration: int | None,
    keys: nip44.ConversationKeys | None = None,
) -> tuple[Event, str]:
    """Build the gift wrap of one message; returns (kind 1059 event, rumor id).

    `tags` are the rumor's, without `p`, which is put first. `expiration` (Unix seconds, NIP-40) goes on the
    wrap as given. Seal and wrap are dated at random up to two days back, the rumor has the real time `now`.
    Raises WrapInvalid(`too_large`) if the rumor exceeds MAX_RUMOR (see `split_chunks`), Nip44Error on a bad
    key.
    """
    sender = xonly_pubkey(sender_secret)
    rumor_tags = [["p", recipient_hex], *[list(tag) for tag in tags]]
    rumor_id = event_id(sender, now, KIND_RUMOR, rumor_tags, content)
    rumor = to_text(
        {
            "id": rumor_id,
            "pubkey": sender,
            "created_at": now,
            "kind": KIND_RUMOR,
            "tags": rumor_tags,
            "content": content,
        }
    )
    size = len(rumor.encode())
    if size > MAX_RUMOR:
        raise WrapInvalid("too_large", f"the message takes {size} bytes, one gift wrap holds {MAX_RUMOR}")
    peer_key = (
        nip44.conversation_key(sender_secret, recipient_hex)
        if keys is None
        else keys.get(sender_secret, recipient_hex)
    )
    sealed = nip44.encrypt(peer_key, rumor, rng(32))
    seal = build(sender_secret, KIND_SEAL, [], sealed, _backdated(now, rng))
    once = _one_time_key(rng)
    packed = nip44.encrypt(nip44.conversation_key(once, recipient_hex), to_text(seal.to_json()), rng(32))
    wrap_tags = [["p", recipient_hex]]
    if expiration is not None:
        wrap_tags.append(["expiration", str(expiration)])
    return build(once, KIND_WRAP, wrap_tags, packed, _backdated(now, rng)), rumor_id


def unwrap(
    recipient_secret: Secret,
    event: Event,
    *,
    keys: nip44.ConversationKeys | None = None,
    verified: bool = False,
) -> Message:
    """Open a gift wrap addressed to us after every check of Protocol 04 §6 "Verify".

    `verified=True` skips the wrap's own id and signature when the relay pool has checked them already. Raises
    WrapInvalid; its reason says which layer failed: `kind`, `recipient`, `id`, `signature`, `encryption`,
    `seal`, `seal_signature`, `rumor`, `author`, `rumor_id`.
    """
    if event.kind != KIND_WRAP:
        raise WrapInvalid("kind", f"a gift wrap has kind 1059, not {event.kind}")
    if xonly_pubkey(recipient_secret) not in event.tag_values("p"):
        raise WrapInvalid("recipient", "the wrap is addressed to another key")
    if not verified:
        problem = check(event)
        if problem is not None:
            raise WrapInvalid("signature" if problem == "bad_signature" else "id", f"wrap: {problem}")
    seal = _open_seal(recipient_secret, event)
    peer_key = _peer_key(recipient_secret, seal.pubkey, keys)
    return _open_rumor(_decrypt(peer_key, seal.content, "seal"), seal.pubkey, event.id)


def _open_seal(recipient_secret: Secret, event: Event) -> Event:
    # The wrap's key is used once, so its conversation key is never worth a place in the cache.
    outer = _decrypt(_peer_key(recipient_secret, event.pubkey, None), event.content, "wrap")
    try:
        seal = parse_event(_object(outer, "seal"))
    except EventInvalid as error:
        raise WrapInvalid("seal", str(error)) from None
    if seal.kind != KIND_SEAL:
        raise WrapInvalid("seal", f"kind {seal.kind} inside the wrap, expected 13")
    problem = check(seal)
    if problem is not None:
        raise WrapInvalid("seal_signature", problem)
    return seal


def _open_rumor(text: str, author: str, wrap_id: str) -> Message:
    rumor = _object(text, "rumor")
    if rumor.get("pubkey") != author:
        raise WrapInvalid("author", "the rumor names another author than the key that sealed it")
    if "sig" in rumor:
        raise WrapInvalid("rumor", "a rumor must not be signed")
    try:
        created_at, kind, tags, content = body_fields(rumor)
        digest = event_id(author, created_at, kind, tags, content)
    except EventInvalid as error:
        raise WrapInvalid("rumor", str(error)) from None
    if kind != KIND_RUMOR:
        raise WrapInvalid("rumor", f"kind {kind} inside the seal, expected 14")
    # NIP-59 clients send the id; one that leaves it out has claimed nothing that could be wrong.
    if rumor.get("id", digest) != digest:
        raise WrapInvalid("rumor_id", "the rumor's id is not the hash of its fields")
    return Message(author, digest, content, created_at, tags, wrap_id)


def _object(text: str, layer: str) -> dict[str, Any]:
    try:
        value = decode_json(text)
    except FrameInvalid as error:
        raise WrapInvalid(layer, str(error)) from None
    if type(value) is not dict:
        raise WrapInvalid(layer, "not a JSON object")
    return value


def _decrypt(key: bytes, payload: str, layer: str) -> str:
    try:
        return nip44.decrypt(key, payload)
    except Nip44Error as error:
        raise WrapInvalid("encryption", f"{layer}: {error}") from None


def _peer_key(secret: Secret, pubkey_hex: str, keys: nip44.ConversationKeys | None) -> bytes:
    try:
        return nip44.conversation_key(secret, pubkey_hex) if keys is None else keys.get(secret, pubkey_hex)
    except Nip44Error as error:
        raise WrapInvalid("encryption", str(error)) from None


def _backdated(now: int, rng: Callable[[int], bytes]) -> int:
    return max(0, now - int.from_bytes(rng(8), "big") % (BACKDATE_SECONDS + 1))


def _one_time_key(rng: Callable[[int], bytes]) -> Secret:
    # A 32-byte string above the curve order turns up once in 2^128; the loop is for injected generators.
    for _ in range(8):
        secret = Secret(rng(32))
        try:
            xonly_pubkey(secret)
        except ValueError:
            continue
        return secret
    raise WrapInvalid("key", "the random source does not yield a usable secret key")
