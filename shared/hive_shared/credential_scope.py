"""What a credential may reach: schema patterns, constraints, and the templates operators choose from.

docs/protocol/02-fleet-management.md §2.3 and §2.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import msgspec

from .canonical import JsonValue, encode
from .errors import InvalidParams, Unsupported
from .registry import (
    CONTROL,
    MAX_SAT,
    SCHEMA_ALIASES,
    ActionSpec,
    Tier,
    actions,
    contained,
    find,
    glob_names,
)
from .registry.adjust import ADJUST_GROUP
from .registry.danger import tier_for
from .registry.params import Bool, Int, ListedChannel, ListOf, NodeKey, ParamType, Text

PERMISSIONS: Final = (
    "monitor",
    "fee_policy",
    "forwarding",
    "htlc",
    "rebalance",
    "config_tune",
    "channel_open",
    "channel_close",
    "splice",
    "peer",
    "payment",
    "wallet",
    "plugin",
    "backup",
    "emergency",
    "liquidity",
)
"""Every permission flag (02 §2.1); an absent one is false."""

# ------------------------------------------------------------------------------------------ patterns

_PATTERN: Final = re.compile(r"!?hive:([a-z][a-z0-9-]*)/([a-z0-9_*-]+)")
_VERSION: Final = re.compile(r"v\d+")


def check_pattern_syntax(pattern: str) -> None:
    """Raise InvalidParams (reason malformed) when `pattern` is none of the forms of 02 §2.3."""
    if pattern != "*" and (len(pattern) > 200 or not _PATTERN.fullmatch(pattern)):
        raise InvalidParams(
            f"schema pattern {pattern[:80]!a} is not *, hive:<category>/*, hive:<category>/v1 or"
            " hive:<category>/<action glob>, with ! in front to deny",
            reason="malformed",
        )


@lru_cache(maxsize=4_096)
def _split(pattern: str) -> tuple[bool, str, str]:
    """(denies, schema category with aliases resolved, second segment) of a pattern that is not `*`."""
    denies = pattern.startswith("!")
    match = _PATTERN.fullmatch(pattern)
    if match is None:
        return denies, "", ""
    category, segment = match.groups()
    alias = SCHEMA_ALIASES.get(f"hive:{category}/v1")
    return denies, category if alias is None else alias.removeprefix("hive:").partition("/")[0], segment


def _matches(pattern: str, category: str, version: str, names: tuple[str, ...]) -> bool:
    """Whether a pattern names the action; `names[0]` is its telling name, the rest are other names.

    An allow pattern meets another name only when it spells it out; a deny pattern also by glob. So a
    glob never grants more than it says, and a denied action has no second door.
    """
    denies, wanted, segment = _split(pattern)
    if wanted != category:
        return False
    if _VERSION.fullmatch(segment):
        return segment == version
    if segment == "*":
        return True
    if denies:
        return any(fnmatchcase(name, segment) for name in names)
    return fnmatchcase(names[0], segment) or segment in names[1:]


def patterns_allow(patterns: Iterable[str], schema: str, action: str, names: tuple[str, ...] = ()) -> bool:
    """Whether `allowed_schemas` admit an action, denials winning (02 §2.3).

    `names` are the action's names from `registry.glob_names` (needed for config `adjust`, where the
    parameter decides); without them the registry's names are used. Denied is also what amounts to a denied
    action (`registry.contained`). `hive:control/v1` is free to every
    holder. Unknown schemas and actions are never admitted.
    """
    if schema == CONTROL:
        return True
    if not names:
        try:
            spec = find(schema, action)
        except Unsupported:
            return False
        schema, names = spec.schema, glob_names(spec, {})
    category, _, version = schema.removeprefix("hive:").partition("/")
    patterns, allowed = tuple(patterns), False
    for pattern in patterns:
        if pattern == "*":
            allowed = True
        elif _matches(pattern, category, version, names):
            if pattern.startswith("!"):
                return False
            allowed = True
    return allowed and denied_as(patterns, schema, action) is None


def denied_as(patterns: Iterable[str], schema: str, action: str) -> ActionSpec | None:
    """What the action amounts to and a `!` pattern denies, None if nothing of that kind (02 §2.3)."""
    denials = [pattern for pattern in patterns if pattern.startswith("!")]
    for other in contained(schema, action) if denials else ():
        version, names = other.schema.rpartition("/")[2], glob_names(other, {})
        if any(_matches(pattern, other.category, version, names) for pattern in denials):
            return other
    return None


def _all_names(spec: ActionSpec) -> tuple[tuple[str, ...], ...]:
    if (spec.category, spec.name) == ("config", "adjust"):
        return tuple(glob_names(spec, {"parameter": parameter}) for parameter in ADJUST_GROUP)
    return (glob_names(spec, {}),)


@lru_cache(maxsize=1_024)
def _hits(pattern: str) -> bool:
    for spec in actions():
        version = spec.schema.rpartition("/")[2]
        if spec.schema != CONTROL:
            for names in _all_names(spec):
                if _matches(pattern, spec.category, version, names):
                    return True
    return False


def check_patterns(patterns: Iterable[str]) -> None:
    """The issue check of 02 §2.3: right syntax, every pattern but `*` names something, something is allowed.

    Raises InvalidParams naming the pattern.
    """
    allows = False
    for pattern in patterns:
        check_pattern_syntax(pattern)
        if pattern != "*" and not _hits(pattern):
            raise InvalidParams(
                f"schema pattern {pattern!a} matches no action; categories match whole, so hive:fee/* is not"
                " hive:fee-policy/*",
                reason="schema_not_allowed",
            )
        allows = allows or not pattern.startswith("!")
    if not allows:
        raise InvalidParams("the schema patterns allow nothing", reason="schema_not_allowed")


# --------------------------------------------------------------------------------------- constraints


class _SchemaAction:
    """Type of `grants_critical` entries: `schema#action` of the registry."""

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The entry, unchanged."""
        schema, _, action = value.partition("#") if isinstance(value, str) else ("", "", "")
        if not any((spec.schema, spec.name) == (schema, action) for spec in actions()):
            raise InvalidParams(f"{path} must be schema#action of the registry", reason="constraint_violated")
        return value

    def describe(self) -> dict[str, JsonValue]:
        """Type and format."""
        return {"type": "string", "format": "schema#action"}


