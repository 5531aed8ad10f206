"""config adjust: parameters of the fee tool, isolated within their group (02 §4 item 12, §5.4)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from channel_writes import trusted
from crash_points import killed_everywhere
from fee_tool import FeeTool
from hive_shared.canonical import JsonValue
from hive_shared.registry import ADJUST_GROUP
from pipeline_world import OTHER_KEY, View, World, issue, slug

CONFIG = "hive:config/v1"
HOUR = 3_600


def equipped(directory: Path) -> World:
    """A trusted agent's node with a fee tool."""
    world = trusted(directory)
    tool = FeeTool()
    world.node.answers["revenue-config"] = tool
    world.node.answers["listforwards"] = lambda _params: {"forwards": []}
    return world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = equipped(tmp_path)
    yield made
    made.close()


def tool_of(world: World) -> FeeTool:
    tool = world.node.answers["revenue-config"]
    assert isinstance(tool, FeeTool)
    return tool


def earned(world: World, fee_msat: int) -> None:
    """One forward an hour ago that paid so much."""
    row = {"created_index": 1, "received_time": world.now - HOUR, "status": "settled", "out_msat": 1_000}
    world.node.answers["listforwards"] = lambda params: {
        "forwards": [{**row, "fee_msat": fee_msat}] if params["start"] == 1 else []
    }


async def adjust(world: World, parameter: str, value: JsonValue, **more: Any) -> dict[str, Any]:
    options = {name: more.pop(name) for name in ("agent", "credential") if name in more}
    params = {"parameter": parameter, "value": value, "trigger_reason": "stagnation", **more}
    return await world.ask(CONFIG, "adjust", params, **options)


async def history(world: World) -> list[tuple[Any, ...]]:
    sql = 'SELECT parameter, "group", old, new, reason, command_id, at FROM comms_config_history ORDER BY at'
    return await world.db.read(lambda tx: [tuple(row) for row in tx.execute(sql)])


async def test_a_parameter_is_set_in_the_tool_and_its_old_value_kept(world: World) -> None:
    context = {"stagnant_pct": 40, "note": "no forward for a week"}
    done = await adjust(world, "min_fee_ppm", 25, confidence=0.7, context_metrics=context)
    assert done["status"] == 0 and tool_of(world).values["min_fee_ppm"] == 25, done
    assert done["result"] == {
        "parameter": "min_fee_ppm",
        "group": "fee",
        "old": 10,
        "new": 25,
        "state": "applied",
    }
    (row,) = await history(world)
    assert row == ("min_fee_ppm", "fee", "10", "25", "stagnation", done["command_id"], world.now)
    (doc,) = await world.docs()
    assert doc["params"]["context_metrics"] == context and doc["danger"]["total"] == 3
    again = await adjust(world, "min_fee_ppm", 25)
    assert again["result"] == {"state": "already_set"} and tool_of(world).sets == 1
    assert (await adjust(world, "kelly_fraction", 0.45))["result"]["new"] == 0.45
    assert len(await history(world)) == 2, "what stood already is no change"


async def test_another_parameter_of_the_group_waits_a_day_and_half_of_it_where_nothing_is_earned(
    world: World,
) -> None:
    earned(world, 100_000)
    await adjust(world, "min_fee_ppm", 25)
    early = await adjust(world, "max_fee_ppm", 4_000)
    assert slug(early) == "cooldown" and early["error"]["retry_after"] == 24 * HOUR, early
    assert "min_fee_ppm of group fee was changed" in early["error"]["message"]
    assert (await adjust(world, "daily_budget_sats", 6_000))["status"] == 0, "another group"
    assert (await adjust(world, "min_fee_ppm", 10))["status"] == 0, "its own value may be put back"
    world.pass_time(24 * HOUR - 1)
    earned(world, 100_000)
    late = await adjust(world, "max_fee_ppm", 4_000)
    assert (slug(late), late["error"]["retry_after"]) == ("cooldown", 1), late
    earned(world, 99_999)
    assert (await adjust(world, "max_fee_ppm", 4_000))["status"] == 0, "12 h are enough below 100 sat a day"
    quiet = await adjust(world, "min_fee_ppm", 30)
    assert quiet["error"]["retry_after"] == 12 * HOUR, "what the node earned makes the window"
    world.node.fail["listforwards"] = -1
    unknown = await adjust(world, "min_fee_ppm", 30)
    assert unknown["error"]["retry_after"] == 24 * HOUR, "unknown earnings are no reason to hurry"
    world.node.fail.clear()
    earned(world, 100_000)
    world.pass_time(24 * HOUR)
    assert (await adjust(world, "min_fee_ppm", 30))["status"] == 0
    assert tool_of(world).values["max_fee_ppm"] == 4_000


