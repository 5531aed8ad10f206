"""What every subcommand needs: paths, settings, the unlocked identity, an open kit."""

from __future__ import annotations

import functools
import os
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from hive_shared.errors import ConfirmationRequired, Conflict, HiveError, InvalidParams, Unsupported

from hive_advisor.cli import output
from hive_advisor.paths import ProfilePaths
from hive_advisor.private_files import first_line, read_private

if TYPE_CHECKING:
    from hive_advisor.advisor import Advisor
    from hive_advisor.cli.engine import Engine
    from hive_advisor.cli.forwarding import Link
    from hive_advisor.config import AdvisorConfig
    from hive_advisor.identity import Identity

_MOMENT_S: Final = 2.0
_LOOK_S: Final = 0.1
F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Settings:
    """The global options of one call."""

    paths: ProfilePaths
    terminal: output.Terminal
    wait: int
    timeout: int
    yes: bool
    verbose: bool
    passphrase_fd: int | None
    relays: str | None
    engine: Advisor | None = None
    """Set where the command came from another process: it runs on the kit that is open here."""
    identity_mark: str = ""
    """The identity file that this kit was opened with."""
    listening: Engine | None = None
    """Set while this process takes what others send."""

    def passphrase(self, confirm: bool = False, question: str = "Passphrase") -> str:
        """From ``--passphrase-fd``, ``HIVE_ADVISOR_PASSPHRASE_FILE``, or a prompt; never from argv.

        Raises InvalidParams when none of them can give one.
        """
        file = os.environ.get("HIVE_ADVISOR_PASSPHRASE_FILE")
        return typed_secret(
            question,
            fd=self.passphrase_fd,
            file=Path(file) if file else None,
            names=("--passphrase-fd", "HIVE_ADVISOR_PASSPHRASE_FILE"),
            confirm=confirm,
        )

    def unlock(self) -> Identity:
        """The identity of the profile. Raises NotFound, Locked."""
        return self.unlock_with_passphrase()[0]

    def unlock_with_passphrase(self, question: str = "Passphrase") -> tuple[Identity, str]:
        """The identity and the passphrase that opened it. Raises NotFound, Locked, Unsupported."""
        if self.engine is not None:
            raise Unsupported("what asks for the passphrase runs in a process of its own")
        from hive_advisor.identity import Locked, UnlockThrottle, read_identity, read_public

        read_public(self.paths.identity)
        throttle = UnlockThrottle(self.paths.unlock_failures, lambda: int(time.time()))
        throttle.check()
        try:
            passphrase = self.passphrase(question=question)
            identity = read_identity(self.paths.identity, passphrase)
        except Locked:
            throttle.failed()
            raise
        throttle.succeeded()
        return identity, passphrase

    @contextmanager
    def changed_identity(self, question: str = "Passphrase") -> Iterator[tuple[Identity, str]]:
        """The unlocked identity and its passphrase, held against other changes until the block ends.

        Raises NotFound, Locked, Conflict (another process changes it).
        """
        from hive_advisor.identity_change import changing

        with changing(self.paths):
            yield self.unlock_with_passphrase(question)

    async def document(self, source: str | None) -> str | None:
        """The text that ``--params`` names: a file, ``-`` for standard input. Raises InvalidParams."""
        return None if source is None else await self.terminal.console.text_of(source)

    async def ask_yes(self, question: str) -> None:
        """Go on only if a human says so, or ``--yes``. Raises ConfirmationRequired."""
        if self.yes:
            return
        if not self.terminal.console.interactive:
            raise ConfirmationRequired(f"{question} Add --yes, or run it at a terminal")
        if not await self.terminal.console.agrees(question):
            raise ConfirmationRequired("not confirmed; nothing was changed")

    async def ask_pin(self, question: str, verifier: str | None) -> None:
        """Ask for the approval PIN at the terminal. Raises Locked, Conflict (none set)."""
        from hive_advisor.pin import PinGuard

        if not self.terminal.console.interactive:
            raise ConfirmationRequired("the PIN is asked at a terminal only")
        if self.engine is not None and file_mark(self.paths.identity) != self.identity_mark:
            raise Conflict(
                "the identity (its PIN, passphrase or key) was changed since the process that holds the"
                " profile started: start that again, and then decide"
            )
        guard = PinGuard(self.paths.pin_misses, lambda: int(time.time()))
        guard.ready(verifier)
        guard.check(await self.terminal.console.typed(question, hidden=True), verifier)

    def told_engine(self) -> dict[str, str]:
        """What to do after a change of the identity where another process holds the profile."""
        if not self.paths.control.exists():
            return {}
        return {"running": "what holds the profile knows the identity of before: start it again to approve"}

    @asynccontextmanager
    async def kit(self, *, online: bool, holder: str = "", alone: bool = False) -> AsyncIterator[Advisor]:
        """The open kit; ``online`` also connects its relays. With ``holder``, the name of a command that goes
        on for long, others' commands are taken meanwhile.

        Raises HeldByEngine when another process takes commands for the profile, Conflict instead when the
        command needs it ``alone``.
        """
        async with self.kit_of(None, online=online, holder=holder, alone=alone) as advisor:
            yield advisor

    @asynccontextmanager
    async def kit_of(
        self, identity: Identity | None, *, online: bool, holder: str = "", alone: bool = True
    ) -> AsyncIterator[Advisor]:
        """The same with an identity that is unlocked already."""
        if self.engine is not None:
            if alone:
                raise Unsupported("this runs in a process of its own, which needs the profile alone")
            yield self.engine
            return
        from hive_advisor.cli.later import tell_later
        from hive_advisor.config import load_config

        config = load_config(self.paths.config, self.relays)
        await self._seek_engine(alone)
        mark = file_mark(self.paths.identity)
        identity = identity or self.unlock()
        async with AsyncExitStack() as stack:
            advisor = await self._opened(stack, identity, config, online=online, alone=alone)
            if online:
                stack.push_async_callback(tell_later, self.terminal, advisor)
            if holder:
                from hive_advisor.cli.engine import engine

                await stack.enter_async_context(engine(self, advisor, holder, mark))
            yield advisor

    async def has_profile_alone(self) -> None:
        """Raises Conflict, which says by what, when another process holds the profile and takes commands."""
        await self._seek_engine(alone=True)

    async def _seek_engine(self, alone: bool) -> None:
        if not self.paths.control.exists():
            return
        from hive_advisor.cli.forwarding import in_use, knock

        link = await knock(self.paths.control, self.paths.database)
        if link is None:
            return
        if not alone:
            raise HeldByEngine(link)
        link.channel.abort()
        raise in_use(self.paths, link.welcome)

    async def _opened(
        self,
        stack: AsyncExitStack,
        identity: Identity,
        config: AdvisorConfig,
        *,
        online: bool,
        alone: bool,
    ) -> Advisor:
        """A process that has just taken the profile may be about to listen: it is given a moment."""
        import asyncio

        from hive_advisor.advisor import Advisor, ProfileInUse

        clock = asyncio.get_running_loop().time
        until = clock() + _MOMENT_S
        while True:
            opening = Advisor.open(self.paths, identity, config, online=online, say=self.terminal.progress)
            try:
                return await stack.enter_async_context(opening)
            except ProfileInUse:
                await self._seek_engine(alone)
                if clock() >= until:
                    raise
            await asyncio.sleep(_LOOK_S)


