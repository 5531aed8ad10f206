"""What a strict decoder says of a document, in words of who wrote the document: not a type checker's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

__all__ = ["in_words"]

_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "int": "a whole number",
        "float": "a number with a point",
        "str": "a text",
        "bool": "true or false",
        "object": "an object",
        "array": "a list",
        "null": "null",
    }
)
_BOUNDS: Final = MappingProxyType({">=": "at least", "<=": "at most", ">": "above", "<": "below"})
_AT: Final = re.compile(r" - at `(?P<key>key in )?\$(?P<path>[^`]*)`\Z")
_GOT: Final = re.compile(r"Expected `(?P<want>[a-z| ]+)`, got `(?P<got>[a-z]+)`")
_BOUND: Final = re.compile(r"Expected `[a-z| ]+` (?P<op>[<>]=?) (?P<than>-?[0-9.]+)")
_LENGTH: Final = re.compile(r"Expected `(?P<of>str|array|object)` of length (?P<op>[<>]=?) (?P<than>[0-9]+)")
_FIELD: Final = re.compile(r"Object (?P<what>missing required|contains unknown) field `(?P<name>[^`]*)`")


def in_words(error: msgspec.ValidationError, limit: int = 160) -> str:
    """The same in a short sentence that names the field: `amount_sats must be a whole number, not a text`.

    What it does not know it leaves as it is; at most ``limit`` characters.
    """
    text = str(error)
    place = _AT.search(text)
    said = text if place is None else text[: place.start()]
    where = "" if place is None else place["path"].removeprefix(".")
    found = _sentence(said, where or "it")
    return (found or text)[:limit]


def _sentence(said: str, field: str) -> str | None:
    if match := _FIELD.fullmatch(said):
        of = "" if field == "it" else f" of {field}"
        missing = match["what"].startswith("missing")
        return f"{match['name']}{of} is missing" if missing else f"{match['name']}{of} is no field here"
    if match := _GOT.fullmatch(said):
        want = " or ".join(_NAMES.get(each, each) for each in match["want"].split(" | ") if each != "null")
        return f"{field} must be {want}, not {_NAMES.get(match['got'], match['got'])}"
    if match := _BOUND.fullmatch(said):
        return f"{field} must be {_BOUNDS[match['op']]} {match['than']}"
    if match := _LENGTH.fullmatch(said):
        unit = "characters" if match["of"] == "str" else "entries"
        return f"{field} must have {_BOUNDS[match['op']]} {match['than']} {unit}"
    if said.startswith("Expected `str` matching regex"):
        return f"{field} does not have the form that it needs"
    return None
