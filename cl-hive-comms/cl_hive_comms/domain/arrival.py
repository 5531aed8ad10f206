"""A message that came in, over whatever transport."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arrival:
    """Who sent a message and how it came.

    `sender` is the x-only key that the transport verified; over a registered transport the one its plugin
    names, which the message's own signature has to prove. `message_id` names the message on its transport
    (Nostr: the rumor's id, then `wrap_id` is that of the gift wrap). `known`: an agent, or an approver.
    """

    transport: str
    sender: str
    message_id: str
    received_at: int
    known: bool
    wrap_id: str | None = None
    sender_did: str | None = None

    @property
    def name(self) -> str:
        """What a repeat is recognised by. Only a Nostr id is unique by itself: two senders on another
        transport may use the same one."""
        if self.transport == "nostr_dm":
            return self.message_id
        return f"{self.transport}:{self.sender}:{self.message_id}"
