"""Help for one action, out of the registry both ends share (docs/protocol/11-advisor-kit.md §10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from hive_shared import registry
from hive_shared.canonical import JsonValue
from hive_shared.errors import HiveError, InvalidParams
from hive_shared.registry import ActionSpec, DangerFacts

CONTROL: Final = "hive:control/v1"
_MOST_SAT: Final = 2_100_000_000_000_000
_NONE: Final[Mapping[str, Any]] = {}


class Field(msgspec.Struct, frozen=True):
    """One parameter. `kind` says what it takes, `values` the words where they are fixed."""

    name: str
    kind: str
    required: bool
    default: JsonValue = None
    values: tuple[str, ...] = ()


def split_target(target: str) -> tuple[str, str]:
    """``hive:fee-policy/set_single`` or ``hive:fee-policy/v1/set_single`` -> schema id and action.

    Raises InvalidParams.
    """
    parts = target.split("/")
    if len(parts) == 2:
        parts = [parts[0], "v1", parts[1]]
    if len(parts) != 3 or not all(parts):
        raise InvalidParams(
            f"{target!r}: name an action as hive:<category>/<action>, e.g. hive:fee-policy/set_single"
        )
    category = parts[0] if parts[0].startswith("hive:") else f"hive:{parts[0]}"
    return f"{category}/{parts[1]}", parts[2]


def name_of(spec: ActionSpec) -> str:
    """The action as it is typed: ``hive:fee-policy/set_single``."""
    return f"{spec.schema.removesuffix('/v1')}/{spec.name}"


def fields_of(spec: ActionSpec) -> list[Field]:
    """The parameters of an action, required ones first; none for an action that is not served."""
    document: Mapping[str, Any] = _NONE if spec.params is None else spec.params.describe()
    required = set(document.get("required", ()))
    fields = [
        Field(
            name,
            _kind(described),
            name in required,
            described.get("default"),
            _values(described),
        )
        for name, described in document.get("properties", _NONE).items()
    ]
    return sorted(fields, key=lambda field: not field.required)


def texts_of(schema_id: str, action: str) -> frozenset[str]:
    """The parameters of an action that take text and nothing else; none for an unknown action."""
    try:
        spec = registry.find(schema_id, action)
    except HiveError:
        return frozenset()
    document: Mapping[str, Any] = _NONE if spec.params is None else spec.params.describe()
    properties: Mapping[str, Any] = document.get("properties", _NONE)
    return frozenset(name for name, described in properties.items() if described.get("type") == "string")


def rules_of(spec: ActionSpec) -> list[str]:
    """What holds between parameters, as sentences."""
    document: Mapping[str, Any] = _NONE if spec.params is None else spec.params.describe()
    words = {
        "at_least_one": "at least one of {}",
        "exactly_one": "exactly one of {}",
        "exclusive": "only one of {}",
    }
    found = [text.format(", ".join(document[key])) for key, text in words.items() if key in document]
    return found + [f"{name}: {_kind(kind)}" for name, kind in document.get("values", _NONE).items()]


def row_of(spec: ActionSpec) -> dict[str, Any]:
    """The action in a list: whether it is served here, its tier, its least and most danger."""
    entry = _exported(spec)
    return {
        "schema": spec.schema,
        "action": spec.name,
        "served": spec.served,
        "tier": entry["required_tier"],
        "danger": entry["danger"]["total"],
        "danger_max": entry["danger_max"],
        "changes": not spec.read_only,
    }


def whole_of(spec: ActionSpec) -> dict[str, Any]:
    """Everything the registry says of an action."""
    rules, by_size = rules_of(spec), danger_by_size(spec)
    return {
        "schema": spec.schema,
        "action": spec.name,
        "usage": usage(spec),
        **({"rules": rules} if rules else {}),
        **({"danger_by_size": by_size} if by_size else {}),
        **_exported(spec),
    }


def _exported(spec: ActionSpec) -> dict[str, Any]:
    schemas: Any = registry.export(spec.schema)["schemas"]
    return dict(schemas[spec.schema]["actions"][spec.name])


def usage(spec: ActionSpec) -> str:
    """How it is sent, for the command line."""
    words = [f"{f.name}={_short(f)}" if f.required else f"[{f.name}={_short(f)}]" for f in fields_of(spec)]
    return " ".join(["hive-advisor send CLIENT", name_of(spec), *words])


def danger_by_size(spec: ActionSpec) -> list[dict[str, JsonValue]]:
    """Total danger by amount, as bands: {below_sats?, danger}. Empty when the amount plays no part."""
    names = {field.name for field in fields_of(spec)}

    def total(amount: int) -> int:
        params: dict[str, JsonValue] = {"amount_sats": amount} if "amount_sats" in names else {}
        return spec.danger(params, DangerFacts(amount_sat=amount)).total

    if total(1) == total(_MOST_SAT):
        return []
    bands: list[dict[str, JsonValue]] = []
    low = 1
    while total(low) != total(_MOST_SAT):
        bound = _first_other(total, low, _MOST_SAT)
        bands.append({"below_sats": bound, "danger": total(low)})
        low = bound
    return [*bands, {"danger": total(low)}]


def _first_other(total: Any, low: int, high: int) -> int:
    """The smallest amount above `low` with another total; totals do not fall with the amount."""
    first = total(low)
    while high - low > 1:
        middle = (low + high) // 2
        if total(middle) == first:
            low = middle
        else:
            high = middle
    return high


def search(words: Sequence[str]) -> list[ActionSpec]:
    """Actions whose name, schema, category, permission or parameters hold every word, case apart."""
    found = []
    for spec in registry.actions():
        text = " ".join(
            (name_of(spec), *spec.aliases, *spec.permissions, *(field.name for field in fields_of(spec)))
        ).lower()
        if all(word.lower().replace("-", "_") in text.replace("-", "_") for word in words):
            found.append(spec)
    return found


def _short(field: Field) -> str:
    return "|".join(field.values) if 0 < len(field.values) <= 4 else field.kind.split(" ")[0].upper()


def _values(described: Mapping[str, Any]) -> tuple[str, ...]:
    if "enum" in described:
        return tuple(str(value) for value in described["enum"])
    return ("true", "false") if described.get("type") == "boolean" else ()


def _kind(described: Mapping[str, Any]) -> str:
    if "enum" in described:
        return "one of " + ", ".join(str(value) for value in described["enum"])
    if "format" in described:
        return str(described["format"])
    kind = str(described.get("type", "value"))
    low, high = described.get("minimum"), described.get("maximum")
    if low is not None and high is not None:
        return f"{kind} {low} to {high}"
    if low is not None:
        return f"{kind} from {low}"
    if kind == "array":
        inner = _kind(described.get("items", _NONE))
        return f"list of {described.get('minItems', 0)} to {described.get('maxItems', 'any')}: {inner}"
    if kind == "string" and "maxLength" in described:
        return f"text up to {described['maxLength']} characters"
    if kind == "string" and "pattern" in described:
        return f"text like {described['pattern']}"
    if kind == "object":
        inner = ", ".join(f"{key} ({_kind(value)})" for key, value in described.get("properties", {}).items())
        return f"object of {inner}" if inner else kind
    return kind
