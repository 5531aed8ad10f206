"""The operator's own rules and timed overrides (docs/protocol/08-client-and-plugins.md §5.4).

A rule only tightens: deny, ask, demand several signatures, or cap a number. A timed override changes keys
of the document for at most 7 days by the wall clock; it may loosen a preset, never a floor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from hive_shared.canonical import MAX_INTEGER, JsonValue
from hive_shared.errors import InvalidParams
from hive_shared.registry import CONTROL, actions
from hive_shared.registry.params import (
    Int,
    ListedChannel,
    ListOf,
    NodeKey,
    OneOf,
    Param,
    ParamSchema,
    Text,
)
from msgspec.structs import fields

from .policy_document import MAX_IDS, parse_values
from .policy_settings import DAYS, Settings, apply, clock, minute_of_day, weekday

if TYPE_CHECKING:
    from .policy import ActionRequest

MAX_RULES: Final = 200

Effect = Literal["deny", "confirm", "multi", "cap"]

_HOURS: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")
_GLOB: Final = r"[A-Za-z0-9:/_*.-]+"
_MATCH: Final = ParamSchema(
    (
        Param("schema", Text(100, 1, pattern=_GLOB, what="a schema glob")),
        Param("action", Text(100, 1, pattern=_GLOB, what="an action glob")),
        Param("advisor", Text(100, 1)),
        Param("danger_gte", Int(1, 10)),
        Param("danger_lte", Int(1, 10)),
        Param("amount_gte_sats", Int(0, MAX_INTEGER)),
        Param("channels", ListOf(ListedChannel(), 1, MAX_IDS)),
        Param("peers", ListOf(NodeKey(), 1, MAX_IDS)),
        Param("days", ListOf(OneOf(DAYS), 1, 7)),
        Param("hours", Text(11, 11, pattern=_HOURS.pattern, what="hours HH:MM-HH:MM")),
    )
)
_RULE: Final = ParamSchema(
    (
        Param("id", Text(64, 1, pattern=r"[A-Za-z0-9._:-]+", what="an id")),
        Param("match", _MATCH, required=True),
        Param("effect", OneOf(("deny", "confirm", "multi", "cap")), required=True),
        Param(
            "cap",
            ParamSchema(
                (
                    Param("field", Text(64, 1, pattern="[a-z0-9_]+", what="a parameter name"), required=True),
                    Param("max", Int(0, MAX_INTEGER), required=True),
                )
            ),
        ),
        Param("note", Text(500)),
    )
)


class Match(msgspec.Struct, frozen=True):
    """What a rule applies to: every criterion that is given must hold; none at all means every write.

    `hours` are minutes of the operator's day, start included, over midnight if start is the later one.
    """

    schema: str | None = None
    action: str | None = None
    advisor: str | None = None
    danger_gte: int | None = None
    danger_lte: int | None = None
    amount_gte_sats: int | None = None
    channels: frozenset[str] | None = None
    peers: frozenset[str] | None = None
    days: frozenset[str] | None = None
    hours: tuple[int, int] | None = None


class Cap(msgspec.Struct, frozen=True):
    """A number no parameter of that name may exceed."""

    field: str
    max: int


class Rule(msgspec.Struct, frozen=True):
    """One rule; `source` is `operator`, or the sibling that added it."""

    id: str
    match: Match
    effect: Effect
    cap: Cap | None = None
    note: str = ""
    source: str = "operator"

    @property
    def timed(self) -> bool:
        """Whether it holds on some days or at some hours only."""
        return self.match.days is not None or self.match.hours is not None

    def hits(self, request: ActionRequest, settings: Settings) -> bool:
        """Whether the rule speaks about this request, in the operator's time zone."""
        match = self.match
        return (
            self._names(request)
            and match.advisor in (None, request.advisor_id)
            and (match.danger_gte is None or request.danger >= match.danger_gte)
            and (match.danger_lte is None or request.danger <= match.danger_lte)
            and (match.amount_gte_sats is None or request.amount_sat >= match.amount_gte_sats)
            and (match.channels is None or not match.channels.isdisjoint(request.channel_ids))
            and (match.peers is None or not match.peers.isdisjoint(request.peer_ids))
            and (match.days is None or weekday(request.now, settings.zone) in match.days)
            and (match.hours is None or _within(match.hours, minute_of_day(request.now, settings.zone)))
        )

    def _names(self, request: ActionRequest) -> bool:
        """Whether schema and action together name the command or something it amounts to."""
        schema, action = self.match.schema, self.match.action
        return any(
            (schema is None or _is_like((each,), schema)) and (action is None or _is_like(names, action))
            for each, names in request.identities
        )

    def to_doc(self) -> dict[str, JsonValue]:
        """The rule as it is stored and shown."""
        match: dict[str, JsonValue] = {}
        for each in fields(Match):
            value = getattr(self.match, each.name)
            if isinstance(value, frozenset):
                match[each.name] = sorted(value)
            elif isinstance(value, tuple):
                match[each.name] = f"{clock(value[0])}-{clock(value[1])}"
            elif value is not None:
                match[each.name] = value
        doc: dict[str, JsonValue] = {"id": self.id, "match": match, "effect": self.effect}
        if self.cap is not None:
            doc["cap"] = {"field": self.cap.field, "max": self.cap.max}
        if self.note:
            doc["note"] = self.note
        return doc


@lru_cache(maxsize=4_096)
def _is_like(names: tuple[str, ...], pattern: str) -> bool:
    # Names are those of the registry, patterns those of at most 200 rules: commands ask for the same again.
    return any(fnmatchcase(name, pattern) for name in names)


