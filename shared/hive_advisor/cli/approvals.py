"""``hive-advisor approvals``: votes on commands of other nodes that need several signatures."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from hive_shared.errors import ConfirmationRequired, InvalidParams

from hive_advisor.cli import completing, output
from hive_advisor.cli.context import Settings, answered, pass_settings

if TYPE_CHECKING:
    from hive_advisor.advisor import Advisor
    from hive_advisor.domain.approval_request import ApprovalRequest, Decision

_EXIT = {"waiting": output.PENDING, "sent": output.UNKNOWN, "counted": output.OK, "refused": output.REFUSED}
_MEANING = {
    "waiting": "waits for your vote",
    "sent": "signed and sent, no answer yet; 'hive-advisor run' sends the same bytes again",
    "counted": "the node counted your vote",
    "refused": "the node did not take your vote",
}


@click.group()
def approvals() -> None:
    """Commands at other nodes that wait for your signature."""


async def _row(kit: Advisor, item: ApprovalRequest) -> dict[str, Any]:
    name, _ = await kit.approvals.node_of(item)
    return {
        "approval_id": item.approval_id,
        "node": name,
        "action": f"{item.schema}#{item.action}",
        "danger": item.danger,
        "state": item.state,
        "vote": item.decision,
        "expires": output.moment(item.expires),
    }


async def _whole(kit: Advisor, item: ApprovalRequest) -> dict[str, Any]:
    from hive_shared.nostr.keys import npub_encode

    from hive_advisor.domain.approval_request import danger_here

    _, known = await kit.approvals.node_of(item)
    data = {
        **await _row(kit, item),
        "node_npub": npub_encode(item.node_key),
        "node_known": known,
        "asked_by": npub_encode(item.requester),
        "params": item.params,
        "danger_at_most": danger_here(item),
        "command_id": item.command_id,
        "command_hash": item.command_hash,
        "meaning": _MEANING[item.state],
        "slug": item.slug,
        "message": item.sentence or None,
    }
    return {key: value for key, value in data.items() if value is not None}


@approvals.command("list")
@click.option("--all", "every", is_flag=True, help="also those whose time is over")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@pass_settings
@answered
async def list_(settings: Settings, every: bool, limit: int) -> None:
    """What waits, the most urgent first, from the local database ('hive-advisor run' fetches)."""
    async with settings.kit(online=False) as kit:
        items = [await _row(kit, item) for item in await kit.approvals.listed(expired=every, limit=limit)]
        settings.terminal.show({"items": items, "count": len(items)})


@approvals.command()
@click.argument("approval_id", shell_complete=completing.approvals)
@pass_settings
@answered
async def show(settings: Settings, approval_id: str) -> None:
    """One request whole: node, who asks, parameters, danger."""
    async with settings.kit(online=False) as kit:
        settings.terminal.show(await _whole(kit, await kit.approvals.get(approval_id)))


@approvals.command()
@click.argument("approval_id", shell_complete=completing.approvals)
@click.option("--node", help="npub of the node, when it asks you for the first time")
@pass_settings
@answered
async def approve(settings: Settings, approval_id: str, node: str | None) -> None:
    """Sign that the command may run. Asks for the PIN at a terminal."""
    await _vote(settings, approval_id, "approve", node)


@approvals.command()
@click.argument("approval_id", shell_complete=completing.approvals)
@click.option("--node", help="npub of the node, when it asks you for the first time")
@pass_settings
@answered
async def reject(settings: Settings, approval_id: str, node: str | None) -> None:
    """Sign that the command must not run. Asks for the PIN at a terminal."""
    await _vote(settings, approval_id, "reject", node)


async def _vote(settings: Settings, approval_id: str, decision: Decision, node: str | None) -> None:
    if not sys.stdin.isatty():
        raise ConfirmationRequired("a vote asks for the PIN: run it at a terminal")
    async with settings.kit(online=True) as kit:
        item = await kit.approvals.get(approval_id)
        name, known = await kit.approvals.node_of(item)
        _check_node(item, name, known, node)
        click.echo(output.as_text(await _whole(kit, item)), err=True)
        settings.ask_pin(f"PIN to {decision} {item.action} at {name}", kit.pin_verifier)
        voted = await kit.approvals.vote(item, decision, settings.wait)
        settings.terminal.show(await _whole(kit, voted), _EXIT[voted.state])


def _check_node(item: ApprovalRequest, name: str, known: bool, given: str | None) -> None:
    from hive_shared.nostr.keys import parse_pubkey

    if given is not None:
        try:
            key = parse_pubkey(given)
        except ValueError as error:
            raise InvalidParams(f"--node: {error}") from error
        if key != item.node_key:
            raise InvalidParams(f"--node is another key than the one that asks ({name}); nothing was signed")
    elif not known:
        raise ConfirmationRequired(
            f"{name} asks for the first time, or is suspect: add --node with the npub its operator told you"
        )
