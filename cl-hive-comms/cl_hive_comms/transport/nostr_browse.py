"""Adverts read over sockets of their own (docs/protocol/04-marketplace-and-nostr.md §7.4).

Nothing on these sockets names this node: no login, no filter with a key of ours, nothing published.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from hive_shared.nostr.inbound import Deliver
from hive_shared.nostr.relay import QueryResult, RelayLimits, RelayPool

from cl_hive_comms.domain.relay_sets import MAX_ISOLATED
from cl_hive_comms.services.ports_identity import Clock, Log

Filters = Mapping[str, Sequence[Mapping[str, Any]]]


class IsolatedReader:
    """Connected only while there are relays to read from and something to ask."""

    def __init__(self, on_event: Deliver, *, now: Clock, log: Log, private_relays: bool) -> None:
        self._on_event, self._now, self._log, self._private = on_event, now, log, private_relays
        self._pool: RelayPool | None = None
        self._proxy: str | None = None
        self._asked: Filters = {}

    async def follow(self, relays: Sequence[str], filters: Filters, proxy: str | None) -> None:
        """Ask these relays for these events from now on, by the name of the subscription."""
        if not relays or not filters or proxy != self._proxy:
            await self.stop()
        if not relays or not filters:
            return
        if self._pool is None:
            # No key is given: a login would say whose socket this is.
            self._pool = RelayPool(
                on_event=self._on_event,
                now=self._now,
                rng=os.urandom,
                proxy=proxy,
                log=self._log,
                limits=RelayLimits(connections=MAX_ISOLATED),
                private_relays=self._private,
            )
            self._proxy = proxy
            await self._pool.start()
        for name in self._asked.keys() - filters.keys():
            self._pool.unsubscribe(name)
        for name, wanted in filters.items():
            if self._asked.get(name) != wanted:
                self._pool.subscribe(name, wanted, lambda url: None)
        self._asked = dict(filters)
        await self._pool.set_relays(relays, (), ())

    async def look(self, filters: Sequence[Mapping[str, Any]], timeout: float) -> QueryResult | None:
        """Ask once for stored adverts; None while nothing is browsed."""
        return None if self._pool is None else await self._pool.query(filters, timeout=timeout)

    async def stop(self) -> None:
        """Close the sockets."""
        pool, self._pool, self._asked = self._pool, None, {}
        if pool is not None:
            await pool.stop()

    def status(self) -> list[dict[str, Any]]:
        """One row per relay."""
        return [] if self._pool is None else self._pool.status()
