"""Both kinds of node: splices step by step, what is refused, and giving one up."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio
from cln_contract import CheckedNode, SchemaBook
from hive_devnet.network import Network
from hive_devnet.node import NodeHandle
from hive_devnet.world import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
NONE = "00" * 32


class Pair:
    """Two nodes and a channel of 800,000 sat, 300,000 of them the peer's."""

    def __init__(self, network: Network, node: CheckedNode, peer: NodeHandle, channel_id: str) -> None:
        self.network, self.node, self.peer, self.channel_id = network, node, peer, channel_id

    async def row(self) -> dict[str, Any]:
        rows = (await self.node.call("listpeerchannels", {"channel_id": self.channel_id}))["channels"]
        return dict(rows[0])

    async def funded(self, amount_sat: int, feerate: str = "1000perkw") -> dict[str, Any]:
        asked = {"satoshi": f"{amount_sat}sat", "feerate": feerate, "startweight": 600}
        return dict(await self.node.call("fundpsbt", {**asked, "excess_as_change": True}))

    async def free(self, psbt: str) -> None:
        await self.node.call("unreserveinputs", {"psbt": psbt})

    async def begun(self, amount_sat: int, psbt: str, feerate: int = 1_000) -> str:
        """The transaction that the peer knows; no commitments yet."""
        asked = {"channel_id": self.channel_id, "relative_amount": amount_sat, "initialpsbt": psbt}
        begun = await self.node.call("splice_init", {**asked, "feerate_per_kw": feerate})
        told = await self.node.call("splice_update", {"channel_id": self.channel_id, "psbt": begun["psbt"]})
        assert (told["commitments_secured"], told["signatures_secured"]) == (False, False)
        return str(told["psbt"])

    async def secured(self, psbt: str) -> str:
        done = await self.node.call("splice_update", {"channel_id": self.channel_id, "psbt": psbt})
        assert done["commitments_secured"] is True
        return str(done["psbt"])

    async def aborted(self) -> None:
        """Gives up what is under way; the channel lives on as it was."""
        assert await self.node.call("abort_channels", {"channel_ids": [self.channel_id]}) == {}
        await self.usable()
        row = await self.row()
        assert (row["state"], row["total_msat"], row.get("inflight", [])) == (
            "CHANNELD_NORMAL",
            800_000_000,
            [],
        )

    async def usable(self) -> None:
        async def live() -> bool:
            row = await self.row()
            return row["reestablished"] is True and not row.get("inflight")

        await until(live, "the channel to be usable")

    async def refused(self, method: str, params: dict[str, object]) -> tuple[int, str]:
        error = await self.node.error(method, params)
        return error.code, error.message


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(network: Network, schemas: SchemaBook | None) -> Pair:
    alice, bob = [await network.add_node(name) for name in ("alice", "bob")]
    for number in range(4):
        await network.fund(alice, 1_000_000 + number)
    await network.open_channel(alice, bob, 800_000, 300_000_000)
    row = (await alice.call("listpeerchannels"))["channels"][0]
    return Pair(network, CheckedNode(alice, schemas), bob, str(row["channel_id"]))


async def test_parameters_that_are_none(pair: Pair) -> None:
    here = {"channel_id": pair.channel_id}
    bad = "should be a channel id: invalid token"
    one: dict[str, object] = {"channel_id": "zz", "relative_amount": 1}
    assert await pair.refused("splice_init", one) == (-32602, f"channel_id: {bad} '\"zz\"'")
    unknown = (352, f"Unknown channel {NONE}")
    assert await pair.refused("splice_init", {"channel_id": NONE, "relative_amount": 1}) == unknown
    assert await pair.refused("abort_channels", {"channel_ids": [NONE]}) == unknown
    for amount in ("x", 1.5):
        code, message = await pair.refused("splice_init", {**here, "relative_amount": amount})
        assert code == -32602 and message.startswith("relative_amount: should be an sign 64 bit integer")
    for method in ("splice_update", "splice_signed"):
        told = await pair.refused(method, {**here, "psbt": "zz"})
        assert told == (-32602, "psbt: Expected a PSBT: invalid token '\"zz\"'")
    empty = await pair.refused("abort_channels", {"channel_ids": []})
    assert empty == (-32602, "channel_ids: Must specify a channel: invalid token '[]'")


