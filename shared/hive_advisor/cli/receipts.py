"""``hive-advisor receipt``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import click
from hive_shared.errors import Conflict, InvalidParams, NotFound

from hive_advisor.cli import completing, output
from hive_advisor.cli.context import Settings, answered, pass_settings

_EVIDENCE_LIMIT = 16_777_216


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
                "agrees": item.standing,
                "acked": item.acked,
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
        edits = await kit.standing.edits(await kit.clients.named(alias), receipt_id)
        settings.terminal.show(
            {
                "level": found.level,
                "agrees": found.standing,
                "acked": found.acked,
                **({"changed_by_operator": edits} if edits else {}),
                "receipt": found.document,
            }
        )


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
@click.argument("receipt_id", type=click.IntRange(min=1))
@pass_settings
@answered
async def ack(settings: Settings, alias: str, receipt_id: int) -> None:
    """Acknowledge a receipt now. Those that agree with their answers are acknowledged by `run`."""
    async with settings.kit(online=True) as kit:
        found = await kit.clients.named(alias)
        told = await kit.standing.acknowledge(found, receipt_id, settings.wait)
        settings.terminal.show(
            {"client": found.alias, "receipt_id": receipt_id, "acknowledged": told},
            output.OK if told else output.PENDING,
        )


@receipt.command("evidence")
@click.argument("alias", required=False, shell_complete=completing.clients)
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--check", "checked", type=click.Path(path_type=Path), help="check a file; needs nothing else")
@pass_settings
@answered
async def evidence_(settings: Settings, alias: str | None, path: Path | None, checked: Path | None) -> None:
    """What a client signed that contradicts itself: list it, write the newest to PATH, or --check a file."""
    if (alias is None) == (checked is None) or (checked is not None and path is not None):
        raise InvalidParams("give a client, a client and a new file, or --check and a file")
    if checked is not None:
        _check(settings, checked)
    async with settings.kit(online=False) as kit:
        found = await kit.clients.named(str(alias))
        kept = await kit.forks.kept(found)
        if path is None:
            items = [{"at": output.moment(item.at), "why": item.why} for item in kept]
            settings.terminal.show({"items": items, "count": len(items)})
        if not kept:
            raise NotFound(f"{found.alias!r} has not contradicted itself; there is no evidence")
        if path.exists():
            raise Conflict(f"{path} exists; name a new file")
        path.write_text(json.dumps(kept[0].document, indent=1))
        settings.terminal.show({"path": str(path), "why": kept[0].why, "at": output.moment(kept[0].at)})


def _check(settings: Settings, path: Path) -> NoReturn:
    """Exit 0 when the file proves a contradiction, 7 when it does not."""
    from hive_shared.canonical import decode_object

    from hive_advisor.domain.evidence import contradictions

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidParams(f"cannot read {path}: {error.strerror}") from error
    document = decode_object(raw, max_bytes=_EVIDENCE_LIMIT, max_nodes=500_000, floats=True)
    try:
        found = contradictions(document)
    except InvalidParams as error:
        settings.terminal.show({"path": str(path), "proves": [], "reason": error.detail}, output.VERIFICATION)
    settings.terminal.show(
        {"path": str(path), "node_key": document.get("node_key"), "proves": found},
        output.OK if found else output.VERIFICATION,
    )


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
