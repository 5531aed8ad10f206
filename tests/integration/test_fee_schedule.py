"""config fee_schedule: the node follows rules by the clock, as the agent's own commands would be judged
(02 §4 item 12, §5.5; docs/decisions/0426)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from crash_points import killed_everywhere
from hive_shared.canonical import JsonValue
from pipeline_world import NOW, OTHER_KEY, View, World, issue, slug

CONFIG, FEES = "hive:config/v1", "hive:fee-policy/v1"
HOUR = 3_600
ONE, TWO = "101x1x0", "102x1x0"
# The world's clock stands at 02:40 UTC on a Monday.
EARLY: dict[str, JsonValue] = {"from": "03:00", "to": "05:00"}
Rules = list[dict[str, JsonValue]]


def timed(*channels: str, ppm: int = 120, **time: JsonValue) -> dict[str, JsonValue]:
    return {"channels": [*(channels or (ONE,))], "fee_ppm": ppm, "time": {**EARLY, **time}}


def made(directory: Path) -> World:
    """An agent for fees whose schedules run without asking."""
    directory.mkdir(parents=True, exist_ok=True)
    world = World(directory, channels=2)
    world.policies.override("moderate", approval_overrides={"config_fee_schedule": "auto_execute"})
    return world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    one = made(tmp_path)
    yield one
    one.close()


async def set_rules(world: World, *rules: dict[str, JsonValue], **options: Any) -> dict[str, Any]:
    return await world.ask(CONFIG, "fee_schedule", {"rules": [*rules]}, **options)


async def until(world: World, clock: str) -> None:
    """Go on to a time of that day and let the clock tick."""
    midnight = NOW // 86_400 * 86_400
    target = midnight + int(clock[:2]) * HOUR + int(clock[3:]) * 60
    assert target >= world.now
    world.pass_time(target - world.now)
    await world.pipeline.timers.tick()


def ppm(world: World, channel: str = ONE) -> int:
    return world.node.fees(channel)[1]


async def armed(world: World, kind: str = "fee_anchor") -> int:
    sql = "SELECT COUNT(*) FROM comms_timers WHERE kind = ? AND done_at IS NULL"
    return int(await world.db.read(lambda tx: tx.execute(sql, (kind,)).fetchone()[0]))


async def test_a_rate_holds_for_its_hours_and_the_one_before_comes_back(world: World) -> None:
    answer = await set_rules(world, timed(ONE, TWO))
    assert answer["result"] == {"state": "set", "rules": 1}, answer
    assert world.setchannels == 0, "storing rules changes no fee"
    await until(world, "02:59")
    assert (ppm(world), ppm(world, TWO)) == (100, 100)
    await until(world, "03:00")
    assert (ppm(world), ppm(world, TWO)) == (120, 120)
    await until(world, "04:59")
    assert world.setchannels == 2, "once each"
    anchors = (await world.ask(FEES, "list_anchors", {}))["result"]["items"]
    assert [(item["channel"], item["until"]) for item in anchors] == [
        (scid, NOW // 86_400 * 86_400 + 5 * HOUR) for scid in (ONE, TWO)
    ]
    await until(world, "05:00")
    assert (ppm(world), ppm(world, TWO)) == (100, 100) and world.setchannels == 4
    world.pass_time(22 * HOUR)
    await world.pipeline.timers.tick()
    assert ppm(world) == 120, "and again the next day"


async def test_every_change_is_a_command_with_its_receipt_under_the_credential(world: World) -> None:
    set_by = (await set_rules(world, timed()))["command_id"]
    await until(world, "03:00")
    await until(world, "05:00")
    stored, held, back = await world.docs()
    assert (stored["action"], stored["agent_signature"] is not None) == ("fee_schedule", True)
    assert (held["schema"], held["action"], held["status"]) == (FEES, "set_anchor", "success")
    assert held["params"] == {
        "channel_id": ONE,
        "target_fee_ppm": 120,
        "until": NOW // 86_400 * 86_400 + 5 * HOUR,
        "rule": 0,
        "schedule": set_by,
    }
    assert {held["credential_id"], back["credential_id"]} == {stored["credential_id"]}
    assert held["agent_id"] == stored["agent_id"]
    assert not {"agent_signature", "command_hash", "nonce"} & {k for k, v in held.items() if v is not None}
    assert held["state_hash_before"] != held["state_hash_after"]
    assert await world.state(held["command_id"]) == "success"
    assert (back["action"], back["result"]["state"]) == ("clear_anchor", "applied")
    assert (await world.receipts.verify()).ok
    assert [m for m in world.out.sent if m["kind"] == "response"] == [], "nobody waits for these"


async def test_what_no_rule_names_and_what_somebody_sets_meanwhile_is_left_alone(world: World) -> None:
    await set_rules(world, timed())
    await until(world, "03:00")
    assert ppm(world, TWO) == 100
    await world.node.setchannel(ONE, feeppm=777)
    await until(world, "04:00")
    assert ppm(world) == 777, "the operator's own hand is not fought"
    await until(world, "05:00")
    assert ppm(world) == 777 and (await world.docs())[-1]["result"]["state"] == "left_alone"


async def test_a_rule_takes_over_without_going_back_in_between(world: World) -> None:
    later = timed(ppm=125, **{"from": "05:00", "to": "07:00"})
    await set_rules(world, timed(), later)
    await until(world, "03:00")
    await until(world, "05:00")
    assert ppm(world) == 125 and world.setchannels == 2
    await until(world, "07:00")
    assert ppm(world) == 100 and world.setchannels == 3


async def test_a_threshold_holds_while_the_share_is_on_its_side(world: World) -> None:
    rule: dict[str, JsonValue] = {
        "channels": [ONE],
        "fee_ppm": 130,
        "threshold": {"local_permille_below": 200},
    }
    world.credentials.add(View(issue(valid=(NOW - 9, NOW + 60 * 86_400)), "adv-1"))
    await set_rules(world, rule)
    await until(world, "03:00")
    assert ppm(world) == 100
    row = world.node.rows[0]
    row["to_us_msat"] = 199_000_000
    await until(world, "03:01")
    assert ppm(world) == 130
    row["to_us_msat"] = 300_000_000
    await until(world, "03:59")
    assert ppm(world) == 130, "for an hour at least"
    row["to_us_msat"] = 240_000_000
    await until(world, "05:00")
    assert ppm(world) == 130, "it lets go later than it holds"
    row["to_us_msat"] = 250_000_000
    await until(world, "05:01")
    assert ppm(world) == 100 and world.setchannels == 2
    row["to_us_msat"] = 100_000_000
    await until(world, "05:30")
    refused = (await world.docs())[-1]
    assert (ppm(world), refused["status"]) == (100, "rejected"), "an hour between changes of a channel"
    assert refused["result"]["refused"][0]["error"] == "cooldown"
    await until(world, "06:02")
    assert ppm(world) == 130
    # A rate that is held for weeks is prolonged before its anchor ends.
    world.pass_time(719 * HOUR)
    await world.pipeline.timers.tick()
    world.pass_time(24 * HOUR)
    await world.pipeline.timers.tick()
    assert ppm(world) == 130


async def test_policy_as_it_is_then_decides_and_each_reason_is_told_once(world: World) -> None:
    await set_rules(world, timed())
    allow = {"approval_overrides": {"config_fee_schedule": "auto_execute"}}
    world.policies.override("moderate", protected_channels=[ONE], **allow)
    await until(world, "03:00")
    for minute in ("03:01", "03:06", "03:12"):
        await until(world, minute)
    assert (ppm(world), world.setchannels) == (100, 0)
    refused = (await world.docs())[1:]
    assert [(doc["action"], doc["status"]) for doc in refused] == [("fee_schedule", "rejected")]
    (told,) = refused[0]["result"]["refused"]
    assert (told["rule"], told["channel"], told["error"]) == (0, ONE, "protected_channel")
    quiet = {"quiet_hours": {"start": "03:00", "end": "04:00", "timezone": "UTC"}}
    world.policies.override("moderate", time_restrictions=quiet, **allow)
    await until(world, "03:30")
    assert (await world.docs())[-1]["result"]["refused"][0]["error"] == "quiet_hours"
    world.policies.override("moderate", max_fee_ppm=110, **allow)
    await until(world, "04:00")
    assert (await world.docs())[-1]["result"]["refused"][0]["error"] == "policy_blocked"
    world.policies.override("moderate", rate_limits={"fee_changes_per_hour": 0}, **allow)
    await until(world, "04:10")
    assert (await world.docs())[-1]["result"]["refused"][0]["error"] == "rate_limited"
    assert len(await world.docs()) == 5
    world.policies.override("moderate", **allow)
    await until(world, "04:20")
    assert ppm(world) == 120, "what was refused is tried again in its hours"


async def test_limits_of_the_credential_hold_as_for_its_own_commands(world: World) -> None:
    limits = {"max_fee_change_pct": 10, "max_daily_actions": 50}
    world.credentials.add(View(issue(constraints=limits), "adv-1"))
    await set_rules(world, timed())
    await until(world, "03:00")
    told = (await world.docs())[-1]["result"]["refused"][0]
    assert told["error"] == "constraint_violated" and ppm(world) == 100
    world.credentials.add(View(issue(constraints={**limits, "max_fee_change_pct": 50}), "adv-1"))
    # The agent's own change uses up the hour, and the schedule waits for it.
    assert (await world.set_fee(105))["status"] == 0
    await until(world, "03:30")
    assert (await world.docs())[-1]["result"]["refused"][0]["error"] == "cooldown"
    await until(world, "04:01")
    assert ppm(world) == 120
    await until(world, "05:00")
    assert ppm(world) == 105, "back to what the agent had set before"


async def test_people_are_asked_about_the_schedule_and_not_again_for_what_it_does(tmp_path: Path) -> None:
    world = World(tmp_path, channels=2)
    world.credentials.add(View(issue(trust=Fraction(1, 2)), "adv-1"))
    world.policies.override("moderate", require_confirmation_above=2)
    held = await set_rules(world, timed())
    assert held["error"]["data"]["workflow"] == "confirm", held
    world.credentials.add(View(issue(trust=Fraction(1)), "adv-1"))
    held = await set_rules(world, timed())
    assert held["error"]["data"]["workflow"] == "queue", held
    done = await world.pipeline.approvals.approve(held["error"]["data"]["action_id"])
    assert done["state"] == "success", done
    await until(world, "03:00")
    assert ppm(world) == 120
    world.close()


async def test_a_schedule_set_without_people_stops_where_the_policy_now_asks_them(world: World) -> None:
    await set_rules(world, timed())
    world.policies.override("moderate", approval_overrides={"fee_policy_*": "always_confirm"})
    await until(world, "03:00")
    told = (await world.docs())[-1]["result"]["refused"][0]
    assert (told["error"], ppm(world)) == ("policy_blocked", 100) and "set them again" in told["message"]


@pytest.mark.parametrize("how", ["revoked", "superseded", "expired"])
async def test_it_ends_with_its_credential_and_the_fees_come_back(world: World, how: str) -> None:
    await set_rules(world, timed())
    await until(world, "03:00")
    view = world.credentials.views["00000000-0000-4000-8000-000000000001"]
    if how == "expired":
        world.credentials.add(View(issue(valid=(NOW - 9, world.now + 60)), "adv-1"))
    else:
        renewed = "00000000-0000-4000-8000-000000000002" if how == "superseded" else None
        world.credentials.add(View(view.credential, "adv-1", how, renewed))
    await until(world, "04:00")
    assert ppm(world) == 100 and await armed(world) == 0
    assert await armed(world, "fee_schedule") == 0
    ended, back = (await world.docs())[-2:]
    assert ended["result"] == {"state": "ended", "reason": f"credential_{how}"}
    assert back["action"] == "clear_anchor"
    await until(world, "04:30")
    assert world.setchannels == 2


async def test_other_rules_take_its_place_and_none_end_it(world: World) -> None:
    await set_rules(world, timed())
    await until(world, "03:00")
    await set_rules(world, timed(TWO))
    await until(world, "03:30")
    assert (ppm(world), ppm(world, TWO)) == (100, 120)
    cleared = await set_rules(world)
    assert cleared["result"] == {"state": "cleared"}
    await until(world, "03:31")
    assert ppm(world, TWO) == 100 and await armed(world, "fee_schedule") == 0
    assert (await set_rules(world))["result"] == {"state": "cleared"}


async def test_an_anchor_that_somebody_set_and_a_spike_go_before(world: World) -> None:
    await set_rules(world, timed())
    await world.ask(FEES, "set_anchor", {"channel_id": ONE, "target_fee_ppm": 110, "ttl_hours": 1})
    await until(world, "03:00")
    assert (ppm(world), len(await world.docs())) == (110, 2)
    await until(world, "03:41")
    assert ppm(world) == 100, "the anchor's end comes first"
    await until(world, "04:45")
    assert ppm(world) == 120, "an hour later the rule"


async def test_the_stop_stops_rules_and_their_ends_until_it_is_lifted(world: World) -> None:
    await set_rules(world, timed())
    world.switch.on = True
    await until(world, "03:00")
    assert world.setchannels == 0 and len(await world.docs()) == 1
    world.switch.on = False
    await until(world, "03:10")
    assert ppm(world) == 120
    world.switch.on = True
    await until(world, "05:10")
    assert ppm(world) == 120
    world.switch.on = False
    await until(world, "05:20")
    assert ppm(world) == 100


async def test_a_refusal_of_the_node_is_tried_again_in_an_hour(world: World) -> None:
    await set_rules(world, timed(**{"to": "06:00"}))
    world.node.fail["setchannel"] = -32602
    await until(world, "03:00")
    await until(world, "03:30")
    assert world.setchannels == 1 and (await world.docs())[-1]["status"] == "error"
    world.node.fail.clear()
    await until(world, "04:00")
    assert ppm(world) == 120
    del world.node.rows[0]
    await until(world, "05:00")
    assert (await world.docs())[-1]["result"]["state"] == "channel_gone"


async def test_another_agents_schedule_is_another_one(world: World) -> None:
    world.credentials.add(View(issue(OTHER_KEY, "complete_management", number=2), "adv-2"))
    await set_rules(world, timed())
    await set_rules(world, timed(TWO, ppm=110), agent=OTHER_KEY, credential=2)
    await until(world, "03:00")
    assert (ppm(world), ppm(world, TWO)) == (120, 110)
    shown = await world.ask(CONFIG, "get_config", {"key": "fee_schedule"}, agent=OTHER_KEY, credential=2)
    (item,) = shown["result"]["items"]
    assert item["value"] == [timed(TWO, ppm=110, timezone="UTC")], item


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ([timed("999x1x0")], "999x1x0 is no channel of this node"),
        ([timed(ONE, f"{1:064x}")], "rules[0] names one channel twice"),
        ([timed(ONE, ONE)], "different from the items before"),
        ([timed(ppm=24)], "from 25 to 5000"),
        ([timed(**{"to": "03:00"})], "from and to are the same"),
        ([timed(**{"to": "24:00"})], "a time of the day"),
        ([timed(timezone="Mars/Olympus")], "IANA time zone"),
        ([timed(timezone="../../etc/passwd")], "IANA time zone"),
        ([timed(days=[])], "1 to 7 items"),
        ([timed(days=["monday"])], "one of mon"),
        ([{"channels": [ONE], "fee_ppm": 120}], "exactly one of time, threshold"),
        ([{**timed(), "threshold": {"local_permille_below": 5}}], "exactly one of time, threshold"),
        ([{"channels": [ONE], "fee_ppm": 120, "threshold": {}}], "exactly one of local_permille_below"),
        ([{"channels": [ONE], "fee_ppm": 9_9, "threshold": {"local_permille_below": 0}}], "from 1 to 999"),
        ([{**timed(), "base_msat": 5}], "absent: the known parameters"),
        ([timed(ppm=100 + n) for n in range(21)], "0 to 20 items"),
    ],
)
async def test_wrong_rules_are_refused_whole(world: World, rules: Rules, says: str) -> None:
    answer = await set_rules(world, timed(TWO), *rules) if len(rules) == 1 else await set_rules(world, *rules)
    if says.startswith("rules[0]"):
        says = says.replace("[0]", "[1]")
    assert slug(answer) == "invalid_params" and says in answer["error"]["message"], answer
    assert await armed(world, "fee_schedule") == 0
    assert slug(await world.ask(CONFIG, "fee_schedule", {})) == "invalid_params"


async def test_who_may_not_set_a_rate_cannot_have_it_set_by_the_clock(world: World) -> None:
    for schemas, symbol in (
        (("hive:config/*",), "permission_denied"),
        (("hive:config/*", "hive:fee-policy/set_single"), "schema_not_allowed"),
        (("*", "!hive:fee-policy/set_single"), "schema_not_allowed"),
        (("*", "!hive:fee-policy/set_anchor"), "schema_not_allowed"),
    ):
        world.credentials.add(View(issue(template="full_routing", schemas=schemas), "adv-1"))
        answer = await set_rules(world, timed())
        assert slug(answer) in (symbol, "schema_not_allowed"), (schemas, answer)
    world.credentials.add(View(issue(), "adv-1"))
    rule = {"id": "no-rates", "match": {"schema": FEES, "action": "set_single"}, "effect": "deny"}
    world.policies.override("moderate", blocked_schemas=["hive:fee-policy/*"])
    assert slug(await set_rules(world, timed())) == "policy_blocked", rule
    world.policies.override("moderate", protected_channels=[ONE])
    assert slug(await set_rules(world, timed())) == "protected_channel"


# -- crashes ------------------------------------------------------------------------------------------


async def prepared(world: World) -> None:
    assert (await set_rules(world, timed()))["status"] == 0
    world.pass_time(HOUR)


async def test_acceptance_02_12_a_schedule_whose_storing_is_killed_stands_or_does_not(tmp_path: Path) -> None:
    seen: set[str] = set()

    async def order(world: World) -> None:
        await set_rules(world, timed())

    async for at, world, died in killed_everywhere(tmp_path, order, made):
        docs = await world.docs()
        status = docs[0]["status"] if docs else "none"
        assert len(docs) <= 1 and (docs or died), at
        assert await armed(world, "fee_schedule") == (1 if status == "success" else 0), (at, status)
        seen.add(status)
    assert seen == {"none", "rejected", "success"}


async def test_acceptance_02_12_a_rule_killed_anywhere_sets_the_rate_once(tmp_path: Path) -> None:
    seen: set[str] = set()

    async def order(world: World) -> None:
        await world.pipeline.timers._fee_rules.act()

    async for at, world, _died in killed_everywhere(tmp_path, order, made, prepared):
        docs = [doc for doc in await world.docs() if doc["action"] == "set_anchor"]
        seen.update(doc["status"] for doc in docs)
        assert (ppm(world), world.setchannels, await armed(world)) == (120, 1, 1), (at, docs)
        assert [doc["status"] for doc in docs].count("success") == 1, (at, docs)
        await until(world, "05:00")
        assert (ppm(world), world.setchannels, await armed(world)) == (100, 2, 0), at
    assert seen == {"success", "error", "rejected"}


async def test_acceptance_02_21_the_end_killed_anywhere_puts_the_fee_back_once(tmp_path: Path) -> None:
    async def before(world: World) -> None:
        await prepared(world)
        await world.pipeline.timers.tick()
        assert ppm(world) == 120
        world.pass_time(60)
        await set_rules(world)

    async def order(world: World) -> None:
        await world.pipeline.timers._fee_rules.act()
        await world.pipeline.timers._end_anchors()

    async for at, world, _died in killed_everywhere(tmp_path, order, made, before):
        ends = [doc for doc in await world.docs() if doc["action"] == "clear_anchor"]
        assert (ppm(world), await armed(world), len(ends)) == (100, 0, 1), at
        assert world.setchannels == 2, at


async def test_a_lost_answer_of_the_node_is_looked_into_and_not_asked_again(world: World) -> None:
    await set_rules(world, timed())
    world.node.lose.add("setchannel")
    await until(world, "03:00")
    world.node.lose.clear()
    await until(world, "03:30")
    assert (ppm(world), world.setchannels) == (120, 1)
