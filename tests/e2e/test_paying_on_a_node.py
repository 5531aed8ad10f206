"""Paying on a node: refusals, limits, a kill in the middle, siblings (docs/protocol/03 §7, §14.19)."""

from __future__ import annotations

import asyncio
from typing import Any

from agent import Agent
from channel_world import plugin_again
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World, until
from sibling_caller import Sibling


async def _refused(world: World, method: str, /, **params: Any) -> DevnetRpcError:
    try:
        answer = await world.alice.call(method, params)
    except DevnetRpcError as error:
        return error
    raise AssertionError(answer)


async def _bill(world: World, label: str, sats: int, **more: Any) -> str:
    params = {"amount_msat": sats * 1_000, "label": label, "description": "advice", **more}
    return str((await world.bob.call("invoice", params))["bolt11"])


async def _paid(world: World) -> list[int]:
    rows = (await world.alice.call("listsendpays"))["payments"]
    return [row["amount_msat"] // 1_000 for row in rows if row["status"] == "complete"]


async def test_acceptance_03_19_invoices_are_checked_paid_once_and_found_after_a_kill(
    world: World, agent: Agent
) -> None:
    alice, name = world.alice, agent.npub
    bill = await _bill(world, "one", 1_000)
    params: dict[str, Any] = {"advisor": name, "amount_sats": 1_000, "target": bill}
    wrong = await _refused(world, "hive-client-pay", **{**params, "amount_sats": 999})
    assert wrong.code == 4014 and "asks for 1000000 msat, 999000 msat were agreed" in wrong.message
    own = (await alice.call("invoice", {"amount_msat": 5_000, "label": "o", "description": "d"}))["bolt11"]
    error = await _refused(world, "hive-client-pay", advisor=name, amount_sats=5, target=own)
    assert error.code == 4014 and "is this node's own" in error.message
    short = await _bill(world, "short", 5, expiry=50)
    error = await _refused(world, "hive-client-pay", advisor=name, amount_sats=5, target=short)
    assert error.code == 4014 and "invoice_expired" in error.message and "60 s are needed" in error.message
    foreign = "lnbc1" + "q" * 90
    error = await _refused(world, "hive-client-pay", advisor=name, amount_sats=5, target=foreign)
    assert error.code == -32602 and "is for bitcoin, this node is on regtest" in error.message
    page = {"advisor": name, "amount_sats": 5, "method": "l402", "target": "https://api.example.com/fees"}
    error = await _refused(world, "hive-client-pay", **page)
    assert error.code == -32602 and "hive-comms-l402-hosts names none" in error.message
    await alice.call("setconfig", {"config": "hive-comms-l402-hosts", "val": "api.example.com:8443"})
    error = await _refused(world, "hive-client-pay", **page)
    assert error.code == -32602 and "names api.example.com:8443" in error.message
    paid = await alice.call("hive-client-pay", params)
    assert paid["status"] == "settled" and paid["method"] == "bolt11" and "preimage" not in str(paid)
    assert await alice.call("hive-client-pay", params) == paid
    error = await _refused(world, "hive-client-pay", **params, idempotency_key="again")
    assert error.code == 4015 and "has paid this invoice already" in error.message
    assert await _paid(world) == [1_000]
    await _killed(world, name)
    # 219: paid by hand, then ordered.
    by_hand = await _bill(world, "hand", 30)
    await alice.call("xpay", {"invstring": by_hand})
    sibling = await Sibling.of(alice)
    order = {"purpose": "settlement:weekly", "method": "bolt11", "idempotency_key": "s1"}
    found = await sibling.call("hive-comms-pay", **order, target=by_hand, amount_sats=30)
    assert found["state"] == "settled" and len(found["preimage"]) == 64
    gift = {**order, "method": "keysend", "idempotency_key": "s2", "target": world.bob.node_id}
    sent = await sibling.call("hive-comms-pay", **gift, amount_msat=7_000_500, tlv_json={"70001": "ab"})
    assert sent["state"] == "settled"
    again = await sibling.call("hive-comms-pay", **gift, amount_msat=7_000_500, tlv_json={"70001": "ab"})
    assert again == sent
    known = await sibling.call("hive-comms-payment-status", idempotency_key="s2")
    assert known == sent
    changed = await sibling.refused("hive-comms-pay", **gift, amount_msat=7_000_501)
    assert changed.code == 4015 and "stands for another payment" in changed.message
    assert (await sibling.refused("hive-comms-payment-status", payment_id="ff")).code == 4001
    # What the operator paid is no sibling's: its preimage proves the payment.
    for which in ({"payment_id": paid["payment_id"]}, {"payment_hash": paid["payment_hash"]}):
        assert (await sibling.refused("hive-comms-payment-status", **which)).code == 4001
    assert await _paid(world) == [1_000, 2_000, 30, 7_000]
    await _limits(world, name)
    await _offer(world, name)
    await _asked(world, sibling)
    await _asked_by_offer(world, sibling)


async def _asked(world: World, sibling: Sibling) -> None:
    """Alice asks for money; that it came is heard at once, and its proof is good once."""
    asked = {"method": "bolt11", "amount_sats": 100, "purpose": "lease:7"}
    made = await sibling.call("hive-comms-payment-request", **asked)
    refused = await sibling.refused("hive-comms-payment-request", **{**asked, "method": "cashu"})
    assert refused.code == 4014 and refused.data["reason"] == "mint_not_allowed", refused
    with_macaroon = await sibling.call("hive-comms-payment-request", **{**asked, "method": "l402"})
    paid = await world.bob.call("xpay", {"invstring": made["invoice"]})

    async def heard() -> bool:
        day = (await world.alice.call("hive-client-payments"))["day"]
        return bool(day["received_sats"] == 100)

    await until(heard, "the payment to be noted")
    proof = {"payment_hash": made["payment_hash"], "preimage": paid["payment_preimage"]}
    good = {"proof": proof, "price_sats": 100, "agent": "ada"}
    assert (await sibling.call("hive-comms-payment-verify", **good))["ok"] is True
    again = await sibling.call("hive-comms-payment-verify", **good)
    assert again == {"ok": False, "reason": "payment_replayed"}
    for bad in ({"preimage": "aa"}, {**proof, "macaroon": "AgEE"}, {"token": 1}, []):
        wrong = await sibling.refused("hive-comms-payment-verify", **{**good, "proof": bad})
        assert wrong.code == -32602 and "object of texts: payment_hash and preimage" in wrong.message
    paid = await world.bob.call("xpay", {"invstring": with_macaroon["invoice"]})
    proof = {"macaroon": with_macaroon["macaroon"], "preimage": paid["payment_preimage"]}
    assert await sibling.call("hive-comms-payment-verify", **{**good, "proof": proof}) == {
        "ok": True,
        "payment_id": with_macaroon["payment_id"],
    }


async def _asked_by_offer(world: World, sibling: Sibling) -> None:
    """An offer of alice's is paid once; whose invoice it was is seen by the offer."""
    asked = {"method": "bolt12", "amount_sats": 60, "purpose": "lease:8"}
    made = await sibling.call("hive-comms-payment-request", **asked)
    fetched = await world.bob.call("fetchinvoice", {"offer": made["offer"]})
    says = await world.bob.call("decode", {"string": fetched["invoice"]})
    assert says["invoice_amount_msat"] == 60_000
    paid = await world.bob.call("xpay", {"invstring": fetched["invoice"]})
    proof = {"payment_hash": says["invoice_payment_hash"], "preimage": paid["payment_preimage"]}
    good = {"proof": proof, "price_sats": 60, "agent": "ada"}
    assert (await sibling.call("hive-comms-payment-verify", **good)) == {
        "ok": True,
        "payment_id": made["payment_id"],
    }
    again = await sibling.call("hive-comms-payment-verify", **{**good, "agent": "bob"})
    assert again == {"ok": False, "reason": "payment_replayed"}


async def _offer(world: World, name: str) -> None:
    """An offer needs a key of the operator's; its invoice must ask for the agreed amount."""
    alice = world.alice
    await alice.call("hive-client-budget", {"action": "set", "per_advisor": 25_000})
    ask = {"advisor": name, "amount_sats": 6, "target": "lno1qqqqqqqq", "idempotency_key": "cake"}
    error = await _refused(world, "hive-client-pay", **ask)
    assert error.code == -32602 and "the bolt12 offer is damaged" in error.message
    offer = (await world.bob.call("offer", {"amount": "6000sat", "description": "cake"}))["bolt12"]
    params = {"advisor": name, "amount_sats": 6_000, "target": offer}
    error = await _refused(world, "hive-client-pay", **params)
    assert error.code == -32602 and "give idempotency_key" in error.message
    error = await _refused(world, "hive-client-pay", **{**params, "amount_sats": 5_999}, idempotency_key="c")
    assert error.code == 4014 and "asks for 6000000 msat, 5999000 msat were agreed" in error.message
    paid = await alice.call("hive-client-pay", {**params, "idempotency_key": "cake"})
    assert paid["status"] == "settled" and paid["method"] == "bolt12"
    assert await alice.call("hive-client-pay", {**params, "idempotency_key": "cake"}) == paid
    assert (await _paid(world))[-2:] == [7_000, 6_000]


async def _killed(world: World, name: str) -> None:
    """kill -9 while the node pays: the same order again answers what became of it."""
    alice = world.alice
    bill = await _bill(world, "two", 2_000)
    params: dict[str, Any] = {"advisor": name, "amount_sats": 2_000, "target": bill}
    reached = world.arm_fault("payment_answered")
    paying = asyncio.create_task(alice.call("hive-client-pay", params))

    async def there() -> bool:
        return reached.exists()

    await until(there, "the payment to be answered")
    await plugin_again(world, None)
    await asyncio.gather(paying, return_exceptions=True)
    again = await until(lambda: alice.call("hive-client-pay", params), "the plugin is up")
    assert again["status"] == "settled", again
    assert await _paid(world) == [1_000, 2_000]


async def _limits(world: World, name: str) -> None:
    alice = world.alice
    shown = await alice.call("hive-client-budget", {"action": "set", "per_advisor": 3_100})
    assert shown["per_advisor_sats"] == 3_100
    dear = await _bill(world, "dear", 200)
    error = await _refused(world, "hive-client-pay", advisor=name, amount_sats=200, target=dear)
    assert error.code == 4006 and "per-advisor-daily-limit: 3000 of 3100 sat" in error.message
    listed = await alice.call("hive-client-payments", {"action": "history", "limit": 2})
    assert listed["count"] == 2
    rest = await alice.call("hive-client-payments", {"action": "history", "cursor": listed["next_cursor"]})
    rows = listed["items"] + rest["items"]
    assert sorted(row["amount_sats"] for row in rows) == [30, 1_000, 2_000, 7_001]
    assert [row["at"] for row in rows] == sorted((row["at"] for row in rows), reverse=True)
    day = (await alice.call("hive-client-payments"))["day"]
    assert (day["paid_sats"], day["by_method"]["bolt11"]) == (10_031, 3_030)
    status = (await alice.call("hive-client-status"))["spend"]["payments"]
    assert status["limits"]["daily-limit"]["used_sats"] == 3_000
    assert "fleet" in str(status["limits"])
