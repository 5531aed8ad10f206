"""Sheet 02 §15.24: commands mean the same in every supported combination of the plugins."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from agent import Agent
from hive_devnet.relay import RelayProcess
from hive_devnet.world import PLUGINS, World, until
from hive_shared import envelope, receipts
from hive_shared.canonical import JsonValue
from hive_shared.crypto import Secret
from hive_shared.nostr import nip44
from hive_shared.nostr.event import build, event_id, to_text

COMBINATIONS = (
    ("cl-hive-comms",),
    ("cl-hive-comms", "cl-hive-archon"),
    ("cl-hive-comms", "cl-hive"),
    tuple(PLUGINS),
)
MONITOR = "hive:monitor/v1"
CONTROL = "hive:control/v1"


@asynccontextmanager
async def opened(plugins: tuple[str, ...]) -> AsyncIterator[tuple[World, Agent, RelayProcess]]:
    """A world with these plugins, two relays that node and agent both use, and a hired agent."""
    # Not tmp_path: with the test's long name in it, a socket's path exceeds what AF_UNIX takes.
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    other = await RelayProcess.start()
    world = await World.start(directory, plugins=plugins, with_witness=True)
    try:
        relays = [world.relay.url, other.url]
        await world.alice.call("hive-client-identity", {"action": "set-relays", "relays": ",".join(relays)})
        async with Agent(world.alice, world.relay.url) as agent:
            await agent._pool.set_relays(relays, relays, [])
            assert await agent._pool.wait_for(lambda: agent._pool.connected() == 2, 60)
            await agent.hired("fees")
            yield world, agent, other
    finally:
        await world.close()
        await other.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize("plugins", COMBINATIONS, ids="+".join)
async def test_acceptance_02_24_checks_1_to_4_pass_in_every_combination(plugins: tuple[str, ...]) -> None:
    async with opened(plugins) as (world, agent, other):
        await a_fee_by_nostr_runs_once(world, agent, other)
        before = len(world.witnessed("setchannel"))
        await nonces_in_order_and_once(agent)
        await the_time_window_and_the_node(agent)
        await any_flipped_byte(agent)
        await a_seal_by_another_key(world, agent)
        # What needs cl-hive's rebalancing is refused by name, not ignored.
        peer: dict[str, JsonValue] = {"peer_id": world.bob.node_id, "direction": "in"}
        params = {**peer, "amount_sats": 100_000, "max_fee_ppm": 100}
        refused = await agent.rest(agent.signed("peer_rebalance", params, "hive:rebalance/v1"))
        assert slug(refused) == "unsupported_action" and "hive-tasks" in refused["error"]["message"], refused
        assert len(world.witnessed("setchannel")) == before
        assert (await world.alice.call("hive-client-receipts-verify"))["ok"]


def slug(answer: dict[str, Any]) -> str | None:
    """The reason of a refusal, None when the command was carried out."""
    error = answer.get("error")
    return None if error is None else str(error["slug"])


async def roots(agent: Agent) -> dict[str, str]:
    """The roots of the node's state; read after a write, which takes new ones."""
    answer = await agent.rest(agent.signed("state_hash", {}, MONITOR))
    return dict(answer["result"]["roots"])


async def a_fee_by_nostr_runs_once(world: World, agent: Agent, other: RelayProcess) -> None:
    """Checks 1 and 2: one envelope by two relays and REST, its proofs, and what it moved."""
    # Reads may show a state up to 60 s old, so the first one follows a write, on a channel of its own.
    await world.network.fund(world.alice, 2_000_000)
    second = await world.network.open_channel(world.alice, world.bob, 1_000_000, 100_000_000)
    await world.alice.call("setchannel", {"id": second, "feebase": 1_000, "feeppm": 500})
    first = await agent.rest(agent.signed("set_single", {"channel_id": second, "fee_ppm": 510}))
    assert first["status"] == 0, first
    before = await roots(agent)
    changes = len(world.witnessed("setchannel"))
    document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 600})
    await agent.dm(document, [world.relay.url])
    await agent.dm(document, [other.url])
    answer = await agent.answer(document["nonce"], 60)
    assert answer["status"] == 0, answer
    assert await agent.rest(document) == answer
    assert (await world.channel_fees())[1] == 600
    assert len(world.witnessed("setchannel")) == changes + 1
    assert envelope.verify_response(answer, agent.node_key)
    assert receipts.verify(answer["receipt"], agent.node_key)
    assert answer["receipt"]["command_hash"] == envelope.command_digest(document).hex()
    after = await roots(agent)
    assert after["policy"] != before["policy"] and after["balance"] == before["balance"]
    items = (await world.alice.call("hive-client-receipts", {"limit": 100}))["items"]
    assert sum(item.get("command_id") == document["command_id"] for item in items) == 1


