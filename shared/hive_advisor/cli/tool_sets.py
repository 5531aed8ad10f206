"""The tools of a role over what a profile has open: for the program at our standard input, and for those that
come to ``mcp.sock``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from hive_advisor.domain import tool_prompts, tool_resources
from hive_advisor.domain.allow_list import AllowList
from hive_advisor.domain.tool_prompts import Prompt
from hive_advisor.domain.tool_resources import Resource
from hive_advisor.guard_files import HaltFile, read_rules
from hive_advisor.nodes import load_nodes
from hive_advisor.operator_files import read_allow_file, read_prompts
from hive_advisor.services.node_tools import NodeTools
from hive_advisor.transport.own_node import OwnNodes

if TYPE_CHECKING:
    from hive_advisor.advisor import Advisor
    from hive_advisor.domain.guard_rules import ToolRate
    from hive_advisor.paths import ProfilePaths
    from hive_advisor.services.tool_calls import Toolbox


class Role(msgspec.Struct, frozen=True):
    """What a role shows beside its tools."""

    name: str
    resources: Sequence[Resource]
    prompts: Mapping[str, Prompt]


ROLES: Mapping[str, Role] = {
    "operator": Role("operator", tool_resources.OPERATOR, tool_prompts.OPERATOR),
    "advisor": Role("advisor", tool_resources.ADVISOR, tool_prompts.ADVISOR),
}


def clock() -> int:
    """Unix seconds."""
    return int(time.time())


def operator_tools(paths: ProfilePaths, sets: tuple[str, ...]) -> NodeTools:
    """The tools of the operator's own nodes. Raises InvalidParams for a nodes.toml that cannot be used."""
    nodes = load_nodes(paths.nodes)
    return NodeTools(OwnNodes(nodes), tuple(nodes), allow_list(paths), now=clock, sets=sets)


def toolbox_of(role: str, paths: ProfilePaths, kit: Advisor, sets: tuple[str, ...]) -> Toolbox:
    """The tools of a role in a process that has the kit open."""
    if role == "operator":
        return operator_tools(paths, sets)
    from hive_advisor.services.advisor_acts import advisor_toolbox

    return advisor_toolbox(kit, HaltFile(paths.halt), allow_list(paths), now=clock)


def rates(paths: ProfilePaths) -> Callable[[], Mapping[str, ToolRate]]:
    """The human's own rates of tools, read anew for every call."""
    return lambda: read_rules(paths.guard).tools


def allow_list(paths: ProfilePaths) -> Callable[[], AllowList]:
    """The human's list of acting tools, read anew for every call."""
    path = paths.mcp_allow

    def read() -> AllowList:
        found = read_allow_file(path)
        return replace(found, warnings=tuple(f"{path}: {warning}" for warning in found.warnings))

    return read


def own_prompts(paths: ProfilePaths, role: Role) -> tuple[dict[str, Prompt], list[str]]:
    """The human's own prompts, and what of their files and list opens nothing."""
    found, warnings = read_prompts(paths.prompts, role.prompts)
    return found, [*allow_list(paths)().warnings, *warnings]