_SATS: Final = Int(0, MAX_SAT)
_WORD: Final = Text(64, 1, pattern=r"[A-Za-z0-9._-]+", what="a name")
_LIST_MAX: Final = 100

CONSTRAINTS: Final[Mapping[str, ParamType]] = MappingProxyType(
    {
        "max_fee_change_pct": Int(1, 100),
        "max_fee_ppm": Int(0, 1_000_000),
        "max_rebalance_sats": _SATS,
        "max_rebalance_fee_ppm": Int(0, 1_000),
        "max_swap_sats": _SATS,
        "max_daily_actions": Int(0, 100_000),
        "max_channels_per_call": Int(1, 200),
        "max_channel_open_sats": _SATS,
        "max_payment_sats_24h": _SATS,
        "max_onchain_sats_24h": _SATS,
        "allowed_channels": ListOf(ListedChannel(), 0, _LIST_MAX),
        "denied_channels": ListOf(ListedChannel(), 0, _LIST_MAX),
        "allowed_peers": ListOf(NodeKey(), 0, _LIST_MAX),
        "transports": ListOf(_WORD, 0, 20),
        "grants_critical": ListOf(_SchemaAction(), 0, _LIST_MAX),
        "escrow_secret_generation": Bool(),
        "max_liquidity_spend_daily_sats": _SATS,
        "max_liquidity_spend_monthly_sats": _SATS,
        "max_single_lease_sats": _SATS,
        "allowed_service_types": ListOf(_WORD, 0, 20),
        "forbidden_providers": ListOf(Text(200, 1), 0, _LIST_MAX),
        "auto_renew_enabled": Bool(),
    }
)
"""Type of every constraint of 02 §2.4."""


