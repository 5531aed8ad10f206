"""The relay engine against a relay that lies, babbles, floods and stalls (Protocol 04 §17.15)."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from contract.hostile_relay import HostileRelay
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr import giftwrap, inbound
from hive_shared.nostr.event import Event, build, event_id
from hive_shared.nostr.relay import RelayLimits, RelayPool
from msgspec.structs import replace

NODE, ADVISOR = Secret(b"\x07" * 32), Secret(b"\x08" * 32)
NODE_KEY = xonly_pubkey(NODE)
DEADLINE = 60.0
NOTES = [{"kinds": [1], "#t": ["hive"]}]
DM_FILTER = [{"kinds": [1059], "#p": [NODE_KEY]}]
MakePool = Callable[..., Awaitable[RelayPool]]


class Received:
    """Collects contents in order and waits for a count."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._more = asyncio.Event()

    async def __call__(self, url: str, name: str, event: Event) -> None:
        self.events.append(event)
        self._more.set()

    async def wait(self, count: int, seconds: float = DEADLINE) -> list[Event]:
        async with asyncio.timeout(seconds):
            while len(self.events) < count:
                self._more.clear()
                await self._more.wait()
        return self.events


class Delays:
    """A sleep that records and returns at once, until it is told to hold."""

    def __init__(self, hold_after: int = 10**9) -> None:
        self.asked: list[float] = []
        self.held = asyncio.Event()
        self._hold_after = hold_after

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        if len(self.asked) >= self._hold_after:
            self.held.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0.01)


@pytest.fixture
async def make_pool() -> AsyncIterator[MakePool]:
    pools: list[RelayPool] = []

    async def make(urls: list[str], on_event: Any, auth: bool = False, **options: Any) -> RelayPool:
        options = {"private_relays": True, "sleep": Delays(), "secret_provider": lambda: NODE} | options
        pool = RelayPool(on_event=on_event, **options)
        await pool.set_relays(urls, urls, urls if auth else [])
        await pool.start()
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        await pool.stop()


def _note(text: str, at: int | None = None, **options: Any) -> Event:
    secret = options.get("secret", ADVISOR)
    return build(secret, options.get("kind", 1), [["t", "hive"]], text, at or int(time.time()))


def _dm(text: str) -> Event:
    event, _ = giftwrap.wrap(
        ADVISOR, NODE_KEY, text, tags=[], now=int(time.time()), rng=os.urandom, expiration=None
    )
    return event


def _event_frame(wire_id: str, event: Event | dict[str, Any]) -> str:
    return json.dumps(["EVENT", wire_id, event.to_json() if isinstance(event, Event) else event])


def _counters(pool: RelayPool, row: int = 0) -> dict[str, int]:
    counters: dict[str, int] = pool.status()[row]["counters"]
    return counters


def _forgeries() -> dict[str, list[dict[str, Any]]]:
    """Events by the reason they must be counted under."""
    good = _note("good").to_json()
    off_curve = ("ff" * 32, int(time.time()), 1, (("t", "hive"),), "x")
    return {
        "id_mismatch": [good | {"content": "altered"}, good | {"id": "00" * 32}],
        "bad_signature": [
            good | {"sig": "00" * 64},
            {
                "id": event_id(*off_curve),
                "pubkey": off_curve[0],
                "created_at": off_curve[1],
                "kind": 1,
                "tags": [["t", "hive"]],
                "content": "x",
                "sig": "00" * 64,
            },
        ],
        "field": [
            good | {"tags": [[]]},
            good | {"tags": [["t", 1]]},
            good | {"kind": True},
            good | {"created_at": "1"},
            good | {"id": ["ab"]},
            good | {"id": {"a": 1}},
            good | {"sig": "00"},
            {},
        ],
        "too_large": [good | {"tags": [["t", "x" * 9_000]]}, good | {"tags": [["t"]] * 600}],
        "future": [_note("future", at=int(time.time()) + 1_200).to_json()],
        "expired": [build(ADVISOR, 1, [["t", "hive"], ["expiration", "5"]], "x", int(time.time())).to_json()],
        "unasked": [
            _note("kind", kind=2).to_json(),
            build(ADVISOR, 1, [["t", "other"]], "x", int(time.time())).to_json(),
        ],
    }


