"""Ways out besides direct messages: registered transports, and events for everybody
(docs/protocol/02-fleet-management.md §6.4, docs/protocol/04-marketplace-and-nostr.md §5.1).

A response goes back over the transport its command came by; a push takes the next transport when the relays
do not take it (docs/decisions/0161-what-a-send-method-gets.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from hive_shared.crypto import sha256
from hive_shared.errors import HiveError
from hive_shared.nostr.keys import npub_encode

from ..domain.outbox import MessageKind, Outgoing
from ..domain.sibling_names import Owner
from ..domain.sibling_routes import BUILT_IN, Transport
from .ports_commands import Log
from .ports_transport import Delivery
from .sibling_registry import SiblingRegistry

SEND_TIMEOUT_S: Final = 30.0
_TAKEN: Final = ("queued", "sent")


class SiblingCall(Protocol):
    """An authenticated call to a sibling (hive_shared.siblings)."""

    async def __call__(
        self, who: Owner, method: str, params: dict[str, Any], *, timeout: float
    ) -> dict[str, Any]: ...


class Events(Protocol):
    """Publishes a signed event (transport.nostr)."""

    async def publish_event(self, text: str) -> Delivery: ...


class OutboundWays:
    """Sends what is no direct message. `did_of` gives the DID of an agent key that has one."""

    def __init__(
        self,
        registry: SiblingRegistry,
        events: Events,
        *,
        call: SiblingCall,
        did_of: Callable[[str], str | None],
        engaged: Callable[[], bool],
        log: Log,
    ) -> None:
        self._registry, self._events, self._call = registry, events, call
        self._did_of, self._engaged, self._log = did_of, engaged, log

    def takes(self, message: Outgoing) -> bool:
        """Events, and responses whose command came over a registered transport that can carry them."""
        if message.kind is MessageKind.EVENT:
            return True
        if message.transport in ("", *BUILT_IN):
            return False
        transport = self._registry.transport(message.transport)
        # One that is too long for its transport would never arrive: relays carry it in parts.
        return transport is None or len(message.content.encode()) <= transport.max_bytes

    async def send(self, message: Outgoing) -> Delivery:
        """Send one of those."""
        if message.kind is MessageKind.EVENT:
            if self._engaged():
                return Delivery((), {"relays": "the emergency stop is engaged; nothing is published"})
            return await self._events.publish_event(message.content)
        transport = self._registry.transport(message.transport)
        if transport is None or not transport.usable:
            why = "is not registered now" if transport is None or transport.enabled else "is disabled"
            return Delivery((), {message.transport: why})
        return await self._over(transport, message)

    async def instead(self, message: Outgoing, failed: Delivery) -> Delivery:
        """A push over the first registered transport that takes it; the relays' answer otherwise."""
        if message.kind is not MessageKind.PUSH:
            return failed
        refused = dict(failed.refused)
        size = len(message.content.encode())
        for transport in self._registry.usable():
            if size > transport.max_bytes:
                continue
            delivery = await self._over(transport, message)
            if delivery.ok:
                return delivery
            refused |= delivery.refused
        return Delivery((), refused)

    async def _over(self, transport: Transport, message: Outgoing) -> Delivery:
        did = self._did_of(message.recipient)
        who = {"recipient_npub": npub_encode(message.recipient)} if did is None else {"recipient_did": did}
        params = {
            **who,
            "payload": message.content,
            # The same for every try: the other side recognises a repeat.
            "message_id": sha256(message.idempotency_key.encode()).hex()[:32],
            "expires_at": message.expires_at,
        }
        try:
            answer = await self._call(transport.owner, transport.send_method, params, timeout=SEND_TIMEOUT_S)
        except HiveError as error:
            return Delivery((), {transport.name: error.detail[:200]})
        state = answer.get("state")
        if state not in _TAKEN:
            return Delivery((), {transport.name: f"{transport.send_method} answered state {state!r:.40}"})
        await self._registry.delivered(transport.name)
        return Delivery((transport.name,), {})
