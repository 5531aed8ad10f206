"""NIP-44 version 2 encryption (Protocol 04 §6 "NIP-44 limits", 02 §6.2).

Encrypt-then-MAC with a key shared by two parties. There is no forward secrecy: whoever gets one of the two
secret keys reads every message ever exchanged.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections import OrderedDict
from typing import Final

from coincurve import PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from hive_shared.crypto import Secret
from hive_shared.nostr.keys import is_pubkey
from hive_shared.nostr.reasons import Nip44Error

MIN_PLAINTEXT: Final = 1
MAX_PLAINTEXT: Final = 65_535
_VERSION: Final = 2
# version 1 + nonce 32 + padded text (2 + 32 … 2 + 65536) + MAC 32, and the same in base64.
_MIN_RAW, _MAX_RAW = 99, 65_603
_MIN_PAYLOAD, _MAX_PAYLOAD = 132, 87_472


def conversation_key(secret: Secret, pubkey_hex: str) -> bytes:
    """Return the 32-byte key shared by a secret key and a peer's x-only public key (64 hex).

    Raises Nip44Error(`key`) when either is not a valid key.
    """
    if not is_pubkey(pubkey_hex):
        raise Nip44Error("key", "the peer's key is not 64 lower-case hex characters")
    try:
        point = PublicKey(bytes.fromhex("02" + pubkey_hex)).multiply(secret.reveal())
    except ValueError:
        raise Nip44Error("key", "the secret or the public key is not a valid secp256k1 key") from None
    return hmac.digest(b"nip44-v2", point.format(compressed=True)[1:], "sha256")


def message_keys(key: bytes, nonce: bytes) -> tuple[bytes, bytes, bytes]:
    """Expand conversation key and nonce to (ChaCha key 32, ChaCha nonce 12, HMAC key 32)."""
    if len(key) != 32 or len(nonce) != 32:
        raise Nip44Error("key", "conversation key and nonce have 32 bytes each")
    blocks, last = b"", b""
    for counter in (1, 2, 3):
        last = hmac.digest(key, last + nonce + bytes((counter,)), "sha256")
        blocks += last
    return blocks[:32], blocks[32:44], blocks[44:76]


def padded_length(size: int) -> int:
    """Return the length that a plaintext of `size` bytes is padded to, so that its length is blurred."""
    if size <= 32:
        return 32
    power = 1 << (size - 1).bit_length()
    chunk = 32 if power <= 256 else power // 8
    return chunk * ((size - 1) // chunk + 1)


def encrypt(key: bytes, plaintext: str, nonce: bytes | None = None) -> str:
    """Encrypt under a conversation key; returns base64. A nonce is given by tests only and never used twice.

    Raises Nip44Error(`length`) unless the UTF-8 text has 1 to 65,535 bytes.
    """
    try:
        data = plaintext.encode()
    except UnicodeEncodeError:
        raise Nip44Error("encoding", "the text holds half of a surrogate pair") from None
    if not MIN_PLAINTEXT <= len(data) <= MAX_PLAINTEXT:
        raise Nip44Error(
            "length", f"{len(data)} bytes of text; {MIN_PLAINTEXT} to {MAX_PLAINTEXT} can be encrypted"
        )
    nonce = os.urandom(32) if nonce is None else nonce
    cipher_key, cipher_nonce, mac_key = message_keys(key, nonce)
    padded = len(data).to_bytes(2, "big") + data.ljust(padded_length(len(data)), b"\0")
    ciphertext = _chacha20(cipher_key, cipher_nonce, padded)
    mac = hmac.digest(mac_key, nonce + ciphertext, "sha256")
    return base64.b64encode(bytes((_VERSION,)) + nonce + ciphertext + mac).decode("ascii")


def decrypt(key: bytes, payload: str) -> str:
    """Open a payload; raises Nip44Error with the reason and without any plaintext.

    The order is fixed: version marker, length, base64, version byte, MAC in constant time, and only then
    decryption and padding.
    """
    if payload.startswith("#"):
        raise Nip44Error("unsupported_encryption", "the payload is marked as a later encryption version")
    if not _MIN_PAYLOAD <= len(payload) <= _MAX_PAYLOAD:
        raise Nip44Error(
            "length", f"{len(payload)} characters; a payload has {_MIN_PAYLOAD} to {_MAX_PAYLOAD}"
        )
    try:
        raw = base64.b64decode(payload.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        raise Nip44Error("base64", "the payload is not base64") from None
    if raw[0] != _VERSION:
        raise Nip44Error("unsupported_encryption", f"encryption version {raw[0]}; only version 2 is read")
    if not _MIN_RAW <= len(raw) <= _MAX_RAW:
        raise Nip44Error("length", f"{len(raw)} bytes; a payload has {_MIN_RAW} to {_MAX_RAW}")
    nonce, ciphertext, mac = raw[1:33], raw[33:-32], raw[-32:]
    cipher_key, cipher_nonce, mac_key = message_keys(key, nonce)
    if not hmac.compare_digest(hmac.digest(mac_key, nonce + ciphertext, "sha256"), mac):
        raise Nip44Error("mac", "the message was altered or belongs to another conversation")
    return _unpad(_chacha20(cipher_key, cipher_nonce, ciphertext))


def _unpad(padded: bytes) -> str:
    size = int.from_bytes(padded[:2], "big")
    text = padded[2 : 2 + size]
    if size == 0 or len(text) != size or len(padded) != 2 + padded_length(size):
        raise Nip44Error("padding", "the padding does not fit the length")
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise Nip44Error("encoding", "the text is not UTF-8") from None


def _chacha20(key: bytes, nonce: bytes, data: bytes) -> bytes:
    # `cryptography` takes the 32-bit block counter, here 0, and the 12-byte nonce as one value of 16 bytes.
    return Cipher(ChaCha20(key, bytes(4) + nonce), mode=None).encryptor().update(data)


class ConversationKeys:
    """The last conversation keys by (own key, peer), saving a point multiplication per message (02 §16)."""

    def __init__(self, size: int = 1_000) -> None:
        self._size = size
        self._keys: OrderedDict[tuple[bytes, str], bytes] = OrderedDict()

    def get(self, secret: Secret, pubkey_hex: str) -> bytes:
        """Return the conversation key, computing it at most once while it is among the last used."""
        index = (hashlib.sha256(secret.reveal()).digest(), pubkey_hex)
        key = self._keys.get(index)
        if key is None:
            key = conversation_key(secret, pubkey_hex)
            self._keys[index] = key
            if len(self._keys) > self._size:
                self._keys.popitem(last=False)
        else:
            self._keys.move_to_end(index)
        return key

    def clear(self) -> None:
        """Forget everything, for instance after a key rotation."""
        self._keys.clear()
