"""Strict decoding of JSON that came from a relay or from inside a gift wrap (Protocol 04 §5.2).

Beside `hive_shared.canonical` because the rules differ: foreign events may be large and are read thousands
per second, so depth is measured level by level after C-speed parsing and nothing is copied.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from hive_shared.nostr.reasons import FrameInvalid

MAX_FRAME_BYTES = 131_072
MAX_DEPTH = 16


def _no_constant(name: str) -> NoReturn:
    raise FrameInvalid("malformed", f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise FrameInvalid("duplicate_key", "an object names the same key twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def decode_json(text: str, *, max_bytes: int = MAX_FRAME_BYTES, max_depth: int = MAX_DEPTH) -> Any:
    """Parse JSON text of a stranger: bounded, no NaN, no duplicate keys, no lone surrogates.

    Returns plain Python values; raises FrameInvalid with a reason (`too_large`, `malformed`, `too_deep`,
    `duplicate_key`, `surrogate`) and never anything else.
    """
    if len(text) > max_bytes or (not text.isascii() and _utf8_length(text) > max_bytes):
        raise FrameInvalid("too_large", f"more than {max_bytes} bytes")
    try:
        value = _DECODER.decode(text)
    except FrameInvalid:
        raise
    except RecursionError:
        raise FrameInvalid("too_deep", f"nested deeper than {max_depth} levels") from None
    except ValueError as error:
        raise FrameInvalid("malformed", f"not JSON: {error}") from None
    _check_depth(value, max_depth)
    # Text that arrived as UTF-8 holds no surrogates; only a \ud8xx escape can put one into a value.
    if ("\\ud" in text or "\\uD" in text) and not _encodable(value):
        raise FrameInvalid("surrogate", "a string holds half of a surrogate pair")
    return value


def _utf8_length(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise FrameInvalid("surrogate", "the text holds half of a surrogate pair") from None


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_depth(value: Any, limit: int) -> None:
    level: list[list[Any] | dict[str, Any]] = [value] if type(value) is list or type(value) is dict else []
    for _ in range(limit):
        if not level:
            return
        below: list[list[Any] | dict[str, Any]] = []
        for item in level:
            inner = item.values() if isinstance(item, dict) else item
            below += [x for x in inner if type(x) is list or type(x) is dict]
        level = below
    if level:
        raise FrameInvalid("too_deep", f"nested deeper than {limit} levels")
