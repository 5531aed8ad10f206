"""Keys, signatures, key derivation and sealed columns, on coincurve and cryptography.

Nothing here invents cryptography: BIP-340 and ECDSA recovery are libsecp256k1's, HKDF and AES-GCM
those of `cryptography`. Both libraries are imported on first use, because importing them takes longer
than a whole `getmanifest` should.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NoReturn

from .errors import Internal

if TYPE_CHECKING:
    from coincurve import PrivateKey, PublicKeyXOnly

_HEX64: Final = re.compile(r"[0-9a-f]{64}")
_HEX128: Final = re.compile(r"[0-9a-f]{128}")


class Secret:
    """Bytes that must not be shown: prints as `<secret>`, cannot be pickled, compares in constant time.

    `reveal()` is the only way to the bytes, so a search for it finds every place that uses a secret.
    """

    __slots__ = ("_bytes", "_signer")

    def __init__(self, data: bytes) -> None:
        self._bytes = bytes(data)
        # The library's form of it, from its first use as a key on: making one costs more than a signature.
        self._signer: PrivateKey | None = None

    def reveal(self) -> bytes:
        """The secret bytes themselves."""
        return self._bytes

    def __repr__(self) -> str:
        return "<secret>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format("<secret>", spec)

    def __eq__(self, other: object) -> bool:
        return hmac.compare_digest(self._bytes, other._bytes) if isinstance(other, Secret) else NotImplemented

    # A hash of the bytes would make the secret guessable from a table's layout; nobody needs one.
    __hash__ = None  # type: ignore[assignment]

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret cannot be pickled")


class SealBroken(Internal):
    """A sealed column does not open: altered, moved to another row, or sealed under a key we lack."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, reason="seal_broken")


def sha256(data: bytes) -> bytes:
    """SHA-256 of `data`, 32 bytes."""
    return hashlib.sha256(data).digest()


def tagged(tag: str, data: bytes | str) -> bytes:
    """SHA-256 of a domain tag such as `hive-mgmt-cmd:v1:` followed by `data`: what we sign (02 §6.1)."""
    return sha256(tag.encode() + (data.encode() if isinstance(data, str) else data))


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA256, 32 bytes."""
    return hmac.digest(key, data, "sha256")


def hkdf_sha256(ikm: bytes, *, salt: bytes = b"", info: bytes = b"", length: int = 32) -> bytes:
    """HKDF-SHA256 (RFC 5869, extract then expand); an empty salt means 32 zero bytes."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), length, salt or None, info).derive(ikm)


def equal(a: bytes | str, b: bytes | str) -> bool:
    """Constant-time comparison of two byte strings or two texts."""
    left = a.encode() if isinstance(a, str) else a
    right = b.encode() if isinstance(b, str) else b
    return hmac.compare_digest(left, right)


def xonly_pubkey(secret: Secret) -> str:
    """The BIP-340 public key of `secret`, 64 hex. Raises ValueError for a scalar of 0 or beyond the order."""
    key: bytes = _signer(secret).public_key_xonly.format()
    return key.hex()


def schnorr_sign(secret: Secret, digest: bytes, aux: bytes | None = None) -> str:
    """BIP-340 signature over a 32-byte digest, 128 hex.

    `aux` is 32 bytes of auxiliary randomness, drawn freshly when None. Raises ValueError for a bad
    scalar or a digest of another length.
    """
    return _signer(secret).sign_schnorr(digest, os.urandom(32) if aux is None else aux).hex()


@lru_cache(maxsize=1_024)
def public_key(pubkey_hex: str) -> PublicKeyXOnly:
    """The key of 64 hex characters, which the caller has checked to be that. Raises ValueError for what is no
    point of the curve.

    Finding the point takes a quarter of a signature's check, and most keys sign more than once.
    """
    from coincurve import PublicKeyXOnly

    # The library reads 32 bytes without looking at the length: only a checked key may get here.
    return PublicKeyXOnly(bytes.fromhex(pubkey_hex))


def schnorr_verify(pubkey_hex: str, digest: bytes, sig_hex: str) -> bool:
    """Whether `sig_hex` is the BIP-340 signature of `pubkey_hex` over `digest`; hex is lower case.

    False, never an exception, for anything malformed: the arguments come from strangers.
    """
    try:
        if not (_HEX64.fullmatch(pubkey_hex) and _HEX128.fullmatch(sig_hex)):
            return False
        return public_key(pubkey_hex).verify(bytes.fromhex(sig_hex), digest)
    except (ValueError, TypeError):
        return False


class SchnorrKey:
    """A BIP-340 public key (x-only hex), parsed once for many checks. Never raises, as `schnorr_verify`."""

    def __init__(self, pubkey_hex: str) -> None:
        from coincurve import PublicKeyXOnly

        self._key: PublicKeyXOnly | None = None
        if _HEX64.fullmatch(pubkey_hex):
            with contextlib.suppress(ValueError):
                self._key = PublicKeyXOnly(bytes.fromhex(pubkey_hex))

    def verify(self, digest: bytes, sig_hex: str) -> bool:
        """Whether `sig_hex` (lower case) is this key's signature over `digest` (32 bytes)."""
        if self._key is None or not _HEX128.fullmatch(sig_hex):
            return False
        return self._key.verify(bytes.fromhex(sig_hex), digest)


def _signer(secret: Secret) -> PrivateKey:
    if secret._signer is None:
        from coincurve import PrivateKey

        secret._signer = PrivateKey(_scalar(secret))
    return secret._signer


