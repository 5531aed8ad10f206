"""Commands of a file, one a line, sent in order (docs/protocol/11-advisor-kit.md §10, decision 0473)."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from hive_shared.canonical import DecodeError, decode_object, encode
from hive_shared.crypto import sha256
from hive_shared.errors import HiveError, InvalidParams

from hive_advisor.domain.names import check_alias
from hive_advisor.domain.schema_help import split_target
from hive_advisor.domain.ticket import ticket_and_item

MAX_LINES: Final = 1_000
MAX_LINE_BYTES: Final = 65_536
_MOST: Final = 4_194_304
_KEYS: Final = ("client", "schema", "action", "params", "note", "if_root", "again", "pay", "ticket")
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class BatchLine(msgspec.Struct, frozen=True):
    """One command of a batch as it was written. ``number`` counts from 1; ``client`` is an alias.
    ``pay``: the node is to pay for it; ``ticket``: ID or ID:ITEM of what pays for it, "" for none named."""

    number: int
    client: str
    schema: str
    action: str
    params: dict[str, Any]
    note: str = ""
    if_root: str | None = None
    again: bool = False
    pay: bool = False
    ticket: str = ""


def parse_batch(text: str, client: str | None = None) -> tuple[BatchLine, ...]:
    """The lines of a batch; ``client`` is whom a line without one is for.

    Raises InvalidParams that names the first line that is wrong.
    """
    if len(text) > _MOST:
        raise InvalidParams(f"the batch has more than {_MOST} characters")
    lines = text.removesuffix("\n").split("\n")
    if not text.strip():
        raise InvalidParams("the batch is empty: write one command a line, a JSON object each")
    if len(lines) > MAX_LINES:
        raise InvalidParams(f"the batch has {len(lines)} lines; at most {MAX_LINES} go together")
    parsed = []
    for number, line in enumerate(lines, 1):
        try:
            parsed.append(_line(number, line, client))
        except HiveError as error:
            raise at_line(number, error) from error
    return tuple(parsed)


def _line(number: int, line: str, client: str | None) -> BatchLine:
    if not line.strip():
        raise InvalidParams("it is empty")
    try:
        document = decode_object(line, max_bytes=MAX_LINE_BYTES)
    except DecodeError as error:
        raise InvalidParams(error.detail) from error
    if unknown := sorted(set(document) - set(_KEYS)):
        raise InvalidParams(f"unknown key {unknown[0][:64]!r}; known are {', '.join(_KEYS)}")
    named = document.get("client", client)
    if named is None:
        raise InvalidParams('no "client": name one in the line, or one for all as in send alice --batch FILE')
    params, again = document.get("params", {}), document.get("again", False)
    if not isinstance(params, dict):
        raise InvalidParams('"params" takes an object')
    if not isinstance(again, bool):
        raise InvalidParams('"again" takes true or false')
    pay = document.get("pay", False)
    if not isinstance(pay, bool):
        raise InvalidParams('"pay" takes true or false')
    ticket = _text(document, "ticket") if "ticket" in document else ""
    if "ticket" in document:
        ticket_and_item(ticket)
        if pay:
            raise InvalidParams("a command is paid by a ticket or by an invoice, not by both")
    root = document.get("if_root")
    schema_id, action = split_target(f"{_text(document, 'schema')}/{_text(document, 'action')}")
    if root is not None:
        root = _text(document, "if_root")
    note = _text(document, "note") if "note" in document else ""
    if not isinstance(named, str):
        raise InvalidParams('"client" takes a text')
    name = check_alias(named)[0]
    return BatchLine(number, name, schema_id, action, params, note, root, again, pay, ticket)


def _text(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise InvalidParams(f'"{key}" is missing' if value is None else f'"{key}" takes a text')
    return value


def at_line(number: int, error: HiveError) -> HiveError:
    """The same error, saying which line it is about."""
    data = {**error.data, "line": number}
    return type(error)(f"line {number}: {error.detail}", reason=error.reason, data=data)


def digest_of(lines: tuple[BatchLine, ...]) -> str:
    """What the batch asks for, as 64 hex digits; how it is spaced makes no difference."""
    return sha256(
        encode(
            [
                {
                    "client": line.client,
                    "schema": line.schema,
                    "action": line.action,
                    "params": line.params,
                    "note": line.note,
                    "if_root": line.if_root,
                    "again": line.again,
                    # Only where they are said: other files keep the id that they had.
                    **({"pay": True} if line.pay else {}),
                    **({"ticket": line.ticket} if line.ticket else {}),
                }
                for line in lines
            ]
        )
    ).hex()


def check_id(batch_id: str) -> str:
    """The id of a batch that a user gave. Raises InvalidParams."""
    if not _ID.fullmatch(batch_id):
        raise InvalidParams(f"batch id {batch_id[:80]!r}: take 1 to 64 letters, digits, dots, dashes")
    return batch_id


def command_id_of(batch_id: str, number: int, client_id: str) -> str:
    """The id of the first command of a line: the same whenever the batch is read again, so that neither we
    nor the node can take it for another."""
    words = "\0".join(("hive-advisor-batch/v1", batch_id, str(number), client_id))
    digits = list(sha256(words.encode()).hex()[:32])
    # Version and variant of a random UUID: the form that every command id has.
    digits[12], digits[16] = "4", "89ab"[int(digits[16], 16) % 4]
    made = "".join(digits)
    return f"{made[:8]}-{made[8:12]}-{made[12:16]}-{made[16:20]}-{made[20:]}"
