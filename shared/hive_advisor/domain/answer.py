"""What an answer says about a command (docs/protocol/11-advisor-kit.md §5.3)."""

from __future__ import annotations

from typing import Any

import msgspec
from hive_shared.errors import InvalidParams

from hive_advisor.domain.command_machine import CommandEvent, event_of_answer


class Answer(msgspec.Struct, frozen=True):
    """A response envelope whose signature was verified, taken apart."""

    event: CommandEvent
    status: int
    slug: str | None
    sentence: str
    challenge: str | None
    expires: int | None
    retry_after: int | None
    expected_min: int | None
    seq: int
    timestamp: int
    receipt: dict[str, Any] | None
    result: Any
    document: dict[str, Any]


def read_answer(document: dict[str, Any]) -> Answer:
    """Take a verified response apart. Raises InvalidParams when its shape is not that of §6.1 of sheet 02."""
    status = document.get("status")
    if not isinstance(status, int) or isinstance(status, bool):
        raise InvalidParams("the answer has no status")
    error = document.get("error", {})
    if not isinstance(error, dict):
        raise InvalidParams("the answer's error is not an object")
    given = error.get("data")
    data: dict[str, Any] = given if isinstance(given, dict) else {}
    slug = str(error["slug"]) if "slug" in error else None
    try:
        event = event_of_answer(status, slug)
    except ValueError as bad:
        raise InvalidParams(f"the answer's {bad}") from bad
    receipt = document.get("receipt")
    return Answer(
        event=event,
        status=status,
        slug=slug,
        sentence=str(error.get("message", "")),
        challenge=_text(data.get("challenge")),
        expires=number_of(data.get("expires")),
        retry_after=number_of(error.get("retry_after")),
        expected_min=number_of(data.get("expected_min")),
        seq=number_of(document.get("seq")) or 0,
        timestamp=number_of(document.get("timestamp")) or 0,
        receipt=receipt if isinstance(receipt, dict) else None,
        result=document.get("result"),
        document=document,
    )


def number_of(value: object) -> int | None:
    """A whole number as nodes write it, as JSON's or, where it is large, as its digits; None for anything
    else."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
