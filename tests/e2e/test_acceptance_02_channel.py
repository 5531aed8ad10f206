"""Sheet 02 §15: the command channel from the outside, checks 1 to 7."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from agent import Agent
from clock_world import world_at
from hive_devnet.relay import RelayProcess
from hive_devnet.world import AdvisorFailed, World, until
from hive_shared import envelope, receipts

STATE = {"schema": "hive:monitor/v1"}


async def set_fees(world: World, ppm: int, base: int = 1_000) -> None:
    """The starting point of a test, set by the operator's own hand."""
    await world.alice.call("setchannel", {"id": world.scid, "feebase": base, "feeppm": ppm})


async def roots(agent: Agent) -> dict[str, str]:
    answer = await agent.rest(agent.signed("state_hash", {}, **{"schema": "hive:monitor/v1"}))
    assert answer["status"] == 0, answer
    return dict(answer["result"]["roots"])


async def test_acceptance_02_01_a_fee_by_nostr_and_everything_that_proves_it(
    world: World, agent: Agent
) -> None:
    await set_fees(world, 120)
    # Reads may show a state hash up to 60 s old; a write takes a new one, so the first is made by a write.
    carol = await world.network.add_node("carol")
    await world.network.fund(world.alice, 2_000_000)
    other = await world.network.open_channel(world.alice, carol, 1_000_000, 100_000_000)
    await world.alice.call("setchannel", {"id": other, "feebase": 1_000, "feeppm": 500})
    first = await agent.rest(agent.signed("set_single", {"channel_id": other, "fee_ppm": 510}))
    assert first["status"] == 0, first
    before = await roots(agent)
    document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 150})
    await agent.dm(document)
    answer = await agent.answer(document["nonce"])
    assert answer["status"] == 0, answer
    assert (await world.channel_fees())[1] == 150
    assert receipts.verify(answer["receipt"], agent.node_key)
    assert answer["receipt"]["command_hash"] == envelope.command_digest(document).hex()
    after = await roots(agent)
    assert after["policy"] != before["policy"]
    assert after["balance"] == before["balance"]


async def test_acceptance_02_02_one_envelope_by_two_relays_and_rest_runs_once(
    world: World, agent: Agent
) -> None:
    await set_fees(world, 120)
    other = await RelayProcess.start()
    try:
        await world.alice.call(
            "hive-client-identity", {"action": "set-relays", "relays": f"{world.relay.url},{other.url}"}
        )
        await agent._pool.set_relays([world.relay.url, other.url], [world.relay.url, other.url], [])
        assert await agent._pool.wait_for(lambda: agent._pool.connected() == 2, 60)
        document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 150})
        await agent.dm(document, [world.relay.url])
        await agent.dm(document, [other.url])
        by_rest = await agent.rest(document)
        by_dm = await agent.answer(document["nonce"])
        assert by_rest == by_dm
        assert by_rest["status"] == 0
        items = (await world.alice.call("hive-client-receipts", {"limit": 100}))["items"]
        assert sum(1 for item in items if item.get("command_id") == document["command_id"]) == 1
    finally:
        await other.stop()


async def test_acceptance_02_02_nonces_out_of_order_within_the_window_run_in_order(
    world: World, agent: Agent
) -> None:
    base = agent.nonce
    for _ in range(30):
        # The window is half a second: on a busy machine the second call may come after it.
        base += 1_000
        first = agent.signed("health_summary", {}, "hive:monitor/v1", nonce=base + 5)
        second = agent.signed("fee_report", {}, "hive:monitor/v1", nonce=base + 6)
        later = asyncio.create_task(agent.rest(second))
        await asyncio.sleep(0.1)
        earlier = asyncio.create_task(agent.rest(first))
        answers = await asyncio.gather(earlier, later)
        if [answer["status"] for answer in answers] == [0, 0]:
            break
    else:
        raise AssertionError(answers)
    await asyncio.sleep(1)
    late = await agent.rest(agent.signed("health_summary", {}, "hive:monitor/v1", nonce=base + 4))
    assert late["error"]["slug"] == "nonce_too_low"
    assert late["error"]["data"]["expected_min"] == base + 7