def typed_secret(
    question: str, *, fd: int | None, file: Path | None, names: tuple[str, str], confirm: bool
) -> str:
    """A secret from a file descriptor, a file of mode 0600 or a prompt; ``names`` are the options of the two.

    Raises InvalidParams when none of them can give one.
    """
    by_fd, by_file = names
    if fd is not None:
        try:
            with os.fdopen(fd, closefd=False) as handle:
                return handle.readline().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidParams(f"{by_fd} {fd}: cannot read a line from it") from error
    if file is not None:
        return first_line(read_private(file, by_file), f"{by_file} {file}")
    if not sys.stdin.isatty():
        raise InvalidParams(f"no {question.lower()}: use {by_fd}, {by_file}, or run at a terminal")
    return str(click.prompt(question, hide_input=True, confirmation_prompt=confirm, err=True))


def file_mark(path: Path) -> str:
    """What changes whenever a file is replaced; empty for none."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_dev}:{found.st_ino}:{found.st_mtime_ns}:{found.st_size}"


class HeldByEngine(Exception):
    """The profile is held by a process that takes commands; no error, so nobody takes it for one."""

    def __init__(self, link: Link) -> None:
        super().__init__("the engine runs this")
        self.link = link


pass_settings = click.make_pass_decorator(Settings)


def answered(function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """Run a coroutine subcommand; turn its errors into the output and exit codes of §10."""

    @functools.wraps(function)
    def wrapper(settings: Settings, *args: Any, **kwargs: Any) -> Any:
        if settings.engine is not None:
            # The engine awaits it, and takes its end to where it came from.
            return function(settings, *args, **kwargs)
        # Not with the module: --help and completion start without an event loop.
        import asyncio

        try:
            return asyncio.run(_here_or_there(settings, function(settings, *args, **kwargs)))
        except HiveError as error:
            settings.terminal.fail(error)
        except (KeyboardInterrupt, click.Abort):
            output.interrupted(settings.terminal)
        except BrokenPipeError:
            output.closed_pipe()
        except click.ClickException:
            raise
        except Exception as error:
            if settings.verbose:
                settings.terminal.console.err(traceback.format_exc())
            output.unexpected(settings.terminal, error)

    wrapper.__dict__["answered"] = True
    return wrapper


async def _here_or_there(settings: Settings, steps: Coroutine[Any, Any, Any]) -> Any:
    """Run the command; where a process that takes commands holds the profile, have it run there."""
    ctx = click.get_current_context()
    try:
        return await steps
    except HeldByEngine as held:
        link = held.link
    from hive_advisor.cli.forwarding import forward, named, plain_params

    await forward(settings, link, named(ctx), plain_params(ctx))
