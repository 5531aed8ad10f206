"""Both kinds of node: invoices, payments, forwards and the books kept of them."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _invoice(node: Any, label: str, amount: object = 10_000, **more: object) -> dict[str, Any]:
    params = {"amount_msat": amount, "label": label, "description": f"for {label}", **more}
    return dict(await node.call("invoice", params))


async def _settled(node: Any, count: int) -> list[dict[str, Any]]:
    """The forwards of a node, once `count` of them are settled (a real node hears of it a moment later)."""
    async with asyncio.timeout(60):
        while True:
            rows = (await node.call("listforwards", {"status": "settled"}))["forwards"]
            if len(rows) >= count:
                return list(rows)
            await asyncio.sleep(0.05)


async def test_an_invoice_says_what_it_was_made_of(trio: Any) -> None:
    made = await _invoice(trio.bob, "a", expiry=60)
    decoded = await trio.alice.call("decode", {"string": made["bolt11"]})
    assert (decoded["type"], decoded["currency"], decoded["valid"]) == ("bolt11 invoice", "bcrt", True)
    assert (decoded["payee"], decoded["amount_msat"]) == (trio.bob.id, 10_000)
    assert (decoded["description"], decoded["expiry"]) == ("for a", 60)
    assert decoded["payment_hash"] == made["payment_hash"]
    (listed,) = (await trio.bob.call("listinvoices", {"label": "a"}))["invoices"]
    assert (listed["status"], listed["bolt11"]) == ("unpaid", made["bolt11"])


async def test_an_invoice_names_the_channels_it_shall(trio: Any) -> None:
    """Also public ones."""
    for label, hints in (("listed", [trio.far_scid]), ("one", trio.far_scid)):
        made = await _invoice(trio.carol, label, exposeprivatechannels=hints)
        ((hop,),) = (await trio.alice.call("decode", {"string": made["bolt11"]}))["routes"]
        assert (hop["pubkey"], hop["short_channel_id"]) == (trio.bob.id, trio.far_scid)
        assert set(hop) == {
            *("pubkey", "short_channel_id", "fee_base_msat", "fee_proportional_millionths"),
            "cltv_expiry_delta",
        }
    elsewhere = {"amount_msat": 1, "label": "e", "description": "d", "exposeprivatechannels": ["9x9x9"]}
    error = await trio.carol.error("invoice", elsewhere)
    assert (error.code, error.message) == (902, "None of those hints were suitable local channels")
    assert (await trio.carol.call("listinvoices", {"label": "e"}))["invoices"] == []
    wrong = {"amount_msat": 1, "label": "w", "description": "d", "exposeprivatechannels": ["nowhere"]}
    assert (await trio.carol.error("invoice", wrong)).code == -32602


@pytest.mark.parametrize(
    ("method", "params", "code", "message"),
    [
        (
            "invoice",
            {"amount_msat": 0, "label": "z", "description": "d"},
            -32602,
            "amount_msat: should be positive msat or 'any': invalid token '0'",
        ),
        ("decode", {"string": "zz"}, -32602, "string: Unparsable string: invalid token '\"zz\"'"),
        ("delinvoice", {"label": "nope", "status": "paid"}, 905, "Unknown invoice"),
        ("waitinvoice", {"label": "no"}, -1, "Label not found"),
        (
            "waitanyinvoice",
            {"lastpay_index": 99, "timeout": 1},
            904,
            "Timed out while waiting for invoice to be paid",
        ),
        ("pay", {"bolt11": "lnbcrt1"}, -32602, "Invalid bolt11 invoice: Bad bech32 string"),
    ],
)
async def test_bad_requests(trio: Any, method: str, params: dict[str, Any], code: int, message: str) -> None:
    error = await trio.alice.error(method, params)
    assert (error.code, error.message) == (code, message)


async def test_a_label_is_used_once(trio: Any) -> None:
    await _invoice(trio.bob, "once")
    error = await trio.bob.error("invoice", {"amount_msat": 1, "label": "once", "description": "d"})
    assert (error.code, error.message) == (900, "Duplicate label 'once'")


async def test_xpay_over_two_hops_earns_the_middle_a_fee(trio: Any) -> None:
    await trio.bob.call(
        "setchannel", {"id": trio.far_scid, "feebase": 1000, "feeppm": 100, "enforcedelay": 0}
    )
    # The payee must know the new fee too: a real node puts it in the invoice's route hint.
    for node in (trio.alice, trio.carol):
        await _gossip(node, trio, 100)
    made = await _invoice(trio.carol, "far", 100_000_000)
    settled = len((await trio.bob.call("listforwards", {"status": "settled"}))["forwards"])
    paid = await trio.alice.call("xpay", {"invstring": made["bolt11"]})
    assert paid["amount_sent_msat"] - paid["amount_msat"] == 1000 + 100_000_000 * 100 // 1_000_000
    done = await trio.carol.call("waitinvoice", {"label": "far"})
    assert (done["status"], done["amount_received_msat"]) == ("paid", 100_000_000)
    assert done["payment_preimage"] == paid["payment_preimage"]
    rows = await _settled(trio.bob, settled + 1)
    assert (rows[-1]["in_channel"], rows[-1]["out_channel"]) == (trio.scid, trio.far_scid)
    assert rows[-1]["fee_msat"] == 11_000
    asked = {"subsystem": "forwards", "indexname": "created", "nextvalue": 0}
    top = (await trio.bob.call("wait", asked))["created"]
    page = await trio.bob.call("listforwards", {"index": "created", "start": top, "limit": 1})
    assert [row["created_index"] for row in page["forwards"]] == [top] == [rows[-1]["created_index"]]
    assert (await trio.bob.call("getinfo"))["fees_collected_msat"] >= 11_000


async def _gossip(node: Any, trio: Any, ppm: int) -> None:
    """Waits until `node` knows bob's fee on the far channel."""
    async with asyncio.timeout(60):
        while True:
            channels = (await node.call("listchannels", {"source": trio.bob.id}))["channels"]
            if any(
                c["short_channel_id"] == trio.far_scid and c["fee_per_millionth"] == ppm for c in channels
            ):
                return
            await asyncio.sleep(0.05)


