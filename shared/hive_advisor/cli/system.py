"""``hive-advisor run``, ``status``, ``follow``, ``doctor``, ``version``, ``completion``."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, aclosing

import click

from hive_advisor.cli import output
from hive_advisor.cli.agent import Ending, leaving, rounds
from hive_advisor.cli.agent import once as run_once
from hive_advisor.cli.context import Settings, answered, pass_settings
from hive_advisor.cli.fetching import fetching
from hive_advisor.domain.rows import event_row


@click.command()
@click.option("--once", is_flag=True, help="fetch, act, flush, exit")
@click.option("--interval", default=15, show_default=True, help="seconds between rounds")
@pass_settings
@answered
async def run(settings: Settings, once: bool, interval: int) -> None:
    """Fetch messages, take answers in, send again what is open. Holds the profile while it runs.

    Other commands of the profile run in it meanwhile. SIGTERM and Ctrl-C end it; what is under way has five
    seconds. A second one ends it at once.
    """
    if once and settings.engine is not None:
        # Signals and the operator's program are those of the process that holds the profile.
        settings.terminal.show(await settings.engine.pump())
    async with settings.kit(online=True, holder="" if once else "run", alone=not once) as kit:
        ending = Ending()
        if once:
            settings.terminal.show(await run_once(kit, ending))
        async with leaving(ending, settings):
            summary = await rounds(kit, ending, interval)
        settings.terminal.show(summary)


@click.command()
@pass_settings
@answered
async def status(settings: Settings) -> None:
    """Clients, open commands, quarantined messages: what a new session needs to know."""
    async with settings.kit(online=False) as kit:
        settings.terminal.show(await kit.brief())


@click.command()
@click.option("--since", default=0, help="cursor to start after")
@click.option("--once", is_flag=True, help="end with the newest; fetches nothing")
@click.option("--limit", type=click.IntRange(min=1), help="end after so many")
@pass_settings
@answered
async def follow(settings: Settings, since: int, once: bool, limit: int | None) -> None:
    """Events as they come, one JSON object a line; start after the last cursor you took and miss nothing.

    Without --once it fetches what nodes sent, and goes on until Ctrl-C.
    """
    holder = "" if once else "follow"
    async with settings.kit(online=not once, holder=holder) as kit, AsyncExitStack() as stack:
        if not once:
            await stack.enter_async_context(fetching(settings, kit))
        told = 0
        async with aclosing(kit.events(since, once=once)) as events:
            async for event in events:
                settings.terminal.line(event_row(event))
                told += 1
                if told == limit:
                    break
    raise SystemExit(output.OK)


@click.command()
@pass_settings
@answered
async def doctor(settings: Settings) -> None:
    """Check key, database, relays, clocks and credentials; exit 1 if something is broken."""
    async with settings.kit(online=True) as kit:
        checks = await kit.doctor(settings.timeout)
        broken = [check for check in checks if check["status"] == "fail"]
        settings.terminal.show(
            {"items": checks, "count": len(checks)}, output.INTERNAL if broken else output.OK
        )


@click.command()
@pass_settings
def version(settings: Settings) -> None:
    """The version of the kit and of the protocol it speaks."""
    from hive_advisor import __version__

    settings.terminal.show(
        {"hive-advisor": __version__, "protocol": 1, "time": output.moment(int(time.time()))}
    )


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell}")
    root = ctx.find_root()
    click.echo(found(root.command, {}, "hive-advisor", "_HIVE_ADVISOR_COMPLETE").source())
