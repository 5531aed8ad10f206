"""Crashes and full disks: every command ends once, with the truth (02 §7.1 "Crash", §15.12, §15.22)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hive_shared.errors import Busy
from hive_shared.store import StoreError
from pipeline_world import Crash, World, slug

FEES = "hive:fee-policy/v1"
MONITOR = "hive:monitor/v1"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


async def crashed(world: World, point: str) -> dict[str, Any]:
    """Send a fee change whose node dies at a point; returns the envelope."""
    doc = world.envelope(FEES, "set_single", {"channel_id": "101x1x0", "fee_ppm": 120})
    world.crash_at = point
    with pytest.raises(Crash):
        await world.handle(doc)
    world.restart()
    return dict(doc)


@pytest.mark.parametrize(
    ("point", "state", "effects"),
    [
        ("after_received", "rejected", 0),
        ("after_executing", "error", 0),
        ("after_cln", "success", 1),
        ("after_outcome", "success", 1),
    ],
)
async def test_acceptance_02_12_a_killed_fee_change_is_resolved_from_the_node_and_never_run_twice(
    world: World, point: str, state: str, effects: int
) -> None:
    doc = await crashed(world, point)
    await world.pipeline.timers.tick()
    await world.pipeline.timers.tick()
    assert world.setchannels == effects
    (receipt,) = await world.docs()
    assert receipt["status"] == state
    assert receipt.get("result", {}).get("reconciled") is (
        True if point in ("after_executing", "after_cln") else None
    )
    repeated = await world.handle(doc)
    assert repeated is not None and repeated["receipt"]["receipt_id"] == receipt["receipt_id"]
    assert world.setchannels == effects
    assert (await world.receipts.verify()).ok


async def test_what_cannot_be_proven_is_indeterminate_and_alerts(world: World) -> None:
    await crashed(world, "after_cln")
    world.node.rows[0]["fee_proportional_millionths"] = 333
    await world.pipeline.timers.tick()
    (receipt,) = await world.docs()
    assert (receipt["status"], receipt["error"]["slug"]) == ("indeterminate", "indeterminate")
    assert [level.value for level, code, _ in world.out.alerts if code == "command_indeterminate"] == [
        "critical"
    ]


async def test_reconciling_waits_for_a_node_that_does_not_answer(world: World) -> None:
    await crashed(world, "after_cln")
    world.node.fail["listpeerchannels"] = -1
    await world.pipeline.timers.tick()
    assert await world.docs() == []
    world.node.fail.clear()
    await world.pipeline.timers.tick()
    assert [doc["status"] for doc in await world.docs()] == ["success"]


async def test_a_repeat_during_a_crash_window_says_that_it_is_under_way(world: World) -> None:
    doc = await crashed(world, "after_cln")
    repeated = await world.handle(doc)
    assert repeated is not None
    assert (repeated["status"], repeated["result"]["state"]) == (3, "executing")
    assert world.setchannels == 1


async def test_an_anchor_that_was_set_before_the_crash_still_ends(world: World) -> None:
    world.crash_at = "after_cln"
    with pytest.raises(Crash):
        await world.ask(FEES, "set_anchor", {"channel_id": "101x1x0", "target_fee_ppm": 120, "ttl_hours": 1})
    world.restart()
    await world.pipeline.timers.tick()
    world.pass_time(3_601)
    await world.pipeline.timers.tick()
    assert world.node.fees("101x1x0") == (1_000, 100)


class FullDisk:
    """Writes fail while `full`."""

    def __init__(self, world: World) -> None:
        self._write = world.db.write
        self.full = False
        self.skip = 0

    async def write(self, body: Callable[..., Any], *, durable: bool = True) -> Any:
        if self.full:
            if self.skip == 0:
                raise StoreError("disk full")
            self.skip -= 1
        return await self._write(body, durable=durable)


async def test_acceptance_02_22_disk_full_refuses_writes_and_serves_reads(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(world)
    monkeypatch.setattr(world.db, "write", disk.write)
    disk.full = True
    assert slug(await world.set_fee(120)) == "receipt_store_unavailable"
    assert world.setchannels == 0
    read = await world.ask(MONITOR, "fee_report", {})
    assert (read["status"], read["result"]["count"]) == (0, 4)
    disk.full = False
    assert slug(await world.set_fee(120)) is None


async def test_an_outcome_the_disk_refused_is_stored_before_anything_else_runs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(world)
    monkeypatch.setattr(world.db, "write", disk.write)
    disk.full, disk.skip = True, 2
    assert slug(await world.set_fee(120)) == "receipt_store_unavailable"
    assert world.setchannels == 1
    assert world.pipeline.execution.paused
    disk.skip = 1
    assert slug(await world.set_fee(110, "102x1x0")) == "receipt_store_unavailable"
    assert world.setchannels == 1
    disk.full = False
    assert slug(await world.set_fee(110, "102x1x0")) is None
    docs = await world.docs()
    assert (docs[0]["status"], docs[0]["action"]) == ("success", "set_single")
    assert not world.pipeline.execution.paused
    assert (await world.receipts.verify()).ok


async def test_a_caller_that_hangs_up_does_not_stop_a_change(world: World) -> None:
    doc = world.envelope(FEES, "set_single", {"channel_id": "101x1x0", "fee_ppm": 120})
    task = asyncio.create_task(world.handle(doc))
    while not world.pipeline.commands._running:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await world.pipeline.commands.drain()
    assert world.node.fees("101x1x0")[1] == 120
    assert len(await world.docs()) == 1


async def test_a_busy_database_is_told_as_busy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def busy(_body: Any, *, durable: bool = True) -> Any:
        raise Busy("5000 database writes are waiting")

    monkeypatch.setattr(world.db, "write", busy)
    assert slug(await world.set_fee(120)) == "busy"
