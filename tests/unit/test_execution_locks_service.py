"""One writer per channel (docs/protocol/02-fleet-management.md §7.1)."""

from __future__ import annotations

import asyncio

import pytest
from cl_hive_comms.services.execution_locks import ExecutionLocks
from hive_shared.errors import Busy


async def test_a_second_writer_of_a_channel_waits_and_is_told_so() -> None:
    locks = ExecutionLocks()
    order: list[str] = []
    first_holds = asyncio.Event()

    async def first() -> None:
        async with locks.hold({"channel:b", "channel:a"}) as waited:
            assert not waited
            first_holds.set()
            await asyncio.sleep(0)
            order.append("first")

    async def second() -> None:
        await first_holds.wait()
        async with locks.hold({"channel:b"}) as waited:
            assert waited
            order.append("second")

    async with asyncio.timeout(60):
        await asyncio.gather(first(), second())
    assert order == ["first", "second"]


async def test_other_channels_are_free() -> None:
    locks = ExecutionLocks()
    async with asyncio.timeout(60), locks.hold({"channel:a"}), locks.hold({"channel:b"}) as waited:
        assert not waited


async def test_a_writer_that_waits_too_long_is_told_busy_and_leaves_nothing_locked() -> None:
    locks = ExecutionLocks(wait_s=0.02)
    async with locks.hold({"channel:b"}):
        with pytest.raises(Busy):
            async with locks.hold({"channel:a", "channel:b"}):
                raise AssertionError("must not get in")
    async with locks.hold({"channel:a", "channel:b"}) as waited:
        assert not waited
    assert locks._locks == {}


async def test_bulk_changes_in_opposite_order_cannot_deadlock() -> None:
    locks = ExecutionLocks(wait_s=5)

    async def bulk(names: list[str]) -> None:
        for _ in range(50):
            async with locks.hold(names):
                await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await asyncio.gather(bulk(["a", "b", "c"]), bulk(["c", "b", "a"]), bulk(["b"]))
