"""``hive-advisor pay``: fees for access."""

from __future__ import annotations

from typing import Any

import click

from hive_advisor.cli import completing, output
from hive_advisor.cli.context import Settings, answered, pass_settings
from hive_advisor.domain.fee import Demand, Fee


@click.group()
def pay() -> None:
    """Fees that nodes ask for access. You pay the invoice with a wallet of your own."""


def _fee_row(fee: Fee, standing: str, alias: str) -> dict[str, Any]:
    row = {
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


def _demand_row(demand: Demand) -> dict[str, Any]:
    return {
        "method": demand.method,
        "amount_sats": demand.amount_sats,
        "invoice": demand.invoice,
        "payment_hash": demand.payment_hash,
        "until": output.moment(demand.expires_at),
    }


@pay.command("list")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@pass_settings
@answered
async def list_(settings: Settings, limit: int) -> None:
    """Fees you paid, the newest first, and which are still good."""
    async with settings.kit(online=False) as kit:
        items = [
            _fee_row(fee, standing, await kit.alias_of(fee.client_id))
            for fee, standing in await kit.fees.listed(limit)
        ]
        settings.terminal.show({"items": items, "count": len(items)})


@pay.command()
@click.argument("command_id", shell_complete=completing.commands)
@pass_settings
@answered
async def show(settings: Settings, command_id: str) -> None:
    """What the node of a refused command wants to be paid. Invoice, amount and macaroon were compared."""
    async with settings.kit(online=False) as kit:
        command = await kit.commands.get(command_id)
        items = [_demand_row(demand) for demand in await kit.fees.demands(command)]
        settings.terminal.show({"command_id": command.command_id, "items": items, "count": len(items)})


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
        fee, new = await kit.fees.attach(command, preimage.strip().lower())
        row = _fee_row(fee, "good", await kit.alias_of(fee.client_id)) if new else {"known": True}
        settings.terminal.show({**row, "payment_hash": fee.payment_hash})
