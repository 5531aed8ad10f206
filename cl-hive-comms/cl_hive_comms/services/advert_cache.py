"""Adverts of others: taken in, kept, and let go (docs/protocol/04-marketplace-and-nostr.md §5.2, §5.3, §7.3).

Memory is what answers; the tables follow in batches. A crash loses what the relays still have.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from heapq import nsmallest
from typing import Final, Protocol

import msgspec
from hive_shared import vc
from hive_shared.errors import InvalidParams
from hive_shared.market import market_events
from hive_shared.market.market_events import Deletion, OfferAdvert, ProfileAdvert, Tombstone
from hive_shared.nostr.event import Event
from hive_shared.nostr.pow import committed_bits
from hive_shared.rate_limit import SlidingWindows
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Db, StoreError, Tx

from cl_hive_comms.domain import advert as rules
from cl_hive_comms.domain.advert import CachedOffer, CachedProfile
from cl_hive_comms.services.ports_identity import Clock, Log

BATCH: Final = 200
BATCH_S: Final = 0.25
_MAX_WAITING: Final = 2_000
_MAX_HELD: Final = 1_000
_AHEAD_S: Final = 900
_HOURLY: Final = {market_events.PROFILE: 3, market_events.OFFER: 10, market_events.DELETION: 20}
"""What one author may change in an hour (docs/decisions/0615-adverts-that-change-twice.md)."""
_MORE_WITH_DID: Final = 5
_EVICTED_AT_ONCE: Final = 50

Sighting = tuple[str, Event]
"""A relay's address and an event that it sent."""
_Read = ProfileAdvert | OfferAdvert | Tombstone | Deletion | InvalidParams
_Change = Callable[[Tx], None]


class AdvertRows(Protocol):
    """The tables (storage.advert_store)."""

    def put_profile(self, tx: Tx, row: CachedProfile, text: str) -> None: ...
    def drop_profile(self, tx: Tx, advisor_id: str) -> None: ...
    def profiles(self, tx: Tx) -> list[CachedProfile]: ...
    def document(self, tx: Tx, advisor_id: str) -> str | None: ...
    def put_offer(self, tx: Tx, row: CachedOffer) -> None: ...
    def drop_offer(self, tx: Tx, pubkey: str, offer_id: str) -> None: ...
    def offers(self, tx: Tx) -> list[CachedOffer]: ...
    def put_grave(self, tx: Tx, ref: str, pubkey: str, deleted_at: int) -> None: ...
    def drop_grave(self, tx: Tx, ref: str) -> None: ...
    def graves(self, tx: Tx) -> Iterable[tuple[str, str, int]]: ...
    def block(self, tx: Tx, ref: str, reason: str, until: int | None) -> None: ...
    def unblock(self, tx: Tx, ref: str) -> None: ...
    def blocked(self, tx: Tx) -> Iterable[tuple[str, str, int | None]]: ...


