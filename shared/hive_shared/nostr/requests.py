"""The open REQs of one connection: asking, paging backwards, and every way a relay can refuse (04 §7.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

from hive_shared.nostr.inbound import Subscription
from hive_shared.nostr.relay_info import RelayInfo
from hive_shared.nostr.relay_limits import RelayLimits, Rng

_PAGE_IDS = 1_000
_WAITS = "waits for another subscription to end: the relay takes no more"
_UNENDED_MAX = 3

RequestState = Literal["pending", "live", "failed"]


class Request:
    """One subscription as asked on one socket, with the page of stored events being read."""

    __slots__ = (
        "_before",
        "_changed",
        "_fresh",
        "_ids",
        "_oldest",
        "_pages",
        "again",
        "answer",
        "awaits_authentication",
        "note",
        "page",
        "page_id",
        "part",
        "state",
        "subscription",
        "timer",
        "unended",
        "until",
        "wire_id",
    )

    def __init__(self, subscription: Subscription, changed: Callable[[], None]) -> None:
        self.subscription = subscription
        self.state: RequestState = "pending"
        self.wire_id = ""
        self.note = ""
        self.awaits_authentication = False
        self.timer: asyncio.TimerHandle | None = None
        self.answer: asyncio.Future[str] | None = None
        self.page = 0
        self.page_id = ""
        """The wire id under which the page comes."""
        self.until: int | None = None
        self.part: int | None = None
        """Which filter is read back by itself; None: all of them, which are asked for the newest page."""
        self.again = False
        """Live events were kept waiting while this was being read: what it reads may lack some of them."""
        self.unended = 0
        """How often in a row the end of the stored events did not come."""
        self._changed = changed
        self._fresh = 0
        self._oldest: int | None = None
        self._ids: set[str] = set()
        self._before: set[str] = set()
        # Who names a limit wants that many and not the whole history.
        self._pages = not any("limit" in one for one in subscription.filters)

    def received(self, claimed: dict[str, Any], wire_id: str) -> None:
        """Note what a page of stored events holds. The values are claims:
        they only steer how far we read back.
        """
        # Live events come in between and are of any age (wraps are dated back): they are no part of a page.
        if self.state != "pending" or not self._pages or wire_id != self.page_id:
            return
        identity, created_at = claimed.get("id"), claimed.get("created_at")
        if type(identity) is not str or type(created_at) is not int or len(identity) != 64 or created_at < 0:
            return
        # Bounded by the page: a relay that sends more than was asked for is not followed further back.
        if identity not in self._ids and len(self._ids) < _PAGE_IDS:
            self._ids.add(identity)
            # A page ends where the one before began, so the event on the border comes twice.
            self._fresh += identity not in self._before
            self._oldest = created_at if self._oldest is None else min(self._oldest, created_at)

    def next_page(self) -> bool:
        """Move to the page before this one; False if this page brought nothing new.

        A relay gives so many events for each filter, so of several each is read back by itself: where one has
        been read to last year, another may not be at yesterday.
        """
        several = len(self.subscription.filters) > 1
        if self._fresh and self._oldest is not None and (self.part is not None or not several):
            self.page, self.until, self._fresh = self.page + 1, self._oldest, 0
            self._before, self._ids = self._ids, set()
            return True
        nothing = self.part is None and not self._fresh
        after = 0 if self.part is None else self.part + 1
        if not several or nothing or after >= len(self.subscription.filters):
            return False
        self.part, self.page, self.until = after, self.page + 1, None
        self._fresh, self._oldest, self._before, self._ids = 0, None, set(), set()
        return True

    def rewind(self) -> None:
        """Begin again with the newest page."""
        self.state, self.note = "pending", ""
        self.page, self.until, self.part, self._fresh, self._oldest = 0, None, None, 0, None
        self._before, self._ids = set(), set()

    def settle(self, state: RequestState, answer: str, note: str = "") -> None:
        """End the waiting for stored events."""
        self.state, self.note = state, note
        self._before, self._ids = set(), set()
        self.stop_timer()
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(answer)
        self._changed()

    def fail(self, note: str) -> None:
        """The relay does not serve this; noted in the status, other relays go on."""
        self.awaits_authentication = False
        self.settle("failed", "failed", note[:160])

    def stop_timer(self) -> None:
        """Cancel the timer, if one runs."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Requests:
    """All subscriptions of one connection. Wire ids are random per REQ, so late answers cannot be mixed
    up.
    """

    def __init__(
        self,
        url: str,
        limits: RelayLimits,
        rng: Rng,
        send: Callable[[list[Any]], bool],
        changed: Callable[[], None],
        count: Callable[[str], None],
    ) -> None:
        self.info: RelayInfo | None = None
        """What the relay says of its limits, once known; only lowers ours."""
        self._url = url
        self._limits = limits
        self._rng = rng
        self._send = send
        self._changed = changed
        self._count = count
        self._requests: dict[str, Request] = {}
        self._wire: dict[str, Request] = {}
        self._catching_up: asyncio.TimerHandle | None = None
        self._caught_up = float("-inf")
        self._spacing = limits.catch_up_seconds

    def add(self, subscription: Subscription) -> Request:
        """Ask for a subscription, replacing one of the same name."""
        self.remove(subscription.name)
        request = Request(subscription, self._changed)
        if subscription.once:
            request.answer = asyncio.get_running_loop().create_future()
        self._requests[subscription.name] = request
        self._ask(request)
        return request

    def remove(self, name: str) -> None:
        """Stop a subscription; events still under way are ignored."""
        request = self._requests.pop(name, None)
        if request is not None:
            self._forget_wire(request, tell=True)
            self._ask_waiting()

    def send_all(self) -> None:
        """Ask for everything again after a connect, each from where its `since` says."""
        for request in self._requests.values():
            self._ask(request)

    def disconnected(self) -> None:
        """The socket is gone: nothing is pending on it any more."""
        if self._catching_up is not None:
            self._catching_up.cancel()
            self._catching_up = None
        for request in self._requests.values():
            self._forget_wire(request, tell=False)
            request.awaits_authentication = False
            request.state = "pending"

    def give_up(self) -> None:
        """Answer waiting queries: the relay is not reachable."""
        for request in list(self._requests.values()):
            if request.answer is not None:
                request.settle("failed", "unreachable")

    def fell_behind(self) -> None:
        """Live events wait unread. Relays skip events for a reader who keeps them waiting, so what they have
        stored is read again beside the live subscriptions: a second later, and while it goes on after twice
        as long each time, up to once a minute (docs/decisions/0291-reading-again-sooner.md).
        """
        if self._catching_up is not None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() - self._caught_up > 2 * self._limits.catch_up_every_seconds:
            self._spacing = self._limits.catch_up_seconds
        at = max(loop.time() + self._limits.catch_up_seconds, self._caught_up + self._spacing)
        self._catching_up = loop.call_at(at, self._catch_up)

    def _catch_up(self) -> None:
        self._catching_up = None
        self._caught_up = asyncio.get_running_loop().time()
        self._spacing = min(2 * self._spacing, self._limits.catch_up_every_seconds)
        self._count("catch_ups")
        for request in self._requests.values():
            if request.subscription.once:
                continue
            if request.state == "pending":
                # Asked for before the events that were skipped: it cannot be relied on to bring them.
                request.again = True
            elif request.state == "live":
                request.rewind()
                self._ask_page(request)
                self._changed()

    def _read_back(self, request: Request) -> None:
        """Stored events were read as far as they are; what was skipped meanwhile is still to come."""
        if request.again:
            request.again = False
            self.fell_behind()

    def by_wire_id(self, wire_id: str) -> Request | None:
        """Return the request an EVENT belongs to."""
        return self._wire.get(wire_id)

    def settled(self) -> bool:
        """True if there are subscriptions and each has reached live events or was refused."""
        standing = [one for one in self._requests.values() if not one.subscription.once]
        return bool(standing) and all(one.state != "pending" for one in standing)

    def stored_events_end(self, wire_id: str) -> None:
        """EOSE: read the page before this one, or be live."""
        request = self._wire.get(wire_id)
        if request is None or request.state != "pending":
            return
        if request.subscription.once:
            self._forget_wire(request, tell=True)
            request.settle("live", "eose")
            self._ask_waiting()
        elif request.page < self._limits.pages and request.next_page():
            self._ask_page(request)
        else:
            self._drop_pages(request)
            request.unended = 0
            request.settle("live", "eose")
            self._ask_waiting()
            self._read_back(request)

    def closed(self, wire_id: str, message: str) -> Request | None:
        """CLOSED: ask again later, or give up; returns the request if the relay wants authentication
        first.
        """
        request = self._wire.get(wire_id)
        if request is None:
            self._count("unknown_subscription")
            return None
        if wire_id != request.wire_id:
            # The live subscription goes on; only reading further back was refused.
            self._wire.pop(wire_id)
            request.settle("live", "eose", message[:160])
            self._read_back(request)
            return None
        self._forget_wire(request, tell=False)
        if message.startswith("auth-required:"):
            return request
        if message.startswith("rate-limited:") and not request.subscription.once:
            request.note = message[:160]
            delay = self._limits.rate_limited_seconds
            request.timer = asyncio.get_running_loop().call_later(delay, self._ask, request)
            return None
        request.fail(message)
        self._ask_waiting()
        return None

    def notice(self, message: str) -> None:
        """A NOTICE while a REQ waits is how some relays refuse it: counts as failure of the newest one."""
        pending = [one for one in self._requests.values() if one.state == "pending" and one.wire_id]
        if pending:
            pending[-1].settle("failed", "failed", f"NOTICE {message[:150]}")

    def authenticated(self, accepted: bool, message: str) -> None:
        """Ask again for what waited for authentication, or give it up."""
        for request in list(self._requests.values()):
            if request.awaits_authentication:
                request.awaits_authentication = False
                if accepted:
                    self._ask(request)
                else:
                    request.fail(message or "authentication refused")

    def status(self) -> dict[str, str]:
        """Return name and state of each standing subscription."""
        return {
            name: f"{one.state}: {one.note}" if one.note else one.state
            for name, one in self._requests.items()
            if not one.subscription.once
        }

    def _ask(self, request: Request) -> None:
        self._forget_wire(request, tell=True)
        request.rewind()
        if self._full():
            request.note = _WAITS
            self._changed()
            return
        request.wire_id = request.page_id = self._new_wire_id(request)
        if not self._send(["REQ", request.wire_id, *self._filters(request)]):
            del self._wire[request.wire_id]
            request.wire_id = ""
            return
        self._start_timer(request)
        self._changed()

    def _ask_page(self, request: Request) -> None:
        self._drop_pages(request)
        if self._full():
            request.settle("live", "eose", "reading back stopped: the relay takes no more subscriptions")
            return
        wire_id = request.page_id = self._new_wire_id(request)
        if not self._send(["REQ", wire_id, *self._filters(request)]):
            self._wire.pop(wire_id)
            request.settle("live", "eose", "reading back stopped: too much is waiting")
            return
        self._start_timer(request)

    def _full(self) -> bool:
        return self.info is not None and len(self._wire) >= (self.info.subscriptions or len(self._wire) + 1)

    def _ask_waiting(self) -> None:
        for request in self._requests.values():
            if request.note == _WAITS and request.state == "pending" and not self._full():
                self._ask(request)

    def _filters(self, request: Request) -> list[dict[str, object]]:
        most = self._limits.page
        if self.info is not None and self.info.limit is not None:
            most = min(most, self.info.limit)
        since = request.subscription.since(self._url)
        asked = []
        filters = request.subscription.filters
        for one in filters if request.part is None else filters[request.part : request.part + 1]:
            wire = {key: list(value) if isinstance(value, tuple) else value for key, value in one.items()}
            wanted = wire.get("limit")
            wire["limit"] = min(wanted, most) if isinstance(wanted, int) else most
            if since is not None:
                own = one.get("since")
                wire["since"] = max(0, since, own) if isinstance(own, int) else max(0, since)
            if request.until is not None:
                own = one.get("until")
                wire["until"] = min(own, request.until) if isinstance(own, int) else request.until
            asked.append(wire)
        return asked

    def _new_wire_id(self, request: Request) -> str:
        wire_id = self._rng(8).hex()
        self._wire[wire_id] = request
        return wire_id

    def _drop_pages(self, request: Request) -> None:
        for wire_id in [w for w, one in self._wire.items() if one is request and w != request.wire_id]:
            del self._wire[wire_id]
            self._send(["CLOSE", wire_id])

    def _forget_wire(self, request: Request, *, tell: bool) -> None:
        request.stop_timer()
        for wire_id in [w for w, one in self._wire.items() if one is request]:
            del self._wire[wire_id]
            if tell:
                self._send(["CLOSE", wire_id])
        request.wire_id = ""

    def _start_timer(self, request: Request) -> None:
        request.stop_timer()
        loop = asyncio.get_running_loop()
        request.timer = loop.call_later(self._limits.eose_seconds, self._no_eose, request)

    def _no_eose(self, request: Request) -> None:
        request.timer = None
        if request.state == "pending":
            self._count("eose_timeouts")
            # Live events may well arrive; only the end of the stored ones is unknown.
            self._drop_pages(request)
            request.settle("live", "timeout", "no EOSE")
            # Behind a long backlog the end comes late; a relay that never sends one is not asked for ever.
            request.unended += 1
            if request.unended <= _UNENDED_MAX and not request.subscription.once:
                request.again = True
                self._read_back(request)
