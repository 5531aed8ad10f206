"""Runes as Core Lightning makes and checks them: base64 text, restrictions, conditions, authentication code.

A rune's code is the SHA-256 of the secret and all restrictions, each padded to whole blocks as SHA-256
pads its end; so it is computed from the secret here, and extending a rune means computing it again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CONDITIONS = "!=/^$~<>{}#"
_ENGLISH = {
    "=": "equal to",
    "/": "unequal to",
    "^": "starts with",
    "$": "ends with",
    "~": "contains",
    "<": "<",
    ">": ">",
    "{": "sorts before",
    "}": "sorts after",
}
_COMPLAINTS = {
    "=": "is not equal to",
    "/": "is equal to",
    "^": "does not start with",
    "$": "does not end with",
    "~": "does not contain",
    "<": "is greater or equal to",
    ">": "is less or equal to",
    "{": "is equal to or ordered after",
    "}": "is equal to or ordered before",
}


class RuneError(ValueError):
    """The text is no rune, or a restriction is malformed."""


@dataclass(frozen=True)
class Alternative:
    """One condition on one field."""

    field: str
    condition: str
    value: str

    def encode(self) -> str:
        """The condition as it stands in a rune."""
        escaped = "".join("\\" + c if c in "\\|&" else c for c in self.value)
        return f"{self.field}{self.condition}{escaped}"

    @property
    def english(self) -> str:
        """The condition in words, as `showrunes` has it."""
        if self.condition == "!":
            return f"{self.field} is missing"
        if self.condition == "#":
            return f"comment: {self.field} {self.value}"
        return f"{self.field} {_ENGLISH[self.condition]} {self.value}"

    def complaint(self, actual: str | int | None) -> str | None:
        """Why `actual` (None: the field is absent) fails the condition; None if it passes."""
        if self.condition == "#":
            return None
        if self.condition == "!":
            return None if actual is None else f"{self.field} is present"
        if actual is None:
            return f"{self.field} not present"
        if self.condition in "<>":
            return self._integer_complaint(actual)
        return None if self._holds(str(actual)) else self._words()

    def _words(self) -> str:
        return f"{self.field} {_COMPLAINTS[self.condition]} {self.value}"

    def _holds(self, text: str) -> bool:
        return {
            "=": text == self.value,
            "/": text != self.value,
            "^": text.startswith(self.value),
            "$": text.endswith(self.value),
            "~": self.value in text,
            "{": text < self.value,
            "}": text > self.value,
        }[self.condition]

    def _integer_complaint(self, actual: str | int) -> str | None:
        if not isinstance(actual, int):
            return f"{self.field} is not an integer field"
        try:
            bound = int(self.value, 10)
        except ValueError:
            return f"{self.value} is not a valid integer"
        holds = actual < bound if self.condition == "<" else actual > bound
        return None if holds else self._words()


Restriction = tuple[Alternative, ...]
FieldCheck = Callable[[Alternative], str | None]
READONLY: tuple[Restriction, ...] = (
    (
        Alternative("method", "^", "list"),
        Alternative("method", "^", "get"),
        Alternative("method", "=", "summary"),
    ),
    (Alternative("method", "/", "listdatastore"),),
)


def field_length(text: str) -> int:
    """How many leading characters of `text` are a field name."""
    for index, character in enumerate(text):
        if (
            character.isascii()
            and character.isprintable()
            and not character.isalnum()
            and character not in "_ "
        ):
            return index
    return len(text)


def alternative_from_text(text: str) -> Alternative:
    """An unescaped condition such as "method=pay", as `createrune` takes it. Raises RuneError."""
    length = field_length(text)
    if length == 0 or length == len(text) or text[length] not in CONDITIONS:
        raise RuneError(f"{text!r} is not a condition")
    return Alternative(text[:length], text[length], text[length + 1 :])


@dataclass(frozen=True)
class Rune:
    """A decoded rune. Its first restriction is the unique id when the field name is empty."""

    code: bytes
    restrictions: tuple[Restriction, ...]

    @property
    def unique_id(self) -> str | None:
        """The part of the id restriction before the version."""
        if not self._has_id:
            return None
        return self.restrictions[0][0].value.partition("-")[0]

    @property
    def version(self) -> str | None:
        """The version, which this node's runes never have."""
        value = self.restrictions[0][0].value if self._has_id else ""
        return value.partition("-")[2] or None

    @property
    def _has_id(self) -> bool:
        return bool(self.restrictions) and self.restrictions[0][0].field == ""

    @property
    def conditions(self) -> tuple[Restriction, ...]:
        """The restrictions without the id."""
        return self.restrictions[1:] if self._has_id else self.restrictions

    def encode(self) -> str:
        """The base64 text."""
        text = "&".join(_encode_restriction(restriction) for restriction in self.restrictions)
        return base64.urlsafe_b64encode(self.code + text.encode()).decode()

    def complaint(self, check: FieldCheck) -> str | None:
        """Why the rune does not permit a call: each restriction needs an alternative that passes `check`."""
        for restriction in self.conditions:
            complaints = []
            for alternative in restriction:
                problem = check(alternative)
                if problem is None:
                    break
                complaints.append(problem)
            else:
                return " AND ".join(complaints)
        return None

    @property
    def english(self) -> str:
        """All restrictions in words."""
        return " AND ".join(restriction_english(restriction) for restriction in self.conditions)


