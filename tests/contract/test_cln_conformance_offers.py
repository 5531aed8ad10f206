"""Both kinds of node: offers, the invoices fetched of them, and offers that are paid again and again."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")

_DAY = 86_400


async def _offer(node: Any, description: str, amount: object = 10_000, **more: object) -> dict[str, Any]:
    return dict(await node.call("offer", {"amount": amount, "description": description, **more}))


async def _fetch(node: Any, bolt12: str, **more: object) -> dict[str, Any]:
    """An invoice. A real node drops messages that come too fast: then it is asked again."""
    async with asyncio.timeout(60):
        while True:
            try:
                return dict(await node.call("fetchinvoice", {"offer": bolt12, "timeout": 5, **more}))
            except Exception as error:
                if getattr(error, "code", None) != 1005:
                    raise


async def _refused(node: Any, bolt12: str, **more: object) -> Any:
    async with asyncio.timeout(60):
        while True:
            error = await node.error("fetchinvoice", {"offer": bolt12, "timeout": 5, **more})
            if error.code != 1005:
                return error


async def _series(node: Any, bolt12: str, counter: int, label: str, **more: object) -> dict[str, Any]:
    return await _fetch(node, bolt12, recurrence_counter=counter, recurrence_label=label, **more)


async def test_an_offer_is_made_once_and_listed(trio: Any) -> None:
    made = await _offer(trio.bob, "listed", label="mine", issuer="Bob")
    assert (made["created"], made["active"], made["used"], made["label"]) == (True, True, False, "mine")
    again = await _offer(trio.bob, "listed", issuer="Bob")
    assert again == {**made, "created": False}
    (listed,) = (await trio.bob.call("listoffers", {"offer_id": made["offer_id"]}))["offers"]
    assert listed == {k: v for k, v in made.items() if k != "created"} | {"description": "listed"}
    decoded = await trio.alice.call("decode", {"string": made["bolt12"]})
    assert (decoded["type"], decoded["valid"]) == ("bolt12 offer", True)
    assert (decoded["offer_id"], decoded["offer_issuer_id"]) == (made["offer_id"], trio.bob.id)
    assert (decoded["offer_amount_msat"], decoded["offer_issuer"]) == (10_000, "Bob")
    assert (await trio.bob.call("listoffers", {"offer_id": "00" * 32}))["offers"] == []


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        ({"amount": "x"}, -32602, "amount: should be 'any', msatoshis or <amount>[.<amount>]<ISO-4217>"),
        ({"amount": "5USD"}, -32601, "Unknown command 'currencyconvert'"),
        ({"recurrence": "1fortnight"}, -32602, "recurrence: not a valid time"),
        ({"recurrence": "0days"}, -32602, "bolt12: Offer contains invalid recurrence period 0"),
        ({"recurrence_limit": 3}, -32602, "recurrence_limit: needs recurrence"),
        ({"recurrence_base": 1_700_000_000}, -32602, "recurrence_base: needs recurrence"),
        ({"recurrence_paywindow": "-1+1"}, -32602, "recurrence_paywindow: needs recurrence"),
        (
            {"recurrence": "1day", "recurrence_paywindow": "10+10"},
            -32602,
            "recurrence_paywindow: expected -time+time",
        ),
    ],
)
async def test_an_offer_that_makes_no_sense(trio: Any, more: dict[str, Any], code: int, message: str) -> None:
    error = await trio.bob.error("offer", {"amount": 1_000, "description": "d", **more})
    assert (error.code, error.message.split(": invalid token")[0]) == (code, message)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"offer": "abc"}, "offer: Unparsable offer: invalid bech32 string: invalid token '\"abc\"'"),
        ({"offer": "lno1"}, "offer: Unparsable offer: wrong chain: invalid token '\"lno1\"'"),
        ({"amount_msat": 5}, "missing required parameter: offer"),
    ],
)
async def test_no_offer_to_fetch_of(trio: Any, params: dict[str, Any], message: str) -> None:
    error = await trio.alice.error("fetchinvoice", params)
    assert (error.code, error.message) == (-32602, message)


async def test_an_invoice_is_fetched_paid_and_found_by_its_offer(trio: Any) -> None:
    offer = await _offer(trio.bob, "paid")
    fetched = await _fetch(trio.alice, offer["bolt12"], payer_note="hello")
    assert fetched["changes"] == {}
    assert "next_period" not in fetched
    decoded = await trio.alice.call("decode", {"string": fetched["invoice"]})
    assert (decoded["type"], decoded["valid"]) == ("bolt12 invoice", True)
    assert (decoded["invoice_amount_msat"], decoded["invoice_relative_expiry"]) == (10_000, 7_200)
    assert (decoded["offer_id"], decoded["invreq_payer_note"]) == (offer["offer_id"], "hello")
    assert decoded["invoice_node_id"] == trio.bob.id
    (unpaid,) = (await trio.bob.call("listinvoices", {"offer_id": offer["offer_id"]}))["invoices"]
    payer = decoded["invreq_payer_id"]
    assert (unpaid["status"], unpaid["label"]) == ("unpaid", f"{offer['offer_id']}-{payer}-0")
    paid = await trio.alice.call("xpay", {"invstring": fetched["invoice"], "label": "one"})
    assert paid["amount_msat"] == 10_000
    (listed,) = (await trio.bob.call("listinvoices", {"invstring": fetched["invoice"]}))["invoices"]
    assert (listed["status"], listed["local_offer_id"]) == ("paid", offer["offer_id"])
    assert (listed["payment_preimage"], listed["invreq_payer_note"]) == (paid["payment_preimage"], "hello")
    assert "bolt11" not in listed
    (entry,) = (await trio.alice.call("listpays", {"bolt11": fetched["invoice"]}))["pays"]
    assert (entry["bolt12"], entry["label"], entry["status"]) == (fetched["invoice"], "one", "complete")
    assert "bolt11" not in entry
    again = await trio.alice.error("xpay", {"invstring": fetched["invoice"]})
    assert (again.code, again.message) == (219, "Already paid this invoice successfully")
    (used,) = (await trio.bob.call("listoffers", {"offer_id": offer["offer_id"]}))["offers"]
    assert (used["used"], used["active"]) == (True, True)


async def test_a_fetched_invoice_that_was_touched_is_not_valid(trio: Any) -> None:
    offer = await _offer(trio.bob, "touched")
    invoice = (await _fetch(trio.alice, offer["bolt12"]))["invoice"]
    touched = invoice[:-1] + ("q" if invoice[-1] != "q" else "p")
    error = await trio.alice.error("decode", {"string": touched})
    assert (error.code, error.message.split(": invalid token")[0]) == (-32602, "string: Invalid signature")


async def test_the_amount_of_an_offer(trio: Any) -> None:
    fixed, gift = await _offer(trio.bob, "fixed", 1_000), await _offer(trio.bob, "gift", "any")
    less = await _refused(trio.alice, fixed["bolt12"], amount_msat=999)
    assert (less.code, less.message) == (1004, "Remote node sent failure message")
    assert less.data["error"].endswith(": Amount must be at least 1000msat")
    much = await _refused(trio.alice, fixed["bolt12"], amount_msat=6_000)
    assert much.data["error"].endswith(": Amount vastly exceeds 1000msat")
    more = await _fetch(trio.alice, fixed["bolt12"], amount_msat=1_500)
    decoded = await trio.alice.call("decode", {"string": more["invoice"]})
    assert (more["changes"], decoded["invoice_amount_msat"]) == ({}, 1_500)
    none = await _refused(trio.alice, gift["bolt12"])
    assert (none.code, none.message) == (-32602, "amount_msat parameter required")
    given = await _fetch(trio.alice, gift["bolt12"], amount_msat=7_000)
    assert given["changes"] == {}
    paid = await trio.alice.call("pay", {"bolt11": given["invoice"]})
    assert (paid["amount_msat"], paid["destination"]) == (7_000, trio.bob.id)


async def test_quantities(trio: Any) -> None:
    offer = await _offer(trio.bob, "many", 2_000, quantity_max=5)
    for given, message in (
        ({}, "quantity parameter required"),
        ({"quantity": 0}, "quantity parameter must be non-zero"),
        ({"quantity": 6}, "quantity must be <= 5"),
    ):
        error = await _refused(trio.alice, offer["bolt12"], **given)
        assert (error.code, error.message) == (-32602, message)
    three = await _fetch(trio.alice, offer["bolt12"], quantity=3)
    decoded = await trio.alice.call("decode", {"string": three["invoice"]})
    assert (decoded["invoice_amount_msat"], three["changes"]) == (6_000, {})


async def test_an_offer_switched_off_and_on(trio: Any) -> None:
    offer = await _offer(trio.bob, "switch")
    held = (await _fetch(trio.alice, offer["bolt12"]))["invoice"]
    off = await trio.bob.call("disableoffer", {"offer_id": offer["offer_id"]})
    assert (off["active"], off["description"]) == (False, "switch")
    twice = await trio.bob.error("disableoffer", {"offer_id": offer["offer_id"]})
    assert (twice.code, twice.message) == (1001, "offer is not active")
    refused = await _refused(trio.alice, offer["bolt12"])
    assert refused.data["error"].endswith(": Offer no longer available")
    assert (await trio.alice.error("xpay", {"invstring": held})).code == 203
    anew = await trio.bob.error("offer", {"amount": 10_000, "description": "switch"})
    assert (anew.code, anew.message) == (1000, "Already exists, but isn't active")
    active = (await trio.bob.call("listoffers", {"active_only": True}))["offers"]
    assert offer["offer_id"] not in [row["offer_id"] for row in active]
    assert (await trio.bob.call("enableoffer", {"offer_id": offer["offer_id"]}))["active"] is True
    on = await trio.bob.error("enableoffer", {"offer_id": offer["offer_id"]})
    assert (on.code, on.message) == (1006, "offer already active")
    unknown = await trio.bob.error("disableoffer", {"offer_id": "00" * 32})
    assert (unknown.code, unknown.message) == (-1, "Unknown offer")


async def test_an_offer_for_one_use(trio: Any) -> None:
    offer = await _offer(trio.bob, "once", single_use=True)
    first = (await _fetch(trio.alice, offer["bolt12"]))["invoice"]
    second = (await _fetch(trio.alice, offer["bolt12"]))["invoice"]
    await trio.alice.call("xpay", {"invstring": first})
    assert (await trio.alice.error("xpay", {"invstring": second})).code == 203
    listed = (await trio.bob.call("listinvoices", {"offer_id": offer["offer_id"]}))["invoices"]
    # An invoice whose message got lost was asked for again (_fetch); it is there too, expired like `second`.
    status = {row["bolt12"]: row["status"] for row in listed}
    assert status.pop(first) == "paid"
    assert second in status and set(status.values()) == {"expired"}
    refused = await _refused(trio.alice, offer["bolt12"])
    assert refused.data["error"].endswith(": Offer no longer available")
    error = await trio.bob.error("enableoffer", {"offer_id": offer["offer_id"]})
    assert (error.code, error.message) == (1007, "cannot activate an used single use offer")


async def test_an_offer_that_expired(trio: Any) -> None:
    offer = await _offer(trio.bob, "old", absolute_expiry=int(time.time()) - 5)
    error = await _refused(trio.alice, offer["bolt12"])
    assert (error.code, error.message) == (1002, "Offer expired")


async def test_xpay_of_an_offer_itself(trio: Any) -> None:
    offer = await _offer(trio.bob, "direct")
    paid = await trio.alice.call("xpay", {"invstring": offer["bolt12"]})
    assert paid["amount_msat"] == 10_000
    other = await trio.alice.error("xpay", {"invstring": offer["bolt12"], "amount_msat": 9_000})
    text = "Offer amount is 10000msat, you tried to pay 9000msat"
    assert (other.code, other.message) == (-32602, text)


async def test_periods_are_paid_in_order_under_one_label(trio: Any) -> None:
    """The payment's label is the series': without it the next period is not asked for."""
    window = f"-{30 * _DAY}+{_DAY}"
    offer = await _offer(trio.bob, "series", 20_000, recurrence="1day", recurrence_paywindow=window)
    bolt12 = offer["bolt12"]
    for given, message in (
        ({}, "needs recurrence_counter"),
        ({"recurrence_counter": 0}, "needs recurrence_label"),
        (
            {"recurrence_counter": 1, "recurrence_label": "s"},
            "No previous payment attempted for this label and offer",
        ),
        (
            {"recurrence_counter": 0, "recurrence_label": "s", "recurrence_start": 1},
            "unnecessary recurrence_start",
        ),
    ):
        error = await _refused(trio.alice, bolt12, **given)
        assert (error.code, error.message) == (-32602, message)
    first = await _series(trio.alice, bolt12, 0, "s")
    assert (await _series(trio.alice, bolt12, 0, "s"))["invoice"] == first["invoice"]
    decoded = await trio.alice.call("decode", {"string": first["invoice"]})
    base = decoded["invoice_recurrence_basetime"]
    assert (decoded["invreq_recurrence_counter"], decoded["invoice_relative_expiry"]) == (0, _DAY)
    assert decoded["offer_recurrence"]["paywindow"] == {"seconds_before": 30 * _DAY, "seconds_after": _DAY}
    assert first["next_period"] == {
        "counter": 1,
        "starttime": base + _DAY,
        "endtime": base + 2 * _DAY - 1,
        "paywindow_start": base - 29 * _DAY,
        "paywindow_end": base + 2 * _DAY,
    }
    await trio.alice.call("xpay", {"invstring": first["invoice"], "label": "s"})
    paid = await _refused(trio.alice, bolt12, recurrence_counter=0, recurrence_label="s")
    assert (paid.code, paid.data) == (1004, {"error": "Internal error"})
    early = await _refused(trio.alice, bolt12, recurrence_counter=2, recurrence_label="s")
    assert (early.code, early.message) == (-32602, "previous invoice has not been paid (last was 0)")
    second = await _series(trio.alice, bolt12, 1, "s")
    await trio.alice.call("xpay", {"invstring": second["invoice"], "label": "s"})
    third = await _series(trio.alice, bolt12, 2, "s")
    last = await trio.alice.call("decode", {"string": third["invoice"]})
    assert (last["invoice_recurrence_basetime"], last["invreq_recurrence_counter"]) == (base, 2)
    assert last["invreq_payer_id"] == decoded["invreq_payer_id"]
    direct = await trio.alice.error("xpay", {"invstring": bolt12})
    assert (direct.code, direct.message) == (-32602, "Cannot xpay recurring offers")


async def test_the_default_window_is_this_period_and_the_one_before(trio: Any) -> None:
    offer = await _offer(trio.bob, "monthly", 20_000, recurrence="1month", recurrence_limit=1)
    first = await _series(trio.alice, offer["bolt12"], 0, "m")
    await trio.alice.call("xpay", {"invstring": first["invoice"], "label": "m"})
    decoded = await trio.alice.call("decode", {"string": first["invoice"]})
    base, period = decoded["invoice_recurrence_basetime"], first["next_period"]
    assert (period["paywindow_start"], period["paywindow_end"]) == (base, period["endtime"])
    assert 28 * _DAY <= period["starttime"] - base <= 31 * _DAY
    second = await _series(trio.alice, offer["bolt12"], 1, "m")
    assert "next_period" not in second
    await trio.alice.call("xpay", {"invstring": second["invoice"], "label": "m"})
    over = await _refused(trio.alice, offer["bolt12"], recurrence_counter=2, recurrence_label="m")
    assert (over.code, over.message) == (-1, "Can't send invreq for period 2 (limit 1)")


async def test_a_period_too_early(trio: Any) -> None:
    offer = await _offer(trio.bob, "daily", 20_000, recurrence="1day", recurrence_paywindow="-60+60")
    first = await _series(trio.alice, offer["bolt12"], 0, "d")
    await trio.alice.call("xpay", {"invstring": first["invoice"], "label": "d"})
    error = await _refused(trio.alice, offer["bolt12"], recurrence_counter=1, recurrence_label="d")
    assert error.code == -1
    assert error.message.startswith(
        f"Too early: can't send until time {first['next_period']['paywindow_start']}"
    )


async def test_a_series_with_a_base_and_a_start(trio: Any) -> None:
    now = int(time.time())
    offer = await _offer(
        trio.bob,
        "based",
        20_000,
        recurrence="10days",
        recurrence_base=now - 25 * _DAY,
        proportional_amount=True,
    )
    past = await _refused(trio.alice, offer["bolt12"], recurrence_counter=0, recurrence_label="b")
    assert past.code == -1
    assert past.message.startswith("Too late: expired time ")
    third = await _series(trio.alice, offer["bolt12"], 0, "b", recurrence_start=2)
    # lightningd divides in whole periods: what is left of one that began costs 1 msat.
    assert third["changes"] == {"amount_msat": 1}
    assert third["next_period"]["starttime"] == now + 5 * _DAY


async def test_the_end_of_a_series_is_told(trio: Any) -> None:
    window = f"-{30 * _DAY}+{_DAY}"
    offer = await _offer(trio.bob, "ended", 20_000, recurrence="1day", recurrence_paywindow=window)
    first = await _series(trio.alice, offer["bolt12"], 0, "e")
    await trio.alice.call("xpay", {"invstring": first["invoice"], "label": "e"})
    end = {"offer": offer["bolt12"], "recurrence_counter": 1, "recurrence_label": "e", "payer_note": "bye"}
    async with asyncio.timeout(60):
        while True:
            # Nobody answers, and a real node drops messages that come too fast: told until it is heard.
            told = await trio.alice.call("cancelrecurringinvoice", end)
            assert told["bolt12"].startswith("lnr1")
            rows = (await trio.bob.call("listinvoices", {"offer_id": offer["offer_id"]}))["invoices"]
            if [row["status"] for row in rows] == ["paid", "expired"]:
                break
            await asyncio.sleep(0.2)
    assert rows[-1]["invreq_payer_note"] == "bye"
    refused = await _refused(trio.alice, offer["bolt12"], recurrence_counter=1, recurrence_label="e")
    assert refused.data["error"].endswith(": invoice expired (cancelled?)")
    plain = await _offer(trio.bob, "plain")
    error = await trio.alice.error("cancelrecurringinvoice", {**end, "offer": plain["bolt12"]})
    assert (error.code, error.message) == (-32602, "Not a recurring offer")


async def test_an_issuer_that_is_gone(trio: Any) -> None:
    """Last of all: bob stays down."""
    offer = await _offer(trio.bob, "gone")
    await trio.bob.handle.stop()
    error = await trio.alice.error("fetchinvoice", {"offer": offer["bolt12"], "timeout": 5})
    # Where gossip shows a way the message goes out and nobody answers.
    assert error.code in (1003, 1005)
    if error.code == 1003:
        text = f"Failed: could not route or connect directly to {trio.bob.id}: "
        assert error.message.startswith(text)
