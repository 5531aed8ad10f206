"""``hive-advisor pay``: fees for access, what nodes owe for work, the ways by which money comes and goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from hive_shared.errors import InvalidParams, NotFound

from hive_advisor.cli import completing, output
from hive_advisor.cli.context import Settings, answered, pass_settings
from hive_advisor.domain.earning import Earning
from hive_advisor.domain.fee import Demand, Fee
from hive_advisor.domain.outgoing import Outgoing, OutState
from hive_advisor.domain.token_income import TokenIn, TokenState

if TYPE_CHECKING:
    from hive_advisor.advisor import Advisor

KINDS = ("fee", "earning", "payment", "ecash")
_EXITS = {
    OutState.PAID: output.OK,
    OutState.FAILED: output.PAYMENT,
    OutState.SENDING: output.UNKNOWN,
    OutState.UNKNOWN: output.UNKNOWN,
}


@click.group()
def pay() -> None:
    """Fees that nodes ask for access, what they owe you for work, and how both are paid."""


def _fee_row(fee: Fee, standing: str, alias: str) -> dict[str, Any]:
    row = {
        "kind": "fee",
        "payment_hash": fee.payment_hash,
        "client": alias,
        "method": fee.method,
        "amount_sats": fee.amount_sats,
        "standing": standing,
        "for_command": fee.demanded_by,
        "used_by": fee.used_by,
        "until": output.moment(fee.expires_at) if fee.expires_at else None,
        "at": output.moment(fee.created),
    }
    return {name: value for name, value in row.items() if value is not None}


def _earning_row(earning: Earning, alias: str) -> dict[str, Any]:
    row = {
        "kind": "earning",
        "earning_id": earning.earning_id,
        "client": alias,
        "purpose": earning.purpose,
        "command_id": earning.command_id if earning.work else "",
        "contract_id": earning.contract_id,
        "period_start": output.moment(earning.period_start) if earning.period_start else "",
        "amount_sats": earning.amount_sats,
        "state": str(earning.state),
        "way": earning.way,
        "evidence": earning.evidence,
        "payment_hash": earning.payment_hash,
        "invoice_until": output.moment(earning.expires_at) if earning.expires_at else "",
        "due": output.moment(earning.due_at),
        "at": output.moment(earning.created),
    }
    return {name: value for name, value in row.items() if value != ""}


def _payment_row(payment: Outgoing, alias: str) -> dict[str, Any]:
    row = {
        "kind": "payment",
        "payment_hash": payment.payment_hash,
        "client": alias,
        "method": payment.method,
        "amount_sats": payment.amount_sats,
        "state": str(payment.state),
        "way": payment.way,
        "why": payment.why,
        "for_command": payment.command_id,
        "at": output.moment(payment.created),
    }
    return {name: value for name, value in row.items() if value != ""}


def _token_row(token: TokenIn, alias: str) -> dict[str, Any]:
    row = {
        "kind": "ecash",
        "client": alias,
        "command_id": token.command_id,
        "amount_sats": token.amount_sats,
        "state": str(token.state),
        "net_sats": token.net_sats if token.state == TokenState.TAKEN else "",
        "why": token.why,
        "at": output.moment(token.created),
    }
    return {name: value for name, value in row.items() if value != ""}


def _demand_row(demand: Demand) -> dict[str, Any]:
    return {
        "method": demand.method,
        "amount_sats": demand.amount_sats,
        "invoice": demand.invoice,
        "payment_hash": demand.payment_hash,
        "until": output.moment(demand.expires_at),
    }


@pay.command("list")
@click.option("--kind", type=click.Choice(KINDS), help="only these; without it all, the newest first")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@pass_settings
@answered
async def list_(settings: Settings, kind: str | None, limit: int) -> None:
    """Fees you paid and which are still good, what nodes owe or paid you, payments made for you, and
    ecash that came."""
    async with settings.kit(online=False) as kit:
        names = {client.client_id: client.alias for client in await kit.clients.all()}
        found: list[tuple[int, dict[str, Any]]] = []
        if kind in (None, "fee"):
            for fee, standing in await kit.fees.listed(limit):
                found.append((fee.created, _fee_row(fee, standing, names.get(fee.client_id, "?"))))
        if kind in (None, "earning"):
            for owed in await kit.money.earnings.listed(limit):
                found.append((owed.created, _earning_row(owed, names.get(owed.client_id, "?"))))
        if kind in (None, "payment"):
            for sent in await kit.money.spending.listed(limit):
                found.append((sent.created, _payment_row(sent, names.get(sent.client_id, "?"))))
        if kind in (None, "ecash"):
            for came in await kit.money.tokens.listed(limit):
                found.append((came.created, _token_row(came, names.get(came.client_id, "?"))))
        found.sort(key=lambda pair: -pair[0])
        items = [row for _, row in found[:limit]]
        settings.terminal.show({"items": items, "count": len(items)})


@pay.command()
@click.argument("name", metavar="ID", shell_complete=completing.commands)
@pass_settings
@answered
async def show(settings: Settings, name: str) -> None:
    """What the node of a refused command wants to be paid, or what is owed for one that you sent.

    ID is a command's or an earning's. A demand is shown when invoice, amount and macaroon belong together.
    """
    async with settings.kit(online=False) as kit:
        earning = await _earning(kit, name)
        if earning is not None:
            alias = await kit.alias_of(earning.client_id)
            row = {**_earning_row(earning, alias), "invoice": earning.invoice, "preimage": earning.preimage}
            settings.terminal.show({key: value for key, value in row.items() if value})
        command = await kit.commands.get(name)
        items = [_demand_row(demand) for demand in await kit.fees.demands(command)]
        settings.terminal.show({"command_id": command.command_id, "items": items, "count": len(items)})


async def _earning(kit: Advisor, name: str) -> Earning | None:
    try:
        return await kit.money.earnings.get(name)
    except (NotFound, InvalidParams):
        return None


@pay.command()
@click.argument("command_id", shell_complete=completing.commands)
@click.argument("preimage")
@pass_settings
@answered
async def attach(settings: Settings, command_id: str, preimage: str) -> None:
    """Keep what you paid for a refused command, by the preimage your wallet shows.

    The next command that costs something takes it along.
    """
    async with settings.kit(online=False) as kit:
        command = await kit.commands.get(command_id)
        shown = preimage.strip().lower()
        fee, new = await kit.fees.attach(command, shown)
        await kit.money.spending.attached(shown, fee.payment_hash)
        row = _fee_row(fee, "good", await kit.alias_of(fee.client_id)) if new else {"known": True}
        settings.terminal.show({**row, "payment_hash": fee.payment_hash})


@pay.command()
@click.argument("command_id", shell_complete=completing.commands)
@click.option("--one", is_flag=True, help="the fee of this action only, although a token for many is offered")
@pass_settings
@answered
async def l402(settings: Settings, command_id: str, one: bool) -> None:
    """Pay what the node of a refused command demands, by your way out: a token for many actions if it sells
    one. The next command that costs something takes it along.

    Each demand is paid once at most. Exit 11: nobody knows yet what became of it; 'run' keeps looking.
    """
    async with settings.kit(online=False) as kit:
        command = await kit.commands.get(command_id)
        demands = await kit.fees.demands(command)
        demand = demands[-1] if one else demands[0]
        alias = await kit.alias_of(command.client_id)
        await settings.ask_yes(f"Pay {demand.amount_sats} sat to {alias} ({demand.method})?")
        payment = await kit.money.spending.pay(demand)
        settings.terminal.show(_payment_row(payment, alias), _EXITS[payment.state])


@pay.command()
@click.argument("name", metavar="ID", shell_complete=completing.commands)
@click.argument("bolt11", required=False)
@pass_settings
@answered
async def invoice(settings: Settings, name: str, bolt11: str | None) -> None:
    """The invoice by which a node is to pay what it owes: of your way in, or BOLT11 of a wallet of yours.

    ID is the earning's or its command's. While an invoice can still be paid there is no second one.
    """
    async with settings.kit(online=False) as kit:
        earning = await kit.money.earnings.get(name)
        made = await kit.money.earnings.invoice(earning, (bolt11 or "").strip())
        row = _earning_row(made, await kit.alias_of(made.client_id))
        settings.terminal.show({**row, "invoice": made.invoice})


@pay.command()
@click.argument("name", metavar="ID", shell_complete=completing.commands)
@pass_settings
@answered
async def dispute(settings: Settings, name: str) -> None:
    """Say that what is owed was not paid: it is kept as disputed until a payment is shown."""
    async with settings.kit(online=False) as kit:
        earning = await kit.money.earnings.get(name)
        await settings.ask_yes(f"Mark {earning.amount_sats} sat for {earning.command_id} as disputed?")
        marked = await kit.money.earnings.dispute(earning)
        settings.terminal.show(_earning_row(marked, await kit.alias_of(marked.client_id)))


@pay.command()
@click.option("--check", is_flag=True, help="also ask the wallets whether they answer")
@click.option(
    "--nwc", metavar="FILE", help="keep the wallet connection in FILE (nostr+walletconnect://…), - for stdin"
)
@click.option("--forget-nwc", is_flag=True, help="forget the wallet connection")
@click.option("--allow-host", metavar="HOST", help="this host may stand behind your Lightning address")
@click.option("--offer", is_flag=True, help="a bolt12 offer of your own node, for your profile")
@pass_settings
@answered
async def methods(
    settings: Settings, check: bool, nwc: str | None, forget_nwc: bool, allow_host: str | None, offer: bool
) -> None:
    """How you are paid and pay: receive.method and spend.method of config.toml, and what they need."""
    if nwc is not None and forget_nwc:
        raise InvalidParams("--nwc keeps a connection and --forget-nwc forgets it: give one of them")
    uri = await settings.document(nwc)
    async with settings.kit(online=False) as kit:
        if uri is not None or forget_nwc:
            await kit.money.keep_wallet(uri)
        if allow_host is not None:
            await kit.money.trust_host(allow_host)
        data = await kit.money.methods(check=check)
        if offer:
            data["offer"] = await kit.money.offer()
        failed = any(row["status"] == "fail" for row in data.get("checks", ()))
        settings.terminal.show(data, output.PAYMENT if failed else output.OK)
