"""Which tools the role operator shows: sets of them, the kit's own, and the search over all the others
(docs/protocol/11-advisor-kit.md §11.3)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from hive_shared.errors import InvalidParams
from hive_shared.runtime_spec import Param

from hive_advisor.domain.figure_tools import FIGURE_TOOLS
from hive_advisor.domain.tool_schema import MethodTool, Tool, schema_of

SEARCH: Final = "tools_search"
CALL: Final = "hive_call"
_CORE: Final = frozenset(
    {
        *("hive-client-status", "hive-client-pending", "hive-client-receipts", "hive-client-selfcheck"),
        "hive-client-alerts",
    }
)
SETS: Final[Mapping[str, str]] = {
    "core": "figures of all nodes, reads of the node itself, status, receipts, self-check",
    "hive": "every other method of cl-hive-comms and cl-hive",
    "archon": "the methods of cl-hive-archon",
}
DEFAULT_SETS: Final = ("core",)
_MAX_FOUND: Final = 40


PARAMS: Final[Mapping[str, tuple[Param, ...]]] = {
    SEARCH: (Param("words", "str", required=True, maximum=200),),
    CALL: (
        Param("method", "str", required=True, maximum=80),
        Param("params", "json", default=None),
        Param("dry_run", "bool", default=True),
    ),
}


def check_sets(names: Sequence[str]) -> tuple[str, ...]:
    """Raises InvalidParams for a set that does not exist."""
    for name in names:
        if name not in SETS:
            raise InvalidParams(f"there is no set of tools called {name[:40]!a}; known are {', '.join(SETS)}")
    return tuple(dict.fromkeys(names))


def own_tools(nodes: Sequence[str]) -> dict[str, Tool]:
    """The tools that are no single method: figures, the search, and the call of what is not shown."""
    found = {
        tool.name: Tool(
            f"{tool.description} Reads only.",
            False,
            schema_of(tool.params, nodes, node_required=not tool.fleet),
        )
        for tool in FIGURE_TOOLS.values()
    }
    found[SEARCH] = Tool(
        "Methods whose name, description or parameters hold all the words; hive_call makes them. Reads only.",
        False,
        schema_of(PARAMS[SEARCH]),
    )
    found[CALL] = Tool(
        "Call any method that is open, by its name and parameters. One that acts does so only with"
        " dry_run=false, and only if the operator listed it.",
        False,
        schema_of(PARAMS[CALL], nodes),
    )
    return found


def listed_tools(
    methods: Mapping[str, MethodTool], sets: Collection[str], allowed: Collection[str]
) -> dict[str, MethodTool]:
    """Those of the sets, and what the operator listed by name."""
    return {
        name: tool for name, tool in methods.items() if tool.method.name in allowed or _set_of(tool) in sets
    }


def found_methods(
    words: str, methods: Mapping[str, MethodTool], own: Mapping[str, Tool]
) -> list[dict[str, Any]]:
    """Tools and methods that hold every word, as a program can call them."""
    wanted = words.lower().replace("-", "_").split()
    rows = []
    every: dict[str, Tool] = {**own, **methods}
    for name, tool in every.items():
        properties = tool.schema["properties"]
        text = f"{name} {tool.description} {' '.join(properties)}".lower().replace("-", "_")
        if wanted and all(word in text for word in wanted):
            rows.append(
                {
                    "tool": name,
                    "class": "A" if tool.acts else "R",
                    "description": tool.description,
                    "params": properties,
                    "required": tool.schema["required"],
                }
            )
    return rows[:_MAX_FOUND]


def _set_of(tool: MethodTool) -> str:
    if tool.method.plugin == "lightningd" or tool.method.name in _CORE:
        return "core"
    return "archon" if tool.method.plugin == "cl-hive-archon" else "hive"
