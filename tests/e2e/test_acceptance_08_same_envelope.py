"""Sheet 08 §13.4: one envelope is one command, whatever its sender is called on the way in."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

import pytest
from agent import Agent
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import PLUGINS, World


async def start(world: World, ppm: int = 1_000) -> None:
    await world.alice.call("setchannel", {"id": world.scid, "feebase": 1_000, "feeppm": ppm})


def forms(agent: Agent) -> dict[str, str]:
    """Every form in which the interface takes the sender's key."""
    return {
        "hex": agent.key,
        "upper-case hex": agent.key.upper(),
        "npub": agent.npub,
        "did:nostr": f"did:nostr:{agent.key}",
        "nostr:": f"nostr:{agent.key}",
    }


async def receipts_of(world: World, command_id: str) -> list[dict[str, Any]]:
    items = (await world.alice.call("hive-client-receipts", {"limit": 200}))["items"]
    return [item for item in items if item.get("command_id") == command_id]


async def test_acceptance_08_04_by_any_name_of_its_sender_one_run_and_one_reply(world: World) -> None:
    await start(world)
    async with Agent(world.alice, world.relay.url) as agent:
        hired = await world.alice.call(
            "hive-client-authorize", {"advisor": "fee doctor", "advisor_npub": agent.npub, "access": "fees"}
        )
        agent.credential_id = str(hired["credential_id"])
        document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 1_100})
        first = await agent.rest(document)
        assert first["status"] == 0, first
        # The operator moves on: whatever ran twice would be seen.
        await start(world, 777)
        names = {**forms(agent), "alias": "fee doctor", "alias, other case": "FEE Doctor"}
        names |= {"advisor id": str(hired["advisor_id"]), "number": "advisor-1"}
        for form, sender in names.items():
            again = await world.alice.call(
                "hive-comms-rpc", {"request": json.dumps(document), "sender": sender}
            )
            assert again == first, form
        await agent.dm(document)
        assert await agent.answer(document["nonce"]) == first
        assert (await world.channel_fees())[1] == 777
        assert len(await receipts_of(world, document["command_id"])) == 1


async def test_acceptance_08_04_at_the_same_moment_by_every_way_it_runs_once(
    world: World, agent: Agent
) -> None:
    await start(world)
    document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 1_100})
    ways = [
        world.alice.call("hive-comms-rpc", {"request": json.dumps(document), "sender": sender})
        for sender in forms(agent).values()
    ]
    *answers, _wrap = await asyncio.gather(*ways, agent.dm(document))
    assert all(answer == answers[0] for answer in answers) and answers[0]["status"] == 0
    assert await agent.answer(document["nonce"]) == answers[0]
    assert len(await receipts_of(world, document["command_id"])) == 1


async def test_acceptance_08_04_the_request_may_be_text_or_an_object(world: World, agent: Agent) -> None:
    document = agent.signed("health_summary", {}, "hive:monitor/v1")
    as_text = await agent.rest(document)
    as_object = await world.alice.call("hive-comms-rpc", {"request": document, "sender": agent.key})
    spaced = await world.alice.call(
        "hive-comms-rpc", {"request": json.dumps(document, indent=2), "sender": agent.key}
    )
    assert as_text["status"] == 0 and as_text == as_object == spaced


@pytest.mark.parametrize(
    "change",
    [
        {"schema_payload": {"action": "fee_report", "params": {}}},
        {"command_id": "11111111-2222-4333-8444-555555555555"},
        {"reply_relays": ["ws://127.0.0.1:9"]},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_acceptance_08_04_altered_and_signed_anew_it_is_a_replay(
    world: World, agent: Agent, change: dict[str, Any]
) -> None:
    document = agent.signed("health_summary", {}, "hive:monitor/v1")
    first = await agent.rest(document)
    assert first["status"] == 0
    altered = agent.signed("health_summary", {}, "hive:monitor/v1", **{**_same(document), **change})
    answer = await agent.rest(altered)
    assert (answer["error"]["code"], answer["error"]["slug"]) == (4008, "nonce_reuse"), answer
    assert answer["error"]["message"]
    assert await agent.rest(document) == first


def _same(document: dict[str, Any]) -> dict[str, Any]:
    kept = copy.deepcopy(document)
    del kept["signature"], kept["schema_type"]
    return kept


async def test_acceptance_08_04_altered_without_a_new_signature_it_is_forged(
    world: World, agent: Agent
) -> None:
    await start(world)
    document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 1_100})
    forged = copy.deepcopy(document)
    forged["schema_payload"]["params"]["fee_ppm"] = 1_200
    answer = await agent.rest(forged)
    assert (answer["error"]["code"], answer["error"]["slug"]) == (4003, "bad_signature"), answer
    assert (await world.channel_fees())[1] == 1_000


async def test_acceptance_08_04_for_another_node_it_is_rejected(world: World, agent: Agent) -> None:
    await start(world)
    other = await world.network.add_node(
        "dave",
        {"hive-comms-nostr-relays": world.relay.url, "hive-comms-nostr-profile-relays": ""},
        [PLUGINS["cl-hive-comms"]],
    )
    document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 1_100})
    with pytest.raises(DevnetRpcError) as caught:
        await other.call("hive-comms-rpc", {"request": json.dumps(document), "sender": agent.key})
    assert caught.value.code == 4003 and caught.value.message.startswith("unauthorized"), caught.value
    # Known there too, it hears why; and nothing of it counts against the node it was meant for.
    async with Agent(other, world.relay.url, agent.secret) as there:
        await there.hired("fees")
        answer = await there.rest(document)
        assert (answer["error"]["code"], answer["error"]["slug"]) == (-32602, "wrong_node"), answer
    assert (await agent.rest(document))["status"] == 0
    assert (await world.channel_fees())[1] == 1_100


async def test_acceptance_08_04_another_name_in_the_envelope_is_not_believed(
    world: World, agent: Agent
) -> None:
    async with Agent(world.alice, world.relay.url) as other:
        await other.hired("monitoring")
        # The monitor sends, and claims to be the fee advisor.
        claimed = other.signed(
            "set_single",
            {"channel_id": world.scid, "fee_ppm": 11},
            sender=agent.key,
            credential={"credential_id": agent.credential_id},
        )
        for sender in (agent.key, other.key):
            answer = await world.alice.call(
                "hive-comms-rpc", {"request": json.dumps(claimed), "sender": sender}
            )
            assert answer["error"]["slug"] in ("bad_signature", "unauthorized"), answer
