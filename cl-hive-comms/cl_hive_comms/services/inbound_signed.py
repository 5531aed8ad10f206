"""Signed messages: verified, recognised when repeated, handed to the handler of their schema, a sibling's or
our own (docs/protocol/04-marketplace-and-nostr.md §6 "Verify" and "Routing", 08-client-and-plugins.md §3.4).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol

from hive_shared import signed_message
from hive_shared.errors import HiveError, InvalidParams
from hive_shared.rate_limit import SlidingWindows
from hive_shared.signed_message import Draft, OtherVersion

from ..domain.arrival import Arrival
from .inbound_errors import MessageErrors
from .ports_commands import Log
from .ports_identity import NodeKeys
from .sibling_delivery import Outcome, Parcel, SiblingDelivery
from .sibling_registry import SiblingRegistry

PER_SENDER: Final = 60
"""Messages a minute of one sender we know, or from whom a sibling took one within the hour."""
ALL_STRANGERS: Final = 30
"""Messages a minute of all other senders together."""
_MAX_ACCEPTED: Final = 5_000

Settled = Callable[[str, Outcome], None]
"""`settled(id, outcome)`: how it ended, and what a repeat of the message is recognised by."""


OwnHandler = Callable[[Draft, str], Awaitable[None]]
"""`handler(message, sender)`: takes a verified message of a known sender (x-only hex). It may get one again
after a crash. Raises HiveError for what it does not take; anything else and the message comes again."""


class Repeats(Protocol):
    """The ids of messages that were handled."""

    def __contains__(self, name: str) -> bool: ...
    def add(self, name: str) -> None: ...


class SignedInbox:
    """Takes messages with a `schema`. `own` are the handlers of those that are for this plugin itself."""

    def __init__(
        self,
        registry: SiblingRegistry,
        delivery: SiblingDelivery,
        keys: NodeKeys,
        *,
        errors: MessageErrors,
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._registry, self._delivery, self._keys = registry, delivery, keys
        self._errors, self._now, self._log = errors, now, log
        self._windows = SlidingWindows(now)
        self.own: MutableMapping[str, OwnHandler] = {}
        # Senders that a sibling took a message from: it vouches for them (unknown ones it refuses).
        self._accepted: OrderedDict[str, None] = OrderedDict()
        self.counters: Counter[str] = Counter()
        """What happened to messages; for hive-comms-transports."""

    async def take(
        self, text: str, arrival: Arrival, schema: str, repeats: Repeats, settled: Settled
    ) -> Outcome | None:
        """Hand one message on. None: it is under way, and `settled` will be called; else how it ended:
        `refused` when its sender was told why, `dropped` without a word. `schema` is what it claims to be."""
        stranger = not arrival.known and arrival.sender not in self._accepted
        own = self.own.get(schema) if arrival.known else None
        handler = None if own is not None else self._registry.handler_for(schema)
        if handler is None and not arrival.known:
            self.counters["unhandled"] += 1
            return "dropped"
        window = ("strangers", "all", ALL_STRANGERS) if stranger else ("sender", arrival.sender, PER_SENDER)
        if not self._windows.allow(*window):
            self.counters["dropped_rate"] += 1
            return "dropped"
        message = self._verified(text, arrival, schema)
        if message is None:
            return "dropped"
        if isinstance(message, OtherVersion):
            return await self._unsupported(arrival, schema, message.version, message.msg_id)
        name = f"{arrival.sender}:{message.msg_id}"
        if name in repeats:
            # Whatever was said about it then holds: also when it has run out since.
            self.counters["repeated"] += 1
            return "dropped"
        try:
            signed_message.check_times(message, self._now())
        except InvalidParams as error:
            self.counters["expired"] += 1
            self._log("debug", "message_refused", schema=schema[:100], why=error.detail)
            told = await self._errors.expired(arrival, schema, message.msg_id)
            return "refused" if told else "dropped"
        if own is not None:
            return await self._take_own(own, message, arrival, name, repeats, settled)
        if handler is None:
            return await self._unsupported(arrival, schema, 1, message.msg_id)
        parcel = Parcel(
            owner=handler.owner,
            lane=arrival.sender,
            method=lambda: self._method(schema),
            params=self._params(message, arrival),
            done=lambda outcome: self._done(outcome, arrival.sender, name, settled),
            stranger=stranger,
        )
        if not self._delivery.put(parcel):
            return "dropped"
        repeats.add(name)
        return None

    # -- inside --------------------------------------------------------------------------------------

    async def _take_own(
        self,
        handler: OwnHandler,
        message: Draft,
        arrival: Arrival,
        name: str,
        repeats: Repeats,
        settled: Settled,
    ) -> Outcome | None:
        outcome: Outcome = "delivered"
        try:
            await handler(message, arrival.sender)
        except HiveError as error:
            self._log("info", "message_refused", schema=message.schema, why=error.symbol)
            outcome = "refused"
        # Not before: what a full disk kept it from must be taken when the message comes again.
        repeats.add(name)
        self.counters[outcome] += 1
        settled(name, outcome)
        return None

    def _method(self, schema: str) -> str | None:
        handler = self._registry.handler_for(schema)
        return None if handler is None or handler.gone_at is not None else handler.method

    def _params(self, message: Draft, arrival: Arrival) -> dict[str, Any]:
        params: dict[str, Any] = {
            "schema": message.schema,
            "payload": signed_message.with_sender(message.body, arrival.sender),
            "source": arrival.transport,
            "pubkey": arrival.sender,
            "event_id": arrival.message_id,
            "received_at": arrival.received_at,
        }
        return params if arrival.sender_did is None else {**params, "sender_did": arrival.sender_did}

    def _verified(self, text: str, arrival: Arrival, schema: str) -> Draft | OtherVersion | None:
        try:
            return signed_message.parse(text, arrival.sender, tuple(self._keys.readable_secrets()))
        except InvalidParams as error:
            self.counters["invalid"] += 1
            self._log("debug", "message_refused", schema=schema[:100], why=error.detail[:200])
            return None

    async def _unsupported(self, arrival: Arrival, schema: str, version: int, msg_id: str) -> Outcome:
        """Nobody here takes this; its sender is told once."""
        self.counters["unhandled"] += 1
        told = await self._errors.unsupported(arrival, schema, version, msg_id)
        return "refused" if told else "dropped"

    def _done(self, outcome: Outcome, sender: str, name: str, settled: Settled) -> None:
        if outcome == "delivered":
            self._accepted[sender] = None
            self._accepted.move_to_end(sender)
            if len(self._accepted) > _MAX_ACCEPTED:
                self._accepted.popitem(last=False)
        settled(name, outcome)
