"""The node's built-in RPC commands: declared next to their code, collected here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hive_devnet.embedded.params import Param, usage

if TYPE_CHECKING:
    from hive_devnet.embedded.node import EmbeddedNode

Result = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One call of a command: the node it runs on, parsed parameters, and the caller's request id.

    `check_only` marks the `check` command: validate, change nothing.
    """

    node: EmbeddedNode
    args: dict[str, Any]
    raw: Any
    request_id: str
    check_only: bool
    tell: Callable[[str, str], None]

    def __getitem__(self, name: str) -> Any:
        return self.args[name]


Handler = Callable[[Call], Awaitable[Result]]


@dataclass(frozen=True)
class Command:
    """A built-in command. `checks` commands do their own validation under `check`."""

    name: str
    params: tuple[Param, ...]
    handler: Handler
    allow_extra: bool = False
    checks: bool = False
    deprecated: bool = False
    usage_text: str | None = None

    @property
    def usage(self) -> str:
        """The usage as `help` shows it."""
        return self.usage_text if self.usage_text is not None else usage(self.params)


COMMANDS: dict[str, Command] = {}


def command(
    name: str,
    *params: Param,
    allow_extra: bool = False,
    checks: bool = False,
    deprecated: bool = False,
    usage_text: str | None = None,
) -> Callable[[Handler], Handler]:
    """Registers an async function as the RPC command `name`."""

    def register(handler: Handler) -> Handler:
        if name in COMMANDS:
            raise ValueError(f"command {name} is declared twice")
        COMMANDS[name] = Command(name, params, handler, allow_extra, checks, deprecated, usage_text)
        return handler

    return register
