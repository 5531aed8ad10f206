"""One key of guard.toml changed in its text, and whether that loosens anything
(docs/protocol/11-advisor-kit.md §6, decision 0475).
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from hive_shared.errors import InvalidParams
from msgspec.structs import fields

from hive_advisor.domain.guard_rules import GuardRules, Limits, ToolRate, describe, parse_rules
from hive_advisor.domain.names import check_alias

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_NAMED: Final = ("client", "origin", "tool")
_TIGHTER_BY_MORE: Final = ("min_fee_ppm", "onchain_reserve_sats")
_LEAST_RATE: Final = {"per_minute": 5, "per_day": 50}
"""No tool has a default below these."""


class GuardKey(msgspec.Struct, frozen=True):
    """Where a key stands: ``section`` as ``("global",)`` or ``("client", "alice")``."""

    section: tuple[str, ...]
    key: str

    @property
    def client(self) -> str | None:
        """The alias of the section, when it is a client's."""
        return self.section[1] if self.section[0] == "client" else None


class GuardChange(msgspec.Struct, frozen=True):
    """A new text of guard.toml: what counted before, what counts then, and what that loosens."""

    text: str
    before: Any
    after: Any
    looser: tuple[str, ...]


def parse_key(text: str) -> GuardKey:
    """``global.fee_step_pct``, ``origin.mcp.max_danger``, ``client.my node.denied``. Raises InvalidParams."""
    head, _, rest = text.partition(".")
    name, dot, key = rest.rpartition(".")
    if head == "global" and rest and not dot:
        return GuardKey(("global",), rest)
    if head in _NAMED and name and key:
        return GuardKey((head, name), key)
    raise InvalidParams(
        f"{text[:80]!r} is no key of guard.toml: write global.<key>, client.<alias>.<key>,"
        " origin.<cli|lib|auto|mcp>.<key> or tool.<name>.<key>, e.g. global.fee_step_pct"
    )


def changed(text: str, where: GuardKey, value: Any) -> GuardChange:
    """guard.toml with one key set, or with None taken away; comments and everything else stay as they are.

    Raises InvalidParams: a bad key or value, or a text that is written in a way this cannot change.
    """
    known = [*_LEAST_RATE] if where.section[0] == "tool" else [item.name for item in fields(Limits)]
    if where.key not in known:
        raise InvalidParams(f"guard.toml: unknown key {where.key[:64]!r}; known are {', '.join(known)}")
    text = text.replace("\r\n", "\n")
    document = _loaded(text)
    where = _as_written(document, where)
    before = parse_rules(document)
    wanted: dict[str, Any] = copy.deepcopy(document)
    table = wanted
    for name in where.section:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise InvalidParams(f"guard.toml: {name} is no section; mend it by hand")
    if value is None:
        table.pop(where.key, None)
    else:
        table[where.key] = value
    after = parse_rules(wanted)
    made = _edited(text, where, value)
    try:
        same = _without_empty(tomllib.loads(made)) == _without_empty(wanted)
    except tomllib.TOMLDecodeError:
        same = False
    if not same:
        raise InvalidParams(
            f"guard.toml writes {'.'.join((*where.section, where.key))} in a way that cannot be changed here"
            " (over several lines, or inside another value): change it in an editor, then run 'hive-advisor"
            " guard check'"
        )
    return GuardChange(made, _effective(before, where), _effective(after, where), loosened(before, after))


