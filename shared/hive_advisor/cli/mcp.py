"""``hive-advisor mcp``: tools for a program (an AI) on the operator's own nodes
(docs/protocol/11-advisor-kit.md §11)."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click
from hive_shared.errors import Conflict, Internal, InvalidParams

from hive_advisor.cli import output
from hive_advisor.cli.context import Settings, answered, pass_settings

if TYPE_CHECKING:
    from hive_advisor.advisor import Advisor
    from hive_advisor.config import AdvisorConfig
    from hive_advisor.domain.allow_list import AllowList
    from hive_advisor.domain.guard_rules import ToolRate
    from hive_advisor.domain.tool_prompts import Prompt
    from hive_advisor.domain.tool_resources import Resource
    from hive_advisor.services.tool_calls import ToolCallService

_ROUND_S: Final = 15
_ROLE: Final = click.option(
    "--role", type=click.Choice(["operator", "advisor"]), help="instead of mcp.role of config.toml: operator"
)
_SETS: Final = click.option(
    "--toolsets", help="of own nodes: comma list of core, hive, archon; instead of mcp.toolsets: core"
)


@click.group()
def mcp() -> None:
    """Tools for a program, on your own nodes or for your clients: it reads; it acts where you listed it."""


@mcp.command()
@_ROLE
@_SETS
@pass_settings
@answered
async def serve(settings: Settings, role: str | None, toolsets: str | None) -> None:
    """Serve MCP on standard input and output until the program closes them.

    The role operator reads your own nodes; the role advisor works for your clients, under your guard.
    """
    from hive_advisor.config import load_config
    from hive_advisor.mcp_server import require_library

    config = load_config(settings.paths.config, settings.relays)
    advises = (role or config.mcp.role) == "advisor"
    if not advises:
        require_library()
    # The library reads standard input in a thread that nothing can wake: Ctrl-C ends the process as
    # SIGTERM does. What was begun stands in the audit.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if advises:
        await _serve_advisor(settings)
    else:
        await _serve_operator(settings, _sets(toolsets, config), config.mcp.max_output)
    sys.exit(output.OK)


async def _serve_advisor(settings: Settings) -> None:
    from hive_advisor.domain import tool_prompts, tool_resources
    from hive_advisor.guard_files import HaltFile
    from hive_advisor.mcp_server import ADVISOR_INSTRUCTIONS, require_library
    from hive_advisor.services.advisor_acts import advisor_toolbox

    # Half a second each, on a core of its own.
    identity, _ = await asyncio.gather(asyncio.to_thread(settings.unlock), asyncio.to_thread(require_library))
    async with settings.kit_of(identity, online=True) as kit:
        toolbox = advisor_toolbox(kit, HaltFile(settings.paths.halt), _allow_list(settings), now=_now)
        rounds = asyncio.create_task(_rounds(settings, kit))
        try:
            await _serve(
                settings,
                kit.tool_calls(toolbox, _rates(settings)),
                Role(ADVISOR_INSTRUCTIONS, tool_resources.ADVISOR, tool_prompts.ADVISOR),
            )
        finally:
            rounds.cancel()
            await asyncio.gather(rounds, return_exceptions=True)


async def _rounds(settings: Settings, kit: Advisor) -> None:
    """What `run` does, as long as the server has the profile."""
    from hive_shared.errors import HiveError

    while True:
        try:
            await kit.pump()
        except HiveError as error:
            settings.terminal.progress(f"the round ended early: {error.detail}")
        await asyncio.sleep(_ROUND_S)


async def _serve_operator(settings: Settings, sets: tuple[str, ...], max_output: int) -> None:
    from hive_shared.store import Db, StoreError, StoreLocked

    from hive_advisor.advisor import MIGRATIONS
    from hive_advisor.domain import tool_prompts, tool_resources
    from hive_advisor.mcp_server import OPERATOR_INSTRUCTIONS
    from hive_advisor.nodes import load_nodes
    from hive_advisor.services.node_tools import NodeTools
    from hive_advisor.services.tool_calls import ToolCallService
    from hive_advisor.storage.audit_store import AuditStore
    from hive_advisor.transport.own_node import OwnNodes

    paths = settings.paths
    nodes = load_nodes(paths.nodes)
    toolbox = NodeTools(OwnNodes(nodes), tuple(nodes), _allow_list(settings), now=_now, sets=sets)
    paths.make()
    try:
        db = await asyncio.to_thread(Db.open, paths.database, MIGRATIONS)
    except StoreLocked as error:
        raise Conflict(
            f"profile {paths.profile!r} is in use by another hive-advisor process; a second server takes a"
            " profile of its own (--profile NAME)"
        ) from error
    except StoreError as error:
        raise Internal(f"the database of profile {paths.profile!r} cannot be used: {error}") from error
    try:
        await _serve(
            settings,
            ToolCallService(
                db, AuditStore(), toolbox, now=_now, rates=_rates(settings), max_output=max_output
            ),
            Role(OPERATOR_INSTRUCTIONS, tool_resources.OPERATOR, tool_prompts.OPERATOR),
        )
    finally:
        await asyncio.to_thread(db.close)


@dataclass(frozen=True)
class Role:
    """What a role shows beside its tools."""

    instructions: str
    resources: Sequence[Resource]
    prompts: Mapping[str, Prompt]


async def _serve(settings: Settings, service: ToolCallService, role: Role) -> None:
    from hive_advisor.mcp_server import Face
    from hive_advisor.mcp_server import serve as serve_mcp
    from hive_advisor.operator_files import read_prompts

    own, warnings = read_prompts(settings.paths.prompts, role.prompts)
    for warning in (*_allow_list(settings)().warnings, *warnings):
        settings.terminal.progress(warning)
    await serve_mcp(service, Face(role.instructions, role.resources, {**role.prompts, **own}))


def _rates(settings: Settings) -> Callable[[], Mapping[str, ToolRate]]:
    from hive_advisor.guard_files import read_rules

    return lambda: read_rules(settings.paths.guard).tools


def _allow_list(settings: Settings) -> Callable[[], AllowList]:
    from dataclasses import replace

    from hive_advisor.operator_files import read_allow_file

    path = settings.paths.mcp_allow

    def read() -> AllowList:
        found = read_allow_file(path)
        return replace(found, warnings=tuple(f"{path}: {warning}" for warning in found.warnings))

    return read


def _sets(text: str | None, config: AdvisorConfig) -> tuple[str, ...]:
    from hive_advisor.domain.node_tool_sets import check_sets

    if text is None:
        return config.mcp.toolsets
    return check_sets([name.strip() for name in text.split(",") if name.strip()])


def _now() -> int:
    return int(time.time())


@mcp.command("tools")
@_ROLE
@_SETS
@pass_settings
@answered
async def tools_(settings: Settings, role: str | None, toolsets: str | None) -> None:
    """The tools a program gets now, and which of them act."""
    from hive_advisor.config import load_config
    from hive_advisor.domain.advisor_tools import listed_tools as advisor_tools
    from hive_advisor.domain.node_tool_sets import listed_tools, own_tools
    from hive_advisor.domain.tool_schema import MethodTool, Tool, method_tools

    found, config = _allow_list(settings)(), load_config(settings.paths.config, settings.relays)
    methods = listed_tools(method_tools(found.names, ("node",)), _sets(toolsets, config), found.names)
    operator: dict[str, Tool] = {**own_tools(("node",)), **methods}
    shown = operator if (role or config.mcp.role) == "operator" else advisor_tools(found.names)
    items = [
        {
            "tool": name,
            "class": "A" if tool.acts else "R",
            "open": f"{tool.method.selector}={'|'.join(tool.values)}"
            if isinstance(tool, MethodTool) and tool.values
            else None,
        }
        for name, tool in shown.items()
    ]
    note = "\n".join(found.warnings)
    settings.terminal.show({"items": items, "count": len(items), **({"note": note} if note else {})})


@mcp.command()
@click.argument("methods", nargs=-1)
@click.option("--none", is_flag=True, help="an empty list: the program only reads")
@pass_settings
@answered
async def allow(settings: Settings, methods: tuple[str, ...], none: bool) -> None:
    """Open exactly these acting METHODS to the program, instead of those listed now; without any, show them.

    Taking one away holds at once; one that is added counts from the server's next start, and needs a new
    rune.
    """
    from hive_advisor.domain.allow_list import acting
    from hive_advisor.operator_files import read_allow_file, write_allow_file

    if methods and none:
        raise InvalidParams("name methods or give --none, not both")
    if methods or none:
        write_allow_file(settings.paths.mcp_allow, {acting(name) for name in methods})
    found = read_allow_file(settings.paths.mcp_allow)
    settings.terminal.show({"allowed": sorted(found.names), "warnings": list(found.warnings)})


@mcp.command()
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@pass_settings
@answered
async def log(settings: Settings, limit: int) -> None:
    """What the program called, newest first."""
    from hive_advisor.storage.audit_store import read_audit

    rows = await asyncio.to_thread(read_audit, settings.paths.database, limit)
    items = [
        {
            "id": row.audit_id,
            "at": output.moment(row.at),
            "client": row.client,
            "tool": row.tool,
            "node": row.node,
            "class": row.klass,
            "decision": row.decision,
            "slug": row.slug,
            "plan": row.plan or None,
            "args": row.args_hash[:16],
            "answer": row.out_hash[:16],
        }
        for row in rows
    ]
    settings.terminal.show({"items": items, "count": len(items)})
