"""Tickets between a payer's node and the kit as payee, from the wish to the end of their money, at two mints
and by the mint's own clock (docs/protocol/03-escrow-and-payments.md §14.2, §14.3, §14.10, §14.23)."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from cashu_tickets import PAYEE, PAYER, preimage
from ecash_world import invoice_of
from escrow_world import NODE_ID, EscrowWorld
from hive_devnet.clock import PluginClock
from hive_devnet.mint import MintProcess
from hive_shared import signed_message
from hive_shared.cashu.keysets import fee_sats, split
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.ports import MintRefused
from hive_shared.cashu.terms import MULTI_MINT_STEP_S
from hive_shared.cashu.ticket_machine import TicketStatus
from hive_shared.cashu.ticket_messages import (
    Message,
    Redeemed,
    Release,
    Ticket,
    TicketAck,
    body_of,
    decode_message,
    schema_of,
)
from hive_shared.cashu.token import decode_token
from hive_shared.cashu.wire import SpendState
from hive_shared.cashu.witness import build, inputs_digest, sign
from hive_shared.crypto import Secret, sha256, xonly_pubkey
from hive_shared.errors import EmergencyStop, PaymentFailed
from hive_shared.nostr.giftwrap import unwrap, wrap
from hive_shared.signed_message import Draft
from lock_world import LockWorld, taken_in
from locked_at_mint import plain
from payee_world import CONTEXT, PayeeWorld
from ticket_node import TicketNode
from ticket_world import ACTION, SCHEMA, params_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class OwnMint:
    """A mint without input fee, which tests stop, and the clock it goes by."""

    process: MintProcess
    clock: PluginClock

    @property
    def url(self) -> str:
        return self.process.url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def free_mint(mint_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OwnMint]:
    clock = PluginClock(tmp_path_factory.mktemp("clock"))
    directory = tmp_path_factory.mktemp("mint")
    mint = await MintProcess.start(directory, input_fee_ppk=0, environment=clock.environment)
    yield OwnMint(mint, clock)
    await mint.stop()


class Sides:
    """A payer's node with its pipeline, and its advisor; both have the mints' time."""

    def __init__(self, directory: Path, mint: str, now: int, others: tuple[str, ...] = ()) -> None:
        self.payer = EscrowWorld(directory / "payer", mint, others=others)
        self.payee = PayeeWorld(directory / "payee", mint, others=others)
        self.go_to(now)
        self.node = TicketNode(directory / "payer", self.payer, self.payer.tickets, NODE_ID)

    def go_to(self, now: int) -> None:
        self.payer.now = self.payee.now = now

    async def ticket(self, *amounts: int, **order: Any) -> str:
        """A ticket of danger 5 for `set_fee`, made, sent by direct message and taken."""
        plan = self.payer.plan(
            self.payee, amounts, schema=SCHEMA, action=ACTION, params=params_of(102), danger=5
        )
        ticket = await self.payer.create(plan, os.urandom(8).hex(), **order)
        new = {key: each for key, each in self.payer.letters.items() if key not in self.payer.read}
        self.payer.read |= set(new)
        for key, message in new.items():
            came = by_dm(message, PAYER, PAYEE, self.payer.now)
            assert isinstance(came, Ticket)
            await self.payee.engine.ticket(self.payee.me, came, key)
        await self.payee.engine.look()
        assert await self.answers() == [TicketAck(ticket.ticket_id, ticket.terms_hash)]
        assert set(await self.payer.item_states(ticket.ticket_id)) == {"accepted"}
        return ticket.ticket_id

    async def answers(self) -> list[Message]:
        """What the payee says reaches the node by direct message."""
        sent, self.payee.sent = self.payee.sent, []
        for each in sent:
            await self.payer.tell_us(by_dm(each, PAYEE, PAYER, self.payer.now))
        return sent

    async def command(self, ticket_id: str, item: int = 0) -> dict[str, Any]:
        """The work, paid by an item."""
        proof = {"method": "cashu_escrow", "ticket_id": ticket_id, "item": item}
        return await self.node.set_fee(102, agent=PAYEE, payment_proof=proof)

    async def close(self) -> None:
        await self.payer.close()
        await self.payee.close()


def by_dm(message: Message, sender: Secret, recipient: Secret, now: int) -> Message:
    """A signed message in its gift wrap, as the other side opens it."""
    draft = Draft(schema_of(message), str(uuid.uuid4()), "escrow", 1, now, now + 3_600, body_of(message))
    text = signed_message.sign(draft, sender, xonly_pubkey(recipient))
    event, _ = wrap(sender, xonly_pubkey(recipient), text, tags=[], now=now, rng=os.urandom, expiration=None)
    opened = unwrap(recipient, event)
    read = signed_message.parse(opened.content, opened.sender, (xonly_pubkey(recipient),))
    assert isinstance(read, Draft) and opened.sender == xonly_pubkey(sender)
    return decode_message(read.schema, read.body)


@pytest.mark.parametrize("input_fee_ppk", [0, 100])
async def test_acceptance_03_02_a_single_ticket_pays_its_amount_whatever_the_mint_takes(
    mint_url: str, free_mint: OwnMint, tmp_path: Path, input_fee_ppk: int
) -> None:
    sides = Sides(tmp_path, mint_url if input_fee_ppk else free_mint.url, free_mint.clock.now())
    payer, payee = sides.payer, sides.payee
    assert (await payee.keyset()).input_fee_ppk == input_fee_ppk
    await payer.service.fund(500, None, None, 30)
    ticket_id = await sides.ticket(100)
    done = await sides.command(ticket_id)
    (item,) = await payer.items(ticket_id)
    assert (done["status"], done["receipt"]["escrow"]["hash"]) == (0, item.hash)
    assert sha256(bytes.fromhex(done["preimage"])).hex() == item.hash
    await payee.engine.released(payee.me, Release(ticket_id, 0, done["preimage"]))
    await payee.redeemer.redeem(at_once=True)
    assert await payee.sats() == 100
    assert await sides.answers() == [Redeemed(ticket_id, 0)]
    (lock,) = await payer.every()
    assert (lock.state, lock.preimage) == (LockState.REDEEMED, done["preimage"])
    assert await payer.item_states(ticket_id) == ["redeemed"]
    assert (await payer.engine.ticket(ticket_id)).status is TicketStatus.REDEEMED
    fees = sum(op.fee_sats for op in await payer.ops())
    assert await payer.sats() == 500 - lock.face_sats - fees
    # What the payer gave beyond the amount is what the mint takes of the redemption, and no more.
    taken = sum(op.fee_sats for op in await payee.service.ops(None, None, 50))
    assert lock.face_sats - taken == 100 and (fees + taken == 0) == (input_fee_ppk == 0)
    await sides.close()


async def test_acceptance_03_03_a_failed_task_pays_nobody_and_comes_back_at_its_locktime_and_a_minute(
    free_mint: OwnMint, tmp_path: Path
) -> None:
    clock = free_mint.clock
    sides = Sides(tmp_path, free_mint.url, clock.now())
    payer, payee = sides.payer, sides.payee
    await payer.service.fund(200, None, None, 30)
    ticket_id = await sides.ticket(100)
    sides.node.node.fail["setchannel"] = 313
    failed = await sides.command(ticket_id)
    (item,) = await payer.items(ticket_id)
    kept = await payer.db.read(lambda tx: payer.tickets.secret(tx, str(item.hash)))
    assert kept is not None
    right = kept.preimage.reveal().hex()
    assert (failed["status"], failed["error"]["slug"]) == (2, "node_error")
    assert failed["receipt"]["escrow"]["preimage_released"] is False and "preimage" not in failed
    assert right not in f"{failed} {await sides.node.docs()} {payer.letters}"
    assert await payer.item_states(ticket_id) == ["failed"]
    with pytest.raises(PaymentFailed) as unearned:
        await payer.db.write(lambda tx: payer.work.preimage(tx, item))
    assert unearned.value.symbol == "not_released"
    # What the payee holds opens nothing at the mint; nor does the preimage in the hand of a thief.
    (lock,) = await payer.every()
    mine, stranger = payee.keys.lock(CONTEXT), Secret(b"\x44" * 32)
    for name, key, shown in (
        ("signature only", mine, None),
        ("wrong preimage", mine, preimage(7).hex()),
        ("wrong key", stranger, right),
        ("the refund's key before its time", payer.keys.refund(ticket_id), None),
    ):
        with pytest.raises(MintRefused):
            await spent(payee, lock.token, key, shown)
        assert {each.state for each in await payee.mints.client.checkstate(lock.ys)} == {
            SpendState.UNSPENT
        }, name
    # The mint is past the locktime; the minute that clocks may differ by is the payer's own.
    clock.pass_to(item.locktime + 1)
    for early in (-1, 0, 59):
        sides.go_to(item.locktime + early)
        await payer.locks.tick()
        with pytest.raises(PaymentFailed) as refused:
            await payer.locks.refund([lock.lock_id])
        assert refused.value.symbol == "too_early"
        assert await payer.item_states(ticket_id) == ["failed"]
    sides.go_to(item.locktime + 60)
    (back,) = await payer.locks.refund([lock.lock_id])
    assert back.state is LockState.REFUNDED
    assert await payer.item_states(ticket_id) == ["refunded"]
    assert (await payer.engine.ticket(ticket_id)).status is TicketStatus.REFUNDED
    assert await payer.sats() == 200 and await payer.counted() == 0 and await payee.sats() == 0
    await sides.close()


async def spent(payee: PayeeWorld, token: str, key: Secret, shown: str | None) -> None:
    """Try to swap a lock's ecash with this key and preimage."""
    keyset = await payee.keyset()
    inputs = [
        msgspec.structs.replace(
            proof, id=keyset.id, witness=build(shown, [sign(key, inputs_digest(proof.secret))])
        )
        for proof in decode_token(token).proofs
    ]
    worth = sum(each.amount for each in inputs) - fee_sats(keyset.input_fee_ppk for _ in inputs)
    new = plain(split(worth, keyset.denominations), keyset)
    await payee.mints.client.swap(inputs, [each.message for each in new])


