"""The human's list of what a program may do: acting methods of own nodes, acting tools of the role advisor
(docs/protocol/08-client-and-plugins.md §8.7, 11-advisor-kit.md §11).

A list that is not exactly a JSON array of names opens nothing: half of a damaged list may be the wrong half.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from hive_shared.canonical import decode
from hive_shared.errors import InvalidParams

from hive_advisor.domain.advisor_tools import ADVISOR_TOOLS, HUMANS_OWN
from hive_advisor.domain.methods import Method, method_table

_MAX_BYTES: Final = 65_536
_NAME: Final = re.compile(r"hive-[a-z0-9]+(-[a-z0-9]+)*|adv_[a-z0-9_]+")


class AllowList(msgspec.Struct, frozen=True):
    """Names whose acting calls are open. ``warnings`` says what of the file opens nothing, and why."""

    names: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()


READ_ONLY: Final = AllowList()


def read_allow_list(text: str | bytes) -> AllowList:
    """Parse the file's content; malformed in any way opens nothing, and ``warnings`` says what was wrong."""
    try:
        document = decode(text, max_bytes=_MAX_BYTES)
    except InvalidParams as error:
        return AllowList(warnings=(f"the allow list is not strict JSON ({error.detail}): read-only",))
    if not isinstance(document, list) or not all(isinstance(item, str) for item in document):
        return AllowList(warnings=("the allow list is not a JSON array of method names: read-only",))
    names, warnings = set(), []
    for item in document:
        try:
            names.add(acting(str(item)))
        except InvalidParams as error:
            warnings.append(f"{error.detail}; this entry opens nothing")
    return AllowList(frozenset(names), tuple(warnings))


def acting(name: str) -> str:
    """The name, if it is exactly that of a method or tool with acting calls. Raises InvalidParams saying why
    not."""
    if name in HUMANS_OWN:
        raise InvalidParams(f"{name} is of class X, which no list opens: it is the human's own")
    tool = ADVISOR_TOOLS.get(name)
    if tool is not None and tool.klass == "A":
        return name
    if tool is not None:
        raise InvalidParams(f"{name} only reads: it is open without being listed")
    method = named(name)
    if "A" in method.present_classes:
        return name
    if method.klass == "R":
        raise InvalidParams(f"{name} only reads: it is open without being listed")
    raise InvalidParams(f"{name} is of class {method.klass}, which no list opens: {_WHOSE[method.klass]}")


def named(name: str) -> Method:
    """The method of that exact name. Raises InvalidParams: prefixes and patterns are refused as such."""
    method = method_table().get(name)
    if method is not None:
        return method
    if not _NAME.fullmatch(name):
        raise InvalidParams(
            f"{name[:80]!a} is not the exact name of a method; prefixes and patterns are refused,"
            " because they also open what is added later"
        )
    if name.startswith("adv_"):
        raise InvalidParams(f"this version has no tool {name[:80]!a}")
    raise InvalidParams(f"no plugin of this version has a method {name[:80]!a}")


_WHOSE: Final = {
    "X": "the operator's own",
    "S": "for sibling plugins",
    "remote": "for signed commands of advisors",
}