async def test_the_isolation_holds_for_all_agents_and_ungrouped_parameters_never_wait(world: World) -> None:
    world.credentials.add(View(issue(OTHER_KEY, schemas=("hive:config/*",), number=2), "adv-2"))
    other: dict[str, Any] = {"agent": OTHER_KEY, "credential": 2}
    await adjust(world, "rebalance_min_amount", 60_000)
    assert slug(await adjust(world, "daily_budget_sats", 6_000, **other)) == "cooldown"
    tool_of(world).values["new_channel_grace_days"] = 7
    assert (await adjust(world, "rebalance_cooldown_hours", 12, **other))["status"] == 0
    assert (await adjust(world, "new_channel_grace_days", 5))["status"] == 0


async def test_what_nothing_reads_is_unsupported_by_name_and_listed_so(world: World) -> None:
    refused = await adjust(world, "vegas_decay_rate", 0.8)
    assert slug(refused) == "unsupported_action", refused
    assert "vegas_decay_rate cannot be adjusted here: neither cl-revenue-ops" in refused["error"]["message"]

    async def rows() -> list[Any]:
        told: Any = world.pipeline.capabilities.of_node()["unsupported_actions"]
        return [row for row in told if row["action"] == "adjust"]

    assert await rows() == [], "not known before the node was asked"
    await world.pipeline.executors.probe()
    # The calls that this node offers do not name the tool.
    (row,) = await rows()
    assert set(row["parameters"]) == set(ADJUST_GROUP) - {"sling_max_hops"}
    del world.node.configs["sling-max-hops"]
    await world.pipeline.executors.probe()
    (row,) = await rows()
    assert "parameters" not in row, "nothing of it"
    offered = await world.node.help_names()

    async def with_tool() -> frozenset[str]:
        return offered | {"revenue-config"}

    world.node.help_names = with_tool  # type: ignore[method-assign]
    await world.pipeline.executors.probe()
    (row,) = await rows()
    assert set(row["parameters"]) == set(ADJUST_GROUP) - set(tool_of(world).values)
    assert "revenue-config" in row["reason"]


async def test_a_dynamic_option_of_the_name_is_set_when_the_operator_listed_it(world: World) -> None:
    world.policies.override("aggressive", approval_overrides={"config_*": "auto_execute"})
    closed = await adjust(world, "sling_max_hops", 7)
    assert slug(closed) == "policy_blocked" and "'sling-max-hops' is not in allowed_config" in str(closed)
    world.policies.override(
        "aggressive", allowed_config=["sling-max-hops"], approval_overrides={"config_*": "auto_execute"}
    )
    done = await adjust(world, "sling_max_hops", 7)
    assert done["result"] == {
        "parameter": "sling_max_hops",
        "group": "sling_params",
        "option": "sling-max-hops",
        "old": 6,
        "new": 7,
        "state": "applied",
    }, done
    world.node.configs["sling-max-hops"]["dynamic"] = False
    assert slug(await adjust(world, "sling_max_hops", 8)) == "unsupported_action", "static"
    world.policies.override(
        "aggressive", allowed_config=["hive-prior-weight"], approval_overrides={"config_*": "auto_execute"}
    )
    world.node.configs["hive-prior-weight"] = {"value_int": 0, "dynamic": True, "plugin": "/p/cl-hive"}
    own = await adjust(world, "hive_prior_weight", 1)
    assert slug(own) == "policy_blocked" and "operator's alone" in own["error"]["message"]


@pytest.mark.parametrize(
    ("parameter", "value", "says"),
    [
        ("vegas_decay_rate", 0.69, "from 0.7 to 0.95"),
        ("sling_target_sink", 0.51, "from 0.2 to 0.5"),
        ("proportional_budget_pct", 1, "from 0.1 to 0.5"),
        ("min_fee_ppm", 25.5, "an integer"),
        ("min_fee_ppm", "25", "an integer"),
        ("min_fee_ppm", True, "an integer"),
        ("min_fee_ppm", -1, "an integer from 0"),
        ("kelly_fraction", None, "a number"),
        ("max_fee_ppm", 9, "below min_fee_ppm, which is 10"),
        ("min_fee_ppm", 5_001, "above max_fee_ppm, which is 5000"),
        ("fee_min_fee_ppm", 25, "one of min_fee_ppm"),
    ],
)
async def test_a_value_out_of_its_range_changes_nothing(
    world: World, parameter: str, value: JsonValue, says: str
) -> None:
    answer = await adjust(world, parameter, value)
    assert slug(answer) == "invalid_params" and says in answer["error"]["message"], answer
    assert tool_of(world).sets == 0 and await history(world) == []


