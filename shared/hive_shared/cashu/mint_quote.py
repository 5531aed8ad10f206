"""What is signed to draw ecash on a mint quote that is bound to a key (NUT-20).

Two messages are in the field: mints up to nutshell 0.20.1 know the legacy one only
(docs/protocol/03-escrow-and-payments.md §5).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from hive_shared.cashu.wire import BlindedMessage
from hive_shared.crypto import sha256

_DOMAIN: Final = b"Cashu_MintQuoteSig_v1"


def quote_digest(quote: str, outputs: Sequence[BlindedMessage]) -> bytes:
    """The 32 bytes to sign: quote, and amount and `B_` of every output, each with its length before it."""
    parts = [quote.encode()]
    for each in outputs:
        parts += [each.amount.to_bytes((each.amount.bit_length() + 7) // 8), bytes.fromhex(each.B_)]
    return sha256(_DOMAIN + b"".join(struct.pack(">I", len(part)) + part for part in parts))


def legacy_quote_digest(quote: str, outputs: Sequence[BlindedMessage]) -> bytes:
    """The 32 bytes that older mints want signed: quote and the hex of every `B_`, one after the other."""
    return sha256((quote + "".join(each.B_ for each in outputs)).encode())
