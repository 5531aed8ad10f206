"""Proof of work of events (docs/protocol/04-marketplace-and-nostr.md §5.1, §7.3)."""

from __future__ import annotations

import asyncio

import pytest
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import InvalidParams
from hive_shared.nostr import event as events
from hive_shared.nostr import pow as work

SECRET = Secret((5).to_bytes(32, "big"))
KEY = xonly_pubkey(SECRET)
TAGS = (("d", "a"), ("alt", 'quotes " and \u0000nonce\u0000 and ümläut'))


@pytest.mark.parametrize("content", ["", 'a "text" with \n lines and 名前'])
def test_found_work_is_in_the_id_of_the_event_that_is_built_with_it(content: str) -> None:
    tags = work.search(KEY, 38380, TAGS, content, 1_770_000_000, 12)
    event = events.build(SECRET, 38380, tags, content, 1_770_000_000)
    assert events.verify(event)
    assert event.tags[:-1] == TAGS and event.tags[-1][::2] == ("nonce", "12")
    assert int(event.id, 16) >> (256 - 12) == 0
    assert work.committed_bits(event) == 12


@pytest.mark.parametrize(
    ("tags", "bits"),
    [
        ((), 0),
        ((("nonce", "1"),), 0),
        ((("nonce", "1", "x"),), 0),
        ((("nonce", "1", "²"),), 0),
        ((("nonce", "1", "-5"),), 0),
        ((("nonce", "1", "3"),), 3),
        ((("nonce", "1", "28"),), 8),
    ],
)
def test_more_luck_than_was_set_out_for_counts_for_nothing(
    tags: tuple[tuple[str, ...], ...], bits: int
) -> None:
    lucky = events.Event("00" + "ff" * 31, KEY, 1, 38380, tags, "", "")
    assert work.committed_bits(lucky) == bits


@pytest.mark.parametrize(("tags", "bits"), [((), 29), ((), -1), ((("nonce", "1", "2"),), 4)])
async def test_what_cannot_be_worked_for_is_refused(tags: tuple[tuple[str, ...], ...], bits: int) -> None:
    with pytest.raises(InvalidParams):
        work.search(KEY, 1, tags, "", 1, bits)
    with pytest.raises(InvalidParams):
        await work.mine(KEY, 1, tags, "", 1, bits, timeout_s=1)


async def test_another_process_finds_the_same() -> None:
    found = await work.mine(KEY, 38381, TAGS, "x", 1_770_000_000, 10, timeout_s=60)
    assert found == work.search(KEY, 38381, TAGS, "x", 1_770_000_000, 10)
    assert await work.mine(KEY, 38381, TAGS, "x", 1, 0, timeout_s=1) == TAGS


async def test_work_ends_when_nobody_waits_for_it() -> None:
    told: list[int] = []
    with pytest.raises(TimeoutError):
        await work.mine(KEY, 1, (), "", 1, 28, timeout_s=0.01, progress=told.append)
    working = asyncio.create_task(work.mine(KEY, 1, (), "", 1, 28, timeout_s=60, progress=told.append))
    while not told:
        await asyncio.wait([working], timeout=0.05)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
