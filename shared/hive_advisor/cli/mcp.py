"""``hive-advisor mcp``: tools for a program (an AI) on the operator's own nodes
(docs/protocol/11-advisor-kit.md §11)."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from hive_shared.errors import Conflict, Internal, InvalidParams, TransportUnavailable

from hive_advisor.cli import output
from hive_advisor.cli.context import Settings, answered, pass_settings

if TYPE_CHECKING:
    from hive_advisor.advisor import Advisor
    from hive_advisor.cli.far_tools import FarTools
    from hive_advisor.cli.tool_sets import Role
    from hive_advisor.config import AdvisorConfig
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
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    help="mcp.sock of the engine that carries the calls out; needs no profile, key or passphrase here",
)
@pass_settings
@answered
async def serve(settings: Settings, role: str | None, toolsets: str | None, socket: Path | None) -> None:
    """Serve MCP on standard input and output until the program closes them.

    The role operator reads your own nodes; the role advisor works for your clients, under your guard. While
    another process holds the profile (`run`), that one carries the calls out.
    """
    from hive_advisor.cli.far_tools import FarTools, wanted
    from hive_advisor.config import load_config
    from hive_advisor.mcp_server import require_library

    # The library reads standard input in a thread that nothing can wake: Ctrl-C ends the process as
    # SIGTERM does. What was begun stands in the audit.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    paths = settings.paths
    if socket is not None or paths.mcp_socket.exists():
        require_library()
        database = paths.database if socket is None else None
        far = FarTools(socket or paths.mcp_socket, database, wanted(role, toolsets))
        if await far.open():
            await _serve_far(settings, far)
            sys.exit(output.OK)
        if socket is not None:
            raise TransportUnavailable(f"no engine listens on {socket}: 'hive-advisor run' is one")
    config = load_config(paths.config, settings.relays)
    if (role or config.mcp.role) == "advisor":
        await _serve_advisor(settings)
    else:
        require_library()
        await _serve_operator(settings, _sets(toolsets, config), config.mcp.max_output)
    sys.exit(output.OK)


async def _serve_far(settings: Settings, far: FarTools) -> None:
    from hive_advisor.cli.tool_sets import ROLES
    from hive_advisor.mcp_server import INSTRUCTIONS, Face
    from hive_advisor.mcp_server import serve as serve_mcp

    for warning in far.warnings:
        settings.terminal.progress(warning)
    role = ROLES[far.role]
    try:
        face = Face(INSTRUCTIONS[role.name], role.resources, {**role.prompts, **far.prompts})
        await serve_mcp(far, face)
    finally:
        await far.close()


async def _serve_advisor(settings: Settings) -> None:
    from hive_advisor.cli.tool_sets import ROLES, rates, toolbox_of
    from hive_advisor.mcp_server import require_library

    # Half a second each, on a core of its own.
    identity, _ = await asyncio.gather(asyncio.to_thread(settings.unlock), asyncio.to_thread(require_library))
    async with settings.kit_of(identity, online=True, holder="mcp serve") as kit:
        toolbox = toolbox_of("advisor", settings.paths, kit, ())
        rounds = asyncio.create_task(_rounds(settings, kit))
        try:
            await _serve(settings, kit.tool_calls(toolbox, rates(settings.paths)), ROLES["advisor"])
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
    from hive_advisor.cli.tool_sets import ROLES, clock, operator_tools, rates
    from hive_advisor.services.tool_calls import ToolCallService
    from hive_advisor.storage.audit_store import AuditStore

    paths = settings.paths
    toolbox = operator_tools(paths, sets)
    paths.make()
    try:
        db = await asyncio.to_thread(Db.open, paths.database, MIGRATIONS)
    except StoreLocked as error:
        raise Conflict(
            f"profile {paths.profile!r} is in use by another hive-advisor process, which takes no tool calls"
            " of others; a second server takes a profile of its own (--profile NAME), or 'hive-advisor run'"
            " serves them both"
        ) from error
    except StoreError as error:
        raise Internal(f"the database of profile {paths.profile!r} cannot be used: {error}") from error
    try:
        await _serve(
            settings,
            ToolCallService(db, AuditStore(), toolbox, now=clock, rates=rates(paths), max_output=max_output),
            ROLES["operator"],
        )
    finally:
        await asyncio.to_thread(db.close)


async def _serve(settings: Settings, service: ToolCallService, role: Role) -> None:
    from hive_advisor.cli.tool_sets import own_prompts
    from hive_advisor.mcp_server import INSTRUCTIONS, Face
    from hive_advisor.mcp_server import serve as serve_mcp

    own, warnings = own_prompts(settings.paths, role)
    for warning in warnings:
        settings.terminal.progress(warning)
    await serve_mcp(service, Face(INSTRUCTIONS[role.name], role.resources, {**role.prompts, **own}))


def _sets(text: str | None, config: AdvisorConfig) -> tuple[str, ...]:
    from hive_advisor.domain.node_tool_sets import check_sets

    if text is None:
        return config.mcp.toolsets
    return check_sets([name.strip() for name in text.split(",") if name.strip()])


@mcp.command("tools")
@_ROLE
@_SETS
@pass_settings
@answered
async def tools_(settings: Settings, role: str | None, toolsets: str | None) -> None:
    """The tools a program gets now, and which of them act."""
    from hive_advisor.cli.tool_sets import allow_list
    from hive_advisor.config import load_config
    from hive_advisor.domain.advisor_tools import listed_tools as advisor_tools
    from hive_advisor.domain.node_tool_sets import listed_tools, own_tools
    from hive_advisor.domain.tool_schema import MethodTool, Tool, method_tools

    found, config = allow_list(settings.paths)(), load_config(settings.paths.config, settings.relays)
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
