"""Receipts as a file for people and other programs (docs/protocol/08-client-and-plugins.md §6 "Receipts",
docs/protocol/02-fleet-management.md §9.2)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.crypto import Secret
from hive_shared.receipts import CONTENT_FIELDS
from hive_shared.sealed_file import read_passphrase, written
from hive_shared.store import Tx

from ..domain.receipt_record import ReceiptRow
from .legacy_receipts import COLUMNS as LEGACY_COLUMNS
from .legacy_receipts import LegacyReceipts
from .ports_commands import Database, ReceiptRows
from .receipt_service import ReceiptService

_HASHES: Final = frozenset(
    {"prev_hash", "receipt_hash", "command_hash", "result_hash", "state_hash_before", "state_hash_after"}
)
COLUMNS: Final = tuple(
    name
    for field in (*CONTENT_FIELDS, "receipt_hash", "node_signature")
    for name in {"created_at": ("timestamp",), "agent_id": ("agent_did", "agent_npub")}.get(field, (field,))
)
"""Names in an exported receipt, in this order: those of 02 §9.1 but for time and agent."""


class ReceiptExport:
    """Writes receipts to new files of the operator's choice."""

    def __init__(
        self,
        db: Database,
        rows: ReceiptRows,
        receipts: ReceiptService,
        legacy: LegacyReceipts,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._db, self._rows, self._receipts, self._random_bytes = db, rows, receipts, random_bytes
        self._legacy = legacy

    async def export(
        self, path: Path, since: int, passphrase_file: Path | None, *, legacy: bool = False
    ) -> tuple[int, str]:
        """Receipts written at or after `since` (Unix s), oldest first; how many, and the file's SHA-256.

        A name that ends in `.csv` gives CSV, any other JSON. With a passphrase file the content is sealed.
        With `legacy` those that came from the earlier single plugin instead, as they were there. Raises
        InvalidParams when the path is taken or cannot be written.
        """
        passphrase = read_passphrase(passphrase_file) if passphrase_file else None
        return await self._db.read(lambda tx: self._write(tx, path, since, passphrase, legacy))

    def _write(
        self, tx: Tx, path: Path, since: int, passphrase: Secret | None, legacy: bool
    ) -> tuple[int, str]:
        documents = self._legacy.documents(tx, since) if legacy else self._documents(tx, since)
        columns = LEGACY_COLUMNS if legacy else COLUMNS
        with written(path, passphrase, self._random_bytes) as out:
            pieces = 0
            for text in _texts(documents, columns, path.suffix == ".csv"):
                out.write(text.encode())
                pieces += 1
        # The first and the last piece are the frame.
        return pieces - 2, out.sha256

    def _documents(self, tx: Tx, since: int) -> Iterator[dict[str, Any]]:
        end = self._receipts.end(tx).receipt_id
        for row in self._rows.walk(tx, 1, end):
            if row.created_at >= since:
                yield exported(row, self._receipts.document(row))


def exported(row: ReceiptRow, document: dict[str, JsonValue]) -> dict[str, Any]:
    """A receipt as it stands in an export: ISO time, the agent by kind of id, hashes with `sha256:`."""
    from hive_shared.nostr.keys import npub_encode

    shown: dict[str, Any] = {}
    for name in (*CONTENT_FIELDS, "receipt_hash", "node_signature"):
        if name not in document:
            continue
        value = document[name]
        if name == "created_at":
            shown["timestamp"] = datetime.fromtimestamp(row.created_at, UTC).isoformat()
        elif name == "agent_id":
            key = str(value).removeprefix("did:nostr:")
            if key != value and len(key) == 64:
                shown["agent_npub"] = npub_encode(key)
            else:
                shown["agent_did"] = value
        else:
            shown[name] = f"sha256:{value}" if name in _HASHES else value
    return shown


def _texts(documents: Iterator[dict[str, Any]], columns: Sequence[str], as_csv: bool) -> Iterator[str]:
    """Head, one piece a receipt, end."""
    if as_csv:
        yield _csv_line(columns)
        for document in documents:
            yield _csv_line([_cell(document.get(name)) for name in columns])
        yield ""
        return
    yield '{"v":1,"receipts":['
    separator = "\n"
    for document in documents:
        yield separator + json.dumps(document, ensure_ascii=False)
        separator = ",\n"
    yield "\n]}\n"


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # What an advisor wrote must not become a formula in the operator's spreadsheet.
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _csv_line(cells: Any) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()