async def test_acceptance_03_10_the_share_of_a_mint_that_stopped_is_redeemed_when_it_is_back(
    mint_url: str, free_mint: OwnMint, tmp_path: Path
) -> None:
    clock, other = free_mint.clock, free_mint.url
    sides = Sides(tmp_path, mint_url, clock.now(), (other,))
    payer, payee = sides.payer, sides.payee
    for url in (mint_url, other):
        await payer.service.fund(300, url, None, 30)
    ticket_id = await sides.ticket(100, mints=[(mint_url, 600), (other, 400)])
    done = await sides.command(ticket_id)
    await free_mint.process.kill()
    await payee.engine.released(payee.me, Release(ticket_id, 0, done["preimage"]))
    await payee.redeemer.redeem(at_once=True)
    assert (await payee.sats(), await payee.states(ticket_id)) == (60, ["released"])
    # Asked again in vain, then back: behind the first share's locktime, before its own later one.
    payee.now += 120
    await payee.redeemer.redeem(at_once=True)
    await payee.service.tick()
    first, second = sorted(await payee.shares(ticket_id), key=lambda share: share.place)
    assert (str(first.state), second.locktime - first.locktime) == ("redeemed", MULTI_MINT_STEP_S)
    assert await payee.sats() == 60 and sides.payee.sent == []
    clock.pass_to(first.locktime + 600)
    sides.go_to(clock.now())
    await free_mint.process.restart()
    for _ in range(4):
        await payee.redeemer.redeem(at_once=True)
        await payee.service.tick()
        payee.now += 60
    assert payee.now < second.locktime
    assert (await payee.sats(), await payee.states(ticket_id)) == (100, ["redeemed"])
    assert await sides.answers() == [Redeemed(ticket_id, 0)]
    assert {row.state for row in await payer.every()} == {LockState.REDEEMED}
    assert (await payer.engine.ticket(ticket_id)).status is TicketStatus.REDEEMED
    faces = sum(row.face_sats for row in await payer.every())
    fees = sum(op.fee_sats for op in await payer.ops())
    assert await payer.sats() == 600 - faces - fees
    await sides.close()


