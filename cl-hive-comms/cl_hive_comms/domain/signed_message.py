"""The signed message of docs/protocol/04-marketplace-and-nostr.md §6: every DM that is not a command.

The rumor around it can be denied; this signature cannot, and it binds the recipient.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hive_shared.canonical import JsonValue, encode
from hive_shared.crypto import Secret, schnorr_sign, tagged

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
