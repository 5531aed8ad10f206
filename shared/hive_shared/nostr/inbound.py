"""From received frame to verified event: bounded, fair between relays, and off the event loop (04 §5.2).

Each connection has an inbox. One task gathers small batches over all inboxes, direct messages first and one
event per relay in turn, and has them checked in a single worker thread: the loop never runs a signature
check, and a relay that floods fills only its own inbox, after which its socket is no longer read.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hive_shared.nostr.event import Event, check, parse_event
from hive_shared.nostr.filters import CompiledFilter, Filter, compile_filters
from hive_shared.nostr.reasons import NostrInvalid
from hive_shared.nostr.relay_limits import Log, RelayLimits

FORGED = frozenset({"id_mismatch", "bad_signature"})
"""Reasons that only a lying relay or author produces; they cost the relay, never the claimed author."""

Deliver = Callable[[str, str, Event], Awaitable[None]]
Report = Callable[[str], None]


class Subscription:
    """What is asked of relays under one name, and where the answers go."""

    __slots__ = (
        "compiled",
        "deliver",
        "drained",
        "filters",
        "name",
        "once",
        "priority",
        "since",
        "unsettled",
    )

    def __init__(
        self,
        name: str,
        filters: Iterable[Filter],
        since: Callable[[str], int | None],
        deliver: Deliver,
        *,
        once: bool = False,
    ) -> None:
        self.name = name
        self.filters = [dict(one) for one in filters]
        self.compiled: tuple[CompiledFilter, ...] = compile_filters(self.filters)
        self.since = since
        self.deliver = deliver
        self.once = once
        """A query: answered from stored events, outside the memory of what was delivered before."""
        self.priority = all(one.kinds is not None and one.kinds <= {4, 1059} for one in self.compiled)
        """Direct messages: they never wait behind adverts."""
        self.unsettled = 0
        self.drained = asyncio.Event()
        self.drained.set()

    def took(self) -> None:
        """Count an event that was queued for checking."""
        self.unsettled += 1
        self.drained.clear()

    def settled(self) -> None:
        """Count an event that was delivered or dropped; `drained` is set when none is left."""
        self.unsettled -= 1
        if not self.unsettled:
            self.drained.set()

    def matches(self, event: Event) -> bool:
        """Tell whether the event answers one of the filters."""
        return any(one.matches(event) for one in self.compiled)


@dataclass(slots=True, eq=False)
class Incoming:
    """One event as claimed by a relay, waiting to be checked."""

    url: str
    subscription: Subscription
    claimed: dict[str, Any]
    size: int
    report: Report


@dataclass(slots=True, eq=False)
class Inbox:
    """The unchecked events of one connection, direct messages apart from the rest."""

    limits: RelayLimits
    lanes: tuple[deque[Incoming], deque[Incoming]] = field(default_factory=lambda: (deque(), deque()))
    size: int = 0
    room: asyncio.Event = field(default_factory=asyncio.Event)

    def full(self) -> bool:
        """True while the connection must not read on."""
        return self.size >= self.limits.inbox_bytes or sum(map(len, self.lanes)) >= self.limits.inbox_events

    def take(self, lane: int) -> Incoming:
        """Remove and return the oldest of a lane."""
        item = self.lanes[lane].popleft()
        self.size -= item.size
        if not self.full():
            self.room.set()
        return item


class VerifiedIds:
    """The last verified event ids and the subscriptions they were delivered to. Claimed ids never get in."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ids: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def delivered(self, identity: object, subscription: str) -> bool:
        """Tell whether this event was verified and handed to that subscription before."""
        if type(identity) is not str:
            return False
        names = self._ids.get(identity)
        if names is None or subscription not in names:
            return False
        self._ids.move_to_end(identity)
        return True

    def add(self, identity: str, subscription: str) -> None:
        """Remember a verified event as delivered, forgetting the least recently seen beyond the bound."""
        self._ids[identity] = (*self._ids.pop(identity, ()), subscription)
        if len(self._ids) > self._size:
            self._ids.popitem(last=False)

    def forget(self, identity: str) -> None:
        """Let the event be delivered again, because handling it failed."""
        self._ids.pop(identity, None)

    def __len__(self) -> int:
        return len(self._ids)


class _Lane:
    """Verified events on their way to the handlers: one at a time, in order, bounded."""

    def __init__(self, limits: RelayLimits) -> None:
        self._limits = limits
        self._items: deque[tuple[Incoming, Event]] = deque()
        self._size = 0
        self._filled = asyncio.Event()

    def room(self) -> int:
        """How many more events may be verified for this lane now."""
        return 0 if self._size >= self._limits.lane_bytes else self._limits.lane_events - len(self._items)

    def put(self, item: Incoming, event: Event) -> None:
        self._items.append((item, event))
        self._size += item.size
        self._filled.set()

    async def get(self) -> tuple[Incoming, Event]:
        while not self._items:
            self._filled.clear()
            await self._filled.wait()
        item, event = self._items.popleft()
        self._size -= item.size
        return item, event


def check_batch(batch: list[Incoming], latest: int, now: int) -> list[Event | str]:
    """Check events from cheap to costly; an Event for each authentic one, a reason for each other.

    Never raises.
    """
    return [_check_one(item, latest, now) for item in batch]


