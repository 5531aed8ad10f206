"""Typed reading of JSON objects that strangers wrote; an absent field is None or empty."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ..canonical import JsonValue
from ..errors import InvalidParams
from . import words

MAX_LIST: Final = 32


class Fields:
    """One object and its name in sentences. Every method raises InvalidParams, reason `malformed`."""

    def __init__(self, name: str, document: Mapping[str, JsonValue]) -> None:
        self.name, self.document = name, document

    def bad(self, field: str, expected: str) -> InvalidParams:
        """The refusal of a field: what it must be, and what it is."""
        value = self.document.get(field)
        return InvalidParams(f"{self.name}.{field} must be {expected}, not {value!a:.80}", reason="malformed")

    def text(self, field: str, most: int) -> str | None:
        """A text of 1 to `most` characters."""
        value = self.document.get(field)
        if value is None:
            return None
        if not isinstance(value, str) or not 1 <= len(value) <= most:
            raise self.bad(field, f"a text of 1 to {most} characters")
        return value

    def matching(self, field: str, pattern: re.Pattern[str], expected: str) -> str:
        """A text that has to be there, of a form."""
        value = self.document.get(field)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise self.bad(field, expected)
        return value

    def whole(self, field: str, most: int) -> int | None:
        """An integer from 0 on."""
        value = self.document.get(field)
        if value is None:
            return None
        if type(value) is not int or not 0 <= value <= most:
            raise self.bad(field, f"an integer from 0 to {most}")
        return value

    def percent(self, field: str) -> float | None:
        """A number from 0 to 100."""
        value = self.document.get(field)
        if value is None:
            return None
        if type(value) not in (int, float) or not isinstance(value, int | float) or not 0 <= value <= 100:
            raise self.bad(field, "a number from 0 to 100")
        return value

    def flag(self, field: str) -> bool | None:
        """True or false."""
        value = self.document.get(field)
        if value is not None and not isinstance(value, bool):
            raise self.bad(field, "true or false")
        return value

    def object(self, field: str, *, required: bool = False) -> Fields:
        """A nested object; an empty one when it is absent."""
        value = self.document.get(field)
        if value is None and not required:
            value = {}
        if not isinstance(value, dict):
            raise self.bad(field, "an object")
        return Fields(f"{self.name}.{field}", value)

    def objects(self, field: str) -> list[Fields]:
        """A list of objects."""
        items = self.items(field)
        found = [one for one in items if isinstance(one, dict)]
        if len(found) != len(items):
            raise self.bad(field, "a list of objects")
        return [Fields(f"{self.name}.{field}[{number}]", one) for number, one in enumerate(found)]

    def items(self, field: str) -> list[JsonValue]:
        """A list of at most 32 values."""
        value = self.document.get(field)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > MAX_LIST:
            raise self.bad(field, f"a list of at most {MAX_LIST} values")
        return value

    def texts(
        self, field: str, most: int, pattern: re.Pattern[str] | None = None, expected: str = ""
    ) -> tuple[str, ...]:
        """A list of texts, each once."""
        items = self.items(field)
        found = [one for one in items if isinstance(one, str) and 1 <= len(one) <= most]
        if len(found) != len(items):
            raise self.bad(field, f"a list of texts of 1 to {most} characters")
        if pattern is not None and not all(pattern.fullmatch(one) for one in found):
            raise self.bad(field, f"a list of {expected}")
        return tuple(dict.fromkeys(found))

    def words(self, field: str) -> tuple[str, ...]:
        """A list of capabilities or specialisations, in canonical form."""
        items = self.items(field)
        found = [word for one in items if (word := words.word(one)) is not None]
        if len(found) != len(items):
            raise self.bad(field, "a list of words of a-z, 0-9 and - (at most 40 characters each)")
        return tuple(dict.fromkeys(found))

    def urls(self, field: str) -> tuple[str, ...]:
        """A list of https addresses; http for onion and loopback alone."""
        found = self.texts(field, 256)
        if not all(_URL.fullmatch(one) for one in found):
            raise self.bad(field, "a list of https addresses (http for .onion and loopback alone)")
        return found


_URL: Final = re.compile(
    r"(?:https://[^\s/?#@]+|http://(?:[a-z2-7]{56}\.onion|127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?)"
    r"(?:/[^\s?#]*)?",
    re.IGNORECASE,
)
