"""A command whose profile another process holds: it runs there, and is typed and shown here
(docs/protocol/11-advisor-kit.md §3)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click
import msgspec
from hive_shared.errors import (
    Conflict,
    HiveError,
    InvalidParams,
    TransportUnavailable,
    VersionIncompatible,
    by_code,
)

from hive_advisor import __version__
from hive_advisor.cli import output
from hive_advisor.domain.engine_frames import (
    PROTOCOL,
    Answer,
    Ask,
    Cancel,
    End,
    Invoke,
    Output,
    Refused,
    Welcome,
)
from hive_advisor.local_socket import Channel, connect

if TYPE_CHECKING:
    from hive_advisor.cli.context import Settings
    from hive_advisor.paths import ProfilePaths

_PATIENCE_S: Final = 10
_BREAK_OFF_S: Final = 5


class Link(msgspec.Struct, frozen=True):
    """A connection to an engine, which has said who it is."""

    channel: Channel
    welcome: Welcome


async def knock(socket: Path, database: Path | None) -> Link | None:
    """A connection to the engine behind ``socket``; None when there is none, or it holds another
    database than ``database``. Raises Unauthorized, VersionIncompatible, TransportUnavailable."""
    try:
        channel = await connect(socket)
    except PermissionError as error:
        raise TransportUnavailable(f"{socket} is not open to you: {error.strerror}") from error
    if channel is None:
        return None
    try:
        async with asyncio.timeout(_PATIENCE_S):
            said = await channel.receive()
    except (TimeoutError, InvalidParams) as error:
        channel.abort()
        raise TransportUnavailable(f"what listens on {socket} does not answer as an engine does") from error
    if isinstance(said, Refused):
        channel.abort()
        raise as_error(said)
    if not isinstance(said, Welcome):
        channel.abort()
        return None
    if (said.protocol, said.kit) != (PROTOCOL, __version__):
        channel.abort()
        raise VersionIncompatible(
            f"'hive-advisor {said.holder}' (process {said.pid}) runs version {said.kit} of the kit, this is"
            f" {__version__}: start it again"
        )
    if database is not None and said.database != file_id(database):
        channel.abort()
        return None
    return Link(channel, said)


def file_id(path: Path) -> str:
    """What makes a file this one and no other of the same name."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_dev}:{found.st_ino}"


def in_use(paths: ProfilePaths, welcome: Welcome) -> Conflict:
    """The refusal of what needs the profile for itself."""
    return Conflict(
        f"profile {paths.profile!r} is in use by 'hive-advisor {welcome.holder}' (process {welcome.pid}), and"
        " this needs it alone: stop that first"
    )


def as_error(refused: Refused) -> HiveError:
    """A refusal of the engine as the error that it was."""
    data = {key: value for key, value in refused.data.items() if key != "reason"}
    reason = refused.data.get("reason")
    try:
        kind = by_code(refused.code)
    except KeyError:
        kind = TransportUnavailable
    return kind(refused.message, reason=str(reason) if reason else None, data=data)


def named(ctx: click.Context) -> list[str]:
    """The words of the command, without the program's own name."""
    words: list[str] = []
    here: click.Context | None = ctx
    while here is not None and here.parent is not None:
        words.insert(0, str(here.info_name))
        here = here.parent
    return words


def plain_params(ctx: click.Context) -> dict[str, Any]:
    """The parameters that click has read, as JSON; files by their whole path."""
    files = {param.name for param in ctx.command.params if isinstance(param.type, click.Path)}
    return {
        name: str(Path.cwd() / value) if name in files and value is not None else _plain(value)
        for name, value in ctx.params.items()
    }


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


async def forward(settings: Settings, link: Link, command: list[str], params: Mapping[str, Any]) -> NoReturn:
    """Have the engine run the command, with our terminal; leaves with its exit code."""
    channel, terminal = link.channel, settings.terminal
    try:
        await channel.send(
            Invoke(
                command=command,
                params=dict(params),
                as_json=terminal.as_json,
                quiet=terminal.quiet,
                verbose=settings.verbose,
                yes=settings.yes,
                wait=settings.wait,
                timeout=settings.timeout,
                interactive=terminal.console.interactive,
                config=str(settings.paths.config_dir.resolve()),
                relays=settings.relays,
            )
        )
        while True:
            frame = await channel.receive()
            if isinstance(frame, Output):
                stream = sys.stdout if frame.stream == "out" else sys.stderr
                stream.write(frame.text)
                stream.flush()
            elif isinstance(frame, Ask):
                await channel.send(Answer(await _answered(settings, frame, params)))
            elif isinstance(frame, End):
                sys.exit(frame.code)
            elif isinstance(frame, Refused):
                raise as_error(frame)
            else:
                terminal.fail(_gone(link.welcome), output.UNKNOWN)
    except (asyncio.CancelledError, click.Abort, HiveError):
        await _break_off(channel)
        raise
    finally:
        channel.close()


async def _answered(settings: Settings, asked: Ask, params: Mapping[str, Any]) -> str:
    console = settings.terminal.console
    if asked.how == "file":
        if asked.question not in params.values():
            raise InvalidParams(f"the engine asked for {asked.question[:200]!a}, which was not named here")
        return await console.text_of(asked.question)
    if asked.how == "yes":
        return "y" if await console.agrees(asked.question) else "n"
    return await console.typed(asked.question, hidden=asked.how == "hidden")


async def _break_off(channel: Channel) -> None:
    """As Ctrl-C: the engine ends the command. That it did is waited for, not for long."""
    try:
        await channel.send(Cancel())
        async with asyncio.timeout(_BREAK_OFF_S):
            while not isinstance(await channel.receive(), End | None):
                pass
    except (TimeoutError, HiveError):
        channel.abort()


def _gone(welcome: Welcome) -> TransportUnavailable:
    return TransportUnavailable(
        f"'hive-advisor {welcome.holder}' (process {welcome.pid}) ended before it said how this command"
        " ended; whether it was done is not known: 'hive-advisor command list' shows what was sent",
        reason="engine_ended",
    )
