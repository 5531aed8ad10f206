"""Telemetry as the kit keeps it (docs/protocol/11-advisor-kit.md §7, §12)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from hive_shared.errors import InvalidParams
from hive_shared.registry.control import ACTION_LOG_ENTRY, ACTION_LOG_PAGE, TELEMETRY_SUBSCRIBED


class Figure(msgspec.Struct, frozen=True):
    """One metric of one push. ``ts`` is the node's time of measuring, Unix seconds."""

    client_id: str
    metric: str
    ts: int
    value: Any
    sub_id: str
    seq: int


class Followed(msgspec.Struct, frozen=True):
    """A subscription of ours. ``span_s`` is how long it was asked for; from ``renew_at`` on it is renewed."""

    sub_id: str
    client_id: str
    metrics: tuple[str, ...]
    interval_s: int
    span_s: int
    until: int
    renew_at: int


def renewal(now: int, until: int) -> int:
    """When what runs from now on is renewed: after 80 % of its time."""
    return now + (until - now) * 4 // 5


def subscribed(result: Mapping[str, Any]) -> tuple[str, int]:
    """The subscription that a node says it made, and until when. Raises InvalidParams for anything else."""
    parsed: dict[str, Any] = TELEMETRY_SUBSCRIBED.parse(
        {name: result[name] for name in ("sub_id", "until") if name in result}
    )
    return parsed["sub_id"], parsed["until"]


class LogEntry(msgspec.Struct, frozen=True):
    """A receipt in short, as the node told of it by the action log. ``rest`` is what else it said of it."""

    client_id: str
    receipt_id: int
    receipt_hash: str
    at: int
    schema: str
    action: str
    status: str
    rest: Mapping[str, Any]


def log_entries(client_id: str, value: object) -> tuple[list[LogEntry], int]:
    """The entries of a push of the action log and the receipt it goes up to.

    Raises InvalidParams for what is no such page, or entries out of order.
    """
    if not isinstance(value, dict):
        raise InvalidParams("an action log that is no object")
    page: dict[str, Any] = ACTION_LOG_PAGE.parse(value)
    entries, last = [], int(page["after"])
    for each in page["entries"]:
        said: dict[str, Any] = ACTION_LOG_ENTRY.parse(each)
        if not last < said["receipt_id"] <= page["up_to"]:
            raise InvalidParams("an action log whose receipts are out of order")
        last = said["receipt_id"]
        main = {name: said.pop(name) for name in _MAIN}
        entries.append(LogEntry(client_id, **main, rest=said))
    return entries, int(page["up_to"])


_MAIN = ("receipt_id", "receipt_hash", "at", "schema", "action", "status")
