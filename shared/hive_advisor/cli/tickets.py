"""``hive-advisor ticket``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click
from hive_shared.errors import InvalidParams
from hive_shared.unreadable import Unreadable, readable

from hive_advisor.cli import completing, output
from hive_advisor.cli.context import Settings, answered, pass_settings
from hive_advisor.domain.cleaning import Own

if TYPE_CHECKING:
    from hive_advisor.advisor import Advisor
    from hive_advisor.domain.ticket import Dispute, HashRequest
    from hive_advisor.services.tickets import TicketView

_TICKET_ID_CHARS = 32
_NO_HASHES = {
    "asked": "no answer yet; 'hive-advisor run' takes it, and the same call again waits for it",
    "unanswered": "no answer within a day: a node that refuses says nothing; ask again",
    "expired": "the node forgot the preimages that no ticket used; ask again",
}


@click.group()
def ticket() -> None:
    """Ecash that nodes locked for your work: checked before you work, redeemed once it is earned."""


def status_of(view: TicketView) -> str:
    """What a ticket is worth to us, in a word."""
    from hive_shared.cashu.payee_rows import Intake
    from hive_shared.cashu.ticket_machine import ticket_status

    if view.ticket.intake is not Intake.ACCEPTED:
        return str(view.ticket.intake)
    return str(ticket_status([item.state for item in view.items]))


def _row(view: TicketView, alias: str) -> dict[str, Any]:
    terms = view.ticket.terms
    redeemed = sum(share.net_sats for share in view.shares if share.state == "redeemed")
    row = {
        "ticket_id": view.ticket.ticket_id,
        "client": alias,
        "status": status_of(view),
        "type": None if terms is None else str(terms.type),
        "schema": None if terms is None else terms.schema,
        "amount_sats": None if terms is None else terms.amount_sats,
        "redeemed_sats": redeemed,
        "items": len(view.items) or None,
        "reason": view.ticket.reason or None,
        "at": output.moment(view.ticket.created_at),
    }
    return {name: value for name, value in row.items() if value is not None}


def _items(view: TicketView) -> list[dict[str, Any]]:
    found = []
    for item in view.items:
        row = {
            "item": item.i,
            "state": str(item.state),
            "amount_sats": item.amount_sats,
            "label": item.label or None,
            "deadline": output.moment(item.deadline),
            "locktime": output.moment(item.locktime),
            "command_id": item.command_id,
            "note": item.note or None,
            # A ticket with locks was accepted, so its mints are those that the human here named.
            "locks": {Own(s.mint_url): str(s.state) for s in view.shares if s.item == item.i},
        }
        found.append({name: value for name, value in row.items() if value is not None})
    return found


def _dispute_row(dispute: Dispute) -> dict[str, Any]:
    row = {
        "dispute_id": dispute.dispute_id,
        "item": dispute.item,
        "state": dispute.state,
        "claim": dispute.claim,
        "reply": dispute.reply or None,
        "answer_until": output.moment(dispute.due_at) if dispute.state == "open" else None,
    }
    return {name: value for name, value in row.items() if value is not None}


async def _alias(kit: Advisor, view: TicketView) -> str:
    client = await kit.clients.with_node_key(view.ticket.peer)
    return "?" if client is None else client.alias


async def _shown(kit: Advisor, view: TicketView | Unreadable) -> dict[str, Any]:
    if isinstance(view, Unreadable):
        return dict(view.shown("ticket_id"))
    return _row(view, await _alias(kit, view))


async def _whole(kit: Advisor, view: TicketView) -> dict[str, Any]:
    data = _row(view, await _alias(kit, view))
    if view.ticket.detail:
        data["why"] = view.ticket.detail
    terms = view.ticket.terms
    if terms is not None:
        own = {share.mint_url for share in view.shares}
        mints = [Own(mint.url) if mint.url in own else mint.url for mint in terms.mints]
        data |= {"danger": terms.danger, "mints": mints}
    disputes = await kit.tickets.disputes.of_ticket(view.ticket.ticket_id)
    return {
        **data,
        "parts": _items(view),
        **({"disputes": [_dispute_row(each) for each in disputes]} if disputes else {}),
    }


@ticket.command("list")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@pass_settings
@answered
async def list_(settings: Settings, limit: int) -> None:
    """Newest first, from the local database."""
    async with settings.kit(online=False) as kit:
        items = [await _shown(kit, view) for view in await kit.tickets.listed(None, limit)]
        settings.terminal.show({"items": items, "count": len(items)})


@ticket.command()
@click.argument("ticket_id", shell_complete=completing.tickets)
@pass_settings
@answered
async def show(settings: Settings, ticket_id: str) -> None:
    """One ticket: its items, what they came to, disputes."""
    async with settings.kit(online=False) as kit:
        settings.terminal.show(await _whole(kit, await kit.tickets.view(ticket_id)))


@ticket.command()
@click.argument("ticket_id", shell_complete=completing.tickets)
@pass_settings
@answered
async def check(settings: Settings, ticket_id: str) -> None:
    """Ask the mint: every check of a ticket that waits, or whether an accepted one is still there."""
    async with settings.kit(online=False) as kit:
        view = await kit.tickets.check(ticket_id)
        settings.terminal.show({**_row(view, await _alias(kit, view)), "good": True})


@ticket.command()
@click.argument("client", shell_complete=completing.clients)
@click.argument("target", required=False, metavar="[SCHEMA/ACTION]", shell_complete=completing.targets)
@click.argument("pairs", nargs=-1, metavar="[NAME=VALUE]...", shell_complete=completing.parameters)
@click.option("--params", "params_file", help="file with a JSON object of parameters, - for stdin")
@click.option("--count", type=click.IntRange(1, 512), default=1, show_default=True)
@pass_settings
@answered
async def secrets(
    settings: Settings,
    client: str,
    target: str | None,
    pairs: tuple[str, ...],
    params_file: str | None,
    count: int,
) -> None:
    """Ask a node for hashes that tickets for a task will be made with; without a task: those it told.

    The node keeps the preimages and forgets them after a day where no ticket used them. Its credential has to
    allow it (escrow_secret_generation).
    """
    from hive_advisor.cli.commands import parse_pairs
    from hive_advisor.domain.schema_help import split_target, texts_of

    if target is None:
        async with settings.kit(online=False) as kit:
            asked = await kit.tickets.hashes.asked_of(await kit.clients.named(client))
            items = [_hashes_row(each) for each in asked]
            settings.terminal.show({"items": items, "count": len(items)})
    schema, action = split_target(target)
    document = await settings.document(params_file)
    params = parse_pairs(pairs, document, texts_of(schema, action))
    async with settings.kit(online=True) as kit:
        found = await kit.clients.named(client)
        credential = await kit.clients.usable_credential(found)
        request = await kit.tickets.hashes.ask(found, credential, schema, action, params, count)
        await kit.signed_mail.flush()
        request = await kit.tickets.hashes.answer_to(request.request_id, settings.wait)
        settings.terminal.show(_hashes_row(request), output.OK if request.hashes else output.PENDING)


def _hashes_row(request: HashRequest) -> dict[str, Any]:
    state = request.state(int(time.time()))
    row = {
        "request_id": request.request_id,
        "state": state,
        "task_params_hash": request.params_hash,
        "hashes": list(request.hashes) or None,
        "count": request.count,
        "asked": output.moment(request.asked_at),
        "use_until": output.moment(request.expires_at) if request.hashes else None,
        "message": _NO_HASHES.get(state),
    }
    return {name: value for name, value in row.items() if value is not None}


@ticket.command("receipt-hash")
@click.argument("client", shell_complete=completing.clients)
@click.option("--count", type=click.IntRange(1, 512), default=1, show_default=True)
@click.option("--label", default="", help="your own note on what they are for")
@pass_settings
@answered
async def receipt_hash(settings: Settings, client: str, count: int, label: str) -> None:
    """Make hashes for a ticket in mode receipt, which pays for what is owed anyway.

    Give one for each item to the node's operator. The preimages stay here: redeeming the ticket shows them to
    its payer, as proof that you were paid.
    """
    async with settings.kit(online=False) as kit:
        found = await kit.clients.named(client)
        hashes = await kit.tickets.hashes.make(found, count, label[:200])
        settings.terminal.show({"client": found.alias, "mode": "receipt", "hashes": hashes})


@ticket.command()
@click.argument("ticket_id", required=False, shell_complete=completing.tickets)
@click.option("--owed", is_flag=True, help="also take a ticket in mode receipt or p2pk no command is for")
@pass_settings
@answered
async def redeem(settings: Settings, ticket_id: str | None, owed: bool) -> None:
    """Redeem what was earned now, without waiting for more to redeem with it.

    An agent that runs does this by itself within a minute. What the payer has not released yet stays locked.
    """
    if owed and ticket_id is None:
        raise InvalidParams("--owed takes the one ticket that you name")
    async with settings.kit(online=False) as kit:
        if owed and ticket_id is not None:
            await kit.tickets.take_owed(ticket_id)
        settings.terminal.progress("redeeming at the mint")
        await kit.tickets.redeem_now(ticket_id)
        views = (
            await kit.tickets.listed(None, 500) if ticket_id is None else [await kit.tickets.view(ticket_id)]
        )
        shares = [share for view in readable(views) for share in view.shares]
        waiting = sum(share.state in ("redeemable", "redeeming") for share in shares)
        rows = [await _shown(kit, view) for view in views]
        exit_code = output.PENDING if waiting else output.OK
        settings.terminal.show({"items": rows, "count": len(rows), "still_waiting": waiting}, exit_code)


@ticket.command()
@click.argument("ticket_id", shell_complete=completing.tickets)
@click.argument("item", type=click.IntRange(0, 511))
@click.argument("claim")
@pass_settings
@answered
async def dispute(settings: Settings, ticket_id: str, item: int, claim: str) -> None:
    """Tell the payer that you earned an item whose money it took back. CLAIM says why, in your words.

    The receipt of the work goes along. The operator has 72 hours to replace, pay or reject; silence is no.
    """
    async with settings.kit(online=True) as kit:
        made = await kit.tickets.disputes.open(ticket_id, item, claim)
        await kit.signed_mail.flush()
        settings.terminal.show(_dispute_row(made))