async def test_paying_twice_returns_the_first_payment(trio: Any) -> None:
    made = await _invoice(trio.bob, "twice")
    first = await trio.alice.call("pay", {"bolt11": made["bolt11"]})
    again = await trio.alice.call("pay", {"bolt11": made["bolt11"]})
    assert first["payment_preimage"] == again["payment_preimage"]
    assert (first["status"], first["parts"], first["destination"]) == ("complete", 1, trio.bob.id)
    (row,) = (await trio.alice.call("listpays", {"bolt11": made["bolt11"]}))["pays"]
    assert (row["status"], row["preimage"]) == ("complete", first["payment_preimage"])
    assert len((await trio.alice.call("listsendpays", {"bolt11": made["bolt11"]}))["payments"]) == 1


async def test_xpay_does_not_pay_again(trio: Any) -> None:
    made = await _invoice(trio.bob, "paid once")
    await trio.alice.call("xpay", {"invstring": made["bolt11"]})
    error = await trio.alice.error("xpay", {"invstring": made["bolt11"]})
    assert (error.code, error.message) == (219, "Already paid this invoice successfully")
    assert len((await trio.alice.call("listsendpays", {"bolt11": made["bolt11"]}))["payments"]) == 1


async def test_xkeysend_is_found_by_its_label(trio: Any) -> None:
    asked = {"destination": trio.bob.id, "amount_msat": 6000, "label": "hive:1", "retry_for": 30}
    paid = await trio.alice.call("xkeysend", {**asked, "maxfee": 5000})
    digest = hashlib.sha256(bytes.fromhex(paid["payment_preimage"])).hexdigest()
    rows = (await trio.alice.call("listsendpays", {"payment_hash": digest}))["payments"]
    assert [(row["label"], row["status"], row["amount_msat"]) for row in rows] == [
        ("hive:1", "complete", 6000)
    ]


async def test_wait_tells_how_many_parts_were_made(trio: Any) -> None:
    asked = {"subsystem": "sendpays", "indexname": "created", "nextvalue": 0}
    before = (await trio.alice.call("wait", asked))["created"]
    made = await _invoice(trio.bob, "counted")
    later = asyncio.ensure_future(trio.alice.call("wait", {**asked, "nextvalue": before + 1}))
    await trio.alice.call("xpay", {"invstring": made["bolt11"]})
    assert (await later)["created"] == before + 1
    params = {"index": "created", "start": before + 1}
    (row,) = (await trio.alice.call("listsendpays", params))["payments"]
    assert (row["created_index"], row["status"]) == (before + 1, "complete")
    error = await trio.alice.error("wait", {**asked, "subsystem": "sendpay"})
    assert (error.code, "unknown subsystem" in error.message) == (-32602, True)


async def test_too_large_a_payment_finds_no_path(trio: Any) -> None:
    made = await _invoice(trio.bob, "huge", 5_000_000_000)
    for method, name in (("pay", "bolt11"), ("xpay", "invstring")):
        error = await trio.alice.error(method, {name: made["bolt11"]})
        assert error.code == 205
        assert error.message.startswith("Failed: We could not find a usable set of paths. ")


