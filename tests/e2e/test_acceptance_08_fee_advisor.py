"""Sheet 08 §13.6: what a hired fee advisor may do with fees, and where it stops."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

from agent import Agent
from hive_devnet.world import World

MONITOR = "hive:monitor/v1"
HOUR = 3_600


async def fees(world: World, scid: str, ppm: int, base: int = 1_000) -> None:
    """Set by the operator's own hand: no advisor's history."""
    await world.alice.call("setchannel", {"id": scid, "feebase": base, "feeppm": ppm})


async def hours_pass(world: World, hours: int) -> None:
    """The plugin's clock cannot be moved from outside, so what it remembers is made older instead."""

    def older() -> None:
        path = world.alice.net_dir / "cl_hive_comms.db"
        with closing(sqlite3.connect(path, timeout=60)) as database, database:
            database.execute("UPDATE comms_fee_history SET ts = ts - ?", (hours * HOUR,))
            database.execute("UPDATE comms_action_counters SET at = at - ?", (hours * HOUR,))

    await asyncio.to_thread(older)


async def set_ppm(agent: Agent, scid: str, ppm: int) -> dict[str, Any]:
    return await agent.rest(agent.signed("set_single", {"channel_id": scid, "fee_ppm": ppm}))


async def second_channel(world: World, ppm: int) -> str:
    peer = await world.network.add_node("carol")
    await world.network.fund(world.alice, 2_000_000)
    scid = await world.network.open_channel(world.alice, peer, 1_000_000, 100_000_000)
    await fees(world, scid, ppm)
    return scid


async def channel_id_of(world: World, scid: str) -> str:
    channels = (await world.alice.call("listpeerchannels"))["channels"]
    return next(str(row["channel_id"]) for row in channels if row["short_channel_id"] == scid)


async def test_acceptance_08_06_thirty_percent_is_fine_and_one_more_is_not(
    world: World, agent: Agent
) -> None:
    await fees(world, world.scid, 1_000)
    refused = await set_ppm(agent, world.scid, 1_301)
    assert (refused["status"], refused["error"]["slug"]) == (1, "policy_blocked"), refused
    assert refused["error"]["data"]["rule"] == "max_fee_change_per_24h_pct"
    assert (await world.channel_fees())[1] == 1_000
    done = await set_ppm(agent, world.scid, 1_300)
    assert done["status"] == 0, done
    assert (await world.channel_fees())[1] == 1_300


async def test_acceptance_08_06_ten_steps_of_ten_percent_stop_at_the_cap(world: World, agent: Agent) -> None:
    await fees(world, world.scid, 1_000)
    present, slugs = 1_000, []
    for _step in range(10):
        wanted = present * 110 // 100
        answer = await set_ppm(agent, world.scid, wanted)
        slugs.append(answer.get("error", {}).get("slug"))
        present = (await world.channel_fees())[1]
        assert present <= 1_300, f"the cap of 30 % in 24 h was passed: {present} ppm"
        await hours_pass(world, 1)
    # 1100, 1210, then 1331 would be 33 % above the value of 24 h ago.
    assert slugs == [None, None] + ["policy_blocked"] * 8, slugs
    assert present == 1_210
    # Once the first step is a day old, the next one counts from there.
    await hours_pass(world, 24)
    assert (await set_ppm(agent, world.scid, 1_331))["status"] == 0
    assert (await world.channel_fees())[1] == 1_331


