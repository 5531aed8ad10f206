"""hive:htlc-policy/v1: bounds of HTLCs, one channel and many (02 §4 item 3)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hive_shared.canonical import JsonValue
from hive_shared.registry import Tier
from pipeline_world import AGENT_KEY, OTHER_KEY, View, World, issue, slug

HTLC = "hive:htlc-policy/v1"
FORWARDING = "hive:forwarding/v1"
AUTO = {"forwarding_*": "auto_execute", "htlc_policy_*": "auto_execute"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    made.credentials.add(View(issue(template="complete_management", tier=Tier.ADMIN), "adv-1"))
    made.policies.override("aggressive", approval_overrides=AUTO)
    yield made
    made.close()


async def test_a_named_bound_changes_and_the_other_stays(world: World) -> None:
    first = await world.ask(
        HTLC, "set_htlc_limits", {"channel_id": "101x1x0", "htlc_maximum_msat": 5_000_000}
    )
    assert first["status"] == 0, first
    assert first["result"]["old"] == {"htlc_minimum_msat": 0, "htlc_maximum_msat": 990_000_000}
    assert first["result"]["new"] == {"htlc_minimum_msat": 0, "htlc_maximum_msat": 5_000_000}
    assert first["receipt"]["danger"]["total"] == 3
    second = await world.ask(HTLC, "set_htlc_limits", {"channel_id": "101x1x0", "htlc_minimum_msat": 7_000})
    assert second["receipt"]["danger"]["total"] == 2
    assert world.node.limits("101x1x0") == (7_000, 5_000_000)
    assert world.node.limits("102x1x0") == (0, 990_000_000)


async def test_an_older_name_of_the_schema_reaches_the_same_action(world: World) -> None:
    answer = await world.ask(
        "hive:fee-policy/v1", "set_htlc_limits", {"channel_id": "101x1x0", "htlc_minimum_msat": 9}
    )
    assert answer["status"] == 0 and answer["receipt"]["schema"] == HTLC


async def test_the_most_a_channel_carries_is_set_for_a_maximum_above_it(world: World) -> None:
    answer = await world.ask(
        HTLC, "set_htlc_limits", {"channel_id": "101x1x0", "htlc_maximum_msat": 1_000_000_000}
    )
    assert answer["status"] == 0 and answer["result"]["state"] == "applied", answer
    assert answer["result"]["warnings"] == ["htlc_maximum_msat is 990000000, the most this channel can carry"]
    assert world.node.limits("101x1x0") == (0, 990_000_000)


async def test_a_minimum_that_the_node_raises_is_told_with_its_warning(world: World) -> None:
    original = world.node.setchannel

    async def raises(id: str, **bounds: Any) -> list[dict[str, Any]]:
        rows = await original(id, **{**bounds, "htlcmin": max(1_000, bounds["htlcmin"])})
        return [{**row, "warning_htlcmin_too_low": "Set minimum_htlc_out_msat to minimum"} for row in rows]

    world.node.setchannel = raises  # type: ignore[method-assign]
    answer = await world.ask(HTLC, "set_htlc_limits", {"channel_id": "101x1x0", "htlc_minimum_msat": 500})
    assert answer["status"] == 0 and answer["result"]["state"] == "applied", answer
    assert answer["result"]["now"]["htlc_minimum_msat"] == 1_000
    assert answer["result"]["warnings"] == ["Set minimum_htlc_out_msat to minimum"]


@pytest.mark.parametrize(
    ("action", "params", "says"),
    [
        ("set_htlc_limits", {"channel_id": "101x1x0"}, "at least one of"),
        ("set_htlc_limits", {"channel_id": "101x1x0", "htlc_maximum_msat": 0}, "1 to"),
        ("set_htlc_limits", {"channel_id": "101x1x0", "htlc_maximum_msat": True}, "integer"),
        (
            "set_htlc_limits",
            {"channel_id": "101x1x0", "htlc_maximum_msat": 1_000_000_001},
            "above the capacity",
        ),
        ("set_htlc_limits", {"channel_id": "101x1x0", "htlc_minimum_msat": 990_000_001}, "forward nothing"),
        (
            "set_htlc_limits",
            {"channel_id": "101x1x0", "htlc_minimum_msat": 6, "htlc_maximum_msat": 5},
            "forward nothing",
        ),
        ("set_htlc_limits", {"channel_id": "999x1x0", "htlc_minimum_msat": 6}, "no channel of this node"),
        ("set_htlc_limits", {"channel_id": "103x1x0", "htlc_minimum_msat": 6}, "is disabled"),
        (
            "set_htlc_limits",
            {"channel_id": "101x1x0", "htlc_minimum_msat": 6, "fee_ppm": 1},
            "known parameters",
        ),
        ("set_htlc_limits_bulk", {"channels": [], "htlc_minimum_msat": 6}, "list of 1 to 200"),
        (
            "set_htlc_limits_bulk",
            {"channels": ["101x1x0", "103x1x0"], "htlc_minimum_msat": 6},
            "103x1x0 is disabled",
        ),
        (
            "set_htlc_limits_bulk",
            {"channels": ["101x1x0", f"{1:064x}"], "htlc_minimum_msat": 6},
            "one channel twice",
        ),
    ],
)
async def test_what_is_wrong_is_said_and_nothing_is_set(
    world: World, action: str, params: dict[str, JsonValue], says: str
) -> None:
    off = await world.ask(FORWARDING, "disable_channel", {"channel_id": "103x1x0", "reason": "flapping"})
    assert off["status"] == 0
    before, calls = [dict(row) for row in world.node.rows], world.setchannels
    answer = await world.ask(HTLC, action, params)
    assert slug(answer) == "invalid_params" and says in answer["error"]["message"], answer
    assert world.node.rows == before and world.setchannels == calls


async def test_many_channels_at_once(world: World) -> None:
    answer = await world.ask(
        HTLC,
        "set_htlc_limits_bulk",
        {"channels": ["101x1x0", "102x1x0"], "htlc_minimum_msat": 2_000, "htlc_maximum_msat": 8_000_000},
    )
    assert answer["status"] == 0 and (answer["result"]["applied"], answer["result"]["count"]) == (2, 2)
    assert answer["receipt"]["danger"] == {"r": 3, "f": 4, "t": 4, "b": 5, "d": 3, "total": 5}
    assert [world.node.limits(f"{n}x1x0") for n in (101, 102, 103)] == [(2_000, 8_000_000)] * 2 + [
        (0, 990_000_000)
    ]
    assert world.setchannels == 2


async def test_over_half_of_all_channels_is_more_dangerous(world: World) -> None:
    answer = await world.ask(
        HTLC,
        "set_htlc_limits_bulk",
        {"channels": [f"{n}x1x0" for n in (101, 102, 103)], "htlc_minimum_msat": 2},
    )
    assert answer["receipt"]["danger"]["b"] == 6


async def test_a_protected_channel_in_the_list_writes_nothing(world: World) -> None:
    world.policies.override("aggressive", approval_overrides=AUTO, protected_channels=["102x1x0"])
    answer = await world.ask(
        HTLC, "set_htlc_limits_bulk", {"channels": ["101x1x0", "102x1x0"], "htlc_minimum_msat": 2_000}
    )
    assert slug(answer) == "protected_channel" and world.setchannels == 0


async def test_another_advisor_waits_before_it_sets_other_bounds(world: World) -> None:
    other = issue(OTHER_KEY, "complete_management", tier=Tier.ADMIN, number=2)
    world.credentials.add(View(other, "adv-2"))
    limits: dict[str, JsonValue] = {"channel_id": "101x1x0", "htlc_minimum_msat": 2_000}
    assert (await world.ask(HTLC, "set_htlc_limits", limits, agent=AGENT_KEY))["status"] == 0
    world.pass_time(301)
    limits["htlc_minimum_msat"] = 3_000
    refused = await world.ask(HTLC, "set_htlc_limits", limits, agent=OTHER_KEY, credential=2)
    assert slug(refused) == "cooldown", refused
    world.pass_time(3_300)
    late = await world.ask(HTLC, "set_htlc_limits", limits, agent=OTHER_KEY, credential=2)
    assert late["status"] == 0 and world.node.limits("101x1x0")[0] == 3_000
