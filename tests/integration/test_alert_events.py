"""What raises an alert besides commands: a limit that fills up, a sibling that is lost (Protocol 08 §6)."""

from __future__ import annotations

from pathlib import Path

import pytest
from cl_hive_comms.domain.alert import nears
from cl_hive_comms.services.sibling_watch import GRACE_S, SiblingWatch
from hive_shared.alerts import Level
from hive_shared.registry import Tier
from pipeline_world import OTHER_KEY, View, World, issue

NEAR = "limit_near"


@pytest.mark.parametrize(
    ("limit", "at"), [(1, 1), (2, 2), (4, 4), (5, 4), (10, 8), (11, 9), (100, 80), (20, 16)]
)
def test_a_limit_is_near_once_on_the_way_up(limit: int, at: int) -> None:
    assert [used for used in range(1, limit + 1) if nears(used, limit)] == [at]


def near(world: World) -> list[str]:
    return [text for level, code, text in world.out.alerts if code == NEAR and level is Level.WARNING]


async def test_four_fifths_of_a_limit_alert_whether_run_or_waiting(tmp_path: Path) -> None:
    world = World(tmp_path, channels=6)
    world.policies.override("moderate", rate_limits={"fee_changes_per_hour": 5})
    for number in (1, 2, 3):
        assert (await world.set_fee(110, f"10{number}x1x0"))["status"] == 0
    assert near(world) == []
    world.credentials.add(View(issue(OTHER_KEY, number=2, tier=Tier.STANDARD), "adv-2"))
    world.policies.override(
        "moderate",
        rate_limits={"fee_changes_per_hour": 5},
        approval_overrides={"fee_policy_*": "always_confirm"},
    )
    waiting = await world.set_fee(110, "104x1x0", agent=OTHER_KEY, credential=2)
    assert waiting["status"] == 3
    (text,) = near(world)
    assert text.startswith("4 of 5 fee_changes in 1 h are used or wait;")
    # The same command, approved, takes the place it has: nothing new to tell but what is said once more.
    await world.pipeline.approvals.approve(waiting["error"]["data"]["action_id"])
    assert set(near(world)) == {text}
    await world.set_fee(110, "105x1x0")
    full = await world.set_fee(110, "106x1x0")
    assert full["status"] == 1 and set(near(world)) == {text}
    world.close()


async def test_a_limit_of_one_credential_names_it(tmp_path: Path) -> None:
    world = World(tmp_path, channels=3)
    world.credentials.add(View(issue(OTHER_KEY, number=2, constraints={"max_daily_actions": 2}), "adv-2"))
    for number in (1, 2):
        answer = await world.set_fee(110, f"10{number}x1x0", agent=OTHER_KEY, credential=2)
        assert answer["status"] == 0, answer
    (text,) = near(world)
    assert text.startswith("2 of 2 daily_actions in 24 h are used or wait of credential 00000000-")
    world.close()


async def test_a_sibling_is_lost_after_a_minute_and_its_return_is_told(tmp_path: Path) -> None:
    told: list[tuple[Level, str, str]] = []
    now = 1_000

    async def alert(level: Level, code: str, text: str) -> None:
        told.append((level, code, text))

    watch = SiblingWatch(alert, now=lambda: now)
    watch.changed("hive", True)
    watch.changed("hive", False)
    now += GRACE_S - 1
    await watch.tick()
    # An upgrade: it was gone for less than a minute.
    watch.changed("hive", True)
    now += GRACE_S
    await watch.tick()
    assert told == []
    watch.changed("archon", False)
    now += 30
    watch.changed("archon", False)
    now += 30
    await watch.tick()
    await watch.tick()
    assert [(level, code) for level, code, _ in told] == [(Level.WARNING, "sibling_lost")]
    assert "cl-hive-archon is gone" in told[0][2]
    watch.changed("archon", True)
    await watch.tick()
    await watch.tick()
    assert [(level, code) for level, code, _ in told[1:]] == [(Level.INFO, "sibling_back")]
