"""``hive-advisor send`` and ``hive-advisor command``."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click
from hive_shared.errors import ConfirmationRequired, InvalidParams

from hive_advisor.cli import completing, output
from hive_advisor.cli.context import Settings, answered, pass_settings
from hive_advisor.domain.guard_rules import HUMAN_DANGER

if TYPE_CHECKING:
    from hive_advisor.advisor import Advisor
    from hive_advisor.domain.plan import Judged, Plan
    from hive_advisor.domain.rows import StoredCommand

EXIT_OF_STATE = {
    "done": output.OK,
    "partial": output.PARTIAL,
    "pending": output.PENDING,
    "rejected": output.REFUSED,
    "cancelled": output.REFUSED,
    "expired": output.REFUSED,
    "error": output.REFUSED,
    "indeterminate": output.UNKNOWN,
    "lost": output.TRANSPORT,
    "sent": output.UNKNOWN,
    "ready": output.TRANSPORT,
    "draft": output.TRANSPORT,
    "held": output.PENDING,
}
"""The exit code of a command in each state."""

_MEANING = {
    "sent": "no answer yet; the same bytes go out again with 'hive-advisor run', nothing runs twice",
    "ready": "waits for its turn; 'hive-advisor run' sends it",
    "draft": "could not leave in time, so nothing ran; 'hive-advisor command commit' signs it anew",
    "held": "the guard wants a human's word: 'hive-advisor approvals approve', with the PIN",
    "lost": "proven not to have run",
    "indeterminate": "the node could not prove whether it ran; its operator was alerted",
    "pending": "waits at the node; see 'hive-advisor command wait'",
}


def describe(command: StoredCommand, alias: str) -> dict[str, Any]:
    """A command as people and scripts see it."""
    response = command.response or {}
    error = response.get("error")
    data: dict[str, Any] = {
        "command_id": command.command_id,
        "client": alias,
        "action": f"{command.schema}#{command.action}",
        "params": command.params,
        "state": str(command.state),
        "slug": command.slug,
        "message": error.get("message") if isinstance(error, dict) else _MEANING.get(str(command.state)),
        "data": error.get("data") if isinstance(error, dict) else None,
        "result": response.get("result"),
        "receipt_id": command.receipt_id,
        "danger": command.total_danger,
        "created": output.moment(command.created),
    }
    return {key: value for key, value in data.items() if value is not None}


def finish(settings: Settings, command: StoredCommand, alias: str) -> NoReturn:
    """Show the command and leave with the exit code of its state."""
    settings.terminal.show(describe(command, alias), exit_of(command))


def exit_of(command: StoredCommand) -> int:
    """The exit code of a command: that of its state, or 8 where it lacked a payment."""
    if (command.slug or "").startswith("payment_"):
        return output.PAYMENT
    return EXIT_OF_STATE[str(command.state)]


def parse_pairs(pairs: tuple[str, ...], document: str | None, texts: Collection[str] = ()) -> dict[str, Any]:
    """``k=v`` pairs (JSON where it parses, else text) over the JSON object ``document``; the parameters
    named in ``texts`` are text also where theirs reads like a number."""
    from hive_shared.canonical import decode_object

    params: dict[str, Any] = {}
    if document is not None:
        params.update(decode_object(document))
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise InvalidParams(f"{pair!r}: give parameters as name=value")
        if key in params:
            raise InvalidParams(f"parameter {key!r} is given twice")
        try:
            params[key] = json.loads(value)
        except ValueError:
            params[key] = value
        if key in texts and not isinstance(params[key], str):
            params[key] = value
    return params


async def ask_human(settings: Settings, judged: Judged, given: int | None) -> tuple[bool, int | None]:
    """What the guard holds asks, and so does d >= 5; d >= 7 wants client and action typed. Without a terminal
    only options answer.

    Returns whether a human said yes, and the danger they confirmed for this very plan; ``--yes`` confirms no
    danger in particular. Raises ConfirmationRequired.
    """
    from hive_advisor.domain.guard import Verdict

    plan, total = judged.plan, judged.plan.danger.total
    if given is not None and given != total:
        raise ConfirmationRequired(f"--confirm-danger {given} is not this command's danger, which is {total}")
    holds = judged.judgement.verdict is Verdict.HOLD
    if given == total:
        return True, total
    if plan.spec.read_only or not (holds or total >= 5):
        return False, None
    if settings.yes:
        if total >= HUMAN_DANGER:
            raise ConfirmationRequired(
                f"--yes answers for danger up to 6; this is {total}: add --confirm-danger {total}"
            )
        return True, None
    console = settings.terminal.console
    if not console.interactive:
        if holds:
            return False, None
        raise ConfirmationRequired(f"this command has danger {total}: add --yes, or run it at a terminal")
    for reason in judged.judgement.reasons:
        console.err(f"guard: {reason.text} ({reason.level})")
    if total >= HUMAN_DANGER:
        wanted = f"{plan.client.alias} {plan.spec.name}"
        if await console.typed(f"Danger {total}. Type '{wanted}' to go on") != wanted:
            raise ConfirmationRequired("the typed text differs; nothing was sent")
    elif not await console.agrees(f"Danger {total}: {plan.spec.name} on {plan.client.alias}?"):
        raise ConfirmationRequired("not confirmed; nothing was sent")
    return True, total


@click.command()
@click.argument("client", required=False, shell_complete=completing.clients)
@click.argument("target", required=False, metavar="SCHEMA/ACTION", shell_complete=completing.targets)
@click.argument("pairs", nargs=-1, metavar="[NAME=VALUE]...", shell_complete=completing.parameters)
@click.option("--params", "params_file", help="file with a JSON object of parameters, - for stdin")
@click.option("--batch", help="file with a command a line as JSON, - for stdin; each runs once")
@click.option("--batch-id", help="what the batch is known by; without it its content")
@click.option("--dry-run", is_flag=True, help="show the plan; nothing is signed or sent")
@click.option("--quote", is_flag=True, help="with --dry-run: also ask the node what it would say")
@click.option("--pay", is_flag=True, help="have the node pay for it: an invoice of your way in, or ecash")
@click.option("--invoice", help="have the node pay for it by this invoice, made with a wallet of yours")
@click.option("--note", default="", help="your own note, kept locally")
@click.option("--again", is_flag=True, help="send although the same command is open")
@click.option("--retry-until", help="plan it anew while the node answers cooldown, this long: 90s, 30m, 4h")
@click.option("--confirm-danger", type=int, help="the computed danger, to confirm it without a terminal")
@click.option("--ticket", help="the ticket that pays for it, as ID or ID:ITEM; without it one that fits")
@click.option("--if-root", help="run only while the node's policy root (see state_hash) is this")
@pass_settings
@answered
async def send(
    settings: Settings,
    client: str | None,
    target: str | None,
    pairs: tuple[str, ...],
    params_file: str | None,
    batch: str | None,
    batch_id: str | None,
    dry_run: bool,
    quote: bool,
    pay: bool,
    invoice: str | None,
    note: str,
    again: bool,
    retry_until: str | None,
    confirm_danger: int | None,
    ticket: str | None,
    if_root: str | None,
) -> None:
    """Send one command, e.g.: send alice hive:fee-policy/set_single channel_id=103x1x0 fee_ppm=150

    Or those of a file, in order, up to the first that does not run: send [CLIENT] --batch FILE, with lines
    like {"client":"alice","schema":"hive:fee-policy/v1","action":"set_single","params":{"channel_id":
    "103x1x0","fee_ppm":150}} (and "note", "if_root", "again", "pay", "ticket"). --pay and --ticket ID then
    hold for every line that says neither. Sent again, the same file goes on where it stopped.
    """
    from hive_advisor.domain.schema_help import split_target, texts_of
    from hive_advisor.services.guard import refuse

    until = None if retry_until is None else int(time.time()) + span_s(retry_until)
    if batch is not None:
        alone = (target, pairs, params_file, quote, invoice, note, if_root)
        if any(alone) or confirm_danger is not None:
            raise InvalidParams(_IN_A_BATCH)
        options = {"again": again, "retry_until": until, "pay": pay, "ticket": ticket}
        await _of_file(settings, batch, client, batch_id, dry_run=dry_run, **options)
    target = _whole(client, target, batch_id)
    assert client is not None
    schema_id, action = split_target(target)
    if quote and not dry_run:
        raise InvalidParams("--quote goes with --dry-run; a command is judged by the node anyway")
    document = await settings.document(params_file)
    params = parse_pairs(pairs, document, texts_of(schema_id, action))
    async with settings.kit(online=quote or not dry_run) as kit:
        found = await kit.clients.named(client)
        fits = not (pay or invoice or ticket)
        plan = await kit.plan(
            found, schema_id, action, params, note=note, expected_policy_root=if_root, ticketed=fits
        )
        plan = await _with_ticket(kit, plan, ticket, invoiced=bool(pay or invoice))
        judged = await kit.guard.judged(plan, "cli")
        if dry_run:
            await _show_plan(settings, kit, judged, ask_node=quote)
        refuse(judged.judgement)
        human, confirmed = await ask_human(settings, judged, confirm_danger)
        told = {"again": again, "human": human, "confirmed_danger": confirmed, "retry_until": until}
        done = await _executed(settings, kit, plan, (invoice or "") if pay or invoice else None, **told)
        await finish_one(settings, kit, done)


_IN_A_BATCH: Final = "--batch takes its commands from the file: give it a client, --pay or --ticket at most"


async def _of_file(
    settings: Settings, file: str, client: str | None, batch_id: str | None, **options: Any
) -> NoReturn:
    from hive_advisor.cli.batch import send_batch

    await send_batch(settings, file, client, batch_id, **options)


async def _with_ticket(kit: Advisor, plan: Plan, ticket: str | None, *, invoiced: bool) -> Plan:
    """The plan with the ticket that was named. Raises InvalidParams beside an invoice."""
    from hive_advisor.domain.ticket import ticket_and_item

    if ticket is None:
        return plan
    if invoiced:
        raise InvalidParams("a command is paid by a ticket or by an invoice, not by both")
    return await kit.tickets.planned(plan, *ticket_and_item(ticket))


async def _executed(
    settings: Settings, kit: Advisor, plan: Plan, invoice: str | None, **options: Any
) -> StoredCommand:
    """Send a plan; who breaks off the wait is told the command's id. `invoice` is how the node is to pay for
    it: one that is pasted, "" for one of the way in, None for not at all."""
    command_id = str(uuid.uuid4())
    if invoice is not None:
        quoted = await kit.quote(plan, settings.wait)
        plan = await kit.money.claim(plan, quoted, command_id, invoice.strip())
    with told_if_interrupted(settings, f"command {command_id}: 'hive-advisor command wait' goes on with it"):
        return await kit.execute(plan, wait_s=settings.wait, origin="cli", command_id=command_id, **options)


@contextmanager
def told_if_interrupted(settings: Settings, text: str) -> Iterator[None]:
    """Say how to go on when Ctrl-C ends the block, also to a script."""
    import asyncio

    try:
        yield
    except asyncio.CancelledError:
        settings.terminal.console.err(text)
        raise


def _whole(client: str | None, target: str | None, batch_id: str | None) -> str:
    """The target of one command. Raises UsageError for half a command line."""
    if client is None or target is None:
        missing = "CLIENT" if client is None else "SCHEMA/ACTION"
        raise click.UsageError(f"Missing argument '{missing}'.")
    if batch_id is not None:
        raise InvalidParams("--batch-id goes with --batch")
    return target


def span_s(text: str) -> int:
    """Seconds of ``90s``, ``30m``, ``4h``; at most a day. Raises InvalidParams."""
    match = re.fullmatch(r"([1-9]\d{0,5})([smh])", text)
    seconds = int(match[1]) * {"s": 1, "m": 60, "h": 3_600}[match[2]] if match else 0
    if not 0 < seconds <= 86_400:
        raise InvalidParams(f"--retry-until {text[:20]!r}: give a time like 90s, 30m or 4h, at most a day")
    return seconds


async def finish_one(settings: Settings, kit: Advisor, command: StoredCommand) -> NoReturn:
    """Show a command, what it waits for if it is held, and leave with the exit code of its state."""
    data = describe(command, await kit.alias_of(command.client_id))
    if command.state == "held":
        question = await kit.questions.of_command(command.command_id)
        data |= {"approval_id": question.approval_id, "reason": question.reason}
    if command.slug == "payment_required":
        data["next"] = f"hive-advisor pay show {command.command_id}"
    settings.terminal.show(data, exit_of(command))


async def _show_plan(settings: Settings, kit: Advisor, judged: Judged, *, ask_node: bool) -> NoReturn:
    """The plan and, if asked for, the node's word on it: exit 4 when it would refuse, 5 without an answer."""
    data = {**judged.summary(), "sent": False}
    if not ask_node:
        settings.terminal.show(data)
    said = await kit.quote(judged.plan, settings.wait)
    result = said["result"]
    if not isinstance(result, dict):
        data["node_says"] = {key: said[key] for key in ("state", "slug", "message")}
        settings.terminal.show(data, output.REFUSED if said["slug"] else output.PENDING)
    data["node_says"] = result
    settings.terminal.show(data, output.OK if result.get("valid", True) is True else output.REFUSED)