def value_of(text: str) -> Any:
    """What was typed: JSON where it parses as number, text or list, else the text itself."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | str | list) and not isinstance(value, bool) else text


def _loaded(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidParams(f"guard.toml is not valid TOML: {error}; mend it first") from error


def _as_written(document: Mapping[str, Any], where: GuardKey) -> GuardKey:
    """An alias is the same however its letters are written; the section that is there is meant."""
    if where.client is None:
        return where
    wanted = check_alias(where.client)
    sections = document.get("client", {})
    for name in sections if isinstance(sections, dict) else ():
        if check_alias(name)[1] == wanted[1]:
            return GuardKey(("client", name), where.key)
    return GuardKey(("client", wanted[0]), where.key)


def _without_empty(document: Mapping[str, Any]) -> dict[str, Any]:
    """Without sections that say nothing: taking the last key away leaves one."""
    kept: dict[str, Any] = {}
    for name, value in document.items():
        inner = _without_empty(value) if isinstance(value, dict) else value
        if inner != {}:
            kept[name] = inner
    return kept


def _edited(text: str, where: GuardKey, value: Any) -> str:
    lines = text.removesuffix("\n").split("\n") if text else []
    found = list(_lines_of(lines, where.section))
    written = None if value is None else f"{where.key} = {_toml(value)}"
    for index in found:
        match = re.match(rf'\s*"?{re.escape(where.key)}"?\s*=', lines[index])
        if match is None:
            continue
        if written is None:
            del lines[index]
        else:
            indent = lines[index][: len(lines[index]) - len(lines[index].lstrip())]
            comment = _comment(lines[index])
            lines[index] = f"{indent}{written}" + (f"  {comment}" if comment else "")
        return _joined(lines)
    if written is None:
        return text
    if found:
        last = max(index for index in found if lines[index].strip())
        lines.insert(last + 1, written)
    else:
        lines += [*([""] if lines and lines[-1].strip() else []), _header(where.section), written]
    return _joined(lines)


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _lines_of(lines: list[str], section: tuple[str, ...]) -> Iterator[int]:
    """The lines of a section, its header included."""
    inside = False
    for index, line in enumerate(lines):
        if line.lstrip().startswith("["):
            inside = _path(line) == section
        if inside:
            yield index


def _path(line: str) -> tuple[str, ...] | None:
    """The names in a header line; None when it is none."""
    try:
        table: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return None
    names: list[str] = []
    while isinstance(table, dict) and table:
        name, table = next(iter(table.items()))
        names.append(name)
    return tuple(names)


def _header(section: tuple[str, ...]) -> str:
    return f"[{'.'.join(name if _BARE.fullmatch(name) else _toml(name) for name in section)}]"


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    # A JSON text is a basic string of TOML but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(line: str) -> str:
    """The comment behind a value that ends on its line."""
    for match in re.finditer("#", line):
        try:
            tomllib.loads(line[: match.start()])
        except tomllib.TOMLDecodeError:
            continue
        return line[match.start() :]
    return ""


def _effective(rules: GuardRules, where: GuardKey) -> Any:
    """What counts at a place; None when it limits nothing there."""
    kind, *names = where.section
    if kind == "tool":
        return getattr(rules.tools.get(names[0], ToolRate()), where.key, None)
    if kind == "global":
        limits = rules.everything
    elif kind == "client":
        limits = rules.clients.get(check_alias(names[0])[1], Limits())
    else:
        limits = next(found for origin, found in rules.origins.items() if origin == names[0])
    return describe(limits).get(where.key)


def loosened(before: GuardRules, after: GuardRules) -> tuple[str, ...]:
    """What the second rules let pass that the first did not, key by key; empty when they are as strict."""
    found = []
    for where, old, new in _levels(before, after):
        was, now = describe(old), describe(new)
        for item in fields(Limits):
            if _is_looser(item.name, getattr(old, item.name), getattr(new, item.name)):
                value = now.get(item.name)
                found.append(
                    f"{where}.{item.name}: {was[item.name]} is now {'off' if value is None else value}"
                )
    for name in sorted({*before.tools, *after.tools}):
        one, other = before.tools.get(name, ToolRate()), after.tools.get(name, ToolRate())
        for key, least in _LEAST_RATE.items():
            rate, now_rate = getattr(one, key), getattr(other, key)
            most = least if rate is None else rate
            if rate != now_rate and (now_rate is None or now_rate > most):
                found.append(f"tool.{name}.{key}: {_rate(rate)} is now {_rate(now_rate)}")
    return tuple(found)


def _rate(rate: int | None) -> str:
    return "the default" if rate is None else str(rate)


def _levels(before: GuardRules, after: GuardRules) -> Iterator[tuple[str, Limits, Limits]]:
    yield "global", before.everything, after.everything
    for origin, limits in before.origins.items():
        yield f"origin.{origin}", limits, after.origins[origin]
    for name in sorted({*before.clients, *after.clients}):
        yield f"client.{name}", before.clients.get(name, Limits()), after.clients.get(name, Limits())


def _is_looser(key: str, old: Any, new: Any) -> bool:
    if old is None or old == new:
        return False
    if new is None:
        return True
    if key == "quiet_hours":
        return bool(_minutes(old) - _minutes(new))
    if key == "clients":
        return bool(new - old)
    if isinstance(old, frozenset):
        return bool(old - new)
    return bool(new < old if key in _TIGHTER_BY_MORE else new > old)


def _minutes(span: tuple[int, int]) -> set[int]:
    first, last = span
    return {minute % 1_440 for minute in range(first, last if last > first else last + 1_440)}
