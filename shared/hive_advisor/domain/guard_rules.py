"""guard.toml: the limits that the advisor sets itself (docs/protocol/11-advisor-kit.md §6).

Limits stand at three levels: for everything, for one client, for one origin. What a level leaves out it does
not limit, so that a level can only add to the others; the defaults of the sheet are those of the level for
everything and of the origins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

import msgspec
from hive_shared import registry
from hive_shared.errors import InvalidParams, Unsupported
from msgspec.structs import fields, replace

from hive_advisor.domain.names import check_alias

Origin = Literal["cli", "lib", "auto", "mcp"]
"""Who planned a command: a person at the command line, a program by the library, `[auto]`, an AI by MCP."""

ORIGINS: Final[tuple[Origin, ...]] = get_args(Origin)

KINDS: Final = (
    "open",
    "close",
    "splice",
    "wallet",
    "payment",
    "plugin",
    "set_config",
    "emergency",
    "liquidity",
)
"""What `hold` may name: groups of actions that ask a human whatever they ask for."""

HUMAN_DANGER: Final = 7
"""From here on a human decides; no setting changes that."""

OFF: Final = "off"


class Limits(msgspec.Struct, frozen=True):
    """One level. None: this level does not limit it. Amounts in sat, rates in ppm, counts per client.

    `quiet_hours` are minutes of the day, UTC, from and until; `denied` are ``schema#action`` or ``schema#*``;
    `clients` the comparison keys of the only aliases that may be written to.
    """

    max_danger: int | None = None
    min_fee_ppm: int | None = None
    max_fee_ppm: int | None = None
    fee_step_pct: int | None = None
    fee_writes_3h: int | None = None
    fee_writes_24h: int | None = None
    rebalance_max_sats: int | None = None
    rebalance_max_pct: int | None = None
    rebalances_3h: int | None = None
    rebalances_24h: int | None = None
    rebalance_fees_24h_sats: int | None = None
    onchain_reserve_sats: int | None = None
    out_command_sats: int | None = None
    out_24h_sats: int | None = None
    hold: frozenset[str] | None = None
    quiet_hours: tuple[int, int] | None = None
    denied: frozenset[str] | None = None
    clients: frozenset[str] | None = None


GLOBAL_DEFAULT: Final = Limits(
    min_fee_ppm=25,
    max_fee_ppm=5_000,
    fee_step_pct=15,
    fee_writes_3h=10,
    fee_writes_24h=20,
    rebalance_max_sats=500_000,
    rebalance_max_pct=2,
    rebalances_3h=5,
    rebalances_24h=10,
    rebalance_fees_24h_sats=50_000,
    onchain_reserve_sats=600_000,
    out_command_sats=0,
    out_24h_sats=0,
    hold=frozenset(KINDS),
)

ORIGIN_DEFAULTS: Final[Mapping[Origin, Limits]] = MappingProxyType(
    {
        "cli": Limits(max_danger=4),
        "lib": Limits(max_danger=4),
        "auto": Limits(max_danger=3),
        "mcp": Limits(max_danger=3),
    }
)


class ToolRate(msgspec.Struct, frozen=True):
    """How often an MCP tool may be called (docs/protocol/11-advisor-kit.md §11); None: the default."""

    per_minute: int | None = None
    per_day: int | None = None


class GuardRules(msgspec.Struct, frozen=True):
    """All of guard.toml. `clients` is keyed by the comparison key of the local alias."""

    everything: Limits = GLOBAL_DEFAULT
    clients: Mapping[str, Limits] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    origins: Mapping[Origin, Limits] = msgspec.field(default_factory=lambda: ORIGIN_DEFAULTS)
    tools: Mapping[str, ToolRate] = msgspec.field(default_factory=lambda: MappingProxyType({}))

    def levels(self, alias_key: str, origin: Origin) -> tuple[tuple[str, Limits], ...]:
        """What limits a command, by name; all of them hold at once."""
        return (
            ("global", self.everything),
            (f"client {alias_key}", self.clients.get(alias_key, Limits())),
            (f"origin {origin}", self.origins[origin]),
        )


DEFAULT_RULES: Final = GuardRules()


def parse_rules(document: Mapping[str, Any]) -> GuardRules:
    """The rules of a guard.toml that was read as TOML. Raises InvalidParams: unknown key, bad value."""
    known = ("global", "client", "origin", "tool")
    for name in document:
        if name not in known:
            raise InvalidParams(f"guard.toml: unknown section {name!r}; known are {', '.join(known)}")
    parts = {name: _table(document, name) for name in known}
    origins = dict(ORIGIN_DEFAULTS)
    for name, section in parts["origin"].items():
        if name not in ORIGINS:
            raise InvalidParams(f"guard.toml: [origin.{name}] is no origin; there are {', '.join(ORIGINS)}")
        origin: Origin = next(known_origin for known_origin in ORIGINS if known_origin == name)
        origins[origin] = _limits(f"origin.{name}", section, ORIGIN_DEFAULTS[origin])
    clients = {}
    for name, section in parts["client"].items():
        key = check_alias(name)[1]
        if key in clients:
            raise InvalidParams(f"guard.toml: [client.{name}] stands there twice")
        clients[key] = _limits(f"client.{name}", section, Limits())
    return GuardRules(
        _limits("global", parts["global"], GLOBAL_DEFAULT),
        MappingProxyType(clients),
        MappingProxyType(origins),
        MappingProxyType({name: _tool(name, section) for name, section in parts["tool"].items()}),
    )


def _table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = document.get(name, {})
    if not isinstance(section, dict):
        raise InvalidParams(f"guard.toml: {name} is a section: [{name}]")
    return section


def _limits(where: str, section: object, defaults: Limits) -> Limits:
    if not isinstance(section, dict):
        raise InvalidParams(f"guard.toml: {where} is a section: [{where}]")
    given: dict[str, Any] = {}
    for key, value in section.items():
        reader = _READERS.get(key)
        if reader is None:
            raise InvalidParams(
                f"guard.toml: unknown key {key!r} in [{where}]; known are {', '.join(_READERS)}"
            )
        given[key] = None if value == OFF and key != "max_danger" else reader(f"{key} in [{where}]", value)
    return replace(defaults, **given)


def _number(least: int, most: int) -> Callable[[str, object], int]:
    def read(what: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidParams(f"guard.toml: {what} takes a number from {least} to {most}, not {value!r}")
        return value

    return read


def _words(what: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidParams(f"guard.toml: {what} takes a list of texts")
    return tuple(value)


def _hold(what: str, value: object) -> frozenset[str]:
    words = _words(what, value)
    if odd := sorted(set(words) - set(KINDS)):
        raise InvalidParams(f"guard.toml: {what} does not know {odd[0]!r}; there are {', '.join(KINDS)}")
    return frozenset(words)


def _quiet(what: str, value: object) -> tuple[int, int]:
    match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", str(value))
    if match is None:
        raise InvalidParams(f'guard.toml: {what} takes "22:00-06:00" (UTC), not {value!r}')
    first, last = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
    if first == last:
        raise InvalidParams(f"guard.toml: {what} begins when it ends; use 'guard halt' to stop everything")
    return first, last


def _denied(what: str, value: object) -> frozenset[str]:
    found = set()
    for word in _words(what, value):
        schema, _, action = word.partition("#")
        try:
            if action == "*" and schema in registry.SCHEMAS:
                found.add(word)
                continue
            spec = registry.find(schema, action)
        except Unsupported as error:
            raise InvalidParams(f"guard.toml: {what}: {word!r} is no action; write schema#action") from error
        found.add(f"{spec.schema}#{spec.name}")
    return frozenset(found)


def _clients(what: str, value: object) -> frozenset[str]:
    try:
        return frozenset(check_alias(word)[1] for word in _words(what, value))
    except InvalidParams as error:
        raise InvalidParams(f"guard.toml: {what}: {error.detail}") from error


def _tool(name: str, section: object) -> ToolRate:
    where = f"[tool.{name}]"
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name) or not isinstance(section, dict):
        raise InvalidParams(f"guard.toml: {where} is not the name of a tool and its limits")
    for key in section:
        if key not in ("per_minute", "per_day"):
            raise InvalidParams(f"guard.toml: unknown key {key!r} in {where}; known: per_minute, per_day")
    count = _number(0, 1_000_000)
    return ToolRate(**{key: count(f"{key} in {where}", value) for key, value in section.items()})


_SATS: Final = _number(0, registry.MAX_SAT)
_COUNT: Final = _number(0, 1_000_000)
_PPM: Final = _number(0, 1_000_000)
_READERS: Final[Mapping[str, Callable[[str, object], Any]]] = {
    "max_danger": _number(1, HUMAN_DANGER - 1),
    "min_fee_ppm": _PPM,
    "max_fee_ppm": _PPM,
    "fee_step_pct": _number(0, 10_000),
    "fee_writes_3h": _COUNT,
    "fee_writes_24h": _COUNT,
    "rebalance_max_sats": _SATS,
    "rebalance_max_pct": _number(0, 100),
    "rebalances_3h": _COUNT,
    "rebalances_24h": _COUNT,
    "rebalance_fees_24h_sats": _SATS,
    "onchain_reserve_sats": _SATS,
    "out_command_sats": _SATS,
    "out_24h_sats": _SATS,
    "hold": _hold,
    "quiet_hours": _quiet,
    "denied": _denied,
    "clients": _clients,
}
assert set(_READERS) == {item.name for item in fields(Limits)}


def describe(limits: Limits) -> dict[str, Any]:
    """A level as people and ``--json`` see it: only what it limits."""
    shown: dict[str, Any] = {}
    for item in fields(limits):
        value = getattr(limits, item.name)
        if value is None:
            continue
        if item.name == "quiet_hours":
            first, last = value
            value = f"{first // 60:02}:{first % 60:02}-{last // 60:02}:{last % 60:02}"
        shown[item.name] = sorted(value) if isinstance(value, frozenset) else value
    return shown
