"""The policy document: `{"policy_version": 1, "preset": …, "overrides": {…}}`, read strictly.

docs/protocol/08-client-and-plugins.md §5.4. An unknown key refuses the whole document by its name: a
limit that is misspelt must not silently be no limit. Durations of timed overrides are read here too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, tzinfo
from fnmatch import fnmatchcase
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import msgspec
from hive_shared.canonical import JsonValue, encode
from hive_shared.errors import InvalidParams
from hive_shared.registry import actions
from hive_shared.registry.params import (
    MAX_SAT,
    Bool,
    Int,
    ListedChannel,
    ListOf,
    NodeKey,
    OneOf,
    Param,
    ParamSchema,
    ParamType,
    Text,
)
from msgspec.structs import replace

from .policy_settings import PRESETS, QuietHours, RateLimits, RequiredConfirmation, Settings, apply

VERSION: Final = 1
MAX_IDS: Final = 10_000
"""Most peers or channels a list names."""
MAX_OVERRIDE_S: Final = 7 * 86_400

_CLOCK: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_OVERRIDE_WORD: Final = re.compile(r"auto_execute|always_confirm|multi_sig_([1-9])_of_([1-9])")
_ACTION_GLOB: Final = re.compile(r"[a-z0-9_*]{1,100}")
_DURATION: Final = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_UNIT_S: Final = {"m": 60, "h": 3_600, "d": 86_400}


def _refuse(path: str, expected: str) -> InvalidParams:
    return InvalidParams(
        f"{path} must be {expected}", reason="invalid_params", data={"param": path, "expected": expected}
    )


class _QuietHoursType:
    """`{start, end, timezone}` with clock times HH:MM and an IANA zone; null for none."""

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The value unchanged, once it is sure that it can be read."""
        _quiet_hours(value, path)
        return value

    def describe(self) -> dict[str, JsonValue]:
        """Type and format."""
        return {"type": ["object", "null"], "format": "quiet_hours"}


class _OverridesType:
    """`{glob over category_action: always_confirm | auto_execute | multi_sig_N_of_M}`."""

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The value unchanged. Raises `invalid_params` naming the pattern."""
        if not isinstance(value, dict) or len(value) > 100:
            raise _refuse(path, "an object of at most 100 patterns")
        for pattern, word in value.items():
            where = f"{path}[{pattern[:60]!a}]"
            if not _ACTION_GLOB.fullmatch(pattern) or not _names_override(pattern):
                raise _refuse(
                    where,
                    "a glob over <category with _>_<action> that means something, such as channel_close_*",
                )
            match = _OVERRIDE_WORD.fullmatch(word) if isinstance(word, str) else None
            if match is None:
                raise _refuse(where, "always_confirm, auto_execute or multi_sig_N_of_M")
            if match[1] is not None and not 2 <= int(match[1]) <= int(match[2]):
                raise _refuse(where, "a multi_sig_N_of_M with N of at least 2 and at most M")
        return value

    def describe(self) -> dict[str, JsonValue]:
        """Type and format."""
        return {"type": "object", "format": "approval_overrides"}


class _BlockedType:
    """A glob over schema ids and `hive:<category>/<action>`; one that means nothing blocks nothing."""

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The glob unchanged. Raises `invalid_params` for one that matches no action of the registry."""
        read = _GLOB.parse(value, path)
        if not _blocks(str(read)):
            raise _refuse(path, "a glob that means a known schema or action, such as hive:wallet/*")
        return read

    def describe(self) -> dict[str, JsonValue]:
        """Type and format."""
        return {"type": "string", "format": "schema_glob"}


@lru_cache(maxsize=512)
def _names_override(pattern: str) -> bool:
    return any(
        fnmatchcase(f"{spec.category.replace('-', '_')}_{name}", pattern)
        for spec in actions()
        for name in (spec.name, *spec.aliases)
    )


@lru_cache(maxsize=512)
def _blocks(pattern: str) -> bool:
    return any(
        fnmatchcase(path, pattern)
        for spec in actions()
        for path in (spec.schema, *(f"hive:{spec.category}/{name}" for name in (spec.name, *spec.aliases)))
    )


