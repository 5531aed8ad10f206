"""Parameter types of the management schemas: one strict reading, one description, for both ends.

A type reads a JSON value or refuses it with `invalid_params{param, expected}`: booleans are not
integers, unknown keys are refused, strings are at most 2,000 characters without control characters,
amounts at most 21e14 sat (docs/protocol/02-fleet-management.md §3). `describe` gives the same facts as
data for `hive-schema-list` and for the advisor kit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final, NoReturn, Protocol

import msgspec

from ..canonical import MAX_INTEGER, JsonValue
from ..errors import from_symbol

MAX_SAT: Final = 2_100_000_000_000_000
"""21e14 sat, all there will ever be."""
MAX_MSAT: Final = MAX_INTEGER
"""Largest msat amount of a parameter: what a JSON number carries exactly, about 90,000 BTC."""
MAX_TEXT: Final = 2_000

_SCID: Final = re.compile(r"(0|[1-9][0-9]{0,7})x(0|[1-9][0-9]{0,7})x(0|[1-9][0-9]{0,4})")
_CHANNEL_ID: Final = re.compile(r"[0-9a-f]{64}")
_OUTPOINT: Final = re.compile(r"[0-9a-f]{64}:(0|[1-9][0-9]{0,4})")
_DECIMAL: Final = re.compile(r"[1-9][0-9]{0,19}")
_NODE_KEY: Final = re.compile(r"0[23][0-9a-f]{64}")
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# C0 and C1 controls, DEL, and the two line separators that terminals treat as line ends.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def refuse(path: str, expected: str, value: JsonValue) -> NoReturn:
    """Raise `invalid_params` for one parameter: its path, what it should be, what it is."""
    shown = _shown(value)
    sentence = f"parameter {path} must be {expected}, not {shown}"
    raise from_symbol("invalid_params", sentence, param=path, expected=expected)


def _shown(value: JsonValue) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        return ascii(value if len(value) <= 40 else value[:40] + "…")
    # Numbers and words as they stand in JSON; in Python 1 is True.
    return json.dumps(value)


class ParamType(Protocol):
    """Reads one JSON value (returns it normalised, or raises `invalid_params`) and describes itself."""

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The value as the executor gets it."""

    def describe(self) -> dict[str, JsonValue]:
        """The same rule as data."""


class Int(msgspec.Struct, frozen=True):
    """A JSON integer within bounds, both inclusive. A boolean is none."""

    minimum: int = 0
    maximum: int = MAX_INTEGER

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The integer."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.minimum <= value <= self.maximum:
            refuse(path, f"an integer from {self.minimum} to {self.maximum}", value)
        return value

    def describe(self) -> dict[str, JsonValue]:
        """Type and bounds."""
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}


class Ratio(msgspec.Struct, frozen=True):
    """A JSON number between 0 and 1, whole or fractional, within bounds, both inclusive; never an amount."""

    minimum: float = 0
    maximum: float = 1

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The number."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            refuse(path, f"a number from {self.minimum} to {self.maximum}", value)
        if not self.minimum <= value <= self.maximum:
            refuse(path, f"a number from {self.minimum} to {self.maximum}", value)
        return value

    def describe(self) -> dict[str, JsonValue]:
        """Type and bounds."""
        return {"type": "number", "minimum": self.minimum, "maximum": self.maximum}


class Bool(msgspec.Struct, frozen=True):
    """`true` or `false`, nothing that only looks like it."""

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The boolean."""
        if not isinstance(value, bool):
            refuse(path, "true or false", value)
        return value

    def describe(self) -> dict[str, JsonValue]:
        """Type."""
        return {"type": "boolean"}


class Text(msgspec.Struct, frozen=True):
    """A string of bounded length without control characters; `pattern` must match all of it."""

    maximum: int = MAX_TEXT
    minimum: int = 0
    pattern: str | None = None
    what: str = "text"

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The string, unchanged."""
        expected = f"{self.what} of {self.minimum} to {self.maximum} characters without control characters"
        if not isinstance(value, str) or not self.minimum <= len(value) <= self.maximum:
            refuse(path, expected, value)
        if _CONTROL.search(value) or (self.pattern is not None and not re.fullmatch(self.pattern, value)):
            refuse(path, expected if self.pattern is None else f"{self.what} ({self.pattern})", value)
        return value

    def describe(self) -> dict[str, JsonValue]:
        """Type, bounds and pattern."""
        doc: dict[str, JsonValue] = {"type": "string", "maxLength": self.maximum}
        if self.minimum:
            doc["minLength"] = self.minimum
        if self.pattern is not None:
            doc["pattern"] = f"^{self.pattern}$"
        return doc


