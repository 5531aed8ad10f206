"""Parsers of option values: each turns what the operator wrote into an exact value, or says why not.

All raise ``ValueError`` with a sentence that names the value and what is expected; the option's name is added
by whoever calls. Fractions are strict decimal text, never float (docs/protocol/08-client-and-plugins.md
section 10).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final
from urllib.parse import urlsplit

__all__ = ["decimal_text", "duration", "fraction", "one_of", "urls", "whole", "words"]

_DECIMAL: Final = re.compile(r"(0|[1-9][0-9]{0,8})?(\.[0-9]{1,6})?\Z")
_DURATION: Final = re.compile(r"(0|[1-9][0-9]{0,6})([smhd]?)\Z")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
SATS_MAX: Final = 2_100_000_000_000_000


def whole(low: int = 0, high: int = SATS_MAX) -> Callable[[Any], int]:
    """An integer from ``low`` to ``high``."""

    def parse(value: int) -> int:
        if not low <= value <= high:
            raise ValueError(f"must be from {low} to {high}, not {value}")
        return value

    return parse


def fraction(low: str, high: str) -> Callable[[Any], Fraction]:
    """A decimal fraction such as 0.25 with at most six digits after the point, from ``low`` to ``high``."""

    def parse(value: str) -> Fraction:
        if not value or value == "." or not _DECIMAL.match(value):
            raise ValueError(f"must be a plain decimal such as {low}, not {value[:32]!r}")
        number = Fraction(value)
        if not Fraction(low) <= number <= Fraction(high):
            raise ValueError(f"must be from {low} to {high}, not {value}")
        return number

    return parse


def one_of(*choices: str, **aliases: str) -> Callable[[Any], str]:
    """One of these words; an alias stands for the word it names."""

    def parse(value: str) -> str:
        word = aliases.get(value, value)
        if word not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {value[:64]!r}")
        return word

    return parse


def words(*choices: str, limit: int = 32) -> Callable[[Any], tuple[str, ...]]:
    """Comma-separated words in the operator's order, each once; from ``choices`` if any are named."""

    def parse(value: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
        if len(found) > limit:
            raise ValueError(f"names {len(found)} entries; at most {limit} are taken")
        for word in found:
            if choices and word not in choices:
                raise ValueError(f"{word[:64]!r} is not one of {', '.join(choices)}")
        return found

    return parse


def urls(value: str) -> tuple[str, ...]:
    """Comma-separated http(s) addresses in order of preference, without credentials or trailing slash."""
    found = words(limit=16)(value)
    for url in found:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url[:80]!r} is not an address like https://example.org")
        if parts.username or parts.password:
            raise ValueError("an address carries a user name or password; give the bare address")
    return tuple(url.rstrip("/") for url in found)


def duration(low: int, high: int) -> Callable[[Any], int]:
    """Seconds, written as 3600, 60m, 24h or 7d; from ``low`` to ``high`` seconds."""

    def parse(value: str) -> int:
        match = _DURATION.match(value)
        if match is None:
            raise ValueError(f"must be a time such as 90s, 30m, 24h or 7d, not {value[:32]!r}")
        seconds = int(match[1]) * _SECONDS[match[2]]
        if not low <= seconds <= high:
            raise ValueError(f"must be from {low} to {high} seconds, not {value}")
        return seconds

    return parse


def decimal_text(value: Fraction) -> str:
    """A parsed decimal back as text: 0.51."""
    units = int(value * 1_000_000)
    text = f"{units // 1_000_000}.{units % 1_000_000:06d}".rstrip("0")
    return text + "0" if text.endswith(".") else text