_SATS: Final = Int(0, MAX_SAT)
_PPM: Final = Int(0, 1_000_000)
_NAME: Final = Text(128, 1, pattern=r"[A-Za-z0-9._-]+", what="a name")
_GLOB: Final = Text(200, 1, pattern=r"[a-z0-9:/_*-]+", what="a schema glob such as hive:wallet/*")
_APPROVER: Final = Text(
    200, 5, pattern=r"local|[0-9a-f]{64}|did:[a-z0-9]+:[A-Za-z0-9._-]+", what="a 64-hex key, a DID or local"
)
_PLUGIN: Final = ParamSchema(
    (
        Param("path", Text(1_000, 1, pattern=r"/.+", what="an absolute path"), required=True),
        Param("sha256", Text(64, 64, pattern="[0-9a-f]{64}", what="a SHA-256 in hex"), required=True),
    )
)
_CONFIRM: Final = ParamSchema(
    (
        Param("danger_gte", Int(1, 10)),
        Param("channel_close", OneOf(("always", "danger"))),
        Param("onchain_send_gte_sats", _SATS),
    )
)
_RATES: Final = ParamSchema(
    tuple(
        Param(name, Int(0, 100_000))
        for name in ("fee_changes_per_hour", "rebalances_per_day", "total_actions_per_day")
    )
)
_TIMES: Final = ParamSchema(
    (Param("quiet_hours", _QuietHoursType()), Param("quiet_hour_max_danger", Int(0, 10)))
)

KEYS: Final[Mapping[str, ParamType]] = MappingProxyType(
    {
        "max_danger": Int(1, 10),
        "require_confirmation_above": Int(0, 10),
        "max_fee_change_per_24h_pct": Int(0, 1_000),
        "min_fee_ppm": _PPM,
        "max_fee_ppm": _PPM,
        "max_rebalance_sats": _SATS,
        "max_rebalance_fee_ppm": Int(0, 100_000),
        "max_channel_open_sats": _SATS,
        "forbidden_peers": ListOf(NodeKey(), 0, MAX_IDS),
        "protected_channels": ListOf(ListedChannel(), 0, MAX_IDS),
        "blocked_schemas": ListOf(_BlockedType(), 0, 100),
        "allowed_config": ListOf(_NAME, 0, 500),
        "approved_plugins": ListOf(_PLUGIN, 0, 100),
        "approvers": ListOf(_APPROVER, 0, 20),
        "allow_push": Bool(),
        "allow_private_hosts": Bool(),
        "max_feerate_perkw": Int(253, 10_000_000),
        "protected_plugins": ListOf(_NAME, 0, 100),
        "daily_budget_sats": _SATS,
        "required_confirmation": _CONFIRM,
        "rate_limits": _RATES,
        "time_restrictions": _TIMES,
        "approval_overrides": _OverridesType(),
    }
)
"""Every key of `overrides` and its type."""

_VALUES: Final = ParamSchema(tuple(Param(name, kind) for name, kind in KEYS.items()))


class PolicyDocument(msgspec.Struct, frozen=True):
    """A document that was read: its preset, the overrides as written, and what they come to."""

    preset: str
    overrides: Mapping[str, JsonValue]
    settings: Settings

    def to_doc(self) -> dict[str, JsonValue]:
        """The document as it is stored and shown."""
        return {"policy_version": VERSION, "preset": self.preset, "overrides": dict(self.overrides)}


def preset_document(preset: str) -> PolicyDocument:
    """A preset without changes. Raises InvalidParams for an unknown name."""
    if preset not in PRESETS:
        raise _refuse("preset", f"one of {', '.join(PRESETS)}, not {preset[:40]!a}")
    return PolicyDocument(preset, MappingProxyType({}), PRESETS[preset])


def parse_document(doc: JsonValue, *, default_preset: str = "moderate") -> PolicyDocument:
    """Read a whole document. Raises InvalidParams naming the key; then nothing of it counts."""
    if not isinstance(doc, dict):
        raise _refuse("policy", "a JSON object")
    for key in doc:
        if key not in ("policy_version", "preset", "overrides"):
            hint = "put it under overrides" if key in KEYS else "it is not a key of a policy document"
            raise InvalidParams(
                f"unknown key {key[:64]!a}: {hint}", reason="invalid_params", data={"param": key[:64]}
            )
    version = doc.get("policy_version")
    if isinstance(version, bool) or version != VERSION:
        raise _refuse("policy_version", f"{VERSION}")
    preset = doc.get("preset", default_preset)
    if not isinstance(preset, str):
        raise _refuse("preset", f"one of {', '.join(PRESETS)}")
    return with_overrides(preset_document(preset), doc.get("overrides", {}))


