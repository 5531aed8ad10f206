"""A denied action cannot be had by another name, on the command's whole way (02 §2.3)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hive_shared.credential import Tier
from pipeline_world import View, World, issue, slug

FREEZES: list[tuple[str, dict[str, Any]]] = [
    ("hive:forwarding/v1#disable_all", {"reason": "x"}),
    ("hive:config/v1#disable_forwarding", {}),
    ("hive:emergency/v1#disable_forwarding", {"reason": "x"}),
]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path, channels=2)
    made.policies.override(
        "aggressive", approval_overrides={f"{name}_*": "auto_execute" for name in ("config", "emergency")}
    )
    yield made
    made.close()


def hold(world: World, *schemas: str) -> None:
    credential = issue(template="complete_management", tier=Tier.ADMIN, schemas=schemas)
    world.credentials.add(View(credential, "adv-1"))


async def ask(world: World, name: str, params: dict[str, Any]) -> dict[str, Any]:
    schema, _, action = name.partition("#")
    return await world.ask(schema, action, params)


async def test_acceptance_02_06_a_denied_freeze_is_not_had_by_another_name(world: World) -> None:
    hold(world, "*", "!hive:forwarding/disable_all")
    before = world.node.limits("101x1x0")
    for name, params in FREEZES:
        answer = await ask(world, name, params)
        assert slug(answer) == "schema_not_allowed", name
    assert "amounts to hive:forwarding/v1#disable_all, which they deny" in answer["error"]["message"]
    assert (world.node.limits("101x1x0"), world.setchannels) == (before, 0)
    assert {receipt["status"] for receipt in await world.docs()} == {"rejected"}


async def test_policy_hampers_the_freeze_under_every_name(world: World) -> None:
    hold(world, "*")
    world.policies.override(
        "aggressive",
        approval_overrides={
            "forwarding_disable_all": "always_confirm",
            "config_*": "auto_execute",
            "emergency_*": "auto_execute",
        },
    )
    states = []
    for name, params in FREEZES:
        states.append(await world.state((await ask(world, name, params))["command_id"]))
    assert states == ["pending_approval"] * 3
    assert world.setchannels == 0


async def test_an_emergency_needs_only_its_own_name(world: World) -> None:
    hold(world, "hive:emergency/*")
    answer = await ask(world, *FREEZES[2])
    assert slug(answer) is None
    assert world.setchannels == 2
