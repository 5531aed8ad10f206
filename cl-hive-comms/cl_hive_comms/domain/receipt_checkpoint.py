"""Checkpoints: signed roots that stand for the archived part of the receipt chain
(docs/protocol/02-fleet-management.md §9.2, docs/protocol/00-index.md "checkpoint")."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from hive_shared import crypto, receipts
from hive_shared.receipts import GENESIS

from .receipt_record import RootRow

PRUNE = "prune"
"""Kind of a root that is a checkpoint."""


class ArchiveEnd(NamedTuple):
    """Where the archived part ends: the last archived id and its hash; 0 and genesis when there is none."""

    receipt_id: int
    receipt_hash: str


NOTHING_ARCHIVED = ArchiveEnd(0, GENESIS)


def archive_end(newest: RootRow | None) -> ArchiveEnd:
    """The end of the archived part, from the newest checkpoint."""
    return NOTHING_ARCHIVED if newest is None else ArchiveEnd(newest.last_id, newest.last_hash)


def signed_text(root: RootRow) -> str:
    """What both keys of the node sign for a root (docs/protocol/11-advisor-kit.md §15.7)."""
    return receipts.root_text(root.kind, root.start, root.first_id, root.last_id, root.merkle_root)


def fault(
    checkpoints: Sequence[RootRow], *, node_keys: Collection[str], node_id: str
) -> tuple[int, str] | None:
    """The first receipt id that the checkpoints do not vouch for, and why; None when they hold.

    Checkpoints must follow each other from receipt 1 without gaps, each signed by one of the node's Nostr
    keys and by its Lightning key. That the last one's hash is right shows in the receipt after it, which
    names it under its own signature.
    """
    expected = 1
    for root in checkpoints:
        name = f"the checkpoint over receipts {root.first_id} to {root.last_id}"
        if root.first_id != expected:
            return (
                expected,
                f"no checkpoint covers receipt {expected}: the next one begins at {root.first_id}",
            )
        if root.count != root.last_id - root.first_id + 1 or root.count < 1:
            return expected, f"{name} counts {root.count}"
        text = signed_text(root)
        digest = crypto.sha256(text.encode())
        if not any(crypto.schnorr_verify(key, digest, root.node_signature) for key in node_keys):
            return expected, f"{name} is not signed by this node's Nostr key"
        if crypto.cln_recover_message(text, root.hsm_signature or "") != node_id:
            return expected, f"{name} is not signed by this node's Lightning key"
        expected = root.last_id + 1
    return None
