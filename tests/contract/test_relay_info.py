"""NIP-11: what a relay says of its limits is a hint that lowers ours, whatever else it says (04 §7.2)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from contract.hostile_relay import HostileRelay
from hive_shared.nostr.event import Event
from hive_shared.nostr.reasons import FrameInvalid
from hive_shared.nostr.relay import RelayPool
from hive_shared.nostr.relay_info import RelayInfo, RelayInfos, fetch_relay_info, parse_relay_info
from hive_shared.nostr.relay_limits import RelayLimits

DEADLINE = 60.0
NOTES = [{"kinds": [1], "#t": ["hive"]}]
SHORT = RelayLimits(info_open_seconds=0.3)


def document(**limitation: object) -> str:
    return json.dumps({"name": "a relay", "supported_nips": [1, 11], "limitation": limitation})


async def no_end(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
    """A relay that never says EOSE."""


async def empty(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
    if frame[0] == "REQ":
        await socket.send(json.dumps(["EOSE", frame[1]]))


@asynccontextmanager
async def pool_on(relay: HostileRelay) -> AsyncIterator[RelayPool]:
    async def drop(url: str, name: str, event: Event) -> None:
        """Nothing comes."""

    pool = RelayPool(on_event=drop, private_relays=True)
    await pool.set_relays([relay.url], [], [])
    await pool.start()
    try:
        yield pool
    finally:
        await pool.stop()


async def until(pool: RelayPool, condition: Any) -> None:
    assert await pool.wait_for(condition, DEADLINE), pool.status()


def learned(pool: RelayPool) -> bool:
    return bool(pool.status()[0]["limits"])


async def test_the_named_limits_lower_ours_and_are_shown() -> None:
    async with (
        HostileRelay(empty, info=document(max_limit=40, max_subscriptions=1)) as relay,
        pool_on(relay) as pool,
    ):
        await until(pool, lambda: learned(pool))
        assert pool.status()[0]["limits"] == {"limit": 40, "subscriptions": 1}
        pool.subscribe("first", NOTES, lambda url: None)
        await until(pool, lambda: pool.status()[0]["subscriptions"] == {"first": "live"})
        assert relay.said("REQ")[-1][2]["limit"] == 40
        pool.subscribe("second", [{"kinds": [7], "limit": 90}], lambda url: None)
        assert "waits" in pool.status()[0]["subscriptions"]["second"]
        pool.unsubscribe("first")
        await until(pool, lambda: pool.status()[0]["subscriptions"] == {"second": "live"})
        assert relay.said("REQ")[-1][2]["limit"] == 40
        assert len(relay.said("REQ")) == 2


@pytest.mark.parametrize("info", [None, "not JSON", document(max_limit=9_000, max_subscriptions=300)])
async def test_nothing_and_larger_numbers_change_nothing(info: str | None) -> None:
    async with HostileRelay(empty, info=info) as relay, pool_on(relay) as pool:
        for name in ("one", "two", "three"):
            pool.subscribe(name, NOTES, lambda url: None)
        await until(pool, lambda: set(pool.status()[0]["subscriptions"].values()) == {"live"})
        await until(pool, lambda: relay.asked_for_info == 1)
        assert {frame[2]["limit"] for frame in relay.said("REQ")} == {500}


async def test_a_relay_is_asked_once_a_day_and_after_a_failure_once_an_hour() -> None:
    asked: list[str] = []
    now = 0.0
    answer: RelayInfo | None = RelayInfo(limit=7)

    async def fetch(url: str, public_only: bool) -> RelayInfo | None:
        asked.append(url)
        return answer

    infos = RelayInfos(fetch, RelayLimits(), lambda: now)
    assert await infos.of("wss://a") == await infos.of("wss://a") == RelayInfo(limit=7)
    now = 86_399.0
    await infos.of("wss://a")
    assert asked == ["wss://a"]
    now, answer = 86_400.0, None
    assert await infos.of("wss://a") is None
    now += 3_599
    assert await infos.of("wss://a") is None and len(asked) == 2
    now += 1
    await infos.of("wss://a")
    infos.keep_only(set())
    await infos.of("wss://a")
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("limitation", "expected"),
    [
        ({"max_limit": 100, "max_subscriptions": 20}, RelayInfo(100, 20)),
        ({"max_limit": True, "max_subscriptions": 0}, RelayInfo()),
        ({"max_limit": -5, "max_subscriptions": 1.5}, RelayInfo()),
        ({"max_limit": "10", "max_subscriptions": None}, RelayInfo()),
        ([], RelayInfo()),
        ("none", RelayInfo()),
    ],
)
def test_only_positive_integers_are_limits(limitation: object, expected: RelayInfo) -> None:
    assert parse_relay_info(json.dumps({"limitation": limitation}).encode()) == expected


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"a":1,"a":2}', b'{"a":NaN}', b"[" * 100_000])
def test_a_document_that_is_no_strict_object_is_refused(body: bytes) -> None:
    with pytest.raises(FrameInvalid):
        parse_relay_info(body)


GOOD = document(max_limit=5).encode()
HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (HEAD + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD, RelayInfo(limit=5)),
        (HEAD + b"\r\n" + GOOD, RelayInfo(limit=5)),
        (
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(GOOD) + GOOD + b"\r\n0\r\n\r\n",
            RelayInfo(5),
        ),
        (HEAD + b"Content-Length: %d\r\n\r\n" % (len(GOOD) + 1) + GOOD, None),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n" + GOOD, None),
        (b"HTTP/1.1 404 Not Found\r\n\r\n" + GOOD, None),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\n" + GOOD, None),
        (HEAD + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b", None),
        (HEAD + b"\r\n" + b'{"limitation":{"max_limit":5},"x":"' + b"x" * 65_536 + b'"}', None),
        (HEAD + b"Content-Length: 99999999999\r\n\r\n", None),
        (HEAD + b"A: b\r\n" * 500 + b"\r\n" + GOOD, None),
        (HEAD + b"A" * 200_000, None),
        (b"SSH-2.0-x\r\n", None),
        (b"", None),
    ],
)
async def test_answers_over_the_wire(answer: bytes, expected: RelayInfo | None) -> None:
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        found = await fetch_relay_info(f"ws://127.0.0.1:{port}/path", limits=RelayLimits(), proxy=None)
    assert found == expected
    assert requests[0].startswith(b"GET /path HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % port)


async def test_a_server_that_dawdles_and_an_address_that_is_private_are_given_up() -> None:
    async def dawdle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(dawdle, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        assert await fetch_relay_info(url, limits=SHORT, proxy=None) is None
        assert await fetch_relay_info(url, limits=SHORT, proxy=None, public_only=True) is None
    assert await fetch_relay_info(url, limits=SHORT, proxy=None) is None
    assert await fetch_relay_info(url, limits=SHORT, proxy=("127.0.0.1", 1)) is None
