"""Disabling, enabling and spiking all channels, killed anywhere: one effect, a truthful receipt, and no
bound is ever lost (docs/protocol/02-fleet-management.md §7.1 "Crash", §15.12, §15.21)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from crash_points import killed, under_way
from hive_shared.registry import Tier
from pipeline_world import View, World, issue

FORWARDING = "hive:forwarding/v1"
EMERGENCY = "hive:emergency/v1"
BOUNDS = {"101x1x0": (1_000, 700_000_000), "102x1x0": (0, 123_456_789), "103x1x0": (25_000, 25_001)}
FROZEN = {"101x1x0": (1_000, 1_000), "102x1x0": (0, 1), "103x1x0": (25_000, 25_000)}
_MOST_POINTS = 60
_PARTS = 4


def routed(directory: Path) -> World:
    """Three channels with different bounds, an agent that may disable them by itself."""
    directory.mkdir(parents=True, exist_ok=True)
    world = World(directory, channels=3)
    world.credentials.add(View(issue(template="complete_management"), "adv-1"))
    world.policies.override(
        "aggressive", approval_overrides={"forwarding_*": "auto_execute", "emergency_*": "auto_execute"}
    )
    for row in world.node.rows:
        low, high = BOUNDS[row["short_channel_id"]]
        row |= {"minimum_htlc_out_msat": low, "maximum_htlc_out_msat": high}
    return world


def limits(world: World) -> dict[str, tuple[int, int]]:
    return {scid: world.node.limits(scid) for scid in BOUNDS}


async def settled(world: World) -> list[dict[str, Any]]:
    """The receipts, after nothing is under way and no channel was asked for twice."""
    assert (await world.receipts.verify()).ok
    assert await under_way(world) == 0
    return await world.docs()


def parts_of(doc: dict[str, Any]) -> dict[str, str]:
    return {part["channel"]: part["state"] for part in doc["result"]["channels"]}


@pytest.mark.parametrize("part", range(_PARTS))
async def test_disable_all_killed_anywhere_and_enabled_again_gives_exact_limits(
    tmp_path: Path, part: int
) -> None:
    async def disable(world: World) -> None:
        await world.ask(FORWARDING, "disable_all", {"reason": "night"})

    partial = 0
    for at in range(part, _MOST_POINTS, _PARTS):
        world, died = await killed(tmp_path / str(at), at, disable, routed)
        docs = await settled(world)
        now = limits(world)
        assert all(now[scid] in (BOUNDS[scid], FROZEN[scid]) for scid in BOUNDS)
        assert world.setchannels <= 3 and len(docs) <= 1
        if docs and docs[0]["status"] in ("success", "partial"):
            applied = {scid for scid, state in parts_of(docs[0]).items() if state == "applied"}
            assert applied == {scid for scid in BOUNDS if now[scid] == FROZEN[scid]}, docs
            partial += docs[0]["status"] == "partial"
        else:
            assert now == BOUNDS, docs
            assert docs or died
        answer = await world.ask(FORWARDING, "enable_all", {})
        assert answer["status"] == 0, answer
        assert limits(world) == BOUNDS
        world.close()
        if not died:
            break
    assert partial >= 1


@pytest.mark.parametrize("part", range(_PARTS))
async def test_enable_all_killed_anywhere_loses_no_bound(tmp_path: Path, part: int) -> None:
    async def both(world: World) -> None:
        await world.ask(FORWARDING, "enable_all", {})

    for at in range(part, _MOST_POINTS, _PARTS):
        directory = tmp_path / str(at)
        world = routed(directory)
        await world.ask(FORWARDING, "disable_channel", {"channel_id": "103x1x0", "reason": "flapping"})
        await world.ask(FORWARDING, "disable_all", {"reason": "night"})
        rows = world.node.rows
        world.close()

        def again(path: Path, rows: list[dict[str, Any]] = rows) -> World:
            made = routed(path)
            made.node.rows = rows
            made.nonces, made.random = itertools.count(10), itertools.count(100)
            return made

        world, died = await killed(directory, at, both, again)
        docs = await settled(world)
        assert world.setchannels <= 2
        assert limits(world)["103x1x0"] == FROZEN["103x1x0"], "disabled on its own, it stays so"
        if len(docs) == 3 and docs[2]["status"] in ("success", "partial"):
            applied = {scid for scid, state in parts_of(docs[2]).items() if state == "applied"}
            assert applied == {s for s in applied if limits(world)[s] == BOUNDS[s]}
        answer = await world.ask(FORWARDING, "enable_all", {"respect_individual": False})
        assert answer["status"] == 0, answer
        assert limits(world) == BOUNDS
        world.close()
        if not died:
            break


@pytest.mark.parametrize("part", range(_PARTS))
async def test_a_fee_spike_killed_anywhere_ends_on_time(tmp_path: Path, part: int) -> None:
    async def spike(world: World) -> None:
        await world.ask(EMERGENCY, "fee_spike", {"reason": "drained", "fee_ppm": 40_000, "hours": 1})

    spiked = 0
    for at in range(part, _MOST_POINTS, _PARTS):
        world, died = await killed(tmp_path / str(at), at, spike, routed)
        docs = await settled(world)
        rates = {scid: world.node.fees(scid)[1] for scid in BOUNDS}
        assert set(rates.values()) <= {100, 40_000} and world.setchannels <= 3
        if 40_000 in rates.values():
            assert docs[0]["status"] in ("success", "partial"), docs
            spiked += 1
        world.pass_time(3_599)
        await world.pipeline.timers.tick()
        assert {scid: world.node.fees(scid)[1] for scid in BOUNDS} == rates
        world.pass_time(1)
        world.restart()
        await world.pipeline.timers.tick()
        await world.pipeline.timers.tick()
        assert all(world.node.fees(scid) == (1_000, 100) for scid in BOUNDS)
        ends = [doc for doc in await world.docs() if doc.get("params") == {"by": "timer"}]
        assert len(ends) == (40_000 in rates.values())
        world.close()
        if not died:
            break
    assert spiked >= 1


@pytest.mark.parametrize("part", range(_PARTS))
async def test_the_end_of_a_spike_killed_anywhere_happens_once(tmp_path: Path, part: int) -> None:
    async def end(world: World) -> None:
        await world.pipeline.timers.tick()

    for at in range(part, _MOST_POINTS, _PARTS):
        directory = tmp_path / str(at)
        world = routed(directory)
        await world.ask(EMERGENCY, "fee_spike", {"reason": "drained", "hours": 1})
        rows = world.node.rows
        world.close()

        def later(path: Path, rows: list[dict[str, Any]] = rows) -> World:
            made = routed(path)
            made.node.rows = rows
            made.pass_time(3_600)
            return made

        world, died = await killed(directory, at, end, later)
        await settled(world)
        assert all(world.node.fees(scid) == (1_000, 100) for scid in BOUNDS)
        assert world.setchannels <= 3
        assert len([doc for doc in await world.docs() if doc.get("params") == {"by": "timer"}]) == 1
        world.close()
        if not died:
            break


@pytest.mark.parametrize("part", range(_PARTS))
async def test_revoking_everything_killed_anywhere_is_all_or_nothing(tmp_path: Path, part: int) -> None:
    def admin(directory: Path) -> World:
        world = routed(directory)
        world.credentials.add(View(issue(template="complete_management", tier=Tier.ADMIN), "adv-1"))
        return world

    async def revoke(world: World) -> None:
        await world.ask(EMERGENCY, "revoke_all_credentials", {"reason": "keys stolen"})

    for at in range(part, _MOST_POINTS, _PARTS):
        world, died = await killed(tmp_path / str(at), at, revoke, admin)
        docs = await settled(world)
        ended = not world.revoking.active()
        assert len(world.revoking.reasons) <= 1 and len(docs) <= 1
        assert (docs[0]["status"] == "success") == ended if docs else (died and not ended)
        world.close()
        if not died:
            break
