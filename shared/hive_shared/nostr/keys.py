"""Nostr keys in their text forms: NIP-19 `npub`/`nsec`, 64 hex characters, `did:nostr:` (Protocol 04 §7.5).

Inside the program a public key is 64 lower-case hex characters and a secret key is a `Secret`; the bech32
forms exist only at the edge, where people read and paste them.
"""

from __future__ import annotations

import re
from typing import cast

from hive_shared.crypto import Secret, xonly_pubkey

_HEX64 = re.compile(r"[0-9a-f]{64}\Z")
_PREFIXES = ("did:nostr:", "nostr:")
# The 63 characters of a 32-byte NIP-19 string; anything longer is not a bare key.
_BARE_LENGTH = 63


def npub_encode(pubkey_hex: str) -> str:
    """Return the `npub1…` form of a public key given as 64 hex characters.

    Raises ValueError on anything else.
    """
    return _encode("npub", _key_bytes(pubkey_hex))


def npub_decode(text: str) -> str:
    """Return the 64 hex characters behind an `npub1…` string; raises ValueError with a sentence."""
    return _on_curve(_decode("npub", text).hex())


def nsec_encode(secret: Secret) -> str:
    """Return the `nsec1…` form of a secret key. The result is as secret as the key."""
    return _encode("nsec", secret.reveal())


def nsec_decode(text: str) -> Secret:
    """Return the secret key behind an `nsec1…` string; raises ValueError, never quoting the text."""
    secret = Secret(_decode("nsec", text))
    try:
        xonly_pubkey(secret)
    except ValueError:
        raise ValueError(
            "this nsec does not hold a usable secret key; check that it was copied whole"
        ) from None
    return secret


def parse_pubkey(text: str) -> str:
    """Read a public key in any accepted form and return 64 hex characters.

    Accepted: `npub1…`, 64 hex characters (upper case is folded), `did:nostr:<hex>`, `nostr:<hex or npub>`.
    Raises ValueError with a sentence that names the forms.
    """
    body = text.strip()
    for prefix in _PREFIXES:
        if body.startswith(prefix):
            body = body[len(prefix) :]
            break
    if body.lower().startswith("npub1"):
        return npub_decode(body)
    if body.lower().startswith("nsec1"):
        raise ValueError(
            "that is a secret key (nsec…); give the public key (npub…) and keep the nsec private"
        )
    folded = body.lower()
    if not _HEX64.match(folded):
        shown = text if len(text) <= 80 else text[:77] + "..."
        raise ValueError(
            f"{shown!r} is not a Nostr public key; use npub1..., 64 hex characters or did:nostr:<hex>"
        )
    return _on_curve(folded)


def is_pubkey(text: object) -> bool:
    """Tell whether the value is 64 lower-case hex characters; says nothing about the curve."""
    return isinstance(text, str) and _HEX64.match(text) is not None


def _key_bytes(pubkey_hex: str) -> bytes:
    if not is_pubkey(pubkey_hex):
        raise ValueError(f"{pubkey_hex[:80]!r} is not a public key of 64 lower-case hex characters")
    return bytes.fromhex(pubkey_hex)


def _on_curve(pubkey_hex: str) -> str:
    from coincurve import PublicKeyXOnly

    try:
        PublicKeyXOnly(bytes.fromhex(pubkey_hex))
    except ValueError:
        raise ValueError(
            f"{pubkey_hex} is not the x coordinate of a secp256k1 point; check the key"
        ) from None
    return pubkey_hex


def _encode(hrp: str, data: bytes) -> str:
    from pynostr import bech32

    return cast(str, bech32.bech32_encode(hrp, bech32.convertbits(data, 8, 5), bech32.Encoding.BECH32))


def _decode(hrp: str, text: str) -> bytes:
    from pynostr import bech32

    body = text.strip()
    found, data, encoding = bech32.bech32_decode(body) if len(body) <= _BARE_LENGTH else (None, None, None)
    if found is None or data is None or encoding is not bech32.Encoding.BECH32:
        raise ValueError(f"not a valid {hrp}: the checksum or the length is wrong; copy it again")
    if found != hrp:
        raise ValueError(f"expected {hrp}1..., got {found}1...")
    raw = bech32.convertbits(data, 5, 8, False)
    if raw is None or len(raw) != 32:
        raise ValueError(f"not a valid {hrp}: it does not hold 32 bytes")
    return bytes(raw)
