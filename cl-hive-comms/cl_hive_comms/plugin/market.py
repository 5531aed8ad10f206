"""The search for advisors on this node's adapters; part of the composition root."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hive_shared.canonical import JsonValue
from hive_shared.nostr.event import Event
from hive_shared.runtime import MethodSpec, PluginApp
from hive_shared.store import Db

from cl_hive_comms.commands.market_search import MarketSearchCommands
from cl_hive_comms.domain.market_match import WEIGHTS
from cl_hive_comms.options import Config
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.advert_cache import AdvertCache
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.discovery_service import NAME, DiscoveryService, MarketSettings
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.ports_identity import Log
from cl_hive_comms.storage.advert_store import AdvertStore
from cl_hive_comms.transport.nostr import NostrTransport


@dataclass
class MarketParts:
    """What the market's methods and loops reach for."""

    cache: AdvertCache
    discovery: DiscoveryService
    nostr: NostrTransport
    config: Callable[[], Config]
    contract_counts: Callable[[], Awaitable[dict[str, int]]]

    def start_loops(self, app: PluginApp) -> None:
        """None while the market is off."""
        if self.discovery.enabled:
            app.spawn("adverts", self.cache.run)
            app.spawn("adverts-tidy", self.cache.tidy, every=60.0, first=30.0)

    async def status(self) -> dict[str, JsonValue]:
        """Contracts by state, how relays fare, and how much they may learn."""
        return {
            "contract_counts": {**await self.contract_counts()},
            "relays": self.nostr.status()["relays"],
            "privacy": self.config().get("nostr-privacy"),
        }


def market_methods(parts: Callable[[], MarketParts]) -> list[MethodSpec]:
    """The methods of the search."""
    return MarketSearchCommands(lambda: parts().discovery, unix_now, lambda: parts().status()).specs()


def compose_market(
    *,
    db: Db,
    nostr: NostrTransport,
    config: Callable[[], Config],
    identity: IdentityService,
    credentials: CredentialService,
    aliases: AliasService,
    contract_counts: Callable[[], Awaitable[dict[str, int]]],
    log: Log,
) -> MarketParts:
    """The cache on the relays' subscription; what siblings asked relays for goes to them as before."""
    cache = AdvertCache(
        db,
        AdvertStore(),
        kept=lambda: {one.pubkey for one in credentials.advisors() if one.pubkey is not None},
        min_pow=lambda: int(config().get("marketplace-min-pow")),
        now=unix_now,
        log=log,
    )

    def named(text: str) -> str | None:
        advisor = aliases.find(text)
        return None if advisor is None else advisor.pubkey

    discovery = DiscoveryService(
        cache,
        nostr,
        settings=lambda: _settings(config()),
        own_key=lambda: identity.pubkey,
        named=named,
        now=unix_now,
        random_bytes=os.urandom,
    )
    others = nostr.on_asked

    async def asked(relay_url: str, name: str, event: Event) -> None:
        if name == NAME:
            await cache.on_event(relay_url, event)
        elif others is not None:
            await others(relay_url, name, event)

    nostr.on_asked = asked
    aliases.search = discovery
    discovery.follow(subscribe=_settings(config()).subscribe)
    return MarketParts(cache, discovery, nostr, config, contract_counts)


def _settings(config: Config) -> MarketSettings:
    weights = {name: float(share) for name, share in config.get("marketplace-weights")}
    return MarketSettings(
        enabled=bool(config.get("marketplace-enabled")),
        subscribe=bool(config.get("marketplace-subscribe")),
        require_did=bool(config.get("marketplace-require-did")),
        min_trust=int(config.get("marketplace-min-trust")),
        min_relays=int(config.get("marketplace-min-relays")),
        weights={**WEIGHTS, **weights},
    )