@click.group()
def command() -> None:
    """Commands sent so far."""


command.add_command(send)


@command.command("list")
@click.option("--client", "alias", shell_complete=completing.clients)
@click.option("--state")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True)
@pass_settings
@answered
async def list_(settings: Settings, alias: str | None, state: str | None, limit: int) -> None:
    """Newest first."""
    async with settings.kit(online=False) as kit:
        found = await kit.clients.named(alias) if alias else None
        names = {item.client_id: item.alias for item in await kit.clients.all()}
        items = [
            {
                "command_id": item.command_id,
                "client": names.get(item.client_id, "?"),
                "action": item.action,
                "state": str(item.state),
                "slug": item.slug,
                "receipt_id": item.receipt_id,
                "created": output.moment(item.created),
            }
            for item in await kit.commands.listed(found, state, limit)
        ]
        settings.terminal.show({"items": items, "count": len(items)})


@command.command()
@click.argument("command_id", shell_complete=completing.commands)
@pass_settings
@answered
async def show(settings: Settings, command_id: str) -> None:
    """Everything known about one command, without asking the node."""
    async with settings.kit(online=False) as kit:
        found = await kit.commands.get(command_id)
        body = describe(found, await kit.alias_of(found.client_id))
        settings.terminal.show(
            {**body, "nonce": found.nonce, "sends": found.sends, "command_hash": found.command_hash}
        )


