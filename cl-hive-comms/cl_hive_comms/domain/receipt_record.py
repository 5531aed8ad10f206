"""Stored receipts, their periodic roots and acknowledgements (docs/protocol/02-fleet-management.md §9)."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class ReceiptRow(NamedTuple):
    """One row of `management_receipts`. `document` is the canonical text that `receipt_hash` hashes; the
    fields after the signature repeat parts of it, as they stand in the searchable columns."""

    receipt_id: int
    advisor_id: str
    document: str
    receipt_hash: str
    node_signature: str
    prev_hash: str
    created_at: int
    schema_id: str
    action: str
    status: str
    command_id: str | None = None
    credential_id: str | None = None
    agent_id: str | None = None


class RootRow(msgspec.Struct, frozen=True):
    """Merkle root over the receipts `first_id..last_id` of an hour or a day that began at `start`; or, as a
    checkpoint (kind `prune`), over receipts that were archived at `start`."""

    kind: str
    start: int
    first_id: int
    last_id: int
    count: int
    merkle_root: str
    last_hash: str
    node_signature: str
    hsm_signature: str | None = None

    @property
    def period(self) -> str:
        """Primary key of the row: kind and start; of a checkpoint the first id, as two may share a second."""
        return f"{self.kind}:{self.first_id if self.kind == 'prune' else self.start}"


class ReceiptQuery(msgspec.Struct, frozen=True):
    """Filter of a receipt listing; newest first, `before_id` is the keyset cursor."""

    advisor_id: str | None = None
    schema: str | None = None
    since: int | None = None
    until: int | None = None
    before_id: int | None = None
    limit: int = 100


class AckRow(msgspec.Struct, frozen=True):
    """An agent's signature on the outcome of a receipt (11 §15.6)."""

    receipt_id: int
    sender_key: str
    signature: str
    at: int


class SealRow(NamedTuple):
    """Says that the signatures of receipts `first_id..last_id` were checked, one by one, when the node's
    Nostr key signed this (docs/decisions/0290-seals-over-checked-signatures.md)."""

    first_id: int
    last_id: int
    signature: str
