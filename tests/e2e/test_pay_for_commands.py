"""An agent that is paid for its commands, on a node: paid after the receipt, once, over a kill -9 between the
two and within the payment (docs/protocol/02-fleet-management.md §8; 03 §7; 11 §15.8, §15.11)."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from agent import Agent
from hive_devnet.world import World, until
from hive_shared.canonical import JsonValue
from hive_shared.cashu.derive import public_key
from hive_shared.crypto import Secret, sha256
from hive_shared.invoice_messages import INVOICE
from hive_shared.signed_message import Draft, sign
from killed_command import killed_at, receipt_of

LIMITS = "hive:htlc-policy/v1"
ACTION = "set_htlc_limits"
POINTS = ("after_executing", "after_outcome", "payment_answered")


@pytest.mark.timeout(400)
async def test_an_agent_is_paid_for_what_succeeded_once_also_after_a_kill(world: World) -> None:
    channel = (await world.alice.call("listpeerchannels"))["channels"][0]["short_channel_id"]
    await world.alice.call("setconfig", {"config": "hive-comms-escrow-min-danger", "val": "10"})
    async with Agent(world.alice, world.relay.url) as agent:
        issued = await world.alice.call(
            "hive-mgmt-credential-issue",
            {
                "agent_id": agent.npub,
                "tier": "standard",
                "allowed_schemas_json": ["*"],
                "compensation_json": {"model": "per_action", "rate_sats": 25},
            },
        )
        agent.credential_id = str(issued["credential"]["credential_id"])

        async def claim(label: str, sats: int = 25) -> dict[str, JsonValue]:
            asked = {"amount_msat": sats * 1_000, "label": label, "description": "one action"}
            return {"method": "bolt11", "invoice": str((await world.bob.call("invoice", asked))["bolt11"])}

        def limits(minimum: int) -> dict[str, JsonValue]:
            return {"channel_id": channel, "htlc_minimum_msat": minimum}

        async def ask(minimum: int, proof: dict[str, JsonValue]) -> dict[str, Any]:
            return await agent.rest(agent.signed(ACTION, limits(minimum), LIMITS, payment_proof=proof))

        async def paid(label: str) -> bool:
            (row,) = (await world.bob.call("listinvoices", {"label": label}))["invoices"]
            return bool(row["status"] == "paid")

        async def ended() -> bool:
            rows = (await world.alice.call("hive-client-payments", {"action": "history"}))["items"]
            return {row["state"] for row in rows} <= {"settled", "failed"}

        wrong = (await ask(7, await claim("too-much", 26)))["error"]
        assert wrong["slug"] == "payment_invalid" and "earns 25 sat" in wrong["message"], wrong
        done = await ask(7, await claim("one"))
        assert done["status"] == 0, done
        assert done["receipt"]["payment"]["state"] == "owed", done
        notice = await agent.pushed("payment_notice")
        assert notice["command_id"] == done["command_id"] and notice["state"] == "settled", notice
        assert await paid("one") and not await paid("too-much")
        (invoice,) = (await world.bob.call("listinvoices", {"label": "one"}))["invoices"]
        assert notice["preimage"] == invoice["payment_preimage"]

        for number, point in enumerate(POINTS):
            label = f"killed-{point}"
            proof = await claim(label)
            killed = await killed_at(
                world, agent, point, (LIMITS, ACTION), limits(20 + number), payment_proof=proof
            )
            receipt = await receipt_of(world, killed)
            if receipt["status"] == "success":
                assert receipt["payment"]["state"] == "owed", receipt

                await until(ended, f"the end of the payment of {point}")
                assert await paid(label)
            else:
                assert point == "after_executing" and receipt["payment"]["state"] == "not_due", receipt
        sent = (await world.alice.call("listsendpays"))["payments"]
        hashes = [row["payment_hash"] for row in sent if row["status"] == "complete"]
        assert len(hashes) == len(set(hashes)), sent
        assert len((await world.alice.call("hive-client-payments", {"action": "history"}))["items"]) == 4
        await _unasked_invoice(world, agent, str((await claim("unasked"))["invoice"]))
        assert not await paid("unasked")


async def _unasked_invoice(world: World, agent: Agent, invoice: str) -> None:
    """An invoice that nobody asked for is refused, and nothing is paid by it."""
    body: JsonValue = {
        "idempotency_key": "00" * 16 + ":0",
        "bolt11": invoice,
        "amount_sats": 25,
        "expires_at": agent.now() + 600,
    }
    now = agent.now()
    message = Draft(INVOICE, str(uuid.uuid4()), "marketplace", 1, now, now + 600, body)
    await agent.dm(sign(message, agent.secret, agent.node_key))

    async def refused() -> bool:
        shown = await world.alice.call("hive-comms-transports")
        return bool(shown["messages"].get("refused"))

    await until(refused, "the refusal of an invoice that nobody asked for")


@pytest.mark.timeout(400)
async def test_an_agent_is_paid_by_tickets_and_a_kill_neither_loses_nor_gives_away_a_preimage(
    world: World, mint_url: str
) -> None:
    alice = world.alice
    channel = (await alice.call("listpeerchannels"))["channels"][0]["short_channel_id"]
    await alice.call("setconfig", {"config": "hive-comms-escrow-mint", "val": mint_url})

    async def good() -> bool:
        rows = (await alice.call("hive-client-wallet", {"action": "mints"}))["items"]
        return bool(rows) and rows[0]["status"] in ("probation", "trusted")

    await until(good, "the mint")
    await alice.call("hive-client-wallet", {"action": "fund", "amount_sats": 500})
    await alice.call("hive-client-wallet", {"action": "probe"})
    async with Agent(alice, world.relay.url) as agent:
        issued = await alice.call(
            "hive-mgmt-credential-issue",
            {"agent_id": agent.npub, "tier": "standard", "allowed_schemas_json": ["*"]},
        )
        agent.credential_id = str(issued["credential"]["credential_id"])
        tasks = [{"channel_id": channel, "htlc_minimum_msat": number} for number in (31, 32, 33)]
        made = await alice.call(
            "hive-client-escrow",
            {
                "action": "create",
                "advisor": agent.npub,
                "payee_pubkey": public_key(Secret(b"\x21" * 32)),
                "type": "batch",
                "danger": 5,
                "schema": LIMITS,
                "task_action": ACTION,
                "params": tasks[0],
                "items": [{"amount_sats": 20, "params": task} for task in tasks],
                "idempotency_key": "three",
            },
        )
        assert made["item_states"] == {"delivered": 3}, made

        def claim(number: int) -> dict[str, JsonValue]:
            return {"method": "cashu_escrow", "ticket_id": made["ticket_id"], "item": number}

        async def items() -> list[dict[str, Any]]:
            shown = await alice.call("hive-client-escrow", {"action": "get", "ticket_id": made["ticket_id"]})
            return list(shown["items"])

        hashes = [item["hash"] for item in await items()]
        wrong = await agent.rest(agent.signed(ACTION, tasks[1], LIMITS, payment_proof=claim(0)))
        assert wrong["error"]["slug"] == "payment_invalid" and "another task" in wrong["error"]["message"]
        done = await agent.rest(agent.signed(ACTION, tasks[0], LIMITS, payment_proof=claim(0)))
        assert done["status"] == 0, done
        assert sha256(bytes.fromhex(done["preimage"])).hex() == hashes[0]
        assert done["receipt"]["escrow"]["preimage_released"] is True
        for number, point in ((1, "after_executing"), (2, "after_outcome")):
            killed = await killed_at(
                *(world, agent, point, (LIMITS, ACTION), tasks[number]), payment_proof=claim(number)
            )
            receipt = await receipt_of(world, killed)
            succeeded = receipt["status"] == "success"
            status = await agent.rest(
                agent.signed("command_status", {"command_id": killed}, "hive:control/v1")
            )
            told = status["result"]["response"].get("preimage")
            assert (told is not None) == succeeded == receipt["escrow"]["preimage_released"], receipt
            assert told is None or sha256(bytes.fromhex(told)).hex() == hashes[number]
            assert (await items())[number]["state"] == ("released" if succeeded else "failed")