async def test_an_amount_goes_with_an_open_invoice_only(trio: Any) -> None:
    made = await _invoice(trio.bob, "open", "any")
    paid = await trio.alice.call("xpay", {"invstring": made["bolt11"], "amount_msat": 7000})
    assert paid["amount_msat"] == 7000
    (row,) = (await trio.bob.call("listinvoices", {"label": "open"}))["invoices"]
    assert row["amount_received_msat"] == 7000


async def test_keysend_arrives_as_a_paid_invoice(trio: Any) -> None:
    paid = await trio.alice.call("keysend", {"destination": trio.bob.id, "amount_msat": 5000})
    digest = paid["payment_hash"]
    async with asyncio.timeout(60):
        while not (rows := (await trio.bob.call("listinvoices", {"payment_hash": digest}))["invoices"]):
            await asyncio.sleep(0.05)
    assert (rows[0]["status"], rows[0]["amount_received_msat"]) == ("paid", 5000)
    assert rows[0]["label"].startswith("keysend-")


async def test_an_own_invoice_is_paid_without_a_channel(trio: Any) -> None:
    made = await _invoice(trio.carol, "self")
    paid = await trio.carol.call("xpay", {"invstring": made["bolt11"]})
    assert paid["amount_sent_msat"] == paid["amount_msat"] == 10_000


async def test_invoices_are_deleted_in_the_state_named(trio: Any) -> None:
    await _invoice(trio.bob, "del")
    wrong = await trio.bob.error("delinvoice", {"label": "del", "status": "paid"})
    assert (wrong.code, wrong.message) == (906, "Invoice status is unpaid not paid")
    assert wrong.data == {"current_status": "unpaid", "expected_status": "paid"}
    await trio.bob.call("delinvoice", {"label": "del", "status": "unpaid"})
    assert (await trio.bob.call("listinvoices", {"label": "del"}))["invoices"] == []


async def test_waitanyinvoice_goes_through_paid_invoices_in_order(trio: Any) -> None:
    for label in ("w1", "w2"):
        made = await _invoice(trio.bob, label)
        await trio.alice.call("xpay", [made["bolt11"]])
    (first,) = (await trio.bob.call("listinvoices", {"label": "w1"}))["invoices"]
    following = await trio.bob.call("waitanyinvoice", {"lastpay_index": first["pay_index"]})
    assert following["label"] == "w2"


async def test_an_expired_invoice_is_not_paid(trio: Any) -> None:
    made = await _invoice(trio.bob, "late", expiry=1)
    async with asyncio.timeout(60):
        while (await trio.bob.call("listinvoices", {"label": "late"}))["invoices"][0]["status"] != "expired":
            await asyncio.sleep(0.1)
        while time.time() < made["expires_at"] + 1:
            await asyncio.sleep(0.1)
    error = await trio.alice.error("xpay", {"invstring": made["bolt11"]})
    assert error.code == 207


async def test_getroute_knows_fees_and_delays(trio: Any) -> None:
    route = (await trio.alice.call("getroute", {"id": trio.carol.id, "amount_msat": 1000, "riskfactor": 1}))[
        "route"
    ]
    assert [hop["channel"] for hop in route] == [trio.scid, trio.far_scid]
    assert (route[1]["amount_msat"], route[1]["delay"]) == (1000, 9)
    assert (route[0]["amount_msat"] > 1000, route[0]["delay"]) == (True, 15)
    stranger = "02c941794a146f861fe39ba53f8621aa9d44b581d2c1748bf167602ecec6b537da"
    params = {"id": stranger, "amount_msat": 1000, "riskfactor": 1}
    error = await trio.alice.error("getroute", params)
    assert error.message == f"{stranger}: unknown destination node_id (no public channels?)"


# -- routes by layers, and payments along them ---------------------------------------------------------------


def _scidd(scid: str, source: str, target: str) -> str:
    return f"{scid}/{0 if source < target else 1}"


def _asked(trio: Any, layer: str, **more: object) -> dict[str, Any]:
    asked = {"source": trio.alice.id, "destination": trio.carol.id, "amount_msat": 2_000_000, "maxparts": 1}
    layers = ["auto.localchans", "auto.sourcefree", layer]
    return {**asked, "maxfee_msat": 1_000_000, "final_cltv": 18, "layers": layers, **more}


