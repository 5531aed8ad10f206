"""The book a node keeps of parts until their message ends (Protocol 04 §6 "Larger")."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from cl_hive_comms.domain.arrival import Arrival
from cl_hive_comms.services.inbound_parts import InboundParts
from hive_shared.nostr.chunks import KEEP_SECONDS, Missing, split
from hive_shared.nostr.reasons import ChunkInvalid

PEER, OURS = "aa" * 32, "bb" * 32


class Lost:
    """Remembers who was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Missing, str]] = []

    async def ask(self, missing: Missing, our_key: str) -> bool:
        self.asked.append((missing, our_key))
        if len(self.asked) == 1:
            raise ValueError("a fault of ours")
        return True

    async def answer(self, text: str, arrival: Arrival) -> bool:
        return True


class Book:
    """The service with a clock that passes when somebody waits."""

    def __init__(self) -> None:
        self.now = 1_000
        self.given_up: list[tuple[Arrival, ...]] = []
        self.log: list[str] = []
        self.lost = Lost()
        self.parts = InboundParts(
            given_up=self.given_up.append,
            now=lambda: self.now,
            log=lambda level, event, /, **fields: self.log.append(event),
            pause=self._pause,
        )
        self.parts.on_lost(self.lost)

    async def _pause(self, seconds: float) -> None:
        self.now += int(seconds)
        await asyncio.sleep(0)

    async def ended(self) -> None:
        async with asyncio.timeout(60):
            while not self.parts.idle:
                await asyncio.sleep(0)


def arrival(number: int, recipient: str = OURS) -> Arrival:
    return Arrival("nostr_dm", PEER, f"{number:064x}", 1_000, True, recipient=recipient)


def cut(text: str = "x" * 40_000, **changes: Any) -> list[str]:
    return [json.dumps(json.loads(part) | changes) for part in split(text)]


async def test_the_whole_message_knows_the_arrivals_of_its_parts() -> None:
    book = Book()
    first, second, third = cut()
    one, two, three = arrival(1), arrival(2), arrival(3)
    assert book.parts.take(second, two) is two and book.parts.take(first, one) is one
    assert book.parts.take(first, arrival(9)) is None
    whole = book.parts.take(third, three)
    assert isinstance(whole, tuple)
    assert whole[0] == "x" * 40_000 and whole[1].message_id == three.message_id
    assert set(whole[1].parts) == {one, two}
    assert book.parts.idle and not book.given_up


async def test_what_does_not_become_whole_is_asked_for_and_then_given_up() -> None:
    book = Book()
    first, _, third = cut()
    one, three = arrival(1), arrival(3)
    book.parts.take(first, one)
    book.parts.take(third, three)
    await book.ended()
    # Once in vain, by a fault that ends nothing, and once for good.
    assert [(missing.indexes, key) for missing, key in book.lost.asked] == [((1,), OURS)] * 2
    assert book.given_up == [(one, three)] and book.now > 1_000 + KEEP_SECONDS
    assert "parts_not_asked_for" in book.log


async def test_parts_that_a_transport_handed_in_are_not_asked_for() -> None:
    book = Book()
    handed_in = arrival(1, recipient="")
    book.parts.take(cut()[0], handed_in)
    await book.ended()
    assert book.lost.asked == [] and book.given_up == [(handed_in,)]


async def test_a_whole_that_is_wrong_gives_up_its_other_parts() -> None:
    book = Book()
    first, second = cut("x" * 20_000, sha256="00" * 32)
    one = arrival(1)
    assert book.parts.take(first, one) is one
    with pytest.raises(ChunkInvalid) as wrong:
        book.parts.take(second, arrival(2))
    assert wrong.value.reason == "hash"
    assert book.given_up == [(one,)] and book.parts.idle


@pytest.mark.parametrize("changes", [{"i": [0]}, {"i": True}, {"id": ["x"]}, {"id": None}, {"n": {}}])
async def test_a_part_with_fields_of_another_kind_leaves_nothing(changes: dict[str, Any]) -> None:
    book = Book()
    with pytest.raises(ChunkInvalid):
        book.parts.take(cut(**changes)[0], arrival(1))
    assert book.parts.idle and not book.given_up


async def test_nothing_is_asked_after_the_stop() -> None:
    book = Book()
    book.parts.take(cut()[0], arrival(1))
    await book.parts.stop()
    book.parts.take(cut()[1], arrival(2))
    for _ in range(20):
        await asyncio.sleep(0)
    assert book.lost.asked == []
