"""Invoices that the node pays by itself: what is refused, what a key stands for, what the node's list decides
(docs/protocol/03-escrow-and-payments.md §7.3, §7.4, §14.19)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.domain.payment import SETTLE_S
from cl_hive_comms.domain.payment_machine import State
from hive_shared.cln import LOST, ClnTimeout
from hive_shared.errors import (
    Busy,
    Conflict,
    EmergencyStop,
    HiveError,
    InvalidParams,
    PaymentFailed,
    Unsupported,
)
from paying_world import PayingWorld
from payment_world import FRIEND, SHOP
from pipeline_world import NODE_ID, NOW

SHORT = "lnbc1" + "q" * 60


@pytest.fixture
def world(tmp_path: Path) -> Iterator[PayingWorld]:
    made = PayingWorld(tmp_path)
    yield made
    made.check_books()
    made.db.close()


async def test_an_invoice_is_paid_and_counted_with_its_fee(world: PayingWorld) -> None:
    row = await world.service.pay(world.order(world.bill(sats=1_000), 1_000))
    ((method, params),) = world.node.sent
    assert method == "xpay" and params["retry_for"] == 60 and params["label"] == f"hive:{row.payment_id}"
    assert params["maxfee"] == 10_000, "a hundredth of the amount"
    assert (row.state, row.fee_msat, row.counted_sats) == (State.SETTLED, 150, 1_001)
    assert world.used() == 1_001 and world.used(advisor="adv-ada") == 1_001
    assert world.points == ["payment_reserved", "payment_sending", "payment_answered"]


@pytest.mark.parametrize(("sats", "cap", "maxfee"), [(50, None, 5_000), (1_000, 3_000, 3_000), (50, 0, 0)])
async def test_the_fee_limit_is_the_rule_or_the_callers_lower_one(
    world: PayingWorld, sats: int, cap: int | None, maxfee: int
) -> None:
    await world.service.pay(world.order(world.bill(sats=sats), sats, max_fee_msat=cap))
    assert world.node.sent[0][1]["maxfee"] == maxfee


async def test_a_node_without_xpay_pays_with_pay_and_an_older_xpay_has_no_label(world: PayingWorld) -> None:
    world.offered = lambda name: name not in ("xpay", "xkeysend")
    await world.service.pay(world.order(world.bill("one")))
    world.offered = lambda name: name != "xkeysend"
    await world.service.pay(world.order(world.bill("two")))
    (_, pay), (_, xpay) = world.node.sent
    assert world.node.calls.count("pay") == world.node.calls.count("xpay") == 1
    assert {"bolt11", "maxfee", "retry_for", "label"} <= set(pay)
    assert set(xpay) == {"invstring", "maxfee", "retry_for"}


REFUSED: list[tuple[dict[str, Any], dict[str, Any], type[HiveError], str]] = [
    ({}, {"amount_msat": 49_000}, PaymentFailed, "asks for 50000 msat, 49000 msat were agreed"),
    ({"created_at": NOW - 100, "expiry": 100}, {}, PaymentFailed, "invoice_expired: .*expired 0 s ago"),
    ({"created_at": NOW, "expiry": 59}, {}, PaymentFailed, "expires in 59 s, 60 s are needed"),
    ({"payee": NODE_ID}, {}, PaymentFailed, "invoice_mismatch: .*is this node's own"),
    ({}, {"payee": FRIEND}, PaymentFailed, f"is of {SHOP}, not of {FRIEND}"),
    ({"valid": False}, {}, InvalidParams, "damaged"),
    ({}, {"target": SHORT}, InvalidParams, "the invoice is for bitcoin, this node is on regtest"),
    ({}, {"target": "lntea1"}, InvalidParams, "target is no BOLT 11 invoice"),
    ({}, {"method": "bolt12"}, InvalidParams, "target is a bolt11 invoice, method is bolt12"),
    ({}, {"method": "keysend", "target": NODE_ID}, PaymentFailed, "methods allows"),
]


@pytest.mark.parametrize(("says", "fields", "kind", "text"), REFUSED, ids=[each[3][:24] for each in REFUSED])
async def test_what_was_not_agreed_is_refused_and_nothing_is_kept(
    world: PayingWorld, says: dict[str, Any], fields: dict[str, Any], kind: type[HiveError], text: str
) -> None:
    target = world.bill(**says)
    with pytest.raises(kind, match=text):
        await world.service.pay(world.order(**{"target": target, **fields}))
    assert world.stored() == () and world.node.sent == [] and world.used() == 0


async def test_a_key_stands_for_one_payment(world: PayingWorld) -> None:
    order = world.order(world.bill())
    row = await world.service.pay(order)
    assert await world.service.pay(order) == await world.service.find(payment_id=row.payment_id)
    with pytest.raises(Conflict, match="idempotency_conflict") as caught:
        await world.service.pay(world.order(world.bill("other"), key=order.key))
    assert caught.value.data["payment_id"] == row.payment_id
    # The caller may have given no key: the sentence names the payment that is meant.
    named = f"stands for another payment: {row.payment_id} over {row.amount_msat // 1_000} sat"
    assert f"or without one this invoice, {named}" in caught.value.detail
    # Another key for the same invoice is no way to pay it twice.
    with pytest.raises(Conflict, match="has paid this invoice already"):
        await world.service.pay(world.order(order.target, key="client:again"))
    assert len(world.node.sent) == 1


async def test_the_same_order_twice_at_once_is_paid_once(world: PayingWorld) -> None:
    order = world.order(world.bill())
    ends = await asyncio.gather(*(world.service.pay(order) for _ in range(8)))
    assert len({row.payment_id for row in ends}) == 1 and len(world.node.sent) == 1
    # Who did not come first is told where it stands.
    assert State.SETTLED in {row.state for row in ends} and world.stored()[0].state is State.SETTLED


async def test_what_failed_for_good_is_answered_alike_and_may_be_tried_with_a_new_key(
    world: PayingWorld,
) -> None:
    world.node.ends = "failed"
    order = world.order(world.bill())
    for _ in range(2):
        with pytest.raises(PaymentFailed, match="no_route: no route carries") as caught:
            await world.service.pay(order)
        assert caught.value.data["payment_id"] == world.stored()[0].payment_id
    assert len(world.node.sent) == 1 and world.used() == 0
    world.node.ends = "complete"
    row = await world.service.pay(world.order(order.target, key="client:again"))
    assert row.state is State.SETTLED and len(world.stored()) == 2


@pytest.mark.parametrize(
    ("code", "text"),
    [(203, "refused the payment"), (206, "fee_too_high"), (207, "invoice_expired"), (299, r"\(code 299\)")],
)
async def test_an_error_of_the_node_without_a_part_under_way_ends_the_payment(
    world: PayingWorld, code: int, text: str
) -> None:
    world.node.fail["xpay"] = code
    with pytest.raises(PaymentFailed, match=text):
        await world.service.pay(world.order(world.bill()))
    assert world.stored()[0].state is State.FAILED and world.used() == 0


async def test_an_error_with_a_part_under_way_leaves_the_end_open(world: PayingWorld) -> None:
    order = world.order(world.bill())
    world.node.ends = "pending"
    row = await world.service.pay(order)
    assert row.state is State.UNKNOWN and world.used() == row.reserve_sats == 55
    with pytest.raises(Conflict, match="has no end yet"):
        await world.service.pay(world.order(order.target, key="client:again"))
    await world.service.settle()
    assert (await world.service.pay(order)).state is State.UNKNOWN
    world.now += SETTLE_S
    await world.service.settle()
    assert [code for _, code, _ in world.outside.alerts] == ["payment_unknown"]
    world.node.end("complete")
    await world.service.settle()
    row = await world.service.pay(order)
    assert (row.state, row.fee_msat, world.used()) == (State.SETTLED, 150, 51)
    assert len(world.outside.alerts) == 1 and len(world.node.sent) == 1


async def test_what_the_node_says_it_paid_before_is_settled_with_its_proof_and_costs_nothing(
    world: PayingWorld,
) -> None:
    """Error 219 (03 §14.19)."""
    target = world.bill()
    world.node._xpay({"invstring": target, "maxfee": 5_000})
    row = await world.service.pay(world.order(target))
    assert row.state is State.SETTLED and row.preimage == world.node.asked[target]["preimage"]
    assert (row.counted_sats, row.fee_msat, world.used()) == (0, 0, 0)


async def test_a_call_whose_answer_is_lost_is_looked_for(world: PayingWorld) -> None:
    world.node.lose.add("xpay")
    row = await world.service.pay(world.order(world.bill()))
    assert row.state is State.SETTLED, "its list of payments answered"
    world.node.fail |= {"xpay": LOST, "listsendpays": LOST}
    row = await world.service.pay(world.order(world.bill("two")))
    assert row.state is State.UNKNOWN
    del world.node.fail["listsendpays"]
    for later in (0, SETTLE_S - 1):
        world.now = NOW + later
        await world.service.settle()
        assert world.stored()[1].state is State.UNKNOWN
    world.now += 1
    await world.service.settle()
    assert world.stored()[1].state is State.FAILED and "never began" in str(world.stored()[1].error)


async def test_a_list_that_was_shortened_proves_nothing(world: PayingWorld) -> None:
    world.node.lose.add("xpay")
    world.node.fail["listsendpays"] = LOST
    await world.service.pay(world.order(world.bill()))
    world.node.parts.clear()
    del world.node.fail["listsendpays"]
    world.now += 10 * SETTLE_S
    for _ in range(3):
        await world.service.settle()
    (row,) = world.stored()
    assert row.state is State.UNKNOWN and world.used() == 55
    ((_, code, text),) = world.outside.alerts
    assert code == "payment_unknown" and "deleted from the node's list" in text


async def test_a_preimage_that_does_not_fit_settles_nothing(world: PayingWorld) -> None:
    target = world.bill()
    world.node.asked[target]["preimage"] = "00" * 32
    assert (await world.service.pay(world.order(target))).state is State.UNKNOWN


async def test_stop_and_drain_refuse_and_the_stop_is_asked_last(
    world: PayingWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = world.order(world.bill())
    world.engaged = True
    with pytest.raises(EmergencyStop):
        await world.service.pay(order)
    world.engaged, world.drained = False, True
    with pytest.raises(Busy, match="drained"):
        await world.service.pay(order)
    world.drained = False

    def engage(_params: object) -> dict[str, Any]:
        world.engaged = True
        return {"subsystem": "sendpays", "created": 0}

    monkeypatch.setattr(world.node, "_wait", engage)
    with pytest.raises(PaymentFailed, match="emergency_stop"):
        await world.service.pay(order)
    assert world.node.sent == [] and world.used() == 0 and world.stored()[0].state is State.FAILED


async def test_a_stop_that_comes_as_the_payment_is_noted_sends_nothing(world: PayingWorld) -> None:
    """The last look, between the row that says `sending` and the call (docs/decisions/0397)."""
    world.stop_at = "payment_sending"
    with pytest.raises(PaymentFailed, match="emergency_stop"):
        await world.service.pay(world.order(world.bill()))
    assert world.points == ["payment_reserved", "payment_sending"]
    assert world.node.sent == [] and world.used() == 0 and world.stored()[0].state is State.FAILED


async def test_an_open_payment_is_resolved_before_a_new_one(world: PayingWorld) -> None:
    world.node.lose.add("xpay")
    world.node.fail["listsendpays"] = LOST
    await world.service.pay(world.order(world.bill()))
    world.restart()
    with pytest.raises(Busy, match="what became of earlier payments is not known"):
        await world.service.pay(world.order(world.bill("two")))
    del world.node.fail["listsendpays"]
    world.node.lose.clear()
    await world.service.pay(world.order(world.bill("two")))
    assert [row.state for row in world.stored()] == [State.SETTLED, State.SETTLED]


async def test_an_agents_command_and_the_node_do_not_pay_the_same_invoice(world: PayingWorld) -> None:
    target = world.bill()
    digest = world.node.asked[target]["payment_hash"]
    world.by_command[digest] = "cmd-1"
    with pytest.raises(Conflict, match="command cmd-1"):
        await world.service.pay(world.order(target))
    world.by_command.clear()
    assert await world.service.paying(digest) is None
    world.node.ends = "pending"
    row = await world.service.pay(world.order(target))
    assert await world.service.paying(digest) == row.payment_id


async def test_keysends_of_siblings_are_known_by_their_label(world: PayingWorld) -> None:
    order = world.order(
        FRIEND, 2_000, budget="fleet", method="keysend", advisor_id=None, tlvs={"1212765765": "7b7d"}
    )
    world.node.lose.add("xkeysend")
    row = await world.service.pay(order)
    ((method, params),) = world.node.sent
    assert method == "xkeysend" and params["extratlvs"] == {"1212765765": "7b7d"}
    assert row.state is State.SETTLED and row.payment_hash is not None
    assert world.used() == 0 and world.used(scope="fleet") == 2_001


async def test_an_offer_is_paid_through_its_invoice(world: PayingWorld) -> None:
    offer = world.node.offer_of("cake", 50_000, 50_000)
    row = await world.service.pay(world.order(offer, method="bolt12", payer_note="for March"))
    assert row.state is State.SETTLED and row.target.invoice is not None
    assert row.target.invoice.startswith("lni1") and world.node.sent[0][1]["invstring"] == row.target.invoice
    open_offer = world.node.offer_of("pie", None, 1)
    assert (await world.service.pay(world.order(open_offer, method="bolt12"))).state is State.SETTLED


async def test_an_issuer_that_changes_the_amount_is_not_paid(world: PayingWorld) -> None:
    dearer = world.node.offer_of("dear", 50_000, 51_000)
    with pytest.raises(PaymentFailed, match=r"offer_changed: .*51000 msat instead of 50000"):
        await world.service.pay(world.order(dearer, method="bolt12"))
    world.node.fail["fetchinvoice"] = 1005
    with pytest.raises(PaymentFailed, match="did not answer in time"):
        await world.service.pay(world.order(world.node.offer_of("slow", 50_000, 50_000), method="bolt12"))
    world.offered = lambda name: name != "fetchinvoice"
    with pytest.raises(Unsupported, match="no fetchinvoice"):
        await world.service.pay(world.order(world.node.offer_of("none", 50_000, 50_000), method="bolt12"))
    assert world.node.sent == [] and world.used() == 0
    assert {row.state for row in world.stored()} == {State.FAILED}


@pytest.mark.parametrize("method", ["keysend", "bolt12"])
async def test_a_copy_that_forgot_a_payment_does_not_make_it_again(world: PayingWorld, method: str) -> None:
    """An older copy of the database is restored: the node's list knows the label, which the key makes."""
    if method == "keysend":
        order = world.order(FRIEND, key="sibling:k", budget="fleet", method=method, advisor_id=None)
    else:
        order = world.order(world.node.offer_of("cake", 50_000, 50_000), key="client:k", method=method)
    first = await world.service.pay(order)

    def forget(tx: Any) -> None:
        tx.execute("DELETE FROM comms_payments")
        tx.execute("DELETE FROM comms_payment_sums")

    await world.db.write(forget)
    world.restored = True
    world.restart()
    again = await world.service.pay(order)
    assert len(world.node.sent) == 1 and again.payment_id == first.payment_id
    assert (again.state, again.preimage, again.counted_sats) == (State.SETTLED, first.preimage, 0)


