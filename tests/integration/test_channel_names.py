"""What was said of a channel under an earlier short id holds after a splice (docs/decisions/0417)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.services.htlc_watch import EVERY_S
from cl_hive_comms.storage.channel_name_store import ChannelNameStore
from hive_shared.canonical import JsonValue
from hive_shared.registry import FEE_POLICY, Tier
from pipeline_world import View, World, issue, slug

OLD, NEW, ID = "101x1x0", "150x3x1", f"{1:064x}"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    made.policies.override("aggressive", approval_overrides={"fee_policy_*": "auto_execute"})
    yield made
    made.close()


def credential(world: World, **constraints: JsonValue) -> None:
    issued = issue(template="complete_management", tier=Tier.ADMIN, constraints=constraints or None)
    world.credentials.add(View(issued, "adv-1"))


async def seen_and_spliced(world: World) -> None:
    """The channels were looked at, then one was spliced: the same channel, another short id."""
    await world.pipeline.timers.tick()
    world.node.rows[0]["short_channel_id"] = NEW


async def fee(world: World, ppm: int, channel: str = NEW) -> Any:
    return await world.ask(FEE_POLICY, "set_single", {"channel_id": channel, "fee_ppm": ppm})


async def test_names_are_kept_once_seen_and_cost_nothing_again(world: World) -> None:
    await seen_and_spliced(world)
    world.pass_time(EVERY_S)
    await world.pipeline.timers.tick()
    names = ChannelNameStore()
    assert (await world.db.read(lambda tx: names.of(tx, [ID])))[ID] == {OLD, NEW}
    assert not await world.db.read(lambda tx: names.strangers(tx, [OLD, NEW]))
    assert await world.db.read(lambda tx: names.strangers(tx, [NEW, "1x1x1"]))


async def test_a_splice_does_not_begin_the_day_of_fee_changes_anew(world: World) -> None:
    credential(world)
    await world.pipeline.timers.tick()
    assert (await fee(world, 145, OLD))["status"] == 0
    world.node.rows[0]["short_channel_id"] = NEW
    assert slug(await fee(world, 150)) == "cooldown", "nor the hour between two"
    world.pass_time(3_601)
    refused = await fee(world, 170)
    assert slug(refused) == "policy_blocked" and "24 h ago" in refused["error"]["message"], refused
    assert (await fee(world, 150))["status"] == 0
    world.pass_time(90_000)
    assert (await fee(world, 170))["status"] == 0


async def test_a_channel_stays_protected_under_its_new_name(world: World) -> None:
    credential(world)
    await seen_and_spliced(world)
    world.policies.override("aggressive", protected_channels=[OLD])
    refused = await fee(world, 110)
    assert slug(refused) == "protected_channel" and NEW in refused["error"]["message"], refused
    assert (await fee(world, 110, "102x1x0"))["status"] == 0


@pytest.mark.parametrize(
    ("constraint", "listed", "expected"),
    [
        ("denied_channels", OLD, "constraint_violated"),
        ("denied_channels", "102x1x0", None),
        ("allowed_channels", OLD, None),
        ("allowed_channels", "102x1x0", "constraint_violated"),
    ],
)
async def test_lists_of_a_credential_follow_the_channel(
    world: World, constraint: str, listed: str, expected: str | None
) -> None:
    credential(world, **{constraint: [listed]})
    await seen_and_spliced(world)
    answer = await fee(world, 110)
    assert answer["status"] == 0 if expected is None else slug(answer) == expected, answer
