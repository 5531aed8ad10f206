"""Subscriptions by the clock: what is due is paid, what is not paid is told
(docs/protocol/03-escrow-and-payments.md §7.4, §14.20)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.domain.payment import ADVISOR
from cl_hive_comms.domain.payment_machine import State as PaymentState
from cl_hive_comms.domain.recurrence import DAY_S
from cl_hive_comms.domain.subscription_machine import State
from hive_shared.errors import Conflict, HiveError, InvalidParams, NotFound, PaymentFailed
from paying_world import ADA
from subscription_world import MONTH_S, SubscribedWorld

HOUR_S = 3_600


@pytest.fixture
def world(tmp_path: Path) -> SubscribedWorld:
    return SubscribedWorld(tmp_path)


def _codes(world: SubscribedWorld) -> list[str]:
    return [code for _, code, _ in world.outside.alerts]


async def test_three_periods_are_paid_one_after_the_other_under_one_label(world: SubscribedWorld) -> None:
    offer = world.node.series()
    await world.subscriptions.pay(world.begin(offer))
    begun = world.one()
    assert (begun.state, begun.recurrence_counter, begun.kind) == (State.ACTIVE, 1, "bolt12")
    assert (begun.period, begun.amount_sats) == ("30 days", 50)
    begin = world.now + MONTH_S
    assert (begun.window_start, begun.next_due, begun.window_end) == (
        *(begin - 3 * DAY_S, begin, begin + DAY_S),
    )
    await world.subscriptions.tick()
    world.at(MONTH_S - 60)
    await world.subscriptions.tick()
    assert world.node.periods_paid() == [0], "not before it is due"
    for _ in range(2):
        world.at(MONTH_S if len(world.node.periods_paid()) > 1 else 120)
        await world.subscriptions.tick()
        await world.subscriptions.tick()
    assert world.node.periods_paid() == [0, 1, 2]
    label = f"hive:{begun.sub_id}"
    assert world.node.asked_for == [(label, 0), (label, 1), (label, 2)]
    assert {row["label"] for row in world.node.parts} == {label}
    assert (world.one().recurrence_counter, world.one().failures) == (3, 0)
    assert {row.budget for row in world.stored()} == {ADVISOR}
    world.check_books()


async def test_the_same_call_again_pays_nothing_anew(world: SubscribedWorld) -> None:
    order = world.begin(world.node.series())
    first = await world.subscriptions.pay(order)
    again = await world.subscriptions.pay(order)
    assert again.payment_id == first.payment_id
    assert world.node.periods_paid() == [0]
    with pytest.raises(Conflict, match="can be paid from"):
        await world.subscriptions.pay(world.begin(order.target, "client:other"))


async def test_acceptance_03_20_an_issuer_that_is_gone_is_asked_after_1_4_and_12_hours_then_suspended(
    world: SubscribedWorld,
) -> None:
    offer = world.node.series()
    await world.subscriptions.pay(world.begin(offer))
    world.at(MONTH_S)
    world.node.down = True
    begun, tried = world.now, []
    for _ in range(19):
        before = world.one().failures
        await world.subscriptions.tick()
        row = world.one()
        if row.failures > before or row.state is State.SUSPENDED:
            tried.append((world.now - begun) // HOUR_S)
        if row.state is State.SUSPENDED:
            break
        world.at(HOUR_S)
    assert tried == [0, 1, 5, 17]
    assert _codes(world) == ["subscription_suspended"]
    assert "did not answer in time" in str(row.error)
    assert world.used() == 0, "nothing stays reserved"
    # It stays so until the operator pays the due period.
    world.node.down = False
    world.at(HOUR_S)
    await world.subscriptions.tick()
    assert world.node.periods_paid() == [0]
    await world.subscriptions.pay(world.begin(offer, "client:again"))
    assert world.node.periods_paid() == [0, 1]
    assert (world.one().state, world.one().recurrence_counter) == (State.ACTIVE, 2)
    world.check_books()


async def test_a_price_that_rose_suspends_at_once(world: SubscribedWorld) -> None:
    offer = world.node.series()
    await world.subscriptions.pay(world.begin(offer))
    world.at(MONTH_S)
    world.node.price_msat = 60_000
    await world.subscriptions.tick()
    row = world.one()
    assert (row.state, row.failures) == (State.SUSPENDED, 0)
    assert "60000 msat instead of 50000" in str(row.error)
    assert _codes(world) == ["subscription_suspended"]
    assert world.node.periods_paid() == [0]


async def test_an_amount_that_is_changed_at_the_first_period_is_refused(world: SubscribedWorld) -> None:
    world.node.price_msat = 60_000
    with pytest.raises(PaymentFailed, match="offer_changed"):
        await world.subscriptions.pay(world.begin(world.node.series()))
    assert world.every() == ()
    assert world.node.parts == []


async def test_an_invoice_for_another_period_is_not_paid(
    world: SubscribedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paid, it would be asked for again when its turn comes, and the period that is due stay unpaid."""
    given = world.node._invoice_for
    monkeypatch.setattr(
        world.node,
        "_invoice_for",
        lambda offer, label, counter, until: given(offer, label, counter + 1, until),
    )
    with pytest.raises(PaymentFailed, match=r"offer_changed: .*another period"):
        await world.subscriptions.pay(world.begin(world.node.series()))
    assert world.every() == () and world.node.parts == [] and world.used() == 0


