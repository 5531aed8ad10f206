"""Finding, reading and exporting the actions of the registry; it never changes at run time (02 §3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from ..canonical import JsonValue
from ..errors import from_symbol
from . import catalogue, control, monitor
from .adjust import ADJUST_GROUP
from .contained import AMOUNTS_TO
from .danger import DangerFacts, Params, tier_for
from .spec import ActionSpec, SchemaSpec

SCHEMAS: Final[Mapping[str, SchemaSpec]] = MappingProxyType(
    {spec.schema: spec for spec in (*monitor.SCHEMAS, *catalogue.schemas(), control.SCHEMA)}
)
"""Every schema id of this version, served or not."""

SCHEMA_ALIASES: Final[Mapping[str, str]] = MappingProxyType({"hive:htlc/v1": "hive:htlc-mgmt/v1"})

# HTLC limits and enabling or disabling sent under these two schemas belong elsewhere (02 §3).
_REROUTED_FROM: Final = ("hive:fee-policy/v1", "hive:config/v1")
_REROUTED_TO: Final = ("hive:htlc-policy/v1", "hive:forwarding/v1")
_NOT_REROUTED: Final = frozenset({"set_cltv_delta", "set_routing_hints"})


def _index() -> Mapping[tuple[str, str], ActionSpec]:
    index: dict[tuple[str, str], ActionSpec] = {}
    for schema in SCHEMAS.values():
        for spec in schema.actions:
            for name in (spec.name, *spec.aliases):
                if (schema.schema, name) in index:
                    raise ValueError(f"action {schema.schema}#{name} is declared twice")
                index[schema.schema, name] = spec
    for target in _REROUTED_TO:
        for spec in SCHEMAS[target].actions:
            if spec.name not in _NOT_REROUTED:
                for source in _REROUTED_FROM:
                    index.setdefault((source, spec.name), spec)
    return MappingProxyType(index)


_INDEX: Final = _index()


def _closure() -> Mapping[tuple[str, str], tuple[ActionSpec, ...]]:
    def steps(name: str, path: tuple[str, ...]) -> Iterator[ActionSpec]:
        schema, _, action = name.partition("#")
        spec = _INDEX.get((schema, action))
        if spec is None or (spec.schema, spec.name) != (schema, action) or name in path:
            raise ValueError(f"{name} cannot be what an action amounts to, or amounts to itself")
        yield spec
        for other in spec.amounts_to:
            yield from steps(other, (*path, name))

    found = {}
    for name in AMOUNTS_TO:
        first, *others = steps(name, ())
        once = {(other.schema, other.name): other for other in others}
        found[first.schema, first.name] = tuple(once.values())
    return MappingProxyType(found)


_CONTAINED: Final = _closure()


def find(schema_type: str, action: str) -> ActionSpec:
    """The action a command names, aliases and reroutes resolved.

    Raises Unsupported with reason `unsupported_schema` or `unsupported_action`.
    """
    schema = SCHEMA_ALIASES.get(schema_type, schema_type)
    spec = _INDEX.get((schema, action))
    if spec is not None:
        return spec
    if schema not in SCHEMAS:
        raise from_symbol("unsupported_schema", f"schema {schema_type[:64]!a} is not known here")
    raise from_symbol(
        "unsupported_action", f"{schema_type} has no action {action[:64]!a}", schema=schema_type
    )


def managed(schema_type: str) -> bool:
    """Whether a schema is of node management, known here or not: its namespace is ours."""
    return schema_type.startswith("hive:")


def task_params(schema_type: str, action: str, params: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The parameters of a task as its command has them: checked, defaults filled in. Those of another
    namespace stay as they are.

    Raises what `find` and `parse_params` raise: no command could ever be a task that is not known here.
    """
    return parse_params(find(schema_type, action), params) if managed(schema_type) else params


def actions() -> Iterator[ActionSpec]:
    """Every action once, in the order of the sheet, control last."""
    for schema in SCHEMAS.values():
        yield from schema.actions


