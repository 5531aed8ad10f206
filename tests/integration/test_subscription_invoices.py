"""Invoices of a period, which the agent is asked for: checked, paid once, over every kill; silence suspends
(docs/protocol/03-escrow-and-payments.md §7.4; 11-advisor-kit.md §15.10; docs/decisions/0640)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from cl_hive_comms.domain.recurrence import DAY_S
from cl_hive_comms.domain.subscription_machine import State
from cl_hive_comms.plugin.subscriptions import monthly_fees
from cl_hive_comms.services.messenger_signed import RESTORED_AT
from cl_hive_comms.services.period_invoices import Whom
from cl_hive_comms.services.subscription_service import Dues
from cl_hive_comms.storage.state_store import StateStore
from cl_hive_comms.storage.subscription_store import SubscriptionStore
from crash_points import MOST_POINTS, Countdown
from hive_shared import vc
from hive_shared.errors import Conflict, HiveError, InvalidParams, NotFound, PaymentFailed, Unauthorized
from hive_shared.invoice_messages import INVOICE, Invoice, body_doc
from hive_shared.signed_message import Draft
from hive_shared.store import Tx
from paying_world import ADA
from pipeline_world import Crash
from reward_world import AGENT
from subscription_world import MONTH_S, SubscribedWorld

HOUR_S = 3_600
CONTRACT = "00000000-0000-4000-8000-0000000000cc"


@pytest.fixture
async def world(tmp_path: Path) -> SubscribedWorld:
    """Begun by an invoice that the operator brought, a month ago; nobody has been asked yet."""
    made = SubscribedWorld(tmp_path)
    await _begun(made)
    return made


async def _begun(world: SubscribedWorld) -> None:
    first = world.bill("first", created_at=world.now)
    await world.subscriptions.pay(world.begin(first, method="bolt11"))
    world.agreed.with_ = Whom(AGENT, CONTRACT)
    world.at(MONTH_S)


def _codes(world: SubscribedWorld) -> list[str]:
    return [code for _, code, _ in world.outside.alerts]


async def test_the_agent_is_asked_and_its_invoice_paid_once_each_period(world: SubscribedWorld) -> None:
    begin = world.one().window_start
    await world.subscriptions.tick()
    (asked,) = world.asked()
    assert {name: asked[name] for name in ("purpose", "contract_id", "amount_sats", "period_start")} == {
        **{"purpose": "period", "contract_id": CONTRACT, "amount_sats": 50, "period_start": begin}
    }
    assert [letter["to"] for letter in world.letters.sent.values()] == [AGENT]
    assert world.node.paid()[1:] == [] and _codes(world) == []
    text = await world.answer("second")
    assert len(world.node.paid()) == 2
    row = world.one()
    assert (row.state, row.recurrence_counter, row.asks, row.invoice) == (State.ACTIVE, 2, 0, None)
    assert (row.offer, row.window_start) == (text, begin + MONTH_S)
    ((to, action, notice),) = world.notices.sent
    assert (to, action, notice["purpose"], notice["contract_id"]) == (
        *(AGENT, "payment_notice", "period", CONTRACT),
    )
    assert notice["preimage"] == world.stored()[-1].preimage
    with pytest.raises(Conflict, match="waited for no more"):
        await world.answer("third", key=asked["idempotency_key"])
    await world.subscriptions.tick()
    assert (len(world.node.paid()), len(world.asked())) == (2, 1)
    world.at(MONTH_S)
    await world.subscriptions.tick()
    await world.answer("third")
    assert len(world.node.paid()) == 3
    world.check_books()


async def test_an_invoice_that_is_not_what_was_asked_for_is_not_paid(world: SubscribedWorld) -> None:
    await world.subscriptions.tick()
    key = world.asked()[0]["idempotency_key"]
    refused: list[tuple[type[HiveError], str, dict[str, object]]] = [
        (PaymentFailed, "60000 msat, 50000 msat were agreed", {"sats": 60}),
        (PaymentFailed, "expires in", {"expiry": 30}),
        (PaymentFailed, "expired", {"created_at": world.now - 90, "expiry": 60}),
        (PaymentFailed, "own", {"payee": await world.subscriptions._lightning.own_id()}),
        (Unauthorized, "another agent", {"sender": "ab" * 32}),
        (NotFound, "nobody asked", {"key": "subscription:" + "0" * 32 + ":1:1"}),
        (Conflict, "waited for no more", {"key": key.replace(":1:", ":2:")}),
    ]
    for number, (error, text, says) in enumerate(refused):
        with pytest.raises(error, match=text):
            await world.answer(f"wrong {number}", **{"created_at": world.now, **says})  # type: ignore[arg-type]
    with pytest.raises(Conflict, match="that of another payment"):
        await world.answer("first")
    foreign = world.bill("mainnet").replace("lnbcrt", "lnbc")
    with pytest.raises(InvalidParams):
        await world.subscriptions._invoices.take(_given(world, key, foreign), AGENT)
    assert (world.one().invoice, len(world.node.paid()), world.used(3_600)) == (None, 1, 0)
    # What is right is taken after all of that.
    await world.answer("right")
    assert len(world.node.paid()) == 2


def _given(world: SubscribedWorld, key: str, text: str) -> Draft:
    body = Invoice(idempotency_key=key, bolt11=text, amount_sats=50, expires_at=world.now + 600)
    number = "00000000-0000-4000-8000-000000000001"
    return Draft(INVOICE, number, "t", 1, world.now, world.now + 60, body_doc(body))


async def test_an_agent_that_stays_silent_is_asked_after_1_4_and_12_hours_then_suspended(
    world: SubscribedWorld,
) -> None:
    begun, asked = world.now, []
    for _ in range(60):
        before = len(world.asked())
        await world.subscriptions.tick()
        if len(world.asked()) > before:
            asked.append((world.now - begun) // HOUR_S)
        if world.one().state is State.SUSPENDED:
            break
        world.at(HOUR_S)
    assert (asked, (world.now - begun) // HOUR_S) == ([0, 1, 5, 17], 41)
    assert len({body["idempotency_key"] for body in world.asked()}) == 4
    assert _codes(world) == ["subscription_suspended"]
    assert "gave no invoice" in str(world.one().error)
    # Its answer ends the suspension; the operator need not do anything.
    await world.answer("late")
    assert (world.one().state, world.one().recurrence_counter) == (State.ACTIVE, 2)
    assert len(world.node.paid()) == 2


async def test_an_invoice_that_ran_out_unpaid_is_asked_for_anew(world: SubscribedWorld) -> None:
    await world.subscriptions.tick()
    world.engaged = True
    await world.answer("held up", expiry=2 * HOUR_S)
    world.at(3 * HOUR_S)
    await world.subscriptions.tick()
    assert (len(world.node.paid()), len(world.asked())) == (1, 1)
    world.engaged = False
    await world.subscriptions.tick()
    assert (len(world.asked()), world.one().invoice) == (2, None)
    await world.answer("fresh")
    assert len(world.node.paid()) == 2


async def test_of_two_invoices_the_first_is_paid(world: SubscribedWorld) -> None:
    await world.subscriptions.tick()
    world.engaged = True
    first = await world.answer("one")
    assert await world.answer("one") == first
    with pytest.raises(Conflict, match="another invoice"):
        await world.answer("two")
    world.engaged = False
    await world.subscriptions.tick()
    assert [row.target.invoice for row in world.stored()][1:] == [first]


async def test_a_failed_payment_is_tried_again_by_the_same_invoice_inside_the_limits(
    world: SubscribedWorld,
) -> None:
    await world.subscriptions.tick()
    world.own_limits[ADA] = 10
    await world.answer("dear")
    assert (world.one().failures, world.one().error or "") == (1, world.one().error)
    assert str(world.one().error).startswith("budget_exhausted")
    world.own_limits.clear()
    world.node.ends = "failed"
    world.at(HOUR_S)
    await world.subscriptions.tick()
    assert (world.one().failures, world.used()) == (2, 0)
    world.node.ends = "complete"
    world.at(4 * HOUR_S)
    await world.subscriptions.tick()
    assert (world.one().recurrence_counter, len(world.node.paid()), len(world.asked())) == (2, 2, 1)
    world.check_books()


@pytest.mark.parametrize("ends", ["complete", "pending"])
async def test_a_period_asked_for_and_killed_anywhere_is_paid_once(tmp_path: Path, ends: str) -> None:
    for at in range(MOST_POINTS):
        (tmp_path / str(at)).mkdir()
        world = SubscribedWorld(tmp_path / str(at))
        await _begun(world)
        world.node.ends, died = ends, True
        killer = Countdown(at)
        killer.watch(world.db, "write", "read")
        killer.watch(world.node, "call", "getinfo")
        try:
            await world.subscriptions.tick()
            await world.answer("second")
            died = False
        except Crash:
            pass
        killer.left = -1
        for name in ("call", "getinfo"):
            world.node.__dict__.pop(name, None)
        world.restart()
        world.node.ends = "complete"
        for hour in range(6):
            world.node.end("complete")
            await world.service.settle()
            await world.subscriptions.tick()
            if world.one().asks and world.one().invoice is None:
                # The kit answers every request, with the same invoice while it is good.
                await world.answer("second")
            world.at(HOUR_S * (1 + hour // 4))
        row = world.one()
        assert (row.state, row.recurrence_counter, row.failures) == (State.ACTIVE, 2, 0), at
        assert len(world.node.paid()) == 2, at
        settled = [each.period_key for each in world.stored() if each.state == "settled"]
        assert settled == [f"{row.sub_id}:0", f"{row.sub_id}:1"], at
        assert len(world.notices.sent) == 1, at
        world.check_books()
        world.db.close()
        if not died:
            break
    else:
        raise AssertionError("the work never ended")


async def test_a_restored_copy_asks_nobody_and_takes_no_late_answer(world: SubscribedWorld) -> None:
    await world.subscriptions.tick()
    store = SubscriptionStore()
    (raw,) = world.db.peek(lambda tx: list(store.raw_subscriptions(tx)))
    await world.db.write(lambda tx: tx.execute("DELETE FROM comms_subscriptions"))
    assert await world.db.write(lambda tx: store.put_raw_subscription(tx, raw))
    row = world.one()
    assert (row.state, row.asks, row.invoice) == (State.SUSPENDED, 0, None)
    with pytest.raises(Conflict, match="waited for no more"):
        await world.answer("second")
    await world.subscriptions.tick()
    assert len(world.node.paid()) == 1


async def _contract(world: SubscribedWorld, methods: tuple[str, ...] = ("cashu", "bolt11")) -> None:
    dues = Dues(50, methods, world.now)
    await world.db.write(lambda tx: world.subscriptions.begin(tx, CONTRACT, "ada", ADA, dues))


async def test_a_contract_of_an_older_copy_may_have_been_paid_before(tmp_path: Path) -> None:
    """Signed in the copy, it was active and its first period paid before the copy was put back."""
    world = SubscribedWorld(tmp_path)
    world.agreed.with_ = Whom(AGENT, CONTRACT)
    contracts = SimpleNamespace()
    monthly_fees(contracts, SimpleNamespace(on_change=lambda _: None), world.subscriptions)  # type: ignore[arg-type]
    row = SimpleNamespace(
        contract_id=CONTRACT,
        advisor_name="ada",
        created_at=world.now - DAY_S,
        terms={
            "compensation": {
                "model": "subscription",
                "baseMonthlySats": 50,
                "acceptedMethods": ["bolt11"],
            }
        },
        document={"credentialSubject": {"duration": {"fullTermStart": vc.moment(world.now)}}},
    )

    def activated(tx: Tx) -> None:
        StateStore().put(tx, RESTORED_AT, str(world.now), world.now)
        contracts.activated(tx, row, ADA)

    await world.db.write(activated)
    await world.subscriptions.tick()
    assert (world.one().state, world.asked(), _codes(world)) == (
        *(State.SUSPENDED, [], ["subscription_suspended"]),
    )
    # One that was negotiated since is paid by itself.
    row.contract_id, row.created_at = CONTRACT.replace("cc", "cd"), world.now + 1
    await world.db.write(lambda tx: contracts.activated(tx, row, ADA))
    await world.subscriptions.tick()
    assert len(world.asked()) == 1


async def test_a_contract_is_paid_by_the_month_to_its_end(tmp_path: Path) -> None:
    """Its last period is cut short: so is what it costs."""
    world = SubscribedWorld(tmp_path)
    world.agreed.with_ = Whom(AGENT, CONTRACT, world.now + MONTH_S + 6 * DAY_S)
    await _contract(world)
    await _contract(world)
    await world.subscriptions.tick()
    await world.answer("month 1")
    assert (world.one().contract_id, world.one().amount_sats) == (CONTRACT, 50)
    assert world.stored()[0].contract_id == CONTRACT
    world.at(MONTH_S)
    await world.subscriptions.tick()
    last = world.asked()[-1]
    assert (last["purpose"], last["amount_sats"]) == ("prorated", 10)
    with pytest.raises(PaymentFailed, match="50000 msat, 10000 msat were agreed"):
        await world.answer("too much", 50)
    await world.answer("month 2", 10)
    assert [msat for _, msat in world.node.paid()] == [50_000, 10_000]
    assert (world.one().state, world.one().amount_sats) == (State.ENDED, 50)


async def test_an_agent_that_does_not_hold_its_credential_yet_is_asked_later(tmp_path: Path) -> None:
    world = SubscribedWorld(tmp_path)
    world.agreed.with_ = Whom(AGENT, CONTRACT, None, there=False)
    await _contract(world)
    world.subscriptions.kick()
    await world.subscriptions.drain()
    await world.subscriptions.tick()
    assert world.asked() == []
    world.agreed.with_ = Whom(AGENT, CONTRACT)
    world.subscriptions.kick()
    await world.subscriptions.drain()
    assert len(world.asked()) == 1, "as soon as it says so"
    world.restart()
    (tmp_path / "other").mkdir()
    silent = SubscribedWorld(tmp_path / "other")
    silent.agreed.with_ = Whom(AGENT, CONTRACT, None, there=False)
    await _contract(silent)
    silent.at(HOUR_S)
    await silent.subscriptions.tick()
    assert len(silent.asked()) == 1, "or an hour later"


async def test_a_contract_that_ended_early_costs_nothing_more(tmp_path: Path) -> None:
    world = SubscribedWorld(tmp_path)
    world.agreed.with_ = Whom(AGENT, CONTRACT, world.now + 3 * MONTH_S)
    await _contract(world)
    await world.subscriptions.tick()
    await world.answer("month 1")
    world.agreed.ended.add(CONTRACT)
    world.at(MONTH_S)
    await world.subscriptions.tick()
    assert (world.one().state, world.one().error) == (State.ENDED, "its contract has ended")
    assert (len(world.asked()), len(world.node.paid())) == (1, 1)


async def test_a_contract_without_a_common_way_is_told_to_the_operator(tmp_path: Path) -> None:
    world = SubscribedWorld(tmp_path)
    await _contract(world, ("cashu",))
    assert world.every() == () and _codes(world) == ["subscription_by_hand"]