GARBAGE = [
    "",
    "{",
    "null",
    "[]",
    "{}",
    "5",
    "[5]",
    '["EVENT"]',
    '["EVENT","x"]',
    '["EVENT",5,{}]',
    '["EVENT","x",[]]',
    '["OK"]',
    '["OK",1,true,""]',
    '["OK","x","true",""]',
    '["EOSE"]',
    '["EOSE",{}]',
    '["CLOSED"]',
    '["NOTICE",5]',
    '["AUTH",{}]',
    '["AUTH","' + "x" * 2_000 + '"]',
    '["UNHEARD","of"]',
    "[" * 100_000,
    "[" * 17 + "]" * 17,
    '{"a":' * 50_000,
    '["EVENT","x",{"a":NaN}]',
    '["EVENT","x",{"a":Infinity}]',
    '["EVENT","x",{"a":1,"a":2}]',
    '["NOTICE","\\ud800"]',
    '["EVENT","x",{"content":"\\udc00"}]',
    '["NOTICE","' + "x" * 200_000 + '"]',
    "9" * 10_000,
    "\x00",
]


async def test_acceptance_04_15_garbage_ends_nothing(make_pool: MakePool) -> None:
    event = _note("still here")

    async def script(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] == "REQ":
            for text in GARBAGE:
                await socket.send(text)
                await socket.send(text.encode())
            await socket.send(json.dumps(["OK", "ab" * 32, True, ""]))
            await socket.send(_event_frame("never-asked", event))
            await socket.send(_event_frame(frame[1], event))

    async with HostileRelay(script) as relay:
        received = Received()
        pool = await make_pool([relay.url], received)
        pool.subscribe("notes", NOTES, lambda url: None)
        assert await received.wait(1) == [event]
        counters = _counters(pool)
        assert relay.connects == 1
        assert counters["unknown_subscription"] == 1 and counters["unknown_ok"] == 1
        assert counters["oversize"] == 2
        assert counters["malformed"] >= 2 * len(GARBAGE) - 10


@pytest.mark.parametrize("reason", list(_forgeries()))
async def test_acceptance_04_15_false_events_are_counted_and_never_delivered(
    make_pool: MakePool, reason: str
) -> None:
    wrong, event = _forgeries()[reason], _note("genuine")

    async def script(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] == "REQ":
            for forged in wrong:
                await socket.send(_event_frame(frame[1], forged))
            await socket.send(_event_frame(frame[1], event))

    async with HostileRelay(script) as relay:
        received = Received()
        pool = await make_pool([relay.url], received)
        pool.subscribe("notes", NOTES, lambda url: None)
        assert await received.wait(1) == [event]
        assert _counters(pool)[reason] == len(wrong)
        assert len(received.events) == 1


async def test_a_forged_copy_first_does_not_suppress_the_genuine_event(make_pool: MakePool) -> None:
    event = _note("genuine")
    forged = replace(event, sig="00" * 64), replace(event, content="altered")

    async def script(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] == "REQ":
            for one in (*forged, event, *forged):
                await socket.send(_event_frame(frame[1], one))
            await socket.send(json.dumps(["EOSE", frame[1]]))

    async with HostileRelay(script) as relay:
        received = Received()
        pool = await make_pool([relay.url], received)
        pool.subscribe("notes", NOTES, lambda url: None)
        assert await received.wait(1) == [event]
        assert pool.status()[0]["score"] < 100


async def test_a_relay_that_keeps_forging_is_paused_and_the_author_is_not(make_pool: MakePool) -> None:
    event = _note("genuine")

    async def liar(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] == "REQ":
            for number in range(20):
                await socket.send(_event_frame(frame[1], replace(event, content=str(number))))

    async def honest(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] == "REQ":
            await socket.send(_event_frame(frame[1], event))

    delays = Delays(hold_after=1)
    async with HostileRelay(liar) as first, HostileRelay(honest) as second:
        received = Received()
        pool = await make_pool([first.url], received, sleep=delays)
        pool.subscribe("notes", NOTES, lambda url: None)
        assert await pool.wait_for(lambda: pool.status()[0]["state"] == "paused", DEADLINE)
        assert delays.asked == [600]
        assert pool.status()[0]["score"] <= 40
        result = await pool.publish(event, [first.url])
        assert result[first.url].state == "unreachable"
        await pool.set_relays([first.url, second.url], [], [])
        assert await received.wait(1) == [event]


