"""``hive-advisor client``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from hive_shared.errors import InvalidParams

from hive_advisor.cli.context import Settings, answered, pass_settings
from hive_advisor.cli.output import PENDING, moment

if TYPE_CHECKING:
    from hive_advisor.domain.rows import Client


@click.group()
def client() -> None:
    """Nodes that offered or granted you a credential."""


def row(item: Client) -> dict[str, Any]:
    return {
        "alias": item.alias,
        "state": item.state,
        "network": item.network,
        "node_id": item.node_id,
        "since": moment(item.created),
        "receipts": item.head_id,
        "note": item.suspect_why,
    }


@client.command("list")
@click.option("--state", type=click.Choice(["offered", "active", "paused", "suspect", "ended"]))
@pass_settings
@answered
async def list_(settings: Settings, state: str | None) -> None:
    """Every client, from the local database."""
    async with settings.kit(online=False) as kit:
        items = [row(item) for item in await kit.clients.all() if state in (None, item.state)]
        settings.terminal.show({"items": items, "count": len(items)})


@client.command()
@click.argument("alias")
@pass_settings
@answered
async def show(settings: Settings, alias: str) -> None:
    """One client with its credentials."""
    async with settings.kit(online=False) as kit:
        found = await kit.clients.named(alias)
        credentials = [
            {
                "credential_id": item.credential_id,
                "state": item.state,
                "tier": item.document.get("tier"),
                "schemas": item.document.get("allowed_schemas"),
                "constraints": item.document.get("constraints"),
                "valid_until": moment(item.valid_until),
            }
            for item in await kit.clients.credentials(found)
        ]
        settings.terminal.show(
            {
                **row(found),
                "remote_name": found.remote_name,
                "relays": list(found.relays),
                "credentials": credentials,
            }
        )


@client.command()
@click.argument("alias")
@click.option("--name", help="the local alias to call it by")
@pass_settings
@answered
async def accept(settings: Settings, alias: str, name: str | None) -> None:
    """Take the offered credential and tell the node."""
    async with settings.kit(online=True) as kit:
        found = await kit.clients.named(alias)
        found, credential = await kit.clients.accept(found, name)
        told = await kit.acknowledge(found, credential, accepted=True, wait_s=settings.wait)
        settings.terminal.show({**row(found), "credential_id": credential.credential_id, "told": told})


@client.command()
@click.argument("alias")
@pass_settings
@answered
async def decline(settings: Settings, alias: str) -> None:
    """Refuse the offered credential and tell the node."""
    async with settings.kit(online=True) as kit:
        found = await kit.clients.named(alias)
        credential = await kit.clients.decline(found)
        told = await kit.acknowledge(found, credential, accepted=False, wait_s=settings.wait)
        settings.terminal.show({"alias": alias, "declined": credential.credential_id, "told": told})


@client.command()
@click.argument("alias")
@click.argument("name")
@pass_settings
@answered
async def rename(settings: Settings, alias: str, name: str) -> None:
    """Call a client by another local name."""
    async with settings.kit(online=False) as kit:
        settings.terminal.show(row(await kit.clients.rename(await kit.clients.named(alias), name)))


@client.command()
@click.argument("alias")
@pass_settings
@answered
async def pause(settings: Settings, alias: str) -> None:
    """Send nothing to this client until resumed."""
    async with settings.kit(online=False) as kit:
        await kit.clients.pause(await kit.clients.named(alias))
        settings.terminal.show(row(await kit.clients.named(alias)))


@client.command()
@click.argument("alias")
@pass_settings
@answered
async def resume(settings: Settings, alias: str) -> None:
    """Go on with a paused client, or one whose suspicion was cleared."""
    async with settings.kit(online=False) as kit:
        await kit.clients.resume(await kit.clients.named(alias))
        settings.terminal.show(row(await kit.clients.named(alias)))


@client.command()
@click.argument("alias")
@pass_settings
@answered
async def capabilities(settings: Settings, alias: str) -> None:
    """Ask what the node serves and what our credential allows."""
    async with settings.kit(online=True) as kit:
        found = await kit.clients.named(alias)
        answer = await kit.capabilities(found, settings.wait)
        if answer is None:
            settings.terminal.show({"alias": alias, "state": "no answer yet"}, PENDING)
        settings.terminal.show({"alias": alias, **answer})


_READS = {
    "health": "health_summary",
    "channels": "channel_list",
    "forwards": "forward_history",
    "fees": "fee_report",
    "funds": "onchain_balance",
}


@client.command()
@click.argument("alias")
@click.argument("what", type=click.Choice(sorted(_READS)))
@pass_settings
@answered
async def read(settings: Settings, alias: str, what: str) -> None:
    """A quick look at the node: health, channels, forwards, fees or funds."""
    from hive_advisor.cli.commands import finish

    async with settings.kit(online=True) as kit:
        found = await kit.clients.named(alias)
        if what not in _READS:
            raise InvalidParams(f"{what!r} is not one of {sorted(_READS)}")
        plan = await kit.plan(found, "hive:monitor/v1", _READS[what], {})
        finish(settings, await kit.execute(plan, wait_s=settings.wait), found.alias)
