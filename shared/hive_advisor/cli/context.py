"""What every subcommand needs: paths, settings, the unlocked identity, an open kit."""

from __future__ import annotations

import functools
import os
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from hive_shared.errors import ConfirmationRequired, HiveError, InvalidParams

from hive_advisor.cli import output
from hive_advisor.paths import ProfilePaths
from hive_advisor.private_files import first_line, read_private

if TYPE_CHECKING:
    from hive_advisor.advisor import Advisor
    from hive_advisor.identity import Identity

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
        """The identity and the passphrase that opened it. Raises NotFound, Locked."""
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
        guard = PinGuard(self.paths.pin_misses, lambda: int(time.time()))
        guard.ready(verifier)
        guard.check(await self.terminal.console.typed(question, hidden=True), verifier)

    @asynccontextmanager
    async def kit(self, *, online: bool) -> AsyncIterator[Advisor]:
        """The open kit; ``online`` also connects its relays."""
        async with self.kit_of(None, online=online) as advisor:
            yield advisor

    @asynccontextmanager
    async def kit_of(self, identity: Identity | None, *, online: bool) -> AsyncIterator[Advisor]:
        """The same with an identity that is unlocked already."""
        from hive_advisor.advisor import Advisor
        from hive_advisor.cli.later import tell_later
        from hive_advisor.config import load_config

        config = load_config(self.paths.config, self.relays)
        identity = identity or self.unlock()
        async with Advisor.open(
            self.paths, identity, config, online=online, say=self.terminal.progress
        ) as advisor:
            try:
                yield advisor
            finally:
                if online:
                    await tell_later(self.terminal, advisor)


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


pass_settings = click.make_pass_decorator(Settings)


def answered(function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """Run a coroutine subcommand; turn its errors into the output and exit codes of §10."""

    @functools.wraps(function)
    def wrapper(settings: Settings, *args: Any, **kwargs: Any) -> Any:
        # Not with the module: --help and completion start without an event loop.
        import asyncio

        try:
            return asyncio.run(function(settings, *args, **kwargs))
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
                traceback.print_exc()
            output.unexpected(settings.terminal, error)

    return wrapper
