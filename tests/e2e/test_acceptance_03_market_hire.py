"""An advisor found on the market, hired by contract and paid by a ticket of it: as both type it, at a
real mint (docs/protocol/04-marketplace-and-nostr.md §8, §9, §10; 03-escrow-and-payments.md §14.22)."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World, until

NAME = "Hex Fleet Advisor"
ASKED_SATS, AGREED_SATS = 32, 40
METHODS = ["cashu", "bolt11"]


@pytest_asyncio.fixture
async def world(mint_url: str) -> AsyncIterator[World]:
    """A node with ecash, and an advisor with an advert that nobody has hired."""
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    options = {"hive-comms-escrow-mint": mint_url, "hive-comms-escrow-auto-replenish": "false"}
    world = await World.start(directory, options=options)
    shell = world.advisor
    try:
        await shell.run("identity", "create")
        config = Path(shell.env["XDG_CONFIG_HOME"]) / "hive-advisor" / "default" / "config.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text("[market]\npow_bits = 4\n")
        await shell.run("wallet", "mint", "add", mint_url)
        for action, amount in (("fund", {"amount_sats": 256}), ("probe", {})):
            call = {"action": action, "mint": mint_url, **amount}
            await world.alice.call("hive-client-wallet", call)
        async with agent(world):
            yield world
    finally:
        await world.close()
        shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def agent(world: World) -> AsyncIterator[None]:
    """The advisor's own process, which takes and sends its mail; what is typed meanwhile runs in it."""
    runtime = world.directory / "rt"
    runtime.mkdir(mode=0o700)
    world.advisor.env["XDG_RUNTIME_DIR"] = str(runtime)
    words = (sys.executable, "-m", "hive_advisor", "run", "--interval", "1")
    silent = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *words, env=world.advisor.env, stdin=silent, stdout=silent, stderr=silent
    )
    try:
        await until(listening(runtime), "the agent")
        yield
    finally:
        process.terminate()
        await process.wait()


def listening(runtime: Path) -> Callable[[], Awaitable[bool]]:
    async def there() -> bool:
        return any(path.is_socket() for path in runtime.rglob("*"))

    return there


async def advertise(world: World, mint_url: str) -> None:
    """Profile and offer go to the relay."""
    price = {
        "type": "per_action",
        "baseFeeRange": {"min": ASKED_SATS, "max": 100, "currency": "sats"},
        "paymentMethods": METHODS,
        "escrowMethod": "cashu",
    }
    profile: dict[str, Any] = {
        "displayName": NAME,
        "capabilities": {"primary": ["fee-optimization"]},
        "supportedSchemas": ["hive:fee-policy/v1", "hive:monitor/v1"],
        "pricing": {"models": [price], "acceptedPayment": METHODS, "acceptableMints": [mint_url]},
        "availability": {"maxNodes": 5, "currentLoad": 0, "acceptingNewClients": True},
    }
    offer = {
        "capabilities": ["fee-optimization"],
        "pricing_model": "per_action",
        "price_sats": ASKED_SATS,
        "methods": METHODS,
    }
    for name, document, command in (
        ("profile.json", profile, ("profile", "edit")),
        ("offer.json", offer, ("offer", "create")),
    ):
        file = world.directory / name
        file.write_text(json.dumps(document))
        await world.advisor.run(*command, str(file))
        if command[0] == "profile":
            await world.advisor.run("profile", "publish")


async def contract(world: World, contract_id: str, status: str) -> dict[str, Any]:
    """The contract on the node, once it is there."""

    async def there() -> Any:
        call = {"contract_id": contract_id, "verbose": True}
        shown = await world.alice.call("hive-marketplace-contract", call)
        return shown if shown["status"] == status else None

    found: dict[str, Any] = await until(there, f"the contract is {status}", 120)
    return found