class OneOf(msgspec.Struct, frozen=True):
    """One of a few words."""

    words: tuple[str, ...]

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The word."""
        if not isinstance(value, str) or value not in self.words:
            refuse(path, "one of " + ", ".join(self.words), value)
        return value

    def describe(self) -> dict[str, JsonValue]:
        """The words."""
        return {"type": "string", "enum": list(self.words)}


class Hex(msgspec.Struct, frozen=True):
    """Lower-case hex of a fixed number of bytes."""

    size: int

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The hex text."""
        if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{2 * self.size}}}", value):
            refuse(path, f"{2 * self.size} lower-case hex characters", value)
        return value

    def describe(self) -> dict[str, JsonValue]:
        """Pattern."""
        return {"type": "string", "pattern": f"^[0-9a-f]{{{2 * self.size}}}$"}


class Channel(msgspec.Struct, frozen=True):
    """A channel: scid `BxTxO`, 64-hex channel id, funding outpoint `txid:n`, or the scid as one u64.

    The u64 form (a number or decimal text) is returned as `BxTxO`; the other forms unchanged: only the
    node can say which channel they mean and whether it exists (02 §3, 08 §5.5).
    """

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The channel's name, u64 turned into `BxTxO`."""
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(text, str):
            if _CHANNEL_ID.fullmatch(text) or _OUTPOINT.fullmatch(text) or parse_scid(text) is not None:
                return text
            if _DECIMAL.fullmatch(text) and int(text) < 2**64:
                number = int(text)
                return f"{number >> 40}x{(number >> 16) & 0xFFFFFF}x{number & 0xFFFF}"
        refuse(path, "a short channel id BxTxO, a 64-hex channel id or txid:n", value)

    def describe(self) -> dict[str, JsonValue]:
        """Type and format."""
        return {"type": "string", "format": "channel"}


class ListedChannel(msgspec.Struct, frozen=True):
    """A channel on a list that commands are compared with: scid or 64-hex channel id.

    A funding outpoint is refused: channels are not compared by it, and a list that holds one would
    protect or exclude nothing.
    """

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The channel's name, u64 turned into `BxTxO`."""
        read = Channel().parse(value, path)
        if isinstance(read, str) and ":" in read:
            refuse(path, "a short channel id BxTxO or a 64-hex channel id", value)
        return read

    def describe(self) -> dict[str, JsonValue]:
        """Type and format."""
        return {"type": "string", "format": "channel"}


def parse_scid(text: str) -> tuple[int, int, int] | None:
    """Block, transaction and output of `BxTxO`, or None when it is no short channel id."""
    match = _SCID.fullmatch(text)
    if match is None:
        return None
    block, tx, output = (int(group) for group in match.groups())
    return (block, tx, output) if block < 2**24 and tx < 2**24 and output < 2**16 else None


class NodeKey(msgspec.Struct, frozen=True):
    """A Lightning node id: 66 lower-case hex, 02 or 03 first."""

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The node id."""
        if not isinstance(value, str) or not _NODE_KEY.fullmatch(value):
            refuse(path, "a node id of 66 lower-case hex characters", value)
        return value

    def describe(self) -> dict[str, JsonValue]:
        """Type and format."""
        return {"type": "string", "format": "node_id"}


class Outpoint(msgspec.Struct, frozen=True):
    """An output of a transaction: `txid:n` with 64 lower-case hex."""

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The outpoint."""
        if not isinstance(value, str) or not _OUTPOINT.fullmatch(value):
            refuse(path, "an output txid:n with a txid of 64 lower-case hex", value)
        return value

    def describe(self) -> dict[str, JsonValue]:
        """Type and format."""
        return {"type": "string", "format": "outpoint"}


class Uuid(msgspec.Struct, frozen=True):
    """A UUID in its usual lower-case form."""

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The UUID."""
        if not isinstance(value, str) or not is_uuid(value):
            refuse(path, "a lower-case UUID", value)
        return value

    def describe(self) -> dict[str, JsonValue]:
        """Type and format."""
        return {"type": "string", "format": "uuid"}


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID in lower-case 8-4-4-4-12 form."""
    return _UUID.fullmatch(text) is not None


class Nonce(msgspec.Struct, frozen=True):
    """A command nonce 1..2^63-1, as a number or as decimal text (needed beyond 2^53-1); returns an int."""

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The nonce as an integer."""
        number = parse_nonce(value)
        if number is None:
            refuse(path, "an integer or decimal text from 1 to 2^63-1", value)
        return number

    def describe(self) -> dict[str, JsonValue]:
        """Type and format."""
        return {"type": ["integer", "string"], "format": "nonce"}


def parse_nonce(value: JsonValue) -> int | None:
    """The nonce 1..2^63-1 of a number or decimal text (02 §6.5), or None when it is none."""
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**63:
        return None
    return value


class ListOf(msgspec.Struct, frozen=True):
    """A list of bounded length whose items are all of one type and all different."""

    item: ParamType
    minimum: int
    maximum: int

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The list with every item read."""
        if not isinstance(value, list) or not self.minimum <= len(value) <= self.maximum:
            refuse(path, f"a list of {self.minimum} to {self.maximum} items", value)
        items = [self.item.parse(item, f"{path}[{index}]") for index, item in enumerate(value)]
        seen: list[JsonValue] = []
        hashed: set[JsonValue] = set()
        for index, item in enumerate(items):
            twice = item in seen if isinstance(item, dict | list) else item in hashed
            if twice:
                refuse(f"{path}[{index}]", "different from the items before it", item)
            if isinstance(item, dict | list):
                seen.append(item)
            else:
                hashed.add(item)
        return items

    def describe(self) -> dict[str, JsonValue]:
        """Item type and bounds."""
        return {
            "type": "array",
            "items": self.item.describe(),
            "minItems": self.minimum,
            "maxItems": self.maximum,
        }


