"""Commands of the kit as typed with --json on a profile that is open in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import click
from hive_advisor.advisor import Advisor
from hive_advisor.cli.context import Settings
from hive_advisor.cli.output import Terminal, error_body, exit_code_of
from hive_advisor.paths import ProfilePaths
from hive_shared.errors import HiveError


class Collected:
    """The console of a script: nobody is there to ask."""

    interactive = False

    def __init__(self, stdin: str = "") -> None:
        self.stdin, self.said, self.progress = stdin, "", ""

    def out(self, text: str) -> None:
        self.said += text

    def err(self, text: str) -> None:
        self.progress += text

    async def text_of(self, source: str) -> str:
        assert source == "-"
        return self.stdin


@dataclass
class Refused(Exception):
    """The exit code and the error object of a refusal."""

    code: int
    error: dict[str, Any]


async def typed(
    group: click.Group,
    words: tuple[str, ...],
    kit: Advisor,
    paths: ProfilePaths,
    *,
    yes: bool = True,
    stdin: str = "",
    ends: int = 0,
) -> Any:
    """The data that `words` of a group print; they have to exit with `ends`. Raises Refused."""
    console = Collected(stdin)
    settings = Settings(paths, Terminal(True, True, console), 60, 20, yes, False, None, None, engine=kit)
    try:
        await group.main([*words], standalone_mode=False, obj=settings)
    except click.ClickException as error:
        raise Refused(error.exit_code, {"message": error.format_message()}) from None
    except HiveError as error:
        raise Refused(exit_code_of(error), error_body(error)) from None
    except SystemExit as ended:
        assert ended.code == ends, console.said
    return json.loads(console.said)["data"]
