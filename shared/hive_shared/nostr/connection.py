"""One relay: connect, subscribe, authenticate, publish, and come back after every kind of failure (04
§7.2).
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import msgspec

from hive_shared.crypto import Secret
from hive_shared.nostr.dialer import (
    Socket,
    acknowledge,
    clock_offset,
    close_socket,
    dial,
    socket_errors,
    unread_bytes,
)
from hive_shared.nostr.event import Event, build, to_text
from hive_shared.nostr.frames import decode_json
from hive_shared.nostr.inbound import FORGED, InboundPipeline, Inbox, Incoming
from hive_shared.nostr.publishing import Publications, PublishResult
from hive_shared.nostr.reasons import FrameInvalid
from hive_shared.nostr.relay_info import RelayInfos
from hive_shared.nostr.relay_limits import Log, RelayLimits, Rng, Sleep, backoff_delay
from hive_shared.nostr.requests import Request, Requests

State = Literal["connecting", "open", "auth", "subscribed", "waiting", "dead", "paused", "closing", "closed"]

KIND_AUTH = 22_242
CONNECTED: frozenset[State] = frozenset({"open", "auth", "subscribed"})
_FULL_SCORE = 100
_FRAMES_BETWEEN_YIELDS = 16
_EVENTS_BETWEEN_LOOKS = 16


class Engine(msgspec.Struct, frozen=True):
    """What all connections share."""

    limits: RelayLimits
    pipeline: InboundPipeline
    now: Callable[[], int]
    rng: Rng
    sleep: Sleep
    log: Log
    secret: Callable[[], Secret | None]
    proxy: tuple[str, int] | None
    infos: RelayInfos
    changed: Callable[[], None]


class RelayConnection:
    """The task that owns one relay's socket. All methods are called on the event loop."""

    def __init__(
        self, url: str, engine: Engine, *, temporary: bool = False, public_only: bool = False
    ) -> None:
        self.url = url
        self.state: State = "connecting"
        self.may_authenticate = False
        self.roles: frozenset[str] = frozenset()
        self.counters: Counter[str] = Counter()
        self.score = _FULL_SCORE
        self.last_ok: int | None = None
        self.last_error = ""
        self.clock_offset: float | None = None
        self.failures = 0
        self.retry_at = 0.0
        self._engine = engine
        self._limits = engine.limits
        self._temporary = temporary
        self._public_only = public_only
        self._socket: Socket | None = None
        self._inbox: Inbox | None = None
        self._outbox: asyncio.Queue[str] = asyncio.Queue(engine.limits.outbound)
        self._task: asyncio.Task[None] | None = None
        self._forged: deque[float] = deque()
        self._pause = False
        self._dial_again = asyncio.Event()
        self._challenge: str | None = None
        self._auth_wanted = False
        self._auth_id: str | None = None
        self._authenticated = False
        self._auth_refused = False
        self._closing: asyncio.Task[None] | None = None
        self._tokens = float(engine.limits.events_per_second)
        self._refilled = 0.0
        self._live_events = 0
        self.requests = Requests(
            url, engine.limits, engine.rng, self._send, self._requests_changed, self.count
        )
        self._publications = Publications(self._send, engine.limits.outbound)

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin connecting."""
        self._task = asyncio.create_task(self._run(), name=f"nostr-relay {self.url}")

    async def close(self) -> None:
        """Close the socket in order and end; waiting publishes get `unreachable`."""
        self._set("closing")
        if self._socket is not None:
            await close_socket(self._socket, self._limits.close_seconds + 0.5)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._publications.give_up("closed")
        self._set("closed")

    def dial_now(self) -> bool:
        """End the wait for the next attempt; False when none is waited for, or the relay is paused."""
        if self.state not in ("waiting", "dead") or self._dial_again.is_set():
            return False
        self.retry_at = asyncio.get_running_loop().time()
        self._dial_again.set()
        return True

    @property
    def connected(self) -> bool:
        """True while frames can be exchanged."""
        return self.state in CONNECTED

    def count(self, what: str) -> None:
        """Count what happened on this relay, and let forged events cost it its score and then a pause."""
        self.counters[what] += 1
        if what == "events":
            self.last_ok = self._engine.now()
            self.score = min(_FULL_SCORE, self.score + 1)
        elif what in FORGED:
            self.score = max(0, self.score - 10)
            self._count_forged()
        elif what in ("malformed", "oversize", "field"):
            self.score = max(0, self.score - 1)

    def _count_forged(self) -> None:
        now = asyncio.get_running_loop().time()
        self._forged.append(now)
        while self._forged[0] < now - self._limits.forged_window_seconds:
            self._forged.popleft()
        if len(self._forged) > self._limits.forged_limit and not self._pause:
            self._pause = True
            self._forged.clear()
            self.last_error = "sent forged events"
            self._engine.log("warn", "nostr_relay_paused", relay=self.url, seconds=self._limits.pause_seconds)
            if self._socket is not None:
                # Not from inside the reader: closing waits for the peer, and the reader may be that wait.
                self._closing = asyncio.create_task(
                    close_socket(self._socket, self._limits.close_seconds + 0.5)
                )

    def _set(self, state: State) -> None:
        if state != self.state and (self.state != "closing" or state == "closed"):
            self.state = state
            self._engine.changed()

    async def _run(self) -> None:
        while True:
            self._set("connecting")
            loop = asyncio.get_running_loop()
            try:
                socket = await dial(
                    self.url, limits=self._limits, proxy=self._engine.proxy, public_only=self._public_only
                )
            except Exception as error:  # TLS, DNS, sockets and the library each bring exceptions of their own
                self._failed(error)
            else:
                up_since = loop.time()
                self.clock_offset = clock_offset(socket, self._engine.now())
                await self._session(socket)
                if loop.time() - up_since >= self._limits.stable_seconds:
                    self.failures = 0
            if self._temporary:
                self._publications.give_up(self.last_error)
                self.requests.give_up()
                self._set("closed")
                return
            self.failures += 1
            await self._wait_to_retry()

    def _failed(self, error: BaseException) -> None:
        self.last_error = f"{type(error).__name__}: {error}"[:200]
        self.counters["connect_failures"] += 1
        # The first failure says it all; the others are in the counters.
        if self.failures == 0:
            self._engine.log("info", "nostr_relay_unreachable", relay=self.url, error=self.last_error)

    async def _wait_to_retry(self) -> None:
        if self._pause:
            delay = self._limits.pause_seconds
        else:
            delay = backoff_delay(self.failures, self._limits, self._engine.rng)
        self.retry_at = asyncio.get_running_loop().time() + delay
        self._dial_again.clear()
        pause = asyncio.ensure_future(self._engine.sleep(delay))
        self._set(
            "paused" if self._pause else "dead" if self.failures >= self._limits.dead_after else "waiting"
        )
        self.requests.give_up()
        asked = asyncio.create_task(self._dial_again.wait())
        try:
            await asyncio.wait((pause, asked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            asked.cancel()
        self._pause = False

    async def _session(self, socket: Socket) -> None:
        self._socket = socket
        self._inbox = self._engine.pipeline.open_inbox()
        self._outbox = asyncio.Queue(self._limits.outbound)
        self._challenge, self._auth_id = None, None
        self._auth_wanted = self._authenticated = self._auth_refused = False
        self.counters["connects"] += 1
        self._set("open")
        writer = asyncio.create_task(self._write(socket), name=f"nostr-write {self.url}")
        learner = asyncio.create_task(self._learn(), name=f"nostr-info {self.url}")
        try:
            self.requests.send_all()
            self._publications.send_all()
            await self._read(socket, self._inbox)
        except Exception as error:
            self.last_error = f"{type(error).__name__}: {error}"[:200]
        finally:
            self._socket = None
            writer.cancel()
            learner.cancel()
            self._engine.pipeline.close_inbox(self._inbox)
            self.requests.disconnected()
            self._publications.disconnected()
            self._set("connecting")
            await close_socket(socket, self._limits.close_seconds + 0.5)

    async def _learn(self) -> None:
        # Beside the session, not before it: most relays name nothing that matters, and some never answer.
        if "read" in self.roles:
            self.requests.info = await self._engine.infos.of(self.url, public_only=self._public_only)
            self._engine.changed()

    # -- frames ----------------------------------------------------------------------------------------------

    def _send(self, frame: list[Any]) -> bool:
        """Queue a frame; False while there is no socket or its queue is full."""
        if self._socket is None:
            return False
        try:
            self._outbox.put_nowait(to_text(frame))
        except asyncio.QueueFull:
            self.counters["busy"] += 1
            return False
        return True

    async def _write(self, socket: Socket) -> None:
        with suppress(*socket_errors()):  # the reader meets the same error and reports it
            while True:
                await socket.send(await self._outbox.get())

    async def _read(self, socket: Socket, inbox: Inbox) -> None:
        handled = 0
        while True:
            message = await socket.recv()
            acknowledge(socket)
            handled += 1
            if handled % _FRAMES_BETWEEN_YIELDS == 0:
                # Buffered frames are handed out without suspending; the rest of the program wants a turn too.
                await asyncio.sleep(0)
            if not isinstance(message, str):
                self.count("malformed")
                continue
            try:
                frame = decode_json(message, max_bytes=self._limits.frame_bytes)
            except FrameInvalid as error:
                self.count("oversize" if error.reason == "too_large" else "malformed")
                continue
            if type(frame) is not list or not frame or type(frame[0]) is not str:
                self.count("malformed")
            elif frame[0] == "EVENT":
                await self._event(frame, len(message), inbox)
            else:
                self._control(frame)

    async def _event(self, frame: list[Any], size: int, inbox: Inbox) -> None:
        if len(frame) != 3 or type(frame[1]) is not str or type(frame[2]) is not dict:
            self.count("malformed")
            return
        request = self.requests.by_wire_id(frame[1])
        if request is None:
            self.count("unknown_subscription")
            return
        await self._throttle()
        claimed, subscription = frame[2], request.subscription
        # While a page is read beside it, what comes under the first id is live all the same.
        if request.state == "live" or frame[1] != request.page_id:
            self._notice_backlog()
        request.received(claimed, frame[1])
        pipeline = self._engine.pipeline
        if not subscription.once and pipeline.verified.delivered(claimed.get("id"), subscription.name):
            self.count("duplicates")
            return
        await pipeline.put(inbox, Incoming(self.url, subscription, claimed, size, self.count))

    def _notice_backlog(self) -> None:
        self._live_events += 1
        if self._live_events % _EVENTS_BETWEEN_LOOKS or self._socket is None:
            return
        if unread_bytes(self._socket) >= self._limits.behind_bytes:
            self.requests.fell_behind()

    async def _throttle(self) -> None:
        """Keep one relay from taking the processor: reading pauses."""
        rate = self._limits.events_per_second
        now = asyncio.get_running_loop().time()
        self._tokens = min(float(rate), self._tokens + (now - self._refilled) * rate)
        self._refilled = now
        self._tokens -= 1
        if self._tokens < 0:
            self.counters["throttled"] += 1
            await asyncio.sleep(0.05)

    def _control(self, frame: list[Any]) -> None:
        match frame:
            case ["EOSE", str(wire_id)]:
                self._answered()
                self.requests.stored_events_end(wire_id)
            case ["OK", str(event_id), bool(accepted), *rest] if len(rest) <= 1:
                self._answered()
                self._ok(event_id, accepted, rest[0] if rest and isinstance(rest[0], str) else "")
            case ["CLOSED", str(wire_id), *rest]:
                message = rest[0] if rest and isinstance(rest[0], str) else ""
                request = self.requests.closed(wire_id, message)
                if request is not None:
                    self._wants_authentication(request, message)
            case ["NOTICE", str(message)]:
                self.count("notices")
                self.last_error = f"NOTICE {message[:160]}"
                self.requests.notice(message)
            case ["AUTH", str(challenge)] if len(challenge) <= 1_024:
                self._challenge = challenge
                if self._auth_wanted:
                    self._authenticate()
            case ["COUNT", *_]:
                self.count("unasked")
            case _:
                self.count("malformed")

    def _answered(self) -> None:
        self.last_ok = self._engine.now()

    # -- authentication (NIP-42) -----------------------------------------------------------------------------

    def _wants_authentication(self, request: Request, message: str) -> None:
        if self._authenticated or not self._can_authenticate():
            request.fail(message)
            return
        request.awaits_authentication = True
        self._auth_wanted = True
        self._authenticate()

    def _can_authenticate(self) -> bool:
        return self.may_authenticate and not self._auth_refused and self._engine.secret() is not None

    def _authenticate(self) -> None:
        secret = self._engine.secret()
        if self._challenge is None or self._auth_id is not None or secret is None:
            return
        tags = [["relay", self.url], ["challenge", self._challenge]]
        event = build(secret, KIND_AUTH, tags, "", self._engine.now())
        if self._send(["AUTH", event.to_json()]):
            self._auth_id = event.id
            self._set("auth")

    def _ok(self, event_id: str, accepted: bool, message: str) -> None:
        if event_id == self._auth_id and event_id:
            self._authenticated, self._auth_refused = accepted, not accepted
            self.counters["auth_ok" if accepted else "auth_refused"] += 1
            self._set("open")
            self.requests.authenticated(accepted, message)
            self._publications.authenticated(accepted, message)
            return
        known_enough = accepted or self._authenticated or not message.startswith("auth-required:")
        if (
            not known_enough
            and self._can_authenticate()
            and self._publications.awaits_authentication(event_id)
        ):
            self._auth_wanted = True
            self._authenticate()
            return
        if not self._publications.answered(event_id, accepted, message):
            self.count("unknown_ok")

    # -- asking and publishing -------------------------------------------------------------------------------

    def _requests_changed(self) -> None:
        if self.state in ("open", "auth", "subscribed"):
            if self.requests.settled():
                self._set("subscribed")
            elif self.state == "subscribed":
                self._set("open")
        self._engine.changed()

    async def publish(self, event: Event, timeout: float) -> PublishResult:
        """Send an event and wait for its OK; see PublishResult."""
        too_late = self.retry_at - asyncio.get_running_loop().time() > timeout
        if self.state in ("paused", "closed") or (self.state in ("waiting", "dead") and too_late):
            return PublishResult("unreachable", message=self.last_error)
        result = await self._publications.publish(event, timeout)
        if result.state == "unreachable" and not result.message:
            result = PublishResult("unreachable", message=self.last_error or "no connection")
        self.counters[f"publish_{result.state}"] += 1
        return result

    def status(self) -> dict[str, Any]:
        """Return what an operator wants to know about this relay."""
        waiting = self.state in ("waiting", "dead", "paused")
        retry_in = max(0, round(self.retry_at - asyncio.get_running_loop().time())) if waiting else None
        return {
            "url": self.url,
            "state": self.state,
            "connected": self.connected,
            "read": "read" in self.roles,
            "write": "write" in self.roles,
            "auth": self._authenticated,
            "last_ok": self.last_ok,
            "score": self.score,
            "failures": self.failures,
            "retry_in": retry_in,
            "last_error": self.last_error,
            "clock_offset": None if self.clock_offset is None else round(self.clock_offset, 1),
            "subscriptions": self.requests.status(),
            "limits": {} if self.requests.info is None else self.requests.info.status(),
            "counters": dict(self.counters),
        }
