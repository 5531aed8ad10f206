"""What a sender is told of a message that cannot be taken: the verb `error`, signed
(docs/protocol/04-marketplace-and-nostr.md §6, docs/decisions/0301-what-a-sender-is-told.md).

Only who is known and proved that the message is its own hears anything, and seldom: each answer costs a row
in the outbox.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from hive_shared.rate_limit import SlidingWindows

from ..domain.arrival import Arrival
from .inbound_ids import MessageIds
from .ports_identity import Clock

PER_MINUTE: Final = 10
"""Errors a minute to one sender."""
VERB_TOLD_S: Final = 3_600
"""How long a sender that was told `unsupported` is not told so again of the same schema and version."""
_REMEMBERED: Final = 5_000

Reply = Callable[[str, str, str, str], Awaitable[bool]]
"""`reply(recipient, area, msg_id, code)` sends the verb `error` of an area, once for a message whatever
happens in between; False when it could not."""


class MessageErrors:
    """Tells senders, once per message."""

    def __init__(self, reply: Reply, *, now: Clock) -> None:
        self._reply, self._now = reply, now
        self._windows = SlidingWindows(now)
        self._told = MessageIds(_REMEMBERED)
        self._verbs: OrderedDict[tuple[str, str], int] = OrderedDict()

    async def expired(self, arrival: Arrival, schema: str, msg_id: str) -> bool:
        """Tell that a message came outside its times; whether its sender was told now."""
        return await self._tell(arrival, schema, msg_id, "expired")

    async def unsupported(self, arrival: Arrival, schema: str, version: int, msg_id: str) -> bool:
        """Tell that nobody here takes such a message; whether its sender was told now."""
        verb = (arrival.sender, f"{version} {schema}")
        told_at = self._verbs.get(verb)
        # After a step back of the clock an answer is due again, rather than never.
        if told_at is not None and 0 <= self._now() - told_at < VERB_TOLD_S:
            return False
        if not await self._tell(arrival, schema, msg_id, "unsupported"):
            return False
        self._verbs[verb] = self._now()
        self._verbs.move_to_end(verb)
        if len(self._verbs) > _REMEMBERED:
            self._verbs.popitem(last=False)
        return True

    async def _tell(self, arrival: Arrival, schema: str, msg_id: str, code: str) -> bool:
        area, _, verb = schema.removeprefix("hive:").partition("/")
        # An error that is answered with an error would go to and fro for ever.
        if not arrival.known or not schema.startswith("hive:") or verb.startswith("error"):
            return False
        message = f"{arrival.sender}:{msg_id}"
        if message in self._told or not self._windows.allow("errors", arrival.sender, PER_MINUTE):
            return False
        # Before the reply: the same message may come a second time meanwhile.
        self._told.add(message)
        return await self._reply(arrival.sender, area, msg_id, code)
