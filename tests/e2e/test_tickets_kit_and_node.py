"""A node pays its advisor by escrow tickets: both as they are typed, over a relay, at real mints
(docs/protocol/03-escrow-and-payments.md §6.6, §14.2; docs/protocol/11-advisor-kit.md §8)."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import pytest_asyncio
from agent import Agent
from hive_devnet.clock import PluginClock
from hive_devnet.mint import MintProcess
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import AdvisorFailed, World, until
from hive_shared.canonical import JsonValue
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.terms import lock_key_text, sign_text
from hive_shared.crypto import Secret
from hive_shared.signed_message import Draft, sign

TASKS = (
    ("hive:fee-policy/v1", "set_single", {"fee_ppm": 480}),
    ("hive:htlc-policy/v1", "set_htlc_limits", {"htlc_minimum_msat": 6}),
)
"""What is paid for at which of the mints."""
SATS = 50
PAY = {"model": "per_action", "rate_sats": 25}
LIMITS = "hive:htlc-policy/v1"
FUND_SATS = 256


@pytest_asyncio.fixture
async def clock(tmp_path: Path) -> PluginClock:
    """That of the plugin, the advisor and the mint without a fee."""
    return PluginClock(tmp_path / "clock")


@pytest_asyncio.fixture
async def mints(mint_url: str, tmp_path: Path, clock: PluginClock) -> AsyncIterator[tuple[str, str]]:
    """One mint that takes a fee for every swap, one that does not."""
    async with AsyncExitStack() as stack:
        free = await MintProcess.start(tmp_path / "mint", input_fee_ppk=0, environment=clock.environment)
        stack.push_async_callback(free.stop)
        yield mint_url, free.url


@pytest_asyncio.fixture
async def paying(mints: tuple[str, str], clock: PluginClock) -> AsyncIterator[World]:
    """A node with ecash at both mints, and an advisor it hired that takes both."""
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    options = {
        "hive-comms-escrow-mint": mints[0],
        "hive-comms-escrow-backup-mints": mints[1],
        "hive-comms-escrow-auto-replenish": "false",
        "hive-comms-payment-methods": "cashu",
    }
    with mock.patch.dict(os.environ, clock.environment):
        world = await World.start(directory, options=options)
    try:
        npub = str((await world.advisor.run("identity", "create"))["npub"])
        issue = {
            "agent_id": npub,
            "tier": "standard",
            "allowed_schemas_json": ["*"],
            "constraints_json": {"escrow_secret_generation": True},
            "compensation_json": PAY,
        }
        await world.alice.call("hive-mgmt-credential-issue", issue)
        await world.accept_offer("alice")
        for url in mints:
            await world.advisor.run("wallet", "mint", "add", url)
            for action, amount in (("fund", {"amount_sats": FUND_SATS}), ("probe", {})):
                call = {"action": action, "mint": url, **amount}
                await world.alice.call("hive-client-wallet", call)
        world.advisor.env["TICKET_NPUB"] = npub
        yield world
    finally:
        await world.close()
        shutil.rmtree(directory, ignore_errors=True)


async def ticket(world: World, mint: str, task: tuple[str, str, dict[str, int]]) -> str:
    """The operator locks pay for one task, once the advisor said what a ticket needs."""
    schema, action, params = task
    call = {
        "action": "create",
        "advisor": world.advisor.env["TICKET_NPUB"],
        "type": "single",
        "amount_sats": SATS,
        "danger": 5,
        "schema": schema,
        "task_action": action,
        "params": {"channel_id": world.scid, **params},
        "mint": mint,
        "idempotency_key": action,
    }

    async def made() -> str | None:
        await world.advisor.run("run", "--once")
        try:
            return str((await world.alice.call("hive-client-escrow", call))["ticket_id"])
        except DevnetRpcError as error:
            assert "key" in str(error), error
            return None

    return await until(made, "a ticket")


async def told_hashes(world: World, task: tuple[str, str, dict[str, int]]) -> list[str]:
    """The advisor asks for hashes of a task; the node keeps their preimages."""
    schema, action, params = task
    pairs = [f"{name}={value}" for name, value in {"channel_id": world.scid, **params}.items()]

    async def told() -> list[str] | None:
        try:
            row = await world.advisor.run(
                "ticket", "secrets", "alice", f"{schema}/{action}", *pairs, "--count", "3"
            )
        except AdvisorFailed as waiting:
            assert waiting.code == 5, waiting
            return None
        return [str(each) for each in row["hashes"]]

    return await until(told, "hashes of the node")


async def item_of(world: World, ticket_id: str) -> dict[str, Any]:
    shown = await world.alice.call("hive-client-escrow", {"action": "get", "ticket_id": ticket_id})
    found: dict[str, Any] = shown["items"][0]
    return found


async def reached(world: World, ticket_id: str, state: str) -> None:
    """The advisor sends and takes its mail until the payer's item is there."""

    async def there() -> bool:
        await world.advisor.run("run", "--once")
        return bool((await item_of(world, ticket_id))["state"] == state)

    await until(there, f"the item is {state}", 120)


