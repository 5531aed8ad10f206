"""Tickets from the operator's wish to the mint's evidence, between a payer's node and the kit as payee, at a
real mint (docs/protocol/03-escrow-and-payments.md §6)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import pytest_asyncio
from cl_hive_comms.domain.advisor import Advisor
from cl_hive_comms.services.escrow_service import ItemAsked, Judged, PayeeTold, TicketAsked
from cl_hive_comms.services.lock_service import LockSettings
from escrow_world import AGENT, EscrowWorld
from hive_shared.cashu.escrow import UNLOCKED_S, EscrowEngine, Ordered
from hive_shared.cashu.escrow_disputes import ANSWER_S, SILENCE, Answer
from hive_shared.cashu.escrow_rows import DisputeState, TicketRow
from hive_shared.cashu.escrow_terms import ItemPlan
from hive_shared.cashu.keysets import fee_sats, split
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.outputs import output
from hive_shared.cashu.ports import MintUnavailable
from hive_shared.cashu.terms import Mode, TicketType
from hive_shared.cashu.ticket_machine import TicketStatus
from hive_shared.cashu.ticket_messages import (
    Dispute,
    DisputeReply,
    Metric,
    Outcome,
    Owed,
    Redeemed,
    Release,
    SecretHashes,
    SecretRequest,
    Ticket,
    TicketAck,
    TicketReject,
    TicketResend,
    body_of,
)
from hive_shared.cashu.token import decode_token
from hive_shared.cashu.wallet import MintKeys
from hive_shared.cashu.witness import build, inputs_digest, sign
from hive_shared.crypto import sha256
from hive_shared.errors import (
    BudgetExhausted,
    Conflict,
    EmergencyStop,
    InvalidParams,
    NotFound,
    PaymentFailed,
    RateLimited,
    Unauthorized,
)
from hive_shared.store import Tx
from lock_world import ADA
from payee_world import CONTEXT, PayeeWorld

pytestmark = pytest.mark.asyncio(loop_scope="module")
PARAMS = "sha256:" + "ab" * 32
STRANGER = "cd" * 32


@pytest_asyncio.fixture(loop_scope="module")
async def payer(mint_url: str, tmp_path: Path) -> AsyncIterator[EscrowWorld]:
    world = EscrowWorld(tmp_path / "payer", mint_url)
    await world.service.fund(1_500, None, None, 30)
    yield world
    await world.close()


@pytest_asyncio.fixture(loop_scope="module")
async def payee(mint_url: str, tmp_path: Path) -> AsyncIterator[PayeeWorld]:
    world = PayeeWorld(tmp_path / "payee", mint_url)
    world.now = int(time.time())
    yield world
    await world.close()


async def test_a_single_ticket_from_the_wish_to_the_money(payer: EscrowWorld, payee: PayeeWorld) -> None:
    had = await payer.sats()
    plan = payer.plan(payee, [100])
    ticket = await payer.create(plan)
    assert ticket.status is TicketStatus.ACTIVE
    assert await payer.item_states(ticket.ticket_id) == ["delivered"]
    # The same call is the same ticket, and sends nothing twice; another plan under its key is refused.
    assert await payer.create(plan) == ticket and len(payer.letters) == 1
    with pytest.raises(Conflict, match="another ticket"):
        await payer.create(payer.plan(payee, [101]))
    await payer.carry(payee)
    assert await payer.item_states(ticket.ticket_id) == ["accepted"]
    await payer.begin(ticket)
    preimage = await payer.succeed(ticket)
    await payee.engine.released(payee.me, Release(ticket.ticket_id, 0, preimage))
    await payee.redeemer.redeem(at_once=True)
    assert await payee.sats() == 100
    await payer.tell_us(Redeemed(ticket.ticket_id, 0))
    (item,) = await payer.items(ticket.ticket_id)
    assert item.state.value == "redeemed" and item.redeemed_at == payer.now
    assert (await payer.engine.ticket(ticket.ticket_id)).status is TicketStatus.REDEEMED
    (row,) = await payer.every()
    assert row.preimage == preimage and item.hash == sha256(bytes.fromhex(preimage)).hex()
    fees = sum(op.fee_sats for op in await payer.ops())
    assert await payer.sats() == had - row.face_sats - fees


async def test_a_failed_task_is_taken_back_at_its_locktime_and_not_before(
    payer: EscrowWorld, payee: PayeeWorld
) -> None:
    now = payer.now
    # The mint's clock is real: the ticket was made long ago.
    payer.now = payee.now = now - 21_600 - 3_600 - 61
    ticket = await payer.create(payer.plan(payee, [100]))
    await payer.carry(payee)
    await payer.begin(ticket)
    await payer.fail(ticket)
    (lock,) = await payer.every()
    with pytest.raises(PaymentFailed) as early:
        await payer.locks.refund([lock.lock_id])
    assert early.value.symbol == "too_early"
    payer.now = now
    await payer.sweep()
    assert await payer.item_states(ticket.ticket_id) == ["refunded"]
    assert (await payer.engine.ticket(ticket.ticket_id)).status is TicketStatus.REFUNDED
    assert payer.notices == [] and await payer.counted() == 0
    fees = sum(op.fee_sats for op in await payer.ops())
    assert await payer.sats() == 1_500 - fees


async def test_what_is_earned_but_came_back_is_owed_until_it_is_replaced(
    payer: EscrowWorld, payee: PayeeWorld
) -> None:
    now = payer.now
    payer.now = payee.now = now - 21_600 - 3_600 - 86_400 - 61
    ticket = await payer.create(payer.plan(payee, [100]))
    await payer.carry(payee)
    await payer.begin(ticket)
    await payer.succeed(ticket)
    # For a day it is left to the payee.
    payer.now = now - 120
    await payer.locks.tick()
    assert await payer.item_states(ticket.ticket_id) == ["released"]
    payer.now = now
    await payer.sweep()
    (item,) = await payer.items(ticket.ticket_id)
    assert (item.state.value, item.owed_sats, payer.notices) == ("refunded", 100, ["owed"])
    for _ in range(2):
        await payer.engine.tick()
    assert [each for each in payer.letters.values() if isinstance(each, Owed)] == [
        Owed(ticket.ticket_id, 0, 100, "late_release")
    ]
    with pytest.raises(InvalidParams, match="to replace"):
        await payer.create(payer.plan(payee, [100], replaces="00" * 16), "r")
    new = await payer.create(payer.plan(payee, [100], replaces=ticket.ticket_id), "r2")
    (item,) = await payer.items(ticket.ticket_id)
    assert item.owed_by == new.ticket_id and await payer.db.read(payer.tickets.owed) == []


async def test_a_replacement_that_pays_nothing_leaves_what_is_owed_owed(
    payer: EscrowWorld, payee: PayeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = payer.now
    start = payer.now = payee.now = now - 21_600 - 3_600 - 86_400 - 61
    ticket = await payer.create(payer.plan(payee, [100]))
    await payer.carry(payee)
    await payer.begin(ticket)
    await payer.succeed(ticket)
    payer.now = now
    await payer.sweep()

    async def owed_by() -> str:
        (item,) = await payer.items(ticket.ticket_id)
        open_ = await payer.db.read(payer.tickets.owed)
        assert [each.ticket_id for each in open_] == ([] if item.owed_by else [ticket.ticket_id])
        return item.owed_by

    async def down(*_: object) -> None:
        raise MintUnavailable(payer.mint_url, "down", sent=False)

    again = payer.plan(payee, [100], replaces=ticket.ticket_id)
    with monkeypatch.context() as broken:
        # The swap has been begun, with its rows, before the mint turns out to be away.
        broken.setattr(type(payer.locks._mints.at(payer.mint_url)), "swap", down)
        with pytest.raises(PaymentFailed):
            await payer.create(again, "failed")
    assert await owed_by() == ""
    payer.now = payee.now = start
    new = await payer.create(again, "refunded")
    assert await owed_by() == new.ticket_id
    payer.now = now
    await payer.sweep()
    assert await payer.item_states(new.ticket_id) == ["refunded"]
    assert await owed_by() == ""


async def test_a_task_that_outlasts_its_money_ends_as_owed_or_as_refunded(
    payer: EscrowWorld, payee: PayeeWorld
) -> None:
    now = payer.now
    payer.now = payee.now = now - 21_600 - 3_600 - 86_400 - 61
    names = ("earned", "failed", "unproved")
    tickets = {name: await payer.create(payer.plan(payee, [100]), name) for name in names}
    await payer.carry(payee)
    for ticket in tickets.values():
        await payer.begin(ticket)
    payer.now = now
    await payer.sweep()
    assert {row.state.value for row in await payer.every()} == {"refunded"}
    for ticket in tickets.values():
        assert await payer.item_states(ticket.ticket_id) == ["executing"]
    earned = tickets["earned"].ticket_id
    await payer.succeed(tickets["earned"])
    await payer.fail(tickets["failed"])
    (unproved,) = await payer.items(tickets["unproved"].ticket_id)
    await payer.db.write(lambda tx: payer.work.unknown(tx, unproved, None))
    await payer.engine.tick()
    for ticket in tickets.values():
        assert await payer.item_states(ticket.ticket_id) == ["refunded"]
        assert (await payer.engine.ticket(ticket.ticket_id)).status is TicketStatus.REFUNDED
    assert [item.ticket_id for item in await payer.db.read(payer.tickets.owed)] == [earned]
    assert [each for each in payer.letters.values() if isinstance(each, Owed)] == [
        Owed(earned, 0, 100, "late_release")
    ]
    assert payer.notices == ["owed"]
    # The preimage is told on request all the same: the receipt says that it was released.
    await payer.operator().release(earned, 0)
    assert [each.ticket_id for each in payer.letters.values() if isinstance(each, Release)] == [earned]


async def test_a_rejected_ticket_waits_for_its_locktime(payer: EscrowWorld, payee: PayeeWorld) -> None:
    payee.caps = None  # A mint whose probe is unknown takes small tickets only: this one is not small.
    await payee.restart()
    ticket = await payer.create(payer.plan(payee, [1_200]))
    await payer.carry(payee)
    assert await payer.item_states(ticket.ticket_id) == ["failed"]
    found = await payer.engine.ticket(ticket.ticket_id)
    assert found.status is TicketStatus.FAILED and found.error.startswith("rejected by the advisor: ")
    assert payer.notices == ["rejected"]
    with pytest.raises(PaymentFailed, match="pays no new task"):
        await payer.begin(ticket)
    # An old ack changes nothing any more.
    await payer.tell_us(TicketAck(ticket.ticket_id, found.terms_hash))
    assert await payer.item_states(ticket.ticket_id) == ["failed"]


async def test_only_the_payee_speaks_about_a_ticket_and_only_about_its_terms(
    payer: EscrowWorld, payee: PayeeWorld
) -> None:
    ticket = await payer.create(payer.plan(payee, [50, 50]))
    id_, hash_ = ticket.ticket_id, ticket.terms_hash
    for sender, message, error in (
        (STRANGER, TicketAck(id_, hash_), NotFound),
        (STRANGER, TicketReject(id_, "token_spent", "x"), NotFound),
        (STRANGER, TicketResend(id_, 0, 1), NotFound),
        (STRANGER, Redeemed(id_, 0), NotFound),
        (STRANGER, Dispute("ab" * 16, id_, 0, "mine", []), NotFound),
        (AGENT, TicketAck("00" * 16, hash_), NotFound),
        (AGENT, TicketAck(id_, "00" * 32), Conflict),
        (AGENT, TicketReject(id_, "token_spent", "x", terms_hash="00" * 32), Conflict),
        (AGENT, TicketResend(id_, 0, 2), Conflict),
        (AGENT, Ticket(id_, ["cashuB"], first=0, last=0), NotFound),
        (AGENT, DisputeReply("ab" * 16, Outcome.PAY, "x"), NotFound),
    ):
        with pytest.raises(error):
            await payer.tell_us(message, sender=sender)
        assert await payer.item_states(id_) == ["delivered", "delivered"]
    payer.letters.clear()
    await payer.tell_us(TicketResend(id_, 1, 1))
    ((_, again),) = payer.letters.items()
    assert isinstance(again, Ticket) and (again.first, again.last) == (1, 1)
    with pytest.raises(RateLimited):
        for _ in range(200):
            await payer.tell_us(TicketAck(id_, hash_))
    payer.now += 3_601
    await payer.tell_us(TicketAck(id_, hash_))
    assert await payer.item_states(id_) == ["accepted", "accepted"]


async def test_what_the_mint_does_not_lock_is_cancelled_and_says_why(
    payer: EscrowWorld, payee: PayeeWorld
) -> None:
    with pytest.raises(PaymentFailed) as refused:
        await payer.create(payer.plan(payee, [2_000]))
    assert refused.value.symbol == "insufficient_ecash"
    with pytest.raises(PaymentFailed, match="was given up: insufficient_ecash"):
        await payer.create(payer.plan(payee, [2_000]))
    payer.settings = LockSettings(most_locked=250_000, most_ticket=90, grace_s=86_400)
    with pytest.raises(BudgetExhausted, match="mint-max-ticket"):
        await payer.create(payer.plan(payee, [100]), "k2")
    payer.settings = EscrowWorld.settings
    payer.stopped = True
    with pytest.raises(EmergencyStop):
        await payer.create(payer.plan(payee, [100]), "k3")
    payer.stopped = False
    states = [row.status for row in await payer.every_ticket()]
    assert states == [TicketStatus.CANCELLED] * 3
    assert payer.letters == {} and await payer.sats() == 1_500 and await payer.every() == []


async def test_cancel_takes_only_what_was_never_funded(payer: EscrowWorld, payee: PayeeWorld) -> None:
    ticket = await payer.create(payer.plan(payee, [100]))
    with pytest.raises(Conflict, match="never"):
        await payer.engine.cancel(ticket.ticket_id)
    with pytest.raises(NotFound):
        await payer.engine.cancel("00" * 16)
    # What a stop left before anything was locked is given up by itself.
    order = Ordered("k2", [(payer.mint_url, 1_000)], ADA)
    plan = payer.plan(payee, [70])
    planned = await payer.db.write(lambda tx: payer.engine.made(tx, plan, order))
    await payer.restart()
    await payer.engine.tick()
    assert (await payer.engine.ticket(planned.ticket_id)).status is TicketStatus.PENDING
    payer.now += UNLOCKED_S
    await payer.engine.tick()
    assert (await payer.engine.ticket(planned.ticket_id)).status is TicketStatus.CANCELLED
    assert await payer.engine.cancel(planned.ticket_id) == await payer.engine.ticket(planned.ticket_id)


async def test_nothing_is_locked_for_a_ticket_that_is_given_up_while_its_call_runs(
    payer: EscrowWorld, payee: PayeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked, going = payer.service.ready, asyncio.Event(), asyncio.Event()

    async def slow(url: str) -> MintKeys:
        asked.set()
        await going.wait()
        return await real(url)

    monkeypatch.setattr(payer.service, "ready", slow)
    call = asyncio.create_task(payer.create(payer.plan(payee, [100])))
    await asked.wait()
    (ticket,) = await payer.every_ticket()
    await payer.engine.cancel(ticket.ticket_id)
    going.set()
    with pytest.raises(Conflict, match="given up meanwhile"):
        await call
    await payer.sweep()
    await payer.engine.tick()
    found = await payer.engine.ticket(ticket.ticket_id)
    assert (found.status, found.error) == (TicketStatus.CANCELLED, "cancelled by the operator")
    assert await payer.every() == [] and payer.letters == {}
    assert await payer.sats() == 1_500 and await payer.counted() == 0


class TwoShares:
    """Locks of an item at two mints, of which one may have failed."""

    def __init__(self, ticket: TicketRow, *states: LockState) -> None:
        self.ids = ["a" * 32, "b" * 32]
        self.ticket, self.by_id = ticket, dict(zip(self.ids, states, strict=True))

    def of_terms(self, tx: Tx, terms_hash: str) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(lock_id=each, item=0, share=share, state=self.by_id[each], token="")
            for share, each in enumerate(self.ids)
        ]

    def states(self, tx: Tx, lock_ids: Sequence[str]) -> list[LockState]:
        return [self.by_id[each] for each in lock_ids]

    def delivered(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        assert set(lock_ids) == set(self.ids)

    def begun(self, tx: Tx, engine: EscrowEngine) -> None:
        for each in self.ids:
            engine.on_lock(tx, self.ticket.terms_hash, 0, each, LockState.PLANNED)
        for each in self.ids:
            engine.on_lock(tx, self.ticket.terms_hash, 0, each, self.by_id[each])


@pytest.mark.parametrize("second", [LockState.FAILED, LockState.LOCKED])
async def test_a_ticket_is_handed_over_when_every_share_is_locked(
    payer: EscrowWorld, payee: PayeeWorld, monkeypatch: pytest.MonkeyPatch, second: LockState
) -> None:
    order = Ordered("k", [(payer.mint_url, 500), ("http://127.0.0.1:1", 500)], ADA)
    plan = payer.plan(payee, [100])
    ticket = await payer.db.write(lambda tx: payer.engine.made(tx, plan, order))
    shares = TwoShares(ticket, LockState.LOCKED, second)
    monkeypatch.setattr(payer.engine, "_locks", shares)
    await payer.db.write(lambda tx: shares.begun(tx, payer.engine))
    whole = second is LockState.LOCKED
    assert await payer.engine.deliver(ticket.ticket_id) is whole
    assert await payer.item_states(ticket.ticket_id) == ["delivered" if whole else "locked"]
    assert payer.notices == ([] if whole else ["partly_locked"])
    found = await payer.engine.ticket(ticket.ticket_id)
    assert found.error == ("" if whole else "item 0 could not be locked whole")
    assert whole or payer.letters == {}


async def test_hashes_come_from_the_task_from_the_agent_or_anew(
    payer: EscrowWorld, payee: PayeeWorld
) -> None:
    own = bytes(range(32))
    registered = await payer.engine.register("review-7", own)
    assert registered == sha256(own).hex() == await payer.engine.register("review-7", own)
    with pytest.raises(Conflict):
        await payer.engine.register("other", own)
    with pytest.raises(InvalidParams):
        await payer.engine.register("review-7", bytes(32))
    (drawn,) = await payer.engine.secrets("review-7", 1)
    ticket = await payer.create(payer.plan(payee, [10, 10]), task_id="review-7")
    assert {item.hash for item in await payer.items(ticket.ticket_id)} == {registered, drawn}
    await payer.engine.secrets("review-7", 1)
    with pytest.raises(InvalidParams, match="1 hashes are free"):
        await payer.create(payer.plan(payee, [10, 10]), "k2", task_id="review-7")
    # What an agent asked for is used for its task, and nobody else's.
    plan = payer.plan(payee, [10])
    payer.may_ask = False
    with pytest.raises(Unauthorized):
        await payer.tell_us(SecretRequest(plan.params_hash, 1))
    payer.may_ask = True
    payer.letters.clear()
    for _ in range(2):
        await payer.tell_us(SecretRequest(plan.params_hash, 1), msg_id="m1")
    (told,) = payer.letters.values()
    assert isinstance(told, SecretHashes)
    ticket = await payer.create(plan, "k3")
    (item,) = await payer.items(ticket.ticket_id)
    assert item.hash in told.hashes
    with pytest.raises(RateLimited):
        for _ in range(31):
            await payer.tell_us(SecretRequest(PARAMS, 1))
    hashes = await payer.db.read(lambda tx: payer.tickets.free_secrets(tx, PARAMS, AGENT, payer.now))
    assert hashes
    payer.now += 86_400
    await payer.engine.tick()
    assert not await payer.db.read(lambda tx: payer.tickets.free_secrets(tx, PARAMS, AGENT, payer.now - 1))


async def test_a_lock_without_hash_and_a_hash_of_the_payee(payer: EscrowWorld, payee: PayeeWorld) -> None:
    ticket = await payer.create(payer.plan(payee, [10], mode=Mode.P2PK))
    (item,) = await payer.items(ticket.ticket_id)
    assert item.hash is None and item.state.value == "delivered"
    with pytest.raises(InvalidParams, match="hash of every item"):
        await payer.create(payer.plan(payee, [10], mode=Mode.RECEIPT), "k2")
    theirs = sha256(b"theirs").hex()
    plan = payer.plan(payee, [10], mode=Mode.RECEIPT, items=[ItemPlan(10, hash=theirs)])
    ticket = await payer.create(plan, "k3")
    (item,) = await payer.items(ticket.ticket_id)
    assert item.hash == theirs
    assert await payer.db.read(lambda tx: payer.tickets.secret(tx, theirs)) is None


async def test_a_dangerous_command_of_ours_is_promised_no_ticket_that_pays_anyway(
    payer: EscrowWorld, payee: PayeeWorld
) -> None:
    told, service = PayeeTold(payee.lock_pubkey, (payer.mint_url,)), payer.operator()
    ada = Advisor(ADA, 1, AGENT, None, "Ada", "active", "fees", payer.now, payer.now)
    ours = ("hive:fee-policy/v1", "set_single", {"channel_id": "1x1x1", "fee_ppm": 5})

    def asked(mode: Mode, danger: int, schema: str = ours[0]) -> TicketAsked:
        items = [ItemAsked(10, hash="ab" * 32)]
        return TicketAsked(ada, TicketType.SINGLE, mode, items, danger, schema, ours[1], ours[2])

    for mode in (Mode.P2PK, Mode.RECEIPT):
        with pytest.raises(InvalidParams, match="take mode task"):
            service._plan(asked(mode, 3), told)
        assert service._plan(asked(mode, 2), told).mode is mode
        # Work that is no command of this node's: nobody here could judge it.
        assert service._plan(asked(mode, 3, "acme:review/v1"), told).mode is mode
    assert service._plan(asked(Mode.TASK, 3), told).mode is Mode.TASK


async def test_disputes_of_either_side_end_by_an_answer_or_by_silence(
    payer: EscrowWorld, payee: PayeeWorld
) -> None:
    ticket = await payer.create(payer.plan(payee, [10, 10]))
    id_ = ticket.ticket_id
    for _ in range(2):
        await payer.tell_us(Dispute("ab" * 16, id_, 0, "done and not paid", [PARAMS], receipt={"a": 1}))
    with pytest.raises(Conflict, match="disputed already"):
        await payer.tell_us(Dispute("ac" * 16, id_, 0, "again", []))
    assert payer.notices == ["disputed"]
    with pytest.raises(InvalidParams, match="names the new ticket"):
        await payer.disputes.answer(id_, 0, Answer(Outcome.REPLACE, "so it was"))
    with pytest.raises(InvalidParams, match="does not replace"):
        await payer.disputes.answer(id_, 0, Answer(Outcome.REPLACE, "so it was", id_))
    with pytest.raises(NotFound, match="disputes nothing"):
        await payer.disputes.answer(id_, 1, Answer(Outcome.REJECT, "no"))
    answered = await payer.disputes.answer(id_, 0, Answer(Outcome.PAY, "so it was", payment_id="p1"))
    assert answered.state is DisputeState.PAID and answered.evidence["receipt"] == {"a": 1}
    assert payer.letters[f"dispute-reply:{'ab' * 16}"] == DisputeReply("ab" * 16, Outcome.PAY, "so it was")
    # Ours, answered by the payee; then one of each side that nobody answers.
    ours = await payer.disputes.open(id_, 1, "not done", [PARAMS])
    with pytest.raises(NotFound):
        await payer.tell_us(DisputeReply(ours.dispute_id, Outcome.PAY, "x"), sender=STRANGER)
    for _ in range(2):
        await payer.tell_us(DisputeReply(ours.dispute_id, Outcome.REJECT, "it was"))
    silent = await payer.disputes.open(id_, 1, "still not done", [])
    await payer.tell_us(Dispute("ad" * 16, id_, 0, "once more", []))
    payer.now += ANSWER_S - 1
    await payer.disputes.tick()
    payer.now += 1
    await payer.disputes.tick()
    rows = {row.dispute_id: row for row in await payer.db.read(lambda tx: payer.tickets.disputes(tx, id_))}
    assert [rows[each].state for each in (ours.dispute_id, silent.dispute_id, "ad" * 16)] == [
        DisputeState.REJECTED
    ] * 3
    assert rows["ad" * 16].evidence["answer"]["reason"] == SILENCE
    assert payer.letters[f"dispute-reply:{'ad' * 16}"] == DisputeReply("ad" * 16, Outcome.REJECT, SILENCE)
    payer.now += 40 * 86_400
    with pytest.raises(Conflict, match="30 days"):
        await payer.disputes.open(id_, 1, "late", [])


async def test_acceptance_03_08_milestones_that_were_reached_are_paid_and_the_rest_goes_back(
    payer: EscrowWorld, payee: PayeeWorld
) -> None:
    now = payer.now
    payer.now = payee.now = now - 21_600 - 3_600 - 61
    ticket = await payer.create(payer.plan(payee, [25, 50, 100], type=TicketType.MILESTONE))
    await payer.carry(payee)
    for i in (1, 2):
        with pytest.raises(PaymentFailed, match=f"comes after item {i - 1}"):
            await payer.begin(ticket, i)
    for i in (0, 1):
        await payer.begin(ticket, i)
        preimage = await payer.succeed(ticket, i)
        await payee.engine.released(payee.me, Release(ticket.ticket_id, i, preimage))
    await payer.begin(ticket, 2)
    await payer.fail(ticket, 2)
    payee.now = now - 4_000
    await payee.redeemer.redeem(at_once=True)
    # Redeemed together they cost less than one by one, which the payee keeps.
    assert await payee.sats() in (75, 76)
    payer.now = now
    await payer.sweep()
    assert await payer.item_states(ticket.ticket_id) == ["redeemed", "redeemed", "refunded"]
    assert (await payer.engine.ticket(ticket.ticket_id)).status is TicketStatus.PARTIAL
    fees = sum(op.fee_sats for op in await payer.ops())
    faces = sum(row.face_sats for row in await payer.every() if row.state.value == "redeemed")
    assert await payer.sats() == 1_500 - faces - fees


async def test_acceptance_03_09_a_bonus_is_paid_when_measured_and_otherwise_comes_back(
    payer: EscrowWorld, payee: PayeeWorld
) -> None:
    now, window = payer.now, 21_600
    start = now - window - 86_400 - 86_400 - 3_600 - 61
    base = {"metric": "revenue_msat", "value": 100, "period": [start - 8 * 86_400, start - 86_400]}
    bonus = ItemPlan(20, cond={"metric": "revenue_msat", "threshold": 110})
    shape = {"type": TicketType.PERFORMANCE, "items": [ItemPlan(50), bonus], "danger": 8}
    payer.now = payee.now = start
    for baseline, valid_from, word in (
        (None, None, "needs baseline"),
        (base, start - 86_401, "compared with itself"),
        ({**base, "period": [start - 86_400, start]}, None, "7 days"),
        ({**base, "value": "100"}, None, "whole number"),
    ):
        with pytest.raises(InvalidParams, match=word):
            await payer.create(payer.plan(payee, [50], **shape, baseline=baseline, valid_from=valid_from))
    told: dict[str, list[tuple[bool, int]]] = {}
    for key, value in (("missed", 109), ("reached", 110)):
        payer.now = payee.now = start
        plan = payer.plan(payee, [50, 20], **shape, baseline=base, valid_from=start)
        ticket = await payer.create(plan, key)
        await payer.carry(payee)
        with pytest.raises(PaymentFailed, match="comes after item 0"):
            await payer.begin(ticket, 1)
        await payer.begin(ticket)
        await payee.engine.released(payee.me, Release(ticket.ticket_id, 0, await payer.succeed(ticket)))
        judged = Judged(None, {"value": value}, confirm=True)
        with pytest.raises(PaymentFailed) as early:
            await payer.operator().complete(ticket.ticket_id, 1, judged)
        assert early.value.symbol == "too_early"
        payer.now = payee.now = start + window + 86_400
        with pytest.raises(InvalidParams, match="contradicts"):
            wrong = Judged(value < 110, {"value": value}, confirm=True)
            await payer.operator().complete(ticket.ticket_id, 1, wrong)
        await payer.operator().complete(ticket.ticket_id, 1, judged)
        await payer.carry(payee)
        await payee.redeemer.redeem(at_once=True)
        said = [each for each in payer.letters.values() if isinstance(each, Metric)]
        told[key] = [(each.met, each.value) for each in said if each.ticket_id == ticket.ticket_id]
    assert told == {"missed": [(False, 109)], "reached": [(True, 110)]}
    payer.now = now
    await payer.sweep()
    states = {row.key: await payer.item_states(row.ticket_id) for row in await payer.every_ticket()}
    assert states == {"missed": ["redeemed", "refunded"], "reached": ["redeemed", "redeemed"]}
    assert await payee.sats() >= 50 + 50 + 20


async def test_acceptance_03_07_a_batch_of_200_is_locked_in_two_swaps_and_pays_exactly_what_is_revealed(
    payer: EscrowWorld, payee: PayeeWorld
) -> None:
    await payer.service.fund(1_000, None, None, 30)
    ticket = await payer.create(payer.plan(payee, [3] * 200))
    swaps = [op for op in await payer.ops() if op.kind == "lock"]
    assert len(swaps) <= 2
    await payer.carry(payee)
    assert set(await payer.item_states(ticket.ticket_id)) == {"accepted"}
    revealed = (0, 99, 199)
    for i in revealed:
        await payer.begin(ticket, i)
        await payee.engine.released(payee.me, Release(ticket.ticket_id, i, await payer.succeed(ticket, i)))
    before = await payee.sats()
    await payee.redeemer.redeem(at_once=True)
    states = await payee.states(ticket.ticket_id)
    assert [i for i, state in enumerate(states) if state == "redeemed"] == list(revealed)
    assert await payee.sats() - before >= 9
    with pytest.raises(ValueError, match="would be refused"):
        body_of(Release(ticket.ticket_id, 1, ""))
    for i in range(200):
        if i not in revealed:
            await payer.begin(ticket, i)
            await payee.engine.released(
                payee.me, Release(ticket.ticket_id, i, await payer.succeed(ticket, i))
            )
    already = len(await payee.service.ops(None, None, 500))
    await payee.redeemer.redeem(at_once=True)
    assert len(await payee.service.ops(None, None, 500)) - already <= 5 - 1
    assert set(await payee.states(ticket.ticket_id)) == {"redeemed"}
    assert await payee.sats() >= 600
    payer.now += 901
    await payer.sweep()
    assert set(await payer.item_states(ticket.ticket_id)) == {"redeemed"}
    for i in range(120):
        await payer.tell_us(Redeemed(ticket.ticket_id, i))
    with pytest.raises(RateLimited):
        await payer.tell_us(Redeemed(ticket.ticket_id, 120))
    payee.sent.clear()
    # An item whose money is gone, since a copy of the payee was quicker, does not hold up the others.
    small = await payer.create(payer.plan(payee, [3] * 6), "small")
    await payer.carry(payee)
    given = []
    for i in range(6):
        await payer.begin(small, i)
        given.append(await payer.succeed(small, i))
    (row,) = [each for each in await payer.every() if each.ref == small.ticket_id and each.item == 2]
    key, keyset = payee.keys.lock(CONTEXT), await payee.keyset()
    taken = [
        msgspec.structs.replace(
            proof, id=keyset.id, witness=build(given[2], [sign(key, inputs_digest(proof.secret))])
        )
        for proof in decode_token(row.token).proofs
    ]
    worth = row.face_sats - fee_sats(keyset.input_fee_ppk for _ in taken)
    own = [
        output(amount, keyset.id, os.urandom(16).hex(), sha256(os.urandom(8)))
        for amount in split(worth, keyset.denominations)
    ]
    await payee.mints.client.swap(taken, [each.message for each in own])
    for i in range(6):
        await payee.engine.released(payee.me, Release(small.ticket_id, i, given[i]))
    for _ in range(6):
        await payee.redeemer.redeem(at_once=True)
        await payee.service.tick()
        payee.now += 120
    shares = await payee.states(small.ticket_id)
    assert [state for i, state in enumerate(shares) if i != 2] == ["redeemed"] * 5
