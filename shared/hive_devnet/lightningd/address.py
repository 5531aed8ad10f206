"""Segwit addresses of regtest (`bcrt1…`), BIP 173 and BIP 350, both ways."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

HRP = "bcrt"
_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_BECH32 = 1
_BECH32M = 0x2BC830A3
_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


class AddressError(ValueError):
    """Raised for a string that is no regtest segwit address; says why."""


def _polymod(values: Iterable[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATORS):
            if top >> bit & 1:
                check ^= generator
    return check


def _expanded_hrp() -> list[int]:
    return [ord(char) >> 5 for char in HRP] + [0] + [ord(char) & 31 for char in HRP]


def _regroup(values: Sequence[int], source: int, target: int, *, pad: bool) -> list[int]:
    buffer = bits = 0
    groups = []
    for value in values:
        buffer = buffer << source | value
        bits += source
        while bits >= target:
            bits -= target
            groups.append(buffer >> bits & ((1 << target) - 1))
        buffer &= (1 << bits) - 1
    if pad and bits:
        groups.append(buffer << (target - bits) & ((1 << target) - 1))
    elif not pad and (bits >= source or buffer):
        raise AddressError("address has non-zero or too much padding")
    return groups


def script_of_address(address: str) -> bytes:
    """Return the output script that `address` stands for; raise `AddressError` when it is none of regtest."""
    if address not in (address.lower(), address.upper()):
        raise AddressError(f"address {address!r} mixes upper and lower case")
    prefix, _, data = address.lower().rpartition("1")
    if prefix != HRP:
        raise AddressError(f"address {address!r} is not of regtest: it must start with {HRP}1")
    if len(address) > 90 or len(data) < 8 or any(char not in _CHARSET for char in data):
        raise AddressError(f"address {address!r} has a bad length or character")
    values = [_CHARSET.index(char) for char in data]
    version = values[0]
    if _polymod(_expanded_hrp() + values) != (_BECH32 if version == 0 else _BECH32M):
        raise AddressError(f"address {address!r} has a wrong checksum")
    program = bytes(_regroup(values[1:-6], 5, 8, pad=False))
    if version > 16 or not 2 <= len(program) <= 40 or (version == 0 and len(program) not in (20, 32)):
        raise AddressError(f"address {address!r} has witness version {version} with {len(program)} bytes")
    return bytes([0x50 + version if version else 0, len(program)]) + program


def address_of_script(script: bytes) -> str:
    """Return the address of a segwit output script; raise `AddressError` for any other script."""
    version = script[0] - 0x50 if script and script[0] else 0
    if len(script) < 4 or len(script) > 42 or script[1] != len(script) - 2 or not 0 <= version <= 16:
        raise AddressError(f"script {script.hex()} is not a segwit output")
    values = [version, *_regroup(script[2:], 8, 5, pad=True)]
    constant = _BECH32 if version == 0 else _BECH32M
    check = _polymod(_expanded_hrp() + values + [0] * 6) ^ constant
    values += [check >> 5 * (5 - i) & 31 for i in range(6)]
    return f"{HRP}1" + "".join(_CHARSET[value] for value in values)
