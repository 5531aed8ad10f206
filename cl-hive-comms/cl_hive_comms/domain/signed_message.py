"""The signed message of docs/protocol/04-marketplace-and-nostr.md §6: every DM that is not a command.

The rumor around it can be denied; this signature cannot, and it binds the recipient.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hive_shared.canonical import JsonValue, decode_object, encode
from hive_shared.crypto import Secret, schnorr_sign, schnorr_verify, tagged
from hive_shared.errors import InvalidParams

TAG = "hive-mkt-msg:v1:"


@dataclass(frozen=True)
class Draft:
    """A message before it is signed. Times are Unix seconds."""

    schema: str
    msg_id: str
    thread_id: str
    seq: int
    sent_at: int
    expires_at: int
    body: JsonValue


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


def parse(text: str, sender: str, recipients: Collection[str], now: int) -> Draft:
    """Read a signed message strictly: its fields, its times, the sender's signature for one of our keys.

    Raises InvalidParams (malformed, bad signature; reason `expired` outside its times, reason `unsupported`
    for another version).
    """
    message = decode_object(text, max_bytes=MAX_BYTES, max_nodes=100_000, floats=True)
    if message.get("v") != 1:
        raise InvalidParams(f"version {message.get('v')!r:.20} is not 1", reason="unsupported")
    names = message.keys() - _OPTIONAL
    if names != _FIELDS:
        wrong = ", ".join(sorted(names ^ _FIELDS))
        raise InvalidParams(f"fields missing or unknown: {wrong[:200]}")
    schema, msg_id, thread_id, sig = (message[key] for key in ("schema", "msg_id", "thread_id", "sig"))
    if not isinstance(schema, str) or not 1 <= len(schema) <= 100:
        raise InvalidParams("schema is not a text of 1 to 100 characters")
    if not isinstance(msg_id, str) or not _UUID.fullmatch(msg_id):
        raise InvalidParams("msg_id is not a UUID")
    if not isinstance(thread_id, str) or not 1 <= len(thread_id) <= 64:
        raise InvalidParams("thread_id is not a text of 1 to 64 characters")
    seq, sent_at, expires_at = (_whole(message, key) for key in ("seq", "sent_at", "expires_at"))
    if not isinstance(sig, str) or not _HEX_SIG.fullmatch(sig):
        raise InvalidParams("sig is not 128 hex digits")
    if not any(schnorr_verify(sender, digest(message, recipient), sig) for recipient in recipients):
        raise InvalidParams("sig is not the sender's over this message to this node")
    if sent_at > now + _MAX_AHEAD_S or expires_at <= now:
        raise InvalidParams(f"sent at {sent_at}, good until {expires_at}; it is {now}", reason="expired")
    return Draft(schema, msg_id, thread_id, seq, sent_at, expires_at, message["body"])


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
