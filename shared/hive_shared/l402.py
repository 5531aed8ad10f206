"""L402: macaroons that grant paid access, and the headers they travel in
(docs/protocol/03-escrow-and-payments.md §7.5, 02 §8).

A macaroon is version 2 binary: location `hive`, an identifier that binds it to one payment hash and one
token, and first-party caveats. Whoever holds one may add caveats, which only take away; nobody without the
root key can remove or change any. What the caveats allow is `Rights`; whether this command is among it
decides the caller. Pure: keys and times come in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from .crypto import Secret
from .errors import PaymentFailed, from_symbol
from .registry import Tier

LOCATION: Final = "hive"
MAX_BYTES: Final = 8_192
"""A longer macaroon is refused unread; a credential's patterns fit in (02 §2.1)."""
MAX_CAVEATS: Final = 64
_IDENTIFIER_BYTES: Final = 2 + 32 + 32
_KEY_GENERATOR: Final = b"macaroons-key-generator".ljust(32, b"\0")
_END, _LOCATION, _IDENTIFIER, _SIGNATURE = 0, 1, 2, 6
_VERSION: Final = 2
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,14}")
_HEX64: Final = re.compile(r"[0-9a-f]{64}")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_SCHEME: Final = re.compile(r"\s*(?:L402|LSAT)\s+(.*)", re.IGNORECASE | re.DOTALL)
_CHALLENGE_PART: Final = re.compile(r'\s*(macaroon|token|invoice|version)\s*=\s*"([^"]{1,16384})"\s*(?:,|\Z)')
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def _bad(what: str) -> PaymentFailed:
    return PaymentFailed(f"macaroon {what}", reason="payment_invalid")


class Identifier(msgspec.Struct, frozen=True):
    """What a macaroon is bound to: the hash of a payment's preimage and the seller's token, 32 bytes each."""

    payment_hash: bytes
    token_id: bytes

    def pack(self) -> bytes:
        """u16be version 0, payment hash, token id."""
        return b"\0\0" + self.payment_hash + self.token_id

    @classmethod
    def unpack(cls, data: bytes) -> Identifier:
        """Inverse of `pack`. Raises PaymentFailed (reason payment_invalid)."""
        if len(data) != _IDENTIFIER_BYTES or data[:2] != b"\0\0":
            raise _bad("identifier is not version 0, payment hash and token id")
        return cls(data[2:34], data[34:])


class Macaroon(msgspec.Struct, frozen=True):
    """A macaroon as it travels. `signature` shows that the caveats are those of the root key, or more."""

    identifier: Identifier
    caveats: tuple[str, ...]
    signature: Secret

    def with_caveats(self, *caveats: str) -> Macaroon:
        """A narrower macaroon: anyone who holds this one can make it. Raises PaymentFailed for a caveat that
        cannot be read or would widen it."""
        narrowed = (*self.caveats, *caveats)
        rights_of(narrowed)
        signature = self.signature.reveal()
        for caveat in caveats:
            signature = _hmac(signature, caveat.encode())
        return replace(self, caveats=narrowed, signature=Secret(signature))

    def encode(self) -> bytes:
        """The version 2 binary form."""
        parts = [bytes([_VERSION]), _field(_LOCATION, LOCATION.encode())]
        parts += [_field(_IDENTIFIER, self.identifier.pack()), bytes([_END])]
        for caveat in self.caveats:
            parts += [_field(_IDENTIFIER, caveat.encode()), bytes([_END])]
        parts += [bytes([_END]), _field(_SIGNATURE, self.signature.reveal())]
        return b"".join(parts)

    def text(self) -> str:
        """Standard base64 with padding, as proxies expect it."""
        return base64.b64encode(self.encode()).decode()


def root_key(l402_key: Secret, token_id: bytes) -> Secret:
    """The root key of one token under the seller's L402 key."""
    return Secret(_hmac(l402_key.reveal(), token_id))


def mint(root: Secret, identifier: Identifier, caveats: Iterable[str]) -> Macaroon:
    """A new macaroon. Raises PaymentFailed when the caveats cannot be read back."""
    chosen = tuple(caveats)
    rights_of(chosen)
    return Macaroon(identifier, chosen, Secret(_chain(root, identifier, chosen)))


def check_signature(macaroon: Macaroon, root: Secret) -> bool:
    """Whether identifier and caveats are those that the root key, or a holder's narrowing, signed; in
    constant time."""
    expected = _chain(root, macaroon.identifier, macaroon.caveats)
    return hmac.compare_digest(expected, macaroon.signature.reveal())