async def test_a_period_whose_time_is_over_is_not_paid(world: SubscribedWorld) -> None:
    offer = world.node.series()
    await world.subscriptions.pay(world.begin(offer))
    world.at(MONTH_S + 2 * DAY_S)
    await world.subscriptions.tick()
    row = world.one()
    assert (row.state, row.error) == (State.SUSPENDED, "the period was not paid in its time")
    with pytest.raises(PaymentFailed, match="too_late"):
        await world.subscriptions.pay(world.begin(offer, "client:late"))
    await world.subscriptions.end(row.sub_id)
    await world.subscriptions.pay(world.begin(offer, "client:anew"))
    assert sorted(row.state for row in world.every()) == [State.ACTIVE, State.ENDED]


async def test_limits_hold_for_periods(world: SubscribedWorld) -> None:
    await world.subscriptions.pay(world.begin(world.node.series()))
    world.at(MONTH_S)
    world.own_limits[ADA] = 0
    await world.subscriptions.tick()
    assert (world.one().failures, world.node.periods_paid()) == (1, [0])
    assert str(world.one().error).startswith("budget_exhausted")
    world.own_limits.clear()
    world.at(HOUR_S)
    await world.subscriptions.tick()
    assert (world.one().failures, world.node.periods_paid()) == (0, [0, 1])


async def test_the_emergency_stop_pauses_them(world: SubscribedWorld) -> None:
    await world.subscriptions.pay(world.begin(world.node.series()))
    world.at(MONTH_S)
    world.engaged = True
    await world.subscriptions.tick()
    assert (world.one().failures, world.node.asked_for[1:]) == (0, [])
    world.engaged = False
    await world.subscriptions.tick()
    assert world.node.periods_paid() == [0, 1]


async def test_it_ends_with_the_advisors_last_credential(world: SubscribedWorld) -> None:
    await world.subscriptions.pay(world.begin(world.node.series()))
    world.hired.clear()
    world.at(MONTH_S)
    await world.subscriptions.tick()
    row = world.one()
    assert (row.state, row.error) == (State.ENDED, "its advisor has no credential any more")
    assert [(told["recurrence_counter"], told["recurrence_label"]) for told in world.node.ended] == [
        (1, f"hive:{row.sub_id}")
    ]
    assert world.node.periods_paid() == [0]


async def test_the_operator_ends_one(world: SubscribedWorld) -> None:
    await world.subscriptions.pay(world.begin(world.node.series()))
    sub_id = world.one().sub_id
    assert (await world.subscriptions.end(sub_id)).state is State.ENDED
    with pytest.raises(Conflict, match="has ended already"):
        await world.subscriptions.end(sub_id)
    with pytest.raises(NotFound):
        await world.subscriptions.end("nothing")
    world.at(MONTH_S)
    await world.subscriptions.tick()
    assert world.node.periods_paid() == [0]


