"""The search for advisors over its tables, with relays that hold what they are given."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import market_documents as made
from cl_hive_comms.domain.market_match import WEIGHTS, criteria
from cl_hive_comms.plugin.parts import MIGRATIONS
from cl_hive_comms.services.advert_cache import AdvertCache
from cl_hive_comms.services.discovery_service import Answer, DiscoveryService, MarketSettings
from cl_hive_comms.storage.advert_store import AdvertStore
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.market import market_events
from hive_shared.nostr.event import Event, build
from hive_shared.nostr.relay import QueryResult
from hive_shared.store import Db
from msgspec.structs import replace

RELAY = "wss://relay.example"


class MarketWorld:
    """The cache and the search; `shelf` is what relays answer, `asked` what they were asked."""

    def __init__(self, file: Path) -> None:
        self.now, self.file = made.AT, file
        self.settings = MarketSettings(True, True, False, 0, 2, dict(WEIGHTS))
        self.min_pow, self.answering, self.relays = 0, 2, 2
        self.hired: set[str] = set()
        self.shelf: list[Event] = []
        self.asked: list[Sequence[Mapping[str, Any]]] = []
        self.following = False
        self.logged: list[dict[str, Any]] = []
        self.open()

    def open(self) -> None:
        """Begin on the tables as they are."""
        self.db = Db.open(self.file, MIGRATIONS)
        self.cache = AdvertCache(
            self.db,
            AdvertStore(),
            kept=lambda: self.hired,
            min_pow=lambda: self.min_pow,
            now=lambda: self.now,
            log=self._log,
        )
        self.discovery = DiscoveryService(
            self.cache,
            self,
            settings=lambda: self.settings,
            own_key=lambda: xonly_pubkey(made.key(9)),
            named=lambda text: None,
            now=lambda: self.now,
            random_bytes=os.urandom,
        )

    def reopen(self) -> None:
        """As after a restart of the plugin."""
        self.db.close()
        self.open()

    def _log(self, level: str, event: str, /, **fields: object) -> None:
        self.logged.append({"event": event, **fields})

    # -- the relays ----------------------------------------------------------------------------------

    def ask(self, name: str, filters: Sequence[Mapping[str, Any]]) -> None:
        self.following = True

    def stop_asking(self, name: str) -> None:
        self.following = False

    async def look(self, filters: Sequence[Mapping[str, Any]], timeout: float) -> QueryResult | None:
        self.asked.append(filters)
        events = tuple(self.shelf) if self.answering else ()
        wanted = [one for each in filters for one in each.get("ids", ())]
        if wanted:
            events = tuple(one for one in events if one.id in wanted)
        return QueryResult(events, self.relays, self.answering) if self.relays else None

    # -- doing ---------------------------------------------------------------------------------------

    async def take(self, *events: Event) -> None:
        """Events as the subscription brings them."""
        for event in events:
            await self.cache.on_event(RELAY, event)
        await self.cache.settle()

    async def search(self, **asked: Any) -> Answer:
        """The answer to criteria."""
        return await self.discovery.discover(criteria(asked))

    async def names(self, **asked: Any) -> list[str]:
        """Who fits, best first."""
        return [one.row.profile.name for one in (await self.search(**asked)).found]

    def set(self, **changes: Any) -> None:
        """Change options."""
        self.settings = replace(self.settings, **changes)


def withdrawn(secret: Secret, event: Event, at: int) -> tuple[Event, Event]:
    """Deletion and tombstone of an advert, as its author publishes them at a time."""
    kind, d = event.kind, event.tag_values("d")[0]
    ends = at + 90 * 86_400
    end = market_events.deletion_event(event.pubkey, kind, d, [event.id])
    grave = market_events.tombstone_event(kind, d, ends_at=ends)
    return build(secret, *end, created_at=at - 1), build(secret, *grave, created_at=at)
