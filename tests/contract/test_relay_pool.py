"""The relay engine against a real relay in its own process (Protocol 04 §7.2)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import nostr_sdk
import pytest
from hive_devnet.relay import RelayProcess
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr import giftwrap
from hive_shared.nostr.event import Event, build
from hive_shared.nostr.relay import RelayLimits, RelayPool

NODE, ADVISOR = Secret(b"\x07" * 32), Secret(b"\x08" * 32)
NODE_KEY = xonly_pubkey(NODE)
DEADLINE = 60.0


class Received:
    """Collects what a pool delivers and waits for a count."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, Event]] = []
        self._more = asyncio.Event()

    async def __call__(self, url: str, name: str, event: Event) -> None:
        self.events.append((url, name, event))
        self._more.set()

    async def wait(self, count: int, seconds: float = DEADLINE) -> list[Event]:
        async with asyncio.timeout(seconds):
            while len(self.events) < count:
                self._more.clear()
                await self._more.wait()
        return [event for _, _, event in self.events]


class Delays:
    """A sleep that does not sleep, and remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await asyncio.sleep(0.01)


MakePool = Callable[..., Awaitable[RelayPool]]


@pytest.fixture
async def make_pool() -> AsyncIterator[MakePool]:
    pools: list[RelayPool] = []

    async def make(
        relays: list[RelayProcess], on_event: Any, auth: bool = False, **options: Any
    ) -> RelayPool:
        options = {"private_relays": True, "sleep": Delays(), "secret_provider": lambda: NODE} | options
        pool = RelayPool(on_event=on_event, **options)
        urls = [relay.url for relay in relays]
        await pool.set_relays(urls, urls, urls if auth else [])
        await pool.start()
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        await pool.stop()


@pytest.fixture
async def relay() -> AsyncIterator[RelayProcess]:
    process = await RelayProcess.start()
    yield process
    await process.stop()


@pytest.fixture
async def second_relay() -> AsyncIterator[RelayProcess]:
    process = await RelayProcess.start()
    yield process
    await process.stop()


def _note(text: str, secret: Secret = ADVISOR, at: int | None = None, kind: int = 1) -> Event:
    return build(secret, kind, [["t", "hive-advisor"]], text, int(time.time()) if at is None else at)


def _dm(text: str) -> Event:
    event, _ = giftwrap.wrap(
        ADVISOR, NODE_KEY, text, tags=[], now=int(time.time()), rng=os.urandom, expiration=None
    )
    return event


DM_FILTER = [{"kinds": [1059], "#p": [NODE_KEY]}]


async def test_a_direct_message_travels_from_publish_to_handler(
    relay: RelayProcess, make_pool: MakePool
) -> None:
    received = Received()
    node = await make_pool([relay], received)
    node.subscribe("dm", DM_FILTER, lambda url: None)
    advisor = await make_pool([relay], Received())
    event = _dm("raise the fee")
    result = await advisor.publish(event, [relay.url])
    assert result[relay.url].state == "ok"
    (arrived,) = await received.wait(1)
    assert giftwrap.unwrap(NODE, arrived, verified=True).content == "raise the fee"
    assert received.events[0][:2] == (relay.url, "dm")


async def test_stored_events_of_before_arrive_and_an_independent_client_sees_ours(
    relay: RelayProcess, make_pool: MakePool
) -> None:
    received = Received()
    pool = await make_pool([relay], received)
    event = _note("before")
    assert (await pool.publish(event, [relay.url]))[relay.url].accepted
    pool.subscribe("notes", [{"kinds": [1]}], lambda url: None)
    assert await received.wait(1) == [event]
    client = nostr_sdk.Client()
    await client.add_relay(nostr_sdk.RelayUrl.parse(relay.url))
    await client.connect()
    found = await client.fetch_events(nostr_sdk.ReqTarget.auto([nostr_sdk.Filter().kind(nostr_sdk.Kind(1))]))
    assert [(one.id().to_hex(), one.verify()) for one in found] == [(event.id, True)]
    await client.shutdown()


async def test_an_event_published_twice_is_a_duplicate_and_that_is_success(
    relay: RelayProcess, make_pool: MakePool
) -> None:
    pool = await make_pool([relay], Received())
    event = _note("twice")
    first = (await pool.publish(event, [relay.url]))[relay.url]
    again = (await pool.publish(event, [relay.url]))[relay.url]
    assert first.state == "ok" and again.state == "duplicate" and again.accepted


async def test_an_event_of_two_relays_is_checked_and_delivered_once(
    relay: RelayProcess, second_relay: RelayProcess, make_pool: MakePool
) -> None:
    received = Received()
    writer = await make_pool([relay, second_relay], Received())
    events = [_note(str(n)) for n in range(50)]
    await asyncio.gather(*(writer.publish(event, [relay.url]) for event in events))
    reader = await make_pool([relay], received)
    reader.subscribe("notes", [{"kinds": [1]}], lambda url: None)
    await received.wait(50)
    checks = reader.statistics()["signature_checks"]
    assert checks == 50
    await asyncio.gather(*(writer.publish(event, [second_relay.url]) for event in events))
    await reader.set_relays([relay.url, second_relay.url], [], [])
    assert await reader.wait_for(
        lambda: all(row["state"] == "subscribed" for row in reader.status()), DEADLINE
    )
    last = _note("last")
    await writer.publish(last, [second_relay.url])
    assert len(await received.wait(51)) == 51
    assert reader.statistics()["signature_checks"] == 51
    assert reader.status()[1]["counters"]["duplicates"] >= 50


async def test_since_is_asked_per_relay_at_each_connect(
    relay: RelayProcess, second_relay: RelayProcess, make_pool: MakePool
) -> None:
    now = int(time.time())
    writer = await make_pool([relay, second_relay], Received())
    for process in (relay, second_relay):
        for age in (300, 100):
            event = _note(f"{process.port} {age}", at=now - age)
            assert (await writer.publish(event, [process.url]))[process.url].accepted
    received = Received()
    pool = await make_pool([relay, second_relay], received)
    pool.subscribe("notes", [{"kinds": [1]}], lambda url: now - 200 if url == relay.url else None)
    assert await pool.wait_for(lambda: all(row["state"] == "subscribed" for row in pool.status()), DEADLINE)
    contents = {event.content for event in await received.wait(3)}
    assert contents == {f"{relay.port} 100", f"{second_relay.port} 300", f"{second_relay.port} 100"}


async def test_acceptance_04_16_a_killed_relay_comes_back_with_subscriptions_restored(
    relay: RelayProcess, make_pool: MakePool
) -> None:
    received, delays = Received(), Delays()
    pool = await make_pool([relay], received, sleep=delays)
    pool.subscribe("dm", DM_FILTER, lambda url: None)
    assert await pool.wait_for(lambda: pool.status()[0]["state"] == "subscribed", DEADLINE)
    await relay.kill()
    assert await pool.wait_for(lambda: not pool.status()[0]["connected"], DEADLINE)
    down = await pool.publish(_note("lost"), [relay.url], timeout=0.2)
    assert down[relay.url].state == "unreachable"
    await relay.restart()
    assert await pool.wait_for(lambda: pool.status()[0]["state"] == "subscribed", DEADLINE)
    writer = await make_pool([relay], Received())
    event = _dm("after the restart")
    assert (await writer.publish(event, [relay.url]))[relay.url].state == "ok"
    assert await received.wait(1) == [event]
    assert delays.asked and all(0 < delay <= 1_980 for delay in delays.asked)


async def test_a_relay_that_is_waited_for_can_be_dialled_at_once(
    relay: RelayProcess, make_pool: MakePool
) -> None:
    told: list[bool] = []
    pool = await make_pool(
        [relay],
        Received(),
        sleep=asyncio.sleep,
        limits=RelayLimits(backoff_first=3_600),
        on_connected=lambda: told.append(True),
    )
    assert await pool.wait_for(lambda: pool.connected() == 1, DEADLINE)
    assert pool.dial_now() == 0, "a relay that is connected is left alone"
    assert told == [True]
    await relay.kill()
    assert await pool.wait_for(lambda: pool.status()[0]["state"] == "waiting", DEADLINE)
    assert pool.status()[0]["retry_in"] >= 300
    assert pool.dial_now() == 1 and pool.dial_now() == 0
    assert await pool.wait_for(lambda: pool.status()[0]["failures"] == 2, DEADLINE)
    assert pool.status()[0]["state"] == "waiting", "the wait begins anew"
    await relay.restart()
    assert pool.dial_now() == 1
    assert await pool.wait_for(lambda: pool.connected() == 1, DEADLINE)
    assert told == [True, True], "once when there is a relay again, not at every change of its state"


async def test_reading_back_pages_until_everything_is_there(relay: RelayProcess, make_pool: MakePool) -> None:
    now = int(time.time())
    writer = await make_pool([relay], Received())
    events = [_note(str(n), at=now - n) for n in range(120)]
    await asyncio.gather(*(writer.publish(event, [relay.url]) for event in events))
    received = Received()
    reader = await make_pool([relay], received, limits=RelayLimits(page=25))
    reader.subscribe("notes", [{"kinds": [1]}], lambda url: None)
    assert await reader.wait_for(lambda: reader.status()[0]["state"] == "subscribed", DEADLINE)
    assert len(await received.wait(120)) == 120
    assert reader.statistics()["signature_checks"] == 120


async def test_of_several_filters_each_is_read_back_by_itself(
    relay: RelayProcess, make_pool: MakePool
) -> None:
    # Few of one kind, spread over a long time, and many of another: one page reaches to different times.
    now = int(time.time())
    many = [_note(f"many {n}", at=now - n) for n in range(90)]
    few = [_note(f"few {n}", at=now - 1_000 * n, kind=2) for n in range(10)]
    writer = await make_pool([relay], Received())
    await asyncio.gather(*(writer.publish(event, [relay.url]) for event in (*many, *few)))
    received = Received()
    reader = await make_pool([relay], received, limits=RelayLimits(page=25))
    reader.subscribe("notes", [{"kinds": [1]}, {"kinds": [2]}, {"kinds": [3]}], lambda url: None)
    assert await reader.wait_for(lambda: reader.status()[0]["state"] == "subscribed", DEADLINE)
    assert len(await received.wait(100)) == 100
    assert reader.statistics()["signature_checks"] == 100


async def test_a_filter_with_a_limit_is_not_paged(relay: RelayProcess, make_pool: MakePool) -> None:
    now = int(time.time())
    writer = await make_pool([relay], Received())
    await asyncio.gather(*(writer.publish(_note(str(n), at=now - n), [relay.url]) for n in range(20)))
    found = await writer.query([{"kinds": [1], "limit": 3}])
    assert [event.content for event in found.events] == ["0", "1", "2"]
    assert (found.asked, found.answered, found.single_source) == (1, 1, True)


async def test_a_query_finds_what_was_delivered_before_and_says_who_answered(
    relay: RelayProcess, second_relay: RelayProcess, make_pool: MakePool
) -> None:
    received = Received()
    pool = await make_pool([relay], received)
    pool.subscribe("notes", [{"kinds": [1]}], lambda url: None)
    event = _note("known")
    await pool.publish(event, [relay.url])
    await received.wait(1)
    found = await pool.query([{"ids": [event.id]}], [relay.url, second_relay.url])
    assert found.events == (event,)
    assert (found.asked, found.answered, found.single_source) == (2, 2, False)
    await second_relay.kill()
    found = await pool.query([{"ids": [event.id]}], [relay.url, second_relay.url], timeout=3)
    assert (found.events, found.answered) == ((event,), 1)


@pytest.mark.parametrize("allowed", [True, False])
async def test_acceptance_04_17_authentication_happens_when_asked_and_only_where_allowed(
    make_pool: MakePool, allowed: bool
) -> None:
    process = await RelayProcess.start(nip42=True)
    try:
        received = Received()
        pool = await make_pool([process], received, auth=allowed)
        pool.subscribe("dm", DM_FILTER, lambda url: None)
        result = (await pool.publish(_dm("hello"), [process.url], timeout=60))[process.url]
        if allowed:
            assert result.state == "ok"
            await received.wait(1)
            assert pool.status()[0]["auth"] is True
        else:
            assert (result.state, result.prefix) == ("rejected", "auth-required")
            assert await pool.wait_for(lambda: "failed" in str(pool.status()[0]["subscriptions"]), DEADLINE)
            assert "auth_ok" not in pool.status()[0]["counters"]
    finally:
        await process.stop()


async def test_a_relay_that_wants_work_says_so_in_the_prefix(make_pool: MakePool) -> None:
    process = await RelayProcess.start(min_pow=22)
    try:
        pool = await make_pool([process], Received())
        result = (await pool.publish(_note("lazy"), [process.url]))[process.url]
        assert (result.state, result.prefix) == ("rejected", "pow")
    finally:
        await process.stop()


async def test_relays_can_change_while_running(
    relay: RelayProcess, second_relay: RelayProcess, make_pool: MakePool
) -> None:
    received = Received()
    pool = await make_pool([relay], received)
    pool.subscribe("notes", [{"kinds": [1]}], lambda url: None)
    assert await pool.wait_for(lambda: pool.status()[0]["state"] == "subscribed", DEADLINE)
    await pool.set_relays([second_relay.url], [relay.url], [])
    assert await pool.wait_for(lambda: pool.connected() == 2 and pool.connected("read") == 1, DEADLINE)
    assert await pool.wait_for(
        lambda: any(row["state"] == "subscribed" for row in pool.status() if row["read"]), DEADLINE
    )
    await pool.publish(_note("not read any more"), [relay.url])
    event = _note("read now")
    await pool.publish(event, [second_relay.url])
    assert await received.wait(1) == [event]
    await pool.set_relays([], [], [])
    assert pool.status() == []


async def test_too_many_or_wrong_relays_change_nothing(relay: RelayProcess, make_pool: MakePool) -> None:
    pool = await make_pool([relay], Received())
    with pytest.raises(ValueError, match="too many"):
        await pool.set_relays([f"wss://relay{n}.example.com" for n in range(9)], [], [])
    with pytest.raises(ValueError, match="wss"):
        await pool.set_relays(["http://relay.example.com"], [], [])
    assert [row["url"] for row in pool.status()] == [relay.url]


async def test_publishing_elsewhere_opens_a_connection_for_the_event_and_closes_it(
    relay: RelayProcess, second_relay: RelayProcess, make_pool: MakePool
) -> None:
    pool = await make_pool([relay], Received())
    event = _note("elsewhere")
    results = await pool.publish(
        event, [relay.url, second_relay.url, "ws://127.0.0.1:9", "nonsense"], timeout=60
    )
    assert [result.state for result in results.values()] == ["ok", "ok", "unreachable", "rejected"]
    assert [row["url"] for row in pool.status()] == [relay.url]


async def test_addresses_named_by_others_on_a_private_network_are_not_contacted(make_pool: MakePool) -> None:
    pool = await make_pool([], Received(), private_relays=False)
    results = await pool.publish(_note("x"), ["ws://127.0.0.1:9", "wss://10.0.0.1", "wss://localhost"])
    assert {(result.state, result.prefix) for result in results.values()} == {("rejected", "address")}


async def test_unsubscribed_events_do_not_arrive(relay: RelayProcess, make_pool: MakePool) -> None:
    received = Received()
    pool = await make_pool([relay], received)
    pool.subscribe("notes", [{"kinds": [1]}], lambda url: None)
    pool.subscribe("other", [{"kinds": [2]}], lambda url: None)
    assert await pool.wait_for(lambda: pool.status()[0]["state"] == "subscribed", DEADLINE)
    pool.unsubscribe("notes")
    await pool.publish(_note("unwanted"), [relay.url])
    wanted = _note("wanted", kind=2)
    await pool.publish(wanted, [relay.url])
    assert await received.wait(1) == [wanted]


async def test_a_failing_handler_loses_nothing_for_good(relay: RelayProcess, make_pool: MakePool) -> None:
    seen: list[str] = []
    done = asyncio.Event()

    async def handler(url: str, name: str, event: Event) -> None:
        seen.append(event.content)
        if len(seen) == 1:
            raise RuntimeError("database busy")
        if len(seen) == 3:
            done.set()

    pool = await make_pool([relay], handler)
    pool.subscribe("notes", [{"kinds": [1]}], lambda url: None)
    await pool.publish(_note("first"), [relay.url])
    await pool.publish(_note("second"), [relay.url])
    async with asyncio.timeout(DEADLINE):
        while pool.statistics()["handler_failures"] < 1:
            await asyncio.sleep(0.01)
    pool.subscribe("notes", [{"kinds": [1]}], lambda url: None)
    async with asyncio.timeout(DEADLINE):
        await done.wait()
    # Which of the two was asked for again first is the relay's affair.
    assert sorted(seen) == ["first", "first", "second"]


async def test_stopping_is_quick_even_with_a_frozen_relay(relay: RelayProcess, make_pool: MakePool) -> None:
    pool = await make_pool([relay], Received(), limits=RelayLimits(close_seconds=0.1, stop_seconds=0.5))
    pool.subscribe("notes", [{"kinds": [1]}], lambda url: None)
    assert await pool.wait_for(lambda: pool.status()[0]["state"] == "subscribed", DEADLINE)
    relay.freeze()
    try:
        pending = asyncio.create_task(pool.publish(_note("unanswered"), [relay.url]))
        began = time.monotonic()
        await pool.stop()
        # The library itself would wait 10 s for the relay's goodbye.
        assert time.monotonic() - began < 8
        assert (await pending)[relay.url].state in ("timeout", "unreachable")
    finally:
        relay.thaw()


async def test_all_relays_down_answers_within_the_timeout(make_pool: MakePool) -> None:
    pool = await make_pool([], Received())
    await pool.set_relays(["ws://127.0.0.1:9"], ["ws://127.0.0.1:9"], [])
    began = time.monotonic()
    result = await pool.publish(_note("x"), ["ws://127.0.0.1:9"], timeout=0.5)
    assert result["ws://127.0.0.1:9"].state == "unreachable"
    assert "Error" in result["ws://127.0.0.1:9"].message
    assert time.monotonic() - began < 12, "without a bound of its own it is 15 s"
