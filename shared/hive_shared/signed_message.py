"""The signed message of docs/protocol/04-marketplace-and-nostr.md §6: every DM that is not a command.

The rumor around it can be denied; this signature cannot, and it binds the recipient.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from hive_shared.canonical import JsonValue, decode_object, encode
from hive_shared.crypto import Secret, schnorr_sign, schnorr_verify, tagged
from hive_shared.errors import InvalidParams

TAG = "hive-mkt-msg:v1:"


class Draft(msgspec.Struct, frozen=True):
    """A message before it is signed, or one that was read: then `sig` is its sender's. Times are Unix
    seconds."""

    schema: str
    msg_id: str
    thread_id: str
    seq: int
    sent_at: int
    expires_at: int
    body: JsonValue
    sig: str = ""


def sign(draft: Draft, secret: Secret, recipient: str) -> str:
    """The message as canonical text, signed for one recipient (x-only hex)."""
    message: dict[str, Any] = {
        "schema": draft.schema,
        "v": 1,
        "msg_id": draft.msg_id,
        "thread_id": draft.thread_id,
        "seq": draft.seq,
        "sent_at": draft.sent_at,
        "expires_at": draft.expires_at,
        "body": draft.body,
    }
    message["sig"] = schnorr_sign(secret, digest(message, recipient))
    return encode(message).decode()


def digest(message: Mapping[str, Any], recipient: str) -> bytes:
    """What is signed: tag, canonical message without `sig`, recipient hex."""
    unsigned = {name: value for name, value in message.items() if name != "sig"}
    return tagged(TAG, encode(unsigned) + recipient.encode())


MAX_BYTES: Final = 1_048_576
_MAX_AHEAD_S: Final = 300
_HEX_SIG: Final = re.compile(r"[0-9a-f]{128}")
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_FIELDS: Final = frozenset(
    ("schema", "v", "msg_id", "thread_id", "seq", "sent_at", "expires_at", "body", "sig")
)
_OPTIONAL: Final = frozenset(("contract_id", "node_sig"))


class OtherVersion(msgspec.Struct, frozen=True):
    """A message of a version that is not ours, signed by its sender as ours are."""

    version: int
    msg_id: str


def parse(text: str, sender: str, recipients: Collection[str]) -> Draft | OtherVersion:
    """Read a signed message strictly: its fields, the sender's signature for one of our keys. Its times are
    looked at by `check_times`.

    Raises InvalidParams (malformed, bad signature, or a version of which not even the signature can be read).
    """
    message = decode_object(text, max_bytes=MAX_BYTES, max_nodes=100_000, floats=True)
    version = message.get("v")
    if type(version) is not int:
        raise InvalidParams(f"v {version!r:.20} is not a whole number")
    if version != 1:
        msg_id = message.get("msg_id")
        if not isinstance(msg_id, str) or not _UUID.fullmatch(msg_id):
            raise InvalidParams(f"version {version} is not 1, and msg_id is not a UUID")
        _check_signature(message, sender, recipients)
        return OtherVersion(version, msg_id)
    names = message.keys() - _OPTIONAL
    if names != _FIELDS:
        wrong = ", ".join(sorted(names ^ _FIELDS))
        raise InvalidParams(f"fields missing or unknown: {wrong[:200]}")
    schema, msg_id, thread_id = (message[key] for key in ("schema", "msg_id", "thread_id"))
    if not isinstance(schema, str) or not 1 <= len(schema) <= 100:
        raise InvalidParams("schema is not a text of 1 to 100 characters")
    if not isinstance(msg_id, str) or not _UUID.fullmatch(msg_id):
        raise InvalidParams("msg_id is not a UUID")
    if not isinstance(thread_id, str) or not 1 <= len(thread_id) <= 64:
        raise InvalidParams("thread_id is not a text of 1 to 64 characters")
    seq, sent_at, expires_at = (_whole(message, key) for key in ("seq", "sent_at", "expires_at"))
    _check_signature(message, sender, recipients)
    return Draft(
        schema, msg_id, thread_id, seq, sent_at, expires_at, message["body"], sig=str(message["sig"])
    )


def check_times(message: Draft, now: int) -> None:
    """Whether a message is within its times. Raises InvalidParams, reason `expired`."""
    if message.sent_at > now + _MAX_AHEAD_S or message.expires_at <= now:
        raise InvalidParams(
            f"sent at {message.sent_at}, good until {message.expires_at}; it is {now}", reason="expired"
        )


def _check_signature(message: Mapping[str, Any], sender: str, recipients: Collection[str]) -> None:
    sig = message.get("sig")
    if not isinstance(sig, str) or not _HEX_SIG.fullmatch(sig):
        raise InvalidParams("sig is not 128 hex digits")
    if not any(schnorr_verify(sender, digest(message, recipient), sig) for recipient in recipients):
        raise InvalidParams("sig is not the sender's over this message to this node")


def _whole(message: Mapping[str, JsonValue], name: str) -> int:
    value = message[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise InvalidParams(f"{name} is not a whole number")
    return value


def with_sender(body: JsonValue, sender: str) -> JsonValue:
    """The body with `sender` and `pubkey`, where it names them, set to the key that was verified: what a
    message says of its sender proves nothing (docs/protocol/08-client-and-plugins.md §3.3)."""
    if not isinstance(body, dict):
        return body
    return {name: sender if name in ("sender", "pubkey") else value for name, value in body.items()}