def _check_one(item: Incoming, latest: int, now: int) -> Event | str:
    try:
        event = parse_event(item.claimed)
        if event.created_at > latest:
            return "future"
        expiration = event.expiration
        if expiration is not None and expiration <= now:
            return "expired"
        # Before the signature, because it is cheaper and depends on nothing but the same fields.
        if not item.subscription.matches(event):
            return "unasked"
        return check(event) or event
    except NostrInvalid as error:
        return error.reason
    except Exception:
        # Whatever a stranger finds to send must not end the loop that serves everybody else.
        return "error"


class InboundPipeline:
    """Checks what the connections queue and hands it to the subscriptions."""

    def __init__(self, *, limits: RelayLimits, now: Callable[[], int], log: Log) -> None:
        self._limits = limits
        self._now = now
        self._log = log
        self._inboxes: deque[Inbox] = deque()
        self._lanes = (_Lane(limits), _Lane(limits))
        self._work = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._executor: ThreadPoolExecutor | None = None
        self.verified = VerifiedIds(limits.verified_ids)
        self.handler_failures = 0
        self.signature_checks = 0

    def start(self) -> None:
        """Start the worker thread and the tasks; to be called on the loop."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="nostr-verify")
        self._tasks = [asyncio.create_task(self._check_loop(), name="nostr-verify")]
        self._tasks += [
            asyncio.create_task(self._deliver_loop(lane), name="nostr-deliver") for lane in self._lanes
        ]

    async def stop(self) -> None:
        """Drop what is queued and end; the handler that is running is cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def open_inbox(self) -> Inbox:
        """Return a new inbox that takes part in the round."""
        inbox = Inbox(self._limits)
        self._inboxes.append(inbox)
        return inbox

    def close_inbox(self, inbox: Inbox) -> None:
        """Forget an inbox and what is in it."""
        with suppress(ValueError):
            self._inboxes.remove(inbox)
        for lane in inbox.lanes:
            for item in lane:
                item.subscription.settled()
            lane.clear()

    async def put(self, inbox: Inbox, item: Incoming) -> None:
        """Queue a claimed event, waiting for room: the wait is what stops a flooding relay."""
        while inbox.full():
            inbox.room.clear()
            await inbox.room.wait()
        inbox.lanes[0 if item.subscription.priority else 1].append(item)
        item.subscription.took()
        inbox.size += item.size
        self._work.set()

    async def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = self._gather()
            if not batch:
                self._work.clear()
                await self._work.wait()
                continue
            now = self._now()
            latest = now + self._limits.future_seconds
            outcomes = await loop.run_in_executor(self._executor, check_batch, batch, latest, now)
            for item, outcome in zip(batch, outcomes, strict=True):
                self._settle(item, outcome)

    def _gather(self) -> list[Incoming]:
        """Take the next batch: up to three quarters direct messages, then the rest, fairly over the
        relays.
        """
        batch: list[Incoming] = []
        identities: set[object] = set()
        whole = self._limits.batch
        for number, share in ((0, whole * 3 // 4), (1, whole), (0, whole)):
            quota = min(share, len(batch) + self._lanes[number].room())
            self._take(number, quota, batch, identities)
        return batch

    def _take(self, lane: int, quota: int, batch: list[Incoming], identities: set[object]) -> None:
        idle = 0
        while len(batch) < quota and idle < len(self._inboxes):
            self._inboxes.rotate(-1)
            inbox = self._inboxes[0]
            waiting = inbox.lanes[lane]
            # An id that is in this batch already waits for its outcome: if true, it needs no second check.
            if not waiting or _identity(waiting[0]) in identities:
                idle += 1
                continue
            idle = 0
            item = inbox.take(lane)
            if self._known(item):
                self._drop(item, "duplicates")
                continue
            identities.add(_identity(item))
            batch.append(item)

    def _known(self, item: Incoming) -> bool:
        subscription = item.subscription
        return not subscription.once and self.verified.delivered(item.claimed.get("id"), subscription.name)

    def _settle(self, item: Incoming, outcome: Event | str) -> None:
        if isinstance(outcome, str):
            self.signature_checks += outcome == "bad_signature"
            self._drop(item, outcome)
            return
        self.signature_checks += 1
        if self._known(item):
            self._drop(item, "duplicates")
            return
        if not item.subscription.once:
            self.verified.add(outcome.id, item.subscription.name)
        item.report("events")
        self._lanes[0 if item.subscription.priority else 1].put(item, outcome)

    def _drop(self, item: Incoming, reason: str) -> None:
        item.report(reason)
        item.subscription.settled()

    async def _deliver_loop(self, lane: _Lane) -> None:
        while True:
            item, event = await lane.get()
            # Room in a full lane lets checking go on.
            self._work.set()
            subscription = item.subscription
            try:
                await subscription.deliver(item.url, subscription.name, event)
            except Exception as error:
                self.handler_failures += 1
                self.verified.forget(event.id)
                self._log(
                    "warn",
                    "nostr_handler_failed",
                    subscription=subscription.name,
                    event_id=event.id,
                    error=f"{type(error).__name__}: {error}",
                )
            finally:
                subscription.settled()


def _identity(item: Incoming) -> object:
    identity = item.claimed.get("id")
    # Other types may be unhashable; they fail the field check anyway and need no place in the set.
    return identity if type(identity) is str else id(item)
