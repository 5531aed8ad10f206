"""Reading the transaction inside a PSBT of version 0 (BIP 174). No I/O."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

import msgspec

from .bitcoin_tx import BitcoinTx, Reader, parse_tx

_MAGIC: Final = b"psbt\xff"
_UNSIGNED_TX: Final = b"\x00"


class Unsigned(msgspec.Struct, frozen=True):
    """A transaction before its signatures. Its txid stays: of segwit inputs no signature is part of it."""

    txid: str
    tx: BitcoinTx


def unsigned_of(psbt: str) -> Unsigned:
    """The transaction of a base64 PSBT. Raises ValueError when it is none, or one of another version."""
    try:
        raw = base64.b64decode(psbt, validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error
    reader = Reader(raw)
    if raw[: len(_MAGIC)] != _MAGIC:
        raise ValueError("no PSBT")
    reader.take(len(_MAGIC))
    while size := reader.count():
        key = reader.take(size)
        value = reader.take(reader.count())
        if key == _UNSIGNED_TX:
            digest = hashlib.sha256(hashlib.sha256(value).digest()).digest()
            return Unsigned(digest[::-1].hex(), parse_tx(value.hex()))
    raise ValueError("a PSBT without an unsigned transaction: not of version 0")
