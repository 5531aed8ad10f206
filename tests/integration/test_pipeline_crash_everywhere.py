"""A fee change killed at every point where it touches disk or node ends once, with the truth (02 §15.12)."""

from __future__ import annotations

from pathlib import Path

import pytest
from crash_points import killed, under_way
from pipeline_world import World

FEES = "hive:fee-policy/v1"
_MOST_POINTS = 60


async def checked(world: World, applied: dict[str, int], *, died: bool) -> None:
    """At most one effect, exactly one receipt for a received command, and the receipt says what is."""
    docs = await world.docs()
    effect = all(world.node.fees(scid)[1] == ppm for scid, ppm in applied.items())
    untouched = all(world.node.fees(scid)[1] == 100 for scid in applied)
    assert world.setchannels <= len(applied)
    assert len(docs) <= 1
    if docs:
        assert {"success": effect, "partial": not (effect or untouched)}.get(docs[0]["status"], untouched), (
            docs
        )
    else:
        # Killed before the nonce was burned: as if it had never come.
        assert died and untouched
    assert (await world.receipts.verify()).ok
    assert await under_way(world) == 0


@pytest.mark.parametrize("part", range(4))
async def test_a_single_change_killed_anywhere(tmp_path: Path, part: int) -> None:
    points = 0
    for at in range(part, _MOST_POINTS, 4):
        world, died = await killed(tmp_path / str(at), at, lambda w: w.set_fee(120))
        await checked(world, {"101x1x0": 120}, died=died)
        world.close()
        points += died
    assert points >= 4


@pytest.mark.parametrize("part", range(4))
async def test_a_bulk_change_killed_anywhere(tmp_path: Path, part: int) -> None:
    channels = ["101x1x0", "102x1x0"]

    async def bulk(world: World) -> None:
        world.policies.override("aggressive", approval_overrides={"fee_policy_set_bulk": "auto_execute"})
        await world.ask(FEES, "set_bulk", {"channels": channels, "policy": {"fee_ppm": 110}})

    for at in range(part, _MOST_POINTS, 4):
        world, died = await killed(tmp_path / str(at), at, bulk)
        await checked(world, dict.fromkeys(channels, 110), died=died)
        world.close()


@pytest.mark.parametrize("part", range(4))
async def test_an_approval_killed_anywhere(tmp_path: Path, part: int) -> None:
    async def approved(world: World) -> None:
        world.policies.override("moderate", approval_overrides={"fee_policy_*": "always_confirm"})
        answer = await world.set_fee(110)
        await world.pipeline.approvals.approve(answer["error"]["data"]["action_id"])

    for at in range(part, _MOST_POINTS, 4):
        world, died = await killed(tmp_path / str(at), at, approved)
        waiting = (await world.pipeline.approvals.pending())["count"]
        if waiting:
            # Killed before the operator's word was stored: the command still waits for it.
            assert world.setchannels == 0 and await world.docs() == []
        else:
            await checked(world, {"101x1x0": 110}, died=died)
        world.close()
