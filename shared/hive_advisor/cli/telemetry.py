"""``hive-advisor telemetry``."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click
from hive_shared.errors import Conflict, InvalidParams
from hive_shared.registry.control import ACTION_LOG, REPORTS, TELEMETRY_METRICS, TELEMETRY_NAMES

from hive_advisor.cli import completing, output
from hive_advisor.cli.context import Settings, answered, pass_settings
from hive_advisor.cli.fetching import fetching
from hive_advisor.domain.telemetry import Figure, LogEntry

_METRIC = click.Choice([*TELEMETRY_METRICS, *REPORTS])
_NAME = click.Choice(TELEMETRY_NAMES)
_ALL = 5_000_000
_LOOK_S, _PAGE = 0.5, 1_000


@click.group()
def telemetry() -> None:
    """Figures that nodes send by themselves."""


@telemetry.command()
@click.argument("alias", shell_complete=completing.clients)
@click.argument("metrics", nargs=-1, required=True, type=_NAME)
@click.option("--interval", type=click.IntRange(300, 86_400), default=3_600, show_default=True)
@click.option("--days", type=click.IntRange(1, 365), default=30, show_default=True)
@pass_settings
@answered
async def subscribe(
    settings: Settings, alias: str, metrics: tuple[str, ...], interval: int, days: int
) -> None:
    """Have a node send these metrics every --interval seconds; `run` renews it until you unsubscribe.

    action_log, report_daily and report_weekly each stand alone. action_log: the node tells what became of
    your commands as they end, and after --interval seconds without any that there was none. The reports on
    your work come when a day or a week (UTC) is over; the node pings for them, `run` answers.
    """
    async with settings.kit(online=True) as kit:
        found = await kit.clients.named(alias)
        wanted = tuple(dict.fromkeys(metrics))
        _show(
            settings,
            await kit.telemetry.subscribe(found, wanted, interval, days * 86_400, settings.wait),
        )


@telemetry.command()
@click.argument("alias", shell_complete=completing.clients)
@click.argument("sub_id")
@pass_settings
@answered
async def unsubscribe(settings: Settings, alias: str, sub_id: str) -> None:
    """Have a node stop; `telemetry show` lists what runs."""
    async with settings.kit(online=True) as kit:
        found = await kit.clients.named(alias)
        _show(settings, await kit.telemetry.unsubscribe(found, sub_id, settings.wait))


def _show(settings: Settings, answer: dict[str, Any]) -> None:
    if isinstance(answer["result"], dict):
        settings.terminal.show(answer["result"])
        return
    told = {name: answer[name] for name in ("state", "slug", "message")}
    settings.terminal.show(told, output.REFUSED if answer["slug"] else output.PENDING)


@telemetry.command()
@click.argument("alias", shell_complete=completing.clients)
@click.option("--metric", type=_METRIC, help="this one only")
@click.option("--since", default=0, help="Unix seconds to start at")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@pass_settings
@answered
async def show(settings: Settings, alias: str, metric: str | None, since: int, limit: int) -> None:
    """What runs at a node, and the newest figures that came."""
    async with settings.kit(online=False) as kit:
        found = await kit.clients.named(alias)
        running = [
            {
                "sub_id": row.sub_id,
                "metrics": [*row.metrics],
                "interval_s": row.interval_s,
                "until": output.moment(row.until),
            }
            for row in await kit.telemetry.followed(found)
        ]
        items = [_row(figure) for figure in await kit.telemetry.figures(found, metric, since, limit)]
        settings.terminal.show({"running": running, "items": items, "count": len(items)})


@telemetry.command()
@click.argument("alias", shell_complete=completing.clients)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--metric", type=_METRIC, help="this one only")
@pass_settings
@answered
async def export(settings: Settings, alias: str, path: Path, metric: str | None) -> None:
    """Write all figures of a node to a file, one JSON object a line, the oldest first."""
    async with settings.kit(online=False) as kit:
        if path.exists():
            raise Conflict(f"{path} exists; name a new file")
        found = await kit.telemetry.figures(await kit.clients.named(alias), metric, 0, _ALL)
        path.write_text("".join(json.dumps(_row(figure)) + "\n" for figure in reversed(found)))
        settings.terminal.show({"path": str(path), "figures": len(found)})


@telemetry.command()
@click.argument("alias", shell_complete=completing.clients)
@click.option("--after", type=click.IntRange(min=0), help="receipt to start after; else the newest entries")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@pass_settings
@answered
async def log(settings: Settings, alias: str, after: int | None, limit: int) -> None:
    """What a node told of your commands by action_log, the oldest first."""
    async with settings.kit(online=False) as kit:
        found = await kit.clients.named(alias)
        items = [_logged(entry) for entry in await kit.telemetry.log(found, after, limit)]
        settings.terminal.show({"items": items, "count": len(items)})


@telemetry.command()
@click.argument("alias", shell_complete=completing.clients)
@click.option("--for", "span", type=click.IntRange(min=1), help="seconds to follow; else until Ctrl-C")
@click.option("--since", type=click.IntRange(min=0), help="cursor of a figure to start after; else from now")
@click.option("--after", type=click.IntRange(min=0), help="receipt of the log to start after; else from now")
@pass_settings
@answered
async def follow(
    settings: Settings, alias: str, span: int | None, since: int | None, after: int | None
) -> None:
    """Figures and action log as they come, one JSON object a line.

    Each figure has a cursor, each entry of the log its receipt: start after the last and miss nothing.
    """
    clock = asyncio.get_running_loop().time
    async with settings.kit(online=True, holder="telemetry follow") as kit, fetching(settings, kit):
        found = await kit.clients.named(alias)
        # In a process of its own, all that it takes in: also what came before we got to look.
        newest, place = await kit.telemetry.places(found, at_start=settings.engine is None)
        told = newest if after is None else after
        if since is not None and since > (mark := await kit.telemetry.mark()):
            raise InvalidParams(f"cursor {since} is ahead of the newest figure's, {mark}; go on with {mark}")
        seen = place if since is None else since
        until = None if span is None else clock() + span
        while until is None or clock() < until:
            for entry in await kit.telemetry.log(found, told, _PAGE):
                told = entry.receipt_id
                settings.terminal.line({"metric": ACTION_LOG, **_logged(entry)})
            for cursor, figure in await kit.telemetry.since(found, seen, _PAGE):
                seen = cursor
                if figure.metric != ACTION_LOG:
                    settings.terminal.line({**_row(figure), "cursor": cursor})
            await asyncio.sleep(_LOOK_S)
        raise SystemExit(output.OK)


def _logged(entry: LogEntry) -> dict[str, Any]:
    return {
        "at": entry.at,
        "schema": entry.schema,
        "action": entry.action,
        "status": entry.status,
        **entry.rest,
        "receipt_id": entry.receipt_id,
        "receipt_hash": entry.receipt_hash,
    }


def _row(figure: Figure) -> dict[str, Any]:
    return {"at": figure.ts, "metric": figure.metric, "value": figure.value, "seq": figure.seq}
