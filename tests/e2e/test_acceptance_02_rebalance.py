"""Sheet 02 §15, checks 12 and 18: a circular rebalance on nodes that route, a swap by another plugin's
service, and their ends after a kill -9."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from actions_rebalance import SERVICE
from agent import Agent
from hive_devnet.world import World, until
from hive_shared.canonical import JsonValue
from hive_shared.registry import REBALANCE
from killed_command import killed_at, receipt_of, trusted_agent

pytestmark = pytest.mark.asyncio(loop_scope="module")
ACTION = "circular_rebalance"
CAP_PPM = 100
BETWEEN_SAT = 300_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ring() -> AsyncIterator[tuple[World, str]]:
    """alice - bob - carol - alice, and the channel by which carol can pay alice."""
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    os.environ["HIVE_SWAP_FILE"] = str(directory / "swaps.jsonl")
    world = await World.start(directory, options={"hive-comms-swap-out-rpc": "acme-swap"})
    carol = await world.network.add_node("carol")
    for node in (world.bob, carol):
        await world.network.fund(node, 2_000_000)
    await world.network.open_channel(world.bob, carol, BETWEEN_SAT)
    home = await world.network.open_channel(carol, world.alice, 600_000)

    async def known() -> bool:
        rows = (await world.alice.call("listchannels"))["channels"]
        return len([row for row in rows if row["active"]]) == 6

    await until(known, "alice to know all channels")
    yield world, home
    await world.close()
    shutil.rmtree(directory, ignore_errors=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trusted(ring: tuple[World, str]) -> AsyncIterator[Agent]:
    async with trusted_agent(ring[0], {"rebalance_*": "auto_execute"}) as agent:
        yield agent


async def balances(world: World, home: str) -> dict[str, int]:
    rows = (await world.alice.call("listpeerchannels"))["channels"]
    return {row["short_channel_id"]: row["to_us_msat"] for row in rows}


def around(world: World, home: str, **changes: JsonValue) -> dict[str, JsonValue]:
    asked: dict[str, JsonValue] = {"from_channel": world.scid, "to_channel": home, "amount_sats": 20_000}
    return {**asked, "max_fee_ppm": CAP_PPM, **changes}


async def left(world: World) -> tuple[list[Any], list[Any]]:
    """Layers of ours, and invoices that are not paid."""
    layers = (await world.alice.call("askrene-listlayers"))["layers"]
    invoices = (await world.alice.call("listinvoices"))["invoices"]
    ours = [each["layer"] for each in layers if each["layer"].startswith("hive:")]
    return ours, [each["label"] for each in invoices if each["status"] != "paid"]


async def moved(world: World, home: str, before: dict[str, int], amount_msat: int, fee_msat: int) -> None:
    """Blocks until the balances of both channels say so."""
    want = {world.scid: before[world.scid] - amount_msat - fee_msat, home: before[home] + amount_msat}

    async def there() -> bool:
        return await balances(world, home) == want

    await until(there, "the balances to move")


async def test_acceptance_02_18_a_circular_rebalance_moves_balance_within_its_cap(
    ring: tuple[World, str], trusted: Agent
) -> None:
    world, home = ring
    before = await balances(world, home)
    answer = await trusted.rest(trusted.signed(ACTION, around(world, home), REBALANCE))
    assert answer["status"] == 0, answer
    result = answer["result"]
    # Bob and carol both take their fee.
    assert 400 <= result["fee_msat"] <= 20_000_000 * CAP_PPM // 1_000_000
    assert result["fee_ppm"] == -(-result["fee_msat"] * 1_000_000 // 20_000_000)
    await moved(world, home, before, 20_000_000, result["fee_msat"])
    assert await left(world) == ([], [])
    (row,) = (await world.alice.call("listsendpays", {"payment_hash": result["payment_hash"]}))["payments"]
    assert (row["status"], row["label"]) == ("complete", f"hive:{answer['command_id']}")
    assert row["payment_preimage"] not in str(answer)

    async def booked() -> Any:
        events = (await world.alice.call("bkpr-listincome"))["income_events"]
        return [event["debit_msat"] for event in events if event["tag"] == "rebalance_fee"]

    assert await until(booked, "the node's books to tell the fee") == [result["fee_msat"]]


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"max_fee_ppm": 1}, 206, "every route costs more than max_fee_ppm allows"),
        ({"amount_sats": BETWEEN_SAT + 50_000}, 205, "no route from from_channel's peer"),
    ],
)
async def test_acceptance_02_18_without_a_route_it_is_an_error_and_invoice_and_layer_are_gone(
    ring: tuple[World, str], trusted: Agent, changes: dict[str, JsonValue], code: int, said: str
) -> None:
    world, home = ring
    before = await balances(world, home)
    answer = await trusted.rest(trusted.signed(ACTION, around(world, home, **changes), REBALANCE))
    assert answer["error"]["slug"] == "node_error" and said in answer["error"]["message"], answer
    assert answer["error"]["data"]["code"] == code
    assert await left(world) == ([], []) and await balances(world, home) == before


@pytest.mark.parametrize(("point", "status"), [("rebalance_noted", "error"), ("after_cln", "success")])
async def test_acceptance_02_12_a_rebalance_that_was_killed_is_found_and_not_repeated(
    ring: tuple[World, str], trusted: Agent, point: str, status: str
) -> None:
    world, home = ring

    async def connected() -> bool:
        rows = (await world.alice.call("listpeerchannels"))["channels"]
        return all(row["peer_connected"] for row in rows)

    await until(connected, "alice's peers")
    before = await balances(world, home)
    command = await killed_at(world, trusted, point, (REBALANCE, ACTION), around(world, home))
    receipt = await receipt_of(world, command)
    assert receipt["status"] == status, receipt
    sent = (await world.alice.call("listsendpays"))["payments"]
    mine = [row for row in sent if row.get("label") == f"hive:{command}"]
    if status == "success":
        assert [row["status"] for row in mine] == ["complete"]
        fee = mine[0]["amount_sent_msat"] - mine[0]["amount_msat"]
        assert receipt["result"]["fee_msat"] == fee
        await moved(world, home, before, 20_000_000, fee)
    else:
        assert mine == [] and await balances(world, home) == before
    assert await left(world) == ([], [])


async def test_acceptance_02_12_a_swap_that_was_killed_is_found_where_its_service_is_back(
    ring: tuple[World, str], trusted: Agent
) -> None:
    world, _ = ring

    async def missing() -> str:
        rows = (await world.alice.call("hive-client-capabilities"))["unsupported_actions"]
        found = [row["reason"] for row in rows if row["action"] == "swap_out"]
        return str(found[0]) if found else ""

    async def there() -> bool:
        return not await missing()

    why = "the node has no method acme-swap, which hive-comms-swap-out-rpc names"
    assert await missing() == why
    asked: dict[str, JsonValue] = {"amount_sats": 50_000, "max_fee_sats": 260}
    refused = await trusted.rest(trusted.signed("swap_out", asked, REBALANCE))
    assert refused["error"]["slug"] == "unsupported_action" and why in refused["error"]["message"], refused
    await world.alice.call("plugin", {"subcommand": "start", "plugin": str(SERVICE)})
    await until(there, "comms to know the service")
    command = await killed_at(world, trusted, "after_cln", (REBALANCE, "swap_out"), asked)
    if await missing():
        # The node was started anew, and the service with it is gone.
        await world.alice.call("plugin", {"subcommand": "start", "plugin": str(SERVICE)})
    receipt = await receipt_of(world, command)
    assert (receipt["status"], receipt["result"]["fee_sats"]) == ("success", 250), receipt
    (swap,) = map(json.loads, Path(os.environ["HIVE_SWAP_FILE"]).read_text().splitlines())
    assert (swap["label"], swap["amount_sats"]) == (f"hive:{command}", 50_000)
    assert swap["address"] == receipt["result"]["address"]
