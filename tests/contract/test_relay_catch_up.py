"""A relay that skips live events for a slow reader, as several real ones do (docs/decisions/0055)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from contract.hostile_relay import HostileRelay
from hive_shared.crypto import Secret
from hive_shared.nostr.event import Event, build
from hive_shared.nostr.relay import RelayLimits, RelayPool
from hive_shared.nostr.requests import Requests
from msgspec.structs import replace

AUTHOR = Secret(b"\x09" * 32)
LIMITS = RelayLimits(
    inbox_events=5, batch=4, behind_bytes=8_192, catch_up_seconds=0.1, catch_up_every_seconds=0.6
)


def note(text: str) -> Event:
    return build(AUTHOR, 1, [["t", "hive"]], text, int(time.time()))


class SkippingRelay:
    """Tells of `live` events and keeps quiet about `skipped` ones until it is asked again."""

    def __init__(self, live: list[Event], skipped: list[Event]) -> None:
        self.live, self.skipped = live, skipped
        self.asked: list[float] = []

    async def __call__(self, _relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] != "REQ":
            return
        self.asked.append(time.monotonic())
        stored = self.live + self.skipped if len(self.asked) > 1 else []
        for event in stored:
            await socket.send(json.dumps(["EVENT", frame[1], event.to_json()]))
        await socket.send(json.dumps(["EOSE", frame[1]]))
        if len(self.asked) == 1:
            for event in self.live:
                await socket.send(json.dumps(["EVENT", frame[1], event.to_json()]))


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def listening(url: str, got: list[str], limits: RelayLimits = LIMITS) -> RelayPool:
    async def slowly(_url: str, _name: str, event: Event) -> None:
        got.append(event.content)
        await asyncio.sleep(0.002)

    pool = RelayPool(on_event=slowly, private_relays=True, limits=limits, secret_provider=lambda: None)
    await pool.set_relays([url], [], [])
    pool.subscribe("notes", [{"kinds": [1], "#t": ["hive"]}], lambda _url: None)
    await pool.start()
    return pool


async def test_what_was_skipped_while_reading_paused_comes_by_asking_again_and_only_once() -> None:
    live = [note(f"live {number} " + "x" * 4_000) for number in range(100)]
    script = SkippingRelay(live, [note("skipped")])
    got: list[str] = []
    async with HostileRelay(script) as relay:
        pool = await listening(relay.url, got)
        try:
            await until(lambda: "skipped" in got)
            await until(lambda: len(got) >= 101)
            assert len(got) == len(set(got)) == 101
            counters = pool.status()[0]["counters"]
            # Each catch-up and the page before its first, which brings nothing new.
            assert 2 <= len(script.asked) <= 1 + 2 * counters["catch_ups"]
            assert counters["duplicates"] >= 50
        finally:
            await pool.stop()


async def test_asking_again_gets_rare_however_long_the_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer to a REQ is followed by another live flood; the interval doubles nevertheless, up to its
    bound."""
    caught: list[float] = []
    live: list[str] = []
    bound, first, catch_up = LIMITS.catch_up_every_seconds, LIMITS.catch_up_seconds, Requests._catch_up

    def noted(requests: Requests) -> None:
        now = asyncio.get_running_loop().time()
        if caught and now - caught[-1] > 2 * bound:
            # The machine paused for so long: it begins with short intervals again.
            caught.clear()
        caught.append(now)
        catch_up(requests)

    async def flooding(_relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] != "REQ":
            return
        live.append(frame[1])
        await socket.send(json.dumps(["EOSE", frame[1]]))
        for number in range(60):
            event = note(f"{len(live)}.{number} " + "x" * 10_000)
            await socket.send(json.dumps(["EVENT", live[0], event.to_json()]))

    monkeypatch.setattr(Requests, "_catch_up", noted)
    async with HostileRelay(flooding) as relay:
        pool = await listening(relay.url, [])
        try:
            await until(lambda: len(caught) >= 5)
        finally:
            await pool.stop()
    between = [later - earlier for earlier, later in pairwise(caught)]
    for number, gap in enumerate(between):
        assert gap >= min(first * 2 ** (number + 1), bound) - 0.001, between


async def test_what_was_skipped_while_stored_events_are_read_again_comes_as_well() -> None:
    """The answer to the first catch-up is slow, and a flood beside it makes the relay skip one more event:
    the page under way cannot have it, the one after it does."""
    asked: list[str] = []
    late: list[Event] = []

    async def answering(_relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        async def flood(name: str) -> None:
            for number in range(60):
                event = note(f"{name}.{number} " + "x" * 10_000)
                await socket.send(json.dumps(["EVENT", asked[0], event.to_json()]))

        if frame[0] != "REQ":
            return
        asked.append(frame[1])
        stored = list(late)
        if len(asked) == 2:
            await flood("second")
            late.append(note("skipped while reading"))
        for event in stored:
            await socket.send(json.dumps(["EVENT", frame[1], event.to_json()]))
        await socket.send(json.dumps(["EOSE", frame[1]]))
        if len(asked) == 1:
            await flood("first")

    got: list[str] = []
    async with HostileRelay(answering) as relay:
        pool = await listening(relay.url, got)
        try:
            await until(lambda: "skipped while reading" in got)
        finally:
            await pool.stop()


async def test_a_relay_that_never_ends_its_stored_events_is_not_asked_for_ever() -> None:
    asked: list[str] = []

    async def endless(_relay: HostileRelay, _socket: Any, frame: list[Any]) -> None:
        if frame[0] == "REQ":
            asked.append(frame[1])

    async with HostileRelay(endless) as relay:
        limits = replace(LIMITS, eose_seconds=0.05)
        pool = await listening(relay.url, [], limits)
        try:
            await until(lambda: len(asked) == 4)
            await until(lambda: pool.status()[0]["counters"].get("eose_timeouts") == 4)
            assert pool.status()[0]["counters"]["catch_ups"] == 3
            assert pool._connections[relay.url].requests._catching_up is None
        finally:
            await pool.stop()


async def test_stored_events_read_slowly_are_no_reason_to_ask_again() -> None:
    script = SkippingRelay([], [])
    stored = [note(f"stored {number} " + "x" * 4_000) for number in range(100)]

    async def answering(_relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] != "REQ":
            return
        script.asked.append(time.monotonic())
        for event in stored if len(script.asked) == 1 else []:
            await socket.send(json.dumps(["EVENT", frame[1], event.to_json()]))
        await socket.send(json.dumps(["EOSE", frame[1]]))

    got: list[str] = []
    async with HostileRelay(answering) as relay:
        pool = await listening(relay.url, got)
        try:
            await until(lambda: len(got) == 100)
            assert await pool.wait_for(lambda: pool.status()[0]["subscriptions"] == {"notes": "live"}, 60)
            assert "catch_ups" not in pool.status()[0]["counters"]
        finally:
            await pool.stop()
