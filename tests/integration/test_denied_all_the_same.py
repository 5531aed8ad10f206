"""A denied action cannot be had by another name, on the command's whole way (02 §2.3)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from channel_node import channel_world
from hive_shared.credential import Tier
from msgspec import structs
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


@pytest.mark.parametrize(
    "name",
    ["hive:channel/v1#close_unilateral", "hive:channel/v1#close_force", "hive:emergency/v1#force_close"],
)
async def test_acceptance_02_06_a_denied_close_is_not_had_by_force_either(tmp_path: Path, name: str) -> None:
    world = channel_world(tmp_path)
    close = {"channel_id": "101x1x0", "reason": "x"}
    hold(world, "*")
    waits = await ask(world, name, close)
    assert waits["status"] == 3, "without the denial it only waits for people"
    # With every permission still: the pattern alone says no.
    denying = ("*", "!hive:channel/close_*")
    whole = issue(template="complete_management", tier=Tier.ADMIN, schemas=("*",))
    world.credentials.add(View(structs.replace(whole, allowed_schemas=denying), "adv-1"))
    refused = await ask(world, name, close)
    assert slug(refused) == "schema_not_allowed", refused
    assert "close" not in world.node.calls and (await world.docs())[-1]["status"] == "rejected"
    world.close()


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