class Opaque(msgspec.Struct, frozen=True):
    """A JSON object whose content is checked elsewhere; only its size as text is bounded here."""

    max_bytes: int = 65_535

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The object, unchanged."""
        from ..canonical import encode

        if not isinstance(value, dict) or len(encode(value)) > self.max_bytes:
            refuse(path, f"an object of at most {self.max_bytes} bytes", value)
        return value

    def describe(self) -> dict[str, JsonValue]:
        """Type."""
        return {"type": "object"}


class Param(msgspec.Struct, frozen=True):
    """One named parameter. `default` fills in for an absent one; None leaves it absent. `aliases` are other
    names it may be given under; it is read as `name`."""

    name: str
    type: ParamType
    required: bool = False
    default: JsonValue = None
    aliases: tuple[str, ...] = ()


class ParamSchema(msgspec.Struct, frozen=True):
    """An object of named parameters, also usable as the type of a nested parameter.

    `at_least_one` and `exactly_one` name groups of parameters that may not all be missing; at most one
    of `exclusive` may be given.
    """

    params: tuple[Param, ...] = ()
    at_least_one: tuple[str, ...] = ()
    exactly_one: tuple[str, ...] = ()
    exclusive: tuple[str, ...] = ()

    def parse(self, value: JsonValue, path: str = "params") -> dict[str, JsonValue]:
        """The parameters read, defaults filled in. Raises `invalid_params`."""
        if not isinstance(value, dict):
            refuse(path, "an object", value)
        value = self._by_names(value, path)
        known = {param.name for param in self.params}
        for key in value:
            if key not in known:
                names = ", ".join(param.name for param in self.params) or "none"
                refuse(_join(path, key[:64]), f"absent: the known parameters are {names}", value[key])
        result: dict[str, JsonValue] = {}
        for param in self.params:
            where = _join(path, param.name)
            if param.name in value:
                result[param.name] = param.type.parse(value[param.name], where)
            elif param.required:
                raise from_symbol(
                    "invalid_params", f"parameter {where} is required", param=where, expected="present"
                )
            elif param.default is not None:
                result[param.name] = param.default
        self._check_groups(value, path)
        return result

    def _by_names(self, value: Mapping[str, JsonValue], path: str) -> dict[str, JsonValue]:
        names = {alias: param.name for param in self.params for alias in param.aliases}
        read = {names.get(key, key): item for key, item in value.items()}
        if len(read) < len(value):
            twice = next(key for key in value if (key in names and names[key] in value) or key in names)
            refuse(_join(path, twice), f"absent: {names[twice]} is given already", value[twice])
        return read

    def _check_groups(self, value: Mapping[str, JsonValue], path: str) -> None:
        rules = (
            (self.at_least_one, 1, len(self.at_least_one), "at least one of"),
            (self.exactly_one, 1, 1, "exactly one of"),
            (self.exclusive, 0, 1, "at most one of"),
        )
        for names, low, high, words in rules:
            given = sum(name in value for name in names)
            if names and not low <= given <= high:
                expected = f"{words} {', '.join(names)}"
                raise from_symbol(
                    "invalid_params", f"{path} must give {expected}", param=path, expected=expected
                )

    def describe(self) -> dict[str, JsonValue]:
        """Properties, requirements, defaults and groups as data."""
        properties: dict[str, JsonValue] = {}
        for param in self.params:
            doc = param.type.describe()
            if param.default is not None:
                doc["default"] = param.default
            if param.aliases:
                doc["aliases"] = list(param.aliases)
            properties[param.name] = doc
        required: list[JsonValue] = [param.name for param in self.params if param.required]
        result: dict[str, JsonValue] = {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }
        for word in ("at_least_one", "exactly_one", "exclusive"):
            names: tuple[str, ...] = getattr(self, word)
            if names:
                result[word] = list(names)
        return result


def _join(path: str, name: str) -> str:
    return name if path == "params" else f"{path}.{name}"


NO_PARAMS: Final = ParamSchema()
LIMIT: Final = Param("limit", Int(1, 1000), default=100)
CURSOR: Final = Param("cursor", Text(256, 1, pattern=r"[A-Za-z0-9._:=-]+", what="a cursor"))
PAGE: Final = (LIMIT, CURSOR)
"""What every list takes (02 §4)."""
