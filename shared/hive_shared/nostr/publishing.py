"""Events on their way to one relay and the answers they get (Protocol 04 §5.1 step 8, §7.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from hive_shared.nostr.event import Event

PublishState = Literal["ok", "duplicate", "rejected", "timeout", "unreachable", "busy"]

_PREFIXES = frozenset(
    {"pow", "duplicate", "blocked", "rate-limited", "invalid", "restricted", "mute", "error", "auth-required"}
)
_MESSAGE_LENGTH = 200


class PublishResult(msgspec.Struct, frozen=True):
    """What became of one event at one relay.

    `ok` and `duplicate`: the relay has it. `rejected`: it said no, `prefix` is the machine-readable reason
    (`pow`, `blocked`, `rate-limited`, `invalid`, `restricted`, `auth-required`, `error` or empty).
    `timeout`: sent, not answered, may or may not be stored. `unreachable`: never sent. `busy`: too much is
    waiting already.
    """

    state: PublishState
    prefix: str = ""
    message: str = ""

    @property
    def accepted(self) -> bool:
        """True if the relay has the event."""
        return self.state in ("ok", "duplicate")


@dataclass(slots=True, eq=False)
class _Publication:
    event: Event
    answer: asyncio.Future[PublishResult]
    sent: bool = False
    awaits_authentication: bool = False
    repeated: bool = False
    waiters: int = 0


class Publications:
    """The unanswered publishes of one connection, oldest first.

    They survive a reconnect within their time.
    """

    def __init__(self, send: Callable[[list[Any]], bool], limit: int) -> None:
        self._send = send
        self._limit = limit
        self._open: dict[str, _Publication] = {}

    async def publish(self, event: Event, timeout: float) -> PublishResult:
        """Send now or as soon as there is a socket, and wait for the answer."""
        publication = self._open.get(event.id)
        if publication is None:
            if len(self._open) >= self._limit:
                return PublishResult("busy", message=f"{self._limit} events wait for this relay already")
            publication = _Publication(event, asyncio.get_running_loop().create_future())
            self._open[event.id] = publication
            self._transmit(publication)
        publication.waiters += 1
        try:
            return await asyncio.wait_for(asyncio.shield(publication.answer), timeout)
        except TimeoutError:
            return PublishResult("timeout") if publication.sent else PublishResult("unreachable")
        finally:
            publication.waiters -= 1
            if not publication.waiters and self._open.get(event.id) is publication:
                del self._open[event.id]

    def send_all(self) -> None:
        """Send what waits, after a connect: repeating an event is harmless."""
        for publication in self._open.values():
            self._transmit(publication)

    def disconnected(self) -> None:
        """Forget what belonged to the lost socket."""
        for publication in self._open.values():
            publication.awaits_authentication = False
            publication.repeated = False

    def answered(self, event_id: str, accepted: bool, message: str) -> bool:
        """Take an OK; an empty id belongs to the oldest event sent. False if nothing waits for it."""
        publication = self._find(event_id)
        if publication is None:
            return False
        prefix, found, rest = message.partition(":")
        prefix = prefix if found and prefix in _PREFIXES else ""
        text = "".join(c for c in (rest if prefix else message).strip() if c.isprintable())[:_MESSAGE_LENGTH]
        if prefix == "duplicate":
            state: PublishState = "duplicate"
        else:
            state = "ok" if accepted else "rejected"
        self._finish(publication, PublishResult(state, prefix, text))
        return True

    def awaits_authentication(self, event_id: str) -> bool:
        """Note that the relay wants to know us first; False if it has been told once already."""
        publication = self._find(event_id)
        if publication is None or publication.repeated:
            return False
        publication.awaits_authentication = True
        return True

    def authenticated(self, accepted: bool, message: str) -> None:
        """Send again, once, what waited for authentication, or give it up."""
        for publication in list(self._open.values()):
            if not publication.awaits_authentication:
                continue
            publication.awaits_authentication = False
            if accepted:
                publication.repeated = True
                self._transmit(publication)
            else:
                self._finish(
                    publication, PublishResult("rejected", "auth-required", message[:_MESSAGE_LENGTH])
                )

    def give_up(self, message: str) -> None:
        """Answer everything that waits: there will be no socket."""
        for publication in list(self._open.values()):
            state: PublishState = "timeout" if publication.sent else "unreachable"
            self._finish(publication, PublishResult(state, message=message))

    def _find(self, event_id: str) -> _Publication | None:
        if event_id:
            return self._open.get(event_id)
        return next((one for one in self._open.values() if one.sent), None)

    def _transmit(self, publication: _Publication) -> None:
        if self._send(["EVENT", publication.event.to_json()]):
            publication.sent = True

    def _finish(self, publication: _Publication, result: PublishResult) -> None:
        self._open.pop(publication.event.id, None)
        if not publication.answer.done():
            publication.answer.set_result(result)
