"""Both kinds of node: preparing, sending and discarding transactions, reserving outputs, own addresses."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio
from cln_contract import CheckedNode, SchemaBook
from hive_devnet.network import Network

pytestmark = pytest.mark.asyncio(loop_scope="module")
NONE = "00" * 32


class Purse:
    """A node with six coins of a little over 1,000,000 sat, each used by one test, and a foreign address."""

    def __init__(self, network: Network, node: CheckedNode, foreign: str, own: str, coins: list[str]) -> None:
        self.network, self.node, self.foreign, self.own = network, node, foreign, own
        self._coins = iter(coins)

    def coin(self) -> str:
        return next(self._coins)

    async def output(self, outpoint: str) -> dict[str, Any] | None:
        txid, _, vout = outpoint.partition(":")
        rows = (await self.node.call("listfunds"))["outputs"]
        return next((row for row in rows if (row["txid"], row["output"]) == (txid, int(vout))), None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def purse(network: Network, schemas: SchemaBook | None) -> Purse:
    alice, bob = [await network.add_node(name) for name in ("alice", "bob")]
    for number in range(6):
        await network.fund(alice, 1_000_000 + number)
    node = CheckedNode(alice, schemas)
    foreign = (await bob.call("newaddr", {"addresstype": "bech32"}))["bech32"]
    own = (await alice.call("newaddr", {"addresstype": "p2tr"}))["p2tr"]
    rows = (await node.call("listfunds"))["outputs"]
    return Purse(network, node, foreign, own, [f"{row['txid']}:{row['output']}" for row in rows])


async def test_listaddresses_tells_own_from_foreign(purse: Purse) -> None:
    assert (await purse.node.call("listaddresses", {"address": purse.foreign})) == {"addresses": []}
    (found,) = (await purse.node.call("listaddresses", {"address": purse.own}))["addresses"]
    assert found["p2tr"] == purse.own
    error = await purse.node.error("listaddresses", {"address": "x"})
    assert error.code == -1 and error.message.startswith("Could not parse destination address")


async def test_a_prepared_transaction_reserves_until_it_is_discarded(purse: Purse) -> None:
    coin = purse.coin()
    prepared = await purse.node.call(
        "txprepare", {"outputs": [{purse.foreign: 100_000}], "utxos": [coin], "feerate": "300perkw"}
    )
    row = await purse.output(coin)
    assert row is not None and row["reserved"] is True
    again = await purse.node.error("txprepare", {"outputs": [{purse.foreign: 1_000}], "utxos": [coin]})
    assert (again.code, again.message) == (-32602, f"UTXO {coin} already reserved")
    discarded = await purse.node.call("txdiscard", {"txid": prepared["txid"]})
    assert discarded == {"txid": prepared["txid"], "unsigned_tx": prepared["unsigned_tx"]}
    row = await purse.output(coin)
    assert row is not None and row["reserved"] is False
    for method in ("txdiscard", "txsend"):
        error = await purse.node.error(method, {"txid": prepared["txid"]})
        assert (error.code, error.message) == (-32602, f"not an unreleased txid '{prepared['txid']}'")


async def test_what_is_sent_has_the_prepared_txid_and_is_listed_before_a_block_has_it(purse: Purse) -> None:
    coin = purse.coin()
    prepared = await purse.node.call(
        "txprepare", {"outputs": [{purse.own: "all"}], "utxos": [coin], "feerate": "300perkw"}
    )
    sent = await purse.node.call("txsend", {"txid": prepared["txid"]})
    assert sent["txid"] == prepared["txid"]
    listed = (await purse.node.call("listtransactions"))["transactions"]
    (mine,) = [row for row in listed if row["hash"] == sent["txid"]]
    assert mine["blockheight"] == 0
    error = await purse.node.error("txdiscard", {"txid": prepared["txid"]})
    assert error.code == -32602
    new = await purse.output(f"{sent['txid']}:0")
    assert new is not None and new["status"] == "unconfirmed"
    # What is not confirmed yet can be spent by name: a child may pay for its parent.
    child = await purse.node.call(
        "txprepare",
        {"outputs": [{purse.own: "all"}], "utxos": [f"{sent['txid']}:0"], "feerate": "2000perkw"},
    )
    await purse.node.call("txsend", {"txid": child["txid"]})
    await purse.network.mine(1)
    assert await purse.output(coin) is None


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([{"x": 1_000}], "Could not parse destination address"),
        ([{"1BoatSLRHtKNngkdXEeobR76b53LETtpyT": 1_000}], "Destination address is not on network regtest"),
        ({}, 'Expected an array of outputs in the format \'[{"txid":0}, ...]\', got "{}"'),
        (["x"], "The output format must be {destination: amount}"),
    ],
)
async def test_outputs_that_are_none(purse: Purse, outputs: object, message: str) -> None:
    error = await purse.node.error("txprepare", {"outputs": outputs})
    assert (error.code, error.message) == (-32602, message)


async def test_inputs_and_amounts_that_cannot_be(purse: Purse) -> None:
    coin = purse.coin()

    async def refused(outputs: list[Any], **more: object) -> tuple[int, str]:
        error = await purse.node.error("txprepare", {"outputs": outputs, **more})
        return error.code, error.message

    both = [{purse.foreign: "all"}, {purse.own: "all"}]
    assert await refused(both, utxos=[coin]) == (-32602, "Cannot use 'all' in two outputs")
    worth = [{purse.foreign: "zz"}]
    assert await refused(worth, utxos=[coin]) == (-32602, "'zz' is a invalid satoshi amount")
    pay = [{purse.foreign: 1_000}]
    assert await refused(pay, utxos=[f"{NONE}:0"]) == (-32602, f"Unknown UTXO {NONE}:0")
    code, text = await refused(pay, utxos=["zz"])
    assert (code, text) == (-32602, 'Could not decode outpoint ""zz"", expected format: txid:output')
    code, text = await refused(pay, utxos=[])
    assert code == -32602 and text.startswith("Please specify an array of 'txid:output_index'")
    code, text = await refused([{purse.foreign: 90_000_000}])
    assert code == 301 and text.startswith("Could not afford 90000000sat using all ")
    code, text = await refused(pay, minconf=500)
    assert code == 301 and text.startswith("Could not afford 1000sat using all 0 available UTXOs")


async def test_reservations_add_up_and_are_taken_back(purse: Purse) -> None:
    coin = purse.coin()
    height = (await purse.node.call("getinfo"))["blockheight"]
    asked = {"satoshi": "0sat", "feerate": "253perkw", "startweight": 0, "utxos": [coin]}
    made = await purse.node.call("utxopsbt", {**asked, "reserve": 144})
    (held,) = made["reservations"]
    assert (held["was_reserved"], held["reserved_to_block"]) == (False, height + 144)
    error = await purse.node.error("utxopsbt", {**asked, "reserve": 10})
    assert (error.code, error.message) == (-32602, f"UTXO {coin} already reserved")
    more = await purse.node.call("utxopsbt", {**asked, "reserve": 10, "reservedok": True})
    assert more["reservations"][0]["reserved_to_block"] == height + 154
    psbt = made["psbt"]
    less = await purse.node.call("unreserveinputs", {"psbt": psbt, "reserve": 100})
    assert (less["reservations"][0]["reserved"], less["reservations"][0]["reserved_to_block"]) == (
        True,
        height + 54,
    )
    taken = await purse.node.error("reserveinputs", {"psbt": psbt})
    assert (taken.code, taken.message) == (-32602, f"{coin} already reserved")
    (free,) = (await purse.node.call("unreserveinputs", {"psbt": psbt, "reserve": 4_320}))["reservations"]
    assert free["reserved"] is False and "reserved_to_block" not in free
    assert (await purse.node.call("unreserveinputs", {"psbt": psbt}))["reservations"] == []
    (back,) = (await purse.node.call("reserveinputs", {"psbt": psbt}))["reservations"]
    assert back["reserved_to_block"] == height + 72
    await purse.node.call("unreserveinputs", {"psbt": psbt})
    for method in ("reserveinputs", "unreserveinputs"):
        error = await purse.node.error(method, {"psbt": "zz"})
        assert (error.code, error.message) == (-32602, "psbt: Expected a PSBT: invalid token '\"zz\"'")
