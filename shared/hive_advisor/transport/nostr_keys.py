"""The keys of an identity on its relays, each with connections of its own: a relay may show messages only to
the key that proved itself (NIP-42), and answers go to the key that asked
(docs/protocol/11-advisor-kit.md §2, docs/protocol/04-marketplace-and-nostr.md §7).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr.event import Event
from hive_shared.nostr.giftwrap import Message
from hive_shared.nostr.publishing import PublishResult
from hive_shared.nostr.relay import RelayPool

from hive_advisor.domain.keyring import Keyring
from hive_advisor.services.ports import COMMANDS, RELAY_PATIENCE_S
from hive_advisor.transport.nostr_link import NostrLink

Received = Callable[[Message, str], Awaitable[None]]
"""A message that passed all checks, and the key of ours it came to."""


class NostrKeys:
    """One link per key. `trusted`, `own_relays`: see NostrLink; `proxy`: a SOCKS URL for every socket."""

    def __init__(
        self,
        keyring: Keyring,
        *,
        received: Received,
        trusted: Callable[[str], bool],
        own_relays: Sequence[str],
        proxy: str | None,
        now: Callable[[], int],
        rng: Callable[[int], bytes],
        say: Callable[[str], None],
    ) -> None:
        self._received, self._trusted, self._proxy = received, trusted, proxy
        self._own, self._now, self._rng, self._say = tuple(own_relays), now, rng, say
        self._current = keyring.current
        self._links: dict[str, NostrLink] = {}
        self._pools: dict[str, RelayPool] = {}
        for key in keyring.pubkeys:
            self._add(keyring.secret(key))

    def _add(self, secret: Secret) -> None:
        key = xonly_pubkey(secret)

        async def on_event(relay: str, subscription: str, event: Event) -> None:
            await self._links[key].received(relay, subscription, event)

        async def on_message(message: Message) -> None:
            await self._received(message, key)

        pool = RelayPool(
            secret_provider=lambda: secret,
            on_event=on_event,
            now=self._now,
            rng=self._rng,
            proxy=self._proxy,
        )
        self._pools[key] = pool
        self._links[key] = NostrLink(
            secret,
            pool,
            on_message=on_message,
            trusted=self._trusted,
            own_relays=self._own,
            now=self._now,
            rng=self._rng,
            say=self._say,
        )

    async def start(self, reads: Sequence[str], last_seen: int | None) -> None:
        """Connect and read from `last_seen` on."""
        for key, link in self._links.items():
            await self._pools[key].set_relays(reads, self._own, self._own)
            link.watch(last_seen)
            await self._pools[key].start()

    async def stop(self) -> None:
        """Ask for nothing more and close every socket."""
        await asyncio.gather(*(link.close() for link in self._links.values()))
        await asyncio.gather(*(pool.stop() for pool in self._pools.values()))

    async def relays_answering(self, timeout: int) -> int:
        """How many relays answer to the key in use, after waiting for a first one."""
        pool = self._pools[self._current]
        await pool.wait_for(lambda: pool.connected("read") > 0, timeout)
        return pool.connected("read")

    async def catch_up(self, timeout: float) -> int:
        """Ask the relays once for everything that waits, for every key; how many answered to the end."""
        answered = await asyncio.gather(*(link.catch_up(timeout) for link in self._links.values()))
        return max(answered)

    async def announce(self, timeout: float) -> None:
        """Say where each of our keys reads messages."""
        await asyncio.gather(*(link.announce(self._own, timeout) for link in self._links.values()))

    async def publish(
        self, event: Event, relays: Sequence[str], timeout: float
    ) -> Mapping[str, PublishResult]:
        """Put an event to relays, by the connections of the key in use; what each said."""
        return await self._pools[self._current].publish(event, relays, timeout=timeout)

    async def inbox_relays(self, key: str) -> tuple[str, ...]:
        """Where the owner of a key reads messages; empty when no relay knows."""
        return await self._links[self._current].inbox_relays(key)

    async def deliver(
        self,
        recipient: str,
        content: str,
        relays: Sequence[str],
        *,
        expires_at: int,
        sender: str,
        patience_s: float = RELAY_PATIENCE_S,
        topic: str = COMMANDS,
    ) -> int:
        """Send as `sender`, one of our keys; returns how many relays took all of it within `patience_s`."""
        link = self._links[sender]
        return await link.deliver(
            recipient, content, relays, expires_at=expires_at, patience_s=patience_s, topic=topic
        )
