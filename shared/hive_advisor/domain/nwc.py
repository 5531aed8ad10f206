"""Wallet connect (NIP-47) as values: the URI, what a wallet serves, requests and answers
(docs/protocol/11-advisor-kit.md §8). NIP-44 version 2 only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec
from hive_shared.canonical import decode_object
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import HiveError, InvalidParams, PaymentFailed, Unsupported
from hive_shared.nostr.keys import is_pubkey
from hive_shared.nostr.nip44 import conversation_key
from hive_shared.nostr.reasons import Nip44Error
from hive_shared.nostr.relay_url import normalise_relay_url

INFO: Final = 13194
REQUEST: Final = 23194
RESPONSE: Final = 23195
NOTICE: Final = 23197
MAKE, LOOKUP, PAY = "make_invoice", "lookup_invoice", "pay_invoice"
ENCRYPTION: Final = "nip44_v2"
_MOST_RELAYS: Final = 4
_MOST_ANSWER: Final = 65_535


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection to a wallet: its key, our key for it, and the relays both meet at."""

    wallet: str
    secret: Secret = field(repr=False)
    relays: tuple[str, ...]

    @property
    def pubkey(self) -> str:
        """Our key in this connection, x-only hex."""
        return xonly_pubkey(self.secret)


class Answer(msgspec.Struct, frozen=True):
    """A wallet's answer: `result`, or the `error` code it gave."""

    result: dict[str, Any]
    error: str = ""
    message: str = ""


def parse_uri(text: str) -> Connection:
    """Read ``nostr+walletconnect://``. Raises InvalidParams, which never repeats the secret."""
    try:
        parts = urlsplit(text.strip())
        pairs = parse_qsl(parts.query, keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise _no_uri("cannot be read") from None
    if parts.scheme != "nostr+walletconnect" or not is_pubkey(parts.netloc or parts.path):
        raise _no_uri("must begin with nostr+walletconnect: and the wallet's key, then ?relay=...&secret=...")
    relays = [value for name, value in pairs if name == "relay"]
    secrets = [value for name, value in pairs if name == "secret"]
    if len(secrets) != 1 or not is_pubkey(secrets[0]):
        raise _no_uri("has no secret of 64 lower-case hex characters")
    if not 0 < len(relays) <= _MOST_RELAYS:
        raise _no_uri(f"names {len(relays)} relays; 1 to {_MOST_RELAYS} are taken")
    try:
        urls = tuple(dict.fromkeys(normalise_relay_url(url) for url in relays))
        secret, wallet = Secret(bytes.fromhex(secrets[0])), parts.netloc or parts.path
        xonly_pubkey(secret)
        conversation_key(secret, wallet)
    except Nip44Error:
        raise _no_uri("names a wallet key that no key can be") from None
    except ValueError as error:
        raise _no_uri(f"has a relay or key that cannot be used: {error}") from None
    return Connection(wallet, secret, urls)


def check_info(content: str, tags: Sequence[Sequence[str]], needed: Sequence[str]) -> None:
    """Whether a wallet's info event (13194) lists what we need. Raises Unsupported."""
    spoken = next((tag[1].split() for tag in tags if len(tag) > 1 and tag[0] == "encryption"), ["nip04"])
    if ENCRYPTION not in spoken:
        raise Unsupported(
            f"the wallet speaks {' '.join(spoken)[:60]} only; it has to speak {ENCRYPTION}: with NIP-04"
            " nobody notices a message that was altered on its way",
            reason="unsupported_encryption",
        )
    missing = [name for name in needed if name not in content.split()]
    if missing:
        raise Unsupported(
            f"the wallet does not serve {', '.join(missing)} over this connection; allow it there",
            reason="unsupported_action",
        )


def request(method: str, params: dict[str, Any]) -> str:
    """The text of a request."""
    return json.dumps({"method": method, "params": params}, separators=(",", ":"))


def read_answer(text: str, method: str) -> Answer:
    """A wallet's answer to a request of `method`. Raises PaymentFailed for what is none."""
    try:
        document = decode_object(text, max_bytes=_MOST_ANSWER, max_nodes=2_000, floats=True)
    except HiveError as error:
        raise _bad(f"answers what is no JSON object: {error.detail}") from None
    if document.get("result_type") != method:
        raise _bad(f"answers {method} with something else")
    refused, result = document.get("error"), document.get("result")
    if isinstance(refused, dict):
        said = "".join(c for c in str(refused.get("message", ""))[:200] if c.isprintable())
        return Answer({}, str(refused.get("code", "OTHER"))[:40] or "OTHER", said)
    if not isinstance(result, dict):
        raise _bad(f"answers {method} without a result")
    return Answer(result)


def paid_hash(text: str) -> str:
    """The payment hash that a notification (23197) says was received; "" for any other notification."""
    try:
        document = decode_object(text, max_bytes=_MOST_ANSWER, max_nodes=2_000, floats=True)
    except HiveError:
        return ""
    body = document.get("notification")
    named = body.get("payment_hash") if isinstance(body, dict) else None
    received = document.get("notification_type") == "payment_received"
    return named if received and isinstance(named, str) and is_hash(named) else ""


def is_hash(text: str) -> bool:
    """Whether a text is 32 bytes in lower-case hex."""
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _no_uri(what: str) -> InvalidParams:
    return InvalidParams(f"the wallet-connect URI {what}")


def _bad(what: str) -> HiveError:
    return PaymentFailed(f"the wallet {what}", reason="wallet_failed")
