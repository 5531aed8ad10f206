"""Subscription filters: what we may ask of a relay, and the same question asked again locally (04 §4.2).

Relays index single-letter tags only; multi-letter tag filters are refused by some and ignored by others, so
they are not sent. Every received event is matched here against the filter that asked for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from hive_shared.nostr.event import Event

MAX_FILTERS: Final = 10
MAX_LIST: Final = 500
MAX_LIMIT: Final = 500

Filter = Mapping[str, object]

_HEX_LISTS = frozenset({"ids", "authors"})
_NUMBERS = frozenset({"since", "until", "limit"})
_TAG = re.compile(r"#[a-zA-Z]\Z")
_HEX64 = re.compile(r"[0-9a-f]{64}\Z")


class CompiledFilter(msgspec.Struct, frozen=True):
    """One filter as sets, so that a match costs a few look-ups."""

    ids: frozenset[str] | None
    authors: frozenset[str] | None
    kinds: frozenset[int] | None
    tags: tuple[tuple[str, frozenset[str]], ...]
    since: int | None
    until: int | None

    def matches(self, event: Event) -> bool:
        """Tell whether the event answers this filter (NIP-01)."""
        if self.kinds is not None and event.kind not in self.kinds:
            return False
        if self.ids is not None and event.id not in self.ids:
            return False
        if self.authors is not None and event.pubkey not in self.authors:
            return False
        if self.since is not None and event.created_at < self.since:
            return False
        if self.until is not None and event.created_at > self.until:
            return False
        return all(
            any(tag[0] == name and len(tag) > 1 and tag[1] in wanted for tag in event.tags)
            for name, wanted in self.tags
        )


def compile_filters(filters: Sequence[Filter]) -> tuple[CompiledFilter, ...]:
    """Check a filter array against what relays commonly serve and compile it.

    Raises ValueError with a sentence.
    """
    if not 1 <= len(filters) <= MAX_FILTERS:
        raise ValueError(f"a subscription has 1 to {MAX_FILTERS} filters, not {len(filters)}")
    return tuple(_compile(one) for one in filters)


def _compile(raw: Filter) -> CompiledFilter:
    lists: dict[str, frozenset[str]] = {}
    tags: list[tuple[str, frozenset[str]]] = []
    kinds: frozenset[int] | None = None
    for key, value in raw.items():
        if key == "kinds":
            kinds = _kinds(value)
        elif key in _HEX_LISTS:
            lists[key] = _strings(key, value)
            if not all(_HEX64.match(item) for item in lists[key]):
                raise ValueError(f"filter {key} takes 64 hex characters each")
        elif key in _NUMBERS:
            if type(value) is not int or value < 0 or (key == "limit" and value > MAX_LIMIT):
                raise ValueError(f"filter {key} {value!r} is not a whole number in range")
        elif _TAG.match(key):
            tags.append((key[1:], _strings(key, value)))
        else:
            raise ValueError(f"filter key {key!r} is not indexed by relays; only one-letter tags are")
    since, until = raw.get("since"), raw.get("until")
    return CompiledFilter(
        lists.get("ids"),
        lists.get("authors"),
        kinds,
        tuple(tags),
        since if isinstance(since, int) else None,
        until if isinstance(until, int) else None,
    )


def _items(key: str, value: object) -> list[object]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_LIST:
        raise ValueError(f"filter {key} takes a list of 1 to {MAX_LIST} values")
    return list(value)


def _strings(key: str, value: object) -> frozenset[str]:
    items = _items(key, value)
    found = frozenset(item for item in items if isinstance(item, str))
    if not all(isinstance(item, str) for item in items):
        raise ValueError(f"filter {key} takes strings")
    return found


def _kinds(value: object) -> frozenset[int]:
    items = _items("kinds", value)
    found = frozenset(item for item in items if type(item) is int and 0 <= item <= 65_535)
    if not all(type(item) is int and 0 <= item <= 65_535 for item in items):
        raise ValueError("filter kinds takes integers from 0 to 65535")
    return found