def parse_params(spec: ActionSpec, raw: JsonValue) -> dict[str, JsonValue]:
    """The parameters of a command: strict types, ranges, no unknown keys, defaults filled in.

    Raises InvalidParams with reason `invalid_params` and data {param, expected}; Unsupported with
    reason `unsupported_action` for an action this version does not serve.
    """
    if spec.params is None:
        raise from_symbol(
            "unsupported_action",
            f"{spec.name} of {spec.schema} cannot be run: {spec.unserved_reason}",
            schema=spec.schema,
            action=spec.name,
        )
    return spec.params.parse(raw)


def scored_as(spec: ActionSpec, params: Params, facts: DangerFacts) -> ActionSpec:
    """The action a command amounts to: a `set_single` that ends at 0/0 is a `set_zero_fee` (02 §4).

    Patterns, policy and overrides have to allow both, else a denied action could be had by another name.
    """
    single = (spec.schema, spec.name) == (monitor.FEE_POLICY, "set_single")
    if single and monitor.ends_at_zero_fee(params, facts):
        return find(monitor.FEE_POLICY, "set_zero_fee")
    return spec


def contained(schema: str, action: str) -> tuple[ActionSpec, ...]:
    """Every action that this one amounts to, the nearest first; none for an unknown one (02 §2.3).

    Whoever denies or hampers one of them by name means this action too.
    """
    spec = _INDEX.get((SCHEMA_ALIASES.get(schema, schema), action))
    return () if spec is None else _CONTAINED.get((spec.schema, spec.name), ())


def glob_names(spec: ActionSpec, params: Params) -> tuple[str, ...]:
    """The names that action globs of patterns test, the telling one first (02 §2.3).

    For config `adjust` that is `<group>_<parameter>` (the bare parameter when it has no group).
    """
    if (spec.schema, spec.name) == ("hive:config/v1", "adjust") and "parameter" in params:
        parameter = str(params["parameter"])
        group = ADJUST_GROUP.get(parameter, "")
        return (f"{group}_{parameter}" if group else parameter, spec.name)
    return (spec.name, *spec.aliases)


def unsupported() -> list[dict[str, JsonValue]]:
    """`unsupported_actions` of the capabilities: every known action that is not served, and why."""
    return [
        {"schema": spec.schema, "action": spec.name, "reason": spec.unserved_reason}
        for spec in actions()
        if not spec.served
    ]


def export(schema_id: str | None = None) -> dict[str, JsonValue]:
    """The registry as data for `hive-schema-list` (02 §11): all schemas or one.

    `danger` is the least vector of an action, `danger_max` the largest total that parameters can give.
    Raises Unsupported with reason `unsupported_schema` for an unknown id.
    """
    chosen = SCHEMAS
    if schema_id is not None:
        schema = SCHEMA_ALIASES.get(schema_id, schema_id)
        if schema not in SCHEMAS:
            raise from_symbol("unsupported_schema", f"schema {schema_id[:64]!a} is not known here")
        chosen = MappingProxyType({schema: SCHEMAS[schema]})
    schemas: dict[str, JsonValue] = {
        name: {"actions": {spec.name: _describe(spec) for spec in schema_spec.actions}}
        for name, schema_spec in chosen.items()
    }
    return {"schemas": schemas, "count": len(schemas)}


def _describe(spec: ActionSpec) -> dict[str, JsonValue]:
    least = min(spec.rule.vectors, key=lambda vector: (vector.total, vector))
    # Without the constraint that S5 names: the listed tier is the one that needs nothing else.
    tier = spec.tier
    if tier is None:
        tier = max(tier_for(least.total, read_only=spec.read_only, s5_met=False), spec.least_tier)
    doc: dict[str, JsonValue] = {
        "danger": least.to_doc(),
        "danger_max": max(vector.total for vector in spec.rule.vectors),
        "required_tier": tier.word,
        "permissions": list(spec.permissions),
        "read_only": spec.read_only,
        "served": spec.served,
        "params": spec.params.describe() if spec.params is not None else None,
    }
    if spec.aliases:
        doc["aliases"] = list(spec.aliases)
    if others := contained(spec.schema, spec.name):
        doc["amounts_to"] = [f"{other.schema}#{other.name}" for other in others]
    if spec.s5_constraint is not None:
        doc["standard_with_constraint"] = spec.s5_constraint
    if not spec.served:
        doc["reason"] = spec.unserved_reason
    return doc
