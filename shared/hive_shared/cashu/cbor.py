"""The part of CBOR (RFC 8949) that ecash tokens use: integers, byte and text strings, arrays, maps, true,
false, null, all of definite length (docs/protocol/03-escrow-and-payments.md §5, NUT-00).

Written for bytes of strangers: everything else is refused, nothing is allocated on a claimed length.
"""

from __future__ import annotations

import struct
from typing import Final, TypeAlias

CborValue: TypeAlias = "int | bytes | str | bool | list[CborValue] | dict[str, CborValue] | None"

MAX_DEPTH: Final = 8
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _SIMPLE = 0, 1, 2, 3, 4, 5, 7
_SIMPLE_VALUES: Final[dict[int, bool | None]] = {20: False, 21: True, 22: None}


class CborError(ValueError):
    """Bytes that are not the CBOR we read; the text says what was found where."""


def decode(data: bytes) -> CborValue:
    """Read one value that takes all the bytes. Raises CborError."""
    value, end = _value(data, 0, MAX_DEPTH)
    if end != len(data):
        raise CborError(f"{len(data) - end} bytes follow the value")
    return value


def encode(value: CborValue) -> bytes:
    """Write one value, map keys in the order given. Raises ValueError for an integer beyond 64 bits."""
    if value is None or isinstance(value, bool):
        return bytes([_SIMPLE << 5 | {False: 20, True: 21, None: 22}[value]])
    if isinstance(value, int):
        return _head(_UNSIGNED, value) if value >= 0 else _head(_NEGATIVE, -1 - value)
    if isinstance(value, bytes):
        return _head(_BYTES, len(value)) + value
    if isinstance(value, str):
        text = value.encode()
        return _head(_TEXT, len(text)) + text
    if isinstance(value, list):
        return _head(_ARRAY, len(value)) + b"".join(map(encode, value))
    pairs = (encode(key) + encode(item) for key, item in value.items())
    return _head(_MAP, len(value)) + b"".join(pairs)


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for extra, (code, limit) in enumerate((("B", 2**8), (">H", 2**16), (">I", 2**32), (">Q", 2**64))):
        if argument < limit:
            return bytes([major << 5 | 24 + extra]) + struct.pack(code, argument)
    raise ValueError(f"{argument} does not fit into 64 bits")


def _value(data: bytes, at: int, depth: int) -> tuple[CborValue, int]:
    if at >= len(data):
        raise CborError(f"cut off at byte {at}")
    if depth == 0:
        raise CborError(f"nested deeper than {MAX_DEPTH}")
    major, short = data[at] >> 5, data[at] & 31
    argument, at = _argument(data, at, short)
    if major == _UNSIGNED:
        return argument, at
    if major == _NEGATIVE:
        return -1 - argument, at
    if major == _SIMPLE and short in _SIMPLE_VALUES:
        return _SIMPLE_VALUES[short], at
    if major in (_BYTES, _TEXT):
        return _string(data, at, argument, text=major == _TEXT)
    if major not in (_ARRAY, _MAP):
        raise CborError(f"a tag, float or other value at byte {at}, which tokens do not use")
    # Every element takes a byte at least: a claim beyond what is left is a lie.
    if argument > len(data) - at:
        raise CborError(f"{argument} elements are claimed at byte {at}, more than there are bytes")
    if major == _ARRAY:
        items: list[CborValue] = []
        for _ in range(argument):
            item, at = _value(data, at, depth - 1)
            items.append(item)
        return items, at
    return _map(data, at, argument, depth - 1)


def _argument(data: bytes, at: int, short: int) -> tuple[int, int]:
    if short < 24:
        return short, at + 1
    if short > 27:
        raise CborError(f"an indefinite or reserved length at byte {at}")
    size = 1 << short - 24
    number = data[at + 1 : at + 1 + size]
    if len(number) < size:
        raise CborError(f"cut off at byte {at}")
    return int.from_bytes(number), at + 1 + size


def _string(data: bytes, at: int, length: int, *, text: bool) -> tuple[str | bytes, int]:
    found = data[at : at + length]
    if len(found) < length:
        raise CborError(f"a string of {length} bytes at byte {at} is cut off")
    if not text:
        return found, at + length
    try:
        return found.decode(), at + length
    except UnicodeDecodeError:
        raise CborError(f"a text at byte {at} is not UTF-8") from None


def _map(data: bytes, at: int, count: int, depth: int) -> tuple[dict[str, CborValue], int]:
    found: dict[str, CborValue] = {}
    for _ in range(count):
        key, after = _value(data, at, depth)
        if not isinstance(key, str):
            raise CborError(f"a key at byte {at} is no text")
        if key in found:
            raise CborError(f"key {key[:32]!a} appears twice in one map")
        found[key], at = _value(data, after, depth)
    return found, at