async def test_acceptance_02_02_a_nonce_with_other_content_is_nonce_reuse(world: World, agent: Agent) -> None:
    document = agent.signed("health_summary", {}, "hive:monitor/v1")
    assert (await agent.rest(document))["status"] == 0
    other = agent.signed("fee_report", {}, "hive:monitor/v1", nonce=document["nonce"])
    assert (await agent.rest(other))["error"]["slug"] == "nonce_reuse"
    assert (await agent.rest(document))["status"] == 0


async def test_acceptance_02_03_the_time_window(world: World, agent: Agent) -> None:
    for shift, slug in (
        # The edges to the second: integration; here a call may take seconds.
        (-301, "stale_timestamp"),
        (-280, None),
        (299, None),
        (330, "stale_timestamp"),
    ):
        document = agent.signed("health_summary", {}, "hive:monitor/v1", timestamp=int(time.time()) + shift)
        answer = await agent.rest(document)
        assert answer.get("error", {}).get("slug") == slug, (shift, answer)


async def test_acceptance_02_03_a_command_for_another_node_is_wrong_node(world: World, agent: Agent) -> None:
    answer = await agent.rest(agent.signed("health_summary", {}, "hive:monitor/v1", node="ab" * 32))
    assert answer["error"]["slug"] == "wrong_node"


def flipped(document: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """One character of the value at ``path`` changed."""
    changed = copy.deepcopy(document)
    place: Any = changed
    for part in path[:-1]:
        place = place[part]
    value = place[path[-1]]
    place[path[-1]] = value + 1 if isinstance(value, int) else ("0" if value[0] != "0" else "1") + value[1:]
    return changed


async def test_acceptance_02_04_any_flipped_byte_is_a_bad_signature_and_burns_no_nonce(
    world: World, agent: Agent
) -> None:
    await set_fees(world, 120)
    document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 150})
    for path in (
        ("signature",),
        ("schema_payload", "params", "fee_ppm"),
        ("schema_payload", "params", "channel_id"),
        ("payment_proof", "method"),
        ("nonce",),
        ("timestamp",),
        ("command_id",),
    ):
        answer = await agent.rest(flipped(document, path))
        assert answer["error"]["slug"] == "bad_signature", (path, answer)
        assert (await world.channel_fees())[1] == 120, path
    assert (await agent.rest(document))["status"] == 0


async def test_acceptance_02_04_seal_and_rumor_by_different_keys_is_dropped_in_silence(
    world: World, agent: Agent
) -> None:
    document = agent.signed("health_summary", {}, "hive:monitor/v1")
    async with Agent(world.alice, world.relay.url) as stranger:
        # Sealed by a stranger: the envelope inside names (and is signed by) the hired agent.
        await stranger.dm(document)
        honest = agent.signed("health_summary", {}, "hive:monitor/v1")
        await agent.dm(honest)
        await agent.answer(honest["nonce"])
        assert not any(
            answer.get("request_nonce") == document["nonce"] for answer in (*agent.inbox, *stranger.inbox)
        )


async def test_acceptance_02_05_a_strangers_credential_for_our_node_never_authorises(
    world: World, agent: Agent
) -> None:
    from scripted_node import ScriptedNode

    forger = ScriptedNode(world.relay.url)
    forger.node_id = world.alice.node_id
    async with Agent(world.alice, world.relay.url) as stranger:
        forged = forger.credential(stranger.key)
        stranger.credential_id = forged["credential_id"]
        reference = {"credential_id": forged["credential_id"], "vc": forged}
        document = stranger.signed("health_summary", {}, "hive:monitor/v1", credential=reference)
        with pytest.raises(Exception, match=r"unauthorized|4003"):
            await stranger.rest(document)
        # With the hired agent's id and an embedded copy of their own making: the copy has to hash-equal.
        fake = {"credential_id": agent.credential_id, "vc": forger.credential(agent.key)}
        answer = await agent.rest(agent.signed("health_summary", {}, "hive:monitor/v1", credential=fake))
        assert answer["status"] == 1, answer


