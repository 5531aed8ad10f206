"""What the command line prints and how it exits (docs/protocol/11-advisor-kit.md §10).

Data goes to stdout, prompts and progress to stderr. Text that came from a node or a relay is cleaned first.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn

import click
from hive_shared.errors import HiveError, Internal, InvalidParams

from hive_advisor.cli.console import Console, OwnStreams
from hive_advisor.domain.cleaning import clean_value

SCHEMA = "hive-advisor/1"

OK, INTERNAL, USAGE, NOT_FOUND, REFUSED, PENDING = 0, 1, 2, 3, 4, 5
TRANSPORT, VERIFICATION, PAYMENT, LOCKED, PARTIAL, UNKNOWN, INTERRUPTED = 6, 7, 8, 9, 10, 11, 130

_BY_CODE: Mapping[int, int] = {
    -32602: USAGE,
    4001: NOT_FOUND,
    4002: NOT_FOUND,
    4005: PENDING,
    4006: PAYMENT,
    4014: PAYMENT,
    4010: TRANSPORT,
    4017: TRANSPORT,
    4020: INTERNAL,
}


@dataclass
class Terminal:
    """How this call wants its output, and where it goes."""

    as_json: bool = False
    quiet: bool = False
    console: Console = field(default_factory=OwnStreams)

    def progress(self, text: str) -> None:
        """A line for the human, on stderr."""
        if not self.quiet:
            self.console.err(text)

    def show(self, data: Mapping[str, Any], exit_code: int = OK) -> NoReturn:
        """Print the result and leave with ``exit_code``."""
        cleaned = clean_value(data)
        if self.as_json:
            self.console.out(
                json.dumps({"schema": SCHEMA, "ok": exit_code == OK, "data": cleaned}, ensure_ascii=False)
            )
        else:
            self.console.out(as_text(cleaned))
        sys.exit(exit_code)

    def line(self, data: Mapping[str, Any]) -> None:
        """One row of a stream: a JSON object on a line of its own, at once."""
        self.console.out(json.dumps(clean_value(data), ensure_ascii=False))

    def fail(self, error: HiveError, exit_code: int | None = None) -> NoReturn:
        """Print a refusal and leave with the exit code of its class."""
        code = exit_code if exit_code is not None else exit_code_of(error)
        if self.as_json:
            body = clean_value(error_body(error))
            self.console.out(json.dumps({"schema": SCHEMA, "ok": False, "error": body}, ensure_ascii=False))
        else:
            self.console.err(f"error: {clean_value(str(error))}")
        sys.exit(code)


def error_body(error: HiveError) -> dict[str, Any]:
    """An error as programs see it."""
    return {"code": error.code, "slug": error.symbol, "message": error.detail, "data": error.data}


def plain(value: object) -> str:
    """A value of others as text for people, cleaned."""
    return str(clean_value(str(value)))


def exit_code_of(error: HiveError) -> int:
    """Exit code of §10 for an error of the common tree."""
    from hive_advisor.identity import Locked
    from hive_advisor.services.receipts import VerificationFailed

    if isinstance(error, Locked):
        return LOCKED
    if isinstance(error, VerificationFailed):
        return VERIFICATION
    return _BY_CODE.get(error.code, REFUSED)


def unexpected(terminal: Terminal, error: BaseException) -> NoReturn:
    """A defect of ours: one line without secrets; ``-v`` shows the traceback."""
    terminal.fail(Internal(f"{type(error).__name__}; run again with -v and report it"), INTERNAL)


def misused(error: click.ClickException, *, as_json: bool) -> NoReturn:
    """A command line that click refused: its words for people, an error object for programs."""
    said = error.format_message()
    if isinstance(error, click.BadParameter) and said.endswith("is not a valid integer range."):
        said = said.replace("is not a valid integer range.", "is not a whole number.")
        error = click.UsageError(said, error.ctx)
    if as_json and not isinstance(error, click.exceptions.NoArgsIsHelpError):
        Terminal(as_json=True).fail(InvalidParams(said, reason="usage"), error.exit_code)
    error.show()
    sys.exit(error.exit_code)


def interrupted(terminal: Terminal) -> NoReturn:
    """Ctrl-C, or a prompt that was closed: what was sent stays recorded."""
    terminal.progress("interrupted; what was sent stays recorded: see 'hive-advisor command list'")
    sys.exit(INTERRUPTED)


def closed_pipe() -> NoReturn:
    """Nobody reads our answer any more; what was done is recorded all the same."""
    # Python would complain about the same pipe once more when it flushes at the end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(INTERNAL)


def moment(seconds: int | None) -> str:
    """Unix seconds as UTC text for people."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if seconds else "-"


def as_text(value: Any, indent: str = "") -> str:
    """A JSON value as lines for people; lists of rows become tables."""
    if isinstance(value, Mapping):
        items = value.get("items")
        if (
            isinstance(items, Sequence)
            and not isinstance(items, str)
            and set(value) <= {"items", "count", "note"}
        ):
            table = _table(items) if items else f"{indent}nothing"
            return f"{table}\n{value['note']}" if value.get("note") else table
        return "\n".join(_field(str(key), item, indent) for key, item in value.items())
    return f"{indent}{value}"


def _field(key: str, value: Any, indent: str) -> str:
    if isinstance(value, Mapping) and value:
        return f"{indent}{key}:\n{as_text(value, indent + '  ')}"
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return f"{indent}{key}:\n" + "\n".join(
            f"{indent}  - {json.dumps(item, ensure_ascii=False)}" for item in value
        )
    return f"{indent}{key}: {_cell(value)}"


def _table(rows: Sequence[Any]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
