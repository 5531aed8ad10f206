"""``hive-advisor mcp``: tools for a program (an AI) on the operator's own nodes
(docs/protocol/11-advisor-kit.md §11)."""

from __future__ import annotations

import asyncio
import signal
import sys
import time

import click
from hive_shared.errors import Conflict, Internal, InvalidParams

from hive_advisor.cli import output
from hive_advisor.cli.context import Settings, answered, pass_settings


@click.group()
def mcp() -> None:
    """Tools for a program on your own nodes: it reads; it acts where you listed a method."""


@mcp.command()
@click.option("--role", type=click.Choice(["operator"]), default="operator", show_default=True)
@pass_settings
@answered
async def serve(settings: Settings, role: str) -> None:
    """Serve MCP on standard input and output until the program closes them."""
    from hive_shared.store import Db, StoreError, StoreLocked

    from hive_advisor.advisor import MIGRATIONS
    from hive_advisor.mcp_server import require_library
    from hive_advisor.mcp_server import serve as serve_mcp
    from hive_advisor.nodes import load_nodes
    from hive_advisor.operator_files import read_allow_file
    from hive_advisor.services.tool_calls import ToolCallService
    from hive_advisor.storage.audit_store import AuditStore
    from hive_advisor.transport.own_node import OwnNodes

    require_library()
    paths = settings.paths
    nodes = load_nodes(paths.nodes)
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
        service = ToolCallService(
            db,
            AuditStore(),
            OwnNodes(nodes),
            tuple(nodes),
            lambda: read_allow_file(paths.mcp_allow),
            now=lambda: int(time.time()),
        )
        for warning in service.warnings:
            settings.terminal.progress(f"{paths.mcp_allow}: {warning}")
        # The library reads standard input in a thread that nothing can wake: Ctrl-C ends the process as
        # SIGTERM does. What was begun stands in the audit.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        await serve_mcp(service)
    finally:
        await asyncio.to_thread(db.close)
    sys.exit(output.OK)


@mcp.command("tools")
@pass_settings
@answered
async def tools_(settings: Settings) -> None:
    """The tools a program gets now, and which of them act."""
    from hive_advisor.domain.tool_schema import tools
    from hive_advisor.operator_files import read_allow_file

    found = read_allow_file(settings.paths.mcp_allow)
    items = [
        {
            "tool": name,
            "class": "A" if tool.acts else "R",
            "open": f"{tool.method.selector}={'|'.join(tool.values)}" if tool.values else None,
        }
        for name, tool in tools(found.names, ("node",)).items()
    ]
    note = "\n".join(f"{settings.paths.mcp_allow}: {warning}" for warning in found.warnings)
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
        write_allow_file(settings.paths.mcp_allow, {acting(name).name for name in methods})
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
            "args": row.args_hash[:16],
            "answer": row.out_hash[:16],
        }
        for row in rows
    ]
    settings.terminal.show({"items": items, "count": len(items)})
