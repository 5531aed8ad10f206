"""The relay pool: the node's standing connections to Nostr relays (Protocol 04 §7.1, §7.2).

Subscriptions are asked of every read relay and answered with verified, deduplicated, filter-matching events
only. Publishing goes to any relay: standing connections are used, others are opened for the one event and
closed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from hive_shared.crypto import Secret
from hive_shared.nostr.connection import Engine, RelayConnection
from hive_shared.nostr.event import Event
from hive_shared.nostr.filters import Filter
from hive_shared.nostr.inbound import Deliver, InboundPipeline, Subscription
from hive_shared.nostr.publishing import PublishResult
from hive_shared.nostr.relay_info import RelayInfo, RelayInfos, fetch_relay_info
from hive_shared.nostr.relay_limits import Log, RelayLimits, Rng, Sleep
from hive_shared.nostr.relay_url import normalise_relay_url
from hive_shared.nostr.socks import parse_proxy

__all__ = ["PublishResult", "QueryResult", "RelayLimits", "RelayPool", "normalise_relay_url"]


class QueryResult(msgspec.Struct, frozen=True):
    """Stored events found, newest first, and how many of the asked relays answered to the end."""

    events: tuple[Event, ...]
    asked: int
    answered: int

    @property
    def single_source(self) -> bool:
        """True if fewer than two relays answered, so that one relay could have hidden something."""
        return self.answered < 2


def _silent(level: str, event: str, /, **fields: object) -> None:
    """Log nowhere."""


class RelayPool:
    """All relay connections of one program. Every method is called on the event loop that ran `start`."""

    def __init__(
        self,
        *,
        on_event: Deliver,
        secret_provider: Callable[[], Secret | None] = lambda: None,
        now: Callable[[], int] | None = None,
        rng: Rng = os.urandom,
        proxy: str | None = None,
        log: Log = _silent,
        limits: RelayLimits | None = None,
        sleep: Sleep = asyncio.sleep,
        private_relays: bool = False,
        on_connected: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare a pool; nothing is opened before `start`.

        `on_event(relay_url, subscription_name, event)` is awaited for one event at a time per lane (direct
        messages have a lane of their own); an event whose handler raises may be delivered again when a relay
        sends it again. `secret_provider` gives the key for NIP-42. `proxy` is a SOCKS5 `host:port` for every
        socket. `private_relays` lets addresses named by others be on a private network (development).
        `on_connected()` is called when a standing relay is connected and none was before.
        Raises ValueError for an unusable proxy.
        """
        self._limits = limits or RelayLimits()
        self._on_event = on_event
        self._private, self._on_connected, self._was_connected = private_relays, on_connected, False
        clock = now or (lambda: int(time.time()))
        self._pipeline = InboundPipeline(limits=self._limits, now=clock, log=log)
        socks = parse_proxy(proxy) if proxy else None

        async def fetch(url: str, public_only: bool) -> RelayInfo | None:
            return await fetch_relay_info(url, limits=self._limits, proxy=socks, public_only=public_only)

        self._engine = Engine(
            limits=self._limits,
            pipeline=self._pipeline,
            now=clock,
            rng=rng,
            sleep=sleep,
            log=log,
            secret=secret_provider,
            proxy=socks,
            infos=RelayInfos(fetch, self._limits, time.monotonic),
            changed=self._wake,
        )
        self._connections: dict[str, RelayConnection] = {}
        self._temporary: set[RelayConnection] = set()
        self._slots = asyncio.Semaphore(self._limits.temporary)
        self._subscriptions: dict[str, Subscription] = {}
        self._asked: dict[str, str] = {}
        self._own: frozenset[str] = frozenset()
        self._waiters: set[asyncio.Future[None]] = set()
        self._started = False
        self._queries = 0

    # -- life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin connecting to the relays that are set; returns at once."""
        if not self._started:
            self._started = True
            self._pipeline.start()
            for connection in self._connections.values():
                connection.start()

    async def stop(self) -> None:
        """Close every socket and end every task, within five seconds."""
        self._started = False
        closing = [one.close() for one in (*self._connections.values(), *self._temporary)]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.stop_seconds):
                await asyncio.gather(*closing, return_exceptions=True)
        self._connections.clear()
        await self._pipeline.stop()

    async def set_relays(
        self,
        read: Sequence[str],
        write: Sequence[str],
        auth: Sequence[str],
        *,
        adverts: Sequence[str] = (),
        own: Sequence[str] = (),
    ) -> None:
        """Make these the standing connections; those that stay are not interrupted.

        `read` relays carry the subscriptions, `adverts` relays those of that role, `write` relays are
        published to, `auth` are those that may learn our key by NIP-42. `own` are further addresses from our
        own lists: without a standing connection, but allowed on a private network. Raises ValueError for a
        bad address or more than eight relays, changing nothing.
        """
        roles: dict[str, set[str]] = {}
        for role, urls in (("read", read), ("write", write), ("adverts", adverts)):
            for url in urls:
                roles.setdefault(normalise_relay_url(url), set()).add(role)
        may_authenticate = {normalise_relay_url(url) for url in auth}
        listed = frozenset(normalise_relay_url(url) for url in own)
        if len(roles) > self._limits.connections:
            raise ValueError(f"{len(roles)} relays are too many; keep at most {self._limits.connections}")
        self._own = listed
        leaving = [self._connections.pop(url) for url in list(self._connections) if url not in roles]
        for url, wanted in roles.items():
            connection = self._connections.get(url)
            fresh = connection is None
            if connection is None:
                connection = self._connections[url] = RelayConnection(url, self._engine)
            before, connection.roles = connection.roles, frozenset(wanted)
            connection.may_authenticate = url in may_authenticate
            self._follow_roles(connection, before)
            if fresh and self._started:
                connection.start()
        self._engine.infos.keep_only(set(roles))
        await asyncio.gather(*(one.close() for one in leaving))
        self._wake()

    def _follow_roles(self, connection: RelayConnection, before: frozenset[str]) -> None:
        for name, subscription in self._subscriptions.items():
            asked, wanted = (self._asked[name] in roles for roles in (before, connection.roles))
            if wanted and not asked:
                connection.requests.add(subscription)
            elif asked and not wanted:
                connection.requests.remove(name)

    # -- reading ---------------------------------------------------------------------------------------------

    def subscribe(
        self,
        name: str,
        filters: Sequence[Filter],
        since: Callable[[str], int | None],
        role: str = "read",
    ) -> None:
        """Ask all relays of a role, now and after every reconnect, replacing a subscription of the same name.

        `since(relay_url)` returns the `since` to put into the filters for that relay, None for everything it
        has; it is called at each (re)connect. Stored events are read backwards page by page, unless a filter
        names a `limit`. Raises ValueError for filters relays do not serve and beyond ten subscriptions.
        """
        subscription = Subscription(name, filters, since, self._on_event)
        if name not in self._subscriptions and len(self._subscriptions) >= self._limits.subscriptions:
            raise ValueError(f"{self._limits.subscriptions} subscriptions are open; relays allow no more")
        self._subscriptions[name], self._asked[name] = subscription, role
        for connection in self._connections.values():
            if role in connection.roles:
                connection.requests.add(subscription)

    def unsubscribe(self, name: str) -> None:
        """Stop a subscription on all relays; unknown names are ignored."""
        self._subscriptions.pop(name, None)
        self._asked.pop(name, None)
        for connection in self._connections.values():
            connection.requests.remove(name)

    async def query(
        self, filters: Sequence[Filter], relays: Sequence[str] | None = None, *, timeout: float = 5
    ) -> QueryResult:
        """Ask once for stored events; `relays` None means the read relays, others are opened for the
        question.

        Returns what was verified when all have answered or the time is over. Raises ValueError for bad
        filters.
        """
        found: dict[str, Event] = {}

        async def collect(url: str, name: str, event: Event) -> None:
            found[event.id] = event

        self._queries += 1
        subscription = Subscription(f"?{self._queries}", filters, lambda url: None, collect, once=True)
        if relays is None:
            urls = [url for url, one in self._connections.items() if "read" in one.roles]
        else:
            urls = [url for url in map(self._address, relays) if url is not None]
        deadline = asyncio.get_running_loop().time() + timeout
        asking = (self._ask(url, subscription, deadline) for url in dict.fromkeys(urls))
        answers = await asyncio.gather(*asking)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await subscription.drained.wait()
        events = sorted(found.values(), key=lambda event: (-event.created_at, event.id))
        return QueryResult(tuple(events), len(answers), sum(answers))

    async def _ask(self, url: str, subscription: Subscription, deadline: float) -> bool:
        try:
            async with asyncio.timeout_at(deadline):
                connection = self._connections.get(url)
                if connection is not None:
                    return await self._await_answer(connection, subscription)
                async with self._slots:
                    connection = self._open_temporary(url)
                    try:
                        return await self._await_answer(connection, subscription)
                    finally:
                        await self._close_temporary(connection)
        except TimeoutError:
            return False

    async def _await_answer(self, connection: RelayConnection, subscription: Subscription) -> bool:
        if connection.state in ("waiting", "dead", "paused"):
            return False
        request = connection.requests.add(subscription)
        try:
            return request.answer is not None and await request.answer == "eose"
        finally:
            # The events may still be on their way through the checks; the socket is not needed for that, but
            # closing a temporary one drops them.
            if connection in self._temporary:
                await subscription.drained.wait()
            connection.requests.remove(subscription.name)

    # -- writing ---------------------------------------------------------------------------------------------

    async def publish(
        self, event: Event, relays: Sequence[str], *, timeout: float = 15
    ) -> dict[str, PublishResult]:
        """Send an event to relays and return each one's answer under the address as given. Never raises.

        Relays without a standing connection are opened for this event, two at a time; if others named them,
        private addresses are refused.
        """
        answers = await asyncio.gather(*(self._publish_one(event, url, timeout) for url in relays))
        return dict(zip(relays, answers, strict=True))

    async def _publish_one(self, event: Event, given: str, timeout: float) -> PublishResult:
        url = self._address(given)
        if url is None:
            return PublishResult("rejected", "address", "not the address of a relay on the public network")
        if not self._started:
            return PublishResult("unreachable", message="the relay connections are stopped")
        connection = self._connections.get(url)
        if connection is not None:
            return await connection.publish(event, timeout)
        try:
            async with asyncio.timeout(timeout), self._slots:
                connection = self._open_temporary(url)
                try:
                    return await connection.publish(event, timeout)
                finally:
                    await self._close_temporary(connection)
        except TimeoutError:
            return PublishResult("unreachable", message="no connection in time")

    def _address(self, given: str) -> str | None:
        try:
            url = normalise_relay_url(given)
            if url in self._connections or url in self._own or self._private:
                return url
            return normalise_relay_url(given, foreign=True)
        except ValueError:
            return None

    def _open_temporary(self, url: str) -> RelayConnection:
        public_only = not self._private and url not in self._own and self._engine.proxy is None
        connection = RelayConnection(url, self._engine, temporary=True, public_only=public_only)
        self._temporary.add(connection)
        connection.start()
        return connection

    async def _close_temporary(self, connection: RelayConnection) -> None:
        self._temporary.discard(connection)
        await connection.close()

    # -- looking ---------------------------------------------------------------------------------------------

    def status(self) -> list[dict[str, Any]]:
        """Return one row per standing relay; see RelayConnection.status."""
        return [one.status() for one in self._connections.values()]

    def connected(self, role: str | None = None) -> int:
        """Return how many standing relays (with that role) are connected now."""
        return sum(
            one.connected and (role is None or role in one.roles) for one in self._connections.values()
        )

    def dial_now(self) -> int:
        """Let no standing relay wait any longer for its next attempt; returns how many were waiting."""
        return sum(one.dial_now() for one in self._connections.values())

    def statistics(self) -> dict[str, int]:
        """Return counters of the whole pool."""
        return {
            "signature_checks": self._pipeline.signature_checks,
            "verified_ids": len(self._pipeline.verified),
            "handler_failures": self._pipeline.handler_failures,
        }

    async def wait_for(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until a condition on the connections' states holds; False if it does not in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not condition():
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiters.discard(waiter)
        return condition()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self._was_connected is not (now_connected := self.connected() > 0):
            self._was_connected = now_connected
            if now_connected:
                self._on_connected()
