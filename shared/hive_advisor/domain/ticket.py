"""Escrow tickets in our favour as the kit sees them (docs/protocol/11-advisor-kit.md §8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

DisputeState = Literal["open", "replaced", "paid", "rejected"]
DISPUTE_WITHIN_S: Final = 30 * 86_400
"""How long after its end an item can be disputed (03 §6.7)."""
DISPUTE_ANSWER_S: Final = 72 * 3_600
"""How long the operator has to answer; silence is no."""


@dataclass(frozen=True)
class Dispute:
    """We say that an item went wrong. `reply` is the operator's reason, a stranger's text."""

    dispute_id: str
    ticket_id: str
    item: int
    claim: str
    evidence_hashes: tuple[str, ...]
    state: DisputeState
    due_at: int
    created_at: int
    reply: str = ""
    resolved_at: int = 0