def restriction_english(restriction: Restriction) -> str:
    """One restriction in words."""
    return " OR ".join(alternative.english for alternative in restriction)


def _encode_restriction(restriction: Restriction) -> str:
    return "|".join(alternative.encode() for alternative in restriction)


def make_rune(secret: bytes, restrictions: Sequence[Restriction]) -> Rune:
    """The rune of `secret` with `restrictions`, the id among them."""
    stream = _padded(secret)
    code = hashlib.sha256(secret).digest()
    for restriction in restrictions:
        stream += _encode_restriction(restriction).encode()
        code = hashlib.sha256(stream).digest()
        stream = _padded(stream)
    return Rune(code, tuple(restrictions))


def _padded(stream: bytes) -> bytes:
    zeros = -(len(stream) + 9) % 64
    return stream + b"\x80" + bytes(zeros) + (len(stream) * 8).to_bytes(8, "big")


def parse_rune(text: str) -> Rune:
    """Decodes a rune. Raises RuneError."""
    try:
        data = base64.b64decode(text.encode(), altchars=b"-_", validate=True)
        rest = data[32:].decode()
    except (ValueError, binascii.Error, UnicodeError) as error:
        raise RuneError("should be base64 string") from error
    if len(data) < 32 or "\0" in rest:
        raise RuneError("should be base64 string")
    restrictions: list[Restriction] = []
    while rest:
        restriction, rest = _decode_restriction(rest)
        ids = [alternative for alternative in restriction if alternative.field == ""]
        if ids and (len(restriction) != 1 or restrictions or ids[0].condition != "="):
            raise RuneError("should be base64 string")
        restrictions.append(restriction)
    return Rune(data[:32], tuple(restrictions))


def _decode_restriction(text: str) -> tuple[Restriction, str]:
    alternatives: list[Alternative] = []
    while True:
        length = field_length(text)
        if length == len(text) or text[length] not in CONDITIONS:
            raise RuneError("should be base64 string")
        field, condition, rest = text[:length], text[length], text[length + 1 :]
        value, rest, ended_by = _decode_value(rest)
        alternatives.append(Alternative(field, condition, value))
        text = rest
        if ended_by != "|":
            return tuple(alternatives), text


def _decode_value(text: str) -> tuple[str, str, str]:
    value = ""
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if character in "|&":
            return value, text[position:], character
        if character == "\\":
            if position == len(text):
                raise RuneError("should be base64 string")
            character = text[position]
            position += 1
        value += character
    return value, "", ""
