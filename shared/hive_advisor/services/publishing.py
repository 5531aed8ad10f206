"""Publishing events: worked for, signed, on disk, then at the relays, again until enough have them
(docs/protocol/04-marketplace-and-nostr.md §5.1, §5.3).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from hive_shared.errors import Conflict, PolicyDenied, RateLimited
from hive_shared.market.market_events import OFFER, PROFILE, Unsigned, deletion_event, tombstone_event
from hive_shared.nostr.event import Event, Tags, build, parse_event, verify
from hive_shared.nostr.pow import Progress
from hive_shared.nostr.publishing import PublishResult
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from hive_advisor.domain.advert import RETRY_FOR_S, OwnEvent, OwnOffer, OwnProfile, Purpose, pause_s, said
from hive_advisor.domain.keyring import Keyring

MIN_RELAYS: Final = 3
_AHEAD_S: Final = 300
_BROADCAST_S: Final = 4 * 3_600
_MINE_S: Final = 120.0
_LESS_BITS: Final = 4
_HOUR: Final = 3_600
_AN_HOUR_OF: Final = {PROFILE: 1, OFFER: 10}
_PATIENCE_S: Final = 5.0

Mine = Callable[..., Awaitable[Tags]]
"""`hive_shared.nostr.pow.mine`."""


class EventRelays(Protocol):
    """Puts events to relays."""

    async def publish(
        self, event: Event, relays: Sequence[str], timeout: float
    ) -> Mapping[str, PublishResult]: ...


class AdvertRows(Protocol):
    """storage.advert_store.AdvertStore, where the methods are described."""

    def profile(self, tx: Tx) -> OwnProfile | None: ...
    def put_profile(self, tx: Tx, profile: OwnProfile) -> None: ...
    def offers(self, tx: Tx) -> list[OwnOffer]: ...
    def offer(self, tx: Tx, offer_id: str) -> OwnOffer | None: ...
    def put_offer(self, tx: Tx, offer: OwnOffer) -> None: ...
    def event(self, tx: Tx, event_id: str) -> OwnEvent | None: ...
    def newest(self, tx: Tx, address: str) -> OwnEvent | None: ...
    def versions(self, tx: Tx, address: str) -> list[str]: ...
    def published_since(self, tx: Tx, kind: int, since: int) -> list[int]: ...
    def due(self, tx: Tx, now: int) -> list[OwnEvent]: ...
    def add_event(self, tx: Tx, address: str, event: OwnEvent) -> None: ...
    def set_event(self, tx: Tx, event: OwnEvent) -> None: ...


class PublishingService:
    """Owns our events. Nothing is published while everything is halted, or somebody else uses our key; what
    is withdrawn is withdrawn all the same."""

    def __init__(
        self,
        db: Db,
        rows: AdvertRows,
        keyring: Keyring,
        relays: EventRelays,
        mine: Mine,
        *,
        own: Sequence[str],
        bits: int,
        halted: Callable[[], bool],
        shared: Callable[[Tx], bool],
        now: Callable[[], int],
        alone: RowByRow,
    ) -> None:
        self._alone = alone
        self._db, self._rows, self._keyring, self._relays, self._mine = db, rows, keyring, relays, mine
        self._own, self._bits, self._halted, self._shared = tuple(own), bits, halted, shared
        self._now = now

    @property
    def relays(self) -> tuple[str, ...]:
        """Where events go."""
        return self._own

    @property
    def bits(self) -> int:
        """How much work goes into an advert."""
        return self._bits

    def address(self, kind: int, d: str) -> str:
        """What names all versions of an event of the key in use."""
        return f"{kind}:{self._keyring.current}:{d}"

    async def check(self, kind: int) -> None:
        """Whether an advert of this kind may be published now. Raises PolicyDenied, RateLimited."""
        if self._halted():
            raise PolicyDenied(
                "everything is halted; 'hive-advisor guard release' ends that", reason="halted"
            )
        now, most = self._now(), _AN_HOUR_OF[kind]
        lately = await self._db.read(lambda tx: self._rows.published_since(tx, kind, now - _HOUR))
        if len(lately) >= most:
            wait = lately[-most] + _HOUR - now
            raise RateLimited(
                f"readers take {most} of these an hour from one key; the next one in {wait} s",
                data={"retry_after": wait},
            )

    async def publish(
        self,
        unsigned: Unsigned,
        *,
        noted: Callable[[Tx], None],
        progress: Progress | None = None,
    ) -> OwnEvent:
        """Work for an advert, sign it and put it to the relays; `noted` joins the transaction in which it is
        kept. Raises as `check`, Conflict: the clock stands more than 300 s before the last version."""
        kind, tags, content = unsigned
        await self.check(kind)
        d = next(tag[1] for tag in tags if tag[0] == "d")
        created_at = await self._db.read(lambda tx: self._next(tx, self.address(kind, d)))
        worked = await self._worked(kind, tags, content, created_at, progress)
        key = self._keyring.secret(self._keyring.current)
        event = build(key, kind, worked, content, created_at)
        assert verify(event)

        def body(tx: Tx) -> OwnEvent:
            kept = self._kept(event, d, "publish", min(MIN_RELAYS, len(self._own)))
            last = self._rows.newest(tx, self.address(kind, d))
            if last is not None and last.created_at >= created_at:
                raise Conflict(f"a newer version of {d} was published meanwhile", reason="stale_state")
            self._rows.add_event(tx, self.address(kind, d), kept)
            noted(tx)
            return kept

        return await self._send(await self._db.write(body))

    async def withdraw(self, kind: int, d: str, *, ends_at: int, noted: Callable[[Tx], None]) -> OwnEvent:
        """Delete every version and leave a tombstone that nothing older can replace (04 §5.3).

        `ends_at` is when what is withdrawn would have ended. Returns the tombstone, which is worked for as
        what it replaces was: readers that ask for work would not see it else. Raises Conflict.
        """
        key, pubkey = self._keyring.secret(self._keyring.current), self._keyring.current
        address = self.address(kind, d)
        # One second for the deletion, which removes everything up to its own time, and one after it.
        at = await self._db.read(lambda tx: self._next(tx, address)) + 1
        _, tags, content = tombstone_event(kind, d, ends_at=ends_at)
        stone = build(key, kind, await self._worked(kind, tags, content, at, None), content, at)

        def body(tx: Tx) -> tuple[OwnEvent, OwnEvent]:
            last = self._rows.newest(tx, address)
            if last is not None and last.created_at >= at - 1:
                raise Conflict(f"{d} was published again meanwhile; withdraw it anew", reason="stale_state")
            gone = build(key, *deletion_event(pubkey, kind, d, self._rows.versions(tx, address)), at - 1)
            minimum = min(MIN_RELAYS, len(self._own))
            kept = self._kept(gone, d, "delete", minimum), self._kept(stone, d, "withdraw", minimum)
            self._rows.add_event(tx, f"5:{address}", kept[0])
            self._rows.add_event(tx, address, kept[1])
            noted(tx)
            return kept

        deletion, tombstone = await self._db.write(body)
        await self._send(deletion)
        return await self._send(tombstone)

    async def tick(self) -> int:
        """Send what relays have not taken, and every 4 h again what they may have lost; how many events."""
        if not self._own or await self._db.read(self._shared):
            return 0
        due = await self._db.read(lambda tx: self._rows.due(tx, self._now()))
        with self._alone.round("events") as alone:
            for event in due:
                if event.purpose != "publish" or not self._halted():
                    with alone(event.event_id):
                        await self._send(event)
        return len(due)

    async def state(self, kind: int, d: str) -> OwnEvent | None:
        """The newest event of an address."""
        return await self._db.read(lambda tx: self._rows.newest(tx, self.address(kind, d)))

    # -- inside ----------------------------------------------------------------------------------------

    def _next(self, tx: Tx, address: str) -> int:
        """The time of the next version: now, and after the last one."""
        last, now = self._rows.newest(tx, address), self._now()
        at = now if last is None else max(now, last.created_at + 1)
        if at > now + _AHEAD_S:
            raise Conflict(
                f"the last version is of {at - 1 - now} s from now: set the clock right", reason="clock"
            )
        return at

    async def _worked(
        self,
        kind: int,
        tags: Sequence[Sequence[str]],
        content: str,
        created_at: int,
        progress: Progress | None,
    ) -> Sequence[Sequence[str]]:
        """The tags with the work; with less of it, then none, where it takes too long."""
        for bits in dict.fromkeys((self._bits, max(0, self._bits - _LESS_BITS))):
            try:
                return await self._mine(
                    self._keyring.current,
                    kind,
                    tags,
                    content,
                    created_at,
                    bits,
                    timeout_s=_MINE_S,
                    progress=progress,
                )
            except TimeoutError:
                continue
        return tags

    def _kept(self, event: Event, d: str, purpose: Purpose, minimum: int) -> OwnEvent:
        now = self._now()
        document: dict[str, Any] = event.to_json()
        waiting = dict.fromkeys(self._own, "waiting")
        return OwnEvent(
            event.id,
            event.kind,
            d,
            event.created_at,
            document,
            purpose,
            "sending",
            waiting,
            minimum,
            now,
            now + RETRY_FOR_S,
            now,
        )

    async def _send(self, event: OwnEvent) -> OwnEvent:
        """Put an event to the relays that have not got it; one that enough have, to all of them."""
        again = event.state == "sent"
        wanted = tuple(event.relays) if again else event.open_relays
        answers = await self._relays.publish(parse_event(event.document), wanted, _PATIENCE_S)
        # A relay that had it and is silent today has it still, for all we know.
        news = {url: said(each) for url, each in answers.items() if each.accepted or not again}
        event = replace(event, relays={**event.relays, **news}, tries=event.tries + 1)
        now, expires = self._now(), parse_event(event.document).expiration
        ended = now >= event.until
        if (expires is not None and now >= expires) or (event.purpose == "delete" and ended and again):
            event = replace(event, state="given_up")
        elif again:
            event = replace(event, next_at=now + (_BROADCAST_S if news else pause_s(99)))
        elif event.taken >= event.minimum:
            event = replace(event, state="sent", next_at=now + _BROADCAST_S)
        elif ended or not event.open_relays:
            event = replace(event, state="given_up")
        else:
            event = replace(event, state="partial", next_at=now + pause_s(event.tries))
        await self._db.write(lambda tx: self._rows.set_event(tx, event))
        return event
