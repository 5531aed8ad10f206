"""An agent that pays for access, on a node: the invoice of one action, a token for many, and a kill -9 where
the fee is taken (docs/protocol/02-fleet-management.md §8, §15.14; 03 §7.5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agent import Agent
from ecash_fee_world import proof_of, token_of, worth
from ecash_world import EcashWorld
from hive_devnet.world import AdvisorFailed, World
from hive_shared.canonical import JsonValue
from killed_command import killed_at, receipt_of

LIMITS = "hive:htlc-policy/v1"


async def test_an_agent_pays_for_an_action_for_many_and_by_ecash(
    world: World, mint_url: str, tmp_path: Path
) -> None:
    for name, value in (("enabled", "true"), ("actions", "2")):
        await world.alice.call("setconfig", {"config": f"hive-comms-l402-{name}", "val": value})
    channel = (await world.alice.call("listpeerchannels"))["channels"][0]["short_channel_id"]
    async with Agent(world.alice, world.relay.url) as agent:
        issued = await world.alice.call(
            "hive-mgmt-credential-issue",
            {
                "agent_id": agent.npub,
                "tier": "standard",
                "allowed_schemas_json": ["*"],
                "access_json": {"model": "per_action"},
            },
        )
        agent.credential_id = str(issued["credential"]["credential_id"])

        def write(minimum: int, proof: dict[str, JsonValue]) -> dict[str, Any]:
            return agent.signed("set_htlc_limits", limits(minimum), LIMITS, payment_proof=proof)

        def limits(minimum: int) -> dict[str, JsonValue]:
            return {"channel_id": channel, "htlc_minimum_msat": minimum}

        async def paid(invoice: str) -> str:
            return str((await world.bob.call("xpay", {"invstring": invoice}))["payment_preimage"])

        asked = (await agent.rest(write(7, {"method": "none"})))["error"]
        assert asked["slug"] == "payment_required", asked
        told = asked["data"]
        unpaid: dict[str, JsonValue] = {"method": "bolt11", "preimage": "07" * 32}
        assert (await agent.rest(write(7, unpaid)))["error"]["slug"] == "payment_invalid"
        one: dict[str, JsonValue] = {"method": "bolt11", "preimage": await paid(told["bolt11"]["invoice"])}
        done = await agent.rest(write(7, one))
        assert done["status"] == 0 and done["receipt"]["payment"]["state"] == "redeemed", done
        assert (await agent.rest(write(8, one)))["error"]["slug"] == "payment_replayed"

        token: dict[str, JsonValue] = {
            "method": "l402",
            "macaroon": told["macaroon"],
            "preimage": await paid(told["invoice"]),
        }
        command = (LIMITS, "set_htlc_limits")
        killed = await killed_at(world, agent, "after_executing", command, limits(9), payment_proof=token)
        receipt = await receipt_of(world, killed)
        ran = receipt["status"] == "success"
        assert receipt["payment"]["state"] == ("redeemed" if ran else "refunded"), receipt
        left = 1 if ran else 2
        for number in range(left):
            assert (await agent.rest(write(20 + number, token)))["status"] == 0
        assert (await agent.rest(write(30, token)))["error"]["slug"] == "payment_required"
        listed = (await world.alice.call("hive-client-payments", {"action": "history"}))["items"]
        came = sorted((row["direction"], row["amount_sats"], row["state"]) for row in listed)
        assert came == [("in", 5, "settled"), ("in", 1_000, "settled")], listed
        wallet = EcashWorld(tmp_path / "agent", mint_url)
        await pays_by_ecash(world, agent, channel, wallet)
        await wallet.close()


async def pays_by_ecash(world: World, agent: Agent, channel: str, wallet: EcashWorld) -> None:
    """The price stays, the rest comes back; over a kill -9 as well."""
    for name, value in (("escrow-mint", wallet.mint_url), ("payment-methods", "bolt11,cashu")):
        await world.alice.call("setconfig", {"config": f"hive-comms-{name}", "val": value})
    await wallet.service.fund(200, None, None, 30)

    def limits(minimum: int) -> dict[str, JsonValue]:
        return {"channel_id": channel, "htlc_minimum_msat": minimum}

    async def given(minimum: int, proof: dict[str, JsonValue]) -> dict[str, Any]:
        command = agent.signed("set_htlc_limits", limits(minimum), LIMITS, payment_proof=proof)
        return dict(await agent.rest(command))

    async def balance() -> int:
        return int((await world.alice.call("hive-client-wallet", {"action": "balance"}))["total_sats"])

    told = (await given(40, {"method": "none"}))["error"]["data"]["cashu"]
    assert told["amount_sats"] == 5 and told["mints"] == [wallet.mint_url], told
    token = await token_of(wallet, 32, told["pubkey"])
    done = await given(40, proof_of(token))
    assert done["status"] == 0 and done["receipt"]["payment"]["method"] == "cashu", done
    assert await worth(wallet, done["change"]) == 32 - 1 - 5 and await balance() == 5
    assert (await given(41, proof_of(token)))["error"]["slug"] == "payment_replayed"

    token = await token_of(wallet, 32)
    command = (LIMITS, "set_htlc_limits")
    killed = await killed_at(
        world, agent, "after_executing", command, limits(42), payment_proof=proof_of(token)
    )
    receipt = await receipt_of(world, killed)
    # The swap had not left: the command did not run, and its final answer gives the value back.
    assert (receipt["status"], receipt["payment"]["state"]) == ("error", "refunded"), receipt
    assert await worth(wallet, token) == 0 and await balance() == 5


async def test_an_agent_pays_for_a_period(world: World) -> None:
    """By an offer of its own; then every command of the period runs."""
    channel = (await world.alice.call("listpeerchannels"))["channels"][0]["short_channel_id"]
    issue: dict[str, Any] = {"tier": "standard", "allowed_schemas_json": ["*"]}
    async with Agent(world.alice, world.relay.url) as agent:
        issue |= {"agent_id": agent.npub, "access_json": {"model": "subscription"}}
        issued = await world.alice.call("hive-mgmt-credential-issue", issue)
        agent.credential_id = str(issued["credential"]["credential_id"])

        async def write(minimum: int, proof: dict[str, JsonValue]) -> dict[str, Any]:
            limits: dict[str, JsonValue] = {"channel_id": channel, "htlc_minimum_msat": minimum}
            return await agent.rest(agent.signed("set_htlc_limits", limits, LIMITS, payment_proof=proof))

        told = (await write(7, {"method": "none"}))["error"]["data"]
        assert told["methods"] == ["bolt12"] and told["bolt12"]["period"] == "30 days", told
        asked = {"offer": told["bolt12"]["offer"], "recurrence_counter": 0, "recurrence_label": "mine"}
        fetched = await world.bob.call("fetchinvoice", asked)
        paid = await world.bob.call("xpay", {"invstring": fetched["invoice"], "label": "mine"})
        forged: dict[str, JsonValue] = {"method": "bolt12", "preimage": "07" * 32}
        assert (await write(7, forged))["error"]["slug"] == "payment_invalid"
        done = await write(7, {"method": "bolt12", "preimage": paid["payment_preimage"]})
        assert done["status"] == 0 and done["receipt"]["payment"]["method"] == "bolt12", done
        assert (await write(8, {"method": "subscription"}))["status"] == 0
        listed = (await world.alice.call("hive-client-payments", {"action": "history"}))["items"]
        assert [(row["method"], row["amount_sats"]) for row in listed] == [("bolt12", 1_000)], listed


async def test_the_kit_takes_along_what_its_human_paid(world: World) -> None:
    channel = (await world.alice.call("listpeerchannels"))["channels"][0]["short_channel_id"]
    identity = await world.advisor.run("identity", "create")
    await world.alice.call(
        "hive-mgmt-credential-issue",
        {
            "agent_id": identity["npub"],
            "tier": "standard",
            "allowed_schemas_json": ["*"],
            "access_json": {"model": "per_action"},
        },
    )
    await world.accept_offer("alice")
    write = ("--yes", "send", "alice", f"{LIMITS}/set_htlc_limits", f"channel_id={channel}")
    with pytest.raises(AdvisorFailed) as refused:
        await world.advisor.run(*write, "htlc_minimum_msat=5")
    assert refused.value.code == 8, refused.value
    command_id = refused.value.error["command_id"]
    (demand,) = (await world.advisor.run("pay", "show", command_id))["items"]
    assert demand["method"] == "bolt11" and demand["amount_sats"] == 5
    paid = await world.bob.call("xpay", {"invstring": demand["invoice"]})
    with pytest.raises(AdvisorFailed) as wrong:
        await world.advisor.run("pay", "attach", command_id, "07" * 32)
    assert wrong.value.code == 8 and "none of the invoices" in wrong.value.error["message"]
    await world.advisor.run("pay", "attach", command_id, paid["payment_preimage"])
    done = await world.advisor.run(*write, "htlc_minimum_msat=6")
    assert done["state"] == "done", done
    (fee,) = (await world.advisor.run("pay", "list"))["items"]
    assert fee["standing"] == "used" and fee["used_by"] == done["command_id"]
