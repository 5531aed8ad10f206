"""``hive-advisor node add|check|report|watch|call|pending|approve|reject``: what operators do with their own
nodes (docs/protocol/11-advisor-kit.md §10, §11.3). Registered on the group of ``cli.nodes``."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from hive_shared.errors import HiveError, InvalidParams, NotFound, by_code

from hive_advisor.cli import output
from hive_advisor.cli.commands import parse_pairs
from hive_advisor.cli.context import Settings, answered, pass_settings
from hive_advisor.domain.cleaning import clean_value
from hive_advisor.domain.methods import Method, method_table
from hive_advisor.domain.tool_output import Outside
from hive_advisor.nodes import add_node, check_named, load_nodes
from hive_advisor.services.figures import FigureService
from hive_advisor.services.ports import NodeRefused
from hive_advisor.transport.own_node import OwnNodes

_NAMES = ("action_id", "short_channel_id", "channel_id", "id", "which")
_DECIDE = "hive-client-approve"
_PENDING = "hive-client-pending"


@click.command()
@click.argument("name")
@click.option("--socket", type=click.Path(path_type=Path), help="the node's RPC socket")
@click.option("--rest-url", help="or its clnrest: https://host:port")
@click.option("--rune-file", type=click.Path(path_type=Path), help="with --rest-url: file of mode 0600")
@click.option("--ca-cert", type=click.Path(path_type=Path), help="clnrest's ca.pem")
@click.option("--tls-sha256", help="or the SHA-256 of its certificate")
@pass_settings
@answered
async def add(
    settings: Settings,
    name: str,
    socket: Path | None,
    rest_url: str | None,
    rune_file: Path | None,
    ca_cert: Path | None,
    tls_sha256: str | None,
) -> None:
    """Name a node of yours in nodes.toml."""
    given = {
        "socket": socket and socket.absolute(),
        "rest_url": rest_url,
        "rune_file": rune_file and rune_file.absolute(),
        "ca_cert": ca_cert and ca_cert.absolute(),
        "tls_sha256": tls_sha256,
    }
    settings.paths.make()
    made = add_node(settings.paths.nodes, name, {key: str(value) for key, value in given.items() if value})
    settings.terminal.show({"node": made.name, "way": made.way, "file": str(settings.paths.nodes)})


@click.command()
@click.argument("name", required=False)
@pass_settings
@answered
async def check(settings: Settings, name: str | None) -> None:
    """Exit 0 when every node answers and nothing is out of the ordinary, 1 otherwise, with what it is."""
    found = await _Own(settings).figures("anomalies", name)
    rows = [{"node": part["node"], **item} for part in found["nodes"] for item in part["items"]]
    rows += [{"node": node, "kind": "unreachable", "why": slug} for node, slug in found["errors"].items()]
    settings.terminal.show({"items": rows, "count": len(rows)}, output.INTERNAL if rows else output.OK)


@click.command()
@click.argument("name", required=False)
@pass_settings
@answered
async def report(settings: Settings, name: str | None) -> None:
    """A day in figures, as one JSON object: what each node has, earned and lacks, and what waits for you."""
    own = _Own(settings)
    parts: dict[str, dict[str, Any]] = {}
    for key, tool, given in (
        ("snapshot", "fleet_snapshot", {}),
        ("day", "compare_periods", {"days": 1}),
        ("anomalies", "anomalies", {}),
        ("waiting", "pending", {}),
    ):
        parts[key] = await own.figures(tool, name, **given)
    failed = any(part["errors"] for part in parts.values())
    told = {"at": int(time.time()), **parts}
    output.Terminal(as_json=True).show(told, output.TRANSPORT if failed else output.OK)


@click.command()
@click.argument("name", required=False)
@click.option("--interval", type=click.IntRange(5, 86_400), default=60, show_default=True)
@click.option("--once", is_flag=True, help="one look, then exit")
@pass_settings
@answered
async def watch(settings: Settings, name: str | None, interval: int, once: bool) -> None:
    """Tell what is new, one JSON object a line: actions that wait, what went wrong and what is well again,
    channels that run empty or full."""
    own = _Own(settings)
    known: dict[str, dict[str, Any]] = {}
    while True:
        seen = await own.look(name)
        for key, row in seen.items():
            if key not in known:
                _line({"event": "new", **row})
        for key, row in known.items():
            if key not in seen:
                _line({"event": "over", **row})
        known = seen
        if once:
            return
        await asyncio.sleep(interval)


def _line(row: Mapping[str, Any]) -> None:
    shown = clean_value({"at": int(time.time()), **row})
    click.echo(json.dumps(shown, ensure_ascii=False))


@click.command()
@click.argument("name")
@click.argument("method")
@click.argument("pairs", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--params", "params_file", help="file with a JSON object of parameters, - for stdin")
@pass_settings
@answered
async def call(
    settings: Settings, name: str, method: str, pairs: tuple[str, ...], params_file: str | None
) -> None:
    """Call a method of the plugins on a node of yours; what does more than read asks first."""
    params = parse_pairs(pairs, await settings.document(params_file))
    known = method_table().get(method)
    if known is None:
        raise NotFound(f"no plugin of this version has a method {method[:64]!a}")
    kind = known.class_of(params)
    if kind != "R":
        await settings.ask_yes(f"{method} on {name} does more than read. Call it?")
    settings.terminal.show(await _Own(settings).call(name, known, params))


@click.command()
@click.argument("name", required=False)
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@pass_settings
@answered
async def pending(settings: Settings, name: str | None, limit: int) -> None:
    """Actions of advisors that wait for you, at one node or all."""
    found = await _Own(settings).figures("pending", name, limit=limit)
    rows = [
        {"node": part["node"], **item} for part in found["nodes"] for item in part["queues"].get(_PENDING, [])
    ]
    data: dict[str, Any] = {"items": rows, "count": len(rows)}
    if found["errors"]:
        data["errors"] = found["errors"]
    settings.terminal.show(data, output.TRANSPORT if found["errors"] else output.OK)


@click.command()
@click.argument("name")
@click.argument("action_id")
@pass_settings
@answered
async def approve(settings: Settings, name: str, action_id: str) -> None:
    """Let a waiting action run; shows it and asks first."""
    await _decide(settings, name, action_id, {})


@click.command()
@click.argument("name")
@click.argument("action_id")
@click.option("--reason", default="", help="told to the advisor")
@pass_settings
@answered
async def reject(settings: Settings, name: str, action_id: str, reason: str) -> None:
    """Refuse a waiting action; shows it and asks first."""
    await _decide(settings, name, action_id, {"reject": True, "reason": reason})


async def _decide(settings: Settings, name: str, action_id: str, how: Mapping[str, Any]) -> None:
    own = _Own(settings)
    waiting = await own.call(name, method_table()[_PENDING], {"limit": 500})
    action = next((item for item in waiting["items"] if item.get("action_id") == action_id), None)
    if action is None:
        raise NotFound(
            f"no action {action_id[:64]!a} waits at {name}; 'hive-advisor node pending {name}' lists them"
        )
    settings.terminal.progress(output.as_text(clean_value(action)))
    await settings.ask_yes(f"{'Reject' if how else 'Approve'} this at {name}?")
    settings.terminal.show(await own.call(name, method_table()[_DECIDE], {"action_id": action_id, **how}))


class _Own:
    """The nodes of nodes.toml, asked for this call."""

    def __init__(self, settings: Settings) -> None:
        nodes = load_nodes(settings.paths.nodes)
        self._names = tuple(nodes)
        self._calls = OwnNodes(nodes)
        self._figures = FigureService(self._calls, self._names, now=lambda: int(time.time()))

    async def figures(self, tool: str, name: str | None, **given: Any) -> dict[str, Any]:
        """{nodes: parts, errors: slug by node}, of one node or of all."""
        if name is None:
            found: dict[str, Any] = _plain(await self._figures.answer(tool, {**given, "node": None}))
            return found
        try:
            part = await self._figures.answer(tool, {**given, "node": check_named(self._names, name)})
        except InvalidParams:
            raise
        except HiveError as error:
            return {"nodes": [], "errors": {name: error.symbol}}
        return {"nodes": [_plain(part)], "errors": {}}

    async def look(self, name: str | None) -> dict[str, dict[str, Any]]:
        """What a watcher tells of, by what makes it one and the same."""
        rows: dict[str, dict[str, Any]] = {}
        for tool, kind in (("anomalies", None), ("critical_velocity", "velocity"), ("pending", "waiting")):
            found = await self.figures(tool, name)
            for node, slug in found["errors"].items():
                rows[f"{node} unreachable"] = {"node": node, "kind": "unreachable", "why": slug}
            for part in found["nodes"]:
                items = part["queues"].get(_PENDING, []) if kind == "waiting" else part["items"]
                for item in items:
                    row = {"node": part["node"], "kind": kind or item["kind"], **item}
                    name_of = next((str(item[key]) for key in _NAMES if key in item), "")
                    rows[f"{part['node']} {row['kind']} {name_of}"] = row
        return rows

    async def call(self, name: str, method: Method, params: Mapping[str, Any]) -> dict[str, Any]:
        """Raises the node's refusal as the error of the same code."""
        try:
            return await self._calls.call(check_named(self._names, name), method.name, params)
        except NodeRefused as refused:
            raise _as_error(refused) from refused


def _as_error(refused: NodeRefused) -> HiveError:
    data = refused.data if isinstance(refused.data, dict) else {}
    with suppress(KeyError):
        return by_code(refused.code)(refused.text, data=data)
    return NotFound(refused.text) if refused.code == -32601 else InvalidParams(refused.text)


def _plain(value: object) -> Any:
    """Figures without the marks that the tools of programs need."""
    if isinstance(value, Outside):
        return _plain(value.value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
