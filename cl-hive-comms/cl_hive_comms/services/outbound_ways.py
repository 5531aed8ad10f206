"""Ways out besides direct messages: registered transports, and events for everybody
(docs/protocol/02-fleet-management.md §6.4, docs/protocol/04-marketplace-and-nostr.md §5.1).

A response goes back over the transport its command came by, and when that fails by direct message; a push
goes the other way round (docs/decisions/0161-what-a-send-method-gets.md,
0240-when-the-way-of-an-answer-fails.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from hive_shared.crypto import sha256
from hive_shared.errors import Busy, HiveError, SiblingUnavailable
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
    """Sends what is no direct message. `did_of` gives the DID of an agent key that has one, `used_by` the
    transports by which a key's own commands came, newest first."""

    def __init__(
        self,
        registry: SiblingRegistry,
        events: Events,
        *,
        call: SiblingCall,
        did_of: Callable[[str], str | None],
        used_by: Callable[[str], Awaitable[Sequence[str]]],
        engaged: Callable[[], bool],
        log: Log,
    ) -> None:
        self._registry, self._events, self._call = registry, events, call
        self._did_of, self._used_by, self._engaged, self._log = did_of, used_by, engaged, log

    def takes(self, message: Outgoing) -> bool:
        """Events, and responses whose command came over a registered transport."""
        return message.kind is MessageKind.EVENT or message.transport not in ("", *BUILT_IN)

    async def send(self, message: Outgoing) -> Delivery:
        """Send one of those."""
        if message.kind is MessageKind.EVENT:
            if self._engaged():
                return Delivery((), {"relays": "the emergency stop is engaged; nothing is published"})
            return await self._events.publish_event(message.content)
        name = message.transport
        transport = self._registry.transport(name)
        if transport is None or not transport.enabled:
            why = "is not registered now" if transport is None else "is disabled"
            return Delivery((), {name: why}, way=name, for_good=True)
        if not transport.usable:
            # Its plugin was here within ten minutes, and may be restarting.
            return Delivery((), {name: "its plugin is away"}, way=name)
        return await self._over(transport, message)

    async def instead(self, message: Outgoing, failed: Delivery) -> Delivery:
        """A push, or a response that its own transport did not take, over the first registered transport that
        does: of those by which its receiver's commands came. Elsewhere nobody may listen, and a transport
        that takes what nobody gets would keep it from the relays."""
        own = message.transport
        if message.kind is not MessageKind.PUSH and own in ("", *BUILT_IN):
            return failed
        others = [row for row in self._registry.usable() if row.name != own]
        if not others:
            return failed
        used = await self._used_by(message.recipient)
        refused = dict(failed.refused)
        for transport in others:
            if transport.name not in used:
                continue
            delivery = await self._over(transport, message)
            if delivery.ok:
                return delivery
            refused |= delivery.refused
        return Delivery((), refused)

    async def _over(self, transport: Transport, message: Outgoing) -> Delivery:
        name = transport.name
        if len(message.content.encode()) > transport.max_bytes:
            why = f"the message is longer than its {transport.max_bytes} bytes"
            return Delivery((), {name: why}, way=name, for_good=True)
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
        except (SiblingUnavailable, Busy) as error:
            return Delivery((), {name: error.detail[:200]}, way=name)
        except HiveError as error:
            return Delivery((), {name: error.detail[:200]}, way=name, for_good=True)
        state = answer.get("state")
        if state not in _TAKEN:
            why = f"{transport.send_method} answered state {state!r:.40}"
            return Delivery((), {name: why}, way=name, for_good=True)
        await self._registry.delivered(name)
        return Delivery((name,), {}, way=name)
