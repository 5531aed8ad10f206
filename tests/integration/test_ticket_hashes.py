"""Hashes that tickets are made with: asked of a node that keeps the preimages, and the kit's own for tickets
in mode receipt (docs/protocol/03-escrow-and-payments.md §6.3, §6.5)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cashu_tickets import item
from crash_points import Countdown
from hive_advisor.advisor import Advisor
from hive_advisor.domain.ticket import HashRequest
from hive_advisor.services.ticket_hashes import MAX_FREE
from hive_shared.cashu.curve import y_of
from hive_shared.cashu.terms import Terms
from hive_shared.cashu.ticket_messages import SecretHashes, SecretRequest, TicketAck, TicketReject
from hive_shared.cashu.wire import SpendState
from hive_shared.cashu.witness import preimage_in
from hive_shared.crypto import sha256
from hive_shared.errors import Capacity, Conflict, CredentialInvalid, InvalidParams, RateLimited
from kit_tickets import HOUR, TASK, PaidKit, sats, states
from kit_world import FEE, PARAMS, run_fee
from payee_world import PayeeWorld
from pipeline_world import Crash

pytestmark = pytest.mark.asyncio(loop_scope="module")
_MOST_POINTS = 40


@pytest_asyncio.fixture(loop_scope="module")
async def world(tmp_path: Path, mint_url: str) -> AsyncIterator[PaidKit]:
    made = PaidKit(tmp_path, mint_url)
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def kit(world: PaidKit) -> AsyncIterator[Advisor]:
    async with world.open() as opened:
        await world.hired(opened)
        yield opened


def hashes(count: int, of: str = "a") -> list[str]:
    return [sha256(f"{of}{number}".encode()).hex() for number in range(count)]


async def ask(kit: Advisor, count: int, params: dict[str, Any] | None = None) -> HashRequest:
    client = await kit.clients.named("alice")
    credential = await kit.clients.usable_credential(client)
    return await kit.tickets.hashes.ask(client, credential, *FEE, params or PARAMS, count)


async def lets_ask(world: PaidKit, kit: Advisor) -> None:
    """The node's credential allows it from now on."""
    credential = world.node.credential(kit.pubkey, escrow_secret_generation=True)
    await world.push(kit, world.node.offer(kit.pubkey, credential=credential))


async def test_a_node_is_asked_for_hashes_and_only_its_answer_to_that_counts(
    world: PaidKit, kit: Advisor
) -> None:
    with pytest.raises(CredentialInvalid, match="escrow_secret_generation"):
        await ask(kit, 2)
    await lets_ask(world, kit)
    asked = await ask(kit, 2)
    assert await ask(kit, 2) == asked and asked.params_hash == TASK
    with pytest.raises(Conflict, match="2 hashes were asked"):
        await ask(kit, 3)
    with pytest.raises(InvalidParams):
        await ask(kit, 513)
    assert [each for each in await world.told(kit) if isinstance(each, SecretRequest)] == [
        SecretRequest(TASK, 2)
    ]
    await world.say(kit, SecretHashes(TASK, hashes(3)))
    await world.say(kit, SecretHashes("sha256:" + "ab" * 32, hashes(2)))
    assert (await kit.tickets.hashes.answer_to(asked.request_id, 0)).hashes == ()
    await world.say(kit, SecretHashes(TASK, hashes(2)))
    told = await kit.tickets.hashes.answer_to(asked.request_id, 5)
    assert (list(told.hashes), told.state(world.now())) == (hashes(2), "answered")
    # Once answered, the same again answers nothing, and a new question gets new hashes or none.
    again = await ask(kit, 2)
    assert again.request_id != asked.request_id
    await world.say(kit, SecretHashes(TASK, hashes(2)))
    assert (await kit.tickets.hashes.answer_to(again.request_id, 0)).hashes == ()
    await world.say(kit, SecretHashes(TASK, hashes(2, "b")))
    assert list((await kit.tickets.hashes.answer_to(again.request_id, 5)).hashes) == hashes(2, "b")
    world.ahead += 86_401
    rows = await kit.tickets.hashes.asked_of(await kit.clients.named("alice"))
    assert [each.state(world.now()) for each in rows] == ["expired", "expired"]


async def test_a_client_is_asked_thirty_times_an_hour_at_most(world: PaidKit, kit: Advisor) -> None:
    await lets_ask(world, kit)
    for fee in range(30):
        await ask(kit, 1, {**PARAMS, "fee_ppm": 100 + fee})
    with pytest.raises(RateLimited):
        await ask(kit, 1, {**PARAMS, "fee_ppm": 99})
    world.ahead += HOUR
    await ask(kit, 1, {**PARAMS, "fee_ppm": 99})


async def test_a_question_that_a_crash_interrupts_is_one_question(tmp_path: Path, mint_url: str) -> None:
    for at in range(_MOST_POINTS):
        world = PaidKit(tmp_path / str(at), mint_url)
        async with world.open() as kit:
            await world.hired(kit)
            await lets_ask(world, kit)

        async def asked(kit: Advisor, world: PaidKit = world) -> None:
            await ask(kit, 1)
            await world.say(kit, SecretHashes(TASK, hashes(1)), msg_id=_ANSWER)

        died = await world.killed(at, asked)
        async with world.open() as kit:
            known = await kit.tickets.hashes.asked_of(await kit.clients.named("alice"))
            if not any(each.hashes for each in known):
                await asked(kit)
            rows = await kit.tickets.hashes.asked_of(await kit.clients.named("alice"))
            assert [list(each.hashes) for each in rows] == [hashes(1)], at
            sent = [each for each in await world.told(kit) if isinstance(each, SecretRequest)]
            assert sent == [SecretRequest(TASK, 1)], at
        await world.close()
        if not died:
            return
    pytest.fail(f"more than {_MOST_POINTS} points")


