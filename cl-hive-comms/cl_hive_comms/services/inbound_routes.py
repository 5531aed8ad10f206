"""Where a peer reads its messages (docs/protocol/04-marketplace-and-nostr.md §6 "Send to").

A peer's kind 10050 list, else the read relays of its 10002 list, else the relay over which it reached us,
else our own relays. Lists are asked of the relays when they are needed and kept in memory for an hour.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from hive_shared.nostr.event import Event

from cl_hive_comms.domain.outbox import MessageKind, Outgoing
from cl_hive_comms.domain.relay_list import KIND_INBOX, KIND_READ_WRITE

MAX_RELAYS = 4
"""More copies do not make delivery safer, and each costs a connection."""
_MAX_PEERS = 2_000
_FRESH_S = 3_600

Normalise = Callable[[str], str]
"""Checks a relay address that a stranger gave; raises ValueError."""
Lookup = Callable[[str], Awaitable[Sequence[Event]]]
"""Asks the relays for a peer's lists; answers within a few seconds, never raises."""


class PeerRoutes:
    """Remembers relay lists of peers and answers where to send.

    `fleet_relays` are used for peers that are `in_fleet`, and never for others.
    """

    def __init__(
        self,
        *,
        own_relays: Callable[[], Sequence[str]],
        arrived_from: Mapping[str, str],
        normalise: Normalise,
        lookup: Lookup,
        now: Callable[[], int],
        fleet_relays: Callable[[], Sequence[str]] = tuple,
        in_fleet: Callable[[str], bool] = lambda peer: False,
    ) -> None:
        self._fleet_relays, self._in_fleet = fleet_relays, in_fleet
        self._own, self._arrived_from, self._normalise = own_relays, arrived_from, normalise
        self._lookup, self._now = lookup, now
        self._lists: OrderedDict[tuple[str, int], tuple[int, tuple[str, ...]]] = OrderedDict()
        self._asked: OrderedDict[str, int] = OrderedDict()
        self._asking: set[asyncio.Task[None]] = set()

    def take(self, event: Event) -> None:
        """A verified relay list of a peer; the newest of each kind counts."""
        key = (event.pubkey, event.kind)
        if key in self._lists and self._lists[key][0] >= event.created_at:
            return
        self._lists[key] = (event.created_at, self._read(event))
        self._lists.move_to_end(key)
        if len(self._lists) > 2 * _MAX_PEERS:
            self._lists.popitem(last=False)

    async def relays_for(self, message: Outgoing, attempts: int) -> list[str]:
        """Relays to send one message to; after a failure also our own."""
        if self._stale(message.recipient):
            asking = asyncio.create_task(self._ask(message.recipient))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)
            # An answer goes back the way the question came, and must not wait for a lookup.
            if message.kind is not MessageKind.RESPONSE:
                await asyncio.shield(asking)
        found = [*self._checked(message.reply_relays), *self._listed(message.recipient)]
        if not found and message.recipient in self._arrived_from:
            found = [self._arrived_from[message.recipient]]
        own, private = list(self._own()), list(self._fleet_relays())
        if private and self._in_fleet(message.recipient):
            own = [*private, *own]
        else:
            # Whoever names our private relays: what goes there is for the fleet.
            found = [url for url in found if url not in private]
        if len(found) < 2 or attempts:
            found += own
        return list(dict.fromkeys(found))[: MAX_RELAYS + (len(own) if attempts else 0)]

    def _stale(self, peer: str) -> bool:
        return self._now() - self._asked.get(peer, -_FRESH_S) >= _FRESH_S

    async def _ask(self, peer: str) -> None:
        self._asked[peer] = self._now()
        if len(self._asked) > _MAX_PEERS:
            self._asked.popitem(last=False)
        for event in await self._lookup(peer):
            self.take(event)

    def _listed(self, peer: str) -> list[str]:
        for kind in (KIND_INBOX, KIND_READ_WRITE):
            known = self._lists.get((peer, kind))
            if known and known[1]:
                return list(known[1])
        return []

    def _read(self, event: Event) -> tuple[str, ...]:
        if event.kind == KIND_INBOX:
            urls = [tag[1] for tag in event.tags if len(tag) > 1 and tag[0] == "relay"]
        else:
            urls = [
                tag[1]
                for tag in event.tags
                if len(tag) > 1 and tag[0] == "r" and (len(tag) == 2 or tag[2] == "read")
            ]
        return self._checked(urls)

    def _checked(self, urls: Sequence[str]) -> tuple[str, ...]:
        own = {*self._own(), *self._fleet_relays()}
        found: list[str] = []
        for url in urls[:20]:
            try:
                # Our own relays are the operator's choice, so they may be private addresses.
                kept = url if url in own else self._normalise(url)
            except ValueError:
                continue
            if kept not in found:
                found.append(kept)
        return tuple(found[:MAX_RELAYS])