async def test_reason_and_context_are_checked(world: World) -> None:
    assert slug(await adjust(world, "min_fee_ppm", 25, trigger_reason="a whim")) == "invalid_params"
    assert slug(await adjust(world, "min_fee_ppm", 25, confidence=2)) == "invalid_params"
    long = {"text": "x" * 1_900, "more": "y" * 1_900, "and": "z" * 400}
    assert slug(await adjust(world, "min_fee_ppm", 25, context_metrics=long)) == "invalid_params"
    missing = await world.ask(CONFIG, "adjust", {"parameter": "min_fee_ppm", "value": 25})
    assert "trigger_reason is required" in missing["error"]["message"]
    assert tool_of(world).sets == 0


async def test_a_refusal_of_the_tool_is_no_change_and_a_lost_answer_is_looked_into(world: World) -> None:
    tool = tool_of(world)
    tool.refuses = "Key cannot be changed at runtime"
    refused = await adjust(world, "min_fee_ppm", 25)
    assert slug(refused) == "node_error" and refused["result"]["state"] == "unchanged", refused
    assert "at runtime" not in str(refused), "no text of other plugins"
    assert await history(world) == []
    tool.refuses = None
    assert (await adjust(world, "max_fee_ppm", 4_000))["status"] == 0, "a refused change isolates nothing"


async def test_patterns_test_group_and_parameter(world: World) -> None:
    world.credentials.add(
        View(issue(OTHER_KEY, schemas=("hive:config/fee_*", "!hive:config/fee_max*"), number=2), "adv-2")
    )
    other: dict[str, Any] = {"agent": OTHER_KEY, "credential": 2}
    assert (await adjust(world, "min_fee_ppm", 25, **other))["status"] == 0
    assert slug(await adjust(world, "max_fee_ppm", 4_000, **other)) == "schema_not_allowed"
    assert slug(await adjust(world, "daily_budget_sats", 6_000, **other)) == "schema_not_allowed"


async def test_get_config_shows_the_parameters_and_their_last_change(world: World) -> None:
    await adjust(world, "min_fee_ppm", 25)
    world.pass_time(HOUR)
    await world.ask(CONFIG, "set_config", {"key": "askrene-timeout", "value": 20})
    listed = (await world.ask(CONFIG, "get_config", {}))["result"]["items"]
    items = {item["option"]: item for item in listed}
    assert items["min_fee_ppm"] == {
        "option": "min_fee_ppm",
        "value": 25,
        "source": "revenue-config",
        "dynamic": True,
        "group": "fee",
        "changed": {"at": world.now - HOUR, "old": "10", "new": "25", "reason": "stagnation"},
    }
    assert items["askrene-timeout"]["changed"] == {"at": world.now, "old": "10", "new": "20"}
    assert "db_path" not in items
    (one,) = (await world.ask(CONFIG, "get_config", {"key": "kelly_fraction"}))["result"]["items"]
    assert one["value"] == 0.5 and "changed" not in one
    missing = await world.ask(CONFIG, "get_config", {"key": "vegas_decay_rate"})
    assert slug(missing) == "invalid_params"
    world.pass_time(91 * 24 * HOUR)
    await world.pipeline.timers.hourly()
    assert await history(world) == []


async def test_acceptance_02_12_adjust_killed_anywhere_is_done_once_or_not_at_all(tmp_path: Path) -> None:
    seen: set[str] = set()

    async def order(world: World) -> None:
        await adjust(world, "min_fee_ppm", 25)

    async for at, world, died in killed_everywhere(tmp_path, order, equipped):
        tool, docs, rows = tool_of(world), await world.docs(), await history(world)
        assert tool.sets <= 1 and len(docs) <= 1 and (docs or died), at
        status = docs[0]["status"] if docs else "none"
        assert (tool.values["min_fee_ppm"] == 25) == (status == "success") == (len(rows) == 1), (at, docs)
        seen.add(status)
    assert seen == {"none", "rejected", "error", "success"}


async def test_a_change_that_was_cut_off_keeps_its_group_closed_until_it_is_resolved(tmp_path: Path) -> None:
    world = equipped(tmp_path)
    world.crash_at = "after_cln"
    with pytest.raises(BaseException):  # noqa: B017 - the crash of the world
        await adjust(world, "min_fee_ppm", 25)
    world.restart()
    assert slug(await adjust(world, "max_fee_ppm", 4_000)) == "busy"
    await world.pipeline.timers.tick()
    assert slug(await adjust(world, "max_fee_ppm", 4_000)) == "cooldown"
    world.close()
