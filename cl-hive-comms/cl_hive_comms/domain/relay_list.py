"""Kinds of the events in which a key says where it reads and writes (docs/protocol/04 §4.1, §6)."""

from typing import Final

KIND_READ_WRITE: Final = 10_002
"""NIP-65: relays a key reads from and writes to."""
KIND_INBOX: Final = 10_050
"""NIP-17: relays where a key reads its direct messages."""
