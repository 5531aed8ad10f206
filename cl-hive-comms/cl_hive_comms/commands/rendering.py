"""Answers as plain text for people (`format=text`, docs/protocol/08-client-and-plugins.md §4)."""

from collections.abc import Mapping
from typing import Any


def as_text(result: Mapping[str, Any]) -> dict[str, Any]:
    """The same answer with lines to read; lightning-cli prints them because of `format-hint`."""
    return {"format-hint": "simple", "text": "\n".join(_lines(result, 0))}


def _lines(value: Any, depth: int) -> list[str]:
    pad = "  " * depth
    if isinstance(value, Mapping):
        return [line for key, item in value.items() for line in _entry(pad, str(key), item, depth)]
    if isinstance(value, list | tuple):
        return [line for item in value for line in _item(pad, item, depth)]
    return [f"{pad}{_scalar(value)}"]


def _entry(pad: str, key: str, item: Any, depth: int) -> list[str]:
    if isinstance(item, Mapping | list | tuple) and item:
        return [f"{pad}{key}:", *_lines(item, depth + 1)]
    return [f"{pad}{key}: {_scalar(item)}"]


def _item(pad: str, item: Any, depth: int) -> list[str]:
    if not isinstance(item, Mapping):
        return [f"{pad}- {_scalar(item)}"]
    lines = _lines(item, depth + 1)
    return [f"{pad}- {lines[0].lstrip()}", *lines[1:]] if lines else []


def _scalar(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping | list | tuple):
        return "none"
    return str(value)