async def test_acceptance_02_06_a_monitor_may_not_set_fees(world: World) -> None:
    async with Agent(world.alice, world.relay.url) as agent:
        await agent.hired("monitoring")
        answer = await agent.rest(agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 11}))
        assert answer["error"]["slug"] == "tier_insufficient", answer


async def test_acceptance_02_07_two_steps_of_thirty_percent_in_a_day_are_too_much(tmp_path: Path) -> None:
    """Each is within the 50 of the credential; a day later, by the plugin's clock, the second may be made."""
    async with (
        world_at(tmp_path, lambda now: now) as (world, clock),
        Agent(world.alice, world.relay.url, now=clock.now) as agent,
    ):
        await agent.hired("fees")
        await set_fees(world, 1_000)

        async def changed(ppm: int) -> str | None:
            answer = await agent.rest(agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": ppm}))
            return answer.get("error", {}).get("slug")

        assert await changed(1_600) == "constraint_violated"
        assert await changed(1_300) is None
        clock.wait(23 * 3_600)
        assert await changed(1_690) == "constraint_violated"
        assert (await world.channel_fees())[1] == 1_300
        clock.wait(3_600 + 60)
        assert await changed(1_690) is None
        assert (await world.channel_fees())[1] == 1_690


async def test_a_fee_is_changed_only_from_the_root_the_agent_saw(world: World) -> None:
    await world.hire("fees")
    await set_fees(world, 1_000)
    change = (
        "--yes",
        "send",
        "alice",
        "hive:fee-policy/set_single",
        f"channel_id={world.scid}",
        "fee_ppm=1100",
    )

    async def seen() -> str:
        answer = await world.advisor.run("send", "alice", "hive:monitor/state_hash")
        return str(answer["result"]["roots"]["policy"])

    root = await seen()
    await set_fees(world, 1_050)
    with pytest.raises(AdvisorFailed) as refused:
        await world.advisor.run(*change, "--if-root", root)
    assert "stale_state" in str(refused.value), refused.value
    assert (await world.channel_fees())[1] == 1_050
    done = await world.advisor.run(*change, "--if-root", await seen())
    assert done["state"] == "done", done
    assert (await world.channel_fees())[1] == 1_100


async def test_acceptance_02_07_one_protected_channel_stops_the_whole_bulk(world: World) -> None:
    async with Agent(world.alice, world.relay.url) as agent:
        # A bulk over more than half of all channels scores 6: only the advanced tier may ask for it.
        await _protected_bulk(world, await agent.hired("everything"))


async def _protected_bulk(world: World, agent: Agent) -> None:
    await set_fees(world, 1_000)
    peer = await world.network.add_node("carol")
    await world.network.fund(world.alice, 2_000_000)
    other = await world.network.open_channel(world.alice, peer, 1_000_000, 100_000_000)
    await world.alice.call("setchannel", {"id": other, "feebase": 1_000, "feeppm": 1_000})
    await world.alice.call("hive-client-policy", {"action": "protect", "channels": other})
    answer = await agent.rest(
        agent.signed("set_bulk", {"channels": [world.scid, other], "policy": {"fee_ppm": 1_100}})
    )
    assert answer["error"]["slug"] == "protected_channel", answer
    assert (await world.channel_fees())[1] == 1_000
    assert (await world.channel_fees(other))[1] == 1_000


async def test_the_offer_reaches_the_agent_by_dm(world: World, agent: Agent) -> None:
    async def offered() -> bool:
        return any(d.get("schema_payload", {}).get("action") == "credential_offer" for d in agent.inbox)

    await until(offered, "the credential offer")
    offer = next(d for d in agent.inbox if d.get("schema_payload", {}).get("action") == "credential_offer")
    push = envelope.decode_push(json.dumps(offer))
    assert push.node_key == agent.node_key
