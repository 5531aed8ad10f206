"""Locks against a real mint: locked, redeemed, taken back; what limits count follows the money
(docs/protocol/03 §2.4, §6.7, §7.2, §8)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from cashu_tickets import preimage
from cl_hive_comms.domain.cashu_lock import LockRow, Role
from cl_hive_comms.domain.payment import ADVISOR, BOLT11, Order
from cl_hive_comms.payments.bolt11 import Bolt11
from cl_hive_comms.payments.bolt12 import Bolt12
from cl_hive_comms.services import lock_swaps
from cl_hive_comms.services.decoded_invoice import decoded
from cl_hive_comms.services.executors.sent_parts import SentParts
from cl_hive_comms.services.lock_service import LockOrder, LockSettings
from cl_hive_comms.services.payment_service import PaymentService
from cl_hive_comms.storage.lock_store import LockStore
from cl_hive_comms.storage.payment_store import PaymentStore
from ecash_world import _KEYSETS
from hive_shared.cashu.journal import OpState
from hive_shared.cashu.keysets import Keyset, fee_sats, split
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.outputs import output
from hive_shared.cashu.ports import MintRefused
from hive_shared.cashu.token import Token, decode_token, encode_token
from hive_shared.cashu.wire import BlindedMessage, Proof, RestoreAnswer, as_inputs
from hive_shared.cashu.witness import build, inputs_digest, sign
from hive_shared.crypto import SealBroken, Sealer, Secret
from hive_shared.errors import BudgetExhausted, Conflict, EmergencyStop, InvalidParams, PaymentFailed
from hive_shared.storage.cashu_store import CashuStore
from hive_shared.storage.families import NODE_ECASH
from hive_shared.store import Tx
from lock_world import LockWorld, taken_in
from locked_at_mint import plain
from mint_releases import each_release
from msgspec.structs import replace
from payment_world import NodeWithPayments
from pipeline_world import SEALER, Switch

pytestmark = pytest.mark.asyncio(loop_scope="module")
mint_url = each_release


@pytest_asyncio.fixture(loop_scope="module")
async def payer(mint_url: str, tmp_path: Path) -> AsyncIterator[LockWorld]:
    world = LockWorld(tmp_path / "payer", mint_url)
    world.now = int(time.time())
    await world.service.fund(1_000, None, None, 30)
    yield world
    await world.close()


@pytest_asyncio.fixture(loop_scope="module")
async def payee(mint_url: str, tmp_path: Path) -> AsyncIterator[LockWorld]:
    world = LockWorld(tmp_path / "payee", mint_url)
    world.now = int(time.time())
    yield world
    await world.close()


async def test_a_ticket_is_locked_redeemed_and_the_payer_sees_the_preimage(
    payer: LockWorld, payee: LockWorld
) -> None:
    terms = payer.terms(payee, (100, 37))
    rows = await payer.locked(terms)
    assert [row.state for row in rows] == [LockState.LOCKED] * 2
    assert [decode_token(row.token).amount_sats for row in rows] == [row.face_sats for row in rows]
    face = sum(row.face_sats for row in rows)
    (op,) = [op for op in await payer.ops() if op.kind == "lock"]
    assert op.lock_ids == tuple(row.lock_id for row in rows) and op.body.token == ""
    assert await payer.sats() == 1_000 - face - op.fee_sats
    assert await payer.counted() == face
    # The same call again is the same locks; other content under its key is refused.
    assert await payer.locked(terms) == rows
    with pytest.raises(Conflict):
        await payer.locked(payer.terms(payee, (100, 37)))
    with pytest.raises(Conflict, match="signed a lock of these terms before"):
        await payer.locked(terms, "other")

    mine = await taken_in(terms, rows, payee)
    assert await taken_in(terms, rows, payee) == mine
    assert {row.role for row in mine} == {Role.PAYEE}
    with pytest.raises(PaymentFailed) as wrong:
        await payee.locks.redeem({mine[0].lock_id: preimage(1).hex()})
    assert wrong.value.reason == "preimage_mismatch"
    with pytest.raises(PaymentFailed) as early:
        await payer.locks.refund([rows[0].lock_id])
    assert early.value.reason == "too_early" and early.value.data["refundable_at"] > payer.now
    (done,) = await payee.locks.redeem({mine[0].lock_id: preimage(0).hex()})
    assert done.state is LockState.REDEEMED and await payee.sats() >= 100
    # The payer reads it at the mint; the other item stays locked.
    await payer.sweep()
    first, second = await payer.locks.rows([row.lock_id for row in rows])
    assert (first.state, first.preimage) == (LockState.REDEEMED, preimage(0).hex())
    assert (second.state, second.preimage) == (LockState.LOCKED, "")
    assert await payer.counted() == face, "what was redeemed stays spent"
    assert (rows[0].lock_id, "redeemed") in payer.told and (rows[0].lock_id, "locked") in payer.told


async def test_an_idle_ticket_comes_back_after_its_locktime_and_frees_the_limit(
    payer: LockWorld, payee: LockWorld
) -> None:
    terms = payer.terms(payee, (64, 20), locktime=int(time.time()) - 10)
    rows = await payer.locked(terms)
    with pytest.raises(PaymentFailed) as early:
        await payer.locks.refund([row.lock_id for row in rows])
    assert early.value.reason == "too_early"
    assert early.value.data["refundable_at"] == rows[0].locktime + 60
    await payer.db.write(lambda tx: payer.locks.delivered(tx, [row.lock_id for row in rows]))
    await payer.db.write(lambda tx: payer.locks.released(tx, [rows[1].lock_id]))
    await payer.sweep()
    assert await payer.states() == [LockState.REFUNDED, LockState.DELIVERED]
    assert await payer.counted() == rows[1].face_sats
    with pytest.raises(PaymentFailed, match="released to the payee") as held:
        await payer.locks.refund([rows[1].lock_id])
    assert held.value.data["refundable_at"] == rows[1].locktime + 86_400
    payer.now = rows[1].locktime + 86_400
    await payer.sweep()
    assert await payer.states() == [LockState.REFUNDED] * 2 and await payer.counted() == 0
    fees = sum(op.fee_sats for op in await payer.ops())
    assert await payer.sats() == 1_000 - fees


async def test_what_a_payee_leaves_of_a_lock_that_nobody_can_spend_keeps_it_open_no_longer(
    payer: LockWorld, payee: LockWorld
) -> None:
    terms = payer.terms(payee, (2, 20))
    small, other = await payer.locked(terms)
    await payer.db.write(lambda tx: payer.locks.delivered(tx, [small.lock_id, other.lock_id]))
    proofs = decode_token(small.token).proofs
    assert [proof.amount for proof in proofs] == [1, 2]
    keyset = next(iter((await payee.mints.keysets(payee.mint_url)).values()))
    key = payee.keys.lock("t")
    witness = build(preimage(0).hex(), [sign(key, inputs_digest(proofs[1].secret))])
    taken = msgspec.structs.replace(proofs[1], id=keyset.id, witness=witness)
    own = output(1, keyset.id, os.urandom(16).hex(), os.urandom(32))
    await payee.mints.client.swap([taken], [own.message])
    payer.now += 1_000
    await payer.sweep()
    assert await payer.states() == [LockState.DELIVERED] * 2, "until its locktime the rest is the payee's"
    payer.now = small.locktime + 61
    await payer.sweep()
    (done, _) = sorted(await payer.every(), key=lambda row: row.item)
    assert (done.state, done.preimage) == (LockState.REDEEMED, preimage(0).hex())
    # What was told of locks that move no more is not kept in memory.
    told = payer.locks.swaps._told
    assert small.lock_id not in told and (small.lock_id, "redeemed") in payer.told


async def test_a_lock_of_a_keyset_that_is_listed_no_more_waits_alone(
    payer: LockWorld, payee: LockWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, fine = await payer.locked(payer.terms(payee, (64, 20), locktime=int(time.time()) - 1_000))
    proofs_of = lock_swaps._proofs

    def unlisted(row: LockRow, keysets: Mapping[str, Keyset]) -> tuple[Proof, ...]:
        found = proofs_of(row, keysets)
        if row.lock_id != gone.lock_id:
            return found
        return tuple(msgspec.structs.replace(proof, id="00" + "f" * 14) for proof in found)

    monkeypatch.setattr(lock_swaps, "_proofs", unlisted)
    await payer.sweep()
    assert await payer.states() == [LockState.LOCKED, LockState.REFUNDED]
    assert payer.lock_alerts.raised == ["locks_wait"]
    monkeypatch.undo()
    payer.now += 600
    await payer.sweep()
    assert await payer.states() == [LockState.REFUNDED] * 2
    assert fine.lock_id != gone.lock_id


async def test_a_lock_of_a_keyset_that_the_mint_only_stopped_listing_is_taken_back(
    payer: LockWorld, payee: LockWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    had = await payer.sats()
    (row,) = await payer.locked(payer.terms(payee, (64,), locktime=int(time.time()) - 1_000))
    (keyset,) = [each for each in (await payer.mints.keysets(payer.mint_url)).values() if each.active]
    newer = msgspec.structs.replace(keyset, id="00" + "f" * 14)
    kept = msgspec.structs.replace(keyset, active=False, listed=False)
    monkeypatch.setitem(_KEYSETS, payer.mint_url, {kept.id: kept, newer.id: newer})
    # What lies free of it waits, and no token of it is taken.
    with pytest.raises(PaymentFailed, match="0 sat are free"):
        await payer.service.send(1, payer.mint_url, None, None, 30)
    with pytest.raises(PaymentFailed, match="keyset"):
        await payee.service.receive(row.token, 30)
    asked = list[int]()

    async def refused(self: object, inputs: Sequence[Proof], outputs: object) -> None:
        asked.append(len(inputs))
        raise MintRefused(payer.mint_url, 400, 12_001, "keyset not known")

    with monkeypatch.context() as mint:
        mint.setattr(type(payer.mints.client), "swap", refused)
        for _ in range(2):
            await payer.sweep()
        tried = len(asked)
        assert tried and await payer.states() == [LockState.REFUNDABLE]
        # Refused it is tried again twice an hour, and the operator hears.
        await payer.locks.tick()
        assert len(asked) == tried
    # This mint has one keyset: what comes back is of it, under another name here.
    monkeypatch.setitem(_KEYSETS, payer.mint_url, {kept.id: kept, newer.id: keyset})
    payer.now += 1_800
    await payer.sweep()
    assert await payer.states() == [LockState.REFUNDED]
    monkeypatch.undo()
    assert await payer.sats() == had - sum(
        op.fee_sats for op in await payer.ops() if op.state is OpState.DONE
    )


async def test_a_lock_of_a_backup_is_left_to_its_payee_for_a_day_more(
    payer: LockWorld, payee: LockWorld
) -> None:
    (row,) = await payer.locked(payer.terms(payee, (64,)))
    (raw,) = await payer.db.read(lambda tx: list(payer.rows.raw_locks(tx)))

    def again(tx: Tx) -> LockRow:
        tx.execute("DELETE FROM comms_cashu_locks")
        assert payer.rows.put_raw_lock(tx, raw)
        (found,) = payer.rows.get(tx, [row.lock_id])
        return found

    found = await payer.db.write(again)
    # What was released since the copy was made it does not say.
    assert row.refund_hold_until == 0 and found.refund_hold_until == row.locktime + 86_400


async def test_limits_refuse_before_anything_is_written(
    payer: LockWorld, payee: LockWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer.settings = LockSettings(most_locked=150, most_ticket=120, grace_s=0)
    with pytest.raises(BudgetExhausted) as ticket:
        await payer.locked(payer.terms(payee, (121,)))
    assert ticket.value.reason == "exposure_limit" and "mint-max-ticket" in ticket.value.detail
    # What counts is what leaves the wallet: the amount and what its payee pays to spend it.
    with pytest.raises(BudgetExhausted, match="locks 121 sat"):
        await payer.locked(payer.terms(payee, (120,)))
    await payer.locked(payer.terms(payee, (100,)))
    with pytest.raises(BudgetExhausted) as locked:
        await payer.locked(payer.terms(payee, (100,)), "second")
    assert locked.value.reason == "exposure_limit"
    payer.settings = LockSettings(most_locked=10_000, most_ticket=10_000, grace_s=0)
    with pytest.raises(PaymentFailed) as little:
        await payer.locked(payer.terms(payee, (2_000,)), "third")
    assert little.value.reason == "insufficient_ecash"
    payer.limits_now = type(payer.limits_now)(150, 200, 25_000, 0, 0)
    with pytest.raises(BudgetExhausted, match="daily-limit: 1"):
        await payer.locked(payer.terms(payee, (60,)), "fourth")
    assert "budget_hit" in payer.lock_alerts.raised
    payer.stopped = True
    with pytest.raises(EmergencyStop):
        await payer.locked(payer.terms(payee, (1,)), "fifth")
    # Engaged while the mint is asked: nothing begins after it.
    payer.stopped, restore = False, payer.mints.client.restore

    async def stopping(outputs: Sequence[BlindedMessage]) -> RestoreAnswer:
        payer.stopped = True
        return await restore(outputs)

    monkeypatch.setattr(payer.mints.client, "restore", stopping)
    payer.limits_now = type(payer.limits_now)(10_000, 20_000, 25_000, 0, 0)
    with pytest.raises(EmergencyStop):
        await payer.locked(payer.terms(payee, (1,)), "while asked")
    monkeypatch.undo()
    foreign = payer.terms(payee, (5,), ticket_id=os.urandom(16).hex())
    with pytest.raises(InvalidParams, match="refund_pubkey"):
        await payer.locked(foreign, "sixth")
    assert len(await payer.every()) == 1 and len([op for op in await payer.ops() if op.kind == "lock"]) == 1


async def test_acceptance_03_18_limits_hold_over_tickets_and_invoices_and_a_refund_frees(
    payer: LockWorld, payee: LockWorld
) -> None:
    await payer.service.fund(47_000, None, None, 30)
    pays = Invoices(payer)

    async def lock(who: str, sats: int, key: str, **when: int) -> None:
        await payer.locks.lock(LockOrder(key, advisor_id=who), payer.terms(payee, (sats,), **when))

    await lock("ada", 24_000, "one", locktime=int(time.time()) - 10)
    held = await payer.counted()
    assert 24_000 <= held < 24_010
    with pytest.raises(BudgetExhausted, match="per-advisor-daily-limit: 240") as hit:
        await pays.pay("ada", 1_900)
    assert hit.value.code == 4006 and payer.lock_alerts.raised.count("budget_hit") == 1
    with pytest.raises(BudgetExhausted, match="per-advisor-daily-limit: 240"):
        await lock("ada", 2_000, "two")
    # At once: one of the two is first, and the other finds it there.
    both = await asyncio.gather(lock("bob", 15_000, "three"), pays.pay("bob", 15_000), return_exceptions=True)
    assert [type(each).__name__ for each in both].count("BudgetExhausted") == 1, both
    left = await payer.counted()
    assert 39_000 <= left < 39_400
    with pytest.raises(BudgetExhausted, match="daily-limit") as total:
        await lock("cat", 21_000, "four")
    assert total.value.data["limit"] == "daily-limit" and await payer.counted() == left
    # What comes back of a ticket counts no more.
    await payer.sweep()
    assert await payer.counted() == left - held
    await pays.pay("ada", 1_900)
    assert await payer.counted() == left - held + 1_900 + 1


class Invoices:
    """Payments by invoice on the database, and under the limits, of a node that locks."""

    def __init__(self, world: LockWorld) -> None:
        self.world, self.node, self.made = world, NodeWithPayments(), 0
        lightning = Bolt11(self.node, SentParts(self.node), partial(decoded, self.node), bool, "regtest")

        async def nobody(_hash: str) -> None:
            return None

        async def on(_point: str) -> None:
            return None

        self.service = PaymentService(
            db=world.db,
            rows=PaymentStore(SEALER),
            limits=world.limits,
            lightning=lightning,
            offers=Bolt12(self.node, lightning.read, bool),
            paying=nobody,
            methods=lambda: ("bolt11",),
            kill_switch=Switch(),
            alerts=world.lock_alerts,
            restored=lambda _tx: False,
            now=lambda: world.now,
            log=lambda *_args, **_fields: None,
            fault=on,
        )

    async def pay(self, who: str, sats: int) -> None:
        """Pay an advisor's invoice."""
        self.made += 1
        bill = self.node.invoice_of(f"bill-{self.made}", sats * 1_000, created_at=self.world.now)
        await self.service.pay(
            Order(f"key-{self.made}", ADVISOR, "fee", BOLT11, bill, sats * 1_000, advisor_id=who)
        )


