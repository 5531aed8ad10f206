"""The search for advisors (docs/protocol/04-marketplace-and-nostr.md §8).

Relays are asked for everything, and what fits is chosen here: criteria never leave the node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from hive_shared import vc
from hive_shared.canonical import JsonValue, decode_object
from hive_shared.errors import Ambiguous, FeatureDisabled, HiveError, InvalidParams, NotFound
from hive_shared.market import market_events
from hive_shared.market.market_events import ProfileAdvert
from hive_shared.nostr.event import Event, check, parse_event
from hive_shared.nostr.keys import npub_encode, parse_pubkey
from hive_shared.nostr.pow import committed_bits
from hive_shared.nostr.reasons import NostrInvalid

from cl_hive_comms.domain import names
from cl_hive_comms.domain.advert import INCONSISTENT, LEGACY, CachedOffer, CachedProfile
from cl_hive_comms.domain.market_match import Criteria, Found, Ranked, Scorer, Searched, search
from cl_hive_comms.services.advert_cache import AdvertCache
from cl_hive_comms.services.advert_index import AdvertIndex
from cl_hive_comms.services.ports_identity import Clock

NAME: Final = "market-adverts"
"""The name of the subscription."""
FILTERS: Final[Sequence[Mapping[str, Any]]] = (
    {
        "kinds": [market_events.PROFILE],
        "#t": [market_events.TOPICS[market_events.PROFILE], market_events.LEGACY_TOPIC],
    },
    {"kinds": [market_events.OFFER], "#t": [market_events.TOPICS[market_events.OFFER]]},
    {"kinds": [market_events.DELETION], "#k": [str(kind) for kind in market_events.ADVERTS]},
)
"""What is asked of relays: one-letter tags alone, since others are refused or ignored (§4.2)."""
SOURCES: Final = ("nostr", "archon", "gossip", "directory", "referral", "local")
OLD_S: Final = 3_600
RESULT_S: Final = 3_600
_TIMEOUT_S: Final = 5.0
_AHEAD_S: Final = 900
_KEPT_RESULTS: Final = 20
_ID_CHARS: Final = 64


class Answered(Protocol):
    """What relays said to a question (hive_shared.nostr.relay.QueryResult)."""

    @property
    def events(self) -> tuple[Event, ...]: ...
    @property
    def asked(self) -> int: ...
    @property
    def answered(self) -> int: ...


class Relays(Protocol):
    """The relay connections (transport.nostr)."""

    def ask(self, name: str, filters: Sequence[Mapping[str, Any]]) -> None: ...
    def stop_asking(self, name: str) -> None: ...
    async def look(self, filters: Sequence[Mapping[str, Any]], timeout: float) -> Answered | None: ...


class MarketSettings(msgspec.Struct, frozen=True):
    """The operator's options for the search (04 §13)."""

    enabled: bool
    subscribe: bool
    require_did: bool
    min_trust: int
    min_relays: int
    weights: Mapping[str, float]


class Answer(msgspec.Struct, frozen=True):
    """Who fits. `first` is the index of the first one shown; `total` counts all that fit."""

    result_id: str
    found: tuple[Found, ...]
    first: int
    total: int
    sources: Mapping[str, str]
    single_source: bool


class _Result(msgspec.Struct, frozen=True):
    until: int
    pubkeys: tuple[str, ...]


