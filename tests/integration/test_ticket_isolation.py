"""What is wrong with one ticket, one redemption or one mint holds up no other
(docs/protocol/03-escrow-and-payments.md §6.6, §6.7; 11-advisor-kit.md §8)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cashu_tickets import item, preimage
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_shared.cashu.keysets import Keyset
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.payee_rows import Intake
from hive_shared.cashu.terms import terms_hash
from hive_shared.cashu.ticket_messages import Redeemed, TicketAck, TicketReject
from hive_shared.cashu.token import decode_token
from hive_shared.errors import NotFound
from hive_shared.store import Tx
from kit_tickets import PaidKit, sats, states
from kit_world import run_fee
from lock_world import LockWorld, taken_in
from msgspec.structs import replace
from payee_world import PayeeWorld
from short_mint import short_mint

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def world(tmp_path: Path, mint_url: str) -> AsyncIterator[PayeeWorld]:
    opened = PayeeWorld(tmp_path, mint_url)
    yield opened
    await opened.close()


async def test_a_keyset_that_the_mint_does_not_name_now_delays_its_redemption(
    world: PayeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = world.terms(9)
    await world.hand_over(terms)
    await world.release(terms.ticket_id, 0)
    other = replace(await world.keyset(), id="00" + "ab" * 7)

    async def without(_url: str) -> Mapping[str, Keyset]:
        return {other.id: other}

    with monkeypatch.context() as patch:
        patch.setattr(world.mints, "keysets", without)
        assert await world.redeemer.redeem() == 0
    assert [kind for kind, *_ in world.events][-1] == "ticket_redeem_waits"
    world.now += 60
    assert await world.redeemer.redeem() == 1
    assert (await world.states(terms.ticket_id), await world.sats()) == (["redeemed"], 9)


async def test_a_mint_of_short_arrays_is_shown_no_more_proofs_at_once_than_it_reads(
    world: PayeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = world.terms(*[7] * 10)
    each = len((await world.hand_over(terms))[0])
    seen = short_mint(world.mints, 8, monkeypatch)
    for number in range(10):
        await world.release(terms.ticket_id, number)
    assert await world.redeemer.redeem(at_once=True) == 10, world.events
    assert seen == [min(8 // each, 10 - at) * each for at in range(0, 10, 8 // each)]
    assert await world.states(terms.ticket_id) == ["redeemed"] * 10
    assert await world.sats() >= 70


async def test_a_mint_of_short_arrays_gives_back_and_out_no_more_proofs_at_once_than_it_reads(
    mint_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer, payee = LockWorld(tmp_path / "payer", mint_url), LockWorld(tmp_path / "payee", mint_url)
    payer.now = payee.now = int(time.time())
    await payer.service.fund(1_000, None, None, 30)
    idle = await payer.locked(payer.terms(payee, [7] * 10, locktime=int(time.time()) - 70))
    earned = payer.terms(payee, [7] * 10)
    mine = await taken_in(earned, await payer.locked(earned, key="earned"), payee)
    begun = sum(op.fee_sats for op in await payer.ops())
    seen = {each: short_mint(each.mints, 8, monkeypatch) for each in (payer, payee)}
    for each in (payer, payee):
        monkeypatch.setattr(each.book, "most_elements", 8)
    await payer.sweep()
    await payee.locks.redeem({row.lock_id: preimage(row.item).hex() for row in mine})
    proofs = len(decode_token(idle[0].token).proofs)
    assert (
        seen[payer] == seen[payee] == [min(8 // proofs, 10 - at) * proofs for at in range(0, 10, 8 // proofs)]
    )
    states = {row.terms_hash: row.state for row in await payer.every()}
    assert states[idle[0].terms_hash] is LockState.REFUNDED
    assert await payee.states() == [LockState.REDEEMED] * 10
    fees = sum(op.fee_sats for op in await payer.ops())
    assert await payer.sats() == 1_000 - fees - sum(row.face_sats for row in mine) and fees >= begun
    got = [op for op in await payee.ops() if op.kind == "redeem"]
    assert await payee.sats() == sum(row.face_sats for row in mine) - sum(op.fee_sats for op in got)
    await payer.close()
    await payee.close()


async def test_a_lock_whose_ecash_cannot_be_read_holds_up_no_other_and_is_told(
    mint_url: str, tmp_path: Path
) -> None:
    payer, payee = LockWorld(tmp_path / "payer", mint_url), LockWorld(tmp_path / "payee", mint_url)
    payer.now = payee.now = int(time.time())
    await payer.service.fund(100, None, None, 30)
    rows = await payer.locked(payer.terms(payee, (20, 20), locktime=payer.now - 70))
    bad, token = rows[0].lock_id, rows[0].token

    def note(tx: Tx, text: str) -> None:
        payer.rows.note(tx, payer.rows.get(tx, [bad])[0], token=text)

    await payer.db.write(lambda tx: note(tx, "cashuBnothing"))
    await payer.sweep()
    assert await payer.states() == [LockState.LOCKED, LockState.REFUNDED]
    assert payer.lock_alerts.raised.count("locks_unread") == 1
    # Put right by hand, or by a backup, it goes on.
    await payer.db.write(lambda tx: note(tx, token))
    for _ in range(2):
        await payer.sweep()
    assert await payer.states() == [LockState.REFUNDED] * 2
    assert await payer.sats() == 100 - sum(op.fee_sats for op in await payer.ops())
    await payer.close()
    await payee.close()


async def test_a_redemption_that_fails_in_an_unknown_way_goes_on_under_its_name_and_alone(
    world: PayeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = world.terms(9), world.terms(8)
    for terms in (first, second):
        await world.hand_over(terms)
    await world.release(first.ticket_id, 0)
    swap_in, names = world.service.swap_in, list[str]()

    async def breaks(mint_url: str, key: str, *args: Any) -> Any:
        names.append(key)
        if key == names[0]:
            raise ValueError("nobody thought of this")
        return await swap_in(mint_url, key, *args)

    with monkeypatch.context() as patch:
        patch.setattr(world.service, "swap_in", breaks)
        assert await world.redeemer.redeem() == 0
        await world.release(second.ticket_id, 0)
        world.now += 60
        assert await world.redeemer.redeem() == 1
    assert await world.states(second.ticket_id) == ["redeemed"]
    assert [share.batch for share in await world.shares(first.ticket_id)] == names[:1]
    world.now += 60
    assert await world.redeemer.redeem() == 1
    assert await world.sats() == 17


async def test_what_a_forgotten_payer_paid_is_redeemed(
    world: PayeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = world.terms(7)
    await world.hand_over(terms)
    await world.release(terms.ticket_id, 0)

    def gone(*_: object) -> None:
        raise NotFound("the client of this ticket is gone")

    monkeypatch.setattr(world, "put", gone)
    assert await world.redeemer.redeem() == 1
    assert (await world.states(terms.ticket_id), await world.sats()) == (["redeemed"], 7)


async def test_a_ticket_that_cannot_be_looked_at_holds_up_no_other(
    world: PayeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = world.terms(3), world.terms(4)
    check = world.engine._check_tokens

    def breaks(ticket: Any, *args: Any) -> Any:
        if ticket.ticket_id == bad.ticket_id:
            raise ValueError("nobody thought of this")
        return check(ticket, *args)

    with monkeypatch.context() as patch:
        patch.setattr(world.engine, "_check_tokens", breaks)
        for terms in (bad, good):
            await world.hand_over(terms)
        assert [each.ticket_id for each in world.sent if isinstance(each, TicketAck)] == [good.ticket_id]
        assert "nobody thought of this" in (await world.ticket(bad.ticket_id)).detail
    world.now += 60
    assert await world.engine.look() == 1
    assert isinstance(world.sent[-1], TicketAck) and world.sent[-1].ticket_id == bad.ticket_id


async def test_a_payer_has_so_many_tickets_under_way_and_is_told_so(world: PayeeWorld) -> None:
    world.engine._most_live = 2
    first, second, third, fourth = (world.terms(each) for each in (3, 4, 5, 6))
    await world.hand_over(first)
    for terms in (second, third):
        proofs = [each for few in await world.lock(terms) for each in few]
        await world.engine.ticket(world.me, world.message(terms, proofs), "m")
    assert await world.engine.look() == 2
    decided = {each.ticket_id: each for each in world.sent}
    assert isinstance(decided[first.ticket_id], TicketAck)
    late = [each for each in world.sent if isinstance(each, TicketReject)]
    assert [each.reason for each in late] == ["capacity"] and "at most 2" in late[0].detail
    # With no room left it is refused where its first message comes: nothing of it is looked at.
    await world.engine.ticket(world.me, world.message(fourth, (), tokens=[]), "m4")
    assert world.sent[-1] == TicketReject(fourth.ticket_id, "capacity", late[0].detail)
    assert await world.engine.look() == 0
    # What was taken goes on, and makes room when it has ended.
    await world.release(first.ticket_id, 0)
    assert await world.redeemer.redeem() == 1 and await world.sats() == 3
    fifth = world.terms(7)
    await world.hand_over(fifth)
    assert world.sent[-1] == TicketAck(fifth.ticket_id, terms_hash(fifth).hex())


async def test_a_keyset_that_the_mint_made_meanwhile_is_read_before_a_ticket_is_refused(
    world: PayeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(await world.keyset(), id="00" + "ab" * 7)
    terms = world.terms(9)
    proofs = (await world.lock(terms))[0]

    async def stale(_url: str) -> Mapping[str, Keyset]:
        return {other.id: other}

    monkeypatch.setattr(world.mints, "keysets", stale)
    await world.engine.ticket(world.me, world.message(terms, proofs), "m")
    await world.engine.look()
    assert isinstance(world.sent[-1], TicketAck)


async def test_a_mint_that_was_never_read_and_is_silent_decides_no_ticket(
    tmp_path: Path, mint_url: str
) -> None:
    async with MintFaultFront.before(mint_url) as front:
        world = PaidKit(tmp_path, front.url)
        async with world.open() as kit:
            await world.hired(kit)
            terms = await world.terms(kit, 10)
            proofs = await world.lock(await world.outputs(terms))
            front.set(MintFault(MintFaultKind.LOSE_BEFORE, times=0))
            await world.say(kit, world.ticket(terms, proofs))
            kit.ecash.book._keysets.clear()
            await kit.tickets.tend()
            ticket = (await kit.tickets.view(terms.ticket_id)).ticket
            assert (ticket.intake, ticket.reason) == (Intake.CHECKING, "mint_unavailable")
            assert ticket.detail.count("unavailable") == 1
        await world.close()


async def test_what_was_redeemed_after_a_backup_is_known_by_our_own_signature(world: PayeeWorld) -> None:
    locktime = int(time.time()) + 7_200
    world.now = locktime - 7_200
    parts = [item(number, 20, deadline=locktime - 3_600, locktime=locktime) for number in range(2)]
    terms = world.terms(items=parts, issued_at=world.now)
    await world.hand_over(terms)
    await world.release(terms.ticket_id, 0)
    await world.redeemer.redeem(at_once=True)
    assert await world.states(terms.ticket_id) == ["redeemed", "accepted"]

    def as_backed_up(tx: Tx) -> None:
        tx.execute(
            "UPDATE adv_ticket_items SET state = 'accepted', preimage_enc = NULL, released_at = 0,"
            " ended_at = 0"
        )
        tx.execute("UPDATE adv_cashu_locks SET state = 'delivered', batch = '', released_at = 0, next_at = 0")

    await world.db.write(as_backed_up)
    world.now = locktime + 200
    assert await world.redeemer.look_back() == 1
    assert await world.states(terms.ticket_id) == ["redeemed", "accepted"]
    assert (await world.items(terms.ticket_id))[0].preimage == preimage(0).hex()
    assert [each.item for each in world.sent if isinstance(each, Redeemed)] == [0]


async def test_the_kit_redeems_whatever_becomes_of_the_rest_and_says_what_failed(
    tmp_path: Path, mint_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = PaidKit(tmp_path, mint_url)
    async with world.open() as kit:
        await world.hired(kit)
        terms = await world.handed(kit, 20)
        assert (await run_fee(kit)).state == "done"

        async def breaks() -> int:
            raise ValueError("nobody thought of this")

        said: list[str] = []
        monkeypatch.setattr(kit.tickets._engine, "look", breaks)
        monkeypatch.setattr(kit, "_say", said.append)
        kit._spawn(kit.tickets.tend())
        await asyncio.wait(tuple(kit._tasks))
        assert states(await kit.tickets.view(terms.ticket_id)) == ["redeemed"] and await sats(kit) == 20
        assert any("nobody thought of this" in line for line in said)
    await world.close()
