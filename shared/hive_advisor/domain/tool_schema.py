"""Tools: names, strict input schemas, and the check of arguments (docs/protocol/11-advisor-kit.md §11). Texts
are ours; nothing of a node gets into a tool's description.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hive_shared.errors import InvalidParams
from hive_shared.runtime_spec import Klass, Param

from hive_advisor.domain.methods import Method, method_table, word

MAX_ARGUMENTS: Final = 65_536
MAX_TEXT: Final = 4_096
_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "str": ("string",),
    "int": ("integer",),
    "bool": ("boolean",),
    "json": ("object", "array"),
    "any": ("string", "integer", "boolean", "object", "array"),
}
_PYTHON: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}
_HIDDEN: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Tool:
    """One tool as programs see it. ``within_s`` is how long a call of it may take."""

    description: str
    acts: bool
    schema: Mapping[str, Any]
    within_s: int = 30


@dataclass(frozen=True)
class MethodTool(Tool):
    """A tool that is one method of a node: the method, and the values of its deciding parameter that are
    open."""

    method: Method = field(kw_only=True)
    values: tuple[str, ...] = field(kw_only=True)


def method_tools(allowed: Iterable[str], nodes: Sequence[str]) -> dict[str, MethodTool]:
    """The methods that are open under the operator's list as tools, by name."""
    acting = frozenset(allowed)
    return {
        method.tool: _tool(method, method.open_classes(acting), nodes)
        for method in method_table().values()
        if method.open_classes(acting)
    }


def _tool(method: Method, classes: frozenset[Klass], nodes: Sequence[str]) -> MethodTool:
    values = tuple(value for value, klass in method.classes.items() if klass in classes)
    acts = "A" in classes
    properties: dict[str, Any] = {"node": {"type": "string", "enum": list(nodes)}}
    for param in method.spec.params:
        chosen = values if param.name == method.selector else param.choices
        properties[param.name] = _property(param, chosen)
    if acts and "dry_run" not in properties:
        properties["dry_run"] = {
            "type": "boolean",
            "default": True,
            "description": "true: only show what would be called",
        }
    required = [param.name for param in method.spec.params if param.required]
    if values and word(method.selected({})) not in values:
        # What is meant when it is left out is not open.
        required.append(str(method.selector))
    text = method.spec.description
    if values:
        text += f" Open here: {method.selector}={'|'.join(values)}."
    text += " Acts only with dry_run=false." if acts else " Reads only."
    return MethodTool(
        text,
        acts,
        _object(properties, required if len(nodes) == 1 else ["node", *required]),
        method=method,
        values=values,
    )


def schema_of(params: Sequence[Param], nodes: Sequence[str] = (), *, node_required: bool = False) -> Any:
    """The input schema of a tool of the kit's own; with ``nodes`` it also takes the name of one."""
    properties: dict[str, Any] = {"node": {"type": "string", "enum": list(nodes)}} if nodes else {}
    properties |= {param.name: _property(param, param.choices) for param in params}
    required = [param.name for param in params if param.required]
    return _object(properties, ["node", *required] if node_required and len(nodes) > 1 else required)


def _object(properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _property(param: Param, choices: Sequence[str]) -> dict[str, Any]:
    if param.kind == "bool" and choices:
        # The other value is not open.
        return {"type": "boolean", "enum": [choice == "true" for choice in choices]}
    types = _TYPES[param.kind]
    found: dict[str, Any] = {"type": types[0] if len(types) == 1 else list(types)}
    if choices:
        return {**found, "enum": list(choices)}
    if "string" in types:
        found["maxLength"] = min(param.maximum or MAX_TEXT, MAX_TEXT)
    if param.kind == "int":
        bounds = {"minimum": param.minimum, "maximum": param.maximum}
        found |= {name: value for name, value in bounds.items() if value is not None}
    return found


def check_arguments(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Hold ``arguments`` to a schema made here. Raises InvalidParams naming the argument and what it takes.

    No conversions: a number in quotes is refused, so that what was checked is what is sent.
    """
    try:
        size = len(json.dumps(arguments, allow_nan=False).encode())
    except (ValueError, RecursionError) as error:
        raise InvalidParams("the arguments are not strict JSON") from error
    if size > MAX_ARGUMENTS:
        raise InvalidParams(f"the arguments have {size} bytes; at most {MAX_ARGUMENTS} are taken")
    properties: Mapping[str, Any] = schema["properties"]
    for name in arguments:
        if name not in properties:
            raise InvalidParams(
                f"unknown argument {name[:64]!a}; known are {', '.join(properties)}",
                data={"param": name[:64] if name.isidentifier() else ""},
            )
    for name in schema["required"]:
        if arguments.get(name) is None:
            raise InvalidParams(f"missing argument: {name}", data={"param": name})
    for name, value in arguments.items():
        _check(name, properties[name], value)


def _check(name: str, rule: Mapping[str, Any], value: Any) -> None:
    kinds = [rule["type"]] if isinstance(rule["type"], str) else list(rule["type"])
    if not any(_is(kind, value) for kind in kinds):
        raise InvalidParams(f"{name} must be {' or '.join(kinds)}", data={"param": name})
    if "enum" in rule and value not in rule["enum"]:
        shown = ", ".join(word(choice) for choice in rule["enum"])
        raise InvalidParams(f"{name} must be one of {shown}", data={"param": name})
    if isinstance(value, str) and (
        len(value) > rule.get("maxLength", MAX_TEXT) or _HIDDEN.search(value) is not None
    ):
        limit = rule.get("maxLength", MAX_TEXT)
        raise InvalidParams(f"{name} must be at most {limit} printable characters", data={"param": name})
    low, high = rule.get("minimum"), rule.get("maximum")
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InvalidParams(f"{name} must be {bounds}", data={"param": name})


def _is(kind: str, value: Any) -> bool:
    # A truth value is no integer here, though Python says so.
    return isinstance(value, _PYTHON[kind]) and (kind == "boolean" or not isinstance(value, bool))
