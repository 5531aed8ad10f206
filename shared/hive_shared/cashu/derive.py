"""Every key, nonce and blinding factor of the ecash side, derived: what the node's seed makes again after the
database is lost (docs/protocol/03-escrow-and-payments.md §2.4, §4.1; NUT-13).
"""

from __future__ import annotations

import hmac
import struct
from functools import lru_cache
from typing import Final, NamedTuple

from hive_shared.cashu.curve import ORDER
from hive_shared.crypto import Secret, hkdf_sha256, hmac_sha256, sha256

MASTER_LABEL: Final = "hive-escrow-v1"
"""What `makesecret string=` is asked for: the master of everything below."""
_SEED_BYTES: Final = 64
_HARDENED: Final = 0x80000000
_PURPOSE: Final = 129372
_NUT13_V2: Final = b"Cashu_KDF_HMAC_SHA256"
_KEYSETS: Final = 64


class EscrowKeys:
    """The keys under one master (32 bytes of `makesecret`). Raises ValueError for another length."""

    def __init__(self, master: Secret) -> None:
        if len(master.reveal()) != 32:
            raise ValueError("the escrow master has 32 bytes")
        self._master = master

    def seed(self) -> Secret:
        """64 bytes: secrets and blinding factors of unlocked proofs (NUT-13)."""
        return Secret(self._derive("seed", _SEED_BYTES))

    def lock_seed(self) -> Secret:
        """64 bytes: blinding factors of locked proofs (`lock_r`)."""
        return Secret(self._derive("lock_seed", _SEED_BYTES))

    def lock(self, context: str) -> Secret:
        """The payee key of one contract or ticket. Announced as its compressed public key."""
        return _key(self._derive(f"lock/{context}", 32))

    def refund(self, ticket_id: str) -> Secret:
        """The payer's key that takes a ticket's money back after its locktime."""
        return _key(self._derive(f"refund/{ticket_id}", 32))

    def l402(self) -> Secret:
        """32 bytes: the root of the macaroons we issue (03 §7.5)."""
        return Secret(self._derive("l402", 32))

    def _derive(self, info: str, length: int) -> bytes:
        return hkdf_sha256(self._master.reveal(), info=info.encode(), length=length)


def public_key(key: Secret) -> str:
    """The compressed public key (66 hex) of a key of ours: what a payer locks to."""
    from coincurve import PrivateKey

    formatted: bytes = PrivateKey(key.reveal()).public_key.format()
    return formatted.hex()


def lock_nonce(terms_hash: bytes, mint: int, item: int, proof: int) -> str:
    """The nonce of one locked proof: 32 hex. `mint`, `item`, `proof` count from 0; 32 bytes of terms hash."""
    return sha256(b"hive-escrow-nonce/v1" + _place(terms_hash, mint, item, proof)).hex()[:32]


def lock_r(lock_seed: Secret, terms_hash: bytes, mint: int, item: int, proof: int) -> bytes:
    """The blinding factor of one locked proof; `proof` is its position in ascending denominations."""
    message = b"hive-escrow-r/v1" + _place(terms_hash, mint, item, proof)
    counter = 0
    while True:
        r = hmac_sha256(lock_seed.reveal(), message + struct.pack(">I", counter))
        if 0 < int.from_bytes(r) < ORDER:
            return r
        counter += 1


class Derived(NamedTuple):
    """The secret and the blinding factor of one unlocked proof."""

    secret: str
    r: bytes


class UnlockedSecrets:
    """NUT-13 under one seed (16 to 64 bytes): secret and r of a keyset's counter."""

    def __init__(self, seed: Secret) -> None:
        self._seed = seed
        self._keyset_node = lru_cache(_KEYSETS)(self._derive_keyset_node)

    def derive(self, keyset_id: str, counter: int) -> Derived:
        """The pair of a counter, 0 .. 2^31-1; the caller never uses a counter twice.

        Raises ValueError for a keyset id of neither version and for a counter out of range.
        """
        if not 0 <= counter < _HARDENED:
            raise ValueError(f"counter {counter} is outside 0 .. 2^31-1")
        if keyset_id.startswith("00") and len(keyset_id) == 16:
            node = _child(self._keyset_node(keyset_id), counter | _HARDENED)
            return Derived(_child(node, 0).key.hex(), _child(node, 1).key)
        if keyset_id.startswith("01") and len(keyset_id) == 66:
            message = _NUT13_V2 + bytes.fromhex(keyset_id) + struct.pack(">Q", counter)
            seed = self._seed.reveal()
            secret = hmac_sha256(seed, message + b"\x00")
            return Derived(secret.hex(), _reduced(hmac_sha256(seed, message + b"\x01")))
        raise ValueError(f"keyset id {keyset_id[:70]} is of no version we derive secrets for")

    def _derive_keyset_node(self, keyset_id: str) -> _Node:
        digest = hmac.digest(b"Bitcoin seed", self._seed.reveal(), "sha512")
        node = _Node(digest[:32], digest[32:])
        for index in (_PURPOSE, 0, int(keyset_id, 16) % (2**31 - 1)):
            node = _child(node, index | _HARDENED)
        return node


class _Node(NamedTuple):
    """An extended private key of BIP32."""

    key: bytes
    chain: bytes


def _child(node: _Node, index: int) -> _Node:
    data = b"\x00" + node.key if index & _HARDENED else bytes.fromhex(public_key(Secret(node.key)))
    digest = hmac.digest(node.chain, data + struct.pack(">I", index), "sha512")
    tweak = int.from_bytes(digest[:32])
    key = (tweak + int.from_bytes(node.key)) % ORDER
    if tweak >= ORDER or key == 0:
        raise ValueError(f"BIP32 has no child {index} here")  # one in 2^127
    return _Node(key.to_bytes(32), digest[32:])


def _place(terms_hash: bytes, mint: int, item: int, proof: int) -> bytes:
    if len(terms_hash) != 32:
        raise ValueError(f"a terms hash has 32 bytes, this one has {len(terms_hash)}")
    return terms_hash + struct.pack(">III", mint, item, proof)


def _key(data: bytes) -> Secret:
    return Secret(_reduced(data))


def _reduced(data: bytes) -> bytes:
    scalar = int.from_bytes(data) % ORDER
    if scalar == 0:
        raise ValueError("derived a scalar of 0")  # one in 2^256
    return scalar.to_bytes(32)