@command.command()
@click.argument("command_id", shell_complete=completing.commands)
@click.option("--again", is_flag=True, help="send although the same command is open")
@pass_settings
@answered
async def commit(settings: Settings, command_id: str, again: bool) -> None:
    """Sign and send a draft of yours: one whose bytes could not leave in time."""
    async with settings.kit(online=True) as kit:
        found = await kit.commands.get(command_id)
        done = await kit.plans.commit(found.command_id, "cli", again=again)
        await finish_one(settings, kit, await kit.follow(done, settings.wait))


@command.command()
@click.argument("command_id", shell_complete=completing.commands)
@pass_settings
@answered
async def wait(settings: Settings, command_id: str) -> None:
    """Wait (--wait seconds) until the command is final."""
    async with settings.kit(online=True) as kit:
        found = await kit.commands.get(command_id)
        await kit.pump()
        found = await kit.commands.settled(found.command_id, settings.wait, pending_counts=False)
        finish(settings, found, await kit.alias_of(found.client_id))


@command.command()
@click.argument("command_id", shell_complete=completing.commands)
@pass_settings
@answered
async def status(settings: Settings, command_id: str) -> None:
    """Ask the node how the command stands."""
    async with settings.kit(online=True) as kit:
        found = await kit.commands.get(command_id)
        answer = await kit.ask_status(found, settings.wait)
        found = await kit.commands.get(found.command_id)
        body = describe(found, await kit.alias_of(found.client_id))
        settings.terminal.show({**body, "node_says": answer}, EXIT_OF_STATE[str(found.state)])


