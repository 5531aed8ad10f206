"""Who sits at the other end of a command: what is typed, what is shown (docs/protocol/11-advisor-kit.md §10).

A command that runs here talks to this process's streams; one that another process sent to the engine talks to
the streams of that process (`engine.py`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol

import click
from hive_shared.errors import InvalidParams


class Console(Protocol):
    """The streams of the person or script that gave the command."""

    @property
    def interactive(self) -> bool:
        """Whether a human can be asked: standard input is a terminal."""
        ...

    def out(self, text: str) -> None:
        """Data, a line of standard output, at once."""
        ...

    def err(self, text: str) -> None:
        """For the human, a line of standard error."""
        ...

    async def typed(self, question: str, *, hidden: bool = False) -> str:
        """What the human types. Raises click.Abort when they break off."""
        ...

    async def agrees(self, question: str) -> bool:
        """Yes or no. Raises click.Abort when they break off."""
        ...

    async def text_of(self, source: str) -> str:
        """All of a file, or of standard input for ``-``, however often it is asked for.

        Raises InvalidParams when it cannot be read.
        """
        ...


class OwnStreams:
    """The streams of this process."""

    def __init__(self) -> None:
        self._input: str | None = None

    @property
    def interactive(self) -> bool:
        return sys.stdin.isatty()

    def out(self, text: str) -> None:
        click.echo(text)
        sys.stdout.flush()

    def err(self, text: str) -> None:
        click.echo(text, err=True)

    async def typed(self, question: str, *, hidden: bool = False) -> str:
        return str(click.prompt(question, hide_input=hidden, err=True))

    async def agrees(self, question: str) -> bool:
        return click.confirm(question, err=True)

    async def text_of(self, source: str) -> str:
        try:
            if source != "-":
                return Path(source).read_text()
            if self._input is None:
                self._input = sys.stdin.read()
            return self._input
        except OSError as error:
            raise InvalidParams(f"cannot read {source}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InvalidParams(f"cannot read {source}: it is not text") from error
