"""Two nodes without any other plugin: one pays the other by tickets over a relay; earned, taken back, and
killed between the preimage and the swap (docs/protocol/03-escrow-and-payments.md §6.6, §14.2, §14.3)."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import pytest_asyncio
from comms_world import PLUGIN, call, killed, open_network, refused, relay_options, until
from hive_devnet.clock import PluginClock
from hive_devnet.mint import MintProcess
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_devnet.node import DevnetRpcError, NodeHandle
from hive_devnet.relay import RelayProcess

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]
ESCROW = "hive-client-escrow"
CONTRACT = "review-7"
TASK = {"danger": 5, "schema": "ci:review/v1", "task_action": "review", "params": {"pull": 7}}
_LATER_S = 86_400 + 3_600 + 300


class Pair:
    """The node that pays, the one that is paid, and the front of its mint."""

    def __init__(
        self, kind: str, payer: NodeHandle, payee: NodeHandle, front: MintFaultFront, clock: PluginClock
    ) -> None:
        self.kind, self.payer, self.payee, self.front, self.clock = kind, payer, payee, front, clock
        self.npub = ""

    async def create(self, key: str, **params: object) -> str:
        given = {**TASK, "advisor": self.npub, "amount_sats": 50, **params}
        made = await call(self.payer, ESCROW, action="create", idempotency_key=key, **given)
        return str(made["ticket_id"])

    async def reached(self, node: NodeHandle, ticket_id: str, state: str) -> dict[str, Any]:
        async def there() -> dict[str, Any] | None:
            (item,) = (await call(node, ESCROW, action="get", ticket_id=ticket_id))["items"]
            return item if item["state"] == state else None

        found: dict[str, Any] = await until(there, f"an item that is {state}", 120)
        return found

    async def free(self, node: NodeHandle) -> int:
        return int((await call(node, "hive-client-wallet", action="balance"))["total_sats"])

    async def earned(self) -> list[int]:
        """What each redemption of the payee brought, sat; its wallet may spend some on a probe by itself."""
        ops = (await call(self.payee, "hive-client-wallet", action="ops"))["items"]
        redeemed = [op for op in ops if op["kind"] == "redeem"]
        assert {op["state"] for op in redeemed} <= {"done"}, redeemed
        return [op["amount_sats"] for op in redeemed]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    clock = PluginClock(directory / "clock")
    mint = await MintProcess.start(directory / "mint", environment=clock.environment)
    relay = await RelayProcess.start()
    try:
        with mock.patch.dict(os.environ, clock.environment):
            async with MintFaultFront.before(mint.url) as front:
                network = await open_network(directory / "n")
                try:
                    options = {
                        **relay_options(relay),
                        "hive-comms-escrow-mint": front.url,
                        "hive-comms-escrow-auto-replenish": "false",
                    }
                    payer = await network.add_node("alice", options, [PLUGIN])
                    payee = await network.add_node("bob", options, [PLUGIN])
                    for node in (payer, payee):
                        await until(lambda node=node: call(node, "hive-client-status"), "the plugin")
                    # What pays it is taken up to 1,000 sat from a mint that it has not probed.
                    await call(payer, "hive-client-wallet", action="fund", amount_sats=256)
                    await call(payer, "hive-client-wallet", action="probe")
                    yield Pair(network.kind, payer, payee, front, clock)
                    for node in (payer, payee):
                        assert "Traceback" not in node.log_text()
                finally:
                    await network.close()
    finally:
        await relay.stop()
        await mint.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def test_acceptance_03_02_a_node_is_hired_and_paid_by_another(pair: Pair) -> None:
    ours = (await call(pair.payee, "hive-client-identity"))["npub"]
    theirs = (await call(pair.payer, "hive-client-identity"))["npub"]
    pair.npub = ours
    await call(pair.payer, "hive-client-authorize", advisor=ours, access="monitoring")
    for params, code in (
        ({}, -32602),
        ({"payer": "nobody"}, -32602),
        ({"payer": ours}, -32602),
        ({"payer": theirs, "contract_id": "two words"}, -32602),
        ({"payer": theirs, "days": 0}, -32602),
        ({"payer": theirs, "ticket_id": "0" * 32}, -32602),
    ):
        error = await refused(pair.payee, ESCROW, action="announce", **params)
        assert error.code == code, (params, error)
    told = await call(pair.payee, ESCROW, action="announce", payer=theirs, contract_id=CONTRACT)
    assert told["payer"] == theirs and told["mints"] == [pair.front.url]

    async def made() -> str | None:
        try:
            return await pair.create("first")
        except DevnetRpcError as error:
            assert "which key its tickets are locked to" in str(error), error
            return None

    ticket_id = str(await until(made, "the key came over the relay"))
    await pair.reached(pair.payer, ticket_id, "accepted")
    (row,) = (await call(pair.payee, ESCROW, action="list", role="payee"))["items"]
    assert (row["ticket_id"], row["payer"], row["state"]) == (ticket_id, theirs, "active")
    for action, params, code, reason in (
        ("redeem", {}, 4014, "not_released"),
        ("complete", {"item": 0, "success": True, "confirm": True}, 4003, None),
        ("release", {"item": 0}, 4003, None),
        ("refund", {}, 4003, None),
    ):
        error = await refused(pair.payee, ESCROW, action=action, ticket_id=ticket_id, **params)
        assert error.code == code and (reason is None or error.data["reason"] == reason), (action, error)
    await call(pair.payer, ESCROW, action="complete", ticket_id=ticket_id, item=0, success=True, confirm=True)
    got = await pair.reached(pair.payee, ticket_id, "redeemed")
    assert got["receipt_hash"].startswith("sha256:") and "preimage" not in got
    await pair.reached(pair.payer, ticket_id, "redeemed")
    assert await pair.earned() == [50]
    (receipt,) = (await call(pair.payee, ESCROW, action="receipt", ticket_id=ticket_id))["items"]
    assert receipt["receipt_id"] == got["receipt_id"] and receipt["state"] == "redeemed"


async def test_a_payee_killed_between_the_preimage_and_the_swap_has_its_money_once(pair: Pair) -> None:
    # A minute's 20 money calls may be used up by the probe and a ticket or two.
    pair.clock.wait(61)
    paid = await pair.free(pair.payer)
    ticket_id = await pair.create("killed")
    await pair.reached(pair.payer, ticket_id, "accepted")
    spent = paid - await pair.free(pair.payer)
    pair.front.set(MintFault(MintFaultKind.HOLD_AFTER, path="/v1/swap"))
    await call(pair.payer, ESCROW, action="complete", ticket_id=ticket_id, item=0, success=True, confirm=True)
    await pair.front.until_held()
    await killed(pair.kind, pair.payee, pair.front.clear)
    await pair.reached(pair.payee, ticket_id, "redeemed")
    await pair.reached(pair.payer, ticket_id, "redeemed")
    assert await pair.earned() == [50, 50] and spent >= 50


async def test_acceptance_03_03_what_the_payer_does_not_release_goes_back_and_is_disputed(pair: Pair) -> None:
    pair.clock.wait(61)
    paid = await pair.free(pair.payer)
    ticket_id = await pair.create("failed")
    await pair.reached(pair.payer, ticket_id, "accepted")
    await call(
        pair.payer, ESCROW, action="complete", ticket_id=ticket_id, item=0, success=False, confirm=True
    )
    await pair.reached(pair.payee, ticket_id, "failed")
    pair.clock.wait(_LATER_S)
    await pair.reached(pair.payer, ticket_id, "refunded")
    # The payee asks the mint at the locktime, and again within a quarter of an hour.
    pair.clock.wait(1_000)
    lost = await pair.reached(pair.payee, ticket_id, "lost")
    assert lost["note"] == "task_failed" and await pair.earned() == [50, 50]
    assert paid - 2 <= await pair.free(pair.payer) <= paid
    await call(pair.payee, ESCROW, action="dispute", ticket_id=ticket_id, item=0, claim="it was done")
    await pair.reached(pair.payee, ticket_id, "disputed")
    await pair.reached(pair.payer, ticket_id, "disputed")
    await call(
        pair.payer, ESCROW, action="dispute", ticket_id=ticket_id, item=0, outcome="reject", reason="not so"
    )
    await pair.reached(pair.payee, ticket_id, "lost")
    (dispute,) = (await call(pair.payee, ESCROW, action="get", ticket_id=ticket_id))["disputes"]
    assert (dispute["opened_by"], dispute["state"]) == ("payee", "rejected")