def _within(hours: tuple[int, int], minute: int) -> bool:
    start, end = hours
    return start <= minute < end if start < end else minute >= start or minute < end


def parse_rule(doc: JsonValue, *, rule_id: str | None = None, source: str = "operator") -> Rule:
    """Read a rule strictly. `rule_id` names it when the document does not. Raises InvalidParams."""
    read = _RULE.parse(doc, "rule")
    given = read["match"] if isinstance(read["match"], dict) else {}
    criteria: dict[str, object] = {}
    for name, value in given.items():
        if name == "hours":
            start_h, start_m, end_h, end_m = (int(part) for part in re.findall("[0-9]+", str(value)))
            criteria[name] = (start_h * 60 + start_m, end_h * 60 + end_m)
        else:
            criteria[name] = frozenset(value) if isinstance(value, list) else value
    effect, cap, identity = read["effect"], read.get("cap"), read.get("id", rule_id)
    if not isinstance(identity, str):
        raise InvalidParams("rule.id is required", data={"param": "rule.id"})
    if (effect == "cap") != isinstance(cap, dict):
        raise InvalidParams("rule.cap {field, max} belongs to effect cap and to no other")
    return Rule(
        id=identity,
        match=Match(**criteria),  # type: ignore[arg-type]  # _MATCH has checked every type
        effect=effect,  # type: ignore[arg-type]  # OneOf has
        cap=Cap(str(cap["field"]), int(str(cap["max"]))) if isinstance(cap, dict) else None,
        note=str(read.get("note", "")),
        source=source,
    )


class Override(msgspec.Struct, frozen=True):
    """A timed change of document keys. Active while starts_at <= now < expires_at, whatever ran meanwhile."""

    id: str
    values: Mapping[str, JsonValue]
    starts_at: int
    expires_at: int
    note: str = ""

    def active(self, now: int) -> bool:
        """Whether it is in force at the Unix time `now`."""
        return self.starts_at <= now < self.expires_at

    def apply_to(self, settings: Settings) -> Settings:
        """The settings while it is in force. Raises InvalidParams for values that do not parse."""
        return apply(settings, parse_values(settings, dict(self.values)))

    def raises_danger_to(self, danger: int) -> bool:
        """Whether it is a timed `max_danger` raise that reaches this danger: the key to 9 and 10."""
        top = self.values.get("max_danger")
        return isinstance(top, int) and top >= danger


class Conflict(msgspec.Struct, frozen=True):
    """Two rules that disagree, or one that can never decide anything."""

    kind: Literal["contradictory", "unreachable"]
    rule_ids: tuple[str, ...]
    sentence: str


_STRENGTH: Final = {"confirm": 1, "multi": 2, "deny": 3}


def conflicts(rules: Sequence[Rule], settings: Settings) -> list[Conflict]:
    """What an operator would want to know about a rule set (`explain`)."""
    found = [conflict for rule in rules for conflict in _alone(rule, settings)]
    for index, first in enumerate(rules):
        for second in rules[index + 1 :]:
            found += _pair(first, second)
    return found


def _alone(rule: Rule, settings: Settings) -> Iterator[Conflict]:
    match = rule.match
    low, high = match.danger_gte or 1, match.danger_lte or 10
    if low > high:
        yield Conflict("unreachable", (rule.id,), f"{rule.id}: no danger is from {low} to {high}")
    elif low > settings.max_danger:
        sentence = f"{rule.id}: danger {low} and up is already denied by max_danger {settings.max_danger}"
        yield Conflict("unreachable", (rule.id,), sentence)
    if not any(
        (match.schema is None or fnmatchcase(spec.schema, match.schema))
        and (match.action is None or any(fnmatchcase(n, match.action) for n in (spec.name, *spec.aliases)))
        for spec in actions()
        if spec.schema != CONTROL
    ):
        yield Conflict(
            "unreachable", (rule.id,), f"{rule.id}: no known action is meant by its schema and action"
        )


def _pair(first: Rule, second: Rule) -> list[Conflict]:
    if first.effect == "cap" or second.effect == "cap":
        return []
    if first.match == second.match and first.effect != second.effect:
        strict = max((first, second), key=lambda rule: _STRENGTH[rule.effect])
        sentence = f"{first.id} and {second.id} match the same and disagree; {strict.effect} wins"
        return [Conflict("contradictory", (first.id, second.id), sentence)]
    for wide, narrow in ((first, second), (second, first)):
        if _STRENGTH[wide.effect] >= _STRENGTH[narrow.effect] and _covers(wide.match, narrow.match):
            sentence = f"{narrow.id} never decides: {wide.id} matches all it matches and is as strict"
            return [Conflict("unreachable", (narrow.id, wide.id), sentence)]
    return []


def _covers(wide: Match, narrow: Match) -> bool:
    return all(
        _criterion_covers(each.name, getattr(wide, each.name), getattr(narrow, each.name))
        for each in fields(Match)
    )


def _criterion_covers(name: str, wide: object, narrow: object) -> bool:
    if wide is None or wide == narrow:
        return True
    if narrow is None:
        return False
    if isinstance(wide, frozenset) and isinstance(narrow, frozenset):
        return wide >= narrow
    if isinstance(wide, int) and isinstance(narrow, int):
        return wide >= narrow if name == "danger_lte" else wide <= narrow
    if name in ("schema", "action"):
        # A glob inside a glob is only sure when the inner one has no wildcard of its own.
        return "*" not in str(narrow) and fnmatchcase(str(narrow), str(wide))
    return False