@command.command()
@click.argument("command_id", shell_complete=completing.commands)
@pass_settings
@answered
async def cancel(settings: Settings, command_id: str) -> None:
    """Withdraw a command that waits here or at the node."""
    async with settings.kit(online=True) as kit:
        found = await kit.commands.get(command_id)
        if not found.envelope:
            await kit.plans.withdraw(found)
            found = await kit.commands.get(found.command_id)
            settings.terminal.show(describe(found, await kit.alias_of(found.client_id)))
        answer = await kit.cancel(found, settings.wait)
        found = await kit.commands.settled(found.command_id, 5, pending_counts=False)
        body = describe(found, await kit.alias_of(found.client_id))
        settings.terminal.show({**body, "node_says": answer}, EXIT_OF_STATE[str(answer["state"])])


@command.command()
@click.argument("command_id", shell_complete=completing.commands)
@pass_settings
@answered
async def confirm(settings: Settings, command_id: str) -> None:
    """Sign the challenge of a command that its operator approved.

    Without asking if you confirmed the danger when you sent it; else it is asked at the terminal.
    """
    async with settings.kit(online=True) as kit:
        found = await kit.commands.get(command_id)
        if found.challenge is None:
            await kit.pump()
            found = await kit.commands.get(found.command_id)
        alias = await kit.alias_of(found.client_id)
        if found.challenge is not None:
            await _ask_again(settings, found, alias)
        answer = await kit.confirm(found, settings.wait)
        found = await kit.commands.settled(found.command_id, settings.wait, pending_counts=False)
        settings.terminal.show(
            {**describe(found, alias), "node_says": answer}, EXIT_OF_STATE[str(found.state)]
        )


async def _ask_again(settings: Settings, found: StoredCommand, alias: str) -> None:
    if found.confirmed_danger == found.total_danger:
        return
    console = settings.terminal.console
    if not console.interactive:
        raise ConfirmationRequired(
            f"nobody confirmed danger {found.total_danger} when this was sent (--confirm-danger): confirm it"
            " at a terminal"
        )
    wanted = f"{alias} {found.action}"
    console.err(output.as_text(describe(found, alias)))
    if await console.typed(f"Danger {found.total_danger}. Type '{wanted}' to confirm") != wanted:
        raise ConfirmationRequired("the typed text differs; nothing was signed")
