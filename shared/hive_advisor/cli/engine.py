"""The process that holds a profile takes commands of others over ``control.sock`` and tool calls over
``mcp.sock`` (docs/protocol/11-advisor-kit.md §3): one guard, one store, one key."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from hive_shared.errors import (
    Busy,
    Conflict,
    HiveError,
    InvalidParams,
    TransportUnavailable,
    Unauthorized,
    Unsupported,
)

from hive_advisor import __version__
from hive_advisor.cli import output
from hive_advisor.cli.agent import DRAIN_S
from hive_advisor.cli.engine_tools import ToolDoor
from hive_advisor.cli.far_console import FarConsole
from hive_advisor.cli.forwarding import file_id
from hive_advisor.config import load_config
from hive_advisor.domain.engine_frames import (
    PROTOCOL,
    Answer,
    AnyFrame,
    End,
    Frame,
    Invoke,
    Refused,
    Welcome,
)
from hive_advisor.local_socket import Channel, Peer, listening, name_of, peer_of, point, runtime_dir

if TYPE_CHECKING:
    from hive_advisor.advisor import Advisor
    from hive_advisor.cli.context import Settings

_FIRST_WORD_S: Final = 10
_CONNECTIONS: Final = 128
_OWN_PROCESS: Final = frozenset({"backup", "completion", "identity", "mcp", "node", "schema", "version"})
"""Groups whose commands ask for the passphrase, or need neither key nor store."""
_DESPITE: Final = (("identity", "shared"),)

Steps = Coroutine[Any, Any, Any]


class Door(msgspec.Struct, frozen=True):
    """A listening socket and the name it has in the file system."""

    server: asyncio.Server
    path: Path
    name: tuple[int, int] | None
    links: tuple[Path, ...] = ()

    def close(self) -> None:
        """Nobody comes in any more; the name is taken away if it is still ours."""
        self.server.close()
        for link in self.links:
            if link.is_symlink() and link.readlink() == self.path:
                link.unlink()
        if self.name is not None and name_of(self.path) == self.name:
            self.path.unlink(missing_ok=True)


class Engine:
    """``holder`` is the command that this process runs. ``peer`` tells who connected; ``mark`` is the
    identity file as it was when it was opened."""

    def __init__(
        self,
        settings: Settings,
        kit: Advisor,
        holder: str,
        mark: str,
        *,
        peer: Callable[[socket.socket], Peer] = peer_of,
        drain_s: float = DRAIN_S,
    ) -> None:
        self._settings, self._kit, self._holder, self._peer = settings, kit, holder, peer
        self._mark, self._drain_s = mark, drain_s
        self._uid = os.geteuid()
        self._doors: list[Door] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._commands: dict[asyncio.Task[None], asyncio.Task[int]] = {}
        self._stopping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raises InvalidParams for settings of config.toml that cannot be met."""
        paths = self._settings.paths
        door = ToolDoor(paths, self._kit, load_config(paths.config, self._settings.relays).mcp, self._uid)
        wanted, mode, group = door.place()
        if door.out_of_reach:
            self._settings.terminal.progress(door.out_of_reach)

        async def program(channel: Channel, peer: Peer) -> None:
            await door.serve(channel, peer, self._first)

        for own, place, rights, serve in (
            (paths.mcp_socket, wanted, (mode, group), program),
            (paths.control, None, (0o600, None), self._control),
        ):
            try:
                await self._listen(own, place, *rights, serve)
            except (Conflict, InvalidParams) as error:
                if place is not None:
                    raise
                # What this process does itself goes on without.
                self._settings.terminal.progress(f"other processes cannot come to this one: {error.detail}")

    async def _listen(
        self,
        own: Path,
        wanted: Path | None,
        mode: int,
        group: int | None,
        serve: Callable[[Channel, Peer], Awaitable[None]],
    ) -> None:
        """At ``wanted``, else in the runtime directory, with a link to it from ``own``; at ``own`` itself
        when the runtime directory cannot be used."""
        directory = runtime_dir(self._settings.paths.profile)
        path, made = wanted or (own if directory is None else directory / own.name), None
        if path != own:
            try:
                made = await listening(path, mode, group)
            except (Conflict, InvalidParams):
                if wanted is not None:
                    raise
                path = own  # the place is taken by a profile of that name elsewhere, or is not ours to write
        if made is None:
            own.unlink(missing_ok=True)
            made = await listening(own, mode, group)
        links = () if path == own else (own,)
        for link in links:
            point(link, path)

        inside: set[asyncio.Task[None]] = set()

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._accepted(Channel(reader, writer), writer.get_extra_info("socket"), serve, inside)

        server = await asyncio.start_unix_server(accepted, sock=made)
        self._doors.append(Door(server, path, name_of(path), links))

    async def stop(self) -> None:
        """Take no more, let what runs end within `drain_s`, then end it as Ctrl-C would. To be called again
        when it was already."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        for door in self._doors:
            door.close()
        if self._commands:
            await asyncio.wait((*self._commands,), timeout=self._drain_s)
        for running in self._commands.values():
            running.cancel()
        if self._commands:
            # They still tell their clients.
            await asyncio.wait((*self._commands,), timeout=DRAIN_S)
        for connection in (*self._tasks,):
            connection.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(
        self,
        channel: Channel,
        connection: socket.socket,
        serve: Callable[[Channel, Peer], Awaitable[None]],
        inside: set[asyncio.Task[None]],
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        # Each door has its own bound: programs cannot keep the human out.
        inside.add(task)
        try:
            if len(inside) > _CONNECTIONS:
                raise Busy(f"{_CONNECTIONS} connections are open; try again when one has ended")
            await serve(channel, self._peer(connection))
        except HiveError as error:
            channel.post(refused(error))
        except asyncio.CancelledError:
            channel.abort()
        finally:
            self._tasks.discard(task)
            inside.discard(task)
            channel.close()

    def _welcome(self) -> Welcome:
        database = file_id(self._settings.paths.database)
        return Welcome(PROTOCOL, __version__, self._holder, os.getpid(), database)

    async def _first(self, channel: Channel) -> AnyFrame | None:
        """What a connection wants; None when it wants nothing for a while. Raises InvalidParams."""
        await channel.send(self._welcome())
        try:
            async with asyncio.timeout(_FIRST_WORD_S):
                return await channel.receive()
        except TimeoutError:
            return None

    async def _control(self, channel: Channel, peer: Peer) -> None:
        if peer.uid != self._uid:
            raise Unauthorized(f"uid {peer.uid} gives no commands here; only uid {self._uid} does")
        wanted = await self._first(channel)
        if wanted is None:
            return
        if not isinstance(wanted, Invoke):
            raise InvalidParams(f"{type(wanted).__name__} where a command was to come")
        self._check(wanted)
        console = FarConsole(channel, wanted.interactive)
        here = asyncio.current_task()
        assert here is not None
        running = self._commands[here] = asyncio.create_task(self._carried_out(wanted, console))
        reading = asyncio.create_task(_listen_to(channel, console, running))
        try:
            await asyncio.wait({running})
            code = output.INTERRUPTED if running.cancelled() else running.result()
            channel.post(End(code))
        finally:
            running.cancel()
            reading.cancel()
            del self._commands[here]
            await asyncio.gather(running, reading, return_exceptions=True)

    def _check(self, wanted: Invoke) -> None:
        """Raises Conflict, Unsupported for what cannot run here as it would in a process of its own."""
        words = tuple(wanted.command)
        if not words or (words[0] in _OWN_PROCESS and words[:2] not in _DESPITE):
            raise Unsupported(f"'hive-advisor {' '.join(words)[:100]}' runs in a process of its own")
        paths = self._settings.paths
        if wanted.config != str(paths.config_dir.resolve()):
            raise Conflict(
                f"'hive-advisor {self._holder}' (process {os.getpid()}) holds the profile with the settings"
                f" of {paths.config_dir}; leave --config away, or stop it first"
            )
        if wanted.relays is not None:
            given = load_config(paths.config, wanted.relays).relays
            if set(given) != set(load_config(paths.config, self._settings.relays).relays):
                raise Conflict(
                    f"'hive-advisor {self._holder}' (process {os.getpid()}) holds the profile with other"
                    " relays; leave --relays away, or stop it first"
                )

    async def _carried_out(self, wanted: Invoke, console: FarConsole) -> int:
        """The command's exit code."""
        terminal = output.Terminal(wanted.as_json, wanted.quiet, console)
        settings = replace(
            self._settings,
            terminal=terminal,
            wait=wanted.wait,
            timeout=wanted.timeout,
            yes=wanted.yes,
            verbose=wanted.verbose,
            passphrase_fd=None,
            engine=self._kit,
            identity_mark=self._mark,
        )
        try:
            try:
                await _steps(settings, wanted)
            except HiveError as error:
                terminal.fail(error)
            except click.Abort:
                return output.INTERRUPTED
            except click.ClickException as error:
                return _misused(terminal, error)
            except asyncio.CancelledError:
                if self._stopping is not None:
                    terminal.fail(_stopped(self._holder), output.UNKNOWN)
                raise
            except Exception as error:
                if wanted.verbose:
                    console.err(traceback.format_exc())
                output.unexpected(terminal, error)
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else output.OK
        return output.OK