async def test_getroutes_goes_by_what_a_layer_says(trio: Any) -> None:
    alice = trio.alice
    made = await alice.call("askrene-create-layer", {"layer": "t1"})
    assert [(each["layer"], each["persistent"]) for each in made["layers"]] == [("t1", False)]
    (route,) = (await alice.call("getroutes", _asked(trio, "t1")))["routes"]
    first, last = route["path"]
    assert (first["node_id_in"], first["node_id_out"]) == (trio.alice.id, trio.bob.id)
    assert last["short_channel_id_dir"] == _scidd(trio.far_scid, trio.bob.id, trio.carol.id)
    assert (last["amount_out_msat"], last["cltv_out"]) == (2_000_000, 18)
    # Our own hop costs nothing; what bob is sent holds his fee.
    assert first["amount_in_msat"] == first["amount_out_msat"] == last["amount_in_msat"] > 2_000_000
    assert first["cltv_in"] == first["cltv_out"] == last["cltv_in"] > 18
    old = (first["next_node_id"], first["amount_msat"], first["delay"])
    assert old == (trio.bob.id, first["amount_in_msat"], first["cltv_in"])
    fee = first["amount_in_msat"] - 2_000_000
    error = await alice.error("getroutes", _asked(trio, "t1", maxfee_msat=fee - 1))
    assert (error.code, error.message) == (206, "Could not find route without excessive cost")
    await alice.call("getroutes", _asked(trio, "t1", maxfee_msat=fee))
    error = await alice.error("getroutes", _asked(trio, "t1", maxdelay=first["cltv_in"] - 1))
    assert (error.code, error.message) == (206, "Could not find route without excessive delays")
    dearer = {"layer": "t1", "short_channel_id_dir": last["short_channel_id_dir"], "fee_base_msat": 9_000}
    await alice.call("askrene-update-channel", {**dearer, "fee_proportional_millionths": 0})
    (route,) = (await alice.call("getroutes", _asked(trio, "t1")))["routes"]
    assert route["path"][0]["amount_in_msat"] == 2_009_000
    await alice.call("askrene-remove-layer", {"layer": "t1"})


@pytest.mark.parametrize("told", ["disabled", "constrained", "node"])
async def test_getroutes_leaves_out_what_a_layer_rules_out(trio: Any, told: str) -> None:
    alice, layer = trio.alice, f"t2-{told}"
    await alice.call("askrene-create-layer", {"layer": layer})
    channel = {"layer": layer, "short_channel_id_dir": _scidd(trio.far_scid, trio.bob.id, trio.carol.id)}
    if told == "disabled":
        assert await alice.call("askrene-update-channel", {**channel, "enabled": False}) == {}
    elif told == "node":
        assert await alice.call("askrene-disable-node", {"layer": layer, "node": trio.bob.id}) == {}
    else:
        shown = await alice.call(
            "askrene-inform-channel", {**channel, "amount_msat": 2_000_000, "inform": "constrained"}
        )
        assert shown["constraints"][0]["maximum_msat"] == 1_999_999
    error = await alice.error("getroutes", _asked(trio, layer))
    assert error.code == 205
    assert error.message.startswith("We could not find a usable set of paths. ")
    (kept,) = (await alice.call("askrene-listlayers", {"layer": layer}))["layers"]
    changed = {"disabled": "channel_updates", "constrained": "constraints", "node": "disabled_nodes"}
    assert [name for name in changed.values() if kept[name]] == [changed[told]]
    await alice.call("askrene-remove-layer", {"layer": layer})
    error = await alice.error("askrene-remove-layer", {"layer": layer})
    assert (error.code, error.message) == (-32602, f"layer: Unknown layer: invalid token '\"{layer}\"'")


async def test_bad_requests_about_layers_and_routes(trio: Any) -> None:
    alice, stranger = trio.alice, "02c941794a146f861fe39ba53f8621aa9d44b581d2c1748bf167602ecec6b537da"
    await alice.call("askrene-create-layer", {"layer": "t3"})
    error = await alice.error("askrene-create-layer", {"layer": "t3"})
    assert (error.code, error.message) == (-32602, "Layer already exists")
    for params, code, message in (
        ({"amount_msat": 0}, -32602, "amount must be non-zero"),
        ({"layers": ["nope"]}, -32602, "layers: unknown layer: invalid token '\"nope\"'"),
        ({"maxdelay": 2_017}, 217, "maximum delay allowed is 2016"),
        ({"source": stranger}, 205, f"Unknown source node {stranger}"),
        ({"destination": stranger}, 205, f"Unknown destination node {stranger}"),
    ):
        error = await alice.error("getroutes", _asked(trio, "t3", **params))
        assert (error.code, error.message) == (code, message), params
    await alice.call("askrene-remove-layer", {"layer": "t3"})
    hash_ = "ab" * 32
    error = await alice.error("waitsendpay", {"payment_hash": hash_, "timeout": 1})
    assert (error.code, error.message) == (208, f"Never attempted payment part 0 for '{hash_}'")
    error = await alice.error("sendpay", {"route": [], "payment_hash": hash_})
    assert (error.code, error.message) == (-32602, "Self-payment requires amount_msat")
    hop = {"id": trio.bob.id, "channel": "9x9x9", "amount_msat": 1_000, "delay": 9}
    error = await alice.error("sendpay", {"route": [hop], "payment_hash": hash_})
    assert (error.code, error.message) == (204, "No connection to first peer found")
    assert error.data["erring_index"] == 0
    assert (await alice.call("listsendpays", {"payment_hash": hash_}))["payments"] == []


