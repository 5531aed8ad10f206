"""Rows of the earlier single plugin's database: which tables are ours, what a row becomes here
(docs/protocol/08-client-and-plugins.md §8.3).

A row is kept whole, as canonical JSON of its columns. What JSON cannot hold exactly stands in an object of
one name: `{"integer": "9007199254740993"}`, `{"real": "0x1.8p+0"}`, `{"blob": "00ff"}` and, for text that is
not UTF-8, `{"text": "ff00"}` (hex).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec
from hive_shared.canonical import JsonValue, encode

RECEIPTS: Final = "management_receipts"
CREDENTIALS: Final = "management_credentials"
STATE: Final = "nostr_state"
PRIVATE_KEY: Final = "config:privkey"
PUBLIC_KEY: Final = "config:pubkey"
MAX_KEY: Final = 256
"""Characters of an id that is taken."""
_EXACT: Final = 1 << 53

Cell = int | float | bytes | None
"""A value as SQLite has it; text comes as `Text`."""


class Text(msgspec.Struct, frozen=True):
    """Text of the source, in the bytes it has there."""

    raw: bytes

    def read(self) -> str | None:
        """The text, or None when it is not UTF-8."""
        try:
            return self.raw.decode("utf-8")
        except UnicodeDecodeError:
            return None


class LegacyTable(msgspec.Struct, frozen=True):
    """A table we take: its id column, the columns it must have, and what becomes of its rows."""

    name: str
    key: str
    columns: frozenset[str]
    becomes: Literal["state", "receipt", "credential", "market"]


def _table(
    name: str, becomes: Literal["state", "receipt", "credential", "market"], *cols: str
) -> LegacyTable:
    return LegacyTable(name, cols[0], frozenset(cols), becomes)


TABLES: Final = (
    _table(STATE, "state", "key", "value"),
    _table(
        CREDENTIALS,
        "credential",
        *("credential_id", "issuer_id", "agent_id", "node_id", "tier", "allowed_schemas_json"),
        *("constraints_json", "valid_from", "valid_until", "signature", "revoked_at"),
    ),
    _table(
        RECEIPTS,
        "receipt",
        *("receipt_id", "credential_id", "schema_id", "action", "params_json", "danger_score"),
        *("result_json", "state_hash_before", "state_hash_after", "executed_at", "executor_signature"),
    ),
    _table("marketplace_profiles", "market", "advisor_did", "profile_json"),
    _table("marketplace_contracts", "market", "contract_id", "advisor_did", "status"),
    _table("marketplace_trials", "market", "trial_id", "contract_id"),
    _table("liquidity_offers", "market", "offer_id", "provider_id", "status"),
    _table("liquidity_leases", "market", "lease_id", "provider_id", "client_id", "status"),
    _table("liquidity_heartbeats", "market", "heartbeat_id", "lease_id"),
)
"""In the order of importing."""

MARKER: Final = "hive_members"
"""A table that the earlier single plugin always has and no other of its family."""


class LegacyRow(msgspec.Struct, frozen=True):
    """One row as it is kept: its id, canonical JSON and that text's SHA-256."""

    key: str
    text: str
    digest: str
    cells: Mapping[str, Cell | Text]

    def text_of(self, column: str) -> str | None:
        """A column that is text, else None."""
        cell = self.cells.get(column)
        return cell.read() if isinstance(cell, Text) else None

    def time_of(self, column: str) -> int | None:
        """A column that is a time (Unix s) JSON can hold, else None."""
        cell = self.cells.get(column)
        return cell if isinstance(cell, int) and 0 <= cell < _EXACT else None


def legacy_row(table: LegacyTable, names: Sequence[str], cells: Sequence[Cell | Text]) -> LegacyRow | None:
    """The row as it is kept; None when it has no id that could find it again: text of 1 to 256 characters."""
    found = dict(zip(names, cells, strict=True))
    key = found.get(table.key)
    name = key.read() if isinstance(key, Text) else None
    if not name or len(name) > MAX_KEY:
        return None
    raw = encode({column: _json(cell) for column, cell in found.items()})
    return LegacyRow(name, raw.decode(), hashlib.sha256(raw).hexdigest(), found)


def _json(cell: Cell | Text) -> JsonValue:
    if isinstance(cell, Text):
        text = cell.read()
        return {"text": cell.raw.hex()} if text is None else text
    if isinstance(cell, bytes):
        return {"blob": cell.hex()}
    if isinstance(cell, float):
        # SQLite has no NaN (it stores NULL) but infinities; hex() writes both exactly.
        return {"real": cell.hex()}
    if isinstance(cell, int) and not -_EXACT < cell < _EXACT:
        return {"integer": str(cell)}
    return cell


@dataclass(slots=True)
class TableReport:
    """What became of one table. `skipped` rows are counted by reason."""

    table: str
    read: int = 0
    imported: int = 0
    why: dict[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def skipped(self) -> int:
        """Rows that were read and not taken in."""
        return self.read - self.imported

    def skip(self, reason: str, rows: int = 1) -> None:
        """Count rows that are not taken in."""
        self.why[reason] = self.why.get(reason, 0) + rows

    def to_doc(self) -> dict[str, Any]:
        """{table, read, imported, skipped, reason} of docs/protocol/08 §8.3."""
        counted = [f"{count} {reason}" for reason, count in self.why.items()]
        return {
            "table": self.table,
            "read": self.read,
            "imported": self.imported,
            "skipped": self.skipped,
            "reason": "; ".join([*counted, *([self.note] if self.note else [])]),
        }