async def test_what_ends_while_a_round_pays_others_is_not_paid(
    world: SubscribedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round reads what is due and pays one after the other, each for as long as its issuer takes."""
    for key in ("client:care", "client:ended", "client:dismissed"):
        whom = "adv-bob" if key == "client:dismissed" else ADA
        world.hired.add(whom)
        await world.subscriptions.pay(world.begin(world.node.series(key), key, advisor_id=whom))
    before, ended, dismissed = sorted(world.every(), key=lambda row: row.next_due)
    world.at(MONTH_S)
    given = world.node._fetchinvoice

    async def ends() -> None:
        await world.subscriptions.end(ended.sub_id)

    def meanwhile(params: dict[str, Any]) -> dict[str, Any]:
        if not ending:
            ending.append(asyncio.get_running_loop().create_task(ends()))
        world.hired.discard(dismissed.advisor_id)
        return given(params)

    ending: list[asyncio.Task[None]] = []
    monkeypatch.setattr(world.node, "_fetchinvoice", meanwhile)
    await world.subscriptions.tick()
    await ending[0]
    assert world.node.periods_paid() == [0, 0, 0, 1]
    assert world.node.asked_for[3:] == [(before.recurrence_label, 1)]
    rows = {row.sub_id: row for row in world.every()}
    assert rows[ended.sub_id].state is State.ENDED and rows[dismissed.sub_id].failures == 0
    await world.subscriptions.tick()
    assert {row.sub_id: row for row in world.every()}[dismissed.sub_id].state is State.ENDED
    assert world.node.periods_paid() == [0, 0, 0, 1]
    world.check_books()


@pytest.mark.parametrize("base", [2**63, 300_000_000_000])
async def test_a_series_that_counts_from_a_time_beyond_all_calendars_is_not_begun(
    world: SubscribedWorld, monkeypatch: pytest.MonkeyPatch, base: int
) -> None:
    """What its issuer says would be paid and could not be written down, and no later payment be made."""
    given = world.node._invoice_for

    def endless(*args: Any) -> dict[str, Any]:
        answer = given(*args)
        world.node.asked[answer["invoice"]]["invoice_recurrence_basetime"] = base
        return answer

    monkeypatch.setattr(world.node, "_invoice_for", endless)
    with pytest.raises(HiveError, match="counts its periods"):
        await world.subscriptions.pay(world.begin(world.node.series()))
    assert world.node.parts == [] and world.every() == () and world.used() == 0
    world.restart()
    await world.service.pay(world.order(world.bill()))
    assert len(world.node.paid()) == 1


@pytest.mark.parametrize(
    "says",
    [
        {"time_unit": 2, "period": 2**32 - 1},
        {"time_unit": 1, "period": 2**32 - 1},
    ],
)
async def test_a_series_whose_next_period_is_beyond_all_calendars_is_not_begun(
    world: SubscribedWorld, says: dict[str, Any]
) -> None:
    world.node.recurrence |= says
    with pytest.raises(HiveError, match="counts its periods"):
        await world.subscriptions.pay(world.begin(world.node.series()))
    assert world.node.parts == [] and world.every() == () and world.used() == 0


async def test_the_last_period_of_an_offer_ends_it(world: SubscribedWorld) -> None:
    world.node.recurrence["limit"] = 1
    await world.subscriptions.pay(world.begin(world.node.series()))
    world.at(MONTH_S)
    await world.subscriptions.tick()
    assert (world.one().state, world.node.periods_paid()) == (State.ENDED, [0, 1])


async def test_an_offer_without_periods_is_paid_each_thirty_days(world: SubscribedWorld) -> None:
    offer = world.node.offer_of("plain", 50_000, 50_000)
    await world.subscriptions.pay(world.begin(offer))
    begun = world.one()
    assert (begun.kind, begun.next_due) == ("offer", world.now + MONTH_S)
    world.at(MONTH_S)
    # Its issuer gives another invoice each time.
    world.node.asked[offer]["of"] = world.node.asked[world.node.offer_of("next", 50_000, 50_000)]["of"]
    world.node.asked[world.node.asked[offer]["of"]]["invoice_created_at"] = world.now
    await world.subscriptions.tick()
    assert [row["amount_msat"] for row in world.node.parts] == [50_000, 50_000]
    assert (world.one().recurrence_counter, world.one().next_due) == (2, begun.next_due + MONTH_S)


async def test_invoices_are_brought_by_the_operator(world: SubscribedWorld) -> None:
    first = world.bill("one", created_at=world.now)
    await world.subscriptions.pay(world.begin(first, method="bolt11"))
    assert (world.one().kind, world.one().recurrence_counter) == ("bolt11", 1)
    world.at(MONTH_S)
    await world.subscriptions.tick()
    await world.subscriptions.tick()
    assert _codes(world) == ["subscription_due"], "told once"
    second = world.bill("two", created_at=world.now)
    await world.subscriptions.pay(world.begin(second, "client:two", method="bolt11"))
    assert (world.one().recurrence_counter, len(world.node.paid())) == (2, 2)
    world.at(3 * MONTH_S)
    await world.subscriptions.tick()
    assert world.one().state is State.SUSPENDED


async def test_an_offer_of_periods_is_not_paid_once(world: SubscribedWorld) -> None:
    offer = world.node.series()
    with pytest.raises(InvalidParams, match="purpose=subscription"):
        await world.service.pay(world.begin(offer, purpose="fee"))
    assert world.stored() == ()


async def test_a_way_the_operator_does_not_allow_is_refused(world: SubscribedWorld) -> None:
    world.methods = ("bolt11",)
    with pytest.raises(PaymentFailed, match="no_common_method"):
        await world.subscriptions.pay(world.begin(world.node.series()))
    assert world.node.parts == []


async def test_a_node_whose_xpay_knows_no_labels_pays_with_the_older_call(world: SubscribedWorld) -> None:
    world.offered = lambda name: name != "xkeysend"
    await world.subscriptions.pay(world.begin(world.node.series()))
    ((_, params),) = world.node.sent
    assert "bolt11" in params, "pay, not xpay"
    assert params["label"] == world.one().recurrence_label


async def test_a_restored_copy_sees_the_period_that_it_has_forgotten(world: SubscribedWorld) -> None:
    """The issuer gives no other invoice of a period that is paid, and the node's list has the payment."""
    await world.subscriptions.pay(world.begin(world.node.series()))
    world.db.close()
    old = world.path.read_bytes()
    world.open()
    world.at(MONTH_S)
    await world.subscriptions.tick()
    assert world.node.periods_paid() == [0, 1]
    world.db.close()
    for file in world.path.parent.glob(world.path.name + "*"):
        file.unlink()
    world.path.write_bytes(old)
    world.restored = True
    world.open()
    assert world.one().recurrence_counter == 1
    await world.subscriptions.tick()
    assert world.node.periods_paid() == [0, 1], "not paid again"
    assert (world.one().recurrence_counter, world.used()) == (2, 0)
    world.at(MONTH_S)
    await world.subscriptions.tick()
    assert world.node.periods_paid() == [0, 1, 2]


async def test_a_payment_whose_end_cannot_be_read_keeps_no_other_waiting(
    world: SubscribedWorld, tmp_path: Path
) -> None:
    """Of a copy that knows a period as begun, and a node that cannot decode the invoice in its list."""
    await world.subscriptions.pay(world.begin(world.node.series()))
    await world.service.pay(world.order(world.bill("second")))
    period, second = world.db.peek(lambda tx: list(world.rows.raw_payments(tx)))
    for raw in (period, second):
        raw |= {"state": "reserved", "preimage": None, "counted_sats": 55}
    period |= {"payment_hash": None, "target": {**period["target"], "invoice": None}}  # type: ignore[dict-item]
    (tmp_path / "copy").mkdir()
    copy = SubscribedWorld(tmp_path / "copy")
    copy.node = world.node
    copy.restart()
    for raw in (period, second):
        assert await copy.db.write(lambda tx, raw=raw: copy.rows.put_raw_payment(tx, raw))
    del copy.node.asked[next(part["bolt12"] for part in copy.node.parts if part["bolt12"][:3] == "lni")]
    copy.at(3_600)
    await copy.service.settle()
    assert [row.state for row in copy.stored()] == [PaymentState.UNKNOWN, PaymentState.SETTLED]
    await copy.service.pay(copy.order(copy.bill("third")))
    assert len(copy.node.paid()) == 3 and copy.stored()[0].state is PaymentState.UNKNOWN
    copy.check_books()
