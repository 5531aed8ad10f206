"""What a plugin declares: parameters, methods, options; and the strict parsing of both.

Pure and free of pyln, so that a declaration can be tested without a node.
docs/protocol/08-client-and-plugins.md section 4 (calls are positional or ``key=value``, unknown parameters
are refused) and section 2 (option types).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from hive_shared.errors import InvalidParams

__all__ = [
    "ClassBy",
    "Handler",
    "InitInfo",
    "Klass",
    "MethodSpec",
    "OptionSpec",
    "Param",
    "RepeatedName",
    "object_of_pairs",
    "option_from_node",
    "parse_params",
]

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""Receives every declared parameter by name (the default where the caller gave none), returns the result
object."""

Klass = Literal["R", "A", "X", "S", "remote"]
"""R reads, A acts, X is the operator's alone, S a sibling's (authenticated before parsing), remote: reached
by remote senders through clnrest, authenticated by its own content."""

# From what most may call to what only the operator may.
_STRICTNESS: Final = ("R", "A", "X")

_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]{0,18})\Z")
_JSON_TEXT_MAX: Final = 1_048_576
_INT64: Final = 1 << 63


class Param(msgspec.Struct, frozen=True):
    """One parameter of a method.

    ``str`` also takes a JSON integer, because lightning-cli sends a bare number when text looks like one;
    ``minimum``/``maximum`` are characters, and of what has a ``minimum`` blanks alone are none.
    ``int`` takes a JSON integer or its plain decimal text, never a bool; ``minimum``/``maximum`` bound it.
    ``bool`` takes JSON true/false or the texts "true"/"false". ``json`` takes a JSON value or JSON text.
    ``any`` is handed over as it came. ``choices`` bounds a ``str``. JSON null counts as "not given".
    """

    name: str
    kind: Literal["str", "int", "bool", "json", "any"]
    required: bool = False
    default: object = None
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[str, ...] = ()


class ClassBy(msgspec.Struct, frozen=True):
    """The parameter that decides the class of a call, and the class each of its values has."""

    param: str
    classes: Mapping[str, Literal["R", "A", "X"]]

    @property
    def strictest(self) -> Klass:
        """The class of a caller who may make every call of the method."""
        return max(self.classes.values(), key=_STRICTNESS.index)

    def values(self, klass: str) -> tuple[str, ...]:
        """The values whose calls are of this class, in the order declared."""
        return tuple(value for value, own in self.classes.items() if own == klass)


class MethodSpec(msgspec.Struct, frozen=True):
    """One RPC method and who may call it (08 section 5.2).

    ``by`` is for a method that reads with one value of a parameter and changes things with another; ``klass``
    is then the strictest of its classes. Raises ``ValueError`` when the two disagree, or when ``by`` leaves
    a value of the parameter without a class: a rune or a tool set made from a gap would grant too much.
    """

    name: str
    klass: Klass
    params: tuple[Param, ...]
    handler: Handler
    description: str
    by: ClassBy | None = None

    def __post_init__(self) -> None:
        if self.by is None:
            return
        param = next((p for p in self.params if p.name == self.by.param), None)
        if param is None:
            raise ValueError(f"{self.name}: its class depends on {self.by.param}, which is no parameter")
        takes = ("false", "true") if param.kind == "bool" else param.choices
        if not takes or set(takes) != set(self.by.classes):
            raise ValueError(f"{self.name}: every value of {param.name} needs a class, and no other has one")
        if self.klass != self.by.strictest:
            raise ValueError(f"{self.name}: its class is {self.by.strictest}, the strictest of its calls")

    def class_of(self, params: Mapping[str, Any]) -> Klass:
        """The class of one call with these parsed parameters."""
        if self.by is None:
            return self.klass
        value = params[self.by.param]
        return self.by.classes[str(value).lower() if isinstance(value, bool) else value]

    @property
    def usage(self) -> str:
        """Parameter names as CLN's ``help`` shows them, optional ones in brackets."""
        names = [p.name if p.required else f"[{p.name}]" for p in self.params]
        if self.klass == "S":
            names += [name for name in ("nonce", "ts", "auth") if name not in {p.name for p in self.params}]
        return " ".join(names)


def _same(value: Any) -> Any:
    return value


class OptionSpec(msgspec.Struct, frozen=True):
    """One plugin option.

    ``parse`` turns the value (already of the declared kind; a list of it when ``multi``) into what the plugin
    works with, and raises ``ValueError`` with a sentence to refuse it. A default that is not None passes
    through ``parse`` too; a ``multi`` option that was not set is ``parse([])``.
    """

    name: str
    kind: Literal["string", "int", "bool", "flag", "string-conceal"]
    default: str | int | bool | None
    description: str
    dynamic: bool = False
    multi: bool = False
    deprecated: bool = False
    parse: Callable[[Any], Any] = _same


class InitInfo(msgspec.Struct, frozen=True):
    """What lightningd tells a plugin in ``init``. ``net_dir`` is NET of the specification (per network).

    ``options`` holds every declared option by name, parsed. ``invalid_options`` names those whose value was
    refused, with the sentence why; their entry in ``options`` is the parsed default. It is empty unless the
    app was built with ``invalid_options="report"``.
    """

    net_dir: Path
    rpc_path: Path
    network: str
    startup: bool
    proxy: str | None
    always_use_proxy: bool
    options: dict[str, Any]
    invalid_options: Mapping[str, str] = msgspec.field(default_factory=dict)


class RepeatedName(dict[str, Any]):
    """A JSON object in which a name stood more than once. ``repeated`` is that name.

    lightningd checks a rune against the first, a decoder keeps the last: such parameters could pass as a
    read and arrive as a change.
    """

    repeated: str = ""


