"""Signatures that spend a locked proof, and the witness they travel in
(docs/protocol/03-escrow-and-payments.md §2.3; NUT-11, NUT-14).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from hive_shared.canonical import DecodeError, decode_object
from hive_shared.cashu.reasons import TokenInvalid
from hive_shared.cashu.secrets import LockedSecret, SigFlag, parse_secret
from hive_shared.cashu.wire import BlindedMessage, Proof
from hive_shared.crypto import Secret, schnorr_sign, schnorr_verify, sha256

MAX_WITNESS_BYTES: Final = 4_096
_HEX64: Final = re.compile(r"[0-9a-f]{64}").fullmatch
_HEX128: Final = re.compile(r"[0-9a-f]{128}").fullmatch
_MAX_SIGNATURES: Final = 16


class Witness(msgspec.Struct, frozen=True):
    """What a proof was, or is to be, spent with. `preimage` (64 hex) is a secret until it is revealed."""

    preimage: str | None
    signatures: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<witness with {len(self.signatures)} signatures>"


def inputs_digest(secret: str) -> bytes:
    """What a spend under SIG_INPUTS signs, for each proof apart: SHA-256 of its secret."""
    return sha256(secret.encode())


def all_digest(
    inputs: Sequence[Proof], outputs: Sequence[BlindedMessage], quote_id: str | None = None
) -> bytes:
    """What a spend under SIG_ALL signs once: inputs and outputs in their order, then a melt's quote."""
    parts = [each.secret + each.C for each in inputs]
    parts += [f"{each.amount}{each.B_}" for each in outputs]
    return sha256(("".join(parts) + (quote_id or "")).encode())


def check_all_alike(inputs: Sequence[Proof]) -> LockedSecret:
    """The first input's conditions, when all inputs agree in kind, data and tags and say SIG_ALL.

    Raises TokenInvalid(`sigflag`) otherwise, and what `parse_secret` raises.
    """
    read = [parse_secret(each.secret) for each in inputs]
    if not read or any(
        each.lock != read[0].lock or each.lock.sigflag is not SigFlag.SIG_ALL for each in read
    ):
        raise TokenInvalid("sigflag", "SIG_ALL needs inputs of one kind, one data and the same tags")
    return read[0]


def sign(key: Secret, digest: bytes, aux: bytes | None = None) -> str:
    """A signature for a witness, 128 hex. `aux` as in `crypto.schnorr_sign`."""
    return schnorr_sign(key, digest, aux)


def signers(keys: Iterable[str], digest: bytes, signatures: Iterable[str]) -> frozenset[str]:
    """Those of the compressed keys that made one of the signatures; a key counts once, whatever it signs."""
    given = tuple(signatures)
    return frozenset(key for key in keys if any(schnorr_verify(key[2:], digest, each) for each in given))


def build(preimage: str | None, signatures: Sequence[str], *, old_mint: bool = False) -> str:
    """The witness text: with a preimage for the hash path, without one for P2PK and for refunds.

    `old_mint` adds the single `signature` that nutshell 0.16 looks for; newer mints pass over it.
    Raises ValueError for anything but 64 and 128 lower-case hex characters.
    """
    if preimage is not None and not _HEX64(preimage):
        raise ValueError("a preimage is 64 lower-case hex characters")
    if not signatures or not all(map(_HEX128, signatures)):
        raise ValueError("a witness needs signatures of 128 lower-case hex characters")
    fields: dict[str, object] = {} if preimage is None else {"preimage": preimage}
    fields["signatures"] = list(signatures)
    if old_mint:
        fields["signature"] = signatures[0]
    return msgspec.json.encode(fields).decode()


def parse(text: str) -> Witness:
    """Read a witness; unknown fields are passed over, the ones we use are exact.

    Raises TokenInvalid(`witness`).
    """
    try:
        fields = decode_object(text, max_bytes=MAX_WITNESS_BYTES, max_depth=3, max_nodes=64)
    except DecodeError as err:
        raise TokenInvalid("witness", f"witness is not as it must be: {err.detail}") from None
    preimage, signatures, single = (fields.get(name) for name in ("preimage", "signatures", "signature"))
    if preimage is not None and not (isinstance(preimage, str) and _HEX64(preimage)):
        raise TokenInvalid("witness", "the witness' preimage is not 64 lower-case hex characters")
    if signatures is None:
        signatures = [] if single is None else [single]
    if not isinstance(signatures, list) or len(signatures) > _MAX_SIGNATURES:
        raise TokenInvalid("witness", f"the witness' signatures are no list of at most {_MAX_SIGNATURES}")
    found = tuple(each for each in signatures if isinstance(each, str) and _HEX128(each))
    if len(found) != len(signatures):
        raise TokenInvalid("witness", "a signature of the witness is not 128 lower-case hex characters")
    return Witness(preimage, found)


def preimage_matches(preimage: str, hash_hex: str) -> bool:
    """Whether 64 hex are the preimage of a lock's hash: SHA-256 of the raw bytes, not of their hex text."""
    return bool(_HEX64(preimage)) and sha256(bytes.fromhex(preimage)).hex() == hash_hex


def preimage_in(text: str | None, hash_hex: str) -> str | None:
    """The preimage that a spent proof's witness shows, when it is that of the hash: the proof of receipt.

    None for a spend without it (a refund) and for anything malformed: the mint's word alone proves nothing.
    """
    if text is None:
        return None
    try:
        preimage = parse(text).preimage
    except TokenInvalid:
        return None
    return preimage if preimage is not None and preimage_matches(preimage, hash_hex) else None
