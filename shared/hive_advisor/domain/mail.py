"""Signed messages between us and nodes (docs/protocol/04-marketplace-and-nostr.md §6)."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

GOOD_S: Final = 86_400
"""How long a message of ours may be under way."""
_FIRST_S, _LONGEST_S = 2, 300


class Addressee(Protocol):
    """Whom messages go to: a client, or a `Stranger`."""

    @property
    def client_id(self) -> str: ...
    @property
    def node_key(self) -> str: ...
    @property
    def offset_s(self) -> int: ...


class Stranger(msgspec.Struct, frozen=True):
    """A key that is no client's, or is written to whether it is one or not."""

    node_key: str
    offset_s: int = 0

    @property
    def client_id(self) -> str:
        """What names it in the outbox."""
        return self.node_key


class OutMessage(msgspec.Struct, frozen=True):
    """A message to a node, signed by our key `sender`. `name` makes it one however often it is put; `answers`
    is the msg_id of what it answers, empty for none. `client_id` is an Addressee's."""

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
