"""A node's keys, derived from its `hsm_secret` the way Core Lightning's hsmd derives them."""

from __future__ import annotations

import os
from pathlib import Path

import coincurve
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hive_shared.crypto import cln_message_digest, hkdf_sha256, zbase32_encode


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
            compact[1:] + bytes([recid]), cln_message_digest(message), hasher=None
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
        self.node_key = coincurve.PrivateKey(
            hkdf_sha256(seed, salt=(0).to_bytes(4, "little"), info=b"nodeid")
        )
        self.node_id = self.node_key.public_key.format().hex()
        self._derived = hkdf_sha256(seed, info=b"derived secrets")

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
        return hkdf_sha256(self._derived, info=info)

    def wallet_key(self, index: int) -> coincurve.PrivateKey:
        """Key of the wallet's address number `index`."""
        return coincurve.PrivateKey(
            hkdf_sha256(self._seed, salt=index.to_bytes(4, "little"), info=b"devnet wallet")
        )

    def funding_key(self, index: int) -> coincurve.PrivateKey:
        """Key of the 2-of-2 funding output of the ledger's channel number `index`."""
        return coincurve.PrivateKey(
            hkdf_sha256(self._seed, salt=index.to_bytes(8, "little"), info=b"devnet funding")
        )

    def seal(self, plain: bytes) -> bytes:
        """`plain` encrypted and authenticated with a key derived from the seed (ChaCha20-Poly1305)."""
        nonce = os.urandom(12)
        return nonce + ChaCha20Poly1305(self.make_secret(b"scb secret")).encrypt(nonce, plain, None)

    def rune_secret(self) -> bytes:
        """Master secret of the node's runes."""
        return self.make_secret(b"commando")

    def sign_message(self, message: str) -> tuple[bytes, int]:
        """64-byte signature and recovery id over `message`."""
        signature = self.node_key.sign_recoverable(cln_message_digest(message), hasher=None)
        return signature[:64], signature[64]

    def sign_invoice(self, digest: bytes) -> bytes:
        """65-byte signature (r, s, recovery id) over the hash of a BOLT11 invoice."""
        return self.node_key.sign_recoverable(digest, hasher=None)


def encode_signature(signature: bytes, recid: int) -> str:
    """The zbase form of a message signature."""
    return zbase32_encode(bytes([31 + recid]) + signature)
