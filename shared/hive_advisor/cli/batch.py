"""``hive-advisor send --batch``: the commands of a file in order (docs/protocol/11-advisor-kit.md §10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
from hive_shared.errors import ConfirmationRequired, InvalidParams

from hive_advisor.cli import output
from hive_advisor.cli.commands import EXIT_OF_STATE, ask_human, describe, told_if_interrupted
from hive_advisor.cli.context import Settings
from hive_advisor.domain.batch import BatchLine, check_id, digest_of, parse_batch
from hive_advisor.domain.guard_rules import HUMAN_DANGER
from hive_advisor.domain.ticket import ticket_and_item

if TYPE_CHECKING:
    from hive_advisor.domain.plan import Judged
    from hive_advisor.services.batches import BatchOutcome, BatchStep


async def send_batch(
    settings: Settings,
    file: str,
    client: str | None,
    batch_id: str | None,
    *,
    dry_run: bool,
    again: bool,
    retry_until: int | None,
    pay: bool = False,
    ticket: str | None = None,
) -> NoReturn:
    """Check every line, ask once, send line by line; exits with 0, 10 or what stopped it says. `pay` and
    `ticket` hold for lines that say neither. Raises InvalidParams for both, or for one item of a ticket."""
    from hive_advisor.services.batch_pay import PayFor

    if pay and ticket:
        raise InvalidParams("a command is paid by a ticket or by an invoice, not by both")
    if ticket is not None and ticket_and_item(ticket)[1] is not None:
        raise InvalidParams("--ticket of a batch names no item: each line takes one that is free")
    said = PayFor(pay, ticket or "")
    lines = parse_batch(await settings.terminal.console.text_of(file), client)
    batch_id = f"b-{digest_of(lines)[:24]}" if batch_id is None else check_id(batch_id)
    async with settings.kit(online=not dry_run) as kit:
        steps = await kit.batches.check(batch_id, lines, "cli", said)
        if dry_run:
            _show_plans(settings, batch_id, steps)
        consent = _Consent(settings, await _asked_once(settings, steps))
        told = _Told(batch_id, len(steps))
        outcomes = kit.batches.run(
            batch_id,
            steps,
            consent,
            said,
            origin="cli",
            wait_s=settings.wait,
            again=again,
            retry_until=retry_until,
        )
        with told_if_interrupted(settings, f"batch {batch_id}: the same file goes on where it stopped"):
            async for outcome in outcomes:
                told.take(settings, outcome)
        if told.before == len(steps):
            settings.terminal.progress(
                "every line ran before; to send the same again, give --batch-id with a new one"
            )
        settings.terminal.show(told.summary(), told.exit_code)


def _show_plans(settings: Settings, batch_id: str, steps: Sequence[BatchStep]) -> NoReturn:
    items: list[dict[str, Any]] = []
    for step in steps:
        if step.judged is not None:
            items.append({"line": step.line.number, **step.judged.summary()})
        elif step.command is not None:
            items.append({"line": step.line.number, **describe(step.command, step.client.alias)})
    settings.terminal.show({"batch_id": batch_id, "sent": False, "plans": items})


def _holds(judged: Judged) -> bool:
    from hive_advisor.domain.guard import Verdict

    return judged.judgement.verdict is Verdict.HOLD


async def _asked_once(settings: Settings, steps: Sequence[BatchStep]) -> frozenset[int]:
    """The lines that a person at the terminal said yes to, all at once. Raises ConfirmationRequired."""
    console = settings.terminal.console
    waiting = [(step.line, step.judged) for step in steps if step.judged is not None]
    asking = [
        (line, judged)
        for line, judged in waiting
        if not judged.plan.spec.read_only and (_holds(judged) or judged.plan.danger.total >= 5)
    ]
    for line, judged in asking:
        total = judged.plan.danger.total
        if total >= HUMAN_DANGER:
            raise ConfirmationRequired(
                f"line {line.number} has danger {total}: from {HUMAN_DANGER} on a command goes by itself,"
                " without --batch"
            )
        if total >= 5 and not _holds(judged) and not settings.yes and not console.interactive:
            raise ConfirmationRequired(
                f"line {line.number} has danger {total}: add --yes, or run it at a terminal"
            )
    if not asking or settings.yes or not console.interactive:
        return frozenset()
    for line, judged in asking:
        console.err(f"line {line.number}: {judged.plan.client.alias} {judged.plan.spec.name}")
        for reason in judged.judgement.reasons:
            console.err(f"  guard: {reason.text} ({reason.level})")
    highest = max(judged.plan.danger.total for _, judged in asking)
    question = f"Danger up to {highest}: send {len(waiting)} commands, {len(asking)} of them as shown?"
    if not await console.agrees(question):
        raise ConfirmationRequired("not confirmed; nothing was sent")
    return frozenset(line.number for line, _ in asking)


class _Consent(msgspec.Struct, frozen=True):
    """What was said yes to before; what the guard has come to hold meanwhile is asked by itself."""

    settings: Settings
    confirmed: frozenset[int]

    async def __call__(self, line: BatchLine, judged: Judged) -> tuple[bool, int | None]:
        if line.number in self.confirmed:
            return True, judged.plan.danger.total
        return await ask_human(self.settings, judged, None)


@dataclass
class _Told:
    """What was said of a batch so far."""

    batch_id: str
    lines: int
    ran: list[int] = field(default_factory=list)
    before: int = 0
    stopped: BatchOutcome | None = None

    def take(self, settings: Settings, outcome: BatchOutcome) -> None:
        """Print the row of a line as soon as its end is known."""
        number = outcome.line.number
        row: dict[str, Any] = {"line": number, "client": outcome.client.alias}
        if outcome.command is not None:
            row |= describe(outcome.command, outcome.client.alias)
        if outcome.error is not None:
            row |= {"state": "refused", **output.error_body(outcome.error)}
        if outcome.before:
            row["ran_before"] = True
            self.before += 1
        if outcome.ran:
            self.ran.append(number)
        else:
            self.stopped = outcome
        if settings.terminal.as_json:
            settings.terminal.line(row)
            return
        said = row.get("message") or row.get("slug") or ""
        when = " (by an earlier call)" if outcome.before else ""
        settings.terminal.console.out(
            f"line {number}: {row['client']} {outcome.line.schema}#{outcome.line.action}:"
            f" {row['state']}{when} {output.plain(said)}".rstrip()
        )

    @property
    def exit_code(self) -> int:
        """0 when all ran, 10 when some did, else that of the line that stopped it."""
        stopped = self.stopped
        if stopped is None:
            return output.OK
        if self.ran:
            return output.PARTIAL
        if stopped.error is not None:
            return output.exit_code_of(stopped.error)
        assert stopped.command is not None
        return EXIT_OF_STATE[str(stopped.command.state)]

    def summary(self) -> dict[str, Any]:
        """What ran and what did not, by line."""
        summary: dict[str, Any] = {"batch_id": self.batch_id, "lines": self.lines, "ran": self.ran}
        if self.stopped is None:
            return summary
        at = self.stopped.line.number
        command = self.stopped.command
        return {
            **summary,
            "stopped_at": at,
            "stopped_state": "refused" if command is None else str(command.state),
            "not_begun": list(range(at + 1, self.lines + 1)),
            "go_on": _go_on(self.stopped),
        }


def _go_on(stopped: BatchOutcome) -> str:
    """What to do about the line where it stopped."""
    from hive_advisor.domain.command_machine import CommandState, did_nothing

    command = stopped.command
    at = stopped.line.number
    if command is None or did_nothing(command.state, command.slug):
        return f"line {at} did nothing; the same file goes on with it when it is sent again"
    if command.state in (CommandState.PARTIAL, CommandState.ERROR, CommandState.INDETERMINATE):
        return (
            f"line {at} may have changed something, so it is not sent again: look at 'hive-advisor command"
            f" show {command.command_id}', and send the lines after it as a file of their own"
        )
    return f"line {at} has no end yet; the same file goes on from there when it is sent again"
