"""config auto_rebalance_rules: the node rebalances by itself, within a budget, as the agent's own commands
would be judged (02 §4 item 12, §5.6; docs/decisions/0427)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from crash_points import killed_everywhere
from hive_shared.canonical import JsonValue
from hive_shared.registry import CONFIG, REBALANCE, Tier
from pipeline_world import View, World, issue, slug
from rebalance_world import FEE_MSAT, HOME, OUT, THIRD, Ring, ring

HOUR = 3_600
RULE: dict[str, JsonValue] = {
    "from_channel": OUT,
    "to_channel": HOME,
    "amount_sats": 50_000,
    "max_fee_ppm": 500,
    "to_permille_below": 600,
    "from_permille_above": 420,
}


def made(directory: Path) -> Ring:
    return ring(directory, approval_overrides={"config_*": "auto_execute", "rebalance_*": "auto_execute"})


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[Ring]:
    one = made(tmp_path)
    yield one
    await one.pipeline.timers.drain()
    one.close()


async def set_rules(world: World, *rules: dict[str, JsonValue], budget: int | None = 1_000) -> dict[str, Any]:
    limit: dict[str, JsonValue] = {} if budget is None else {"daily_budget_sats": budget}
    return await world.ask(CONFIG, "auto_rebalance_rules", {"rules": [*rules], **limit})


async def tick(world: Ring, seconds: int = 30) -> list[int]:
    """Some time goes by and the clock ticks; what was moved meanwhile, sat."""
    world.pass_time(seconds)
    await world.pipeline.timers.tick()
    await world.pipeline.timers.drain()
    moved = [each // 1_000 for each in world.node.moved()]
    if moved:
        # The node in memory knows one payment hash only.
        world.node.parts.clear()
        world.node.own.clear()
    return moved


async def refusals(world: World) -> list[tuple[int, str]]:
    docs = [doc for doc in await world.docs() if doc["action"] == "auto_rebalance_rules"]
    parts = [each for doc in docs if doc["status"] == "rejected" for each in doc["result"]["refused"]]
    return [(each["rule"], each["error"]) for each in parts]


async def test_a_rule_rebalances_until_its_thresholds_are_reached(world: Ring) -> None:
    answer = await set_rules(world, RULE)
    assert answer["result"] == {"state": "set", "rules": 1}, answer
    assert world.node.moved() == [], "storing rules moves nothing"
    assert await tick(world) == [50_000]
    assert await tick(world, 120) == [], "some minutes between two"
    assert await tick(world, 300) == [50_000]
    # 500 thousandths and two times 50: neither above 420 nor below 600 any more.
    assert [await tick(world, HOUR) for _ in range(3)] == [[], [], []]
    assert await refusals(world) == []
    stored, done, _ = await world.docs()
    assert (done["schema"], done["action"], done["status"]) == (REBALANCE, "circular_rebalance", "success")
    assert (done["params"]["rule"], done["params"]["schedule"]) == (0, answer["command_id"])
    assert done["credential_id"] == stored["credential_id"] and done.get("agent_signature") is None
    assert [m for m in world.out.sent if m["kind"] == "response"] == [], "nobody waits for these"


async def test_the_budget_of_the_day_is_kept_at_the_worst(world: Ring) -> None:
    # Up to 25 sat a time; the first one cost 22.
    await set_rules(world, RULE, budget=46)
    assert await tick(world) == [50_000] and FEE_MSAT == 21_500
    assert await tick(world, 400) == []
    assert await refusals(world) == [(0, "budget_exhausted")]
    assert await tick(world, 400) == []
    assert await refusals(world) == [(0, "budget_exhausted")], "told once a day"
    assert await tick(world, 24 * HOUR) == [50_000]


async def test_policy_and_limits_of_then_decide(world: Ring) -> None:
    words = {"approval_overrides": {"config_*": "auto_execute", "rebalance_*": "auto_execute"}}
    await set_rules(world, RULE)
    world.policies.override("aggressive", max_rebalance_sats=49_999, **words)
    await tick(world)
    world.policies.override("aggressive", protected_channels=[HOME], **words)
    await tick(world, 400)
    world.policies.override("aggressive", rate_limits={"rebalances_per_day": 0}, **words)
    await tick(world, 400)
    asked = {"approval_overrides": {"config_*": "auto_execute", "rebalance_*": "always_confirm"}}
    world.policies.override("aggressive", **asked)
    await tick(world, 400)
    told = [(0, slug) for slug in ("policy_blocked", "protected_channel", "rate_limited", "policy_blocked")]
    assert await refusals(world) == told and world.node.parts == []
    world.policies.override("aggressive", **words)
    world.switch.on = True
    assert await tick(world, 400) == []
    world.switch.on = False
    assert await tick(world) == [50_000]


async def test_what_found_no_way_waits_an_hour_and_what_is_on_its_way_keeps_others_back(world: Ring) -> None:
    await set_rules(world, RULE)
    world.node.no_route = 205
    await tick(world)
    await tick(world, 1_800)
    assert (await world.docs())[-1]["status"] == "error" and len(await world.docs()) == 2
    world.node.no_route = None
    world.node.ends = ["pending"]
    await tick(world, 1_900)
    assert len(world.node.parts) == 1
    await tick(world, 2 * HOUR)
    assert len(world.node.parts) == 1, "the first one has not ended"
    world.node.end("complete")
    world.node.ends = ["complete"]
    assert await tick(world) == [50_000], "the first one, ended now"
    assert await tick(world, HOUR) == [50_000]
    assert [m for m in world.out.sent if m["kind"] == "response"] == []


async def test_rules_have_hours_an_order_and_an_end(world: Ring) -> None:
    # The world's clock stands at 02:40 UTC.
    night: dict[str, JsonValue] = {**RULE, "time": {"from": "04:00", "to": "05:00"}}
    other: dict[str, JsonValue] = {**RULE, "from_channel": THIRD, "amount_sats": 45_000}
    await set_rules(world, night, other)
    assert await tick(world) == [45_000], "the first rule is not in force yet"
    shown = (await world.ask(CONFIG, "get_config", {"key": "auto_rebalance_rules"}))["result"]["items"]
    assert [rule["amount_sats"] for rule in shown[0]["value"]] == [50_000, 45_000]
    assert await tick(world, 2 * HOUR - 30 - 40 * 60) == [50_000], "then it goes before"
    assert (await set_rules(world, budget=None))["result"] == {"state": "cleared"}
    assert await tick(world, HOUR) == []
    await set_rules(world, RULE)
    view = next(iter(world.credentials.views.values()))
    world.credentials.add(View(view.credential, "adv-1", "revoked"))
    assert await tick(world, HOUR) == []
    assert (await world.docs())[-1]["result"] == {"state": "ended", "reason": "credential_revoked"}


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"to_channel": OUT}, "same peer"),
        ({"to_channel": "999x1x0"}, "rules[0].to_channel 999x1x0 is no channel"),
        ({"amount_sats": 999}, "from 1000"),
        ({"max_fee_ppm": 1_001}, "from 0 to 1000"),
        ({"to_permille_below": 0}, "from 1 to 999"),
        ({"from_permille_above": 1_000}, "from 1 to 999"),
        ({"time": {"from": "04:00", "to": "04:00"}}, "from and to are the same"),
        ({"retry_for": 9}, "absent: the known parameters"),
    ],
)
async def test_wrong_rules_are_refused_whole(world: Ring, rule: dict[str, JsonValue], says: str) -> None:
    answer = await set_rules(world, {**RULE, **rule})
    assert slug(answer) == "invalid_params" and says in answer["error"]["message"], answer
    assert await tick(world) == []


async def test_rules_need_a_budget_and_the_scope_of_what_they_do(world: Ring) -> None:
    missing = await set_rules(world, RULE, budget=None)
    assert slug(missing) == "invalid_params" and "daily_budget_sats" in missing["error"]["message"]
    for schemas, symbol in (
        (("hive:config/*",), "permission_denied"),
        (("*", "!hive:rebalance/circular_rebalance"), "schema_not_allowed"),
    ):
        issued = issue(template="complete_management", tier=Tier.ADVANCED, schemas=schemas)
        world.credentials.add(View(issued, "adv-1"))
        assert slug(await set_rules(world, RULE)) == symbol, schemas
    world.credentials.add(View(issue(template="full_routing"), "adv-1"))
    assert slug(await set_rules(world, RULE)) == "tier_insufficient"


async def test_acceptance_02_12_a_rule_killed_anywhere_pays_once(tmp_path: Path) -> None:
    async def before(world: World) -> None:
        # Done once, it is no longer in force.
        assert (await set_rules(world, {**RULE, "to_permille_below": 550}))["status"] == 0

    async def order(world: World) -> None:
        rules = world.pipeline.timers._rebalance_rules
        await rules.act()
        for task in tuple(rules._running.values()):
            await task

    seen: set[str] = set()
    async for at, world, _died in killed_everywhere(tmp_path, order, made, before):
        assert isinstance(world, Ring)
        await world.pipeline.timers.drain()
        docs = [doc for doc in await world.docs() if doc["action"] == "circular_rebalance"]
        seen.update(doc["status"] for doc in docs)
        good = sum(doc["status"] == "success" for doc in docs)
        assert len(world.node.moved()) == good == 1, (at, docs)
        assert world.node.left() == ([], []), at
    assert seen >= {"success", "error", "rejected"}
