"""``hive-advisor client``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click
from hive_shared.errors import HiveError, InvalidParams

from hive_advisor.cli import completing
from hive_advisor.cli.context import Settings, answered, pass_settings
from hive_advisor.cli.output import OK, PARTIAL, PENDING, TRANSPORT, moment

if TYPE_CHECKING:
    from hive_advisor.advisor import Advisor
    from hive_advisor.domain.route import Routes
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
@click.argument("alias", shell_complete=completing.clients)
@pass_settings
@answered
async def show(settings: Settings, alias: str) -> None:
    """One client with its credentials."""
    async with settings.kit(online=False) as kit:
        found = await kit.clients.named(alias)
        routes = await kit.delivery.routes(found)
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
                **_ways(routes),
                "credentials": credentials,
            }
        )


@client.command()
@click.argument("alias", shell_complete=completing.clients)
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
@click.argument("alias", shell_complete=completing.clients)
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
@click.argument("alias", shell_complete=completing.clients)
@click.argument("name")
@pass_settings
@answered
async def rename(settings: Settings, alias: str, name: str) -> None:
    """Call a client by another local name."""
    async with settings.kit(online=False) as kit:
        settings.terminal.show(row(await kit.clients.rename(await kit.clients.named(alias), name)))


def _rest_row(routes: Routes) -> dict[str, Any] | None:
    if routes.rest is None:
        return None
    proof = "authority given" if routes.rest.ca_cert else "system authorities"
    return {"url": routes.rest.url, "proven_by": routes.rest.tls_sha256 or proof}


def _ways(routes: Routes) -> dict[str, Any]:
    carrier = routes.commando
    where = None if carrier is None or carrier.host is None else f"{carrier.host}:{carrier.port}"
    return {
        "rest": _rest_row(routes),
        "socket": routes.socket_path,
        "commando": None
        if carrier is None
        else {
            "carrier": carrier.socket_path,
            "rune": "offered" if carrier.rune is None else "given",
            "address": where,
        },
    }


@client.command("set")
@click.argument("alias", shell_complete=completing.clients)
@click.option("--rest", help="URL of the node's clnrest, 'offered' for the one in its offer, or 'off'")
@click.option("--ca-cert", type=click.File(), help="clnrest's ca.pem")
@click.option("--pin", help="SHA-256 of the server's certificate instead of an authority")
@click.option("--allow-private", is_flag=True, help="permit an address on this machine or a private network")
@click.option("--socket", help="lightning-rpc of the client's node, if it is on this machine, or 'off'")
@click.option("--commando", help="lightning-rpc of your own node that carries commands to it, or 'off'")
@click.option("--rune-file", type=click.Path(path_type=Path), help="rune for commando, mode 0600")
@click.option("--address", help="HOST:PORT of the client's Lightning node, for --commando to connect to")
@pass_settings
@answered
async def set_(
    settings: Settings,
    alias: str,
    rest: str | None,
    ca_cert: TextIO | None,
    pin: str | None,
    allow_private: bool,
    socket: str | None,
    commando: str | None,
    rune_file: Path | None,
    address: str | None,
) -> None:
    """Set up other ways to a client than relays; transport.order says which is tried first."""
    from hive_advisor.nodes import rune_in

    if rest is None and (ca_cert or pin or allow_private):
        raise InvalidParams("--ca-cert, --pin and --allow-private go with --rest")
    if commando in (None, "off") and (rune_file or address):
        raise InvalidParams("--rune-file and --address go with --commando")
    async with settings.kit(online=False) as kit:
        found = await kit.clients.named(alias)
        if rest == "off":
            await kit.delivery.clear(found, "rest")
        elif rest is not None:
            await kit.delivery.set_rest(
                found,
                await kit.clients.usable_credential(found),
                url=None if rest == "offered" else rest,
                ca_cert=None if ca_cert is None else ca_cert.read(),
                tls_sha256=pin,
                allow_private=allow_private,
            )
        if socket == "off":
            await kit.delivery.clear(found, "local")
        elif socket is not None:
            await kit.delivery.set_socket(found, socket)
        if commando == "off":
            await kit.delivery.clear(found, "commando")
        elif commando is not None:
            await kit.delivery.set_commando(
                found,
                await kit.clients.usable_credential(found),
                socket_path=commando,
                rune=None if rune_file is None else rune_in(rune_file),
                address=address,
            )
        settings.terminal.show({"alias": alias, **_ways(await kit.delivery.routes(found))})


@client.command()
@click.argument("alias", shell_complete=completing.clients)
@pass_settings
@answered
async def pause(settings: Settings, alias: str) -> None:
    """Send nothing to this client until resumed."""
    async with settings.kit(online=False) as kit:
        await kit.clients.pause(await kit.clients.named(alias))
        settings.terminal.show(row(await kit.clients.named(alias)))


@client.command()
@click.argument("alias", shell_complete=completing.clients)
@pass_settings
@answered
async def resume(settings: Settings, alias: str) -> None:
    """Go on with a paused client, or one whose suspicion was cleared."""
    async with settings.kit(online=False) as kit:
        await kit.clients.resume(await kit.clients.named(alias))
        settings.terminal.show(row(await kit.clients.named(alias)))


@client.command()
@click.argument("alias", shell_complete=completing.clients)
@click.option("--even-unpaid", is_flag=True, help="although it owes us: what it did not release is given up")
@pass_settings
@answered
async def forget(settings: Settings, alias: str, even_unpaid: bool) -> None:
    """Erase what is kept of a client whose credential has ended; receipts and evidence stay."""
    async with settings.kit(online=False) as kit:
        found = await kit.clients.named(alias)
        await settings.ask_yes(f"Erase commands, figures and journal of {found.alias!r}?")
        gone = await kit.forgetting.forget(found, even_unpaid=even_unpaid)
        settings.terminal.show({"alias": found.alias, "erased_rows": gone})


@client.command()
@click.argument("alias", shell_complete=completing.clients)
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
@click.argument("words", nargs=-1, required=True, metavar="[ALIAS] WHAT", shell_complete=completing.clients)
@click.option("--all", "every", is_flag=True, help="every active client at once")
@pass_settings
@answered
async def read(settings: Settings, words: tuple[str, ...], every: bool) -> None:
    """A quick look at a node, or with --all at every one: health, channels, forwards, fees or funds."""
    from hive_advisor.cli.commands import finish

    *aliases, what = words
    if what not in _READS:
        raise InvalidParams(f"{what[:40]!r} is not one of {', '.join(_READS)}")
    if len(aliases) != (not every):
        raise InvalidParams("give one client and what to read, or --all and what to read")
    async with settings.kit(online=True) as kit:
        if every:
            await _read_all(settings, kit, _READS[what])
        found = await kit.clients.named(aliases[0])
        plan = await kit.plan(found, "hive:monitor/v1", _READS[what], {})
        finish(settings, await kit.execute(plan, wait_s=settings.wait, origin="cli"), found.alias)


async def _read_all(settings: Settings, kit: Advisor, action: str) -> NoReturn:
    """Eight at once; a client that does not answer holds up nobody else."""
    import asyncio

    from hive_advisor.cli.commands import describe

    turns = asyncio.Semaphore(8)

    async def one(found: Client) -> dict[str, Any]:
        async with turns:
            try:
                plan = await kit.plan(found, "hive:monitor/v1", action, {})
                done = await kit.execute(plan, wait_s=settings.wait, origin="cli")
            except HiveError as error:
                return {
                    "client": found.alias,
                    "state": "error",
                    "slug": error.symbol,
                    "message": error.detail,
                }
            return describe(done, found.alias)

    active = [each for each in await kit.clients.all() if each.state == "active"]
    items = list(await asyncio.gather(*map(one, active)))
    answered = sum(item["state"] == "done" for item in items)
    code = OK if answered == len(items) else PARTIAL if answered else TRANSPORT
    settings.terminal.show({"items": items, "count": len(items)}, code)