async def test_what_is_under_way_at_the_node_already_is_waited_for_and_never_called_unpaid(
    world: PayingWorld,
) -> None:
    """The operator's own call, or one that a restored copy of the database forgot, is at this invoice."""
    target = world.bill()
    world.node.ends = "pending"
    with pytest.raises(ClnTimeout):
        world.node._xpay({"invstring": target, "maxfee": 5_000})
    row = await world.service.pay(world.order(target))
    assert row.state is State.UNKNOWN and world.used() == 55
    world.now += SETTLE_S
    await world.service.settle()
    assert world.stored()[0].state is State.UNKNOWN
    world.node.end("complete")
    await world.service.settle()
    (row,) = world.stored()
    assert row.state is State.SETTLED and row.preimage == world.node.asked[target]["preimage"]
    assert (row.counted_sats, world.used()) == (0, 0)


async def test_who_is_told_to_try_again_is_told_how(world: PayingWorld) -> None:
    """A key stands for its payment, a failed one too: the same call again changes nothing."""
    order = world.order(world.bill())
    world.node.fail["wait"] = LOST
    with pytest.raises(Busy, match="nothing was paid, to try again give another idempotency_key"):
        await world.service.pay(order)
    del world.node.fail["wait"]
    with pytest.raises(PaymentFailed, match="key is used up: to try again give another idempotency_key"):
        await world.service.pay(order)
    assert (await world.service.pay(world.order(order.target, key="client:2"))).state is State.SETTLED


@pytest.mark.parametrize("end", ["complete", "failed"])
async def test_a_copy_that_forgot_a_payment_under_way_waits_for_its_end(world: PayingWorld, end: str) -> None:
    order = world.order(FRIEND, key="sibling:k", budget="fleet", method="keysend", advisor_id=None)
    world.node.ends = "pending"
    await world.service.pay(order)

    def forget(tx: Any) -> None:
        tx.execute("DELETE FROM comms_payments")
        tx.execute("DELETE FROM comms_payment_sums")

    await world.db.write(forget)
    world.restored = True
    world.restart()
    assert (await world.service.pay(order)).state is State.UNKNOWN
    world.now += SETTLE_S
    world.node.end(end)
    await world.service.settle()
    (row,) = world.stored()
    assert (row.state, row.counted_sats) == ((State.SETTLED, 51) if end == "complete" else (State.FAILED, 0))
    assert len(world.node.sent) == 1
