"""``hive-advisor alerts``."""

from __future__ import annotations

from typing import Any

import click

from hive_advisor.cli import output
from hive_advisor.cli.context import Settings, answered, pass_settings
from hive_advisor.domain.rows import Alert

_NUMBER = click.IntRange(min=1)


@click.group()
def alerts() -> None:
    """What nodes, or the kit itself, want a human to see."""


def _row(item: Alert, alias: str) -> dict[str, Any]:
    return {
        "number": item.number,
        "client": alias,
        "from": item.origin,
        "level": item.level,
        "code": item.code,
        "text": item.text,
        "subject": item.subject or None,
        "state": item.state,
        "at": output.moment(item.at),
    }


@alerts.command("list")
@click.option("--all", "every", is_flag=True, help="also those that were dealt with")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@pass_settings
@answered
async def list_(settings: Settings, every: bool, limit: int) -> None:
    """Newest first, from the local database."""
    async with settings.kit(online=False) as kit:
        names = {client.client_id: client.alias for client in await kit.clients.all()}
        items = [
            _row(item, names.get(item.client_id, "?"))
            for item in await kit.alerts.listed(closed=every, limit=limit)
        ]
        settings.terminal.show({"items": items, "count": len(items)})


@alerts.command()
@click.argument("number", type=_NUMBER)
@pass_settings
@answered
async def ack(settings: Settings, number: int) -> None:
    """Say that you saw it. A node's alert is acknowledged to the node; without its answer `run` tells it."""
    async with settings.kit(online=True) as kit:
        alert = await kit.alerts.acknowledge(number)
        if alert.state == "acking":
            await kit.alerts.tell(kit.control, number, settings.wait)
            alert = await kit.alerts.get(number)
        told = alert.state != "acking"
        settings.terminal.show(
            _row(alert, await kit.alias_of(alert.client_id)), output.OK if told else output.PENDING
        )


@alerts.command()
@click.argument("number", type=_NUMBER)
@pass_settings
@answered
async def resolve(settings: Settings, number: int) -> None:
    """Say that what it is about is dealt with; nobody is told."""
    async with settings.kit(online=False) as kit:
        alert = await kit.alerts.resolve(number)
        settings.terminal.show(_row(alert, await kit.alias_of(alert.client_id)))