async def _listen_to(channel: Channel, console: FarConsole, running: asyncio.Task[int]) -> None:
    """Until the other end breaks off, is gone or says what makes no sense: each is as Ctrl-C."""
    try:
        while isinstance(frame := await channel.receive(), Answer):
            console.answered(frame)
    except InvalidParams as error:
        console.err(f"error: {error.detail}")
    finally:
        running.cancel()


def _steps(settings: Settings, wanted: Invoke) -> Steps:
    """The command, not begun. Raises click.ClickException for what the command line would refuse."""
    from hive_advisor.cli.main import cli

    command: click.Command = cli
    ctx = click.Context(cli, info_name="hive-advisor", obj=settings)
    for word in wanted.command:
        found = command.get_command(ctx, word) if isinstance(command, click.Group) else None
        if found is None:
            raise click.UsageError(f"No such command {word[:100]!r}.", ctx)
        command, ctx = found, click.Context(found, parent=ctx, info_name=word)
    known = {str(param.name): param for param in command.params if param.expose_value}
    if set(wanted.params) != set(known) or not getattr(command.callback, "answered", False):
        raise click.UsageError(f"'{' '.join(wanted.command)}' takes {', '.join(known) or 'nothing'}.", ctx)
    given = {}
    for name, param in known.items():
        if param.required and wanted.params[name] is None:
            raise click.MissingParameter(ctx=ctx, param=param)
        given[name] = param.process_value(ctx, wanted.params[name])
    callback = command.callback
    assert callback is not None
    steps: Steps = ctx.invoke(callback, **given)
    return steps


def _misused(terminal: output.Terminal, error: click.ClickException) -> int:
    if terminal.as_json:
        terminal.fail(InvalidParams(error.format_message(), reason="usage"), error.exit_code)
    shown = io.StringIO()
    error.show(shown)
    terminal.console.err(shown.getvalue().rstrip("\n"))
    return error.exit_code


def _stopped(holder: str) -> TransportUnavailable:
    return TransportUnavailable(
        f"'hive-advisor {holder}' was stopped before this command ended; whether it was done is not known:"
        " 'hive-advisor command list' shows what was sent",
        reason="engine_ended",
    )


def refused(error: HiveError) -> Frame:
    """An error as a frame."""
    return Refused(error.code, error.symbol, error.detail, dict(error.data))


@asynccontextmanager
async def engine(settings: Settings, kit: Advisor, holder: str, mark: str) -> AsyncIterator[None]:
    """Listen while the block runs."""
    made = settings.listening = Engine(settings, kit, holder, mark)
    try:
        await made.start()
        yield
    finally:
        await made.stop()
