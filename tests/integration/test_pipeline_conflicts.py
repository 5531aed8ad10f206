"""A command that only another advisor's holds: both are told, the operator after an hour
(Protocol 02 §7.5)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.domain.conflict import ESCALATE_AFTER_S
from crash_points import killed
from hive_shared.alerts import Level
from hive_shared.canonical import decode_object
from pipeline_world import OTHER_KEY, View, World, issue, slug


def two_advisors(directory: Path) -> World:
    """adv-2 is new here: its commands wait for the operator; those of adv-1 run by themselves."""
    directory.mkdir(parents=True, exist_ok=True)
    world = World(directory)
    world.credentials.add(View(issue(OTHER_KEY, number=2, trust=Fraction(1, 2)), "adv-2"))
    return world


async def in_conflict(world: World) -> tuple[str, str]:
    """adv-2's command waits for the operator, adv-1's for it: both ids."""
    first = await world.set_fee(110, agent=OTHER_KEY, credential=2)
    second = await world.set_fee(112)
    assert (slug(first), slug(second)) == ("confirmation_required",) * 2
    return str(first["command_id"]), str(second["command_id"])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = two_advisors(tmp_path)
    yield made
    made.close()


def told(world: World) -> list[str]:
    """Ids of the actions the operator was told of as waiting."""
    return [text.rsplit(" ", 1)[1] for _, code, text in world.out.alerts if code == "command_waiting"]


def pushed(world: World, command_id: str) -> list[dict[str, Any]]:
    """Later responses to a command."""
    found = [decode_object(message["content"]) for message in world.out.sent]
    return [doc for doc in found if doc.get("command_id") == command_id]


async def test_the_operator_hears_of_a_conflict_after_an_hour_once_also_across_a_restart(
    world: World,
) -> None:
    first, second = await in_conflict(world)
    assert told(world) == [first]
    answer = await world.ask("hive:control/v1", "command_status", {"command_id": second})
    assert answer["result"]["state"] == "pending_approval"
    world.pass_time(ESCALATE_AFTER_S - 1)
    await world.pipeline.timers.tick()
    assert told(world) == [first]
    world.restart()
    world.pass_time(1)
    await world.pipeline.timers.tick()
    await world.pipeline.timers.tick()
    assert told(world).count(second) == 1
    assert [level for level, code, text in world.out.alerts if second in text] == [Level.NOTICE]
    # Approved, it runs although the other one still waits.
    done = await world.pipeline.approvals.approve(second)
    assert done["state"] == "success" and world.setchannels == 1
    assert await world.state(first) == "pending_approval"


async def test_what_was_in_the_way_is_gone_so_the_command_goes_on_by_itself(world: World) -> None:
    first, second = await in_conflict(world)
    world.pass_time(60)
    await world.pipeline.timers.tick()
    assert world.setchannels == 0
    await world.ask("hive:control/v1", "cancel", {"command_id": first}, agent=OTHER_KEY, credential=2)
    await world.pipeline.timers.tick()
    assert await world.state(second) == "success" and world.node.fees("101x1x0")[1] == 112
    receipt = (await world.docs())[-1]
    assert (receipt["command_id"], receipt["status"]) == (second, "success")
    assert (receipt["approval"]["workflow"], receipt["approval"]["approvers"]) == ("auto", [])
    assert [doc["status"] for doc in pushed(world, second)] == [0]
    world.pass_time(ESCALATE_AFTER_S)
    await world.pipeline.timers.tick()
    assert second not in told(world) and world.setchannels == 1
    # Done timers are forgotten with the commands they belong to.
    world.pass_time(91 * 86_400)
    await world.pipeline.timers.hourly()
    left = world.db.peek(lambda tx: tx.execute("SELECT count(*) FROM comms_timers").fetchone()[0])
    assert left == 0


async def test_the_first_one_ran_so_the_cooldown_ends_the_second(world: World) -> None:
    first, second = await in_conflict(world)
    await world.pipeline.approvals.approve(first)
    await world.pipeline.timers.tick()
    assert await world.state(second) == "rejected" and world.setchannels == 1
    (final,) = pushed(world, second)
    assert (final["status"], final["error"]["slug"]) == (1, "cooldown")
    assert second not in told(world)


async def test_a_command_that_waits_anyway_is_told_of_at_once(tmp_path: Path) -> None:
    world = two_advisors(tmp_path)
    world.policies.override("moderate", approval_overrides={"fee_policy_*": "always_confirm"})
    first, second = await in_conflict(world)
    assert told(world) == [first, second]
    world.pass_time(ESCALATE_AFTER_S)
    await world.pipeline.timers.tick()
    assert told(world) == [first, second]
    world.close()


async def test_the_operator_may_decide_within_the_hour(world: World) -> None:
    first, second = await in_conflict(world)
    shown = await world.pipeline.approvals.pending()
    assert second in {item["action_id"] for item in shown["items"]}  # type: ignore[union-attr,index,call-overload]
    await world.pipeline.approvals.approve(second, reject=True)
    world.pass_time(ESCALATE_AFTER_S)
    await world.pipeline.timers.tick()
    assert told(world) == [first] and world.setchannels == 0


async def test_a_policy_that_asks_meanwhile_brings_the_operator_in_at_once(world: World) -> None:
    first, second = await in_conflict(world)
    world.policies.override("moderate", approval_overrides={"fee_policy_*": "always_confirm"})
    await world.pipeline.approvals.approve(first, reject=True)
    await world.pipeline.timers.tick()
    assert await world.state(second) == "pending_approval" and told(world) == [first, second]
    await world.pipeline.timers.tick()
    assert told(world) == [first, second] and world.setchannels == 0


async def test_a_revoked_credential_or_a_node_that_does_not_answer_runs_nothing(world: World) -> None:
    first, second = await in_conflict(world)
    await world.pipeline.approvals.approve(first, reject=True)
    world.node.fail["listpeerchannels"] = -1
    await world.pipeline.timers.tick()
    assert await world.state(second) == "pending_approval"
    world.node.fail.clear()
    view = next(iter(world.credentials.views.values()))
    world.credentials.add(View(view.credential, "adv-1", status="revoked"))
    await world.pipeline.timers.tick()
    assert await world.state(second) == "rejected" and world.setchannels == 0
    (final,) = pushed(world, second)
    assert final["error"]["slug"] == "credential_revoked"


@pytest.mark.parametrize("part", range(4))
async def test_killed_anywhere_a_held_command_runs_once_or_not_yet(tmp_path: Path, part: int) -> None:
    async def resolve(world: World) -> None:
        first, _ = await in_conflict(world)
        await world.pipeline.approvals.approve(first, reject=True)
        await world.pipeline.timers.tick()

    ran = 0
    for at in range(part, 200, 4):
        world, died = await killed(tmp_path / str(at), at, resolve, two_advisors)
        docs = [doc for doc in await world.docs() if doc.get("status") == "success"]
        assert (await world.receipts.verify()).ok
        assert world.setchannels == len(docs) <= 1, (at, docs)
        assert world.node.fees("101x1x0")[1] == (112 if docs else 100)
        ran += len(docs)
        world.close()
        if not died:
            break
    assert ran >= 1 and not died
