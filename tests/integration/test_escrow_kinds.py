"""Kinds of tickets, their hashes and disputes, between a payer's node and the kit as payee, at a real mint
(docs/protocol/03-escrow-and-payments.md §6.1-§6.3, §6.5, §6.7)."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import msgspec
import pytest
from cl_hive_comms.domain.advisor import Advisor
from cl_hive_comms.services.escrow_service import ItemAsked, Judged, PayeeTold, TicketAsked
from cl_hive_comms.services.ticket_mints import TicketMints
from escrow_world import AGENT, EscrowWorld, NoMints
from hive_shared.cashu.escrow_disputes import ANSWER_S, SILENCE, Answer
from hive_shared.cashu.escrow_rows import DisputeState
from hive_shared.cashu.escrow_terms import ItemPlan
from hive_shared.cashu.keysets import Keyset, face_sats, fee_sats, split
from hive_shared.cashu.mints import Wish
from hive_shared.cashu.outputs import output
from hive_shared.cashu.terms import Mode, TicketType
from hive_shared.cashu.ticket_machine import TicketStatus
from hive_shared.cashu.ticket_messages import (
    Dispute,
    DisputeReply,
    Message,
    Metric,
    Outcome,
    Redeemed,
    Release,
    SecretHashes,
    SecretRequest,
    body_of,
)
from hive_shared.cashu.token import decode_token
from hive_shared.cashu.witness import build, inputs_digest, sign
from hive_shared.crypto import sha256
from hive_shared.errors import (
    BudgetExhausted,
    Capacity,
    Conflict,
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
    # A hash is of one item for good, whoever made it.
    (ours,) = await payer.engine.secrets("another task", 1)
    for number, used in enumerate((theirs, ours)):
        again = payer.plan(payee, [10], mode=Mode.RECEIPT, items=[ItemPlan(10, hash=used)])
        with pytest.raises(Conflict, match=f"hash {used} was used before"):
            await payer.create(again, f"used-{number}")
    same = await payer.create(plan, "k3")
    assert same.ticket_id == ticket.ticket_id


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


async def test_how_many_mints_a_ticket_needs_counts_the_fees_of_its_payee(
    payer: EscrowWorld, payee: PayeeWorld
) -> None:
    keyset = await payee.keyset()

    class Two(NoMints):
        def accepted(self) -> Sequence[str]:
            return ("https://a.example", "https://b.example")

        def for_lock(self, wish: Wish, *_: object) -> tuple[str, Keyset]:
            if not wish.accepted:
                raise PaymentFailed("none is left", reason="mint_unavailable")
            return min(wish.accepted), keyset

    settings = payer.operator()._settings
    mints_of, most = TicketMints(payer.db, Two(), lambda _: {}, settings), settings().most_ticket_sats
    assert face_sats(most, keyset.input_fee_ppk, keyset.denominations) > most, "the fees do not fit"
    for amount, mints in ((most - 1, 1), (most, 2), (2 * most - 40, 2)):
        shares = await mints_of.chosen([amount], payer.now + 86_400)
        assert len(shares) == mints and sum(permille for _, permille in shares) == 1_000
        for _, permille in shares:
            part = -(-amount * permille // 1_000)
            assert face_sats(part, keyset.input_fee_ppk, keyset.denominations) <= most
    with pytest.raises(BudgetExhausted, match="and the payee's fees"):
        await mints_of.chosen([most], payer.now + 86_400, wanted="https://a.example")
    with pytest.raises(PaymentFailed, match=r"no_common_method: .*a mint that both sides use"):
        await mints_of.chosen([10], payer.now + 86_400, takes=["https://c.example"])


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


async def test_a_dispute_whose_ticket_is_gone_or_broken_holds_up_no_other(
    payer: EscrowWorld, payee: PayeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = []
    for number in range(3):
        ticket = await payer.create(payer.plan(payee, [10]), str(number))
        await payer.tell_us(Dispute(f"{number}d" * 16, ticket.ticket_id, 0, "not paid", []))
        ids.append(ticket.ticket_id)
        payer.now += 1
    payer.now += ANSWER_S
    with closing(sqlite3.connect(payer.path)) as by_hand, by_hand:
        # This connection keeps no foreign keys.
        by_hand.execute("DELETE FROM comms_escrow_items WHERE ticket_id = ?", (ids[0],))
        by_hand.execute("DELETE FROM comms_escrow_tickets WHERE ticket_id = ?", (ids[0],))
    put = payer.put

    def full(tx: Tx, recipient: str, message: Message, *, key: str, expires_at: int) -> None:
        if key == f"dispute-reply:{'1d' * 16}":
            raise Capacity("no room for this one")
        put(tx, recipient, message, key=key, expires_at=expires_at)

    async def states() -> list[str]:
        rows = [await payer.db.read(lambda tx, id_=id_: payer.tickets.disputes(tx, id_)) for id_ in ids]
        return [row.state.value for (row,) in rows]

    monkeypatch.setattr(payer, "put", full)
    await payer.disputes.tick()
    assert await states() == ["rejected", "open", "rejected"]
    assert payer.failing == ["1d" * 16]
    assert f"dispute-reply:{'2d' * 16}" in payer.letters
    monkeypatch.undo()
    await payer.disputes.tick()
    assert await states() == ["rejected"] * 3


async def test_a_debt_that_cannot_be_told_and_an_item_that_cannot_be_settled_hold_up_no_other(
    payer: EscrowWorld, payee: PayeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = sorted([(await payer.create(payer.plan(payee, [10]), key)).ticket_id for key in "ab"])

    def owing(tx: Tx) -> None:
        tx.execute("UPDATE comms_escrow_items SET owed_sats = 10")
        tx.execute("UPDATE comms_escrow_items SET state = 'unknown', command_id = ticket_id")

    await payer.db.write(owing)
    ticket, undecided = payer.tickets.ticket, payer.undecided()

    def broken(tx: Tx, ticket_id: str) -> Any:
        if ticket_id == ids[0]:
            raise ValueError("a row that nobody can read")
        return ticket(tx, ticket_id)

    monkeypatch.setattr(payer.tickets, "ticket", broken)
    await payer.engine.tick()
    assert [key for key in payer.letters if key.startswith("owed:")] == [f"owed:{ids[1]}:0"]
    payer.notices.clear()
    await undecided.tick()
    assert payer.notices == ["undecided"]
    assert payer.failing == [f"{ids[0]}:0"] * 2


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