async def test_psbts_that_cannot_be(pair: Pair) -> None:
    dust = await pair.refused("addpsbtoutput", {"satoshi": 0})
    assert dust == (302, "Receive amount is below dust limit (546sat)")
    where: dict[str, object] = {"satoshi": 1_000, "destination": "zz"}
    code, message = await pair.refused("addpsbtoutput", where)
    assert code == -1 and message.startswith("Could not parse destination address")
    asked = {"satoshi": "100000000sat", "feerate": "1000perkw", "startweight": 600}
    code, message = await pair.refused("fundpsbt", {**asked, "excess_as_change": True})
    assert code == 301 and message.startswith("Could not afford 100000000sat using all")
    out = await pair.node.call("addpsbtoutput", {"satoshi": 20_000})
    assert (out["outnum"], out["estimated_added_weight"]) == (0, 172)
    plain = await pair.node.call("setpsbtversion", {"psbt": out["psbt"], "version": 0})
    code, message = await pair.refused("signpsbt", {"psbt": plain["psbt"]})
    assert code == -1 and message.startswith("No wallet inputs to sign.")


async def test_steps_out_of_order_and_a_splice_that_is_given_up(pair: Pair) -> None:
    funded = await pair.funded(100_000)
    assert (funded["excess_msat"], funded["feerate_per_kw"]) == (0, 1_000)
    assert funded["reservations"][0]["reserved"] is True
    here = {"channel_id": pair.channel_id, "psbt": funded["psbt"]}
    not_begun = "because this channel hasn't begun a splice."
    assert await pair.refused("splice_update", here) == (
        358,
        f"Can't accept a splice PSBT update {not_begun}",
    )
    assert await pair.refused("splice_signed", here) == (
        358,
        f"Can't accept a signed splice PSBT {not_begun}",
    )
    await pair.begun(100_000, funded["psbt"])
    twice = {"channel_id": pair.channel_id, "relative_amount": 1}
    assert await pair.refused("splice_init", twice) == (
        358,
        "Can't start two splices on the same channel at once.",
    )
    assert (await pair.row())["state"] == "CHANNELD_NORMAL"
    await pair.aborted()
    # Also once both hold commitments nothing is signed yet.
    secured = await pair.secured(await pair.begun(100_000, funded["psbt"]))
    row = await pair.row()
    (inflight,) = row["inflight"]
    assert row["state"] == "CHANNELD_NORMAL"
    assert (inflight["splice_amount"], inflight["total_funding_msat"]) == (100_000, 900_000_000)
    unsigned = {"channel_id": pair.channel_id, "psbt": secured}
    message = "The PSBT is missing a signature. Have you signed it with `signpsbt`?"
    assert await pair.refused("splice_signed", unsigned) == (358, message)
    await pair.aborted()
    await pair.free(funded["psbt"])
    code, message = await pair.refused("signpsbt", {"psbt": secured})
    assert code == -1 and message.endswith("is not reserved")


async def test_amounts_that_do_not_fit(pair: Pair) -> None:
    nothing = {"channel_id": pair.channel_id, "relative_amount": 100_000, "feerate_per_kw": 1_000}
    begun = await pair.node.call("splice_init", nothing)
    told = await pair.node.call("splice_update", {"channel_id": pair.channel_id, "psbt": begun["psbt"]})
    here = {"channel_id": pair.channel_id, "psbt": told["psbt"]}
    assert await pair.refused("splice_update", here) == (
        357,
        "You provided 500000000msat but committed to 600000000msat.",
    )
    await pair.usable()
    out = await pair.node.call("addpsbtoutput", {"satoshi": 690_000})
    plain = await pair.node.call("setpsbtversion", {"psbt": out["psbt"], "version": 0})
    psbt = await pair.begun(-700_000, plain["psbt"])
    code, message = await pair.refused("splice_update", {"channel_id": pair.channel_id, "psbt": psbt})
    assert code == 362 and "while only having 500000sat funds attributable to them" in message
    await pair.usable()
    funded = await pair.funded(100_000)
    psbt = await pair.begun(100_000, funded["psbt"], 5_000)
    code, message = await pair.refused("splice_update", {"channel_id": pair.channel_id, "psbt": psbt})
    assert code == 359 and message.startswith("Feerate too low. Your funding only provided")
    await pair.usable()
    await pair.free(funded["psbt"])


