"""Both kinds of node: peers, funding, channel fees and limits, closing."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")
STRANGER = "02c941794a146f861fe39ba53f8621aa9d44b581d2c1748bf167602ecec6b537da"


async def _channel(node: Any, scid: str) -> dict[str, Any]:
    (channel,) = (await node.call("listpeerchannels", {"short_channel_id": scid}))["channels"]
    return dict(channel)


async def test_listpeerchannels_shows_both_ends(trio: Any) -> None:
    ours, theirs = await _channel(trio.alice, trio.scid), await _channel(trio.bob, trio.scid)
    assert (ours["state"], ours["peer_connected"]) == ("CHANNELD_NORMAL", True)
    assert (ours["opener"], theirs["opener"]) == ("local", "remote")
    assert ours["total_msat"] == theirs["total_msat"] == 1_000_000_000
    assert ours["to_us_msat"] + theirs["to_us_msat"] <= 1_000_000_000
    assert {ours["direction"], theirs["direction"]} == {0, 1}
    assert ours["channel_id"] == theirs["channel_id"]
    assert ours["our_reserve_msat"] == 10_000_000
    assert ours["spendable_msat"] > 0
    assert ours["state_changes"][-1]["new_state"] == "CHANNELD_NORMAL"


async def test_setchannel_by_scid_channel_id_peer_and_all(trio: Any) -> None:
    channel = await _channel(trio.alice, trio.scid)
    for number, name in enumerate((trio.scid, channel["channel_id"], trio.bob.id, "all"), start=21):
        (changed,) = (await trio.alice.call("setchannel", {"id": name, "feeppm": number}))["channels"]
        assert changed["fee_proportional_millionths"] == number
        assert changed["short_channel_id"] == trio.scid
    after = await _channel(trio.alice, trio.scid)
    assert after["fee_proportional_millionths"] == 24
    assert after["updates"]["local"]["fee_proportional_millionths"] == 24


async def test_setchannel_answers_with_the_values_that_are_listed_then(trio: Any) -> None:
    params = {"id": trio.scid, "feebase": 7, "feeppm": 31, "htlcmin": 5, "htlcmax": 900_000_000}
    (changed,) = (await trio.alice.call("setchannel", params))["channels"]
    listed = await _channel(trio.alice, trio.scid)
    # Instead of listing a channel after it was set, cl-hive-comms takes these from the answer.
    for name in (
        "peer_id",
        "channel_id",
        "short_channel_id",
        "fee_base_msat",
        "fee_proportional_millionths",
        "minimum_htlc_out_msat",
        "maximum_htlc_out_msat",
    ):
        assert changed[name] == listed[name], name
    assert changed["fee_proportional_millionths"] == 31 and changed["minimum_htlc_out_msat"] == 5
    await trio.alice.call("setchannel", {"id": trio.scid, "htlcmin": 0, "enforcedelay": 0})


async def test_setchannel_leaves_what_is_not_given(trio: Any) -> None:
    await trio.alice.call("setchannel", [trio.scid, "1sat", 2])
    (changed,) = (await trio.alice.call("setchannel", {"id": trio.scid, "htlcmin": 1000}))["channels"]
    assert (changed["fee_base_msat"], changed["fee_proportional_millionths"]) == (1000, 2)
    assert changed["minimum_htlc_out_msat"] == 1000
    (same,) = (await trio.alice.call("setchannel", {"id": trio.scid}))["channels"]
    assert same == changed
    await trio.alice.call("setchannel", {"id": trio.scid, "htlcmin": 0, "enforcedelay": 0})


async def test_setchannel_bends_htlcmax_to_the_channel(trio: Any) -> None:
    (bent,) = (await trio.alice.call("setchannel", {"id": trio.scid, "htlcmax": 5_000_000_000}))["channels"]
    assert bent["maximum_htlc_out_msat"] == 990_000_000
    assert bent["warning_htlcmax_too_high"] == "Set maximum_htlc_out_msat to maximum possible in channel"


async def test_setchannel_ignore_fee_limits(trio: Any) -> None:
    for value in (False, True):
        params = {"id": trio.scid, "ignorefeelimits": value}
        (changed,) = (await trio.alice.call("setchannel", params))["channels"]
        assert changed["ignore_fee_limits"] is value


@pytest.mark.parametrize(
    ("params", "code", "message"),
    [
        ({"feeppm": -1}, -32602, "feeppm: should be an integer: invalid token '-1'"),
        ({"feeppm": 1 << 32}, -32602, "feeppm: should be an integer: invalid token '4294967296'"),
        ({"feeppm": "x"}, -32602, "feeppm: should be an integer: invalid token '\"x\"'"),
        ({"feebase": "x"}, -32602, "feebase: should be a millisatoshi amount: invalid token '\"x\"'"),
        ({"feebase": 1 << 32}, -32602, "feebase: exceeds u32 max: invalid token '4294967296'"),
        ({"enforcedelay": -1}, -32602, "enforcedelay: should be an integer: invalid token '-1'"),
        ({"htlcmin": 900_000_000, "htlcmax": 1}, -1, "htlcmax cannot be less than htlcmin"),
        ({"id": "9x9x9"}, -32602, "id: Short channel id not found: invalid token '\"9x9x9\"'"),
        ({"id": "x"}, -32602, "id: should be a channel ID or short channel ID: invalid token '\"x\"'"),
        (
            {"id": STRANGER},
            -32602,
            f"id: should be a channel ID or short channel ID: invalid token '\"{STRANGER}\"'",
        ),
    ],
)
async def test_setchannel_refuses(trio: Any, params: dict[str, Any], code: int, message: str) -> None:
    error = await trio.alice.error("setchannel", {"id": trio.scid, **params})
    assert (error.code, error.message) == (code, message)


async def test_setchannel_stops_at_the_first_bad_positional_parameter(trio: Any) -> None:
    error = await trio.alice.error("setchannel", [trio.scid, 1, 2, 3, 4, 5, 6, 7, 8])
    assert error.message == "ignorefeelimits: should be 'true' or 'false': invalid token '6'"


async def test_connect_to_nobody_fails_as_cln_does(trio: Any) -> None:
    unknown = await trio.alice.error("connect", {"id": STRANGER})
    assert (unknown.code, unknown.message) == (400, "Unable to connect, no address known for peer")
    closed = await trio.alice.error("connect", {"id": STRANGER, "host": "127.0.0.1", "port": 1})
    assert closed.code == 401
    assert closed.message.startswith("All addresses failed: 127.0.0.1:1: ")


async def test_connecting_twice_reports_the_same_connection(trio: Any) -> None:
    again = await trio.alice.call("connect", {"id": trio.bob.id})
    assert (again["id"], again["direction"]) == (trio.bob.id, "out")


async def test_disconnect_needs_force_while_there_are_channels(trio: Any) -> None:
    error = await trio.alice.error("disconnect", {"id": trio.bob.id})
    assert (error.code, error.message) == (-1, "Peer has (at least one) channel in state CHANNELD_NORMAL")
    unknown = await trio.alice.error("disconnect", {"id": STRANGER})
    assert (unknown.code, unknown.message) == (-32602, f"Unknown peer '{STRANGER}'")


async def test_sendcustommsg_refuses_protocol_types_and_strangers(trio: Any) -> None:
    internal = await trio.alice.error("sendcustommsg", {"node_id": trio.bob.id, "msg": "0010aabb"})
    assert internal.code == -32600
    assert internal.message.startswith("Cannot send messages of type 16 (WIRE_INIT). ")
    stranger = await trio.alice.error("sendcustommsg", {"node_id": STRANGER, "msg": "8081aabb"})
    assert (stranger.code, stranger.message) == (-32600, f"No such peer: {STRANGER}")
    sent = await trio.alice.call("sendcustommsg", {"node_id": trio.bob.id, "msg": "8081aabb"})
    assert sent == {"status": "Message sent to connectd for delivery"}


async def test_fundchannel_without_money_says_how_much_is_short(trio: Any) -> None:
    error = await trio.carol.error("fundchannel", {"id": trio.bob.id, "amount": 100_000})
    assert error.code == 301
    assert error.message.startswith("Could not afford 100000sat using all 0 available UTXOs: ")


async def test_listfunds_counts_wallet_and_channel(trio: Any) -> None:
    funds = await trio.alice.call("listfunds")
    assert sum(output["amount_msat"] for output in funds["outputs"]) < 9_000_000_000
    (channel,) = funds["channels"]
    assert (channel["short_channel_id"], channel["amount_msat"]) == (trio.scid, 1_000_000_000)


async def test_the_graph_has_both_channels(trio: Any) -> None:
    channels = (await trio.alice.call("listchannels", {"short_channel_id": trio.scid}))["channels"]
    assert {channel["source"] for channel in channels} == {trio.alice.id, trio.bob.id}
    nodes = await trio.alice.call("listnodes", {"id": trio.bob.id})
    assert nodes["nodes"][0]["alias"] == "bob"


async def test_several_channels_in_one_transaction_conserve_every_sat(trio: Any) -> None:
    async def owned() -> int:
        funds = await trio.alice.call("listfunds")
        coins = sum(row["amount_msat"] for row in funds["outputs"] if not row["reserved"])
        return int(coins + sum(row["our_amount_msat"] for row in funds["channels"]))

    await trio.network.mine(1)
    before = await owned()
    amounts = {trio.bob.id: 150_000, trio.carol.id: 250_000}
    await trio.network.connect(trio.alice.handle, trio.carol.handle)
    destinations = [{"id": peer_id, "amount": amount} for peer_id, amount in amounts.items()]
    made = await trio.alice.call("multifundchannel", {"destinations": destinations, "feerate": "1000perkw"})
    assert {row["id"] for row in made["channel_ids"]} == set(amounts)
    assert sorted(row["outnum"] for row in made["channel_ids"]) == sorted(
        {row["outnum"] for row in made["channel_ids"]}
    )
    for row in made["channel_ids"]:
        listed = await trio.alice.call("listpeerchannels", {"channel_id": row["channel_id"]})
        (channel,) = listed["channels"]
        assert (channel["funding_txid"], channel["funding_outnum"]) == (made["txid"], row["outnum"])
        assert channel["total_msat"] == channel["to_us_msat"] == amounts[row["id"]] * 1_000
    await trio.network.mine(1)
    fee_msat = before - await owned()
    assert 0 < fee_msat < 3_000_000, fee_msat


async def test_several_channels_fail_together_or_leave_some_out(trio: Any) -> None:
    stranger = {"id": STRANGER, "amount": 30_000}
    both = {"destinations": [{"id": trio.bob.id, "amount": 120_000}, stranger]}
    channels = len((await trio.alice.call("listpeerchannels"))["channels"])
    error = await trio.alice.error("multifundchannel", both)
    assert (error.code, error.data["id"], error.data["method"]) == (400, STRANGER, "connect")
    assert len((await trio.alice.call("listpeerchannels"))["channels"]) == channels
    assert not any(row["reserved"] for row in (await trio.alice.call("listfunds"))["outputs"])
    made = await trio.alice.call("multifundchannel", {**both, "minchannels": 1})
    assert [row["id"] for row in made["channel_ids"]] == [trio.bob.id]
    assert [(row["id"], row["method"]) for row in made["failed"]] == [(STRANGER, "connect")]
    twice = {"destinations": [{"id": trio.bob.id, "amount": 120_000}] * 2}
    assert (await trio.alice.error("multifundchannel", twice)).code == -32602
    await trio.network.mine(1)


async def test_withdraw_pays_an_address(trio: Any) -> None:
    address = (await trio.carol.call("newaddr", {"addresstype": "bech32"}))["bech32"]
    paid = await trio.alice.call("withdraw", {"destination": address, "satoshi": 50_000})
    await trio.network.mine(1)
    outputs = (await trio.carol.call("listfunds"))["outputs"]
    received = [output for output in outputs if output["txid"] == paid["txid"]]
    assert [output["amount_msat"] for output in received] == [50_000_000]
    assert any(
        tx["hash"] == paid["txid"] for tx in (await trio.alice.call("listtransactions"))["transactions"]
    )


async def test_withdraw_refuses_what_is_no_address(trio: Any) -> None:
    error = await trio.alice.error("withdraw", {"destination": "x", "satoshi": 1000})
    message = "Could not parse destination address, destination should be a valid address"
    assert (error.code, error.message) == (-1, message)


async def test_a_closed_channel_pays_out_and_leaves_the_graph(trio: Any) -> None:
    scid = await trio.network.open_channel(trio.alice.handle, trio.carol.handle, 500_000, 100_000_000)
    before = sum(o["amount_msat"] for o in (await trio.carol.call("listfunds"))["outputs"])
    closed = await trio.alice.call("close", {"id": scid})
    assert closed["type"] == "mutual"
    await trio.network.mine(1)
    after = sum(o["amount_msat"] for o in (await trio.carol.call("listfunds"))["outputs"])
    assert after - before == 100_000_000
    missing = await trio.alice.error("close", {"id": "1x1x1"})
    assert missing.message == "id: Short channel id not found: invalid token '\"1x1x1\"'"
    for method in ("listclosedchannels", "staticbackup", "getemergencyrecoverdata", "bkpr-listbalances"):
        await trio.alice.call(method)
