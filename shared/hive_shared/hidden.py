"""Secrets that were sent where they do not belong: a record keeps their hash, never themselves
(docs/protocol/02-fleet-management.md §9.1 "secrets hashed", §15.25)."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from .canonical import JsonValue

NAMES: Final = frozenset(
    {
        *("preimage", "payment_preimage", "secret", "payment_secret", "hsm_secret", "codex32", "mnemonic"),
        *("seed", "nsec", "privkey", "private_key", "rune", "macaroon", "token", "passphrase", "password"),
    }
)
"""Fields whose text is a secret, in whatever upper or lower case."""
_READS_LIKE_ONE: Final = re.compile(r"nsec1[02-9ac-hj-np-z]{10,}|cashu[AB][A-Za-z0-9_=-]{10,}", re.IGNORECASE)


def hidden(value: JsonValue) -> JsonValue:
    """The value with every secret in it as `sha256:<hex>` of its text: who knows it can still prove it."""
    if isinstance(value, str):
        return hidden_text(value)
    if isinstance(value, list):
        return [hidden(each) for each in value]
    if isinstance(value, dict):
        return {hidden_text(name): _field(name, each) for name, each in value.items()}
    return value


def hidden_text(text: str) -> str:
    """The text without private keys and ecash."""
    return _READS_LIKE_ONE.sub(lambda found: _hash(found[0]), text)


def _field(name: str, value: JsonValue) -> JsonValue:
    if name.lower() in NAMES and isinstance(value, str) and value:
        return _hash(value)
    return hidden(value)


def _hash(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"