class AdvertCache:
    """What the market offers, as far as this node heard.

    `kept` gives the keys of advisors that the operator deals with: their rows stay. `min_pow` is the least
    proof of work that is taken.
    """

    def __init__(
        self,
        db: Db,
        rows: AdvertRows,
        *,
        kept: Callable[[], Collection[str]],
        min_pow: Callable[[], int],
        now: Clock,
        log: Log,
    ) -> None:
        self._db, self._rows = db, rows
        self._kept, self._min_pow, self._now, self._log = kept, min_pow, now, log
        self._alone = RowByRow(log)
        self.profiles: dict[str, CachedProfile] = {}
        self.changes = 0
        """Grows with every change of the profiles."""
        self.offers: dict[str, dict[str, CachedOffer]] = {}
        self.counters: Counter[str] = Counter()
        """Refused adverts by reason."""
        self.blocked: dict[str, tuple[str, int | None]] = {}
        """Blocked keys: why, and until when (None: for good)."""
        self._graves: dict[str, int] = {}
        self._offer_count = 0
        self._rates = SlidingWindows(now, window_s=3_600)
        self._held: dict[tuple[int, str, str], Sighting] = {}
        self._waiting: list[Sighting] = []
        self._came, self._room = asyncio.Event(), asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._unsaved: list[_Change] = []
        self._loaded = False

    # -- taking in -----------------------------------------------------------------------------------

    async def on_event(self, relay_url: str, event: Event) -> None:
        """An event of the subscription, its id and signature verified."""
        while len(self._waiting) >= _MAX_WAITING:
            self._room.clear()
            await self._room.wait()
        self._waiting.append((relay_url, event))
        self._came.set()

    async def run(self) -> None:
        """Take in what comes, some at a time; until cancelled."""
        await self.settle()
        while True:
            await self._came.wait()
            await asyncio.sleep(BATCH_S if len(self._waiting) < BATCH else 0)
            await self.settle()

    async def settle(self) -> None:
        """Take in what waits now."""
        await self.load()
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            self._room.set()
            await self.take(batch)
        self._came.clear()

    async def take(self, batch: Sequence[Sighting]) -> None:
        """Read verified events, keep what is new in them."""
        async with self._one_at_a_time:
            await self._load()
            new = [sighting for sighting in batch if self._is_new(*sighting)]
            read = await asyncio.to_thread(_read, [event for _, event in new])
            with self._alone.round("adverts") as alone:
                for (url, event), found in zip(new, read, strict=True):
                    with alone(event.id):
                        reason = found.reason if isinstance(found, InvalidParams) else self._apply(url, found)
                        self._count(event, reason)
            await self._save()

    def _count(self, event: Event, reason: str | None) -> None:
        # Somebody else's use of the kinds is nobody's fault.
        if reason is not None and reason != "foreign":
            self.counters[reason] += 1
        if reason in ("version_fell", "version_reused"):
            self._log("warning", "advert_refused", reason=reason, pubkey=event.pubkey, event_id=event.id)

    def _is_new(self, url: str, event: Event) -> bool:
        if event.kind not in (*market_events.ADVERTS, market_events.DELETION):
            return False
        if self.is_blocked(event.pubkey):
            self.counters["blocked"] += 1
            return False
        if event.kind != market_events.DELETION and committed_bits(event) < self._min_pow():
            self.counters["pow"] += 1
            return False
        profile = self.profiles.get(vc.did_of(event.pubkey))
        if profile is not None and profile.event_id == event.id:
            self._seen(profile, url)
            return False
        return all(one.event_id != event.id for one in self.offers.get(event.pubkey, {}).values())

    def _seen(self, row: CachedProfile, url: str) -> None:
        more = url and url not in row.relays and len(row.relays) < 8
        if not more and self._now() - row.last_seen < rules.DAY_S:
            return
        relays = (*row.relays, url) if more else row.relays
        self.changes += 1
        self.profiles[row.advisor_id] = msgspec.structs.replace(row, last_seen=self._now(), relays=relays)

    def _apply(self, url: str, found: ProfileAdvert | OfferAdvert | Tombstone | Deletion) -> str | None:
        """Keep what an event says; the reason where it is refused."""
        event = found.event
        if isinstance(found, Deletion):
            if not self._rates.allow("5", event.pubkey, _HOURLY[5]):
                return "rate"
            self._delete(found)
            return None
        if isinstance(found, Tombstone):
            self._bury(_address(event.kind, event.pubkey, found.d), event.pubkey, event.created_at)
            self._drop(event.kind, event.pubkey, found.d, event.created_at)
            return None
        if isinstance(found, ProfileAdvert):
            return self._profile(url, found)
        return self._offer(url, found)

    def _profile(self, url: str, found: ProfileAdvert) -> str | None:
        event, profile, now = found.event, found.profile, self._now()
        old = self.profiles.get(found.advisor_id)
        if self._is_dead(event, profile.subject_id):
            return "deleted"
        if old is not None and not rules.newer(event.created_at, event.id, (old.created_at, old.event_id)):
            return "older"
        if profile.valid_from > now + _AHEAD_S:
            return "future"
        if now - profile.valid_from > rules.FORGET_S:
            return "stale"
        text = profile.text()
        said = rules.subject_hash(text)
        if old is not None and (problem := rules.version_problem(old, profile, said)):
            return problem
        row = CachedProfile(
            advisor_id=found.advisor_id,
            pubkey=event.pubkey,
            profile=msgspec.structs.replace(profile, document={}),
            subject_hash=said,
            event_id=event.id,
            created_at=event.created_at,
            claimed_did=found.claimed_did,
            did_state=found.did_state,
            status=found.status,
            flags=found.flags,
            pow_bits=committed_bits(event),
            first_seen=now if old is None else old.first_seen,
            last_seen=now,
            relays=(url,) if url else (),
        )
        if not self._has_slot(url, event, profile.subject_id, row.did_proved):
            return "rate"
        if old is None and not self._room_for_profile(row):
            return "capacity"
        self.changes += 1
        self.profiles[row.advisor_id] = row
        self._unsaved.append(lambda tx: self._rows.put_profile(tx, row, text))
        return None

    def _offer(self, url: str, found: OfferAdvert) -> str | None:
        event, offer, now = found.event, found.offer, self._now()
        mine = self.offers.setdefault(event.pubkey, {})
        old = mine.get(offer.offer_id)
        if self._is_dead(event, offer.offer_id):
            return "deleted"
        if old is not None and not rules.newer(event.created_at, event.id, (old.created_at, old.event_id)):
            return "older"
        if offer.expires_at <= now:
            return "expired"
        known = self.profiles.get(vc.did_of(event.pubkey))
        if not self._has_slot(url, event, offer.offer_id, known is not None and known.did_proved):
            return "rate"
        row = CachedOffer(
            pubkey=event.pubkey,
            offer=offer,
            event_id=event.id,
            created_at=event.created_at,
            pow_bits=committed_bits(event),
            first_seen=now if old is None else old.first_seen,
            last_seen=now,
        )
        if old is None and not self._room_for_offer(row):
            return "capacity"
        self._offer_count += old is None
        self.offers.setdefault(event.pubkey, {})[offer.offer_id] = row
        self._unsaved.append(lambda tx: self._rows.put_offer(tx, row))
        return None

    # -- limits --------------------------------------------------------------------------------------

    def _has_slot(self, url: str, event: Event, d: str, did_proved: bool) -> bool:
        """Whether the author may change something now; what may not waits for the next free slot."""
        limit = _HOURLY[event.kind] * (_MORE_WITH_DID if did_proved else 1)
        place = (event.kind, event.pubkey, d)
        if self._rates.allow(str(event.kind), event.pubkey, limit):
            self._held.pop(place, None)
            return True
        held = self._held.get(place)
        if held is None and len(self._held) >= _MAX_HELD:
            return False
        if held is None or rules.newer(event.created_at, event.id, (held[1].created_at, held[1].id)):
            self._held[place] = (url, event)
        return False

    def _room_for_profile(self, row: CachedProfile) -> bool:
        if len(self.profiles) < rules.MAX_PROFILES or row.pubkey in self._kept():
            return True
        kept, now = self._kept(), self._now()
        others = [one for one in self.profiles.values() if one.pubkey not in kept]
        worst = nsmallest(_EVICTED_AT_ONCE, others, key=lambda one: (one.trust(now), one.last_seen))
        weaker = [one for one in worst if one.trust(now) <= row.trust(now)]
        for one in weaker:
            self._forget_profile(one.advisor_id)
        return bool(weaker)

    def _room_for_offer(self, row: CachedOffer) -> bool:
        if self._offer_count < rules.MAX_OFFERS or row.pubkey in self._kept():
            return True
        kept = self._kept()
        others = [one for key, mine in self.offers.items() if key not in kept for one in mine.values()]
        worst = nsmallest(_EVICTED_AT_ONCE, others, key=lambda one: (one.pow_bits, one.last_seen))
        weaker = [one for one in worst if one.pow_bits <= row.pow_bits]
        for one in weaker:
            self._forget_offer(one.pubkey, one.offer.offer_id)
        return bool(weaker)

    # -- what ends -----------------------------------------------------------------------------------

    def _is_dead(self, event: Event, d: str) -> bool:
        if _mention(event.pubkey, event.id) in self._graves:
            return True
        return event.created_at <= self._graves.get(_address(event.kind, event.pubkey, d), -1)

    def _delete(self, found: Deletion) -> None:
        event = found.event
        for identity in found.ids:
            self._bury(_mention(event.pubkey, identity), event.pubkey, event.created_at)
            profile = self.profiles.get(vc.did_of(event.pubkey))
            if profile is not None and profile.event_id == identity:
                self._forget_profile(profile.advisor_id)
            for one in list(self.offers.get(event.pubkey, {}).values()):
                if one.event_id == identity:
                    self._forget_offer(event.pubkey, one.offer.offer_id)
        for kind, d in found.addresses:
            self._bury(_address(kind, event.pubkey, d), event.pubkey, event.created_at)
            self._drop(kind, event.pubkey, d, event.created_at)

    def _drop(self, kind: int, pubkey: str, d: str, until: int) -> None:
        """Forget what stands at an address and is not later than a time."""
        self._held = {
            place: held
            for place, held in self._held.items()
            if place != (kind, pubkey, d) or held[1].created_at > until
        }
        if kind == market_events.PROFILE:
            row = self.profiles.get(vc.did_of(pubkey))
            if row is not None and row.profile.subject_id == d and row.created_at <= until:
                self._forget_profile(row.advisor_id)
        else:
            offer = self.offers.get(pubkey, {}).get(d)
            if offer is not None and offer.created_at <= until:
                self._forget_offer(pubkey, d)

    def _bury(self, ref: str, pubkey: str, at: int) -> None:
        if self._graves.get(ref, -1) >= at:
            return
        self._graves.pop(ref, None)
        self._graves[ref] = at
        self._unsaved.append(lambda tx: self._rows.put_grave(tx, ref, pubkey, at))
        while len(self._graves) > rules.MAX_GRAVES:
            self._unbury(next(iter(self._graves)))

    def _unbury(self, ref: str) -> None:
        self._graves.pop(ref, None)
        self._unsaved.append(lambda tx: self._rows.drop_grave(tx, ref))

    def _forget_profile(self, advisor_id: str) -> None:
        self.changes += 1
        self.profiles.pop(advisor_id, None)
        self._unsaved.append(lambda tx: self._rows.drop_profile(tx, advisor_id))

    def _forget_offer(self, pubkey: str, offer_id: str) -> None:
        mine = self.offers.get(pubkey, {})
        self._offer_count -= mine.pop(offer_id, None) is not None
        if not mine:
            self.offers.pop(pubkey, None)
        self._unsaved.append(lambda tx: self._rows.drop_offer(tx, pubkey, offer_id))

    # -- blocked by the operator ---------------------------------------------------------------------

    def is_blocked(self, pubkey: str) -> bool:
        """Whether the operator blocked this key, and still does."""
        found = self.blocked.get(pubkey)
        return found is not None and (found[1] is None or found[1] > self._now())

    async def block(self, pubkey: str, reason: str, until: int | None) -> None:
        """Let go of a key's adverts and take no more; `until` in Unix seconds, None is for good."""
        async with self._one_at_a_time:
            await self._load()
            await self._db.write(lambda tx: self._rows.block(tx, pubkey, reason, until))
            self.blocked[pubkey] = (reason, until)
            self._let_go(pubkey)
            await self._save()

    async def follow_blocklist(self) -> None:
        """Read again whom the operator blocks: a restore wrote it. Their adverts are let go."""
        async with self._one_at_a_time:
            if not self._loaded:
                return
            rows = await self._db.read(lambda tx: list(self._rows.blocked(tx)))
            self.blocked = {ref: (reason, until) for ref, reason, until in rows}
            for pubkey in filter(self.is_blocked, list(self.blocked)):
                self._let_go(pubkey)
            await self._save()

    def _let_go(self, pubkey: str) -> None:
        if (profile := self.profiles.get(vc.did_of(pubkey))) is not None:
            self._forget_profile(profile.advisor_id)
        for one in list(self.offers.get(pubkey, {}).values()):
            self._forget_offer(pubkey, one.offer.offer_id)

    async def unblock(self, pubkey: str) -> bool:
        """Lift it; what the key says comes with its next advert. False when it was not blocked."""
        async with self._one_at_a_time:
            await self._load()
            if pubkey not in self.blocked:
                return False
            await self._db.write(lambda tx: self._rows.unblock(tx, pubkey))
            del self.blocked[pubkey]
            return True

    # -- keeping -------------------------------------------------------------------------------------

    async def document(self, advisor_id: str) -> str | None:
        """The text of a kept profile."""
        await self.settle()
        return await self._db.read(lambda tx: self._rows.document(tx, advisor_id))

    async def tidy(self) -> None:
        """Give held changes their slot, and let go of what ended; run every minute."""
        held = [*self._held.values()]
        if held:
            await self.take(held)
        async with self._one_at_a_time:
            await self._load()
            now, kept = self._now(), self._kept()
            for row in list(self.profiles.values()):
                if now - row.profile.valid_from > rules.FORGET_S and row.pubkey not in kept:
                    self._forget_profile(row.advisor_id)
            for mine in list(self.offers.values()):
                for one in list(mine.values()):
                    if one.offer.expires_at <= now:
                        self._forget_offer(one.pubkey, one.offer.offer_id)
            for ref in [ref for ref, at in self._graves.items() if now - at > rules.GRAVE_S]:
                self._unbury(ref)
            await self._save()

    async def load(self) -> None:
        """Read the tables, once."""
        async with self._one_at_a_time:
            await self._load()

    async def _load(self) -> None:
        if self._loaded:
            return

        def body(
            tx: Tx,
        ) -> tuple[list[CachedProfile], list[CachedOffer], list[tuple[str, str, int]], list[_Block]]:
            rows = self._rows
            return rows.profiles(tx), rows.offers(tx), list(rows.graves(tx)), list(rows.blocked(tx))

        profiles, offers, graves, blocked = await self._db.read(body)
        self.changes += 1
        self.profiles = {row.advisor_id: row for row in profiles}
        for one in offers:
            self.offers.setdefault(one.pubkey, {})[one.offer.offer_id] = one
        self._offer_count = len(offers)
        self._graves = {ref: at for ref, _, at in graves}
        self.blocked = {ref: (reason, until) for ref, reason, until in blocked}
        self._loaded = True

    async def _save(self) -> None:
        changes = list(self._unsaved)
        if not changes:
            return

        def body(tx: Tx) -> None:
            for change in changes:
                change(tx)

        try:
            # The relays still have what a power cut takes.
            await self._db.write(body, durable=False)
        except StoreError as error:
            # They stay for the next time.
            self._log("error", "adverts_not_stored", changes=len(changes), why=str(error))
            return
        del self._unsaved[: len(changes)]


_Block = tuple[str, str, int | None]


def _read(events: Sequence[Event]) -> list[_Read]:
    """Each event's meaning, or why it has none; off the loop."""
    found: list[_Read] = []
    for event in events:
        try:
            found.append(market_events.read(event))
        except InvalidParams as error:
            found.append(error)
    return found


def _address(kind: int, pubkey: str, d: str) -> str:
    return f"{kind}:{pubkey}:{d}"


def _mention(pubkey: str, event_id: str) -> str:
    # With the author: an id in somebody else's deletion says nothing.
    return f"{pubkey}:{event_id}"