async def test_acceptance_03_11_after_the_locktime_the_first_spend_wins_and_both_books_agree(
    payer: LockWorld, payee: LockWorld
) -> None:
    ends = []
    for _ in range(4):
        terms = payer.terms(payee, (50,), locktime=int(time.time()) - 120)
        (row,) = await payer.locked(terms, terms.ticket_id)
        (mine,) = await taken_in(terms, [row], payee)
        await asyncio.gather(
            payer.locks.refund([row.lock_id]),
            payee.locks.redeem({mine.lock_id: preimage(0).hex()}),
        )
        for _ in range(3):
            await payer.sweep()
            await payee.sweep()
        payer.now = payee.now = int(time.time())
        ((back,), (got,)) = await payer.locks.rows([row.lock_id]), await payee.locks.rows([mine.lock_id])
        assert (back.state, got.state) in (
            (LockState.REFUNDED, LockState.LOST),
            (LockState.REDEEMED, LockState.REDEEMED),
        )
        assert back.preimage == (preimage(0).hex() if back.state is LockState.REDEEMED else "")
        ends.append(back.state)
    fees = sum(op.fee_sats for op in await payer.ops() if op.state == "done")
    paid = sum(op.fee_sats + op.amount_sats for op in await payee.ops() if op.state == "done")
    assert await payer.sats() + paid == 1_000 - fees and await payer.held() == 0
    assert await payer.counted() == ends.count(LockState.REDEEMED) * row.face_sats
    # What was released to the payee is not taken back for a day.
    terms = payer.terms(payee, (50,), locktime=int(time.time()) - 120)
    (row,) = await payer.locked(terms, terms.ticket_id)
    await payer.db.write(lambda tx: payer.locks.released(tx, [row.lock_id]))
    await payer.sweep()
    assert (await payer.locks.rows([row.lock_id]))[0].state is LockState.LOCKED
    (mine,) = await taken_in(terms, [row], payee)
    (got,) = await payee.locks.redeem({mine.lock_id: preimage(0).hex()})
    assert got.state is LockState.REDEEMED


