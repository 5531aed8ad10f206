"""A node's keys, derived from its `hsm_secret` the way Core Lightning's hsmd derives them."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

import coincurve
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

_ZBASE32 = "ybndrfg8ejkmcpqxot1uwisza345h769"
_MESSAGE_PREFIX = b"Lightning Signed Message:"


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """HKDF-SHA256 (RFC 5869)."""
    key = hmac.digest(salt or bytes(32), secret, "sha256")
    block = output = b""
    counter = 1
    while len(output) < length:
        block = hmac.digest(key, block + info + bytes([counter]), "sha256")
        output += block
        counter += 1
    return output[:length]


def zbase32_encode(data: bytes) -> str:
    """`data` in zbase32; the last character is padded with zero bits."""
    bits = len(data) * 8
    padded = -(-bits // 5) * 5
    value = int.from_bytes(data, "big") << (padded - bits)
    return "".join(_ZBASE32[value >> shift & 31] for shift in range(padded - 5, -1, -5))


def zbase32_decode(text: str) -> bytes | None:
    """The bytes of a zbase32 text, None if it is not one."""
    value = 0
    for character in text:
        digit = _ZBASE32.find(character)
        if digit < 0:
            return None
        value = value << 5 | digit
    size = len(text) * 5 // 8
    spare = len(text) * 5 - size * 8
    if value & (1 << spare) - 1:
        return None
    return (value >> spare).to_bytes(size, "big")


def message_digest(message: str) -> bytes:
    """What `signmessage` signs: the double SHA-256 of the prefixed message."""
    return hashlib.sha256(hashlib.sha256(_MESSAGE_PREFIX + message.encode()).digest()).digest()


def recover_signer(message: str, compact: bytes) -> str | None:
    """Node id that made the 65-byte signature (31 + recid, then r and s); None if none can be recovered.

    Raises ValueError when the bytes are no signature at all.
    """
    recid = compact[0] - 31
    if recid not in range(4):
        raise ValueError(f"recovery id {recid} is not in 0..3")
    for part in (compact[1:33], compact[33:65]):
        if int.from_bytes(part, "big") >= coincurve.utils.GROUP_ORDER_INT:
            raise ValueError("signature value is not below the group order")
    try:
        key = coincurve.PublicKey.from_signature_and_message(
            compact[1:] + bytes([recid]), message_digest(message), hasher=None
        )
    except Exception:  # coincurve raises bare Exception and ValueError alike
        return None
    return str(key.format().hex())


class NodeKeys:
    """All secrets of one node."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise ValueError(f"hsm_secret must hold 32 bytes, not {len(seed)}")
        self._seed = seed
        self.node_key = coincurve.PrivateKey(hkdf(seed, (0).to_bytes(4, "little"), b"nodeid"))
        self.node_id = self.node_key.public_key.format().hex()
        self._derived = hkdf(seed, b"", b"derived secrets")

    @classmethod
    def load(cls, path: Path) -> NodeKeys:
        """Keys of the seed file at `path`, which is made (mode 0400) when it is not there."""
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
            with os.fdopen(descriptor, "wb") as file:
                file.write(os.urandom(32))
                file.flush()
                os.fsync(file.fileno())
        return cls(path.read_bytes())

    def make_secret(self, info: bytes) -> bytes:
        """The 32 bytes that `makesecret` returns for `info`."""
        return hkdf(self._derived, b"", info)

    def wallet_key(self, index: int) -> coincurve.PrivateKey:
        """Key of the wallet's address number `index`."""
        return coincurve.PrivateKey(hkdf(self._seed, index.to_bytes(4, "little"), b"devnet wallet"))

    def funding_key(self, index: int) -> coincurve.PrivateKey:
        """Key of the 2-of-2 funding output of the ledger's channel number `index`."""
        return coincurve.PrivateKey(hkdf(self._seed, index.to_bytes(8, "little"), b"devnet funding"))

    def seal(self, plain: bytes) -> bytes:
        """`plain` encrypted and authenticated with a key derived from the seed (ChaCha20-Poly1305)."""
        nonce = os.urandom(12)
        return nonce + ChaCha20Poly1305(self.make_secret(b"scb secret")).encrypt(nonce, plain, None)

    def rune_secret(self) -> bytes:
        """Master secret of the node's runes."""
        return self.make_secret(b"commando")

    def sign_message(self, message: str) -> tuple[bytes, int]:
        """64-byte signature and recovery id over `message`."""
        signature = self.node_key.sign_recoverable(message_digest(message), hasher=None)
        return signature[:64], signature[64]

    def sign_invoice(self, digest: bytes) -> bytes:
        """65-byte signature (r, s, recovery id) over the hash of a BOLT11 invoice."""
        return self.node_key.sign_recoverable(digest, hasher=None)


def encode_signature(signature: bytes, recid: int) -> str:
    """The zbase form of a message signature."""
    return zbase32_encode(bytes([31 + recid]) + signature)