async def _splice(pair: Pair, amount_sat: int, psbt: str) -> dict[str, Any]:
    secured = await pair.secured(await pair.begun(amount_sat, psbt))
    if amount_sat > 0:
        secured = (await pair.node.call("signpsbt", {"psbt": secured}))["signed_psbt"]
    asked = {"channel_id": pair.channel_id, "psbt": secured}
    done = await pair.node.call("splice_signed", asked)
    row = await pair.row()
    assert row["state"] == "CHANNELD_AWAITING_SPLICE"
    assert row["inflight"][0]["funding_txid"] == done["txid"]
    assert row["inflight"][0]["funding_outnum"] == done["outnum"]
    return dict(done)


async def _locked(pair: Pair, txid: str) -> dict[str, Any]:
    await pair.network.mine(1)

    async def locked() -> bool:
        return bool((await pair.row())["state"] == "CHANNELD_NORMAL")

    await until(locked, "the splice to be locked in")
    row = await pair.row()
    assert row["funding_txid"] == txid and not row.get("inflight")
    return row


async def _paid(pair: Pair, label: str) -> None:
    invoice = await pair.peer.call("invoice", [10_000, label, label])
    assert (await pair.node.call("xpay", [invoice["bolt11"]]))["amount_msat"] == 10_000


async def test_a_splice_in_and_a_splice_out(pair: Pair) -> None:
    before = await pair.row()
    funded = await pair.funded(100_000)
    done = await _splice(pair, 100_000, funded["psbt"])
    listed = (await pair.node.call("listtransactions"))["transactions"]
    assert [row["blockheight"] for row in listed if row["hash"] == done["txid"]] == [0]
    # The channel carries payments meanwhile, at its old size.
    row = await pair.row()
    assert (row["total_msat"], row["to_us_msat"]) == (800_000_000, 500_000_000)
    assert row["spendable_msat"] > 0
    await _paid(pair, "meanwhile")
    row = await _locked(pair, done["txid"])
    assert (row["total_msat"], row["to_us_msat"]) == (900_000_000, 599_990_000)
    assert row["our_reserve_msat"] == 9_000_000
    assert (row["channel_id"], row["short_channel_id"] != before["short_channel_id"]) == (
        pair.channel_id,
        True,
    )
    assert row["state_changes"][-1]["old_state"] == "CHANNELD_AWAITING_SPLICE"

    destination = (await pair.peer.call("newaddr", {"addresstype": "bech32"}))["bech32"]
    out = await pair.node.call("addpsbtoutput", {"satoshi": 48_000, "destination": destination})
    plain = await pair.node.call("setpsbtversion", {"psbt": out["psbt"], "version": 0})
    done = await _splice(pair, -50_000, plain["psbt"])
    row = await _locked(pair, done["txid"])
    assert (row["total_msat"], row["to_us_msat"]) == (850_000_000, 549_990_000)
    await _paid(pair, "afterwards")

    async def arrived() -> bool:
        coins = (await pair.peer.call("listfunds"))["outputs"]
        return [coin["amount_msat"] for coin in coins] == [48_000_000]

    await until(arrived, "the peer's coin")


async def test_a_peer_that_is_away(pair: Pair) -> None:
    await pair.peer.stop()

    async def away() -> bool:
        return (await pair.row())["peer_connected"] is False

    await until(away, "the connection to be gone")
    asked: dict[str, object] = {"channel_id": pair.channel_id, "relative_amount": 1_000}
    gone = (351, "Channel is disconnected")
    assert await pair.refused("splice_init", asked) == gone
    assert await pair.refused("abort_channels", {"channel_ids": [pair.channel_id]}) == gone
