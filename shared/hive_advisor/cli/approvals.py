"""``hive-advisor approvals``: what waits for a human: own plans that the guard held, and votes on commands of
other nodes that need several signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import click
from hive_shared.errors import ConfirmationRequired, Conflict, InvalidParams, PolicyDenied

from hive_advisor.cli import completing, output
from hive_advisor.cli.commands import describe, finish_one
from hive_advisor.cli.context import Settings, answered, pass_settings
from hive_advisor.domain.question import PLAN

if TYPE_CHECKING:
    from hive_advisor.advisor import Advisor
    from hive_advisor.domain.approval_request import ApprovalRequest, Decision
    from hive_advisor.domain.question import Question

_EXIT = {"waiting": output.PENDING, "sent": output.UNKNOWN, "counted": output.OK, "refused": output.REFUSED}
_MEANING = {
    "waiting": "waits for your vote",
    "sent": "signed and sent, no answer yet; 'hive-advisor run' sends the same bytes again",
    "counted": "the node counted your vote",
    "refused": "the node did not take your vote",
}


@click.group()
def approvals() -> None:
    """Your own commands that the guard held, and commands at other nodes that wait for your signature."""


async def _row(kit: Advisor, item: ApprovalRequest) -> dict[str, Any]:
    name, _ = await kit.approvals.node_of(item)
    return {
        "approval_id": item.approval_id,
        "kind": "vote",
        "node": name,
        "action": f"{item.schema}#{item.action}",
        "danger": item.danger,
        "state": item.state,
        "vote": item.decision,
        "expires": output.moment(item.expires),
    }


async def _own_row(kit: Advisor, item: Question) -> dict[str, Any]:
    row: dict[str, Any] = {
        "approval_id": item.approval_id,
        "kind": item.kind,
        "node": item.object or None,
        "action": None,
        "danger": None,
        "state": item.state,
        "vote": None,
        "expires": output.moment(item.expires),
    }
    if item.command_id is not None:
        command = await kit.commands.get(item.command_id)
        row |= {
            "node": await kit.alias_of(command.client_id),
            "action": f"{command.schema}#{command.action}",
            "danger": command.total_danger,
        }
    return row


async def _own_whole(kit: Advisor, item: Question) -> dict[str, Any]:
    data = {**await _own_row(kit, item), "origin": item.origin, "reason": item.reason}
    if item.command_id is not None:
        command = await kit.commands.get(item.command_id)
        data |= {
            "params": command.params,
            "note": command.note or None,
            "command_id": command.command_id,
            "command_state": str(command.state),
            "plan_hash": item.plan_hash,
        }
    return {key: value for key, value in data.items() if value is not None}


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
        own = [await _own_row(kit, row) for row in await kit.questions.listed(expired=every, limit=limit)]
        votes = [await _row(kit, row) for row in await kit.approvals.listed(expired=every, limit=limit)]
        items = (own + votes)[:limit]
        settings.terminal.show({"items": items, "count": len(items)})


@approvals.command()
@click.argument("approval_id", shell_complete=completing.approvals)
@pass_settings
@answered
async def show(settings: Settings, approval_id: str) -> None:
    """One request whole: node, who asks, parameters, danger."""
    async with settings.kit(online=False) as kit:
        own = await kit.questions.find(approval_id)
        if own is not None:
            settings.terminal.show(await _own_whole(kit, own))
        settings.terminal.show(await _whole(kit, await kit.approvals.get(approval_id)))


@approvals.command()
@click.argument("approval_id", shell_complete=completing.approvals)
@click.option("--node", help="npub of the node, when it asks you for the first time")
@pass_settings
@answered
async def approve(settings: Settings, approval_id: str, node: str | None) -> None:
    """Say yes: a held command of yours is sent, for another node's your vote is signed. Asks for the PIN."""
    await _vote(settings, approval_id, "approve", node)


@approvals.command()
@click.argument("approval_id", shell_complete=completing.approvals)
@click.option("--node", help="npub of the node, when it asks you for the first time")
@pass_settings
@answered
async def reject(settings: Settings, approval_id: str, node: str | None) -> None:
    """Say no: a held command of yours ends, for another node's your vote is signed. Asks for the PIN."""
    await _vote(settings, approval_id, "reject", node)


async def _vote(settings: Settings, approval_id: str, decision: Decision, node: str | None) -> None:
    if not settings.terminal.console.interactive:
        raise ConfirmationRequired("a vote asks for the PIN: run it at a terminal")
    async with settings.kit(online=True) as kit:
        own = await kit.questions.find(approval_id)
        if own is not None:
            await _decide(settings, kit, own, decision)
        if decision == "approve" and kit.guard.halted:
            raise PolicyDenied(
                "the guard is halted; 'hive-advisor guard release' ends that", reason="guard_denied"
            )
        item = await kit.approvals.get(approval_id)
        name, known = await kit.approvals.node_of(item)
        _check_node(item, name, known, node)
        settings.terminal.console.err(output.as_text(await _whole(kit, item)))
        await settings.ask_pin(f"PIN to {decision} {item.action} at {name}", kit.pin_verifier)
        voted = await kit.approvals.vote(item, decision, settings.wait)
        settings.terminal.show(await _whole(kit, voted), _EXIT[voted.state])


async def _decide(settings: Settings, kit: Advisor, item: Question, decision: Decision) -> NoReturn:
    """A human's word on a held command of ours, or on what a program asks."""
    if item.state != "waiting":
        raise Conflict(f"{item.approval_id} is {item.state}; nothing waits for your word")
    shown = await _own_whole(kit, item)
    settings.terminal.console.err(output.as_text(shown))
    what = shown.get("action") or item.kind
    await settings.ask_pin(f"PIN to {decision} {what} at {shown.get('node', '-')}", kit.pin_verifier)
    if item.kind != PLAN:
        said = await kit.questions.answer(item, approved=decision == "approve")
        settings.terminal.show(await _own_whole(kit, said))
    if decision == "reject":
        rejected = await kit.plans.reject(item)
        settings.terminal.show(describe(rejected, str(shown["node"])))
    done = await kit.follow(await kit.plans.approve(item), settings.wait)
    await finish_one(settings, kit, done)


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