def object_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For ``json.loads``: the object, marked when a name stood in it more than once."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    marked = RepeatedName(found)
    marked.repeated = Counter(name for name, _ in pairs).most_common(1)[0][0]
    return marked


def parse_params(spec: MethodSpec, raw: object) -> dict[str, Any]:
    """Bind and check the parameters of one call.

    Returns every declared name. Raises ``InvalidParams`` for an unknown, missing, surplus, repeated or
    ill-typed parameter.
    """
    given = _bind(spec, raw)
    return {param.name: _value(param, given.get(param.name)) for param in spec.params}


def _bind(spec: MethodSpec, raw: object) -> Mapping[str, Any]:
    if isinstance(raw, RepeatedName):
        raise InvalidParams(
            f"parameter {_clip(raw.repeated)} is given twice; give it once",
            data={"param": raw.repeated[:64]},
        )
    if isinstance(raw, Mapping):
        known = {p.name for p in spec.params}
        for name in raw:
            if name not in known:
                raise InvalidParams(
                    f"unknown parameter {_clip(name)}; {_takes(spec)}", data={"param": str(name)[:64]}
                )
        return raw
    if isinstance(raw, Sequence) and not isinstance(raw, str | bytes):
        if len(raw) > len(spec.params):
            raise InvalidParams(f"{len(raw)} parameters given; {_takes(spec)}")
        return {param.name: value for param, value in zip(spec.params, raw, strict=False)}
    raise InvalidParams("params must be a JSON object or a JSON array")


def _takes(spec: MethodSpec) -> str:
    return f"{spec.name} takes {spec.usage}" if spec.params else f"{spec.name} takes no parameters"


def _clip(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 64 else text[:61] + "..."


def _refuse(param: Param, expected: str, value: object) -> InvalidParams:
    # The value is shown for scalars only: a document may be large, and may hold what should not be repeated.
    shown = f", not {_clip(value)}" if isinstance(value, bool | int | float) else ""
    return InvalidParams(
        f"{param.name} must be {expected}{shown}", data={"param": param.name, "expected": expected}
    )


def _value(param: Param, value: Any) -> Any:
    if value is None:
        if param.required:
            raise InvalidParams(f"missing required parameter: {param.name}", data={"param": param.name})
        return param.default
    match param.kind:
        case "str":
            return _text(param, value)
        case "int":
            return _integer(param, value)
        case "bool":
            return _boolean(param, value)
        case "json":
            return _document(param, value)
        case "any":
            return value


def _text(param: Param, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _refuse(param, "text", value)
    text = str(value)
    if param.choices and text not in param.choices:
        raise InvalidParams(
            f"{param.name} must be one of {', '.join(param.choices)}, not {_clip(text)}",
            data={"param": param.name, "expected": list(param.choices)},
        )
    if param.minimum is not None and len(text.strip()) < param.minimum:
        # A script's empty variable: taken for "not given" it would do what was not meant.
        most = f" to {param.maximum}" if param.maximum is not None else ""
        left_out = "" if param.required else ", or left out"
        raise _refuse(param, f"text of {param.minimum}{most} characters{left_out}", value)
    if param.maximum is not None and len(text) > param.maximum:
        raise _refuse(param, f"at most {param.maximum} characters", value)
    return text


def _integer(param: Param, value: Any) -> int:
    if isinstance(value, str) and _INTEGER.match(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refuse(param, "an integer", value)
    if not -_INT64 <= value < _INT64:
        # Beyond what databases and CLN hold; handlers need not think of it.
        raise _refuse(param, "an integer of at most 64 bits", value)
    if (param.minimum is not None and value < param.minimum) or (
        param.maximum is not None and value > param.maximum
    ):
        low = "" if param.minimum is None else f"from {param.minimum} "
        high = "up" if param.maximum is None else f"to {param.maximum}"
        raise _refuse(param, f"an integer {low}{high}", value)
    return value


def _boolean(param: Param, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    raise _refuse(param, "true or false", value)


def _document(param: Param, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # Strict decoding is imported when first needed: most calls carry no document.
    from hive_shared.canonical import decode

    try:
        return decode(value, max_bytes=_JSON_TEXT_MAX, max_nodes=100_000, floats=True)
    except InvalidParams as error:
        raise InvalidParams(
            f"{param.name} is not strict JSON: {error.detail}", data={"param": param.name}
        ) from error


def option_from_node(spec: OptionSpec, value: Any) -> Any:
    """Bring a value that lightningd sent (typed in ``init``, text in ``setconfig``) to the declared kind and
    parse it.

    ``value`` None means "not set": the default applies, for a flag false. Raises ``ValueError`` with a
    sentence.
    """
    if spec.multi:
        items = [] if value is None else value if isinstance(value, list) else [value]
        return spec.parse([_typed(spec, item) for item in items])
    if value is None:
        value = spec.default
        if value is None:
            return False if spec.kind == "flag" else None
    return spec.parse(_typed(spec, value))


def _typed(spec: OptionSpec, value: Any) -> Any:
    if spec.kind in ("bool", "flag"):
        # The words CLN itself accepts for a boolean option (ccan opt_set_bool_arg).
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        word = value if isinstance(value, bool) else words.get(str(value).lower())
        if not isinstance(word, bool):
            raise ValueError(f"must be true or false, not {_clip(value)}")
        return word
    if spec.kind == "int":
        if isinstance(value, str) and _INTEGER.match(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be an integer, not {_clip(value)}")
        return value
    return value if isinstance(value, str) else json.dumps(value)
