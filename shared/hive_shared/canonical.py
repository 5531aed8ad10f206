"""Canonical JSON (RFC 8785) and strict decoding of JSON that strangers wrote.

`encode` gives the bytes that are hashed and signed everywhere in the suite. `decode` accepts only
what `encode` could have meant: no duplicate keys, no NaN or Infinity, no lone surrogates, no integer a
double cannot hold, bounded size, depth and node count (docs/protocol/02-fleet-management.md §2.1, §6.1;
01-reputation.md §4). Whatever `decode` returns, `encode` accepts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Final, NoReturn, TypeAlias

from .errors import InvalidParams

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

MAX_BYTES: Final = 65_535
"""Largest management document on any transport (02 §6.1)."""
MAX_DEPTH: Final = 12
"""Deepest nesting of objects and arrays; a flat object has depth 1 (02 §6.1)."""
MAX_NODES: Final = 2_000
"""Most values of one document, containers included, keys not (02 §6.1)."""
MAX_INTEGER: Final = 2**53 - 1
"""Largest integer magnitude: beyond it JSON numbers differ between languages (RFC 8785 appendix D)."""

_MAX_INTEGER_DIGITS: Final = 16
_PLAIN_DEPTH: Final = 50
_PLAIN_FROM: Final = 1e-4
_PLAIN_BELOW: Final = 1e15


class DecodeError(InvalidParams):
    """A document we do not accept; reason `malformed` (what it says) or `too_large` (how much it is)."""


def encode(value: object) -> bytes:
    """The RFC 8785 text of `value` (a JsonValue; tuples count as arrays) as UTF-8.

    Raises ValueError for NaN, Infinity, integers beyond ±(2^53-1), lone surrogates, keys that are not
    strings, and types that are not JSON.
    """
    # The library writes everything but takes ten times as long, and this is the dearest step of a signed
    # command. For plain values both give the same bytes: a test compares them.
    if is_plain(value):
        try:
            return _plain_encoder()(value)
        except UnicodeEncodeError as err:
            raise ValueError("value has a lone surrogate, which no UTF-8 text can hold") from err
    import rfc8785

    try:
        return rfc8785.dumps(value)  # type: ignore[arg-type]  # the library refuses other types itself
    except RecursionError as err:
        raise ValueError("value is nested too deeply for canonical JSON") from err


@cache
def _plain_encoder() -> Callable[[object], bytes]:
    # Loaded with the first use: a command line that only prints its help must not wait for it.
    import msgspec

    return msgspec.json.Encoder(order="deterministic").encode


def is_plain(value: object) -> bool:
    """Whether msgspec's encoder writes of JSON's own types what RFC 8785 wants, the order of keys apart."""
    return _is_plain(value, _PLAIN_DEPTH)


def _is_plain(value: object, depth: int) -> bool:
    """Whether the C encoder writes `value` as RFC 8785 wants it: no fraction that might need an exponent, no
    integer a double cannot hold, only ASCII keys (they sort alike in UTF-8 and UTF-16), exactly JSON's own
    types."""
    kind = type(value)
    if kind is dict:
        # One plain loop with the common leaves first: this runs over every document that is signed.
        for key, item in value.items():  # type: ignore[attr-defined]  # kind says it is one
            if type(key) is not str or not key.isascii():
                return False
            if type(item) is not str and not (depth and _is_plain(item, depth - 1)):
                return False
        return True
    if kind is list or kind is tuple:
        for item in value:  # type: ignore[attr-defined]
            if type(item) is not str and not (depth and _is_plain(item, depth - 1)):
                return False
        return True
    if kind is int:
        return -MAX_INTEGER <= value <= MAX_INTEGER  # type: ignore[operator]
    if kind is float:
        # Both write the shortest digits that mean the number; where none of them needs an exponent they write
        # the same. Not a whole number: it would get a `.0`. NaN and Infinity are within no bounds.
        number: float = value  # type: ignore[assignment]  # kind says it is one
        return _PLAIN_FROM <= abs(number) < _PLAIN_BELOW and not number.is_integer()
    return kind is str or kind is bool or value is None


def decode(
    data: bytes | str,
    *,
    max_bytes: int = MAX_BYTES,
    max_depth: int = MAX_DEPTH,
    max_nodes: int = MAX_NODES,
    floats: bool = False,
) -> JsonValue:
    """Parse one JSON document strictly. Raises DecodeError, and nothing else, for whatever is in `data`.

    With `floats` a number with a fraction or an exponent becomes a float; without it such a number is
    refused, which is the rule for everything that carries money.
    """
    text = _text(data, max_bytes)
    try:
        value: JsonValue = (_WITH_FLOATS if floats else _INTEGERS_ONLY).decode(text)
    except RecursionError:
        raise DecodeError(f"document is nested deeper than {max_depth}", reason="too_large") from None
    except json.JSONDecodeError as err:
        raise DecodeError(f"not valid JSON: {err.msg} at character {err.pos}", reason="malformed") from None
    # Text that is UTF-8 holds no half of a surrogate pair; only an escape can put one into a value.
    _check(value, max_depth, max_nodes, halves="\\ud" in text or "\\uD" in text)
    return value


def decode_object(
    data: bytes | str,
    *,
    max_bytes: int = MAX_BYTES,
    max_depth: int = MAX_DEPTH,
    max_nodes: int = MAX_NODES,
    floats: bool = False,
) -> dict[str, JsonValue]:
    """Like `decode`, for documents that must be a JSON object. Raises DecodeError."""
    value = decode(data, max_bytes=max_bytes, max_depth=max_depth, max_nodes=max_nodes, floats=floats)
    if not isinstance(value, dict):
        raise DecodeError(f"expected a JSON object, got {_kind(value)}", reason="malformed")
    return value


def _text(data: bytes | str, max_bytes: int) -> str:
    # Characters never outnumber bytes, so this first test is cheap and safe for str too.
    if len(data) > max_bytes:
        raise DecodeError(f"document is larger than {max_bytes} bytes", reason="too_large")
    if isinstance(data, bytes):
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as err:
            raise DecodeError(f"not UTF-8 at byte {err.start}", reason="malformed") from None
    try:
        size = len(data.encode("utf-8"))
    except UnicodeEncodeError as err:
        raise DecodeError(f"lone surrogate at character {err.start}", reason="malformed") from None
    if size > max_bytes:
        raise DecodeError(f"document is {size} bytes, at most {max_bytes} are accepted", reason="too_large")
    return data


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise DecodeError(f"key {twice[:64]!a} appears twice in one object", reason="malformed")
    return result


def _integer(digits: str) -> int:
    # Length first: int() of a very long literal is slow, and past 4,300 digits raises an error of its own.
    if len(digits) > _MAX_INTEGER_DIGITS + 1 or abs(number := int(digits)) > MAX_INTEGER:
        raise DecodeError(f"integer {digits[:24]} is beyond ±(2^53-1)", reason="malformed")
    return number


def _float(literal: str) -> float:
    number = float(literal)
    if number in (float("inf"), float("-inf")):
        raise DecodeError(f"number {literal[:24]} is too large for a double", reason="malformed")
    # From 1e21 on canonical text has an exponent; below, such a float is written as an integer, which
    # would not be accepted back.
    if MAX_INTEGER < abs(number) < 1e21:
        raise DecodeError(f"number {literal[:24]} is an integer beyond ±(2^53-1)", reason="malformed")
    return number


def _no_float(literal: str) -> NoReturn:
    raise DecodeError(f"number {literal[:24]} is not an integer", reason="malformed")


def _no_constant(literal: str) -> NoReturn:
    raise DecodeError(f"{literal} is not JSON", reason="malformed")


_INTEGERS_ONLY: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_no_float, parse_constant=_no_constant
)
_WITH_FLOATS: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_float, parse_constant=_no_constant
)


def _check(value: JsonValue, max_depth: int, max_nodes: int, *, halves: bool) -> None:
    nodes = 0
    # Breadth first, one list per level: the depth is the number of levels and nothing recurses.
    level: list[JsonValue] = [value]
    depth = 0
    while level:
        nodes += len(level)
        if nodes > max_nodes:
            raise DecodeError(f"document has more than {max_nodes} values", reason="too_large")
        inner: list[JsonValue] = []
        containers = False
        for item in level:
            if isinstance(item, dict):
                containers = True
                if halves:
                    for key in item:
                        _check_string(key)
                inner.extend(item.values())
            elif isinstance(item, list):
                containers = True
                inner.extend(item)
            elif halves and isinstance(item, str):
                _check_string(item)
        depth += containers
        if depth > max_depth:
            raise DecodeError(f"document is nested deeper than {max_depth}", reason="too_large")
        level = inner


def _check_string(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DecodeError("a string holds a lone surrogate", reason="malformed") from None


def _kind(value: JsonValue) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names[type(value)]
