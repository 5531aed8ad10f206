"""A message that came in, over whatever transport."""

import msgspec
from hive_shared.nostr.giftwrap import KIND_WRAP
from hive_shared.nostr.legacy_dm import KIND_LEGACY


class Arrival(msgspec.Struct, frozen=True):
    """Who sent a message and how it came.

    `sender` is the x-only key that the transport verified; over a registered transport the one its plugin
    names, which the message's own signature has to prove. `message_id` names the message on its transport
    (Nostr: the rumor's id; then `wrap_id` is that of the gift wrap, `recipient` our key it was sealed for and
    `sent_at` the rumor's time in Unix seconds). `known`: an agent, or an approver. `parts`: of a message that
    came in parts, the arrivals of all but the last.
    """

    transport: str
    sender: str
    message_id: str
    received_at: int
    known: bool
    wrap_id: str | None = None
    sender_did: str | None = None
    recipient: str = ""
    sent_at: int = 0
    parts: "tuple[Arrival, ...]" = ()

    @property
    def name(self) -> str:
        """What a repeat is recognised by. Only a Nostr id is unique by itself: two senders on another
        transport may use the same one."""
        if self.transport == "nostr_dm":
            return self.message_id
        return f"{self.transport}:{self.sender}:{self.message_id}"


class Forms(msgspec.Struct, frozen=True):
    """Which older forms of a message are read: kind 4 with NIP-44 content, kind 4 without encryption."""

    legacy: bool = False
    plaintext: bool = False

    @property
    def kinds(self) -> list[int]:
        """Event kinds that hold our messages."""
        return [KIND_WRAP, KIND_LEGACY] if self.legacy or self.plaintext else [KIND_WRAP]


WRAPS_ONLY = Forms()
