"""Receipts of the earlier single plugin as they are kept here, in segments behind signed checkpoints
(docs/protocol/08-client-and-plugins.md §8.3)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Final

import msgspec
from hive_shared import crypto, receipts
from hive_shared.canonical import JsonValue, decode_object

LEGACY: Final = "legacy"
"""Kind of a root that closes a segment of legacy receipts (docs/protocol/11-advisor-kit.md §15.7)."""

_MAX_TEXT: Final = 8 << 20
"""Bytes of a row's text: one of 1 MiB that has to be escaped throughout."""


class LegacyReceipt(msgspec.Struct, frozen=True):
    """One kept receipt. `row_json` is the canonical text of the whole row; time and schema repeat it."""

    seq: int
    receipt_id: str
    executed_at: int
    schema_id: str
    digest: str
    row_json: str

    def document(self) -> dict[str, JsonValue]:
        """The row as the earlier plugin had it (form: domain.legacy)."""
        return decode_object(self.row_json, max_bytes=_MAX_TEXT)

    def columns_hold(self) -> bool:
        """Whether the columns that find this receipt say what its text says."""
        doc = self.document()
        return (self.receipt_id, self.executed_at, self.schema_id) == (
            doc.get("receipt_id"),
            shown_time(doc.get("executed_at")),
            shown_schema(doc.get("schema_id")),
        )


def shown_time(value: object) -> int:
    """The time column of a receipt: 0 when the row has none that can be one."""
    return value if isinstance(value, int) and 0 <= value < 1 << 53 else 0


def shown_schema(value: object) -> str:
    """The schema column of a receipt."""
    return value[:64] if isinstance(value, str) else ""


class Segment(msgspec.Struct, frozen=True):
    """The legacy receipts that one migration brought, `first_seq..last_seq`, closed at `at` (Unix s) by both
    keys of the node."""

    at: int
    first_seq: int
    last_seq: int
    merkle_root: str
    last_digest: str
    node_signature: str
    hsm_signature: str

    def signed_text(self) -> str:
        """What the keys sign."""
        return receipts.root_text(LEGACY, self.at, self.first_seq, self.last_seq, self.merkle_root)


class LegacyVerdict(msgspec.Struct, frozen=True):
    """How many legacy receipts hold; the first that does not, and why."""

    checked: int
    first_bad: int | None = None
    reason: str = ""


def verify_segments(
    segments: Sequence[Segment], found: Iterable[LegacyReceipt], *, node_keys: Collection[str], node_id: str
) -> LegacyVerdict:
    """Check every legacy receipt against the checkpoint of its segment; `found` comes in order of seq."""
    rows, checked = iter(found), 0
    for segment in segments:
        name = f"the checkpoint over legacy receipts {segment.first_seq} to {segment.last_seq}"
        if segment.first_seq != checked + 1 or segment.last_seq < segment.first_seq:
            return LegacyVerdict(checked, checked + 1, f"no checkpoint covers legacy receipt {checked + 1}")
        if not _signed(segment, node_keys, node_id):
            return LegacyVerdict(checked, segment.first_seq, f"{name} is not signed by this node's keys")
        tree = receipts.MerkleTree()
        for seq in range(segment.first_seq, segment.last_seq + 1):
            row = next(rows, None)
            if row is None or row.seq != seq:
                return LegacyVerdict(checked, seq, f"legacy receipt {seq} is missing")
            if hashlib.sha256(row.row_json.encode()).hexdigest() != row.digest:
                return LegacyVerdict(checked, seq, f"the text of legacy receipt {seq} was changed")
            if not row.columns_hold():
                return LegacyVerdict(checked, seq, f"a column of legacy receipt {seq} is not what was kept")
            tree.add(row.digest)
            checked += 1
        if tree.root() != segment.merkle_root:
            return LegacyVerdict(segment.first_seq - 1, segment.first_seq, f"{name} is over other receipts")
    if next(rows, None) is not None:
        return LegacyVerdict(checked, checked + 1, f"no checkpoint covers legacy receipt {checked + 1}")
    return LegacyVerdict(checked)


def _signed(segment: Segment, node_keys: Collection[str], node_id: str) -> bool:
    text = segment.signed_text()
    digest = crypto.sha256(text.encode())
    if not any(crypto.schnorr_verify(key, digest, segment.node_signature) for key in node_keys):
        return False
    return crypto.cln_recover_message(text, segment.hsm_signature) == node_id