_ANSWER = "00000000-0000-4000-8000-00000000a000"


async def receipt(world: PaidKit, kit: Advisor, given: list[str], sats_each: int, **changes: Any) -> Terms:
    """A ticket in mode receipt with these hashes of the kit's, handed over."""
    now = world.now()
    parts = [
        {**item(i, sats_each, deadline=now + HOUR, locktime=now + 2 * HOUR), "hash": each}
        for i, each in enumerate(given)
    ]
    return await world.handed(kit, items=parts, mode="receipt", **changes)


async def test_a_ticket_in_mode_receipt_is_redeemed_with_our_preimage_which_its_payer_then_sees(
    world: PaidKit, kit: Advisor
) -> None:
    client = await kit.clients.named("alice")
    made = await kit.tickets.hashes.make(client, 2, "march")
    terms = await receipt(world, kit, made, 20)
    assert [type(each).__name__ for each in await world.decided(kit)] == ["TicketAck"]
    # The first goes with the work it is for, and is earned by its success, whatever the answer holds.
    world.reveals = False
    done = await run_fee(kit)
    proof = {"method": "cashu_escrow", "ticket_id": terms.ticket_id, "item": 0}
    assert (done.state, world.node.commands[-1].payment_proof) == ("done", proof)
    await kit.tickets.tend()
    assert states(await kit.tickets.view(terms.ticket_id)) == ["redeemed", "accepted"]
    # The second pays for nothing that was sent from here: a human says it is owed.
    assert await kit.tickets.take_owed(terms.ticket_id) == 1
    await kit.tickets.redeem_now(terms.ticket_id)
    view = await kit.tickets.view(terms.ticket_id)
    assert (states(view), await sats(kit)) == (["redeemed", "redeemed"], 40)
    with pytest.raises(Conflict, match="nothing of ticket"):
        await kit.tickets.take_owed(terms.ticket_id)
    shown = [
        state
        for share in view.shares
        for state in await world.mint.checkstate([y_of(each.secret) for each in share.proofs])
    ]
    assert {each.state for each in shown} == {SpendState.SPENT}
    seen = {preimage_in(each.witness, hash_) for each in shown for hash_ in made if each.witness}
    assert {sha256(bytes.fromhex(each)).hex() for each in seen if each} == set(made)
    # A hash is good for one item, and only its maker takes a ticket with it.
    before = len(await world.decided(kit))
    for again in (made[:1], hashes(1, "theirs")):
        await receipt(world, kit, again, 5)
    answers = (await world.decided(kit))[before:]
    assert [each.reason for each in answers if isinstance(each, TicketReject)] == ["token_invalid(hash)"] * 2


async def test_our_preimages_are_sealed_and_not_too_many(world: PaidKit, kit: Advisor) -> None:
    client = await kit.clients.named("alice")
    (made,) = await kit.tickets.hashes.make(client, 1, "")
    own = await kit._db.read(lambda tx: kit.tickets.hashes._rows.own(tx, made))
    assert own is not None and sha256(bytes.fromhex(own.preimage)).hex() == made
    stored = b"".join(path.read_bytes() for path in world.paths.data_dir.glob("advisor.db*"))
    assert made.encode() in stored
    assert own.preimage.encode() not in stored and bytes.fromhex(own.preimage) not in stored
    for _ in range(MAX_FREE // 512 - 1):
        await kit.tickets.hashes.make(client, 512, "")
    with pytest.raises(Capacity):
        await kit.tickets.hashes.make(client, 512, "")
    terms = await world.handed(kit, 10)
    with pytest.raises(InvalidParams, match="mode task"):
        await kit.tickets.take_owed(terms.ticket_id)


async def test_killed_anywhere_a_ticket_in_mode_receipt_is_taken_and_redeemed_once(
    tmp_path: Path, mint_url: str
) -> None:
    for at in range(0, _MOST_POINTS, 2):
        world = PayeeWorld(tmp_path / str(at), mint_url)
        part = {**item(0, 100), "hash": await world.own_hash(b"\x07" * 31 + bytes([at]))}
        terms = world.terms(items=[part], mode="receipt")
        (proofs,) = await world.lock(terms)
        message = world.message(terms, proofs)

        async def taken_and_redeemed(world: PayeeWorld, message: Any, ticket_id: str) -> None:
            await world.engine.ticket(world.me, message, "m1")
            await world.engine.look()
            (held,) = await world.items(ticket_id)
            if held.preimage is None:
                await world.db.write(lambda tx: world.engine.take_with_own_hash(tx, held))
            await world.redeemer.redeem(at_once=True)

        countdown, died = Countdown(at), True
        countdown.watch(world.db, "write")
        countdown.watch(world.mints.client, "swap", "checkstate", "restore")
        try:
            await taken_and_redeemed(world, message, terms.ticket_id)
            died = False
        except Crash:
            pass
        countdown.left = -1
        await world.restart()
        await taken_and_redeemed(world, message, terms.ticket_id)
        for _ in range(5):
            world.now += 60
            await world.service.tick()
            await world.redeemer.redeem(at_once=True)
        assert await world.states(terms.ticket_id) == ["redeemed"], at
        fees = sum(op.fee_sats for op in await world.service.ops(None, None, 50) if op.state == "done")
        assert await world.sats() == sum(each.amount for each in proofs) - fees >= 100, at
        assert isinstance(world.sent[0], TicketAck)
        await world.close()
        if not died:
            return
    pytest.fail(f"more than {_MOST_POINTS} points")
