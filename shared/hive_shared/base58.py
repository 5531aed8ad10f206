"""Base58 of Bitcoin's alphabet, as multibase texts that begin with `z` use it."""

from __future__ import annotations

from typing import Final

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUE: Final = {char: value for value, char in enumerate(_ALPHABET)}
_MAX_CHARS: Final = 256
_AT_ONCE: Final = 10


def encode(data: bytes) -> str:
    """The text of some bytes; each leading zero byte becomes a `1`."""
    number = int.from_bytes(data, "big")
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))


def decode(text: str) -> bytes:
    """The bytes of a text. Raises ValueError for foreign characters and for more than 256 of them."""
    if len(text) > _MAX_CHARS:
        raise ValueError(f"a base58 text of {len(text)} characters; at most {_MAX_CHARS} are read")
    number = 0
    # Some characters at a time: what is multiplied with every character stays a machine's word.
    for first in range(0, len(text), _AT_ONCE):
        several = text[first : first + _AT_ONCE]
        part = 0
        for char in several:
            value = _VALUE.get(char)
            if value is None:
                raise ValueError(f"{char!a} is not a base58 character")
            part = part * 58 + value
        number = number * 58 ** len(several) + part
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