def with_overrides(document: PolicyDocument, overrides: JsonValue) -> PolicyDocument:
    """The document's preset with these overrides instead of its own. Raises InvalidParams."""
    base = PRESETS[document.preset]
    settings = apply(base, parse_values(base, overrides))
    given = overrides if isinstance(overrides, dict) else {}
    return PolicyDocument(document.preset, MappingProxyType(dict(given)), _checked(settings))


def merged(document: PolicyDocument, changes: Mapping[str, JsonValue]) -> PolicyDocument:
    """The document with single keys changed; a change to null takes the key back to the preset."""
    overrides = {key: value for key, value in document.overrides.items() if key not in changes}
    overrides |= {key: value for key, value in changes.items() if value is not None}
    return with_overrides(document, overrides)


def parse_values(base: Settings, overrides: JsonValue, path: str = "overrides") -> dict[str, object]:
    """Override keys as fields of `Settings`; nested objects change `base` key by key.

    Raises InvalidParams naming the key. The result is what `policy_settings.apply` takes.
    """
    if isinstance(overrides, dict):
        for key in overrides:
            if key not in KEYS:
                raise InvalidParams(
                    f"unknown policy key {key[:64]!a}; the keys are {', '.join(KEYS)}",
                    reason="invalid_params",
                    data={"param": f"{path}.{key[:64]}"},
                )
    given = _VALUES.parse(overrides, path)
    return {name: value for key, raw in given.items() for name, value in _fields(base, key, raw).items()}


def _fields(base: Settings, key: str, raw: JsonValue) -> dict[str, object]:
    if isinstance(raw, dict):
        if key == "required_confirmation":
            confirmation: RequiredConfirmation = replace(base.required_confirmation, **raw)
            return {key: confirmation}
        if key == "rate_limits":
            limits: RateLimits = replace(base.rate_limits, **raw)
            return {key: limits}
        if key == "time_restrictions":
            result: dict[str, object] = dict(raw)
            if "quiet_hours" in raw:
                result["quiet_hours"] = _quiet_hours(raw["quiet_hours"], "quiet_hours")
            return result
        return {key: MappingProxyType(raw)}
    if isinstance(raw, list):
        if key == "approved_plugins":
            rows = [row for row in raw if isinstance(row, dict)]
            return {key: MappingProxyType({str(row["path"]): str(row["sha256"]) for row in rows})}
        if key == "approvers":
            # One key in both forms is one approver with one vote.
            return {key: frozenset(str(name).removeprefix("did:nostr:") for name in raw)}
        return {key: tuple(raw) if key == "blocked_schemas" else frozenset(raw)}
    return {key: raw}


def _checked(settings: Settings) -> Settings:
    top = settings.max_fee_ppm
    if top is not None and settings.min_fee_ppm > top:
        raise _refuse("overrides.min_fee_ppm", f"at most max_fee_ppm ({top})")
    return settings


def _minutes(value: JsonValue, path: str) -> int:
    match = _CLOCK.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _refuse(path, "a clock time HH:MM")
    return int(match[1]) * 60 + int(match[2])


def _quiet_hours(value: JsonValue, path: str) -> QuietHours | None:
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != {"start", "end", "timezone"}:
        raise _refuse(path, "an object of start, end and timezone, or null")
    name = value["timezone"]
    start, end = _minutes(value["start"], f"{path}.start"), _minutes(value["end"], f"{path}.end")
    return QuietHours(start, end, str(name), time_zone(name, f"{path}.timezone"))


def time_zone(name: JsonValue, path: str) -> tzinfo:
    """The IANA zone of that name. Raises InvalidParams when the system knows none."""
    from zoneinfo import ZoneInfo

    if name == "UTC":
        return UTC  # needs no zone database
    try:
        if isinstance(name, str) and 1 <= len(name) <= 64:
            return ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        pass  # ZoneInfo's own ways to say that there is no such zone
    raise _refuse(path, "an IANA time zone such as Europe/Berlin")


def parse_duration(text: str) -> int:
    """Seconds of `Nm`, `Nh` or `Nd`, at most 7 days (timed overrides). Raises InvalidParams."""
    match = _DURATION.fullmatch(text.strip())
    seconds = int(match[1]) * _UNIT_S[match[2]] if match else 0
    if not 0 < seconds <= MAX_OVERRIDE_S:
        raise _refuse("duration", f"Nm, Nh or Nd of at most 7d, not {text[:20]!a}")
    return seconds


def canonical_text(document: PolicyDocument) -> str:
    """The document as canonical JSON text, for storing and hashing."""
    return encode(document.to_doc()).decode()