async def test_acceptance_08_06_steps_downward_stop_as_well(world: World, agent: Agent) -> None:
    await fees(world, world.scid, 1_000)
    present, slugs = 1_000, []
    for _step in range(5):
        answer = await set_ppm(agent, world.scid, present * 90 // 100)
        slugs.append(answer.get("error", {}).get("slug"))
        present = (await world.channel_fees())[1]
        await hours_pass(world, 1)
    assert slugs == [None, None, None, "policy_blocked", "policy_blocked"], slugs
    assert present == 729


async def test_acceptance_08_06_two_advisors_share_one_cap(world: World, agent: Agent) -> None:
    await fees(world, world.scid, 1_000)
    async with Agent(world.alice, world.relay.url) as other:
        await other.hired("fees")
        assert (await set_ppm(agent, world.scid, 1_200))["status"] == 0
        soon = await set_ppm(other, world.scid, 1_250)
        assert soon["error"]["slug"] == "cooldown", soon
        await hours_pass(world, 2)
        too_far = await set_ppm(other, world.scid, 1_400)
        assert too_far["error"]["slug"] == "policy_blocked", too_far
        assert (await set_ppm(other, world.scid, 1_300))["status"] == 0


async def test_acceptance_08_06_a_second_write_within_the_hour_is_a_cooldown(
    world: World, agent: Agent
) -> None:
    await fees(world, world.scid, 1_000)
    assert (await set_ppm(agent, world.scid, 1_100))["status"] == 0
    again = await set_ppm(agent, world.scid, 1_150)
    assert again["error"]["slug"] == "cooldown" and 0 < again["error"]["retry_after"] <= HOUR, again
    assert (await world.channel_fees())[1] == 1_100
    await hours_pass(world, 1)
    assert (await set_ppm(agent, world.scid, 1_150))["status"] == 0


async def test_acceptance_08_06_a_bulk_that_touches_a_protected_channel_changes_nothing(
    world: World, agent: Agent
) -> None:
    await fees(world, world.scid, 1_000)
    other = await second_channel(world, 1_000)
    # A bulk over more than half of the node's channels would be beyond this advisor's tier anyway.
    for _more in range(2):
        await world.network.open_channel(world.alice, world.bob, 500_000)
    names = (other, await channel_id_of(world, other))
    slugs = []
    for protected_as in names:
        await world.alice.call("hive-client-policy", {"action": "protect", "channels": protected_as})
        for named_as in names:
            for channels in ([world.scid, named_as], [named_as, world.scid]):
                answer = await agent.rest(
                    agent.signed("set_bulk", {"channels": channels, "policy": {"fee_delta_pct": 5}})
                )
                # Five dangerous commands a minute: the limit may answer first, the outcome is the same.
                slugs.append(answer["error"]["slug"])
                assert (await world.channel_fees())[1] == 1_000
                assert (await world.channel_fees(other))[1] == 1_000
        await world.alice.call("hive-client-policy", {"action": "unprotect", "channels": protected_as})
    assert slugs == ["protected_channel"] * 5 + ["rate_limited"] * 3, slugs
    single = await set_ppm(agent, other, 1_100)
    assert single["status"] == 0, single
    await world.alice.call("hive-client-policy", {"action": "protect", "channels": world.scid})
    refused = await set_ppm(agent, world.scid, 1_100)
    assert refused["error"]["slug"] == "protected_channel", refused


async def test_acceptance_08_06_there_is_no_way_to_name_all_channels(world: World, agent: Agent) -> None:
    await fees(world, world.scid, 1_000)
    await world.alice.call("hive-client-policy", {"action": "protect", "channels": world.scid})
    for params in ({"channel_id": "all", "fee_ppm": 1_100},):
        answer = await agent.rest(agent.signed("set_single", params))
        assert answer["error"]["slug"] == "invalid_params", answer
    for channels in ("all", ["all"], [], ["*"]):
        answer = await agent.rest(
            agent.signed("set_bulk", {"channels": channels, "policy": {"fee_ppm": 1_100}})
        )
        assert answer["error"]["slug"] in ("invalid_params", "rate_limited"), answer
    peer_wide = await agent.rest(
        agent.signed("set_single", {"channel_id": world.bob.node_id, "fee_ppm": 1_100})
    )
    assert peer_wide["error"]["slug"] in ("invalid_params", "protected_channel"), peer_wide
    assert (await world.channel_fees())[1] == 1_000