async def test_acceptance_03_23_during_the_stop_due_refunds_and_redemptions_run(
    free_mint: OwnMint, tmp_path: Path
) -> None:
    clock = free_mint.clock
    sides = Sides(tmp_path, free_mint.url, clock.now())
    payer, payee = sides.payer, sides.payee
    await payer.service.fund(300, None, None, 30)
    idle = await sides.ticket(100)
    earned = await sides.ticket(40)
    done = await sides.command(earned)
    (refundable,) = await payer.items(idle)
    # The node is payee too: of a ticket that another locks for it.
    rival = LockWorld(tmp_path / "rival", free_mint.url)
    rival.now = clock.now()
    await rival.service.fund(100, None, None, 30)
    terms = rival.terms(payer, (64,), locktime=refundable.locktime + 86_400)
    (owed,) = await taken_in(terms, await rival.locked(terms), payer)
    had = await payer.sats()

    payer.stopped = True
    letters, locks = len(payer.letters), len(await payer.every())
    with pytest.raises(EmergencyStop):
        await payer.create(payer.plan(payee, [10]), "stopped")
    for paying in (
        payer.locked(payer.terms(rival, (10,))),
        payer.service.send(10, None, None, None, 5),
        payer.service.pay(invoice_of(10), None, 5),
        payer.service.fund(10, None, None, 5),
    ):
        with pytest.raises(EmergencyStop):
            await paying
    assert len(payer.letters) == letters and len(await payer.every()) == locks
    assert await payer.sats() == had
    # What was earned before is the payee's, and what is ours is fetched.
    await payee.engine.released(payee.me, Release(earned, 0, done["preimage"]))
    await payee.redeemer.redeem(at_once=True)
    assert await payee.sats() == 40
    assert await sides.answers() == [Redeemed(earned, 0)]
    assert await payer.item_states(earned) == ["redeemed"]
    (got,) = await payer.locks.redeem({owed.lock_id: preimage(0).hex()})
    assert (got.state, await payer.sats()) == (LockState.REDEEMED, had + 64)
    clock.pass_to(refundable.locktime + 61)
    sides.go_to(clock.now())
    await payer.locks.tick()
    assert await payer.item_states(idle) == ["refunded"]
    assert await payer.sats() == had + 64 + 100
    await rival.close()
    await sides.close()