@pytest.mark.parametrize("names", ["now", "before"])
async def test_sendpay_goes_the_way_it_is_given_and_waitsendpay_tells_the_end(trio: Any, names: str) -> None:
    alice, layer = trio.alice, f"t4-{names}"
    made = await _invoice(trio.carol, f"way-{names}", 2_000_000)
    paid = {"payment_hash": made["payment_hash"], "payment_secret": made["payment_secret"], "label": "hive:2"}
    await alice.call("askrene-create-layer", {"layer": layer})
    (route,) = (await alice.call("getroutes", _asked(trio, layer)))["routes"]
    await alice.call("askrene-remove-layer", {"layer": layer})
    way: list[dict[str, Any]] = route["path"]
    if names == "before":
        way = [
            {
                "id": hop["node_id_out"],
                "channel": hop["short_channel_id_dir"].partition("/")[0],
                "amount_msat": hop["amount_out_msat"],
                "delay": hop["cltv_out"],
            }
            for hop in way
        ]
    amount = "amount_msat" if names == "before" else "amount_out_msat"
    short = [{**way[0], amount: way[0][amount] - 1}, way[1]]
    sent = await alice.call("sendpay", {"route": short, **paid})
    assert (sent["status"], sent["groupid"], sent["amount_msat"]) == ("pending", 1, 2_000_000)
    error = await alice.error("waitsendpay", {"payment_hash": made["payment_hash"], "timeout": 60})
    assert (error.code, error.message) == (204, "failed: WIRE_FEE_INSUFFICIENT (reply from remote)")
    told = [error.data[name] for name in ("erring_index", "erring_node", "erring_channel", "failcode")]
    assert told == [1, trio.bob.id, trio.far_scid, 0x100C]
    assert f"{trio.far_scid}/{error.data['erring_direction']}" == _scidd(
        trio.far_scid, trio.bob.id, trio.carol.id
    )
    sent = await alice.call("sendpay", {"route": way, **paid})
    assert (sent["status"], sent["groupid"]) == ("pending", 2)
    done = await alice.call("waitsendpay", {"payment_hash": made["payment_hash"], "timeout": 60})
    assert hashlib.sha256(bytes.fromhex(done["payment_preimage"])).hexdigest() == made["payment_hash"]
    again = await alice.call("sendpay", {"route": way, **paid})
    assert (again["status"], again["created_index"]) == ("complete", done["created_index"])
    rows = (await alice.call("listsendpays", {"payment_hash": made["payment_hash"]}))["payments"]
    assert [(row["status"], row["groupid"], row.get("partid")) for row in rows] == [
        ("failed", 1, None),
        ("complete", 2, None),
    ]
    # Paid already: the destination refuses it.
    other = {**paid, "payment_hash": "cd" * 32}
    await alice.call("sendpay", {"route": way, **other})
    error = await alice.error("waitsendpay", {"payment_hash": "cd" * 32, "timeout": 60})
    assert (error.code, error.data["erring_index"]) == (203, 2)


async def _spent(node: Any, amount_msat: int) -> bool:
    income = (await node.call("bkpr-listincome"))["income_events"]
    return any(e["tag"] == "invoice" and e["debit_msat"] == amount_msat for e in income)


async def test_the_books_balance(trio: Any) -> None:
    made = await _invoice(trio.bob, "books", 30_000_000)
    await trio.alice.call("xpay", [made["bolt11"]])
    async with asyncio.timeout(60):
        while not await _spent(trio.alice, 30_000_000):
            await asyncio.sleep(0.05)
    apy = (await trio.bob.call("bkpr-channelsapy"))["channels_apy"]
    assert apy[-1]["account"] == "net"
    (channel,) = (await trio.alice.call("listpeerchannels"))["channels"]
    assert channel["out_payments_fulfilled"] >= 1
    for node in (trio.alice, trio.bob):
        await node.call("listhtlcs")
        await node.call("bkpr-listbalances")
