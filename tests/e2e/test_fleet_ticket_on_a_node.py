"""cl-hive pays an agent by a fleet ticket out of the wallet of cl-hive-comms, which goes in the middle
(docs/protocol/03-escrow-and-payments.md §1, §14.22)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World, until

HIVE = Path(__file__).parents[2] / "cl-hive" / "cl-hive.py"
COMMS = HIVE.parents[1] / "cl-hive-comms" / "cl-hive-comms.py"
SATS = 50
TASK = {"schema_id": "acme:review/v1", "action": "review", "params_json": {"pull": 7}}


@pytest_asyncio.fixture
async def paying(mint_url: str) -> AsyncIterator[World]:
    """A node with ecash and an advisor it hired that takes it; cl-hive is not there yet."""
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    options = {"hive-comms-escrow-mint": mint_url, "hive-comms-escrow-auto-replenish": "false"}
    world = await World.start(directory, options=options)
    try:
        npub = str((await world.advisor.run("identity", "create"))["npub"])
        issue = {"agent_id": npub, "tier": "standard", "allowed_schemas_json": ["*"]}
        await world.alice.call("hive-mgmt-credential-issue", issue)
        await world.accept_offer("alice")
        await world.advisor.run("wallet", "mint", "add", mint_url)
        for action, amount in (("fund", {"amount_sats": 256}), ("probe", {})):
            call = {"action": action, "mint": mint_url, **amount}
            await world.alice.call("hive-client-wallet", call)
        world.advisor.env["TICKET_NPUB"] = npub
        yield world
    finally:
        await world.close()
        shutil.rmtree(directory, ignore_errors=True)


async def code_of(world: World, method: str, **params: Any) -> int:
    with pytest.raises(DevnetRpcError) as refused:
        await world.alice.call(method, params)
    return refused.value.code


async def comms_again(world: World, hive: dict[str, str]) -> None:
    """comms is up again: alone, on real CLN with its node, which dies at a second start of a plugin."""
    if world.network.kind == "embedded":
        await world.alice.call("plugin", ["start", str(COMMS)])
    else:
        await world.alice.kill()
        await world.alice.start()
        await world.alice.call("plugin", hive)


async def reached(world: World, ticket_id: str, state: str) -> None:
    """The advisor sends and takes its mail until the item is there."""

    async def there() -> bool:
        await world.advisor.run("run", "--once")
        shown = await world.alice.call("hive-escrow-get", {"ticket_id": ticket_id})
        return bool(shown["items"][0]["state"] == state)

    await until(there, f"the item is {state}", 150)


@pytest.mark.timeout(500)
async def test_acceptance_03_22_a_fleet_ticket_through_cl_hive_outlives_comms(
    paying: World, mint_url: str
) -> None:
    alice = paying.alice
    assert await code_of(paying, "hive-escrow-list") == -32601, "no hive-escrow-* without cl-hive"
    start = {"subcommand": "start", "plugin": str(HIVE), "hive-settlement-mints": mint_url}
    await alice.call("plugin", start)

    async def greeted() -> bool:
        return bool((await alice.call("hive-status", {}))["supported"])

    await until(greeted, "cl-hive knows comms")
    call = {
        **TASK,
        **{"agent_id": paying.advisor.env["TICKET_NPUB"], "danger_score": 3, "amount_sats": SATS},
        "idempotency_key": "one",
    }

    async def made() -> str | None:
        await paying.advisor.run("run", "--once")
        try:
            return str((await alice.call("hive-escrow-create", call))["ticket_id"])
        except DevnetRpcError as error:
            assert "key" in str(error), error
            return None

    id_ = str(await until(made, "a ticket"))
    await reached(paying, id_, "accepted")
    await alice.kill_plugin(COMMS.name)

    async def gone() -> bool:
        return not (await alice.call("hive-status", {}))["supported"]

    await until(gone, "cl-hive sees that comms is gone")
    judged = {"ticket_id": id_, "success": True, "confirm": True}
    assert await code_of(paying, "hive-escrow-complete", **judged) == 4010
    assert await code_of(paying, "hive-escrow-create", **{**call, "idempotency_key": "two"}) == 4010
    assert (await alice.call("hive-escrow-get", {"ticket_id": id_}))["status"] == "active"
    await comms_again(paying, start)
    await until(greeted, "cl-hive knows comms again")
    assert (await alice.call("hive-escrow-complete", judged))["state"] == "released"
    await reached(paying, id_, "redeemed")
    balance = await paying.advisor.run("wallet", "balance")
    assert {row["mint"]: row["free_sats"] for row in balance["mints"]}[mint_url] == SATS, balance
