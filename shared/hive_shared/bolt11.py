"""What a BOLT 11 invoice asks for, read without a node: enough to see before paying that it is the one that
was agreed (docs/protocol/11-advisor-kit.md §8; BOLT 11).

The signature is not looked at: the wallet that pays does. Strict: one amount, one payment hash.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from .errors import InvalidParams

MAX_CHARS: Final = 4_096
DEFAULT_EXPIRY_S: Final = 3_600
_ALPHABET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_TEXT: Final = re.compile(r"ln(bcrt|tbs|bc|tb)([1-9][0-9]{0,17}[munp]?)?1([02-9ac-hj-np-z]+)")
_MSAT: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "": (100_000_000_000, 1),
        "m": (100_000_000, 1),
        "u": (100_000, 1),
        "n": (100, 1),
        "p": (1, 10),
    }
)
"""Multiplier and divisor from the written amount to msat."""
_PREFIXES: Final[Mapping[str, str]] = MappingProxyType(
    {"bitcoin": "bc", "testnet": "tb", "testnet4": "tb", "signet": "tbs", "regtest": "bcrt"}
)
_MAX_MSAT: Final = 2_100_000_000_000_000_000
_TIME_GROUPS, _SIGNATURE_GROUPS, _CHECKSUM_GROUPS = 7, 104, 6
_HASH, _EXPIRY = 1, 6
_HASH_GROUPS: Final = 52


class Invoice(msgspec.Struct, frozen=True):
    """`prefix` names the network (bc, tb, tbs, bcrt), `amount_msat` is None where the payer decides."""

    prefix: str
    amount_msat: int | None
    payment_hash: str
    created_at: int
    expires_at: int


def prefix_of(network: str) -> str | None:
    """The prefix of the invoices of a network as CLN names it; None for one that is not known."""
    return _PREFIXES.get(network)


def read_invoice(text: str) -> Invoice:
    """Read an invoice, in lower or upper case. Raises InvalidParams for what is none, or is damaged."""
    if len(text) > MAX_CHARS:
        raise _bad(f"is longer than {MAX_CHARS} characters")
    bare = text.lower() if text == text.upper() else text
    found = _TEXT.fullmatch(bare)
    if found is None:
        raise _bad("is no BOLT 11 invoice")
    groups = [_ALPHABET.index(each) for each in found[3]]
    hrp = bare[: found.start(3) - 1]
    if _checksum([*(ord(c) >> 5 for c in hrp), 0, *(ord(c) & 31 for c in hrp), *groups]) != 1:
        raise _bad("is damaged: its checksum is wrong")
    body = groups[: -_CHECKSUM_GROUPS - _SIGNATURE_GROUPS]
    if len(body) < _TIME_GROUPS:
        raise _bad("ends in the middle")
    created_at = _number(body[:_TIME_GROUPS])
    fields = _fields(body[_TIME_GROUPS:])
    hashes = [data for tag, data in fields if tag == _HASH and len(data) == _HASH_GROUPS]
    if len(hashes) != 1:
        raise _bad("does not name one payment hash")
    expiry = next((_number(data) for tag, data in fields if tag == _EXPIRY and len(data) <= 12), None)
    return Invoice(
        prefix=found[1],
        amount_msat=_amount(found[2]),
        # 52 groups hold 260 bits; the last four are padding.
        payment_hash=f"{_number(hashes[0]) >> 4:064x}",
        created_at=created_at,
        expires_at=created_at + (DEFAULT_EXPIRY_S if expiry is None else expiry),
    )


def _amount(text: str | None) -> int | None:
    if text is None:
        return None
    unit = text[-1] if text[-1] in _MSAT else ""
    multiplier, divisor = _MSAT[unit]
    amount, left = divmod(int(text.removesuffix(unit)) * multiplier, divisor)
    if left or amount > _MAX_MSAT:
        raise _bad("asks for an amount that does not exist")
    return amount


def _fields(groups: Sequence[int]) -> list[tuple[int, Sequence[int]]]:
    found: list[tuple[int, Sequence[int]]] = []
    at = 0
    while at < len(groups):
        if at + 3 > len(groups):
            raise _bad("ends in the middle of a field")
        size = groups[at + 1] * 32 + groups[at + 2]
        data = groups[at + 3 : at + 3 + size]
        if len(data) != size:
            raise _bad("ends in the middle of a field")
        found.append((groups[at], data))
        at += 3 + size
    return found


def _number(groups: Sequence[int]) -> int:
    value = 0
    for group in groups:
        value = value * 32 + group
    return value


def _checksum(values: Sequence[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            check ^= generator if top >> bit & 1 else 0
    return check


def _bad(what: str) -> InvalidParams:
    return InvalidParams(f"the invoice {what}", reason="invalid_params")
