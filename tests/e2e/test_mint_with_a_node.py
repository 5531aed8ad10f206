"""A mint that is really paid and really pays: ecash bought and sold over Lightning between two nodes
(docs/protocol/03-escrow-and-payments.md §5)."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from comms_world import PLUGIN, call, refused, relay_options, until
from hive_advisor.domain.earning import shows
from hive_advisor.domain.outgoing import Outgoing, OutState
from hive_advisor.payments.ecash import EcashMoney
from hive_devnet import clnrest
from hive_devnet.mint import MintProcess, paid_through
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_devnet.network import open_network
from hive_devnet.node import NodeHandle
from hive_devnet.ports import free_port
from hive_devnet.relay import RelayProcess
from kit_ecash import KitEcash

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHANNEL_SAT, MINTS_SAT = 1_000_000, 300_000


class Place:
    """The operator's node, and the mint's, with a channel between them."""

    def __init__(self, node: NodeHandle, bank: NodeHandle, mint_url: str) -> None:
        self.node, self.bank, self.mint_url = node, bank, mint_url

    async def wallet(self, action: str, **params: object) -> dict[str, Any]:
        return await call(self.node, "hive-client-wallet", action=action, **params)

    async def ours(self) -> int:
        """Sats of the channel that are the operator's."""
        (channel,) = (await self.node.call("listpeerchannels"))["channels"]
        return int(channel["to_us_msat"]) // 1_000

    async def unfit(self) -> bool:
        """Whether the mint was found to be."""
        return [row["status"] for row in (await self.wallet("mints"))["items"]] == ["disabled"]

    async def sats(self) -> int:
        return int((await self.wallet("balance"))["total_sats"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place() -> AsyncIterator[Place]:
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    relay, port = await RelayProcess.start(), free_port()
    network = await open_network(directory / "net")
    mint = None
    try:
        rest = {"clnrest-port": port, "clnrest-protocol": "http"}
        bank = await network.add_node("bank", rest, [Path(clnrest.__file__)])
        rune = str((await bank.call("createrune"))["rune"])
        way = paid_through(f"http://127.0.0.1:{port}", rune)
        mint = await MintProcess.start(directory / "mint", environment=way)
        async with MintFaultFront.before(mint.url) as front:
            # Its clock shows that it takes no locks: no probe spends sats while these tests count them.
            front.set(MintFault(MintFaultKind.CLOCK_AHEAD, path="/v1/info", times=0))
            named = {"hive-comms-escrow-mint": front.url, "hive-comms-escrow-auto-replenish": "false"}
            node = await network.add_node("alice", {**relay_options(relay), **named}, [PLUGIN])
            await network.fund(node, 5_000_000)
            await network.open_channel(node, bank, CHANNEL_SAT, MINTS_SAT * 1_000)
            place = Place(node, bank, front.url)
            await until(place.unfit, "the first check of the mint")
            front.clear()
            yield place
        assert "Traceback" not in node.log_text()
    finally:
        if mint is not None:
            await mint.stop()
        await network.close()
        await relay.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def test_ecash_is_bought_and_sold_over_lightning(place: Place) -> None:
    start = await place.ours()
    bought = await place.wallet("fund", amount_sats=1_000)
    assert (bought["state"], await place.sats(), await place.ours()) == ("done", 1_000, start - 1_000)
    (payment,) = (await call(place.node, "hive-client-payments", action="history"))["items"]
    assert (payment["purpose"], payment["state"], payment["amount_sats"]) == ("wallet:fund", "settled", 1_000)
    sold = await place.wallet("withdraw", amount_sats=400)
    assert (sold["state"], await place.ours()) == ("done", start - 600)
    assert await place.sats() == 600 - sold["fee_sats"]
    # The node has received what the mint says that it paid.
    alerts = (await call(place.node, "hive-client-alerts"))["items"]
    assert not [alert for alert in alerts if "has not received" in alert["text"]]


async def test_the_kit_pays_a_fee_by_ecash(place: Place, tmp_path: Path) -> None:
    await place.wallet("fund", amount_sats=300)
    token = (await place.wallet("send", amount_sats=200))["token"]
    kit = KitEcash(tmp_path, place.mint_url)
    kit.now = int(time.time())
    await kit.ecash.ready()
    await kit.service.receive(token, 30)
    had, sold, money = await kit.sats(), await place.ours(), EcashMoney(kit.ecash, lambda: kit.now)
    made = await place.node.call(
        "invoice", {"amount_msat": 50_000, "label": "a fee", "description": "access"}
    )
    payment = Outgoing(
        payment_hash=made["payment_hash"],
        client_id="alice",
        command_id="c1",
        method="bolt11",
        way=money.name,
        invoice=made["bolt11"],
        amount_sats=50,
        max_fee_msat=money.most_fee_msat(50),
        invoice_expires=made["expires_at"],
        state=OutState.SENDING,
        created=kit.now,
        updated=kit.now,
    )
    result = await money.pay(payment)
    assert shows(result.preimage, payment.payment_hash), result
    assert await money.pay(payment) == await money.settled(payment) == result
    assert await place.ours() == sold + 50 and 50 <= had - await kit.sats() <= payment.reserved_sats
    await kit.close()


async def test_what_cannot_be_paid_ends_at_once_and_costs_nothing(place: Place) -> None:
    before = await place.sats(), await place.ours()
    # No part of the payment fits through the node's only channel.
    await place.node.call("setchannel", {"id": "all", "htlcmax": "1000msat"})
    error = await refused(place.node, "hive-client-wallet", action="fund", amount_sats=20_000, timeout=90)
    assert "nothing was paid" in str(error), (error, error.data)
    assert (await place.sats(), await place.ours()) == before
    # Operations of one second have no order of their own.
    found = [op for op in (await place.wallet("ops"))["items"] if op["amount_sats"] == 20_000]
    assert [(op["kind"], op["state"]) for op in found] == [("fund", "failed")]
