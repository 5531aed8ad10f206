"""A command that names the state it was decided by runs from no other (docs/protocol/02 §7.1 step 14)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pipeline_world import AGENT_KEY, OTHER_KEY, View, World, issue, slug

FEES = "hive:fee-policy/v1"
ASK = {"approval_overrides": {"fee_policy_*": "always_confirm"}}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


async def root(world: World) -> str:
    """The policy root as an agent reads it."""
    answer = await world.ask("hive:monitor/v1", "state_hash", {})
    return str(answer["result"]["roots"]["policy"])


def from_root(expected: str) -> dict[str, Any]:
    return {"expected_policy_root": expected}


async def test_from_the_expected_state_it_runs_and_from_another_it_does_not(world: World) -> None:
    expected = await root(world)
    first = await world.set_fee(110, **from_root(expected))
    assert first["status"] == 0, first
    second = await world.set_fee(110, "102x1x0", **from_root(expected))
    assert (second["status"], second["error"]["slug"], second["error"]["code"]) == (1, "stale_state", 4015)
    assert "state_hash" in second["error"]["message"]
    assert (world.setchannels, world.node.fees("102x1x0")[1]) == (1, 100)
    assert [doc["status"] for doc in await world.docs()] == ["success", "rejected"]
    third = await world.set_fee(110, "102x1x0", **from_root(await root(world)))
    assert third["status"] == 0, third


async def test_a_change_by_hand_counts_and_a_payment_does_not(world: World) -> None:
    expected = await root(world)
    world.node.rows[3]["to_us_msat"] -= 1_000
    assert (await world.set_fee(110, **from_root(expected)))["status"] == 0
    expected = await root(world)
    world.node.rows[3]["maximum_htlc_out_msat"] = 5_000_000
    assert slug(await world.set_fee(110, "102x1x0", **from_root(expected))) == "stale_state"
    # What is read next is not the cached state of before: an agent would be refused for a minute.
    assert (await world.set_fee(110, "102x1x0", **from_root(await root(world))))["status"] == 0


async def test_of_two_commands_from_one_state_one_runs_also_side_by_side(world: World) -> None:
    world.credentials.add(View(issue(OTHER_KEY, number=2), "adv-2"))
    expected = await root(world)
    answers = await asyncio.gather(
        world.set_fee(110, "101x1x0", **from_root(expected)),
        world.set_fee(110, "102x1x0", **from_root(expected)),
        world.set_fee(110, "103x1x0", agent=OTHER_KEY, credential=2, **from_root(expected)),
    )
    assert sorted(slug(answer) or "ran" for answer in answers) == ["ran", "stale_state", "stale_state"]
    assert world.setchannels == 1


async def test_it_is_asked_after_the_policy_and_before_cooldowns(world: World) -> None:
    stale = from_root("00" * 32)
    await world.set_fee(110)
    assert slug(await world.set_fee(111)) == "cooldown"
    assert slug(await world.set_fee(111, **stale)) == "stale_state"
    assert slug(await world.set_fee(190, "102x1x0", **stale)) == "constraint_violated"
    world.policies.override("moderate", protected_channels=["102x1x0"])
    assert slug(await world.set_fee(110, "102x1x0", **stale)) == "protected_channel"
    # And a fault of payment is step 15.
    paid = from_root("00" * 32) | {"payment_proof": {"method": "bolt11"}}
    assert slug(await world.set_fee(110, "103x1x0", **paid)) == "stale_state"


async def test_a_waiting_command_is_held_to_it_once_more_when_it_is_to_run(world: World) -> None:
    world.policies.override("moderate", **ASK)
    expected = await root(world)
    waits = await world.set_fee(110, **from_root(expected))
    action_id = str(waits["error"]["data"]["action_id"])
    world.node.rows[2]["fee_base_msat"] = 7
    done = await world.pipeline.approvals.approve(action_id)
    assert (done["state"], done["slug"]) == ("rejected", "stale_state")
    assert world.setchannels == 0


@pytest.mark.parametrize(
    ("schema", "action"), [("hive:monitor/v1", "fee_report"), ("hive:control/v1", "ping")]
)
async def test_what_changes_nothing_takes_no_expectation(world: World, schema: str, action: str) -> None:
    answer = await world.ask(schema, action, {}, **from_root("00" * 32))
    assert answer["error"]["data"] == {"param": "expected_policy_root"}, answer
    assert slug(answer) == "invalid_params"


@pytest.mark.parametrize("value", ["", "AB" * 32, "00" * 31, 7, None, ["00" * 32]])
async def test_another_shape_is_malformed_and_leaves_the_nonce(world: World, value: Any) -> None:
    doc = world.envelope(
        FEES, "set_single", {"channel_id": "101x1x0", "fee_ppm": 110}, nonce=9, expected_policy_root=value
    )
    assert slug(await world.handle(doc)) == "malformed"
    assert (await world.set_fee(110, nonce=9))["status"] == 0


async def test_the_signature_covers_it(world: World) -> None:
    doc = world.envelope(
        FEES,
        "set_single",
        {"channel_id": "101x1x0", "fee_ppm": 110},
        agent=AGENT_KEY,
        expected_policy_root="00" * 32,
    )
    without = {name: value for name, value in doc.items() if name != "expected_policy_root"}
    assert slug(await world.handle(without)) == "bad_signature"
    assert slug(await world.handle({**doc, "expected_policy_root": await root(world)})) == "bad_signature"