class DiscoveryService:
    """Searches what the cache has, after asking the relays anew where that is old.

    `own_key` is the node's; `named` gives the key behind a local name of the operator's, None for nobody's.
    """

    def __init__(
        self,
        cache: AdvertCache,
        relays: Relays,
        *,
        settings: Callable[[], MarketSettings],
        own_key: Callable[[], str],
        named: Callable[[str], str | None],
        now: Clock,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.cache, self._relays = cache, relays
        self._index = AdvertIndex(cache)
        self._settings, self._own_key, self._named = settings, own_key, named
        self._now, self._random_bytes = now, random_bytes
        self._results: dict[str, _Result] = {}
        self._looked_at: int | None = None
        self._single_source = False
        self._one_look = asyncio.Lock()

    @property
    def enabled(self) -> bool:
        """Whether the operator has the market on."""
        return self._settings().enabled

    @property
    def looked_at(self) -> int | None:
        """When relays were last asked for all there is, Unix seconds."""
        return self._looked_at

    # -- the subscription ----------------------------------------------------------------------------

    def follow(self, *, subscribe: bool) -> None:
        """Have adverts come by themselves, or no longer."""
        if subscribe and self._settings().enabled:
            self._relays.ask(NAME, FILTERS)
        else:
            self._relays.stop_asking(NAME)

    # -- searching -----------------------------------------------------------------------------------

    async def discover(self, asked: Criteria, *, refresh: bool = False, cached: bool = False) -> Answer:
        """Who fits, best first; `refresh` asks the relays whatever the cache's age, `cached` never asks.

        Raises FeatureDisabled when the market is off.
        """
        settings = self._enabled()
        nostr = "ok" if cached else await self._refreshed(settings, refresh)
        await self.cache.settle()
        now = self._now()
        found = self._search(asked, settings, now)
        shown = tuple(
            Found(one.row, self._offers_of(one.row.pubkey, now), score, trust)
            for one, score, trust in found[asked.offset : asked.offset + asked.limit]
        )
        sources = dict.fromkeys(SOURCES, "unavailable") | {"nostr": nostr, "local": "ok"}
        return Answer(
            result_id=self._keep([one.row.pubkey for one, _, _ in found]),
            found=shown,
            first=asked.offset + 1,
            total=len(found),
            sources=sources,
            single_source=self._single_source,
        )

    def _enabled(self) -> MarketSettings:
        settings = self._settings()
        if not settings.enabled:
            raise FeatureDisabled(
                "the advisor market is off: hive-comms-marketplace-enabled=false",
                reason="marketplace_disabled",
            )
        return settings

    async def _refreshed(self, settings: MarketSettings, refresh: bool) -> str:
        """Ask the relays where that is due; the state of the source."""
        if not settings.subscribe:
            return "unavailable"
        async with self._one_look:
            recent = self._looked_at is not None and 0 <= self._now() - self._looked_at < OLD_S
            if recent and not refresh:
                return "ok"
            answered = await self._relays.look(FILTERS, _TIMEOUT_S)
            if answered is None or not answered.asked:
                return "unavailable"
            await self.cache.take([("", event) for event in answered.events])
            self._single_source = answered.answered < settings.min_relays
            if not answered.answered:
                return "timeout"
            self._looked_at = self._now()
            return "ok"

    def _search(self, asked: Criteria, settings: MarketSettings, now: int) -> list[Ranked]:
        weights = {**settings.weights, **(asked.weights or {})}
        if not any(weights.values()):
            raise InvalidParams("these weights and the operator's leave none above 0")
        require_did = asked.require_did or (settings.require_did and not asked.include_hidden)
        question = msgspec.structs.replace(asked, require_did=require_did)
        own = vc.did_of(self._own_key())
        return search(
            question,
            (one for advisor_id, one in self._index.rows().items() if advisor_id != own),
            lambda pubkey: self._offers_of(pubkey, now),
            now,
            weights,
            None if asked.include_hidden else settings.min_trust,
        )

    def _offers_of(self, pubkey: str, now: int) -> tuple[CachedOffer, ...]:
        mine = self.cache.offers.get(pubkey)
        if not mine:
            return ()
        return tuple(
            one for one in mine.values() if one.offer.status == "active" and one.offer.expires_at > now
        )

    def _keep(self, pubkeys: Sequence[str]) -> str:
        result_id = self._random_bytes(8).hex()
        self._results[result_id] = _Result(self._now() + RESULT_S, tuple(pubkeys))
        while len(self._results) > _KEPT_RESULTS:
            del self._results[next(iter(self._results))]
        return result_id

    # -- who is meant --------------------------------------------------------------------------------

    def key_at(self, index: str, result_id: str = "") -> str:
        """The key at an index of a search result, the last one's unless a result is named.

        Raises NotFound, reason `stale_index`.
        """
        wanted = result_id or next(reversed(self._results), "")
        result = self._results.get(wanted)
        number = int(index) if index.strip().isdigit() and len(index) <= 6 else 0
        if result is None or result.until <= self._now() or not 1 <= number <= len(result.pubkeys):
            raise NotFound(
                f"index {index.strip()[:20]} belongs to no search result of the last hour; search again with"
                " hive-client-discover, or give a name or a key",
                reason="stale_index",
            )
        return result.pubkeys[number - 1]

    def name_of(self, pubkey: str) -> str:
        """How the advisor of a key calls itself; empty when no profile is known."""
        row = self.cache.profiles.get(vc.did_of(pubkey))
        return "" if row is None else row.profile.name

    async def resolve(self, text: str, result_id: str = "") -> Found:
        """The advisor that a text means: a local name, an index of the last result, a name of a profile, a
        key or an id. Only advisors with a profile are found.

        Raises NotFound, Ambiguous with the keys that share a name, InvalidParams, FeatureDisabled.
        """
        settings = self._enabled()
        await self.cache.settle()
        pubkey = self._key_of(text.strip(), result_id)
        row = self.cache.profiles.get(vc.did_of(pubkey))
        if row is None:
            raise NotFound(
                f"no profile of {text[:80]!a} is known; search with hive-client-discover refresh=true"
            )
        now = self._now()
        score = Scorer(Criteria(), now, settings.weights).score(Searched.of(row))
        return Found(row, self._offers_of(pubkey, now), score, row.trust(now))

    async def key_of(self, text: str) -> str:
        """The key that a text means, as `resolve`; one given as such needs no profile."""
        self._enabled()
        await self.cache.settle()
        return self._key_of(text.strip(), "")

    def _key_of(self, text: str, result_id: str) -> str:
        names.refuse_secret(text)
        if (own := self._named(text)) is not None:
            return own
        if names.is_index(text) and len(text) < _ID_CHARS:
            return self.key_at(text, result_id)
        if text.startswith(("npub1", "did:nostr:", "nostr:")) or len(text) == _ID_CHARS:
            try:
                return parse_pubkey(text)
            except ValueError as error:
                raise InvalidParams(str(error)) from None
        key = names.key_of(text)
        same = [row for row in self.cache.profiles.values() if text and names.key_of(row.profile.name) == key]
        if not same:
            raise NotFound(
                f"no advisor of the market is called {text[:80]!a}; search with hive-client-discover"
            )
        if len(same) > 1:
            keys = sorted(npub_encode(row.pubkey) for row in same)
            raise Ambiguous(
                f"{text[:80]!a} is the name of {len(same)} advisors; use the index of a search result, or a"
                " key",
                data={"candidates": list(keys[:20])},
            )
        return same[0].pubkey

    def warnings(self, row: CachedProfile) -> list[str]:
        """What an operator should know before believing an advert."""
        found = []
        if row.claimed_did is not None:
            why = "is another's" if row.did_state == "failed" else "nobody could check"
            found.append(f"claims an id that {why}")
        if LEGACY in row.flags:
            found.append("published by early software")
        if INCONSISTENT in row.flags:
            found.append("its tags contradict its document")
        if row.aging(self._now()):
            found.append("not renewed for more than 30 days")
        if scripts := names.mixed_scripts(row.profile.name):
            found.append(f"its name mixes {' and '.join(scripts)} letters")
        if (other := self._index.known_longest(row)) is not None:
            found.append(f"its name looks like that of {other.profile.name!a}, who is known for longer")
        return found

    # -- checking ------------------------------------------------------------------------------------

    async def verify(self, given: object) -> dict[str, JsonValue]:
        """Every check of §5.2 for an event, or for the id of one that a relay still has: name and result.

        Raises NotFound for an id that no relay has, InvalidParams for what is neither, FeatureDisabled.
        """
        self._enabled()
        claimed = given if isinstance(given, dict) else await self._looked_up(given)
        checks: dict[str, JsonValue] = {}
        try:
            event = parse_event(claimed)
        except NostrInvalid as error:
            return {"ok": False, "checks": {"fields": str(error)}}
        checks["fields"] = "ok"
        return self._verified(event, checks)

    async def _looked_up(self, given: object) -> dict[str, Any]:
        text = given.strip() if isinstance(given, str) else ""
        if text.startswith("{"):
            return dict(decode_object(text, max_bytes=131_072, max_depth=16))
        if len(text) != _ID_CHARS or not all(char in "0123456789abcdef" for char in text):
            raise InvalidParams("give an event as JSON, or the 64 hex digits of an event's id")
        answered = await self._relays.look([{"ids": [text]}], _TIMEOUT_S)
        if answered is None or not answered.events:
            raise NotFound(f"no relay of this node has the event {text}")
        return answered.events[0].to_json()

    def _verified(self, event: Event, checks: dict[str, JsonValue]) -> dict[str, JsonValue]:
        now = self._now()
        forged = check(event)
        checks["id"] = "wrong" if forged == "id_mismatch" else "ok"
        checks["signature"] = "ok" if forged is None else "not checked" if forged == "id_mismatch" else forged
        checks["created_at"] = "ok" if event.created_at <= now + _AHEAD_S else "in the future"
        expiration = event.expiration
        checks["expiration"] = "expired" if expiration is not None and expiration <= now else "ok"
        checks["blocked"] = "blocked" if self.cache.is_blocked(event.pubkey) else "ok"
        result: dict[str, JsonValue] = {
            "event_id": event.id,
            "kind": event.kind,
            "npub": npub_encode(event.pubkey),
        }
        result["pow_bits"] = 0 if forged else committed_bits(event)
        try:
            found = market_events.read(event)
            checks["content"] = "ok"
            if isinstance(found, ProfileAdvert):
                # Without an own signature nothing binds the id to the key.
                checks["proof"] = "ok" if found.prover is not None else "only cl-hive-archon can check it"
                checks["did"] = found.did_state
                checks["tags"] = "contradict the document" if INCONSISTENT in found.flags else "ok"
        except InvalidParams as error:
            checks["content"] = f"{error.reason}: {error.detail}"
        except HiveError as error:
            checks["content"] = error.detail
        good = ("ok", "verified", "unverified", "only cl-hive-archon can check it")
        return {**result, "ok": all(one in good for one in checks.values()), "checks": checks}
