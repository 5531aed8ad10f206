"""What siblings registered with us: transports for commands and answers, handlers for messages
(docs/protocol/08-client-and-plugins.md §3.4, docs/protocol/02-fleet-management.md §6.4).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from .sibling_names import Owner, owner_of

BUILT_IN: Final = ("nostr_dm", "rest", "local")
"""Transports of comms itself; a sibling can neither replace nor switch them."""
BY_CLOCK: Final = "timer"
"""Where the commands come from that the node gives itself."""
CALLER_ANSWERED: Final = ("rest", "local", BY_CLOCK)
"""Transports whose caller waits for the answer: nothing can be sent over them later."""
MAX_TRANSPORTS: Final = 16
MAX_HANDLERS: Final = 64
HELD_S: Final = 600
"""How long messages are held for a sibling that is away."""
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Transport(msgspec.Struct, frozen=True):
    """One row of comms_transports. Lower `priority` is tried first; `gone_at` None while it is served."""

    name: str
    send_method: str
    enabled: bool
    max_bytes: int
    priority: int
    metadata_json: str
    registered_at: int
    gone_at: int | None = None
    last_ok: int | None = None

    @property
    def owner(self) -> Owner:
        """The sibling that serves it."""
        return owner_of(self.send_method)

    @property
    def usable(self) -> bool:
        """Whether messages go over it now."""
        return self.enabled and self.gone_at is None


class Handler(msgspec.Struct, frozen=True):
    """One row of comms_handlers: the method that gets the messages whose schema the pattern names."""

    pattern: str
    handler_id: str
    method: str
    registered_at: int
    gone_at: int | None = None

    @property
    def owner(self) -> Owner:
        """The sibling that serves it."""
        return owner_of(self.method)

    def waited_for(self, now: int) -> bool:
        """Whether it runs, or went so short a time ago that its messages are held."""
        return self.gone_at is None or now < self.gone_at + HELD_S


def is_transport_name(name: str) -> bool:
    """Whether a text can name a transport."""
    return _NAME.fullmatch(name) is not None


def handler_of(handlers: Iterable[Handler], schema: str, now: int) -> Handler | None:
    """The handler of a schema: exact beats wildcard, and only one that runs or is waited for."""
    wildcard = f"{schema.partition('/')[0]}/*"
    found: Handler | None = None
    for handler in handlers:
        if not handler.waited_for(now):
            continue
        if handler.pattern == schema:
            return handler
        if handler.pattern == wildcard:
            found = handler
    return found
