"""Escrow tickets in our favour as the kit sees them (docs/protocol/11-advisor-kit.md §8)."""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from hive_shared.errors import InvalidParams

DisputeState = Literal["open", "replaced", "paid", "rejected"]
DISPUTE_WITHIN_S: Final = 30 * 86_400
"""How long after its end an item can be disputed (03 §6.7)."""
_TICKET_ID_CHARS: Final = 32
DISPUTE_ANSWER_S: Final = 72 * 3_600
"""How long the operator has to answer; silence is no."""


def ticket_and_item(text: str) -> tuple[str, int | None]:
    """``TICKET`` or ``TICKET:ITEM``. Raises InvalidParams."""
    ticket_id, colon, number = text.partition(":")
    if len(ticket_id) != _TICKET_ID_CHARS or (colon and not (number.isascii() and number.isdigit())):
        raise InvalidParams(f"{text[:60]!r}: give a ticket's id of 32 characters, or id:item")
    return ticket_id, int(number) if colon else None


class Dispute(msgspec.Struct, frozen=True):
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


HASHES_UNUSED_S: Final = 86_400
"""How long a node keeps a preimage that no ticket used (03 §6.5)."""
REQUESTS_AN_HOUR: Final = 30
ASKED_S: Final = 86_400
"""How long an answer of the node may be under way."""


class HashRequest(msgspec.Struct, frozen=True):
    """Hashes that a node was asked for, for tickets of one task. Times in Unix seconds; `hashes` are empty
    until it answered, `expires_at` is when it forgets the preimages that no ticket used."""

    request_id: str
    client_id: str
    params_hash: str
    count: int
    asked_at: int
    hashes: tuple[str, ...] = ()
    answered_at: int = 0
    expires_at: int = 0

    def state(self, now: int) -> Literal["asked", "answered", "expired", "unanswered"]:
        """Where it is: a node that refuses says nothing."""
        if self.hashes:
            return "answered" if now < self.expires_at else "expired"
        return "asked" if now < self.asked_at + ASKED_S else "unanswered"


class OwnHash(msgspec.Struct, frozen=True):
    """A preimage of ours for a ticket in mode receipt: whoever pays gets to see it when we redeem. Item `i`
    of `ticket_id` was made with it; empty until then."""

    hash: str
    preimage: str
    client_id: str
    peer: str
    label: str
    created_at: int
    ticket_id: str = ""
    i: int = 0

    def __repr__(self) -> str:
        return f"<own hash {self.hash}>"
