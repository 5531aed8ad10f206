"""Lost parts of long messages: asked for, and sent again when asked
(docs/protocol/04-marketplace-and-nostr.md §6 "Larger").

Both are tried once and nothing of them is stored: a request is good for as long as its sender keeps the other
parts, and what is sent again comes from the outbox, which has every message for seven days.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Protocol

from hive_shared.nostr.chunk_resend import ResentParts, parse_resend
from hive_shared.nostr.chunks import KEEP_SECONDS, Missing
from hive_shared.nostr.giftwrap import split_chunks
from hive_shared.nostr.reasons import ChunkInvalid
from hive_shared.rate_limit import SlidingWindows
from hive_shared.store import Db, Tx

from ..domain.arrival import Arrival
from ..domain.outbox import MessageKind, Outgoing
from .ports_identity import Clock, Log, NodeKeys
from .ports_transport import PartMessages, Routes

PER_PEER: Final = 30
"""Requests a minute of one peer we know; each costs one look into the outbox."""
ALL_STRANGERS: Final = 30
"""Requests a minute of all others together: a sibling's message may be for somebody we know nothing of."""


class LongSent(Protocol):
    """Finds a message that went out in parts (comms_outbox)."""

    def long_sent(self, tx: Tx, recipient: str, chunk_id: str, now: int) -> Outgoing | None: ...


class PartResend:
    """Asks for lost parts, and answers those who ask."""

    def __init__(
        self,
        db: Db,
        store: LongSent,
        keys: NodeKeys,
        messages: PartMessages,
        routes: Routes,
        *,
        now: Clock,
        log: Log,
    ) -> None:
        self._db, self._store, self._keys = db, store, keys
        self._messages, self._routes, self._now, self._log = messages, routes, now, log
        self._windows = SlidingWindows(now)
        self._resent = ResentParts(now)
        self.counters: Counter[str] = Counter()
        """What happened to requests; for status."""

    async def ask(self, missing: Missing, our_key: str) -> bool:
        """Ask a peer for parts it sent to one of our keys; whether a relay took the request."""
        secret = self._keys.readable_secrets().get(our_key)
        if secret is None:
            # The key ran out meanwhile: the peer would not know who asks.
            return True
        now = self._now()
        request = Outgoing(
            idempotency_key="",
            sender=our_key,
            recipient=missing.sender,
            kind=MessageKind.PUSH,
            content=missing.content(),
            created_at=now,
            expires_at=now + KEEP_SECONDS,
        )
        relays = await self._routes.relays_for(request, 0)
        delivery = await self._messages.send(secret, request, relays)
        self.counters["parts_asked_for"] += delivery.ok
        self._log("debug", "parts_asked_for", parts=len(missing.indexes), taken=len(delivery.accepted))
        return delivery.ok

    async def answer(self, text: str, arrival: Arrival) -> bool:
        """Send the parts again that a request names, if they were sent to the one who asks; whether any went
        out. Writes nothing."""
        try:
            request = parse_resend(text)
        except ChunkInvalid as error:
            return self._no("resend_malformed", str(error))
        if arrival.sent_at < self._now() - KEEP_SECONDS:
            return self._no("resend_late", "its sender has given the other parts up")
        window = ("known", arrival.sender, PER_PEER) if arrival.known else ("strangers", "all", ALL_STRANGERS)
        if not self._windows.allow(*window):
            return self._no("resend_rate", "too many requests in a minute")
        found = await self._db.read(
            lambda tx: self._store.long_sent(tx, arrival.sender, request.chunk_id, self._now())
        )
        if found is None:
            return self._no("resend_unknown", "no such message went to this peer")
        secret = self._keys.readable_secrets().get(found.sender)
        if secret is None:
            return self._no("resend_unknown", "the key that sent it is erased")
        if max(request.missing) >= len(split_chunks(found.content)):
            return self._no("resend_malformed", "missing names parts that the message has not")
        parts = self._resent.claim(arrival.sender, found.idempotency_key, request.missing)
        if not parts:
            return self._no("resend_repeated", "these parts went out again already, or too many others did")
        relays = await self._routes.relays_for(found, 0)
        delivery = await self._messages.send_parts(secret, found, relays, parts)
        self.counters["parts_resent"] += delivery.ok
        self._log("debug", "parts_sent_again", parts=len(parts), taken=len(delivery.accepted))
        return delivery.ok

    def _no(self, counter: str, why: str) -> bool:
        self.counters[counter] += 1
        self._log("debug", "resend_refused", why=why)
        return False
