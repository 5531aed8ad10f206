"""hive-comms-publish-event: an event signed with the node's key and kept until the relays have it
(docs/protocol/08-client-and-plugins.md §3.4, docs/protocol/04-marketplace-and-nostr.md §5.1).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any, Final

import msgspec
from hive_shared.errors import EmergencyStop, FeatureDisabled, InvalidParams, RateLimited
from hive_shared.nostr.event import Event, body_fields, build, to_text
from hive_shared.nostr.reasons import EventInvalid
from hive_shared.rate_limit import SlidingWindows
from hive_shared.store import Db, Tx

from ..domain.published_kinds import (
    MAX_EVENT_BYTES,
    check_kind,
    check_tags,
    family_of,
    hourly,
)
from ..domain.relay_sets import LOW_REDUNDANCY
from .identity_service import IdentityService
from .messenger import Messenger
from .ports_commands import KillSwitch

RETRIED_S: Final = 86_400
_FIELDS: Final = frozenset({"kind", "content", "tags", "created_at", "pubkey"})
_MAX_AHEAD_S: Final = 300


class Published(msgspec.Struct, frozen=True):
    """What the caller gets: the event's id and author, how far it is (the outbox states), and a slug when
    something could be better."""

    id: str
    pubkey: str
    state: str
    warning: str | None = None


class EventPublisher:
    """Signs and enqueues events of siblings."""

    def __init__(
        self,
        db: Db,
        identity: IdentityService,
        messenger: Messenger,
        kill_switch: KillSwitch,
        *,
        extra_kinds: Callable[[], Collection[int]],
        enabled: Callable[[str], bool],
        low_redundancy: Callable[[int], bool],
        now: Callable[[], int],
    ) -> None:
        self._db, self._identity, self._messenger, self._kill = db, identity, messenger, kill_switch
        self._extra_kinds, self._enabled, self._now = extra_kinds, enabled, now
        self._low_redundancy = low_redundancy
        self._hours = SlidingWindows(now, window_s=3_600)

    async def publish(self, given: Any) -> Published:
        """Sign an unsigned event and store it for publication; the same event again is the same one.

        Raises InvalidParams, Unauthorized (kind), FeatureDisabled (the market's publish option is off),
        EmergencyStop, RateLimited (04 §4.1), Capacity.
        """
        created_at, kind, tags, content = self._read(given)
        check_kind(kind, self._extra_kinds())
        family = family_of(kind)
        if family is not None and not self._enabled(f"{family}-publish"):
            raise FeatureDisabled(
                f"hive-comms-{family}-publish is false: events of kind {kind} stay unsigned"
            )
        if self._kill.engaged():
            raise EmergencyStop("nothing is published until the operator releases the emergency stop")
        check_tags(kind, tags)
        event = self._sign(kind, tags, content, created_at)
        state = await self._store(event)
        self._messenger.kick()
        warning = LOW_REDUNDANCY if self._low_redundancy(kind) else None
        return Published(event.id, event.pubkey, state, warning)

    # -- inside --------------------------------------------------------------------------------------

    def _read(self, given: Any) -> tuple[int, int, tuple[tuple[str, ...], ...], str]:
        if not isinstance(given, dict):
            raise InvalidParams("event_json must be a JSON object: kind, content, tags, created_at")
        unknown = sorted(str(name) for name in given.keys() - _FIELDS)
        if unknown:
            hint = "; it is signed here" if {"sig", "id"} & set(unknown) else ""
            raise InvalidParams(
                f"event_json has {', '.join(unknown)[:100]}, which an unsigned event has not{hint}"
            )
        now = self._now()
        try:
            fields = body_fields({"created_at": now, "tags": [], **given})
        except EventInvalid as error:
            raise InvalidParams(f"event_json: {error}") from None
        if fields[0] > now + _MAX_AHEAD_S:
            raise InvalidParams(
                f"event_json: created_at is more than {_MAX_AHEAD_S} s ahead of the node's clock"
            )
        return fields

    def _sign(self, kind: int, tags: tuple[tuple[str, ...], ...], content: str, created_at: int) -> Event:
        # The author is this node's key whatever the event says: a caller's `pubkey` proves nothing.
        try:
            event = build(self._identity.secret(), kind, tags, content, created_at)
        except EventInvalid as error:
            raise InvalidParams(f"event_json: {error}") from None
        size = len(to_text(event.to_json()).encode())
        if size > MAX_EVENT_BYTES:
            raise InvalidParams(
                f"the event has {size} bytes; {MAX_EVENT_BYTES} is the most", reason="too_large"
            )
        return event

    async def _store(self, event: Event) -> str:
        key = f"event:{event.id}"

        def body(tx: Tx) -> str:
            found = self._messenger.find(tx, key)
            if found is not None:
                return found[1]
            what, limit = hourly(event.kind, event.tags)
            if not self._hours.allow("publish", what, limit):
                wait = self._hours.retry_after("publish", what, limit)
                raise RateLimited(
                    f"kind {event.kind} is published at most {limit} times an hour",
                    data={"retry_after": wait},
                )
            now = self._now()
            self._messenger.enqueue(
                tx,
                recipient=event.id,
                content=json.dumps(event.to_json()),
                kind="event",
                idempotency_key=key,
                expires_at=now + RETRIED_S,
                sender=event.pubkey,
            )
            return "queued"

        return await self._db.write(body)