async def test_an_ok_without_id_belongs_to_the_oldest_publish(make_pool: MakePool) -> None:
    async def script(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] == "EVENT" and len(relay.said("EVENT")) == 2:
            await socket.send('["OK","",false,"invalid: no good"]')
            await socket.send('["OK","",true,""]')

    async with HostileRelay(script) as relay:
        pool = await make_pool([relay.url], Received())
        first, second = await asyncio.gather(
            pool.publish(_note("1"), [relay.url]), pool.publish(_note("2"), [relay.url])
        )
        assert (first[relay.url].state, first[relay.url].prefix) == ("rejected", "invalid")
        assert first[relay.url].message == "no good"
        assert second[relay.url].state == "ok"


@pytest.mark.parametrize(
    ("answer", "state", "prefix"),
    [
        ((True, ""), "ok", ""),
        ((True, "duplicate: have it"), "duplicate", "duplicate"),
        ((False, "duplicate: have it"), "duplicate", "duplicate"),
        ((False, "pow: 22 bits"), "rejected", "pow"),
        ((False, "rate-limited: slow"), "rejected", "rate-limited"),
        ((False, "restricted: no"), "rejected", "restricted"),
        ((False, "blocked: no"), "rejected", "blocked"),
        ((False, "auth-required: who?"), "rejected", "auth-required"),
        ((False, "something: else"), "rejected", ""),
        ((False, "\x1b[31mred\n"), "rejected", ""),
    ],
)
async def test_answers_to_a_publish(
    make_pool: MakePool, answer: tuple[bool, str], state: str, prefix: str
) -> None:
    async def script(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        await socket.send(json.dumps(["OK", frame[1]["id"], *answer]))

    async with HostileRelay(script) as relay:
        pool = await make_pool([relay.url], Received())
        result = (await pool.publish(_note("x"), [relay.url], timeout=60))[relay.url]
        assert (result.state, result.prefix) == (state, prefix)
        assert result.message.isprintable()


async def test_a_publish_without_answer_is_a_timeout_and_is_sent_again_on_reconnect(
    make_pool: MakePool,
) -> None:
    event = _note("answer me")

    async def script(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] == "EVENT":
            if len(relay.said("EVENT")) == 1:
                await socket.close()
            elif frame[1]["content"] == "answer me":
                await socket.send(json.dumps(["OK", event.id, True, ""]))

    async with HostileRelay(script) as relay:
        pool = await make_pool([relay.url], Received())
        assert (await pool.publish(event, [relay.url]))[relay.url].state == "ok"
        assert relay.connects == 2
        silent = await pool.publish(_note("never answered"), [relay.url], timeout=0.2)
        assert silent[relay.url].state == "timeout"


async def test_closed_for_good_is_noted_and_rate_limited_is_asked_again(make_pool: MakePool) -> None:
    event = _note("after waiting")

    async def script(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] != "REQ":
            return
        if frame[2]["kinds"] == [2]:
            await socket.send(json.dumps(["CLOSED", frame[1], "restricted: members only"]))
        elif len([one for one in relay.said("REQ") if one[2]["kinds"] == [1]]) == 1:
            await socket.send(json.dumps(["CLOSED", frame[1], "rate-limited: slow down"]))
        else:
            await socket.send(_event_frame(frame[1], event))

    async with HostileRelay(script) as relay:
        received = Received()
        pool = await make_pool([relay.url], received, limits=RelayLimits(rate_limited_seconds=0.05))
        pool.subscribe("members", [{"kinds": [2]}], lambda url: None)
        pool.subscribe("notes", NOTES, lambda url: None)
        assert await received.wait(1) == [event]
        assert pool.status()[0]["subscriptions"]["members"] == "failed: restricted: members only"


async def test_a_notice_fails_the_newest_waiting_request_only(make_pool: MakePool) -> None:
    async def script(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] == "REQ" and frame[2]["kinds"] == [2]:
            await socket.send('["NOTICE","ERROR: bad req: unindexed tag filter"]')
            await socket.send(json.dumps(["EOSE", relay.said("REQ")[0][1]]))

    async with HostileRelay(script) as relay:
        pool = await make_pool([relay.url], Received())
        pool.subscribe("notes", NOTES, lambda url: None)
        pool.subscribe("odd", [{"kinds": [2]}], lambda url: None)
        assert await pool.wait_for(lambda: pool.status()[0]["state"] == "subscribed", DEADLINE)
        subscriptions = pool.status()[0]["subscriptions"]
        assert subscriptions["notes"] == "live" and subscriptions["odd"].startswith("failed: NOTICE ERROR")


async def test_a_relay_that_never_says_eose_is_live_after_the_deadline(make_pool: MakePool) -> None:
    async with HostileRelay() as relay:
        pool = await make_pool([relay.url], Received(), limits=RelayLimits(eose_seconds=0.05))
        pool.subscribe("notes", NOTES, lambda url: None)
        assert await pool.wait_for(lambda: pool.status()[0]["state"] == "subscribed", DEADLINE)
        assert pool.status()[0]["subscriptions"]["notes"] == "live: no EOSE"
        began = time.monotonic()
        found = await pool.query(NOTES, timeout=0.2)
        assert found.answered == 0 and time.monotonic() - began < 30


async def test_an_endless_history_is_read_back_only_so_far(make_pool: MakePool) -> None:
    async def script(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] == "REQ":
            until = frame[2].get("until", int(time.time()))
            await socket.send(_event_frame(frame[1], _note("more", at=until - 1)))
            await socket.send(json.dumps(["EOSE", frame[1]]))

    async with HostileRelay(script) as relay:
        pool = await make_pool([relay.url], Received(), limits=RelayLimits(pages=5))
        pool.subscribe("notes", NOTES, lambda url: None)
        assert await pool.wait_for(lambda: pool.status()[0]["state"] == "subscribed", DEADLINE)
        assert len(relay.said("REQ")) == 6
        asked, dropped = ([frame[1] for frame in relay.said(kind)] for kind in ("REQ", "CLOSE"))
        assert dropped == asked[1 : len(dropped) + 1] and len(dropped) >= 4


async def test_a_frame_beyond_the_socket_bound_costs_the_connection_not_the_memory(
    make_pool: MakePool,
) -> None:
    event = _note("after the flood")

    async def script(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] == "REQ":
            if relay.connects == 1:
                await socket.send("[" + "1," * 1_048_576 + "1]")
            else:
                await socket.send(_event_frame(frame[1], event))

    async with HostileRelay(script) as relay:
        received = Received()
        pool = await make_pool([relay.url], received)
        pool.subscribe("notes", NOTES, lambda url: None)
        assert await received.wait(1) == [event]
        assert relay.connects == 2


async def test_authentication_is_tried_once_and_only_when_asked_for(make_pool: MakePool) -> None:
    async def script(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] == "REQ":
            await socket.send(json.dumps(["CLOSED", frame[1], "auth-required: who are you"]))
        elif frame[0] == "AUTH":
            await socket.send(json.dumps(["OK", frame[1]["id"], False, "restricted: not you"]))
        elif frame[0] == "EVENT":
            await socket.send(json.dumps(["OK", frame[1]["id"], False, "auth-required: still"]))

    async with HostileRelay(script, greeting=["AUTH", "challenge-1"]) as relay:
        pool = await make_pool([relay.url], Received(), auth=True)
        assert await pool.wait_for(lambda: pool.connected() == 1, DEADLINE)
        assert relay.said("AUTH") == []
        pool.subscribe("notes", NOTES, lambda url: None)
        assert await pool.wait_for(
            lambda: pool.status()[0]["subscriptions"].get("notes") == "failed: restricted: not you", DEADLINE
        )
        result = (await pool.publish(_note("x"), [relay.url], timeout=60))[relay.url]
        assert (result.state, result.prefix) == ("rejected", "auth-required")
        (answer,) = relay.said("AUTH")
        assert answer[1]["kind"] == 22_242 and answer[1]["pubkey"] == NODE_KEY
        assert answer[1]["tags"] == [["relay", relay.url], ["challenge", "challenge-1"]]


async def test_a_relay_outside_our_lists_never_learns_our_key(make_pool: MakePool) -> None:
    async def script(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] == "EVENT":
            await socket.send(json.dumps(["OK", frame[1]["id"], False, "auth-required: tell me"]))

    async with HostileRelay(script, greeting=["AUTH", "c"]) as relay:
        pool = await make_pool([], Received())
        result = (await pool.publish(_note("x"), [relay.url], timeout=60))[relay.url]
        assert (result.state, result.prefix) == ("rejected", "auth-required")
        assert relay.said("AUTH") == []


async def test_delays_double_with_jitter_until_the_relay_counts_as_dead(make_pool: MakePool) -> None:
    async def script(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        await socket.close()

    delays = Delays(hold_after=11)
    async with HostileRelay(script) as relay:

        def rng(size: int) -> bytes:
            # All ones make the jitter pick its ceiling each time.
            return b"\xff" * size if size == 4 else os.urandom(size)

        pool = await make_pool([relay.url], Received(), sleep=delays, rng=rng)
        pool.subscribe("notes", NOTES, lambda url: None)
        async with asyncio.timeout(DEADLINE):
            await delays.held.wait()
        assert [round(delay) for delay in delays.asked] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 1980, 1980]
        assert pool.status()[0]["state"] == "dead"


async def test_acceptance_04_15_a_flood_of_repeats_does_not_delay_another_relays_message(
    make_pool: MakePool,
) -> None:
    event, dm = _note("again and again"), _dm("urgent")
    go, flooding = asyncio.Event(), asyncio.Event()
    sent = 0

    async def flood(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        nonlocal sent
        if frame[0] == "REQ" and frame[2]["kinds"] == [1]:
            text = _event_frame(frame[1], event)
            for number in range(20_000):
                await socket.send(text)
                sent += 1
                if number == 2_000:
                    flooding.set()

    async def quiet(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] == "REQ" and frame[2]["kinds"] == [1059]:
            await go.wait()
            await socket.send(_event_frame(frame[1], dm))

    async with HostileRelay(flood) as first, HostileRelay(quiet) as second:
        received = Received()
        pool = await make_pool([first.url, second.url], received)
        pool.subscribe("notes", NOTES, lambda url: None)
        pool.subscribe("dm", DM_FILTER, lambda url: None)
        async with asyncio.timeout(DEADLINE):
            await flooding.wait()
        go.set()
        await received.wait(2)
        assert sent < 20_000, "it came no earlier than the end of the flood"
        assert {one.id for one in received.events} == {event.id, dm.id}
        assert pool.statistics()["signature_checks"] <= 4


async def test_a_slow_reader_of_adverts_bounds_memory_and_does_not_hold_up_messages(
    make_pool: MakePool,
) -> None:
    limits = RelayLimits(inbox_events=20, lane_events=30, batch=16)
    secret, now = Secret(b"\x09" * 32), int(time.time())
    adverts = [build(secret, 1, [["t", "hive"]], str(n), now) for n in range(400)]
    release, dm, seen = asyncio.Event(), _dm("urgent"), Received()

    async def script(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] == "REQ" and frame[2]["kinds"] == [1]:
            for advert in adverts:
                await socket.send(_event_frame(frame[1], advert))

    async def direct(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] == "REQ" and frame[2]["kinds"] == [1059]:
            await socket.send(_event_frame(frame[1], dm))

    async def handler(url: str, name: str, event: Event) -> None:
        if name == "notes":
            await release.wait()
        await seen(url, name, event)

    async with HostileRelay(script) as first, HostileRelay(direct) as second:
        pool = await make_pool([first.url], handler, limits=limits)
        pool.subscribe("notes", NOTES, lambda url: None)
        # The first advert is in the handler, a lane and an inbox are full, and checking has stopped.
        full = lambda: pool.statistics()["signature_checks"] >= 30  # noqa: E731
        async with asyncio.timeout(DEADLINE):
            while not full():
                await asyncio.sleep(0.01)
        await pool.set_relays([first.url, second.url], [], [])
        pool.subscribe("dm", DM_FILTER, lambda url: None)
        assert await seen.wait(1) == [dm]
        assert pool.statistics()["signature_checks"] <= 30 + 16 + 2
        release.set()
        await seen.wait(401)


async def test_signatures_are_checked_off_the_loop_in_one_thread(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()
    real = inbound.check_batch

    def watched(batch: list[inbound.Incoming], latest: int, now: int) -> list[Event | str]:
        threads.add(threading.current_thread().name)
        assert len(batch) <= RelayLimits().batch
        return real(batch, latest, now)

    monkeypatch.setattr(inbound, "check_batch", watched)
    events = [_note(str(n)) for n in range(300)]

    async def script(relay: HostileRelay, socket: Any, frame: list[Any]) -> None:
        if frame[0] == "REQ":
            for event in events:
                await socket.send(_event_frame(frame[1], event))

    async with HostileRelay(script) as relay:
        received = Received()
        pool = await make_pool([relay.url], received)
        pool.subscribe("notes", NOTES, lambda url: None)
        assert await received.wait(300) == events
        assert len(threads) == 1 and threads.pop().startswith("nostr-verify")


async def test_a_full_outgoing_queue_is_busy_at_once(make_pool: MakePool) -> None:
    async with HostileRelay() as relay:
        pool = await make_pool([relay.url], Received(), limits=RelayLimits(outbound=3))
        waiting = [asyncio.create_task(pool.publish(_note(str(n)), [relay.url])) for n in range(3)]
        await asyncio.sleep(0)
        result = await pool.publish(_note("one too many"), [relay.url])
        assert result[relay.url].state == "busy"
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
