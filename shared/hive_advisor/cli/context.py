"""What every subcommand needs: paths, settings, the unlocked identity, an open kit."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from hive_shared.errors import ConfirmationRequired, HiveError, InvalidParams

from hive_advisor.cli import output
from hive_advisor.paths import ProfilePaths

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

    def passphrase(self, confirm: bool = False) -> str:
        """From ``--passphrase-fd``, ``HIVE_ADVISOR_PASSPHRASE_FILE``, or a prompt; never from argv.

        Raises InvalidParams when none of them can give one.
        """
        if self.passphrase_fd is not None:
            with os.fdopen(self.passphrase_fd, closefd=False) as handle:
                return handle.readline().rstrip("\r\n")
        file = os.environ.get("HIVE_ADVISOR_PASSPHRASE_FILE")
        if file:
            path = Path(file)
            try:
                if path.stat().st_mode & 0o077:
                    raise InvalidParams(f"{path} can be read by others; run: chmod 600 {path}")
                return path.read_text().splitlines()[0]
            except (OSError, IndexError) as error:
                raise InvalidParams(
                    f"HIVE_ADVISOR_PASSPHRASE_FILE: cannot read a line from {path}"
                ) from error
        if not sys.stdin.isatty():
            raise InvalidParams(
                "no passphrase: use --passphrase-fd, HIVE_ADVISOR_PASSPHRASE_FILE, or run at a terminal"
            )
        return str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))

    def unlock(self) -> Identity:
        """The identity of the profile. Raises NotFound, Locked."""
        return self.unlock_with_passphrase()[0]

    def unlock_with_passphrase(self) -> tuple[Identity, str]:
        """The identity and the passphrase that opened it. Raises NotFound, Locked."""
        from hive_advisor.identity import Locked, UnlockThrottle, read_identity, read_public

        read_public(self.paths.identity)
        throttle = UnlockThrottle(self.paths.unlock_failures, lambda: int(time.time()))
        throttle.check()
        try:
            passphrase = self.passphrase()
            identity = read_identity(self.paths.identity, passphrase)
        except Locked:
            throttle.failed()
            raise
        throttle.succeeded()
        return identity, passphrase

    def ask_pin(self, question: str, verifier: str | None) -> None:
        """Ask for the approval PIN at the terminal. Raises Locked, Conflict (none set)."""
        from hive_advisor.pin import PinGuard

        if not sys.stdin.isatty():
            raise ConfirmationRequired("the PIN is asked at a terminal only")
        guard = PinGuard(self.paths.pin_misses, lambda: int(time.time()))
        guard.ready(verifier)
        guard.check(str(click.prompt(question, hide_input=True, err=True)), verifier)

    @asynccontextmanager
    async def kit(self, *, online: bool) -> AsyncIterator[Advisor]:
        """The open kit; ``online`` also connects its relays."""
        from hive_advisor.advisor import Advisor
        from hive_advisor.config import load_config

        config = load_config(self.paths.config, self.relays)
        identity = self.unlock()
        async with Advisor.open(
            self.paths, identity, config, online=online, say=self.terminal.progress
        ) as advisor:
            yield advisor


pass_settings = click.make_pass_decorator(Settings)


def answered(function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """Run a coroutine subcommand; turn its errors into the output and exit codes of §10."""

    @functools.wraps(function)
    def wrapper(settings: Settings, *args: Any, **kwargs: Any) -> Any:
        try:
            return asyncio.run(function(settings, *args, **kwargs))
        except HiveError as error:
            settings.terminal.fail(error)
        except KeyboardInterrupt:
            settings.terminal.progress(
                "interrupted; what was sent stays recorded: see 'hive-advisor command list'"
            )
            sys.exit(output.INTERRUPTED)
        except Exception as error:
            if settings.verbose:
                traceback.print_exc()
            output.unexpected(settings.terminal, error)

    return wrapper
