"""What nodes owe the kit for work: invoices handed out once, paid by what shows it and nothing else
(docs/protocol/11-advisor-kit.md §8, §15.8, §15.10, §15.11)."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hive_advisor.advisor import Advisor
from hive_advisor.config import ReceiveConfig
from hive_advisor.domain.earning import Earning
from hive_shared.bolt11 import read_invoice
from hive_shared.errors import HiveError, InvalidParams
from kit_world import FEE, PARAMS, KitWorld
from payer_world import PRICE, Payer, opened, settled
from pocket_wallet import PocketWallet


@pytest.fixture
def world(tmp_path: Path) -> KitWorld:
    made = KitWorld(tmp_path)
    made.settings = {"receive": ReceiveConfig("cln", cln="pocket")}
    return made


@pytest.fixture
def payer(world: KitWorld) -> Payer:
    made = Payer(world)
    world.node.answer = made.answer
    return made


@pytest.fixture
def pocket(world: KitWorld) -> PocketWallet:
    return PocketWallet(world.now, world.point)


@pytest_asyncio.fixture
async def kit(world: KitWorld, payer: Payer, pocket: PocketWallet) -> AsyncIterator[Advisor]:
    async with opened(world, payer, pocket) as made:
        await world.hired(made)
        yield made


BUSY_S = 5.0
"""Half of the pause after which a command that met a busy node is tried again."""


async def work(
    kit: Advisor, fee: int = 150, *, pasted: str = "", again: bool = False, wait_s: float = 60
) -> Any:
    """`send --pay`: a fee change that is paid for."""
    client = await kit.clients.named("alice")
    plan = await kit.plan(client, *FEE, {**PARAMS, "fee_ppm": fee})
    command_id = str(uuid.uuid4())
    plan = await kit.money.claim(plan, await kit.quote(plan, 5), command_id, pasted)
    return await kit.execute(plan, wait_s=wait_s, human=True, command_id=command_id, again=again)


async def owed(kit: Advisor) -> Earning:
    """The only earning."""
    (earning,) = await kit.money.earnings.listed(10)
    return earning


async def looked(world: KitWorld, kit: Advisor, ahead: int = 30) -> Earning:
    """Some time later the wallet was asked."""
    world.ahead += ahead
    await kit.money.tick()
    await settled(kit)
    return await owed(kit)


async def test_a_command_takes_an_invoice_along_and_the_wallet_shows_that_it_was_paid(
    world: KitWorld, kit: Advisor, payer: Payer, pocket: PocketWallet
) -> None:
    done = await work(kit)
    assert done.state == "done"
    earning = await owed(kit)
    assert (earning.state, earning.amount_sats, earning.command_id) == ("invoiced", PRICE, done.command_id)
    assert payer.claims == [earning.invoice] and done.payment == {
        "method": "bolt11",
        "invoice": earning.invoice,
    }
    invoice = read_invoice(earning.invoice)
    assert invoice.amount_msat == PRICE * 1_000 and invoice.expires_at >= world.now() + 3_600
    assert (await looked(world, kit)).state == "invoiced"
    pocket.pay_in(earning.invoice)
    paid = await looked(world, kit, 60)
    assert (paid.state, paid.evidence, paid.preimage) == ("paid", "wallet", pocket.invoices[0].preimage)
    kinds = [event.kind for event in await kit.past_events(0, 100)]
    assert kinds.count("earning_paid") == 1


@pytest.mark.parametrize(("agreed", "sent"), [(PRICE, True), (PRICE + 1, False)])
async def test_no_less_is_claimed_than_the_credential_agrees_on_whatever_the_node_offers(
    kit: Advisor, payer: Payer, monkeypatch: pytest.MonkeyPatch, agreed: int, sent: bool
) -> None:
    monkeypatch.setattr("hive_advisor.money.rate_sats", lambda _document, _danger: agreed)
    if sent:
        assert (await work(kit)).state == "done" and (await owed(kit)).amount_sats == PRICE
        return
    with pytest.raises(InvalidParams, match=f"offers {PRICE} sat for this command, its credential agrees on"):
        await work(kit)
    assert payer.claims == [] and await kit.money.earnings.listed(5) == []


async def test_acceptance_11_10_a_notice_pays_nothing_and_two_requests_get_one_invoice(
    world: KitWorld, kit: Advisor, payer: Payer, pocket: PocketWallet
) -> None:
    done = await work(kit)
    earning = await owed(kit)
    await payer.notice(kit, earning)
    assert (await owed(kit)).state == "invoiced"
    assert (await looked(world, kit)).state == "invoiced"
    await payer.notice(kit, earning, preimage="07" * 32)
    assert (await owed(kit)).state == "invoiced"
    await payer.notice(kit, earning, payment_hash="ab" * 32, preimage="07" * 32)
    assert (await owed(kit)).state == "invoiced"

    await payer.ask(kit, done.command_id)
    await payer.ask(kit, done.command_id)
    await payer.ask(kit, done.command_id, idempotency_key="key-2")
    answers = payer.said(kit)
    assert [verb for verb, _ in answers] == ["invoice"] * 3
    assert {body["bolt11"] for _, body in answers} == {earning.invoice} and len(pocket.invoices) == 1
    assert [body["idempotency_key"] for _, body in answers] == ["key-1", "key-1", "key-2"]

    name = await payer.ask(kit, done.command_id, amount_sats=PRICE + 1)
    assert payer.said(kit)[-1] == ("error", {"code": "idempotency_conflict", "msg_id": name})
    name = await payer.ask(kit, done.command_id, amount_sats=PRICE + 1, idempotency_key="key-3")
    assert payer.said(kit)[-1] == ("error", {"code": "amount_mismatch", "msg_id": name})
    assert len(pocket.invoices) == 1 and (await owed(kit)).amount_sats == PRICE

    await payer.notice(kit, earning, preimage=pocket.invoices[0].preimage)
    paid = await owed(kit)
    assert (paid.state, paid.evidence) == ("paid", "preimage")
    name = await payer.ask(kit, done.command_id)
    assert payer.said(kit)[-1] == ("error", {"code": "already_paid", "msg_id": name})


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"command_id": None, "contract_id": "c-1", "purpose": "period"}, "not_found"),
        ({"command_id": "00000000-0000-4000-8000-000000000009"}, "not_found"),
        ({"purpose": "bonus"}, "invalid_params"),
        ({"amount_sats": 0}, "invalid_params"),
        ({"contract_id": "c-1"}, "invalid_params"),
        ({"extra": 1}, "invalid_params"),
    ],
)
async def test_a_request_that_names_what_we_do_not_know_gets_no_invoice(
    kit: Advisor, payer: Payer, pocket: PocketWallet, changes: dict[str, Any], code: str
) -> None:
    done = await work(kit)
    name = await payer.ask(kit, done.command_id, **changes)
    assert payer.said(kit) == [("error", {"code": code, "msg_id": name})]
    assert len(pocket.invoices) == 1


async def test_a_command_sent_without_an_invoice_is_paid_by_the_credentials_rate_only(
    kit: Advisor, payer: Payer, pocket: PocketWallet
) -> None:
    client = await kit.clients.named("alice")
    plan = await kit.plan(client, *FEE, PARAMS)
    done = await kit.execute(plan, wait_s=60, human=True)
    await payer.ask(kit, done.command_id)
    assert [verb for verb, _ in payer.said(kit)] == ["error"], "the credential agrees on no pay"
    assert not pocket.invoices and not await kit.money.earnings.listed(10)


async def test_an_invoice_that_ran_out_in_the_queue_is_replaced_and_both_count(
    world: KitWorld, kit: Advisor, payer: Payer, pocket: PocketWallet
) -> None:
    done = await work(kit)
    first = await owed(kit)
    world.ahead = 2 * 86_400
    await payer.ask(kit, done.command_id)
    second = await owed(kit)
    assert second.invoice != first.invoice and second.former == (first.payment_hash,)
    assert payer.said(kit)[-1][1]["bolt11"] == second.invoice
    # The node had paid the first one in time, and says so late.
    await payer.notice(kit, first, preimage=pocket.invoices[0].preimage)
    assert (await owed(kit)).state == "paid"


async def test_no_second_invoice_where_the_first_one_was_paid_or_the_wallet_is_silent(
    world: KitWorld, kit: Advisor, payer: Payer, pocket: PocketWallet
) -> None:
    done = await work(kit)
    pocket.pay_in((await owed(kit)).invoice)
    world.ahead = 2 * 86_400
    pocket.works = False
    await payer.ask(kit, done.command_id)
    assert payer.said(kit) == [] and len(pocket.invoices) == 1
    pocket.works = True
    assert (await looked(world, kit)).state == "paid"
    assert len(pocket.invoices) == 1


async def test_what_did_not_run_is_not_owed_and_what_is_planned_anew_is(
    world: KitWorld, kit: Advisor, payer: Payer, pocket: PocketWallet
) -> None:
    payer.refuses = "cooldown"
    refused = await work(kit)
    assert refused.state == "rejected"
    assert (await looked(world, kit)).state == "void"
    name = await payer.ask(kit, refused.command_id)
    assert payer.said(kit)[-1] == ("error", {"code": "conflict", "msg_id": name})

    payer.refuses = "busy"
    busy = await work(kit, 151, wait_s=BUSY_S)
    payer.refuses = None
    anew = await kit.retries.again(busy)
    assert anew.payment == busy.payment
    await kit.follow(anew, 5)
    await kit.money.tick()
    earning = await kit.money.earnings.of_command(busy.command_id)
    assert earning is not None and earning.state == "invoiced"
    await payer.ask(kit, anew.command_id, idempotency_key="k9")
    assert payer.said(kit)[-1][1]["bolt11"] == earning.invoice


@pytest.mark.parametrize("given_up", [False, True])
async def test_what_is_planned_anew_some_rounds_later_stays_owed(
    world: KitWorld, kit: Advisor, payer: Payer, pocket: PocketWallet, given_up: bool
) -> None:
    payer.refuses = "busy"
    busy = await work(kit, wait_s=BUSY_S)
    assert (await looked(world, kit, 10)).state == "invoiced", "its next try is due"
    if given_up:
        void = await looked(world, kit, 90_000)
        assert void.state == "void"
        with pytest.raises(HiveError, match="nothing is to be paid"):
            await kit.money.earnings.invoice(void)
    payer.refuses = None
    anew = await kit.retries.again(busy)
    await kit.follow(anew, 5)
    world.ahead += 90_000
    await payer.ask(kit, anew.command_id)
    earning = await owed(kit)
    assert payer.said(kit)[-1][1]["bolt11"] == earning.invoice and earning.state == "invoiced"
    assert (await looked(world, kit, 20 * 86_400)).state == "unpaid"


async def test_a_node_does_not_put_off_when_its_debt_is_overdue(
    world: KitWorld, kit: Advisor, payer: Payer, pocket: PocketWallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hive_advisor.services.earnings.agreed_sats", lambda _document, _danger: PRICE)
    client = await kit.clients.named("alice")
    done = await kit.execute(await kit.plan(client, *FEE, PARAMS), wait_s=60, human=True)
    await payer.ask(kit, done.command_id, due_at=world.now() + 10**9)
    assert (await owed(kit)).state == "invoiced"
    assert (await looked(world, kit, 15 * 86_400 + 10)).state == "unpaid"


async def test_two_weeks_make_it_unpaid_and_a_late_payment_paid(
    world: KitWorld, kit: Advisor, payer: Payer, pocket: PocketWallet
) -> None:
    await work(kit)
    pocket.changes = {}
    earning = await looked(world, kit, 14 * 86_400 + 10)
    assert earning.state == "unpaid"
    await payer.notice(kit, earning, preimage=pocket.invoices[0].preimage)
    assert (await owed(kit)).state == "paid"
    with pytest.raises(HiveError, match="nothing to dispute"):
        await kit.money.earnings.dispute(earning)


async def test_a_disputed_one_stays_so_until_a_payment_is_shown(
    world: KitWorld, kit: Advisor, payer: Payer, pocket: PocketWallet
) -> None:
    await work(kit)
    marked = await kit.money.earnings.dispute(await kit.money.earnings.get((await owed(kit)).earning_id[:8]))
    assert marked.state == "disputed" and (await looked(world, kit)).state == "disputed"
    pocket.pay_in(marked.invoice)
    assert (await looked(world, kit, 600)).state == "paid"


@pytest.mark.parametrize(
    ("quote", "why"),
    [
        ({"direction": "access", "price_sats": 5, "methods": ["bolt11"]}, "pays nothing"),
        ({"direction": "compensation", "price_sats": 0, "methods": ["bolt11"]}, "pays nothing"),
        ({"direction": "compensation", "price_sats": "9", "methods": ["bolt11"]}, "pays nothing"),
        ({"direction": "compensation", "price_sats": 9, "methods": ["cashu_escrow"]}, "by cashu_escrow"),
        ({"direction": "compensation", "price_sats": 9, "methods": None}, "no way it offers"),
    ],
)
async def test_no_invoice_is_made_for_a_node_that_would_not_pay_it(
    kit: Advisor, payer: Payer, pocket: PocketWallet, quote: dict[str, Any], why: str
) -> None:
    payer.quote = quote
    with pytest.raises(HiveError, match=why):
        await work(kit)
    assert not pocket.invoices and not payer.claims


async def test_an_invoice_of_the_wallet_that_is_not_the_order_is_not_handed_out(
    world: KitWorld, kit: Advisor, payer: Payer, pocket: PocketWallet
) -> None:
    for changes, why in (
        ({"amount_msat": PRICE * 1_000 + 1}, "25001 msat"),
        ({"amount_msat": None}, "None msat"),
        ({"expiry": 600}, "600 s|599 s"),
    ):
        pocket.changes = changes
        with pytest.raises(HiveError, match=why):
            await work(kit)
    assert not payer.claims
    assert {each.state for each in await kit.money.earnings.listed(10)} == {"void"}


async def test_a_command_that_never_left_is_not_owed(
    world: KitWorld, kit: Advisor, payer: Payer, pocket: PocketWallet
) -> None:
    client = await kit.clients.named("alice")
    await kit.money.earnings.order(client, "00000000-0000-4000-8000-000000000001", PRICE)
    assert (await looked(world, kit)).state == "invoiced"
    assert (await looked(world, kit, 4_000)).state == "void"


async def test_a_pasted_invoice_is_checked_the_same_and_is_good_once(
    world: KitWorld, kit: Advisor, payer: Payer, pocket: PocketWallet
) -> None:
    mine = pocket.invoice(PRICE * 1_000, "by hand", 7_200)
    with pytest.raises(HiveError, match="no BOLT 11 invoice"):
        await work(kit, pasted="lnbc")
    assert (await work(kit, 151, pasted=mine.text)).state == "done"
    with pytest.raises(HiveError, match="handed out before"):
        await work(kit, 152, pasted=mine.text)
    earning = next(e for e in await kit.money.earnings.listed(10) if e.invoice)
    assert (earning.way, earning.invoice) == ("manual", mine.text) and payer.claims == [mine.text]
    other = pocket.invoice(PRICE * 1_000, "another")
    with pytest.raises(HiveError, match="could be paid too"):
        await kit.money.earnings.invoice(earning, other.text)
    await payer.notice(kit, earning, preimage=mine.preimage)
    assert (await kit.money.earnings.get(earning.earning_id)).state == "paid"


async def test_without_a_way_in_the_kit_says_how_to_get_one(
    world: KitWorld, payer: Payer, pocket: PocketWallet
) -> None:
    world.settings = {}
    async with opened(world, payer, pocket) as kit:
        await world.hired(kit)
        with pytest.raises(HiveError, match=r"receive\.method"):
            await work(kit)


async def test_killed_anywhere_one_invoice_is_handed_out_and_its_payment_noticed_once(
    world: KitWorld, payer: Payer, pocket: PocketWallet, tmp_path: Path
) -> None:
    async with opened(world, payer, pocket) as kit:
        await world.hired(kit)
    for at in range(60):
        there = world.copy(tmp_path / str(at))
        node = Payer(there)
        there.node.answer = node.answer
        wallet = PocketWallet(there.now, there.point)

        async def day(
            kit: Advisor, there: KitWorld = there, node: Payer = node, wallet: Any = wallet
        ) -> None:
            kit.money._nodes, kit.signed_mail._link = wallet, node
            done = await work(kit, again=True)
            await node.ask(kit, done.command_id)
            if not any(one.paid for one in wallet.invoices):
                wallet.pay_in(node.claims[-1])
            await looked_at(there, kit)

        died = await there.killed(at, day)
        async with there.open() as kit:
            kit.money._nodes, kit.signed_mail._link = wallet, node
            for command in await kit.commands.open():
                await kit.send_again(command, await kit.clients.named("alice"))
                await kit.commands.settled(command.command_id, 5)
            await looked_at(there, kit)
            handed = {text for text in node.claims if text}
            handed |= {body["bolt11"] for verb, body in node.said(kit) if verb == "invoice"}
            assert len(handed) <= 1, at
            earned = [e for e in await kit.money.earnings.listed(10) if e.invoice in handed]
            assert len(earned) == len(handed), at
            paid = sum(one.paid for one in wallet.invoices)
            assert [e.state for e in earned if e.state == "paid"] == ["paid"] * paid, at
            kinds = [event.kind for event in await kit.past_events(0, 500)]
            assert kinds.count("earning_paid") == paid, at
        if not died:
            assert at > 10 and paid == 1
            return
    pytest.fail("a day has more than 60 points")


async def looked_at(world: KitWorld, kit: Advisor) -> None:
    world.ahead += 60
    await kit.money.tick()
    await settled(kit)
