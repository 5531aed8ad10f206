"""A clock that was ahead by years and is set back: what it put off goes on, and no sat waits for those years
(docs/protocol/03-escrow-and-payments.md §5, §6.6)."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cashu_tickets import preimage
from ecash_world import EcashWorld
from hive_shared.cashu.journal import OpState
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.ports import MintUnavailable
from lock_world import LockWorld, taken_in
from payee_world import PayeeWorld

pytestmark = pytest.mark.asyncio(loop_scope="module")
AHEAD_S = 20 * 365 * 86_400


async def away(*_: object, **__: object) -> None:
    raise MintUnavailable("https://mint.example", "no answer", sent=True)


async def test_an_operation_of_the_wallet_goes_on(
    mint_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = EcashWorld(tmp_path, mint_url)
    await world.service.fund(64, None, None, 30)
    world.now += AHEAD_S
    with monkeypatch.context() as patch:
        for name in ("swap", "restore", "checkstate"):
            patch.setattr(world.mints.client, name, away)
        assert (await world.service.send(10, None, None, "gift", 1)).open
        await world.service.tick()
    world.now -= AHEAD_S
    for _ in range(3):
        await world.sweep()
    sent = await world.service.send(10, None, None, "gift", 30)
    assert sent.state is OpState.DONE and sent.body.token
    assert (await world.sats(), await world.held()) == (64 - 10 - sent.fee_sats, 0)
    await world.close()


async def test_a_released_lock_is_redeemed(
    mint_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer, payee = LockWorld(tmp_path / "payer", mint_url), LockWorld(tmp_path / "payee", mint_url)
    payer.now = payee.now = int(time.time())
    await payer.service.fund(200, None, None, 30)
    terms = payer.terms(payee, (50,))
    (mine,) = await taken_in(terms, await payer.locked(terms), payee)
    payee.now += AHEAD_S
    with monkeypatch.context() as patch:
        for name in ("swap", "restore", "checkstate"):
            patch.setattr(payee.mints.client, name, away)
        (waits,) = await payee.locks.redeem({mine.lock_id: preimage(0).hex()})
        assert waits.state is LockState.REDEEMABLE and waits.next_at > payee.now
    payee.now -= AHEAD_S
    await payee.locks.tidy()
    for _ in range(3):
        await payee.sweep()
    (got,) = await payee.locks.rows([mine.lock_id])
    assert got.state is LockState.REDEEMED and await payee.sats() >= 50
    # Of a lock that waits for its locktime nothing is asked before.
    terms = payer.terms(payee, (50,))
    (mine,) = await taken_in(terms, await payer.locked(terms, "other"), payee)
    await payee.locks.tidy()
    (asleep,) = await payee.locks.rows([mine.lock_id])
    assert asleep.next_at == asleep.locktime
    await payer.close()
    await payee.close()


async def test_a_released_item_of_the_kit_is_redeemed(
    mint_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = PayeeWorld(tmp_path, mint_url)
    terms = world.terms(40)
    await world.hand_over(terms)
    world.now += AHEAD_S
    await world.release(terms.ticket_id, 0)
    with monkeypatch.context() as patch:
        patch.setattr(world.mints, "keysets", away)
        assert await world.redeemer.redeem(at_once=True) == 0
    world.now -= AHEAD_S
    due = await world.redeemer.due_at()
    assert due is not None and due <= world.now
    assert await world.redeemer.redeem() == 1
    assert await world.states(terms.ticket_id) == ["redeemed"] and await world.sats() >= 40
    await world.close()
