"""Bech32 and bech32m (BIP 173, BIP 350) and the segwit addresses of regtest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
BECH32 = 1
BECH32M = 0x2BC830A3
ADDRESS_HRP = "bcrt"


def _polymod(values: Iterable[int]) -> int:
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for index, generator in enumerate(_GENERATOR):
            if top >> index & 1:
                checksum ^= generator
    return checksum


def _expand(hrp: str) -> list[int]:
    return [ord(c) >> 5 for c in hrp] + [0] + [ord(c) & 31 for c in hrp]


def encode(hrp: str, data: Sequence[int], constant: int = BECH32) -> str:
    """5-bit `data` under `hrp`."""
    polymod = _polymod([*_expand(hrp), *data, 0, 0, 0, 0, 0, 0]) ^ constant
    checksum = [polymod >> 5 * (5 - i) & 31 for i in range(6)]
    return hrp + "1" + "".join(_CHARSET[d] for d in [*data, *checksum])


def decode(text: str) -> tuple[str, list[int], int]:
    """(hrp, 5-bit data, checksum constant). Raises ValueError."""
    if text.lower() != text and text.upper() != text:
        raise ValueError("mixed case in bech32 text")
    text = text.lower()
    hrp, separator, rest = text.rpartition("1")
    if not separator or not hrp or len(rest) < 6 or any(c not in _CHARSET for c in rest):
        raise ValueError("not a bech32 text")
    values = [_CHARSET.index(c) for c in rest]
    constant = _polymod([*_expand(hrp), *values])
    if constant not in (BECH32, BECH32M):
        raise ValueError("bech32 checksum does not match")
    return hrp, values[:-6], constant


def to_five_bits(data: bytes) -> list[int]:
    """Bytes as 5-bit groups, zero padded."""
    bits = len(data) * 8
    padded = -(-bits // 5) * 5
    value = int.from_bytes(data, "big") << (padded - bits)
    return [value >> shift & 31 for shift in range(padded - 5, -1, -5)]


def to_bytes(groups: Sequence[int], strict: bool = True) -> bytes:
    """5-bit groups as bytes. Raises ValueError when `strict` and the padding is not short and zero."""
    value = 0
    for group in groups:
        value = value << 5 | group
    size = len(groups) * 5 // 8
    spare = len(groups) * 5 - size * 8
    if strict and (spare >= 5 or value & (1 << spare) - 1):
        raise ValueError("bad padding")
    return (value >> spare).to_bytes(size, "big")


def segwit_address(version: int, program: bytes) -> str:
    """The regtest address of a witness program."""
    constant = BECH32 if version == 0 else BECH32M
    return encode(ADDRESS_HRP, [version, *to_five_bits(program)], constant)


def segwit_script(version: int, program: bytes) -> bytes:
    """The scriptPubKey of a witness program."""
    return bytes([version + 0x50 if version else 0, len(program)]) + program


def address_script(address: str) -> bytes:
    """The scriptPubKey behind a regtest segwit address. Raises ValueError."""
    hrp, groups, constant = decode(address)
    if hrp != ADDRESS_HRP or not groups:
        raise ValueError(f"{address} is not a regtest address")
    version, program = groups[0], to_bytes(groups[1:])
    if constant != (BECH32 if version == 0 else BECH32M) or version > 16 or not 2 <= len(program) <= 40:
        raise ValueError(f"{address} is not a segwit address")
    if version == 0 and len(program) not in (20, 32):
        raise ValueError(f"{address} has a program of {len(program)} bytes")
    return segwit_script(version, program)


def hash160(data: bytes) -> bytes:
    """RIPEMD-160 of SHA-256, as in a P2WPKH program."""
    return hashlib.new("ripemd160", hashlib.sha256(data).digest()).digest()