async def nonces_in_order_and_once(agent: Agent) -> None:
    """Check 2: 6 and then 5 at once run in order, 4 afterwards and 6 with other content do not."""
    for _ in range(3):
        base = agent.nonce
        five = agent.signed("health_summary", {}, MONITOR, nonce=base + 5)
        six = agent.signed("fee_report", {}, MONITOR, nonce=base + 6)
        late = asyncio.create_task(agent.rest(six))
        early = asyncio.create_task(agent.rest(five))
        answers = await asyncio.gather(early, late)
        agent.nonce = base + 6
        # A machine that is busy may bring the two further apart than the window of 200 ms.
        if slug(answers[0]) != "nonce_too_low":
            break
    assert [slug(answer) for answer in answers] == [None, None], answers
    too_low = await agent.rest(agent.signed("health_summary", {}, MONITOR, nonce=base + 4))
    assert slug(too_low) == "nonce_too_low", too_low
    assert too_low["error"]["data"]["expected_min"] == base + 7
    assert slug(await agent.rest(agent.signed("peer_list", {}, MONITOR, nonce=base + 6))) == "nonce_reuse"
    assert await agent.rest(six) == answers[1]


async def the_time_window_and_the_node(agent: Agent) -> None:
    """Check 3. Two seconds are left for the way; the exact bound is looked at with a clock of the test's."""
    for shift, said in ((-301, "stale_timestamp"), (297, None), (-290, None), (310, "stale_timestamp")):
        document = agent.signed("ping", {}, CONTROL, timestamp=int(time.time()) + shift)
        assert slug(await agent.rest(document)) == said, shift
    assert slug(await agent.rest(agent.signed("ping", {}, CONTROL, node="11" * 32))) == "wrong_node"


async def any_flipped_byte(agent: Agent) -> None:
    """Check 4: in signature, params, proof or nonce; the nonce is as good as before."""
    document = agent.signed("receipts_list", {"limit": 5}, CONTROL)
    first = "0" if document["signature"][0] != "0" else "1"
    payload = {**document["schema_payload"], "params": {"limit": 6}}
    for changed in (
        {"signature": first + document["signature"][1:]},
        {"schema_payload": payload},
        {"payment_proof": {"method": "nond"}},
        {"nonce": document["nonce"] + 1},
    ):
        assert slug(await agent.rest({**document, **changed})) == "bad_signature", changed
    assert slug(await agent.rest(document)) is None


async def a_seal_by_another_key(world: World, agent: Agent) -> None:
    """Check 4: what is sealed by another key than it is said to come from is dropped in silence."""
    mallory, once, now = Secret(os.urandom(32)), Secret(os.urandom(32)), int(time.time())
    document = agent.signed("health_summary", {}, MONITOR)
    text, tags = json.dumps(document), [["p", agent.node_key]]
    rumor = {
        "id": event_id(agent.key, now, 14, tags, text),
        "pubkey": agent.key,
        "created_at": now,
        "kind": 14,
        "tags": tags,
        "content": text,
    }
    sealed = nip44.encrypt(nip44.conversation_key(mallory, agent.node_key), to_text(rumor))
    seal = build(mallory, 13, [], sealed, now)
    packed = nip44.encrypt(nip44.conversation_key(once, agent.node_key), to_text(seal.to_json()))
    await agent._pool.publish(build(once, 1059, tags, packed, now), [agent.relay])

    async def dropped() -> bool:
        (row,) = [
            item
            for item in (await world.alice.call("hive-comms-transports"))["items"]
            if item.get("received", {}).get("invalid_author")
        ] or [None]
        return row is not None

    await until(dropped, "the forgery to be seen")
    honest = agent.signed("ping", {}, CONTROL)
    await agent.dm(honest)
    await agent.answer(honest["nonce"], 60)
    assert not any(message.get("request_nonce") == document["nonce"] for message in agent.inbox)
