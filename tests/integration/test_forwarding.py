"""hive:forwarding/v1 and hive:emergency/v1 as far as they are served (02 §4 items 4 and 14, §15.21)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hive_shared.registry import Tier
from pipeline_world import AGENT_KEY, OTHER_KEY, View, World, issue, slug

FORWARDING = "hive:forwarding/v1"
EMERGENCY = "hive:emergency/v1"
CONFIG = "hive:config/v1"
FEES = "hive:fee-policy/v1"
BOUNDS = {
    "101x1x0": (1_000, 700_000_000),
    "102x1x0": (0, 123_456_789),
    "103x1x0": (25_000, 25_001),
    "104x1x0": (0, 990_000_000),
}
FROZEN = {scid: (low, max(1, low)) for scid, (low, _) in BOUNDS.items()}
AUTO = {"forwarding_*": "auto_execute", "emergency_*": "auto_execute", "config_*": "auto_execute"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    made.credentials.add(View(issue(template="complete_management", tier=Tier.ADMIN), "adv-1"))
    made.policies.override("aggressive", approval_overrides=AUTO)
    for row in made.node.rows:
        low, high = BOUNDS[row["short_channel_id"]]
        row |= {"minimum_htlc_out_msat": low, "maximum_htlc_out_msat": high}
    yield made
    made.close()


def limits(world: World) -> dict[str, tuple[int, int]]:
    return {scid: world.node.limits(scid) for scid in BOUNDS}


async def ok(world: World, action: str, schema: str = FORWARDING, **params: Any) -> dict[str, Any]:
    answer = await world.ask(schema, action, params)
    assert answer["status"] == 0, answer
    return dict(answer["result"])


async def test_one_channel_is_disabled_and_gets_its_exact_bounds_back(world: World) -> None:
    off = await ok(world, "disable_channel", channel_id="103x1x0", reason="flapping")
    assert (off["state"], off["new"]["htlc_maximum_msat"]) == ("applied", 25_000)
    assert limits(world) == {**BOUNDS, "103x1x0": FROZEN["103x1x0"]}
    world.restart()
    again = await ok(world, "disable_channel", channel_id="103x1x0", reason="still")
    assert again["state"] == "applied" and world.setchannels == 1, "nothing to set a second time"
    await ok(world, "enable_channel", channel_id="103x1x0")
    assert limits(world) == BOUNDS
    refused = await world.ask(FORWARDING, "enable_channel", {"channel_id": "103x1x0"})
    assert slug(refused) == "invalid_params" and "not disabled" in refused["error"]["message"]


async def test_acceptance_02_21_enable_all_respects_what_was_disabled_alone(world: World) -> None:
    await ok(world, "disable_channel", channel_id="101x1x0", reason="flapping")
    off = await ok(world, "disable_all", reason="night")
    assert (off["applied"], off["disabled_before"]) == (3, 1)
    await ok(world, "disable_channel", channel_id="102x1x0", reason="also alone")
    assert limits(world) == FROZEN
    world.restart()
    on = await ok(world, "enable_all")
    assert on["left"] == [{"channel": "102x1x0", "state": "kept_disabled"}]
    alone = {"101x1x0", "102x1x0"}
    assert limits(world) == {scid: (FROZEN if scid in alone else BOUNDS)[scid] for scid in BOUNDS}
    await ok(world, "enable_channel", channel_id="101x1x0")
    await ok(world, "enable_all", respect_individual=False)
    assert limits(world) == BOUNDS
    nothing = await ok(world, "enable_all", respect_individual=False)
    assert nothing["count"] == 0


async def test_enable_channel_opens_one_channel_of_disable_all(world: World) -> None:
    await ok(world, "disable_all", reason="night")
    await ok(world, "enable_channel", channel_id="104x1x0")
    assert limits(world)["104x1x0"] == BOUNDS["104x1x0"]
    on = await ok(world, "enable_all")
    assert on["count"] == 3 and limits(world) == BOUNDS


async def test_bounds_set_by_hand_meanwhile_are_not_overwritten(world: World) -> None:
    await ok(world, "disable_all", reason="night")
    await ok(world, "disable_channel", channel_id="102x1x0", reason="alone")
    for scid in ("101x1x0", "102x1x0"):
        await world.node.setchannel(scid, htlcmax=55_000_000)
    on = await ok(world, "enable_all")
    assert {"channel": "101x1x0", "state": "left_alone"} in on["left"]
    one = await ok(world, "enable_channel", channel_id="102x1x0")
    assert one == {"channel": "102x1x0", "state": "left_alone"}
    assert [limits(world)[scid][1] for scid in ("101x1x0", "102x1x0")] == [55_000_000] * 2
    await ok(world, "disable_channel", channel_id="102x1x0", reason="again")
    await ok(world, "enable_channel", channel_id="102x1x0")
    assert limits(world)["102x1x0"] == (0, 55_000_000), "what the operator set is what comes back"


async def test_a_channel_the_node_refuses_leaves_a_partial_result_with_its_parts(world: World) -> None:
    original = world.node.setchannel

    async def picky(id: str, **bounds: Any) -> list[dict[str, Any]]:
        if id == f"{2:064x}":
            world.node.fail["setchannel"] = 300
        try:
            return await original(id, **bounds)
        finally:
            world.node.fail.clear()

    world.node.setchannel = picky  # type: ignore[method-assign]
    answer = await world.ask(FORWARDING, "disable_all", {"reason": "night"})
    assert answer["status"] == 4, answer
    parts = {part["channel"]: part for part in answer["result"]["channels"]}
    assert [parts[scid]["state"] for scid in BOUNDS] == ["applied", "unchanged", "applied", "applied"]
    assert parts["102x1x0"]["error"] == "node_error"
    assert answer["receipt"]["status"] == "partial"
    world.node.setchannel = original  # type: ignore[method-assign]
    on = await ok(world, "enable_all")
    assert on["count"] == 3, "the one that never changed is nobody's to give back"
    assert limits(world) == BOUNDS


async def test_a_lost_answer_is_resolved_by_looking(world: World) -> None:
    world.node.lose.add("setchannel")
    answer = await world.ask(FORWARDING, "disable_all", {"reason": "night"})
    assert answer["status"] == 0 and limits(world) == FROZEN, answer
    world.node.lose.clear()
    await ok(world, "enable_all")
    assert limits(world) == BOUNDS


async def test_one_protected_channel_refuses_all(world: World) -> None:
    world.policies.override("aggressive", approval_overrides=AUTO, protected_channels=["102x1x0"])
    for schema, params in ((FORWARDING, {"reason": "x"}), (EMERGENCY, {"reason": "x"}), (CONFIG, {})):
        action = "disable_all" if schema == FORWARDING else "disable_forwarding"
        assert slug(await world.ask(schema, action, params)) == "protected_channel"
    assert world.setchannels == 0


async def test_who_may_ask(world: World) -> None:
    world.credentials.add(View(issue(OTHER_KEY, "full_routing", number=2), "adv-2"))
    mine: dict[str, Any] = {"agent": OTHER_KEY, "credential": 2}
    answer = await world.ask(FORWARDING, "disable_channel", {"channel_id": "101x1x0", "reason": "x"}, **mine)
    assert answer["status"] == 0, answer
    assert slug(await world.ask(FORWARDING, "disable_all", {"reason": "x"}, **mine)) == "tier_insufficient"
    for action in ("disable_forwarding", "fee_spike", "revoke_all_credentials"):
        assert slug(await world.ask(EMERGENCY, action, {"reason": "x"}, **mine)) == "tier_insufficient"
    world.credentials.add(View(issue(template="complete_management"), "adv-1"))
    answer = await world.ask(EMERGENCY, "revoke_all_credentials", {"reason": "x"})
    assert slug(answer) == "tier_insufficient", "revoking everybody is for admins"


async def test_without_an_override_the_operator_is_asked_first(world: World) -> None:
    world.policies.override("aggressive")
    answer = await world.ask(EMERGENCY, "disable_forwarding", {"reason": "x"})
    assert (answer["status"], answer["error"]["slug"]) == (3, "confirmation_required"), answer
    await world.node.setchannel("104x1x0", htlcmax=5_000_000)
    approved = await world.pipeline.approvals.approve(answer["error"]["data"]["action_id"])
    assert approved["state"] == "success", "an approval is for all channels as they are then"
    assert limits(world) == FROZEN
    await ok(world, "enable_all")
    assert limits(world) == {**BOUNDS, "104x1x0": (0, 5_000_000)}


@pytest.mark.parametrize(
    ("schema", "action", "params", "refused"),
    [
        (FORWARDING, "disable_channel", {"channel_id": "101x1x0"}, "reason"),
        (FORWARDING, "disable_channel", {"channel_id": "101x1x0", "reason": ""}, "reason"),
        (FORWARDING, "disable_channel", {"channel_id": "999x1x0", "reason": "x"}, "channel_id"),
        (FORWARDING, "enable_all", {"respect_individual": 1}, "respect_individual"),
        (FORWARDING, "disable_all", {"reason": "x", "force": True}, "force"),
        (EMERGENCY, "fee_spike", {"reason": "x", "fee_ppm": 999}, "fee_ppm"),
        (EMERGENCY, "fee_spike", {"reason": "x", "hours": 73}, "hours"),
        (CONFIG, "disable_forwarding", {"reason": "x"}, "reason"),
    ],
)
async def test_wrong_parameters_change_nothing(
    world: World, schema: str, action: str, params: dict[str, Any], refused: str
) -> None:
    answer = await world.ask(schema, action, params)
    assert slug(answer) == "invalid_params" and answer["error"]["data"]["param"] == refused, answer
    assert world.setchannels == 0


async def test_the_other_names_mean_the_same(world: World) -> None:
    await ok(world, "disable_forwarding", CONFIG)
    assert limits(world) == FROZEN
    await ok(world, "enable_forwarding", CONFIG)
    assert limits(world) == BOUNDS
    await ok(world, "disable_forwarding", EMERGENCY, reason="drained", notify_operator=False)
    assert world.out.alerts[-1][0].value == "warning"
    await ok(world, "enable_all")
    await ok(world, "disable_forwarding", EMERGENCY, reason="drained")
    assert world.out.alerts[-1][0].value == "critical"


async def test_quiet_hours_hold_everything_but_the_emergency(world: World) -> None:
    quiet = {"quiet_hours": {"start": "00:00", "end": "23:59", "timezone": "UTC"}}
    world.policies.override("aggressive", approval_overrides=AUTO, time_restrictions=quiet)
    assert slug(await world.ask(FORWARDING, "disable_all", {"reason": "x"})) == "quiet_hours"
    assert slug(await world.ask(EMERGENCY, "fee_spike", {"reason": "x"})) == "quiet_hours"
    await ok(world, "disable_forwarding", EMERGENCY, reason="drained")
    assert limits(world) == FROZEN


async def test_other_advisors_wait_after_a_disabling_an_emergency_does_not(world: World) -> None:
    world.credentials.add(View(issue(OTHER_KEY, "complete_management", number=2), "adv-2"))
    other: dict[str, Any] = {"agent": OTHER_KEY, "credential": 2}
    assert (await world.set_fee(120))["status"] == 0
    await ok(world, "disable_channel", channel_id="101x1x0", reason="flapping")
    again = await world.ask(FORWARDING, "enable_channel", {"channel_id": "101x1x0"}, **other)
    assert slug(again) == "cooldown"
    world.pass_time(301)
    again = await world.ask(FORWARDING, "enable_channel", {"channel_id": "101x1x0"}, **other)
    assert slug(again) == "cooldown", "the same field waits an hour"
    fee = await world.ask(FEES, "set_single", {"channel_id": "101x1x0", "base_msat": 1_100}, **other)
    assert fee["status"] == 0, "another field of the channel waits five minutes"
    waiting = await world.ask(FORWARDING, "enable_channel", {"channel_id": "101x1x0"})
    assert slug(waiting) == "cooldown"
    answer = await world.ask(EMERGENCY, "disable_forwarding", {"reason": "drained"}, **other)
    assert answer["status"] == 0, answer


async def test_the_emergency_stop_ends_a_sweep_midway(world: World) -> None:
    original = world.node.setchannel

    async def stopping(id: str, **bounds: Any) -> list[dict[str, Any]]:
        world.switch.on = True
        return await original(id, **bounds)

    world.node.setchannel = stopping  # type: ignore[method-assign]
    answer = await world.ask(FORWARDING, "disable_all", {"reason": "night"})
    parts = [(part["state"], part.get("error")) for part in answer["result"]["channels"]]
    assert parts == [("applied", None)] + [("unchanged", "emergency_stop")] * 3
    world.switch.on = False
    world.node.setchannel = original  # type: ignore[method-assign]
    await ok(world, "enable_all")
    assert limits(world) == BOUNDS


async def test_a_thousand_channels_are_one_command_one_receipt_and_a_short_answer(tmp_path: Path) -> None:
    world = World(tmp_path, channels=1_000)
    world.credentials.add(View(issue(template="complete_management"), "adv-1"))
    world.policies.override("aggressive", approval_overrides=AUTO)
    off = await ok(world, "disable_all", reason="night")
    assert (off["count"], off["applied"], len(off["channels"])) == (1_000, 1_000, 200)
    assert len(await world.docs()) == 1
    world.restart()
    on = await ok(world, "enable_all")
    assert on["applied"] == 1_000
    assert {world.node.limits(row["short_channel_id"]) for row in world.node.rows} == {(0, 990_000_000)}
    world.close()


# -- fee spikes -------------------------------------------------------------------------------------------


def rates(world: World) -> list[int]:
    return [world.node.fees(scid)[1] for scid in BOUNDS]


async def test_acceptance_02_21_a_fee_spike_ends_on_time(world: World) -> None:
    await world.node.setchannel("102x1x0", feeppm=777)
    result = await ok(world, "fee_spike", EMERGENCY, reason="drained", hours=2)
    assert rates(world) == [50_000] * 4 and result["until"] == world.now + 7_200
    assert result["applied"] == 4
    await world.node.setchannel("103x1x0", feeppm=333)
    world.pass_time(7_199)
    await world.pipeline.timers.tick()
    assert rates(world) == [50_000, 50_000, 333, 50_000]
    world.restart()
    world.pass_time(1)
    await world.pipeline.timers.tick()
    assert rates(world) == [100, 777, 333, 100]
    receipt = (await world.docs())[-1]
    assert (receipt["schema"], receipt["action"], receipt["status"]) == (EMERGENCY, "fee_spike", "success")
    assert receipt["result"]["others"] == [{"channel": "103x1x0", "state": "left_alone"}]
    await world.pipeline.timers.tick()
    assert len(await world.docs()) == 2, "it ends once"


async def test_a_second_spike_takes_over_what_the_first_has_to_put_back(world: World) -> None:
    await ok(world, "fee_spike", EMERGENCY, reason="one", hours=1)
    world.node.rows[3]["state"] = "CHANNELD_AWAITING_LOCKIN"
    world.pass_time(1_800)
    await ok(world, "fee_spike", EMERGENCY, reason="two", fee_ppm=90_000, hours=3)
    assert rates(world) == [90_000, 90_000, 90_000, 50_000]
    world.node.rows[3]["state"] = "CHANNELD_NORMAL"
    world.pass_time(3 * 3_600)
    await world.pipeline.timers.tick()
    assert rates(world) == [100] * 4


async def test_anchors_and_spikes_give_back_the_fee_from_before_both(world: World) -> None:
    anchor = {"channel_id": "101x1x0", "target_fee_ppm": 120, "ttl_hours": 1}
    assert (await world.ask(FEES, "set_anchor", anchor))["status"] == 0
    await ok(world, "fee_spike", EMERGENCY, reason="drained", hours=2)
    world.pass_time(3_600)
    await world.pipeline.timers.tick()
    assert rates(world)[0] == 50_000, "the anchor's end waits for that of the spike"
    world.pass_time(3_600)
    await world.pipeline.timers.tick()
    await world.pipeline.timers.tick()
    assert rates(world) == [100] * 4


async def test_an_anchor_set_during_a_spike_ends_at_the_fee_from_before_the_spike(world: World) -> None:
    world.policies.override("aggressive", approval_overrides=AUTO, max_fee_change_per_24h_pct=100)
    await ok(world, "fee_spike", EMERGENCY, reason="drained", hours=72)
    world.pass_time(25 * 3_600)
    anchor = {"channel_id": "102x1x0", "target_fee_ppm": 5_000, "ttl_hours": 60}
    armed = await world.ask(FEES, "set_anchor", anchor)
    assert armed["status"] == 0, armed
    world.pass_time(47 * 3_600)
    await world.pipeline.timers.tick()
    assert rates(world) == [100, 5_000, 100, 100]
    world.pass_time(13 * 3_600)
    await world.pipeline.timers.tick()
    assert rates(world) == [100] * 4


async def test_the_caps_on_rates_hold_for_a_spike_the_daily_percentage_does_not(world: World) -> None:
    world.policies.override("aggressive", approval_overrides=AUTO, max_fee_ppm=5_000)
    answer = await world.ask(EMERGENCY, "fee_spike", {"reason": "x"})
    assert slug(answer) == "policy_blocked" and "5000" in answer["error"]["message"]
    await ok(world, "fee_spike", EMERGENCY, reason="x", fee_ppm=5_000)


async def test_the_emergency_stop_keeps_a_spike_until_its_release(world: World) -> None:
    await ok(world, "fee_spike", EMERGENCY, reason="drained", hours=1)
    world.switch.on = True
    world.pass_time(3 * 86_400)
    await world.pipeline.timers.tick()
    assert rates(world) == [50_000] * 4
    world.switch.on = False
    await world.pipeline.timers.tick()
    assert rates(world) == [100] * 4


async def test_a_refused_end_is_tried_again_and_recorded_after_a_day(world: World) -> None:
    await ok(world, "fee_spike", EMERGENCY, reason="drained", hours=1)
    world.pass_time(3_600)
    world.node.fail["setchannel"] = 300
    await world.pipeline.timers.tick()
    assert len(await world.docs()) == 1
    world.pass_time(86_400)
    await world.pipeline.timers.tick()
    receipt = (await world.docs())[-1]
    assert (receipt["status"], receipt["error"]["slug"]) == ("error", "node_error")


# -- revoking everybody -------------------------------------------------------------------------------------


async def test_revoking_everybody_is_receipted_although_the_caller_ends_with_them(world: World) -> None:
    world.credentials.add(View(issue(OTHER_KEY, number=2), "adv-2"))
    answer = await world.ask(EMERGENCY, "revoke_all_credentials", {"reason": "keys stolen"})
    assert (answer["status"], answer["result"]) == (0, {"revoked": 2}), answer
    assert answer["receipt"]["status"] == "success"
    assert world.revoking.active() == () and "keys stolen" in world.revoking.reasons[0]
    assert world.out.alerts[-1][0].value == "critical"
    for number, key in ((1, AGENT_KEY), (2, OTHER_KEY)):
        again = await world.ask("hive:monitor/v1", "fee_report", {}, agent=key, credential=number)
        assert slug(again) == "credential_revoked"