async def hired(world: World, mint_url: str) -> tuple[str, str]:
    """From the advert to the credential: the contract and what the kit calls its client."""
    await advertise(world, mint_url)

    async def discovered() -> dict[str, Any] | None:
        criteria = {"capabilities": ["fee-optimization"]}
        rows = (await world.alice.call("hive-marketplace-discover", {"criteria": criteria}))["advisors"]
        return next((row for row in rows if row["name"] == NAME), None)

    found = await until(discovered, "the advert")
    proposed = await world.alice.call("hive-marketplace-propose", {"advisor": str(found["index"])})
    assert proposed["terms"]["compensation"]["perActionSats"] == ASKED_SATS
    contract_id = str(proposed["contract_id"])

    async def heard() -> bool:
        return bool((await world.advisor.run("inbox", "list"))["items"])

    await until(heard, "the proposal")
    price = f"compensation.perActionSats={AGREED_SATS}"
    await world.advisor.run("thread", "counter", contract_id, price, "--why", "more work", "--sign")
    countered = await contract(world, contract_id, "countered")
    assert countered["your_turn"] is True
    assert countered["changed"] == {"compensation.perActionSats": {"from": ASKED_SATS, "to": AGREED_SATS}}
    accept = {"contract_id": contract_id, "terms_hash": countered["terms_hash"]}
    await world.alice.call("hive-marketplace-accept", accept)
    active = await contract(world, contract_id, "active")
    (row,) = (await world.alice.call("hive-mgmt-credential-list"))["items"]
    assert row["credential_id"] == active["credential_id"]

    async def taken() -> str | None:
        # What was signed is taken without asking again.
        rows = (await world.advisor.run("client", "list"))["items"]
        return next((str(row["alias"]) for row in rows if row["state"] == "active"), None)

    return contract_id, await until(taken, "the credential")


@pytest.mark.timeout(500)
async def test_acceptance_03_22_comms_alone_full_marketplace_hire_paid_by_ticket(
    world: World, mint_url: str
) -> None:
    alice, shell = world.alice, world.advisor
    contract_id, client = await hired(world, mint_url)
    exported = world.directory / "contract.json"
    await shell.run("contract", "export", contract_id, str(exported))
    verified = await shell.run("contract", "verify", str(exported))
    assert verified["contract_id"] == contract_id
    task = {"channel_id": world.scid, "fee_ppm": 480}
    call = {
        **{"action": "create", "advisor": NAME, "type": "single", "danger": 5, "contract_id": contract_id},
        **{"schema": "hive:fee-policy/v1", "task_action": "set_single", "params": task, "mint": mint_url},
        "idempotency_key": "hire",
    }

    async def made() -> str | None:
        try:
            return str((await alice.call("hive-client-escrow", call))["ticket_id"])
        except DevnetRpcError as error:
            assert "key" in str(error), error
            return None

    ticket_id = await until(made, "a ticket")
    ticket = await alice.call("hive-client-escrow", {"action": "get", "ticket_id": ticket_id})
    assert ticket["terms"]["contract_id"] == contract_id
    assert ticket["items"][0]["amount_sats"] == AGREED_SATS

    async def is_at(state: str) -> None:
        async def there() -> bool:
            shown = await alice.call("hive-client-escrow", {"action": "get", "ticket_id": ticket_id})
            return bool(shown["items"][0]["state"] == state)

        await until(there, f"the ticket is {state}", 120)

    await is_at("accepted")
    pairs = [f"{name}={value}" for name, value in task.items()]
    done = await shell.run("--yes", "send", client, "hive:fee-policy/v1/set_single", *pairs)
    assert done["state"] == "done", done
    assert (await world.channel_fees())[1] == 480
    await shell.run("ticket", "redeem")
    await is_at("redeemed")
    shown = await shell.run("ticket", "show", ticket_id)
    assert [part["state"] for part in shown["parts"]] == ["redeemed"], shown
    assert shown["parts"][0]["command_id"] == done["command_id"]
    assert (await alice.call("hive-marketplace-status"))["contract_counts"] == {"active": 1}
    end = {"contract_id": contract_id, "emergency": True, "confirm": True, "reason": "done"}
    assert (await alice.call("hive-marketplace-terminate", end))["status"] == "terminated"
    (row,) = (await alice.call("hive-mgmt-credential-list"))["items"]
    assert row["status"] == "revoked"
