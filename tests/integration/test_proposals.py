"""What only the operator can change becomes a proposal (02 §4, §15.19; docs/decisions/0370)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cl_hive_comms.domain.alert import Channel, channels_of
from crash_points import killed, under_way
from hive_shared.alerts import Level
from hive_shared.registry import Tier
from pipeline_world import View, World, issue, slug

HTLC = "hive:htlc-policy/v1"
DELTA = {"cltv_expiry_delta": 40}


def proposing(directory: Path) -> World:
    directory.mkdir(parents=True, exist_ok=True)
    made = World(directory)
    made.credentials.add(View(issue(template="complete_management", tier=Tier.ADMIN), "adv-1"))
    return made


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = proposing(tmp_path)
    yield made
    made.close()


async def test_acceptance_02_19_a_static_option_is_proposed_to_the_operator(world: World) -> None:
    answer = await world.ask(HTLC, "set_cltv_delta", dict(DELTA))
    assert (answer["status"], slug(answer)) == (2, "requires_restart"), answer
    assert answer["error"]["code"] == 4013 and answer["error"]["data"]["options"] == ["cltv-delta"]
    assert answer["result"] == {
        "state": "proposed",
        "options": [{"option": "cltv-delta", "now": 34, "proposed": "40"}],
        "config_lines": ["cltv-delta=40"],
    }
    (alert,) = world.out.alerts
    assert alert[:2] == (Level.NOTICE, "option_proposed")
    assert "advisor adv-1 proposes: put cltv-delta=40 into the node's configuration" in alert[2]
    assert channels_of(*alert[:2]) == frozenset(Channel), "the operator hears of it on every way"
    assert answer["receipt"]["status"] == "error" and answer["receipt"]["params"] == DELTA
    assert answer["receipt"]["danger"]["total"] == 5


async def test_danger_four_and_five_propose_without_an_approval_before(world: World) -> None:
    """At trust 1 both would wait in the queue, for something that ends in a question to the operator."""
    one = await world.ask(HTLC, "set_cltv_delta", {**DELTA, "channel_id": "101x1x0"})
    assert slug(one) == "requires_restart" and one["receipt"]["danger"]["total"] == 4
    assert "one value for all channels" in one["result"]["note"]
    assert (await world.pipeline.approvals.pending())["count"] == 0


async def test_what_is_set_already_is_no_proposal(world: World) -> None:
    answer = await world.ask(HTLC, "set_cltv_delta", {"cltv_expiry_delta": 34})
    assert (answer["status"], answer["result"]) == (0, {"state": "already_set"})
    assert [code for _, code, _ in world.out.alerts] == ["command_success"]


async def test_policy_scope_and_the_daily_cap_hold_for_proposals(world: World) -> None:
    capped = issue(template="complete_management", tier=Tier.ADMIN, constraints={"max_daily_actions": 1})
    world.credentials.add(View(capped, "adv-1"))
    assert slug(await world.ask(HTLC, "set_cltv_delta", dict(DELTA))) == "requires_restart"
    assert slug(await world.ask(HTLC, "set_cltv_delta", {"cltv_expiry_delta": 41})) == "daily_cap"
    world.credentials.add(View(issue(template="monitor_only"), "adv-1"))
    assert slug(await world.ask(HTLC, "set_cltv_delta", dict(DELTA))) == "tier_insufficient"
    world.credentials.add(View(issue(template="complete_management", tier=Tier.ADMIN), "adv-1"))
    world.policies.override("moderate", blocked_schemas=["hive:htlc-policy/v1"])
    assert slug(await world.ask(HTLC, "set_cltv_delta", dict(DELTA))) == "policy_blocked"
    assert [code for _, code, _ in world.out.alerts].count("option_proposed") == 1


async def test_wrong_values_propose_nothing(world: World) -> None:
    for params in ({}, {"cltv_expiry_delta": 17}, {"cltv_expiry_delta": 2017}, {"cltv_expiry_delta": "40"}):
        answer = await world.ask(HTLC, "set_cltv_delta", dict(params))
        assert slug(answer) == "invalid_params", answer
    assert world.out.alerts == []


async def test_trust_neither_grows_nor_falls_by_proposals(world: World) -> None:
    await world.ask(HTLC, "set_cltv_delta", dict(DELTA))
    rows = await world.db.read(lambda tx: tx.execute("SELECT * FROM comms_trust_days").fetchall())
    assert rows == []


async def test_acceptance_02_19_killed_anywhere_the_operator_is_told_once_or_the_command_is_refused(
    tmp_path: Path,
) -> None:
    async def order(world: World) -> None:
        await world.ask(HTLC, "set_cltv_delta", dict(DELTA))

    for at in range(60):
        world, died = await killed(tmp_path / str(at), at, order, proposing)
        docs = await world.docs()
        told = [code for _, code, _ in world.out.alerts].count("option_proposed")
        proposed = [doc for doc in docs if doc["status"] == "error" and "config_lines" in doc["result"]]
        assert told == len(proposed) <= 1 and len(docs) <= 1, (at, docs)
        assert docs or died
        assert await under_way(world) == 0
        world.close()
        if not died:
            break
    else:
        pytest.fail("more points than expected")
