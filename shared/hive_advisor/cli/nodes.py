"""``hive-advisor node``: the operator's own nodes (docs/protocol/11-advisor-kit.md §10, §11.3)."""

from __future__ import annotations

import os
from pathlib import Path

import click
from hive_shared.errors import HiveError, Internal, InvalidParams

from hive_advisor.cli import node_watch, output
from hive_advisor.cli.context import Settings, answered, pass_settings


@click.group()
def node() -> None:
    """Your own nodes, as nodes.toml names them."""


@node.command("list")
@pass_settings
@answered
async def list_(settings: Settings) -> None:
    """The nodes of nodes.toml and how each is reached."""
    from hive_advisor.nodes import load_nodes

    items = [
        {"node": each.name, "way": each.way, "at": each.rest.url if each.rest else str(each.socket)}
        for each in load_nodes(settings.paths.nodes).values()
    ]
    settings.terminal.show({"items": items, "count": len(items)})


@node.command()
@pass_settings
@answered
async def status(settings: Settings) -> None:
    """Whether each node answers; exit 6 if one does not."""
    import asyncio

    from hive_advisor.nodes import load_nodes
    from hive_advisor.services.ports import NodeRefused
    from hive_advisor.transport.own_node import OwnNodes

    nodes = load_nodes(settings.paths.nodes)
    calls = OwnNodes(nodes)

    async def asked(name: str) -> dict[str, object]:
        try:
            said = await calls.call(name, "hive-client-status", {"pending": False})
        except NodeRefused as refused:
            return {"node": name, "answers": False, "why": refused.text}
        except HiveError as error:
            return {"node": name, "answers": False, "why": error.detail}
        return {"node": name, "answers": True, "pending": said.get("pending"), "why": None}

    items = list(await asyncio.gather(*map(asked, nodes)))
    well = all(item["answers"] for item in items)
    settings.terminal.show({"items": items, "count": len(items)}, output.OK if well else output.TRANSPORT)


@node.command()
@click.argument("name", required=False)
@click.option(
    "--allow", multiple=True, help="acting method to open, by exact name; else mcp-allow.json decides"
)
@click.option("--out", type=click.Path(path_type=Path), help="make the rune on the node NAME; write it here")
@pass_settings
@answered
async def rune(settings: Settings, name: str | None, allow: tuple[str, ...], out: Path | None) -> None:
    """What the rune of an MCP server may do; with NAME and --out the node makes it.

    Every reading method by its exact name, and the acting ones you opened. The rune itself is only ever
    written to the file.
    """
    from hive_shared.rune_template import restrictions

    from hive_advisor.domain.allow_list import acting
    from hive_advisor.domain.figure_tools import rune_reads
    from hive_advisor.domain.methods import method_table
    from hive_advisor.operator_files import read_allow_file

    if (out is None) != (name is None):
        raise InvalidParams("give both NAME and --out to make the rune, or neither to see what it may do")
    listed = frozenset(acting(each) for each in allow)
    if not allow:
        found = read_allow_file(settings.paths.mcp_allow)
        for warning in found.warnings:
            settings.terminal.progress(f"{settings.paths.mcp_allow}: {warning}")
        # What is listed for the role advisor is no method of a node.
        listed = found.names & method_table().keys()
    rows = restrictions([*(method.spec for method in method_table().values()), *rune_reads()], listed)
    data = {"methods": len(rows[0]), "acting": sorted(listed), "restrictions": rows}
    if name is not None and out is not None:
        await _make(settings, name, out, data)
    settings.terminal.show(data)


async def _make(settings: Settings, name: str, out: Path, data: dict[str, object]) -> None:
    from hive_advisor.nodes import check_named, load_nodes
    from hive_advisor.services.ports import NodeRefused
    from hive_advisor.transport.own_node import OwnNodes

    nodes = load_nodes(settings.paths.nodes)
    check_named(nodes, name)
    try:
        # The file first: a rune that could not be kept would be valid and in nobody's hands.
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InvalidParams(f"--out {out}: {error.strerror}; name a new file") from error
    made = False
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            said = await OwnNodes(nodes).call(name, "createrune", {"restrictions": data["restrictions"]})
            file.write(str(said["rune"]) + "\n")
            file.flush()
            os.fsync(file.fileno())
            made = True
    except NodeRefused as refused:
        raise Internal(f"node {name} made no rune: {refused.text}") from refused
    except KeyError as error:
        raise Internal(f"node {name} answered createrune without a rune") from error
    finally:
        if not made:
            out.unlink(missing_ok=True)
    data |= {"rune_file": str(out), "rune_id": str(said.get("unique_id", ""))}


for _command in (
    node_watch.add,
    node_watch.check,
    node_watch.report,
    node_watch.watch,
    node_watch.call,
    node_watch.pending,
    node_watch.approve,
    node_watch.reject,
):
    node.add_command(_command)