def unknown_constraints(constraints: Mapping[str, JsonValue]) -> tuple[str, ...]:
    """Constraint names this version does not enforce."""
    return tuple(name for name in constraints if name not in CONSTRAINTS)


def check_constraints(constraints: JsonValue) -> Mapping[str, JsonValue]:
    """The issue check of 02 §2.4: known names, types and ranges, at most 50 keys in 4,096 bytes.

    Returns the constraints unchanged. Raises InvalidParams naming the constraint.
    """
    if not isinstance(constraints, dict) or len(constraints) > 50 or len(encode(constraints)) > 4_096:
        raise InvalidParams("constraints must be an object of at most 50 keys and 4096 bytes")
    for name, value in constraints.items():
        kind = CONSTRAINTS.get(name)
        if kind is None:
            raise InvalidParams(f"constraint {name[:64]!a} is unknown; known are {', '.join(CONSTRAINTS)}")
        kind.parse(value, f"constraints.{name}")
    return constraints


# ----------------------------------------------------------------------------------------- templates


class Template(msgspec.Struct, frozen=True):
    """A ready set of rights: tier, schema patterns, constraints and the permission flags they need."""

    name: str
    words: tuple[str, ...]
    tier: Tier
    schemas: tuple[str, ...]
    constraints: Mapping[str, JsonValue]

    @property
    def permissions(self) -> tuple[str, ...]:
        """The flags without which an admitted action would still be refused (02 §2.5), none besides."""
        return permissions_for(self.schemas)


@lru_cache(maxsize=256)
def permissions_for(schemas: tuple[str, ...]) -> tuple[str, ...]:
    """One sufficient permission flag for every action the patterns admit, in the order of the sheet."""
    granted: set[str] = set()
    for spec in actions():
        names = _all_names(spec)
        wanted = any(patterns_allow(schemas, spec.schema, spec.name, each) for each in names)
        if wanted and spec.permissions and granted.isdisjoint(spec.permissions):
            granted.add(spec.permissions[0])
    return tuple(name for name in PERMISSIONS if name in granted)


class OutOfReach(msgspec.Struct, frozen=True):
    """An action that patterns admit and the rest of a credential does not: `needs` says what is missing."""

    schema: str
    action: str
    needs: str


def out_of_reach(
    tier: Tier, schemas: Iterable[str], permissions: Mapping[str, bool], constraints: Mapping[str, JsonValue]
) -> list[OutOfReach]:
    """Admitted actions that no parameters bring within the tier and permissions of a credential (02 §2.2).

    An issuer who forgot the constraint that S5 names, or a permission flag, finds it here. `*` admits
    everything on purpose and is not reported for tiers and flags it does not mean.
    """
    named = tuple(schemas)
    found = []
    for spec in actions():
        if spec.schema == CONTROL or not any(
            patterns_allow(named, spec.schema, spec.name, names) for names in _all_names(spec)
        ):
            continue
        needs = _lacking(spec, tier, permissions, constraints)
        if needs and (
            "*" not in named or patterns_allow((p for p in named if p != "*"), spec.schema, spec.name)
        ):
            found.append(OutOfReach(spec.schema, spec.name, needs))
    return found


def _lacking(
    spec: ActionSpec, tier: Tier, permissions: Mapping[str, bool], constraints: Mapping[str, JsonValue]
) -> str:
    met = spec.s5_constraint is not None and spec.s5_constraint in constraints
    least = spec.tier or min(
        tier_for(vector.total, read_only=spec.read_only, s5_met=met) for vector in spec.rule.vectors
    )
    lacking = []
    if tier < least:
        other = f" or constraint {spec.s5_constraint}" if spec.s5_constraint and not met else ""
        lacking.append(f"tier {least.word}{other}")
    if spec.permissions and not any(permissions.get(name, False) for name in spec.permissions):
        lacking.append(f"permission {' or '.join(spec.permissions)}")
    critical = f"{spec.schema}#{spec.name}"
    granted = constraints.get("grants_critical")
    if min(v.total for v in spec.rule.vectors) >= 9 and critical not in (
        granted if isinstance(granted, list) else ()
    ):
        lacking.append(f"constraint grants_critical with {critical}")
    return " and ".join(lacking)


