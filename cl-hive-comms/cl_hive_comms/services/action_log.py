"""The action log of an agent: its receipts in short, as they are written
(docs/protocol/02-fleet-management.md §10)."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from hive_shared.canonical import JsonValue, decode_object
from hive_shared.store import Tx

from ..domain.receipt_record import ReceiptRow
from ..domain.telemetry import Subscription
from .ports_commands import ReceiptRows

PAGE: Final = 50
"""Entries of a push."""


class StreamPage(NamedTuple):
    """What a push of a stream says, how far it tells, and whether there is more to tell."""

    value: dict[str, JsonValue]
    told_to: int
    more: bool


class ActionLog:
    """Reads the log out of the receipt chain, which holds no secrets."""

    def __init__(self, receipts: ReceiptRows) -> None:
        self._receipts = receipts

    def head(self, tx: Tx, row: Subscription) -> int:
        """The newest receipt, 0 before the first: a log begins after it."""
        head = self._receipts.head(tx)
        return 0 if head is None else head.receipt_id

    def waiting(self, tx: Tx, row: Subscription) -> bool:
        """Whether there is something to tell."""
        return bool(self._receipts.of_advisor(tx, row.advisor_id, row.told_to, 1))

    def page(self, tx: Tx, row: Subscription) -> StreamPage:
        """The next entries, the oldest first; without any it says so."""
        found = self._receipts.of_advisor(tx, row.advisor_id, row.told_to, PAGE + 1)
        shown = found[:PAGE]
        told_to = shown[-1].receipt_id if shown else row.told_to
        entries: list[JsonValue] = [entry(each) for each in shown]
        more = len(found) > PAGE
        return StreamPage(
            {"after": row.told_to, "up_to": told_to, "entries": entries, "more": more}, told_to, more
        )


def entry(row: ReceiptRow) -> dict[str, JsonValue]:
    """A receipt in short: what was asked and how it ended, without parameters, results and free text."""
    said: dict[str, Any] = decode_object(row.document, floats=True)
    danger, error, result = said.get("danger"), said.get("error"), said.get("result")
    told: dict[str, JsonValue] = {
        "receipt_id": row.receipt_id,
        "receipt_hash": row.receipt_hash,
        "at": row.created_at,
        "schema": row.schema_id,
        "action": row.action,
        "status": row.status,
    }
    more: dict[str, JsonValue] = {
        "command_id": row.command_id,
        "credential_id": row.credential_id,
        "danger": danger.get("total") if isinstance(danger, dict) else None,
        "slug": error.get("slug") if isinstance(error, dict) else None,
        # Of refusals and reads that share a receipt.
        "count": result.get("count") if isinstance(result, dict) else None,
    }
    return told | {name: value for name, value in more.items() if value is not None}
