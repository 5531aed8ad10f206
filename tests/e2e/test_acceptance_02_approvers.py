"""Several signatures: approvers vote over Nostr without a credential (02 §7.3, §13.10; 11 §15.6)."""

from __future__ import annotations

from typing import Any

from agent import Agent
from hive_devnet.world import World, until
from hive_shared import crypto
from hive_shared.envelope import approve_digest

CONTROL = "hive:control/v1"


async def several(world: World, *approvers: str) -> None:
    """Fee changes need two of these."""
    overrides = {"approvers": list(approvers), "approval_overrides": {"fee_policy_*": "multi_sig_2_of_3"}}
    await world.alice.call("hive-client-policy", {"action": "set", "overrides": overrides})


async def start(world: World) -> None:
    """A fee from which 1,050 ppm is a small step."""
    await world.alice.call("setchannel", {"id": world.scid, "feebase": 1_000, "feeppm": 1_000})


async def asked(world: World, agent: Agent) -> dict[str, Any]:
    """A small fee change that waits; its envelope."""
    await start(world)
    document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 1_050})
    answer = await agent.rest(document)
    assert (answer["status"], answer["error"]["data"]["workflow"]) == (3, "multisig"), answer
    assert answer["error"]["data"]["needed"] == 2
    return document


async def request_at(approver: Agent, document: dict[str, Any]) -> dict[str, Any]:
    """The approval request the approver was sent for this command."""

    def found() -> dict[str, Any] | None:
        for message in approver.inbox:
            payload = message.get("schema_payload", {})
            if payload.get("action") == "approval_request" and payload["params"]["envelope"] == document:
                return dict(payload["params"])
        return None

    async def came() -> bool:
        return found() is not None

    await until(came, "the approval request")
    body = found()
    assert body is not None
    return body


async def vote(approver: Agent, document: dict[str, Any], decision: Any) -> dict[str, Any]:
    """Sign what was asked and send it as a DM; the node's answer."""
    body = await request_at(approver, document)
    params = {
        "command_id": document["command_id"],
        "sig": crypto.schnorr_sign(approver.secret, approve_digest(body["command_hash"], decision)),
    }
    word = approver.signed(decision, params, CONTROL, credential=None)
    await approver.dm(word)
    return await approver.answer(word["nonce"])


async def test_acceptance_02_10_an_approver_by_nostr_and_the_operator_make_two(
    world: World, agent: Agent
) -> None:
    async with Agent(world.alice, world.relay.url) as approver:
        await several(world, approver.key, "local", agent.key)
        document = await asked(world, agent)
        (item,) = (await world.alice.call("hive-client-pending"))["items"]
        first = await vote(approver, document, "approve")
        assert (first["status"], first["result"]["vote"]) == (0, "approve"), first
        assert (await vote(approver, document, "approve"))["status"] == 0
        own = {"command_id": document["command_id"], "sig": "00" * 64}
        refused = await agent.rest(agent.signed("approve", own, CONTROL))
        assert refused["error"]["slug"] == "unauthorized", refused
        assert (await world.channel_fees()) == (1_000, 1_000)
        done = await world.alice.call("hive-client-approve", {"action_id": item["action_id"]})
        assert (done["state"], done["approvals"], done["needed"]) == ("success", 2, 2), done
        assert (await world.channel_fees()) == (1_000, 1_050)
        await agent.answer(document["nonce"], status=0)
        receipts = (await world.alice.call("hive-client-receipts", {"limit": 200}))["items"]
        (receipt,) = [each for each in receipts if each.get("command_id") == document["command_id"]]
        assert receipt["approval"]["workflow"] == "multisig"
        assert sorted(receipt["approval"]["approvers"]) == sorted([approver.key, "local"])
        assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True


async def test_acceptance_02_10_the_operator_hands_in_signatures_and_a_reject_ends_it(
    world: World, agent: Agent
) -> None:
    async with Agent(world.alice, world.relay.url) as approver, Agent(world.alice, world.relay.url) as other:
        await several(world, approver.key, other.key)
        document = await asked(world, agent)
        body = await request_at(other, document)
        signature = crypto.schnorr_sign(other.secret, approve_digest(body["command_hash"], "approve"))
        handed = {
            "action_id": document["command_id"],
            "approver": other.npub,
            "signature": signature,
        }
        state = await world.alice.call("hive-client-approve", handed)
        assert (state["state"], state["approvals"]) == ("pending_approval", 1), state
        assert (await vote(approver, document, "reject"))["status"] == 0
        told = await agent.answer(document["nonce"], status=1)
        assert told["error"]["slug"] == "approval_rejected", told
        assert (await world.channel_fees()) == (1_000, 1_000)


async def test_acceptance_02_10_nobody_to_sign_is_said_at_once(world: World, agent: Agent) -> None:
    await start(world)
    for approvers in ((), ("local", f"did:nostr:{agent.key}")):
        await several(world, *approvers)
        answer = await agent.rest(agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 1_050}))
        assert answer["error"]["slug"] == "multisig_not_configured", answer
    assert (await world.alice.call("hive-client-pending"))["count"] == 0
