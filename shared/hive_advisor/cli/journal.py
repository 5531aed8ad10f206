"""``hive-advisor journal``."""

from __future__ import annotations

from typing import Any

import click

from hive_advisor.cli import completing, output
from hive_advisor.cli.context import Settings, answered, pass_settings
from hive_advisor.domain.journal import DAY_S, DECISION_KINDS, GOAL_METRICS, Decision

_KINDS = click.Choice(DECISION_KINDS)


@click.group()
def journal() -> None:
    """What was measured at nodes, what was decided and what came of it."""


@journal.command()
@click.argument("alias", shell_complete=completing.clients)
@click.option("--now", "at_once", is_flag=True, help="read the node's channels first")
@pass_settings
@answered
async def trend(settings: Settings, alias: str, at_once: bool) -> None:
    """How a node's channels drain and fill, and its sums over 7 and 30 days. `run` measures once an hour."""
    async with settings.kit(online=at_once) as kit:
        found = await kit.clients.named(alias)
        if at_once and not await kit.journal.measure(found, settings.wait):
            settings.terminal.progress("nothing was measured: no answer, or no channel in use")
        channels = [
            {
                "channel": each.channel,
                "level": each.level,
                "towards": each.towards,
                "minutes": each.minutes,
                "msat_per_hour": each.msat_per_hour,
                "samples": each.samples,
            }
            for each in await kit.journal.velocities(found)
        ]
        settings.terminal.show({"channels": channels, "trends": await kit.journal.trends(found)})


@journal.command()
@click.argument("alias", shell_complete=completing.clients)
@click.option("--kind", type=_KINDS, required=True)
@click.option("--target", required=True, help="the channel it is about, or what else")
@click.option("--reasoning", required=True)
@click.option("--confidence", type=click.IntRange(0, 100), help="percent")
@click.option("--predicted", default="", help="what should come of it")
@click.option("--command", "command_id", help="the command that carried it out")
@pass_settings
@answered
async def add(
    settings: Settings,
    alias: str,
    kind: str,
    target: str,
    reasoning: str,
    confidence: int | None,
    predicted: str,
    command_id: str | None,
) -> None:
    """Note a decision. The same kind and target within a day takes the new words."""
    async with settings.kit(online=False) as kit:
        client = await kit.clients.named(alias)
        if command_id is not None:
            command_id = (await kit.commands.get(command_id)).command_id
        made = await kit.journal.decide(
            client,
            kind,
            target,
            reasoning,
            confidence=confidence,
            predicted=predicted,
            command_id=command_id,
            origin="cli",
        )
        settings.terminal.show(_row(made, client.alias))


@journal.command(name="list")
@click.argument("alias", required=False, shell_complete=completing.clients)
@click.option("--open", "open_only", is_flag=True, help="only what has no outcome yet")
@click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True)
@pass_settings
@answered
async def listed(settings: Settings, alias: str | None, open_only: bool, limit: int) -> None:
    """Decisions, the newest first."""
    async with settings.kit(online=False) as kit:
        client = None if alias is None else await kit.clients.named(alias)
        items = [
            _row(each, await kit.alias_of(each.client_id))
            for each in await kit.journal.decisions(client, open_only, limit)
        ]
        settings.terminal.show({"items": items, "count": len(items)})


@journal.command()
@click.argument("decision_id", type=int)
@pass_settings
@answered
async def outcome(settings: Settings, decision_id: int) -> None:
    """What came of a decision: its channel's daily fees before and after, against channels nobody touched.

    Known one to three days later, where `run` measured meanwhile and the node keeps books."""
    async with settings.kit(online=False) as kit:
        found = await kit.journal.outcome(decision_id)
        shown = _row(found, await kit.alias_of(found.client_id))
        settings.terminal.show(shown, output.OK if found.outcome else output.PENDING)


@journal.command()
@click.argument("alias", shell_complete=completing.clients)
@click.argument("metric", type=click.Choice(list(GOAL_METRICS)))
@click.argument("target", type=int)
@click.option("--days", type=click.IntRange(1, 365), default=30, show_default=True)
@click.option("--note", default="")
@pass_settings
@answered
async def goal(settings: Settings, alias: str, metric: str, target: int, days: int, note: str) -> None:
    """Set a figure to reach; `run` keeps a checkpoint of every day."""
    async with settings.kit(online=False) as kit:
        number = await kit.journal.aim(await kit.clients.named(alias), metric, target, days, note)
        settings.terminal.show({"goal_id": number, "metric": metric, "target": target, "days": days})


@journal.command()
@click.argument("alias", required=False, shell_complete=completing.clients)
@click.option("--all", "every", is_flag=True, help="closed ones too")
@click.option("--close", type=int, help="close the goal of this number first")
@pass_settings
@answered
async def goals(settings: Settings, alias: str | None, every: bool, close: int | None) -> None:
    """Goals and how near they are."""
    async with settings.kit(online=False) as kit:
        if close is not None:
            await kit.journal.close_goal(close)
        client = None if alias is None else await kit.clients.named(alias)
        items = [
            {
                "goal_id": each.goal_id,
                "client": await kit.alias_of(each.client_id),
                "metric": each.metric,
                "first": each.first_value,
                "now": points[-1][1] if points else None,
                "target": each.target,
                "due": output.moment(each.due),
                "closed": None if each.closed is None else output.moment(each.closed),
                "days": [[output.moment(day * DAY_S)[:10], value] for day, value in points[-7:]],
                "note": each.note,
            }
            for each, points in await kit.journal.goals(client, not every)
        ]
        settings.terminal.show({"items": items, "count": len(items)})


def _row(decision: Decision, alias: str) -> dict[str, Any]:
    return {
        "decision_id": decision.decision_id,
        "client": alias,
        "kind": decision.kind,
        "target": decision.target,
        "reasoning": decision.reasoning,
        "confidence": decision.confidence,
        "predicted": decision.predicted,
        "command_id": decision.command_id,
        "said": decision.said,
        "at": output.moment(decision.created),
        "outcome": decision.outcome,
        "measured": decision.measured,
    }