@pytest.mark.timeout(600)
async def test_acceptance_03_02_the_payees_net_is_the_amount_at_mints_with_and_without_a_fee(
    paying: World, mints: tuple[str, str], clock: PluginClock
) -> None:
    shell = paying.advisor
    hashes = await told_hashes(paying, TASKS[0])
    for task, mint in zip(TASKS, mints, strict=True):
        id_ = await ticket(paying, mint, task)
        # What the advisor was told before is what its ticket is made with, and nobody else's.
        assert ((await item_of(paying, id_))["hash"] in hashes) is (task is TASKS[0])
        await reached(paying, id_, "accepted")
        if task is TASKS[0]:
            assert (await shell.run("ticket", "check", id_))["good"]
            (listed,) = (await shell.run("ticket", "list"))["items"]
            assert (listed["status"], listed["amount_sats"], listed["client"]) == ("active", SATS, "alice")
        schema, action, params = task
        pairs = [f"{name}={value}" for name, value in {"channel_id": paying.scid, **params}.items()]
        done = await shell.run("--yes", "send", "alice", f"{schema}/{action}", *pairs)
        assert done["state"] == "done", done
        await shell.run("ticket", "redeem")
        shown = await shell.run("ticket", "show", id_)
        assert [part["state"] for part in shown["parts"]] == ["redeemed"], shown
        assert shown["parts"][0]["command_id"] == done["command_id"]
        balance = await shell.run("wallet", "balance")
        assert {row["mint"]: row["free_sats"] for row in balance["mints"]}[mint] == SATS, balance
        # Told of it, the payer asks the mint, which shows it the preimage.
        await reached(paying, id_, "redeemed")
    with pytest.raises(AdvisorFailed) as refused:
        await shell.run("ticket", "dispute", id_, "0", "it was paid, really")
    assert refused.value.code == 4 and "redeemed" in refused.value.error["message"]
    await by_ecash(paying, mints[1], clock)


async def by_ecash(world: World, mint: str, clock: PluginClock) -> None:
    """Two more commands, paid by ecash alone (docs/decisions/0600): the advisor takes what it is sent; what
    another agent leaves comes back after its locktime, and is owed."""
    alice, shell = world.alice, world.advisor
    for name, value in (("escrow-mint", mint), ("escrow-backup-mints", "")):
        await alice.call("setconfig", {"config": f"hive-comms-{name}", "val": value})
    # Probes and tickets have used up a minute's money calls.
    clock.wait(61)
    before = await free_sats(world, mint)
    async with Agent(alice, world.relay.url) as idle:
        left = await unclaimed(world, idle, mint)
    pairs = (f"channel_id={world.scid}", "htlc_minimum_msat=7")
    done = await shell.run("--yes", "send", "alice", f"{LIMITS}/set_htlc_limits", *pairs, "--pay")
    assert done["state"] == "done", done

    async def taken() -> bool:
        await shell.run("run", "--once")
        rows = (await shell.run("pay", "list"))["items"]
        states = {(row["kind"], row["state"]) for row in rows if row["command_id"] == done["command_id"]}
        return states == {("ecash", "taken"), ("earning", "paid")}

    await until(taken, "the ecash of the command")
    assert await free_sats(world, mint) == before - 50, "both are locked or gone"
    clock.wait(15 * 86_400)

    async def over() -> dict[str, str] | None:
        rows = (await alice.call("hive-client-payments", {"action": "history"}))["items"]
        states = {row["payment_id"]: row["state"] for row in rows if row["purpose"] == "action"}
        return states if sorted(states.values()) == ["owed", "settled"] else None

    states = await until(over, "what was taken is paid, what was left is owed", 120)
    assert states[left] == "owed"

    async def back() -> bool:
        return await free_sats(world, mint) == before - 25

    await until(back, "the ecash that nobody took")


async def free_sats(world: World, mint: str) -> int:
    """What the node's wallet has at a mint and has not locked."""
    shown = await world.alice.call("hive-client-wallet", {"action": "balance"})
    return int(next(row for row in shown["mints"] if row["mint"] == mint)["free_sats"])


async def unclaimed(world: World, agent: Agent, mint: str) -> str:
    """A command of an agent that is sent ecash and does nothing with it; the payment's id."""
    issue = {"agent_id": agent.npub, "tier": "standard", "allowed_schemas_json": ["*"]}
    issued = await world.alice.call("hive-mgmt-credential-issue", {**issue, "compensation_json": PAY})
    agent.credential_id = str(issued["credential_id"])
    key, now = public_key(Secret(b"\x21" * 32)), agent.now()
    body: JsonValue = {
        "context": agent.credential_id,
        "lock_pubkey": key,
        "binding": sign_text(agent.secret, lock_key_text(agent.credential_id, key)),
        "mints": [mint],
    }
    schema = "hive:escrow/ticket_request"
    asked = Draft(schema, str(uuid.uuid4()), "escrow", 1, now, now + 600, body)
    await agent.dm(sign(asked, agent.secret, agent.node_key))
    task: dict[str, JsonValue] = {"peer_id": world.bob.node_id}
    proof: dict[str, JsonValue] = {"method": "cashu"}

    async def ran() -> bool:
        told = await agent.rest(agent.signed("connect", task, "hive:peer/v1", payment_proof=proof))
        assert told["status"] == 0 or "announced no key" in told["error"]["message"], told
        return bool(told["status"] == 0)

    await until(ran, "the node to know the agent's key")
    notice = await agent.pushed("payment_notice")
    assert str(notice["token"]).startswith("cashuB") and notice["amount_sats"] == 25
    return str(notice["payment_id"])
