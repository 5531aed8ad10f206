"""``hive-advisor receipt``."""

from __future__ import annotations

import json
from pathlib import Path

import click
from hive_shared.errors import Conflict, NotFound

from hive_advisor.cli import completing, output
from hive_advisor.cli.context import Settings, answered, pass_settings


@click.group()
def receipt() -> None:
    """What nodes did, as they signed it."""


@receipt.command("list")
@click.argument("alias", shell_complete=completing.clients)
@click.option("--since", default=0, help="receipt id to start after")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@pass_settings
@answered
async def list_(settings: Settings, alias: str, since: int, limit: int) -> None:
    """Receipts of one client from the local database."""
    async with settings.kit(online=False) as kit:
        found = await kit.clients.named(alias)
        items = [
            {
                "receipt_id": item.receipt_id,
                "mine": item.mine,
                "action": item.document.get("action"),
                "status": item.document.get("status"),
                "level": item.level,
                "hash": item.hash,
            }
            for item in await kit.receipts.listed(found, since, limit)
        ]
        settings.terminal.show({"items": items, "count": len(items)})


@receipt.command()
@click.argument("alias", shell_complete=completing.clients)
@click.argument("receipt_id", type=int)
@pass_settings
@answered
async def show(settings: Settings, alias: str, receipt_id: int) -> None:
    """One receipt, whole."""
    async with settings.kit(online=False) as kit:
        found = await kit.receipts.get(await kit.clients.named(alias), receipt_id)
        if found is None:
            raise NotFound(
                f"receipt {receipt_id} of {alias!r} is not here; try 'hive-advisor receipt sync {alias}'"
            )
        settings.terminal.show({"level": found.level, "receipt": found.document})


@receipt.command()
@click.argument("alias", shell_complete=completing.clients)
@pass_settings
@answered
async def sync(settings: Settings, alias: str) -> None:
    """Fetch what is missing from the node and check how it links."""
    async with settings.kit(online=True) as kit:
        settings.terminal.show(await kit.sync_receipts(await kit.clients.named(alias), settings.wait))


@receipt.command()
@click.argument("alias", shell_complete=completing.clients)
@pass_settings
@answered
async def verify(settings: Settings, alias: str) -> None:
    """Check every stored receipt again: hash, signature, links, our own commands."""
    async with settings.kit(online=False) as kit:
        report = await kit.receipts.verify(await kit.clients.named(alias))
        settings.terminal.show(report, output.OK if report["ok"] else output.VERIFICATION)


@receipt.command()
@click.argument("alias", shell_complete=completing.clients)
@click.argument("path", type=click.Path(path_type=Path))
@pass_settings
@answered
async def export(settings: Settings, alias: str, path: Path) -> None:
    """Write the stored receipts of a client to a JSON file."""
    async with settings.kit(online=False) as kit:
        if path.exists():
            raise Conflict(f"{path} exists; name a new file")
        found = await kit.clients.named(alias)
        documents = [item.document for item in await kit.receipts.every(found)]
        path.write_text(
            json.dumps({"node_key": found.node_key, "node_id": found.node_id, "receipts": documents})
        )
        settings.terminal.show({"path": str(path), "receipts": len(documents)})