def _scalar(secret: Secret) -> bytes:
    data = secret.reveal()
    if len(data) != 32:
        raise ValueError(f"a private key has 32 bytes, this one has {len(data)}")
    return data


class Sealer:
    """Encrypts single database columns: AES-256-GCM, bound to table, row, column and key version.

    `keys` maps key versions (1 and up) to 32-byte secrets, `current` names the one that seals; older
    ones still open. A blob is `version (4 bytes, big endian) ‖ nonce (12) ‖ ciphertext and tag`; the
    associated data is `table:row:column:key_version` (docs/protocol/08-client-and-plugins.md §5.3), so
    a blob copied to another row or column does not open there.
    """

    def __init__(
        self,
        keys: Mapping[int, Secret],
        current: int,
        *,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if current not in keys:
            raise ValueError(f"no key of version {current} to seal with")
        for version, key in keys.items():
            if not 1 <= version < 2**32 or len(key.reveal()) != 32:
                raise ValueError(f"sealing key {version} must be 32 bytes with a version from 1 to 2^32-1")
        self._ciphers = {version: AESGCM(key.reveal()) for version, key in keys.items()}
        self._current = current
        self._random_bytes = random_bytes

    def seal(self, table: str, row: str, column: str, plaintext: bytes) -> bytes:
        """Encrypt `plaintext` for one cell under the current key."""
        nonce = self._random_bytes(12)
        aad = _cell(table, row, column, self._current)
        ciphertext = self._ciphers[self._current].encrypt(nonce, plaintext, aad)
        return struct.pack(">I", self._current) + nonce + ciphertext

    def open(self, table: str, row: str, column: str, blob: bytes) -> bytes:
        """Decrypt the blob of one cell. Raises SealBroken when it was altered, moved, or its key is gone."""
        from cryptography.exceptions import InvalidTag

        if len(blob) < 4 + 12 + 16:
            raise SealBroken(f"sealed value of {table}.{column} is truncated")
        (version,) = struct.unpack_from(">I", blob)
        cipher = self._ciphers.get(version)
        if cipher is None:
            raise SealBroken(f"sealed value of {table}.{column} needs key version {version}, not loaded")
        try:
            return cipher.decrypt(blob[4:16], blob[16:], _cell(table, row, column, version))
        except InvalidTag:
            raise SealBroken(f"sealed value of {table}.{column} is damaged or under another key") from None


def _cell(table: str, row: str, column: str, version: int) -> bytes:
    # Only the row may hold a colon: then the text still splits in one way.
    if ":" in table or ":" in column:
        raise ValueError("table and column names must not contain a colon")
    return f"{table}:{row}:{column}:{version}".encode()


_ZBASE32: Final = "ybndrfg8ejkmcpqxot1uwisza345h769"
_ZBASE32_VALUE: Final = {char: value for value, char in enumerate(_ZBASE32)}


def zbase32_encode(data: bytes) -> str:
    """z-base-32 text of `data`, the last symbol padded with zero bits, as CLN's `signmessage` writes it."""
    symbols = -(-len(data) * 8 // 5)
    number = int.from_bytes(data, "big") << (symbols * 5 - len(data) * 8)
    return "".join(_ZBASE32[(number >> (5 * i)) & 31] for i in reversed(range(symbols)))


def zbase32_decode(text: str) -> bytes:
    """Bytes of a z-base-32 text. Raises ValueError for foreign characters, bad length or set padding bits."""
    number = 0
    for char in text:
        value = _ZBASE32_VALUE.get(char)
        if value is None:
            raise ValueError(f"{char!a} is not a z-base-32 character")
        number = number << 5 | value
    padding = len(text) * 5 % 8
    if padding >= 5 or number & ((1 << padding) - 1):
        raise ValueError("z-base-32 text has a bad length or padding")
    return (number >> padding).to_bytes(len(text) * 5 // 8, "big")


def cln_message_digest(message: str) -> bytes:
    """What `signmessage` signs: double SHA-256 of `Lightning Signed Message:` and the text.

    CLN signs the text as it stood in the JSON request, escapes and all: a quote counts as two bytes
    (docs/decisions/0015-signmessage-signs-the-escaped-text.md). Only what JSON must escape is escaped.
    """
    escaped = json.dumps(message, ensure_ascii=False)[1:-1]
    return sha256(sha256(b"Lightning Signed Message:" + escaped.encode()))


def cln_sign_message(secret: Secret, message: str) -> str:
    """The `zbase` that CLN's `signmessage` returns for this node key."""
    from coincurve import PrivateKey

    signature = PrivateKey(_scalar(secret)).sign_recoverable(cln_message_digest(message), hasher=None)
    return zbase32_encode(bytes([31 + signature[64]]) + signature[:64])


def cln_recover_message(message: str, zbase: str) -> str | None:
    """The node id (66 hex) whose key signed `message`, or None when `zbase` is no signature at all.

    Every well-formed signature recovers to *some* key: the caller has to compare the id.
    """
    from coincurve import PublicKey

    if len(zbase) != 104:
        return None
    try:
        raw = zbase32_decode(zbase)
        signature = raw[1:] + bytes([(raw[0] - 31) & 0xFF])
        if signature[64] > 3:
            return None
        key = PublicKey.from_signature_and_message(signature, cln_message_digest(message), hasher=None)
    except (ValueError, TypeError):
        # coincurve raises ValueError for signatures outside the curve; UnicodeError is a ValueError.
        return None
    node_id: bytes = key.format()
    return node_id.hex()
