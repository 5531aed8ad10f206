"""The kit killed at every disk write of planning, committing, approving, refusing and tidying up after:
the node runs each command once or never, and what the guard counts is what went out (11 §5.2, §6, §18.3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hive_advisor.advisor import Advisor
from hive_shared.store import Db
from plan_world import PlanWorld


class Killed(BaseException):
    """The process is gone."""


class Killer:
    """Ends the process at the n-th point: before a write, inside its transaction, after its commit."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.left = -1
        write = Db.write

        async def watched(db: Db, body: Callable[[Any], Any], **options: Any) -> Any:
            def inside(tx: Any) -> Any:
                result = body(tx)
                self.point()
                return result

            self.point()
            result = await write(db, inside, **options)
            self.point()
            return result

        patch.setattr(Db, "write", watched)

    def point(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Killer:
    return Killer(monkeypatch)


async def planned(world: PlanWorld, kit: Advisor) -> None:
    """A program plans and commits."""
    plan = await kit.plans.draft(await world.plan(kit), "lib")
    await kit.follow(await kit.plans.commit(plan.command_id, "lib"), 1)


async def issued(world: PlanWorld, kit: Advisor) -> None:
    """A person confirms what the guard would hold."""
    await kit.execute(await world.plan(kit, 900), wait_s=1, origin="cli", human=True, confirmed_danger=3)


async def approved(world: PlanWorld, kit: Advisor) -> None:
    """The guard holds it, a person says yes."""
    held = await kit.execute(await world.plan(kit, 900), wait_s=1)
    question = await kit.questions.of_command(held.command_id)
    await kit.follow(await kit.plans.approve(question), 1)


async def rejected(world: PlanWorld, kit: Advisor) -> None:
    """The guard holds it, a person says no."""
    held = await kit.execute(await world.plan(kit, 900), wait_s=1)
    await kit.plans.reject(await kit.questions.of_command(held.command_id))


async def left_behind(world: PlanWorld, kit: Advisor) -> None:
    """Bytes do not leave in time, the draft is committed again."""
    ready = await kit.plans.issue(await world.plan(kit), origin="lib")
    world.now += 240
    await kit.plans.expire()
    await kit.follow(await kit.plans.commit(ready.command_id, "lib"), 1)


async def too_busy(world: PlanWorld, kit: Advisor) -> None:
    """The node is busy once; the same is planned anew."""
    world.refusal = lambda c: world.refused(c, "busy", retry_after=1) if c.action == "set_single" else None
    await kit.execute(await world.plan(kit), wait_s=0)
    world.refusal = lambda _command: None
    world.now += 2
    for command in await kit.retries.due():
        await kit.follow(await kit.retries.again(command), 1)


STORIES: dict[Callable[[PlanWorld, Advisor], Awaitable[None]], dict[str, int]] = {
    planned: {"draft": 1, "done": 1},
    issued: {"done": 1},
    approved: {"held": 1, "done": 1},
    rejected: {"held": 1, "rejected": 1},
    left_behind: {"draft": 1, "done": 1},
    too_busy: {"done": 1},
}


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
async def test_acceptance_11_03_killed_at_every_write_a_command_runs_once_or_never(
    story: Callable[[PlanWorld, Advisor], Awaitable[None]], killer: Killer, tmp_path: Path
) -> None:
    ends: Counter[str] = Counter()
    for at in range(200):
        world = PlanWorld(tmp_path / str(at))
        async with world.open() as kit:
            await world.read(kit)
            killer.left = at
            died = True
            try:
                await story(world, kit)
                died = False
            except Killed:
                pass
            killer.left = -1
        world.refusal = lambda _command: None
        async with world.open() as kit:
            ends.update(await true_states(world, kit))
        if not died:
            break
    else:
        pytest.fail("it never came to its end")
    assert at >= 6, at
    for state, least in STORIES[story].items():
        assert ends[state] >= least, ends


async def true_states(world: PlanWorld, kit: Advisor) -> list[str]:
    """What is there after the crash holds together, and a round brings what was signed to its end."""
    await agree(world, kit)
    world.now += 30
    await kit.pump()
    return await agree(world, kit, ended=True)


async def agree(world: PlanWorld, kit: Advisor, *, ended: bool = False) -> list[str]:
    alice = await world.alice(kit)
    rows = [c for c in await kit.commands.listed(alice, None, 500) if c.action == "set_single"]
    used = (await kit.guard.used(alice.client_id))["24h"].get("fee_writes", 0)
    counted = [
        c for c in rows if str(c.state) not in ("rejected", "expired", "cancelled") and c.slug != "busy"
    ]
    assert used == len(counted), (used, rows)
    waiting = {q.command_id for q in await kit.questions.listed(expired=False, limit=50)}
    assert waiting == {c.command_id for c in rows if str(c.state) == "held"}
    for row in rows:
        signed = str(row.state) not in ("draft", "held")
        assert bool(row.envelope) is (signed and row.slug != "rejected_here")
        runs = world.runs[row.command_id]
        assert runs <= 1 and (runs == 0 or signed)
        if ended and signed:
            assert str(row.state) in ("done", "rejected", "error"), row.state
            assert runs == (str(row.state) == "done")
    assert set(world.runs) <= {row.command_id for row in rows}
    return [str(row.state) for row in rows]
