"""Signed messages between us and nodes (docs/protocol/04-marketplace-and-nostr.md §6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GOOD_S: Final = 86_400
"""How long a message of ours may be under way."""
_FIRST_S, _LONGEST_S = 2, 300


@dataclass(frozen=True, slots=True)
class OutMessage:
    """A message to a node, signed by our key `sender`. `name` makes it one however often it is put; `answers`
    is the msg_id of what it answers, empty for none."""

    msg_id: str
    client_id: str
    name: str
    area: str
    seq: int
    sender: str
    content: str
    answers: str
    expires_at: int
    sends: int = 0


def pause_s(sends: int) -> int:
    """Seconds until a message that no relay took goes out again, after so many tries: 2, 4 … 300."""
    return min(_LONGEST_S, _FIRST_S << min(sends, 8))
