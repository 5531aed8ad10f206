"""Tickets from the operator's wish to the mint's evidence, between a payer's node and the kit as payee, at a
real mint (docs/protocol/03-escrow-and-payments.md §6)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from cl_hive_comms.services.escrow_service import Judged
from cl_hive_comms.services.lock_service import LockSettings
from escrow_world import AGENT, EscrowWorld
from hive_shared.cashu.escrow import UNLOCKED_S, EscrowEngine, Ordered
from hive_shared.cashu.escrow_rows import TicketRow
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.ports import MintUnavailable
from hive_shared.cashu.ticket_machine import TicketStatus
from hive_shared.cashu.ticket_messages import (
    Dispute,
    DisputeReply,
    Outcome,
    Owed,
    Redeemed,
    Release,
    Ticket,
    TicketAck,
    TicketReject,
    TicketResend,
)
from hive_shared.cashu.wallet import MintKeys
from hive_shared.cashu.wire import BlindedMessage, Proof
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
from payee_world import PayeeWorld

pytestmark = pytest.mark.asyncio(loop_scope="module")
STRANGER = "cd" * 32


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
    for name in ("earned", "failed"):
        assert await payer.item_states(tickets[name].ticket_id) == ["refunded"]
        assert (await payer.engine.ticket(tickets[name].ticket_id)).status is TicketStatus.REFUNDED
    # What nobody knows yet is not forgotten with its money.
    assert await payer.item_states(tickets["unproved"].ticket_id) == ["unknown"]
    assert [item.ticket_id for item in await payer.db.read(payer.tickets.owed)] == [earned]
    assert [each for each in payer.letters.values() if isinstance(each, Owed)] == [
        Owed(earned, 0, 100, "late_release")
    ]
    assert payer.notices == ["owed"]
    # The preimage is told on request all the same: the receipt says that it was released.
    await payer.operator().release(earned, 0)
    assert [each.ticket_id for each in payer.letters.values() if isinstance(each, Release)] == [earned]


@pytest.mark.parametrize("danger", [5, 9])
async def test_what_a_task_earned_that_nobody_knows_of_is_owed_after_its_money_came_back(
    payer: EscrowWorld, payee: PayeeWorld, danger: int
) -> None:
    now = payer.now
    payer.now = payee.now = now - 21_600 - 3_600 - 86_400 - 61
    names = ("earned", "failed", "receipted", "refused")
    tickets = {name: await payer.create(payer.plan(payee, [100], danger=danger), name) for name in names}
    await payer.carry(payee)
    for ticket in tickets.values():
        await payer.begin(ticket)
        (item,) = await payer.items(ticket.ticket_id)
        await payer.db.write(lambda tx, item=item: payer.work.unknown(tx, item, None))
    undecided = payer.undecided()
    for _ in range(2):
        await undecided.tick()
    assert payer.notices == ["undecided"] * 4
    word = Judged(True, {}, confirm=True)
    if danger == 9:
        # While the money is locked a word would release it.
        with pytest.raises(Unauthorized):
            await payer.operator().complete(tickets["earned"].ticket_id, 0, word)
    payer.now = now
    await payer.sweep()
    assert {row.state.value for row in await payer.every()} == {"refunded"} and await payer.counted() == 0
    for ticket in tickets.values():
        assert await payer.item_states(ticket.ticket_id) == ["unknown"]
    for _ in range(2):
        await undecided.tick()
    assert payer.notices == ["undecided"] * 8
    if danger == 9:
        # However late: the locks that the items follow are kept, and no preimage is told any more.
        payer.now += 200 * 86_400
        await payer.locks.tidy()
        await payer.engine.tick()
    await payer.operator().complete(tickets["earned"].ticket_id, 0, word)
    await payer.operator().complete(tickets["failed"].ticket_id, 0, Judged(False, {}, confirm=True))
    # Receipts of a chain that reaches further than this copy of the tickets decide without a word.
    payer.chain.receipted(tickets["receipted"].ticket_id, "released")
    payer.chain.receipted(tickets["refused"].ticket_id, "failed")
    await undecided.tick()
    await payer.engine.tick()
    owed = {name: (await payer.items(tickets[name].ticket_id))[0].owed_sats for name in names}
    assert owed == {"earned": 100, "failed": 0, "receipted": 100, "refused": 0}
    for ticket in tickets.values():
        assert await payer.item_states(ticket.ticket_id) == ["refunded"]
    said = [each.ticket_id for each in payer.letters.values() if isinstance(each, Owed)]
    assert sorted(said) == sorted(tickets[name].ticket_id for name in ("earned", "receipted"))
    fees = sum(op.fee_sats for op in await payer.ops())
    assert await payer.sats() == 1_500 - fees


@pytest.mark.parametrize("with_lock", [True, False])
async def test_a_backup_from_amid_a_task_whose_money_came_back_since_is_settled_by_one_word(
    payer: EscrowWorld, payee: PayeeWorld, tmp_path: Path, with_lock: bool
) -> None:
    now = payer.now
    payer.now = payee.now = now - 21_600 - 3_600 - 86_400 - 901
    ticket = await payer.create(payer.plan(payee, [100]))
    await payer.carry(payee)
    await payer.begin(ticket)
    rows = await payer.db.read(lambda tx: list(payer.tickets.raw_rows(tx)))
    locks = await payer.db.read(lambda tx: list(payer.rows.raw_locks(tx)))
    payer.now = now - 900
    await payer.sweep()
    assert {row.state for row in await payer.every()} == {LockState.REFUNDED}
    fresh = EscrowWorld(tmp_path / "restored", payer.mint_url, seed=payer.seed)

    def restored(tx: Tx) -> None:
        for table, row in rows:
            fresh.tickets.put_raw_row(tx, table, row)
        for lock in locks if with_lock else ():
            fresh.rows.put_raw_lock(tx, lock)

    await fresh.db.write(restored)
    fresh.now = now
    if not with_lock:
        # Made before its swap had ended: the item names a lock that the copy does not have.
        await fresh.undecided().tick()
        assert fresh.notices == ["undecided"]
        fresh.notices.clear()
        found = await fresh.lock_restore().run(fresh.mint_url, [ticket.terms], dry_run=False)
        assert (found["locks"], found["locked_sats"]) == (1, 0)
    await fresh.sweep()
    assert {row.state for row in await fresh.every()} == {LockState.REFUNDED}
    assert await fresh.item_states(ticket.ticket_id) == ["unknown"]
    await fresh.undecided().tick()
    assert fresh.notices == ["undecided"]
    await fresh.operator().complete(ticket.ticket_id, 0, Judged(True, {}, confirm=True))
    (item,) = await fresh.items(ticket.ticket_id)
    assert (item.state.value, item.owed_sats) == ("refunded", 100)
    await fresh.close()


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
    with pytest.raises(PaymentFailed, match="was given up: insufficient_ecash") as refused:
        await payer.create(payer.plan(payee, [2_000]))
    assert refused.value.reason == "insufficient_ecash", "what it was given up for, not a mint that is away"
    with pytest.raises(Conflict, match=r"another ticket: [0-9a-f]{32} over 2000 sat, cancelled; take a new"):
        await payer.create(payer.plan(payee, [20]))
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
    with pytest.raises(Conflict, match="is cancelled: nothing is locked for it, so there is nothing to disp"):
        await payer.disputes.open((await payer.every_ticket())[0].ticket_id, 0, "not done", [])
    assert payer.letters == {} and await payer.sats() == 1_500 and await payer.every() == []


async def test_what_the_mint_locks_after_it_was_given_up_is_counted_and_comes_back(
    payer: EscrowWorld, payee: PayeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = payer.now
    payer.now = payee.now = now - 21_600 - 3_600 - 4_000
    mint = type(payer.mints.client)
    real, sent = mint.swap, list[tuple[Sequence[Proof], Sequence[BlindedMessage]]]()

    async def lost(self: object, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]) -> None:
        sent.append((inputs, outputs))
        raise MintUnavailable(payer.mint_url, "the answer was lost", sent=True)

    with monkeypatch.context() as broken:
        broken.setattr(mint, "swap", lost)
        with pytest.raises(PaymentFailed):
            await payer.create(payer.plan(payee, [100]))
    (ticket,) = await payer.every_ticket()
    assert (ticket.status, await payer.sats(), await payer.counted()) == (TicketStatus.CANCELLED, 1_500, 0)
    # Now the mint carries it out.
    await real(payer.mints.client, *sent[-1])
    await payer.sweep()
    (lock,) = await payer.every()
    face = lock.face_sats
    assert lock.state is LockState.LOCKED and await payer.counted() == face
    assert await payer.db.read(payer.rows.locked_sats) == {payer.mint_url: face}
    assert await payer.sats() == 1_500 - face - sum(op.fee_sats for op in await payer.ops())
    await payer.engine.tick()
    found = await payer.engine.ticket(ticket.ticket_id)
    assert found.status is TicketStatus.FAILED and "after it was given up" in found.error
    assert await payer.item_states(ticket.ticket_id) == ["failed"]
    # Its operator may have made another: the payee hears nothing of it, and nothing is worked for it.
    assert payer.notices == ["locked_late"] and payer.letters == {}
    with pytest.raises(Conflict, match="never funded"):
        await payer.engine.cancel(ticket.ticket_id)
    payer.now = now
    await payer.sweep()
    assert await payer.item_states(ticket.ticket_id) == ["refunded"]
    assert (await payer.engine.ticket(ticket.ticket_id)).status is TicketStatus.REFUNDED
    assert await payer.counted() == 0
    assert await payer.sats() == 1_500 - sum(op.fee_sats for op in await payer.ops())


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
    if not whole:
        # The operator was told to make another: this one is not handed over when the mint locks it late.
        shares.by_id["b" * 32] = LockState.LOCKED
        late = lambda tx: payer.engine.on_lock(  # noqa: E731
            tx, ticket.terms_hash, 0, "b" * 32, LockState.LOCKED
        )
        await payer.db.write(late)
        assert await payer.engine.deliver(ticket.ticket_id) is False and payer.letters == {}