def _limits(**limits: int) -> Mapping[str, JsonValue]:
    return MappingProxyType(dict(limits))


_MONITOR: Final = ("hive:monitor/*",)
_FEES: Final = (*_MONITOR, "hive:fee-policy/*", "hive:htlc-policy/*", "hive:config/fee_*")
_ROUTING: Final = (*_FEES, "hive:rebalance/*", "hive:forwarding/*", "hive:config/*")

TEMPLATES: Final[Mapping[str, Template]] = MappingProxyType(
    {
        template.name: template
        for template in (
            Template("monitor_only", ("monitoring", "read only"), Tier.MONITOR, _MONITOR, _limits()),
            Template(
                "fee_optimization",
                ("fees", "fee optimization"),
                Tier.STANDARD,
                _FEES,
                _limits(max_fee_change_pct=50, max_daily_actions=50),
            ),
            Template(
                "full_routing",
                ("routing", "full routing"),
                Tier.STANDARD,
                _ROUTING,
                _limits(max_rebalance_sats=1_000_000, max_daily_actions=100),
            ),
            Template(
                "complete_management",
                ("everything", "full management"),
                Tier.ADVANCED,
                ("*", "!hive:channel/close_*", "!hive:emergency/force_close_*"),
                _limits(max_daily_actions=200),
            ),
        )
    }
)
"""The named templates of 02 §2.3."""

_CUSTOM: Final[Mapping[str, tuple[Tier, tuple[str, ...]]]] = MappingProxyType(
    {
        "monitoring": (Tier.MONITOR, _MONITOR),
        "fees": (Tier.STANDARD, _FEES),
        "rebalancing": (Tier.STANDARD, ("hive:rebalance/*",)),
        "config": (Tier.STANDARD, ("hive:config/*",)),
        "expansion": (Tier.ADVANCED, ("hive:expansion/*",)),
        "splice": (Tier.ADVANCED, ("hive:splice/*",)),
        "peers": (Tier.STANDARD, ("hive:peer/*",)),
        "payments": (Tier.ADVANCED, ("hive:payment/*",)),
    }
)


def resolve_access(text: str) -> Template:
    """The template an operator means by `access`: its name or its words, case and spacing free.

    Raises InvalidParams listing the choices. `custom` is not resolved here: see `custom_template`.
    """
    wanted = " ".join(text.casefold().replace("_", " ").split())
    for template in TEMPLATES.values():
        if wanted == template.name.replace("_", " ") or wanted in template.words:
            return template
    words = ", ".join(word for template in TEMPLATES.values() for word in template.words)
    raise InvalidParams(f"access {text[:60]!a} is none of {words}, custom")


def custom_template(
    allow: Iterable[str], *, max_fee_change_pct: int | None = None, max_rebalance_sats: int | None = None
) -> Template:
    """A template of `allow` words (08 §5.4) with the given caps.

    Raises InvalidParams for an unknown word, no word at all, or a cap out of range.
    """
    chosen = _known_words(allow)
    schemas = tuple(dict.fromkeys(pattern for word in chosen for pattern in _CUSTOM[word][1]))
    constraints: dict[str, JsonValue] = {}
    if max_fee_change_pct is not None:
        constraints["max_fee_change_pct"] = max_fee_change_pct
    if max_rebalance_sats is not None:
        constraints["max_rebalance_sats"] = max_rebalance_sats
    check_constraints(constraints)
    tier = max(_CUSTOM[word][0] for word in chosen)
    return Template("custom", tuple(chosen), tier, schemas, MappingProxyType(constraints))


def _known_words(allow: Iterable[str]) -> list[str]:
    given = {word.strip().casefold() for word in allow}
    unknown = sorted(given - set(_CUSTOM))
    if unknown or not given:
        problem = f"allow word {unknown[0][:40]!a} is unknown" if unknown else "allow is empty"
        raise InvalidParams(f"{problem}; choose from {', '.join(_CUSTOM)}")
    return [word for word in _CUSTOM if word in given]
