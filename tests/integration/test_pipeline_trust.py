"""Trust raised by what an advisor did, and the operator's number that stays (02 §7.3; decision 0202)."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path

import pytest
from cl_hive_comms.storage.trust_store import TrustStore
from hive_shared.canonical import JsonValue
from msgspec.structs import replace
from pipeline_world import AGENT_KEY, MIGRATIONS, View, World, issue, slug

DAY = 86_400
FEES = "hive:fee-policy/v1"


def policy(world: World, **overrides: JsonValue) -> None:
    world.policies.override(
        "aggressive",
        rate_limits={"fee_changes_per_hour": 1_000, "total_actions_per_day": 1_000},
        **overrides,
    )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path, preset="aggressive", channels=60)
    policy(made)
    made.credentials.since["adv-1"] = made.now
    made.credentials.add(View(issue(valid=(made.now, made.now + 700 * DAY)), "adv-1"))
    yield made
    made.close()


def trust(world: World, **view: object) -> Fraction:
    mine = world.credentials.views["00000000-0000-4000-8000-000000000001"]
    return world.pipeline.decision._trust_of(replace(mine, **view))  # type: ignore[arg-type]


async def successes(world: World, count: int) -> None:
    for number in range(1, count + 1):
        answer = await world.set_fee(110, f"{100 + number}x1x0")
        assert answer["status"] == 0, answer


async def test_trust_rises_from_the_thirtieth_day_to_two_on_the_ninetieth(world: World) -> None:
    await successes(world, 10)
    risen = []
    for days in (29, 30, 45, 60, 75, 89, 90):
        world.pass_time(world.credentials.since["adv-1"] + days * DAY - world.now)
        risen.append(trust(world))
    line = [1 + Fraction(days - 30, 60) for days in (30, 45, 60, 75, 89)]
    assert risen == [Fraction(1), *line, Fraction(2)]


async def test_nine_writes_are_no_history(world: World) -> None:
    await successes(world, 9)
    world.pass_time(60 * DAY)
    assert trust(world) == 1
    await successes(world, 1)
    assert trust(world) == Fraction(3, 2)


async def test_what_trust_is_worth_danger_4_runs_by_itself(world: World) -> None:
    await successes(world, 10)
    zero = {"channel_id": "111x1x0", "reason": "test"}
    policy(world, max_fee_change_per_24h_pct=1_000)
    world.credentials.add(View(issue(constraints={}, valid=(world.now, world.now + 700 * DAY)), "adv-1"))
    waits = await world.ask(FEES, "set_zero_fee", zero)
    assert (waits["status"], waits["error"]["data"]["workflow"]) == (3, "queue")
    world.pass_time(61 * DAY)
    runs = await world.ask(FEES, "set_zero_fee", {**zero, "channel_id": "112x1x0"})
    assert runs["status"] == 0 and runs["receipt"]["approval"] == {
        "level": "2.64",
        "workflow": "auto",
        "approvers": [],
    }


async def test_one_violation_or_too_many_failures_leave_the_credentials_trust(world: World) -> None:
    await successes(world, 19)
    world.pass_time(60 * DAY)
    assert trust(world) == Fraction(3, 2)
    world.node.fail["setchannel"] = -1
    assert (await world.set_fee(110, "129x1x0"))["receipt"]["status"] == "indeterminate"
    world.node.fail["setchannel"] = -32602
    assert (await world.set_fee(110, "130x1x0"))["receipt"]["status"] == "error"
    assert trust(world) == Fraction(3, 2)  # 19 of 20 are 95 %
    assert (await world.set_fee(110, "131x1x0"))["status"] == 2
    assert trust(world) == 1
    del world.node.fail["setchannel"]
    world.pass_time(DAY)  # the credential allows 50 a day
    await successes(world, 28)
    raised = trust(world)
    assert raised > Fraction(3, 2)
    assert slug(await world.ask("hive:splice/v1", "splice_open", {})) == "unsupported_action"
    assert trust(world) == raised
    assert slug(await world.set_fee(1_000, "150x1x0")) == "constraint_violated"
    assert trust(world) == 1
    # It is forgotten with the window.
    world.pass_time(91 * DAY)
    await successes(world, 10)
    assert trust(world) == 2


async def test_a_policy_the_agent_cannot_see_is_no_violation(world: World) -> None:
    await successes(world, 10)
    world.pass_time(60 * DAY)
    policy(world, max_fee_ppm=100)
    assert slug(await world.set_fee(110, "120x1x0")) == "policy_blocked"
    assert trust(world) == Fraction(3, 2)


async def test_the_operators_number_stays_whatever_happens(world: World) -> None:
    await successes(world, 10)
    world.pass_time(90 * DAY)
    assert trust(world) == 2
    for pinned in (Fraction(1, 2), Fraction(1), Fraction(7, 4)):
        mine = issue(AGENT_KEY, trust=pinned)
        assert trust(world, credential=mine, trust_pinned=True) == pinned


async def test_a_stranger_and_a_newly_hired_one_have_what_they_were_given(world: World) -> None:
    await successes(world, 10)
    world.pass_time(60 * DAY)
    assert trust(world, advisor_id="nobody") == 1
    world.credentials.since["adv-1"] = world.now  # revoked and hired anew
    assert trust(world) == 1


async def test_the_record_survives_a_restart_and_waits_count_nothing(world: World) -> None:
    await successes(world, 10)
    policy(world, approval_overrides={"fee_policy_*": "always_confirm"})
    held = await world.set_fee(110, "120x1x0")
    await world.pipeline.approvals.approve(held["command_id"], reject=True)
    world.restart()
    world.pass_time(60 * DAY)
    assert trust(world) == Fraction(3, 2)
    record = await world.db.read(lambda tx: TrustStore().record(tx, "adv-1", 0))
    assert (record.writes, record.successes, record.violations) == (10, 10, 0)


def test_commands_from_before_the_record_are_counted_once(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "old.db")
    files = sorted(MIGRATIONS.glob("*.sql"))
    trust_file = next(file for file in files if file.name.endswith("_trust.sql"))
    for file in files[: files.index(trust_file)]:
        db.executescript(file.read_text())
    rows = [("success", None, 0), ("success", None, 1), ("error", "node_error", 0), ("partial", None, 0)]
    rows += [("rejected", "constraint_violated", 0), ("rejected", "policy_blocked", 0), ("expired", None, 0)]
    for nonce, (state, why, read_only) in enumerate(rows):
        db.execute(
            "INSERT INTO comms_commands (command_id, sender_key, nonce, body_hash, payload_hash,"
            " credential_id, advisor_id, transport, envelope, schema_id, action, danger, read_only, state,"
            " slug, received_at, updated_at)"
            " VALUES (?, 'k', ?, '', '', 'c', 'a', 'rest', '', 's', 'x', 3, ?, ?, ?, 0, ?)",
            (str(nonce), nonce, read_only, state, why, 5 * DAY + nonce),
        )
    db.executescript(trust_file.read_text())
    assert db.execute("SELECT * FROM comms_trust_days").fetchall() == [("a", 5, 3, 1, 1)]
    db.close()
