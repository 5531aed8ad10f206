"""One advisor hands over to another (docs/protocol/04-marketplace-and-nostr.md §10 "Handoff",
02-fleet-management.md §7.5; docs/decisions/0254-handoff-between-hired-advisors.md)."""

from __future__ import annotations

from typing import Final

import msgspec
from hive_shared.canonical import decode_object, encode
from msgspec.structs import asdict

FACT: Final = "handoff:"
"""Key of a running handoff among the facts, before the outgoing advisor's id."""
MIN_DAYS: Final = 3
MAX_DAYS: Final = 7
DEFAULT_DAYS: Final = 5


class Handoff(msgspec.Struct, frozen=True):
    """Who hands over to whom, by advisor ids. Times are Unix seconds."""

    outgoing: str
    incoming: str
    began_at: int
    ends_at: int

    @property
    def half_at(self) -> int:
        """Until then the outgoing one works and the incoming one looks on; from then on it is reversed."""
        return (self.began_at + self.ends_at) // 2

    def worker(self, now: int) -> str:
        """Who may change things now."""
        return self.outgoing if now < self.half_at else self.incoming

    def refusal(self, advisor_id: str, now: int) -> str | None:
        """Why this advisor may change nothing now, or None."""
        if advisor_id not in (self.outgoing, self.incoming) or advisor_id == self.worker(now):
            return None
        if advisor_id == self.incoming:
            return f"the advisor before you hands over until {self.half_at}; until then you may only look on"
        return f"you hand over to another advisor since {self.half_at}; you may only look on"

    def involves(self, *advisor_ids: str) -> bool:
        """Whether one of these is part of it."""
        return self.outgoing in advisor_ids or self.incoming in advisor_ids

    def to_text(self) -> str:
        """The stored form."""
        return encode(asdict(self)).decode()

    @classmethod
    def from_text(cls, text: str) -> Handoff:
        """Inverse of `to_text`. Raises ValueError, KeyError, TypeError for another text."""
        doc = decode_object(text)
        return cls(
            str(doc["outgoing"]),
            str(doc["incoming"]),
            int(doc["began_at"]),  # type: ignore[arg-type]
            int(doc["ends_at"]),  # type: ignore[arg-type]
        )
