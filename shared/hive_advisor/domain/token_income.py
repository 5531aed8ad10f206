"""Ecash that a node sent for a command (docs/protocol/11-advisor-kit.md §8)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

GIVEN_UP_S: Final = 30 * 86_400
"""How long ecash is tried that its mint does not give out: longer than any node leaves it to us."""
_FIRST_S, _LONGEST_S = 5, 3_600


class TokenState(StrEnum):
    """HELD counts nothing: TAKEN it is ours, LOST the mint never gave it out."""

    HELD = "held"
    TAKEN = "taken"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class TokenIn:
    """One token. `context` names the key that it is locked to (the command's credential), `net_sats` is what
    came of it after the mint's fee, `why` what the last try said."""

    token_hash: str
    client_id: str
    command_id: str
    context: str
    amount_sats: int
    token: str
    state: TokenState
    created: int
    updated: int
    net_sats: int = 0
    why: str = ""
    tries: int = 0
    next_at: int = 0

    def __repr__(self) -> str:
        return f"<token of {self.amount_sats} sat, {self.state}>"


def try_pause_s(tries: int) -> int:
    """Seconds until it is tried again, after so many times."""
    return min(_LONGEST_S, _FIRST_S << min(tries, 10))
