"""Backups of cl-hive-comms: their parts, lines and manifest (docs/protocol/08-client-and-plugins.md §8.4).

The content of a backup file is one JSON object a line: `{"head": ..}`, then `{"part", "table", "row"}` for
every row, then `{"manifest": ..}` with the count and the SHA-256 of each part's lines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue, decode_object, encode
from hive_shared.errors import InvalidParams

KIND: Final = "hive-comms-backup"
VERSION: Final = 1
TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "identity": ("keys",),
    "credentials": (
        *("comms_advisors", "comms_credentials", "comms_replay"),
        *(
            "comms_gossip_credentials",
            "comms_trust_days",
            "marketplace_trials",
            "marketplace_trial_scopes",
            "comms_state",
        ),
        *("marketplace_contracts", "marketplace_threads", "marketplace_messages"),
        "marketplace_blocklist",
    ),
    "receipts": (
        *("management_receipts", "comms_receipt_roots", "comms_receipt_acks"),
        *("comms_migrations", "comms_legacy_receipts", "comms_legacy_rows"),
    ),
    "escrow": (
        *("comms_cashu_proofs", "comms_cashu_counters", "comms_cashu_ops", "comms_cashu_locks"),
        *("comms_escrow_tickets", "comms_escrow_items", "comms_escrow_secrets", "comms_escrow_disputes"),
        "comms_state",
    ),
    "payments": ("comms_payments", "comms_subscriptions"),
    "policy": ("comms_policy", "comms_policy_rules", "comms_policy_overrides"),
    "aliases": ("comms_aliases",),
    "channels": ("comms_saved_channel", "comms_timers", "comms_state"),
}
"""What each part holds. `keys` are those of nostr_state, readable without this node's seed; what is left out,
and why, stands in docs/decisions/0292-what-a-backup-holds.md."""
PARTS: Final = tuple(TABLES)
"""In the order of restoring: receipts need the keys that signed them."""
_MAX_LINE: Final = 32 << 20
"""Bytes: a row of the earlier plugin, escaped twice."""


def chosen(components: Sequence[str], skip: Sequence[str] = ()) -> tuple[str, ...]:
    """The parts meant by two lists of names; no components means all. Raises InvalidParams."""
    for name in (*components, *skip):
        if name not in PARTS:
            raise InvalidParams(f"{name[:40]!a} is no part of a backup; there are {', '.join(PARTS)}")
    found = tuple(part for part in PARTS if (not components or part in components) and part not in skip)
    if not found:
        raise InvalidParams("nothing is left of the parts after skip")
    return found


class Head(msgspec.Struct, frozen=True):
    """What a backup is of: node, network, time (Unix s), the node's npub then."""

    node_id: str
    network: str
    npub: str
    created_at: int
    version: str

    def to_line(self) -> bytes:
        """The first line."""
        doc: dict[str, JsonValue] = {
            "kind": KIND,
            "v": VERSION,
            "node_id": self.node_id,
            "network": self.network,
            "npub": self.npub,
            "created_at": self.created_at,
            "version": self.version,
        }
        return encode({"head": doc}) + b"\n"


@dataclass(slots=True)
class Tally:
    """Count and hash of a part's lines."""

    count: int = 0
    hash: Any = field(default_factory=hashlib.sha256)

    def add(self, line: bytes) -> None:
        """One more line, without its end."""
        self.count += 1
        self.hash.update(line + b"\n")

    def to_doc(self) -> dict[str, JsonValue]:
        """As it stands in the manifest."""
        return {"count": self.count, "sha256": self.hash.hexdigest()}


class Row(msgspec.Struct, frozen=True):
    """One stored row of a part."""

    part: str
    table: str
    values: dict[str, Any]


def row_line(row: Row) -> bytes:
    """A row's line, without its end."""
    return encode({"part": row.part, "table": row.table, "row": row.values})


def manifest_line(tallies: Mapping[str, Tally]) -> bytes:
    """The last line."""
    return encode({"manifest": {part: tally.to_doc() for part, tally in tallies.items()}}) + b"\n"


class Reading:
    """The rows of a backup as they are read; `head` is there at once, `tallies` when `rows` has ended."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        doc = _object(next(lines, b"{}")).get("head")
        if not isinstance(doc, dict) or doc.get("kind") != KIND:
            raise InvalidParams("the file is sealed, but no backup of this plugin")
        if doc.get("v") != VERSION:
            raise InvalidParams(f"the backup has version {doc.get('v')!a}, this plugin reads {VERSION}")
        try:
            self.head = Head(
                str(doc["node_id"]),
                str(doc["network"]),
                str(doc["npub"]),
                int(doc["created_at"]),  # type: ignore[arg-type]
                str(doc["version"]),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise InvalidParams(f"the head of the backup is not whole: {error}") from None
        self.tallies: dict[str, Tally] = {}

    def rows(self) -> Iterator[Row]:
        """Every row. Raises InvalidParams when the manifest does not say what was read."""
        for line in self._lines:
            doc = _object(line)
            if "manifest" in doc:
                said = {part: tally.to_doc() for part, tally in self.tallies.items()}
                if doc["manifest"] != said or next(self._lines, None) is not None:
                    raise InvalidParams("the backup's content does not agree with its manifest")
                return
            part, table, values = doc.get("part"), doc.get("table"), doc.get("row")
            if not isinstance(part, str) or not isinstance(table, str) or not isinstance(values, dict):
                raise InvalidParams("a line of the backup is no row")
            self.tallies.setdefault(part, Tally()).add(line)
            yield Row(part, table, values)
        raise InvalidParams("the backup ends without its manifest")


def _object(line: bytes) -> dict[str, JsonValue]:
    return decode_object(line, max_bytes=_MAX_LINE, max_nodes=100_000, floats=True)
