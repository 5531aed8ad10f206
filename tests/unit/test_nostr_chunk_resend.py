"""Lost parts: who asks when, what a request may be, and how often it is obeyed (Protocol 04 §6 "Larger")."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hive_advisor.transport.sent_parts import MAX_BYTES, SentMessage, SentParts
from hive_shared.nostr import chunks
from hive_shared.nostr.chunk_resend import (
    MAX_REQUEST_BYTES,
    PARTS_IN_ALL,
    PARTS_PER_PEER,
    ResentParts,
    parse_resend,
)
from hive_shared.nostr.chunks import KEEP_SECONDS, MAX_CHUNKS, ChunkBuffer, ChunkInvalid, Missing
from hive_shared.nostr.giftwrap import long_id, split_chunks
from hive_shared.nostr.long_messages import LongMessages
from hypothesis import given, settings
from hypothesis import strategies as st

PEER, OTHER = "aa" * 32, "bb" * 32
REQUEST: dict[str, Any] = {"schema": "hive:chunk-resend/v1", "id": "0123456789abcdef", "missing": [0, 2]}


# -- the request ------------------------------------------------------------------------------------------


def test_a_request_names_a_message_and_its_missing_parts() -> None:
    request = parse_resend(json.dumps(REQUEST))
    assert (request.chunk_id, request.missing) == ("0123456789abcdef", (0, 2))
    longest = Missing(PEER, "0" * 16, tuple(range(1, MAX_CHUNKS))).content()
    assert len(longest) < MAX_REQUEST_BYTES and len(parse_resend(longest).missing) == 63


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "0123456789ABCDEF"},
        {"id": "0123456789abcde"},
        {"id": "0123456789abcdef\n"},
        {"id": 1},
        {"missing": []},
        {"missing": [64]},
        {"missing": [-1]},
        {"missing": [True]},
        {"missing": [1.0]},
        {"missing": ["1"]},
        {"missing": [1, 1]},
        {"missing": {"0": 1}},
        {"missing": None},
        {"missing": list(range(64))},
        {"schema": "hive:chunk-resend/v2"},
        {"more": 1},
    ],
)
def test_a_request_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ChunkInvalid) as refused:
        parse_resend(json.dumps(REQUEST | wrong))
    assert refused.value.reason == "malformed"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "null", '{"schema":"hive:chunk-resend/v1"}', "[" * 400, json.dumps(REQUEST)[:-1]],
)
def test_a_text_that_is_no_request_is_refused(text: str) -> None:
    with pytest.raises(ChunkInvalid):
        parse_resend(text)


def test_a_long_request_is_refused_before_it_is_read() -> None:
    with pytest.raises(ChunkInvalid) as refused:
        parse_resend(json.dumps(REQUEST) + " " * MAX_REQUEST_BYTES)
    assert refused.value.reason == "too_large"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_anything_else_as_missing_is_a_reason(missing: Any) -> None:
    try:
        request = parse_resend(json.dumps(REQUEST | {"missing": missing}))
    except ChunkInvalid:
        return
    assert list(request.missing) == missing and all(0 <= index < MAX_CHUNKS for index in missing)


# -- losing and asking --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.data())
def test_whatever_was_lost_is_asked_for_and_makes_the_message_whole(count: int, data: st.DataObject) -> None:
    text = "é" * (count * chunks.CHUNK_BYTES // 2)
    parts = [json.loads(part) for part in chunks.split(text)]
    lost = data.draw(st.sets(st.integers(0, count - 1), max_size=count - 1))
    buffer = ChunkBuffer()
    whole = None
    for index in data.draw(st.permutations(sorted(set(range(count)) - lost))):
        whole = buffer.add(PEER, parts[index], 0) or whole
    asked = buffer.missing(chunks.RESEND_AFTER_SECONDS)
    if not lost:
        assert whole is not None and whole.text == text and asked == []
        return
    assert whole is None
    (missing,) = asked
    request = parse_resend(missing.content())
    assert request.chunk_id == parts[0]["id"] and set(request.missing) == lost
    sent = SentParts(lambda: 100)
    # As a text too short for parts never would be: the sender's side knows the parts by the text alone.
    if long_id(text) is None:
        return
    sent.keep(SentMessage(PEER, text, ("wss://r",), 100, 1_000))
    again = sent.asked(PEER, missing.content(), 100)
    assert again is not None and len(again.parts) == len(lost)
    for part in again.parts:
        whole = buffer.add(PEER, json.loads(part), 25) or whole
    assert whole is not None and whole.text == text
    assert buffer.total_bytes == 0 and buffer.next_look(25) is None


class Clock:
    """Seconds that pass when somebody waits for them; `waits` is how often."""

    def __init__(self) -> None:
        self.now, self.waits = 0, 0

    async def pause(self, seconds: float) -> None:
        self.waits += 1
        self.now += int(seconds)
        await asyncio.sleep(0)


async def ended(messages: LongMessages) -> None:
    async with asyncio.timeout(60):
        while not messages.idle:
            await asyncio.sleep(0)


def unfinished(text: str = "x" * 60_000, lost: int = 1) -> list[dict[str, Any]]:
    parts = [json.loads(part) for part in split_chunks(text)]
    return [part for part in parts if part["i"] != lost]


async def test_a_message_is_asked_for_once_and_forgotten_after_ten_minutes() -> None:
    clock = Clock()
    asked: list[tuple[int, Missing]] = []
    forgotten: list[tuple[str, str]] = []

    async def ask(missing: Missing) -> bool:
        asked.append((clock.now, missing))
        return True

    messages = LongMessages(
        ask,
        now=lambda: clock.now,
        pause=clock.pause,
        forgotten=lambda sender, chunk_id: forgotten.append((sender, chunk_id)),
    )
    assert messages.idle
    for part in unfinished():
        assert messages.take(PEER, part) is None
    assert messages.held_bytes and not messages.idle
    await ended(messages)
    ((when, missing),) = asked
    assert when == chunks.RESEND_AFTER_SECONDS and missing.indexes == (1,) and missing.sender == PEER
    assert forgotten == [(PEER, missing.chunk_id)]
    assert KEEP_SECONDS < clock.now <= KEEP_SECONDS + 2 * chunks.RESEND_AFTER_SECONDS
    # Nothing is left that would cost anything.
    waits = clock.waits
    for _ in range(50):
        await asyncio.sleep(0)
    assert clock.waits == waits and messages.held_bytes == 0


async def test_a_request_that_no_relay_took_is_tried_again_and_one_that_went_out_is_not() -> None:
    clock, tries = Clock(), 0

    async def ask(missing: Missing) -> bool:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError("no network")
        return tries == 3

    messages = LongMessages(ask, now=lambda: clock.now, pause=clock.pause)
    for part in unfinished():
        messages.take(PEER, part)
    await ended(messages)
    assert tries == 3


async def test_the_watch_ends_with_the_last_unfinished_message() -> None:
    waiting = asyncio.Event()

    async def for_ever(_seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    async def ask(_: Missing) -> bool:
        raise AssertionError("nothing is missing")

    messages = LongMessages(ask, now=lambda: 0, pause=for_ever)
    *most, last = [json.loads(part) for part in split_chunks("x" * 60_000)]
    for part in most:
        messages.take(PEER, part)
    await asyncio.wait_for(waiting.wait(), 30)
    done = messages.take(PEER, last)
    assert done is not None and messages.idle
    # Another one is watched anew, until it is stopped.
    waiting.clear()
    messages.take(PEER, most[0])
    await asyncio.wait_for(waiting.wait(), 30)
    assert not messages.idle
    await messages.stop()
    assert messages.take(PEER, most[1]) is None


async def test_two_messages_are_asked_for_each_in_its_time() -> None:
    clock = Clock()
    asked: list[tuple[int, str]] = []

    async def ask(missing: Missing) -> bool:
        asked.append((clock.now, missing.sender))
        if missing.sender == PEER:
            # While the first one waits for its answer the second begins.
            for part in unfinished("y" * 40_000):
                messages.take(OTHER, part)
        return True

    messages = LongMessages(ask, now=lambda: clock.now, pause=clock.pause)
    for part in unfinished():
        messages.take(PEER, part)
    await ended(messages)
    first = chunks.RESEND_AFTER_SECONDS
    assert asked == [(first, PEER), (2 * first, OTHER)]


# -- obeying ------------------------------------------------------------------------------------------------


def test_a_part_goes_once_to_a_peer_for_a_message() -> None:
    resent = ResentParts(lambda: 0)
    assert resent.claim(PEER, "m", [3, 1]) == (1, 3)
    assert resent.claim(PEER, "m", [1, 2]) == (2,)
    assert resent.claim(PEER, "m", [1, 2, 3]) == ()
    assert resent.claim(PEER, "sent anew", [1]) == (1,)
    assert resent.claim(OTHER, "m", [1]) == (1,)


def test_a_peer_gets_the_longest_message_once_in_ten_minutes_and_others_are_not_touched() -> None:
    now = 0
    resent = ResentParts(lambda: now)
    assert len(resent.claim(PEER, "a", range(60))) == 60
    assert resent.claim(PEER, "b", range(5)) == ()
    assert len(resent.claim(PEER, "b", range(4))) == 4
    assert resent.claim(OTHER, "a", [0]) == (0,)
    now = KEEP_SECONDS - 1
    assert resent.claim(PEER, "c", [0]) == ()
    now = KEEP_SECONDS
    assert resent.claim(PEER, "c", [0]) == (0,)
    # A clock that was set back locks nobody out.
    now = -5_000
    assert resent.claim(PEER, "d", [0]) == (0,)


def test_all_peers_together_are_bounded_and_so_is_what_is_remembered() -> None:
    now = 0
    resent = ResentParts(lambda: now)
    for peer in range(100):
        resent.claim(f"{peer:064x}", "m", range(PARTS_PER_PEER))
    assert sum(count for _, _, count in resent._recent) == PARTS_IN_ALL
    for number in range(3_000):
        now += KEEP_SECONDS
        resent.claim(PEER, f"m{number}", [0])
    assert len(resent._sent) <= 1_000 and len(resent._recent) == 1


def test_what_a_process_sent_is_kept_for_its_recipient_alone_and_bounded() -> None:
    now = 100
    sent = SentParts(lambda: now)
    text = "x" * 60_000
    name = long_id(text)
    assert name is not None
    request = Missing(PEER, name, (1,)).content()
    assert sent.asked(PEER, request, now) is None
    sent.keep(SentMessage(PEER, text, ("wss://r",), 100, 5_000))
    assert sent.asked(OTHER, request, now) is None
    assert sent.asked(PEER, Missing(PEER, name, (1, 63)).content(), now) is None
    again = sent.asked(PEER, request, now)
    assert again is not None and again.parts == (split_chunks(text)[1],)
    assert sent.asked(PEER, request, now) is None
    # Asked long ago: whoever asked has given the message up.
    late = Missing(PEER, name, (2,)).content()
    now = 100 + KEEP_SECONDS + 1
    assert sent.asked(PEER, late, 100) is None
    assert sent.asked(PEER, late, now) is not None
    # A message that fits into one rumor takes no memory; long ones push the oldest out.
    sent.keep(SentMessage(PEER, "short", ("wss://r",), now, 5_000))
    for number in range(10):
        sent.keep(SentMessage(PEER, f"{number}" + "x" * 1_000_000, ("wss://r",), now, 5_000))
        assert sent._bytes <= MAX_BYTES
    assert len(sent._sent) == 4
    assert sent.asked(PEER, Missing(PEER, name, (0,)).content(), now) is None
    newest = long_id("9" + "x" * 1_000_000)
    assert newest is not None
    now = 6_000
    assert sent.asked(PEER, Missing(PEER, newest, (0,)).content(), now) is None
