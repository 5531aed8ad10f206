"""Long messages: cutting, reassembly, and how little a peer can make us hold (Protocol 04 §6 "Larger")."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hive_shared.nostr import chunks
from hive_shared.nostr.chunks import ChunkBuffer, ChunkInvalid
from hive_shared.nostr.giftwrap import split_chunks
from hypothesis import given, settings
from hypothesis import strategies as st

PEER, OTHER = "aa" * 32, "bb" * 32


def _parts(text: str) -> list[dict[str, Any]]:
    return [json.loads(part) for part in chunks.split(text)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200_000), st.randoms(use_true_random=False))
def test_parts_in_any_order_and_repeated_give_the_text_once(size: int, order: random.Random) -> None:
    text = "".join(order.choice('aé⚡\n"') for _ in range(size % 997)) + "x" * size
    parts = _parts(text) * 2
    order.shuffle(parts)
    buffer = ChunkBuffer()
    whole: list[str] = []
    for part in parts:
        done = buffer.add(PEER, part, 0)
        if done is not None:
            whole.append(done.text)
            break
    assert whole == [text]
    assert buffer.total_bytes == 0


def test_a_short_text_is_sent_as_it_is_and_a_long_one_in_parts_of_equal_id() -> None:
    assert split_chunks("hello") == ["hello"]
    parts = [json.loads(part) for part in split_chunks("x" * 40_000)]
    assert [part["i"] for part in parts] == [0, 1, 2] and {part["n"] for part in parts} == {3}
    assert {part["id"] for part in parts} == {parts[0]["sha256"][:16]}
    assert split_chunks("x" * 40_000) == split_chunks("x" * 40_000)


def test_one_mebibyte_is_the_limit() -> None:
    assert len(split_chunks("x" * 1_048_576)) == 64
    with pytest.raises(ChunkInvalid) as refused:
        split_chunks("x" * 1_048_577)
    assert refused.value.reason == "too_large"


def test_parts_of_two_senders_do_not_mix() -> None:
    first, second = _parts("x" * 20_000)
    buffer = ChunkBuffer()
    assert buffer.add(PEER, first, 0) is None
    assert buffer.add(OTHER, second, 0) is None
    done = buffer.add(PEER, second, 0)
    assert done is not None and done.sender == PEER


def test_an_unfinished_message_is_dropped_after_ten_minutes() -> None:
    first, second = _parts("x" * 20_000)
    buffer = ChunkBuffer()
    buffer.add(PEER, first, 0)
    assert buffer.add(PEER, second, 601) is None
    assert buffer.total_bytes == 20_000 - chunks.CHUNK_BYTES


def test_missing_parts_are_asked_for_once() -> None:
    parts = _parts("x" * 60_000)
    buffer = ChunkBuffer()
    buffer.add(PEER, parts[1], 0)
    assert buffer.missing(19) == []
    assert buffer.missing(19) == [] and buffer.next_look(19) == 1
    (missing,) = buffer.missing(20)
    assert json.loads(missing.content()) == {
        "schema": "hive:chunk-resend/v1",
        "id": parts[0]["id"],
        "missing": [0, 2, 3],
    }
    assert buffer.missing(300) == []


def test_a_peer_holds_at_most_four_mebibytes_and_others_are_not_touched() -> None:
    buffer = ChunkBuffer()
    with pytest.raises(ChunkInvalid) as refused:
        for message in range(10):
            for part in _parts(str(message) + "x" * 1_000_000)[:-1]:
                buffer.add(PEER, part, 0)
    assert refused.value.reason == "too_large"
    assert buffer.total_bytes <= chunks.MAX_PEER_BYTES
    for part in _parts("y" * 20_000):
        done = buffer.add(OTHER, part, 0)
    assert done is not None


def test_the_total_is_bounded_over_many_peers() -> None:
    buffer = ChunkBuffer(max_total=100_000)
    part = _parts("x" * 20_000)[0]
    with pytest.raises(ChunkInvalid):
        for peer in range(100):
            buffer.add(f"{peer:064x}", part, 0)
    assert buffer.total_bytes <= 100_000
    buffer.expire(601)
    assert buffer.total_bytes == 0


def test_unfinished_messages_are_counted_per_peer_and_in_all() -> None:
    buffer = ChunkBuffer()

    def begin(peer: str, number: int) -> None:
        part = _parts("x" * 20_000)[0] | {"id": f"{number:016x}", "data": "eA"}
        buffer.add(peer, part, 0)

    for number in range(chunks.MAX_PEER_MESSAGES):
        begin(PEER, number)
    with pytest.raises(ChunkInvalid) as refused:
        begin(PEER, 10_000)
    assert refused.value.reason == "too_large"
    # A known one goes on, and so does another peer, until there are too many of all.
    begin(PEER, 0)
    for number in range(chunks.MAX_TOTAL_MESSAGES - chunks.MAX_PEER_MESSAGES):
        begin(f"{number % 20:064x}", number)
    with pytest.raises(ChunkInvalid):
        begin(OTHER, 0)
    assert len(buffer.missing(20)) == chunks.MAX_TOTAL_MESSAGES
    buffer.expire(601)
    begin(OTHER, 0)


def test_a_wrong_hash_loses_the_message_and_frees_it() -> None:
    parts = _parts("x" * 20_000)
    for part in parts:
        part["sha256"] = "00" * 32
    buffer = ChunkBuffer()
    buffer.add(PEER, parts[0], 0)
    with pytest.raises(ChunkInvalid) as refused:
        buffer.add(PEER, parts[1], 0)
    assert refused.value.reason == "hash" and buffer.total_bytes == 0


def test_a_contradicting_part_is_refused() -> None:
    parts = _parts("x" * 20_000)
    buffer = ChunkBuffer()
    buffer.add(PEER, parts[0], 0)
    with pytest.raises(ChunkInvalid) as refused:
        buffer.add(PEER, parts[1] | {"n": 5}, 0)
    assert refused.value.reason == "contradiction"


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "AA" * 8},
        {"id": 1},
        {"i": -1},
        {"i": 2},
        {"i": True},
        {"n": 65},
        {"n": 0},
        {"n": "2"},
        {"sha256": "zz"},
        {"data": "***"},
        {"data": ""},
        {"data": None},
        {"data": "A" * 30_000},
        {"schema": "hive:chunk/v2"},
        {"more": 1},
    ],
)
def test_malformed_parts_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ChunkInvalid) as refused:
        ChunkBuffer().add(PEER, _parts("x" * 20_000)[0] | wrong, 0)
    assert refused.value.reason == "malformed"