def decode(text: str) -> Macaroon:
    """Read a macaroon in either base64 alphabet, with or without padding.

    Raises PaymentFailed (reason payment_invalid) for anything that is not exactly such a macaroon: other
    versions, third-party caveats, unknown fields, trailing bytes.
    """
    if len(text) > MAX_BYTES * 4 // 3 + 4:
        raise _bad(f"is longer than {MAX_BYTES} bytes")
    if not _BASE64.fullmatch(text):
        raise _bad("is not base64")
    bare = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        data = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except ValueError:
        raise _bad("is not base64") from None
    return _Reader(data).macaroon()


class _Reader:
    """Reads the binary form front to back, every byte once."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def macaroon(self) -> Macaroon:
        if self._byte() != _VERSION:
            raise _bad("is not of version 2")
        if self._peek() == _LOCATION:
            self._take(_LOCATION)
        identifier = Identifier.unpack(self._take(_IDENTIFIER))
        self._end()
        caveats: list[str] = []
        while self._peek() != _END:
            if len(caveats) == MAX_CAVEATS:
                raise _bad(f"has more than {MAX_CAVEATS} caveats")
            caveats.append(_caveat_text(self._take(_IDENTIFIER)))
            # A verification id or a location here would make it a third party's caveat.
            self._end()
        self._end()
        signature = self._take(_SIGNATURE)
        if len(signature) != 32:
            raise _bad("signature is not 32 bytes")
        if self._at != len(self._data):
            raise _bad("has bytes after its signature")
        return Macaroon(identifier, tuple(caveats), Secret(signature))

    def _peek(self) -> int:
        if self._at >= len(self._data):
            raise _bad("ends in the middle")
        return self._data[self._at]

    def _byte(self) -> int:
        byte = self._peek()
        self._at += 1
        return byte

    def _end(self) -> None:
        if self._byte() != _END:
            raise _bad("has a field where a section must end; third-party caveats are not taken")

    def _take(self, kind: int) -> bytes:
        if self._byte() != kind:
            raise _bad(f"lacks field {kind} where it must stand")
        length = self._varint()
        if length > len(self._data) - self._at:
            raise _bad("ends in the middle")
        value = self._data[self._at : self._at + length]
        self._at += length
        return value

    def _varint(self) -> int:
        value = 0
        for shift in (0, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if shift and not byte:
                    raise _bad("has a length in a longer form than it needs")
                return value
        raise _bad("has a field that is too long")


def _caveat_text(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise _bad("has a caveat that is not text") from None
    if _CONTROL.search(text):
        raise _bad("has a caveat with control characters")
    return text


def _field(kind: int, data: bytes) -> bytes:
    length = len(data)
    size = bytes([length]) if length < 0x80 else bytes([length & 0x7F | 0x80, length >> 7])
    return bytes([kind]) + size + data


def _chain(root: Secret, identifier: Identifier, caveats: Sequence[str]) -> bytes:
    signature = _hmac(_hmac(_KEY_GENERATOR, root.reveal()), identifier.pack())
    for caveat in caveats:
        signature = _hmac(signature, caveat.encode())
    return signature


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


# -- what caveats allow ---------------------------------------------------------------------------------


class Rights(msgspec.Struct, frozen=True):
    """What the caveats leave, None where they say nothing. `schemas` holds one tuple of patterns for each
    such caveat: an action must fit every one of them."""

    node: str | None = None
    agent: str | None = None
    credential: str | None = None
    contract: str | None = None
    tier: Tier | None = None
    schemas: tuple[tuple[str, ...], ...] = ()
    expires: int | None = None
    max_actions: int | None = None
    max_danger: int | None = None


def rights_of(caveats: Iterable[str]) -> Rights:
    """Read caveats of the form `key=value`, spaces around `=` tolerated.

    Raises PaymentFailed (reason payment_invalid) for an unknown key, a value that cannot be read, and a
    repetition that does not narrow the one before.
    """
    rights = Rights()
    for caveat in caveats:
        key, equals, value = caveat.partition("=")
        key, value = key.strip(" "), value.strip(" ")
        if not equals or not value or len(caveat.encode(errors="replace")) > MAX_BYTES // 2:
            raise _bad(f"caveat {caveat[:64]!a} is not key=value")
        rights = _narrowed(rights, key, value)
    return rights


def _narrowed(rights: Rights, key: str, value: str) -> Rights:
    match key:
        case "schemas":
            patterns = tuple(part.strip(" ") for part in value.split(","))
            if not all(patterns):
                raise _bad("caveat schemas has an empty pattern")
            return replace(rights, schemas=(*rights.schemas, patterns))
        case "tier":
            return replace(rights, tier=_tier(value, rights.tier))
        case "expires":
            return replace(rights, expires=_number(key, value, rights.expires))
        case "max_actions":
            return replace(rights, max_actions=_number(key, value, rights.max_actions))
        case "max_danger":
            return replace(rights, max_danger=_number(key, value, rights.max_danger))
        case "node":
            return replace(rights, node=_same(key, value, rights.node))
        case "agent":
            return replace(rights, agent=_same(key, value, rights.agent))
        case "credential":
            return replace(rights, credential=_same(key, value, rights.credential))
        case "contract":
            return replace(rights, contract=_same(key, value, rights.contract))
        case _:
            raise _bad(f"caveat {key[:32]!a} is not known here, so it cannot be kept to")


def _tier(value: str, before: Tier | None) -> Tier:
    try:
        found = Tier.parse(value)
    except ValueError:
        raise _bad(f"caveat tier {value[:32]!a} is no tier") from None
    if before is not None and found > before:
        raise _wider("tier")
    return found


def _number(key: str, value: str, before: int | None) -> int:
    if not _NUMBER.fullmatch(value):
        raise _bad(f"caveat {key} {value[:32]!a} is not a whole number")
    if before is not None and int(value) > before:
        raise _wider(key)
    return int(value)


def _same(key: str, value: str, before: str | None) -> str:
    if before is not None and before != value:
        raise _bad(f"caveat {key} is repeated with another value")
    return value


def _wider(key: str) -> PaymentFailed:
    return _bad(f"caveat {key} is repeated with a wider value")


# -- proofs and headers ---------------------------------------------------------------------------------


def check_preimage(macaroon: Macaroon, preimage: str) -> None:
    """Raises PaymentFailed (reason payment_invalid) unless the preimage (64 hex) is that of the payment."""
    if not _HEX64.fullmatch(preimage):
        raise from_symbol("payment_invalid", "the preimage must be 64 lower-case hex characters")
    found = hashlib.sha256(bytes.fromhex(preimage)).digest()
    if not hmac.compare_digest(found, macaroon.identifier.payment_hash):
        raise from_symbol("payment_invalid", "the preimage is not that of the macaroon's payment")


def challenge_header(macaroon: str, invoice: str) -> str:
    """The value of `WWW-Authenticate`."""
    return f'L402 macaroon="{macaroon}", invoice="{invoice}"'


def authorization_header(macaroon: str, preimage: str) -> str:
    """The value of `Authorization`."""
    return f"L402 {macaroon}:{preimage}"


def read_challenge(header: str) -> tuple[str, str]:
    """(macaroon, invoice) of a `WWW-Authenticate` value; the older scheme `LSAT` and the name `token` are
    taken too. Raises PaymentFailed (reason payment_invalid)."""
    found = _SCHEME.fullmatch(header[: 4 * MAX_BYTES])
    parts: dict[str, str] = {}
    rest = found[1] if found else ""
    while rest:
        part = _CHALLENGE_PART.match(rest)
        if part is None or part[1] in parts:
            raise from_symbol("payment_invalid", "the L402 challenge cannot be read")
        parts[part[1]] = part[2]
        rest = rest[part.end() :]
    macaroon = parts.get("macaroon") or parts.get("token")
    if macaroon is None or "invoice" not in parts:
        raise from_symbol("payment_invalid", "the L402 challenge lacks a macaroon or an invoice")
    return macaroon, parts["invoice"]


def read_authorization(header: str) -> tuple[str, str]:
    """(macaroon, preimage) of an `Authorization` value. Raises PaymentFailed (reason payment_invalid)."""
    found = _SCHEME.fullmatch(header[: 2 * MAX_BYTES])
    macaroon, colon, preimage = found[1].strip().rpartition(":") if found else ("", "", "")
    if not colon or not macaroon or not _HEX64.fullmatch(preimage):
        raise from_symbol("payment_invalid", "the authorization is not L402 <macaroon>:<64 hex preimage>")
    return macaroon, preimage
