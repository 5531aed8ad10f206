"""Locks against a real mint: locked, redeemed, taken back; what limits count follows the money
(docs/protocol/03 §2.4, §6.7, §7.2, §8)."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
from cashu_tickets import PAYEE, PAYER, preimage
from cl_hive_comms.domain.cashu_lock import LockRow, Role
from cl_hive_comms.services.lock_service import LockSettings
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.terms import Terms, sign_text, terms_hash, terms_text
from hive_shared.cashu.ticket import CheckedTicket, check_ticket
from hive_shared.cashu.token import decode_token
from hive_shared.crypto import xonly_pubkey
from hive_shared.errors import BudgetExhausted, Conflict, EmergencyStop, InvalidParams, PaymentFailed
from lock_world import LockWorld

pytestmark = pytest.mark.asyncio(loop_scope="module")


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


async def checked(terms: Terms, rows: Sequence[LockRow], payee: LockWorld) -> CheckedTicket:
    return check_ticket(
        terms,
        sign_text(PAYER, terms_text(terms_hash(terms))),
        [decode_token(row.token) for row in rows],
        payer_id=xonly_pubkey(PAYER),
        payee_id=xonly_pubkey(PAYEE),
        lock_pubkey=public_key(payee.keys.lock("t")),
        mints={payee.mint_url: await payee.mints.keysets(payee.mint_url)},
        seen_ys=frozenset(),
        now_s=terms.issued_at,
    )


async def taken_in(terms: Terms, rows: Sequence[LockRow], payee: LockWorld) -> list[LockRow]:
    ticket = await checked(terms, rows, payee)
    return list(await payee.db.write(lambda tx: payee.locks.take_in(tx, ticket, "t")))


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


async def test_limits_refuse_before_anything_is_written(payer: LockWorld, payee: LockWorld) -> None:
    payer.settings = LockSettings(most_locked=150, most_ticket=120, grace_s=0)
    with pytest.raises(BudgetExhausted) as ticket:
        await payer.locked(payer.terms(payee, (121,)))
    assert ticket.value.reason == "exposure_limit" and "mint-max-ticket" in ticket.value.detail
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
    foreign = payer.terms(payee, (5,), ticket_id=os.urandom(16).hex())
    with pytest.raises(InvalidParams, match="refund_pubkey"):
        await payer.locked(foreign, "sixth")
    assert len(await payer.every()) == 1 and len([op for op in await payer.ops() if op.kind == "lock"]) == 1