async def test_what_is_released_while_the_mint_is_asked_is_left_to_its_payee(
    payer: LockWorld, payee: LockWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = payer.terms(payee, (50, 37), locktime=int(time.time()) - 120)
    rows = await payer.locked(terms)
    keysets, asked = payer.book.keysets, 0

    async def release(url: str) -> Mapping[str, Keyset]:
        nonlocal asked
        asked += 1
        if asked == 2:  # the states of the locks are known, the swap is not begun
            await payer.db.write(lambda tx: payer.locks.released(tx, [rows[0].lock_id]))
        return await keysets(url)

    monkeypatch.setattr(payer.book, "keysets", release)
    payer.now += 60
    await payer.sweep()
    assert asked > 2
    kept, back = await payer.locks.rows([row.lock_id for row in rows])
    assert (kept.state, back.state) == (LockState.LOCKED, LockState.REFUNDED)
    assert kept.refund_hold_until == kept.locktime + 86_400
    mine, _ = await taken_in(terms, rows, payee)
    assert (await payee.locks.redeem({mine.lock_id: preimage(0).hex()}))[0].state is LockState.REDEEMED


async def test_a_payer_that_shows_the_preimage_while_it_takes_its_money_back_deceives_nobody(
    payer: LockWorld, payee: LockWorld
) -> None:
    terms = payer.terms(payee, (50,), locktime=int(time.time()) - 120)
    (row,) = await payer.locked(terms)
    (mine,) = await taken_in(terms, [row], payee)
    key, mint = payer.keys.refund(terms.ticket_id), payer.mints.at(payer.mint_url)
    keysets = await payer.mints.keysets(payer.mint_url)
    taken = [
        replace(
            each, id=row.keyset_id, witness=build(preimage(0).hex(), [sign(key, inputs_digest(each.secret))])
        )
        for each in decode_token(row.token).proofs
    ]
    sats = sum(each.amount for each in taken) - fee_sats(keysets[each.id].input_fee_ppk for each in taken)
    outputs = plain(split(sats, keysets[row.keyset_id].denominations), keysets[row.keyset_id])
    await mint.swap(as_inputs(taken), [each.message for each in outputs])
    payee.now = mine.locktime + 3_600
    await payee.locks.swaps.look([mine.lock_id])
    (seen,) = await payee.locks.rows([mine.lock_id])
    assert seen.state is LockState.LOST and "taken back" in seen.error
    assert "lock_lost" in payee.lock_alerts.raised
    (back,) = await payer.locks.swaps.look([row.lock_id])
    assert back.state is LockState.REFUNDED


async def test_a_batch_of_200_takes_two_swaps_and_a_bad_lock_holds_up_nobody(
    mint_url: str, payer: LockWorld, payee: LockWorld
) -> None:
    await payer.service.fund(9_000, None, None, 30)
    terms = payer.terms(payee, [7] * 200)
    rows = await payer.locked(terms)
    assert {row.state for row in rows} == {LockState.LOCKED}
    assert len([op for op in await payer.ops() if op.kind == "lock"]) <= 2
    mine = await taken_in(terms, rows, payee)
    revealed = await payee.locks.redeem({row.lock_id: preimage(row.item).hex() for row in mine[:3]})
    assert [row.state for row in revealed] == [LockState.REDEEMED] * 3
    assert (await payee.states()).count(LockState.REDEEMED) == 3
    # One whose money nobody can have: a signature of the mint that is not its own.
    spoilt = mine[10]

    def spoil(tx: Tx) -> None:
        proofs = decode_token(spoilt.token).proofs
        other = decode_token(mine[11].token).proofs[0]
        bad = (msgspec.structs.replace(proofs[0], C=other.C), *proofs[1:])
        row = payee.rows.get(tx, [spoilt.lock_id])[0]
        payee.rows.note(tx, row, token=encode_token(Token(mint_url, bad)))

    await payee.db.write(spoil)
    rest = {row.lock_id: preimage(row.item).hex() for row in mine[3:20]}
    await payee.locks.redeem(rest)
    for _ in range(12):
        await payee.sweep()
    states = await payee.states()
    assert [number for number, state in enumerate(states) if state is LockState.REDEEMABLE] == [10]
    assert states.count(LockState.REDEEMED) == 19
    before = len([op for op in await payee.ops() if op.kind == "redeem"])
    payee.now = int(time.time())
    await payee.locks.redeem({row.lock_id: preimage(row.item).hex() for row in mine[20:]})
    await payee.sweep()
    assert (await payee.states()).count(LockState.REDEEMED) == 199
    done = [op for op in await payee.ops() if op.kind == "redeem"]
    assert len([op for op in done[: len(done) - before] if op.state == "done"]) <= 5
    assert await payee.sats() == sum(op.amount_sats for op in done if op.state == "done")


async def test_acceptance_03_17_the_file_shows_nothing_and_seed_and_terms_bring_all_back(
    mint_url: str, payer: LockWorld, payee: LockWorld, tmp_path: Path
) -> None:
    terms = payer.terms(payee, (100, 37, 64))
    rows = await payer.locked(terms)
    await payer.service.send(20, None, None, None, 30)
    mine = await taken_in(terms, rows, payee)
    await payee.locks.redeem({mine[0].lock_id: preimage(0).hex()})
    await payer.locks.swaps.look([row.lock_id for row in rows])
    secret = {preimage(0).hex().encode(), preimage(0)}
    for world in (payer, payee):
        for seed in (world.keys.seed(), world.keys.lock_seed(), world.keys.l402()):
            secret |= {seed.reveal(), seed.reveal().hex().encode()}
        for row in await world.every():
            secret |= {row.token.encode()}
            secret |= {proof.secret.encode() for proof in decode_token(row.token).proofs}
        for op in await world.ops():
            secret |= {each.output.secret.encode() for each in op.body.outputs}
    held = await payer.sats()
    for world in (payer, payee):
        content = b"".join(file.read_bytes() for file in world.path.parent.iterdir())
        assert [each for each in secret if each in content] == []
    # The file of one node says nothing to another.
    elsewhere = LockStore(Sealer({1: Secret(b"o" * 32)}, 1))
    for ask in (
        lambda tx: elsewhere.get(tx, [rows[0].lock_id]),
        lambda tx: CashuStore(Sealer({1: Secret(b"o" * 32)}, 1), NODE_ECASH).list_ops(tx, None, None, 1),
    ):
        with pytest.raises(SealBroken):
            await payer.db.read(ask)
    fresh = LockWorld(tmp_path / "fresh", mint_url, seed=payer.seed)
    fresh.now = int(time.time())
    await fresh.restore_from_seed().run(None, dry_run=False)
    # What was sent and nobody took is found too: it is the seed's.
    assert await fresh.sats() == held + 20
    with pytest.raises(Conflict, match="brings it back"):
        await fresh.locked(terms)
    with pytest.MonkeyPatch.context() as patch:
        # Nor with a keyset that the mint made since, with which it would sign once more.
        (keyset,) = (await fresh.mints.keysets(mint_url)).values()
        newer = msgspec.structs.replace(keyset, id="00" + "f" * 14)
        older = msgspec.structs.replace(keyset, active=False)
        patch.setitem(_KEYSETS, mint_url, {newer.id: newer, older.id: older})
        with pytest.raises(Conflict, match="brings it back"):
            await fresh.locked(terms)
    finder = fresh.lock_restore()
    face = sum(row.face_sats for row in rows[1:])
    for ppk in (keyset.input_fee_ppk, 9_000):  # also where the mint takes another fee since
        with pytest.MonkeyPatch.context() as patch:
            known = msgspec.structs.replace(keyset, input_fee_ppk=ppk)
            patch.setitem(_KEYSETS, mint_url, {keyset.id: known})
            shown = await finder.run(mint_url, [terms], dry_run=True)
        assert (shown["locks"], shown["locked_sats"], await fresh.every()) == (3, face, [])
    assert await finder.run(mint_url, [terms], dry_run=False) == shown
    assert [(row.lock_id, row.token) for row in sorted(await fresh.every(), key=lambda row: row.item)] == [
        (row.lock_id, row.token) for row in rows
    ]
    assert (await finder.run(mint_url, [terms], dry_run=False))["locks"] == 0
    await fresh.locks.tick()
    assert await fresh.states() == [LockState.REDEEMED, LockState.DELIVERED, LockState.DELIVERED]
    assert (await fresh.locks.rows([rows[0].lock_id]))[0].preimage == preimage(0).hex()
    with pytest.raises(InvalidParams, match="not this node's"):
        await finder.run(mint_url, [payee.terms(payer, (5,))], dry_run=True)
    await fresh.close()


async def test_the_same_call_twice_at_once_is_one_and_old_ends_are_forgotten(
    payer: LockWorld, payee: LockWorld
) -> None:
    terms = payer.terms(payee, (30,), locktime=int(time.time()) - 120)
    first, second = await asyncio.gather(payer.locked(terms), payer.locked(terms))
    assert first == second and len(await payer.every()) == 1
    await payer.sweep()
    assert await payer.states() == [LockState.REFUNDED]
    await payer.locks.tidy()
    assert len(await payer.every()) == 1
    payer.now += 91 * 86_400
    await payer.locks.tidy()
    assert await payer.every() == []


async def test_what_the_mint_locked_late_is_locked_and_counts_again(
    payer: LockWorld, payee: LockWorld
) -> None:
    (row,) = await payer.locked(payer.terms(payee, (30,)))
    op = next(op for op in await payer.ops() if op.op_id == row.op_id)
    given = decode_token(row.token).proofs

    def late(tx: Tx) -> None:
        tx.execute(
            "UPDATE comms_cashu_locks SET state = ?, token_enc = NULL WHERE lock_id = ?",
            (LockState.PLANNED.value, row.lock_id),
        )
        payer.books.failed(tx, op)
        assert (payer.rows.get(tx, [row.lock_id])[0].state, payer.rows.locked_sats(tx)) == (
            LockState.FAILED,
            {},
        )
        payer.books.done(tx, op, given)

    await payer.db.write(late)
    (again,) = await payer.every()
    assert (again.state, again.token, again.counted_sats) == (LockState.LOCKED, row.token, row.face_sats)


async def test_locks_at_a_mint_that_is_named_no_more_wait_and_the_operator_hears_of_it(
    payer: LockWorld, payee: LockWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = payer.terms(payee, (30,), locktime=int(time.time()) - 120)
    await payer.locked(terms)

    async def gone(url: str) -> dict[str, object]:
        raise PaymentFailed(f"{url} is none of your mints", reason="mint_not_allowed")

    with monkeypatch.context() as patched:
        patched.setattr(payer.book, "keysets", gone)
        await payer.sweep()
        assert await payer.states() == [LockState.LOCKED] and "locks_wait" in payer.lock_alerts.raised
    await payer.sweep()
    assert await payer.states() == [LockState.REFUNDED]
