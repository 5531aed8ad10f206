"""A node is paid by tickets of another one, at the real mint: what it takes, what it earns, what comes of the
rest; killed at every disk and mint call both sides' books agree with the mint
(docs/protocol/03-escrow-and-payments.md §6.6, §6.7, §14.2, §14.3, §14.8)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from cashu_tickets import STRANGER
from cl_hive_comms.domain.backup import TABLES
from cl_hive_comms.services.backup_service import BackupService
from cl_hive_comms.services.restore_wallet import restore_wallet
from cl_hive_comms.storage.state_store import StateStore
from crash_points import Countdown
from ecash_world import OneMint
from escrow_world import EscrowWorld
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_shared.cashu.escrow_disputes import Answer
from hive_shared.cashu.escrow_rows import SecretRow, SecretSource, TicketRow
from hive_shared.cashu.escrow_terms import ItemPlan
from hive_shared.cashu.journal import OpKind, OpState
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.mint_caps import Caps
from hive_shared.cashu.terms import Mode
from hive_shared.cashu.ticket_messages import (
    Dispute,
    DisputeReply,
    Outcome,
    Redeemed,
    Release,
    Ticket,
    TicketAck,
    TicketReject,
    TicketRequest,
    TicketResend,
)
from hive_shared.cashu.wire import SpendState
from hive_shared.crypto import Secret, sha256
from hive_shared.errors import Conflict, HiveError, NotFound, PaymentFailed, RateLimited
from hive_shared.store import Tx
from pipeline_world import Crash
from receiving_world import CONTEXT, THEM, ReceivingWorld, carry

pytestmark = pytest.mark.asyncio(loop_scope="module")
AMOUNTS = (60, 37)
_MINT_CALLS = ("swap", "checkstate", "restore")
_MOST_POINTS = 60
_LATER_S = 21_600 + 3_600 + 120


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def payer(mint_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EscrowWorld]:
    world = EscrowWorld(tmp_path_factory.mktemp("payer"), mint_url)
    await world.service.fund(20_000, None, None, 30)
    yield world
    await world.close()


@pytest_asyncio.fixture(loop_scope="module")
async def payee(mint_url: str, tmp_path: Path) -> AsyncIterator[ReceivingWorld]:
    world = ReceivingWorld(tmp_path, mint_url)
    await world.announce()
    yield world
    await world.close()


async def handed_over(payer: EscrowWorld, payee: ReceivingWorld, **changes: Any) -> TicketRow:
    payer.letters.clear()
    amounts = [each.amount_sats for each in changes.get("items", ())] or AMOUNTS
    plan = payer.plan(payee, amounts, **changes)
    return await payer.create(plan, key=f"k{len(await payer.every_ticket())}")


async def test_acceptance_03_02_a_node_is_told_takes_works_earns_and_redeems(
    payer: EscrowWorld, payee: ReceivingWorld
) -> None:
    (request,) = payee.letters.values()
    assert isinstance(request, TicketRequest) and request.lock_pubkey == payee.lock_pubkey
    ticket = await handed_over(payer, payee)
    await carry(payer, payee)
    assert await payer.item_states(ticket.ticket_id) == ["accepted"] * 2
    assert await payee.item_states(ticket.ticket_id) == ["accepted"] * 2
    with pytest.raises(PaymentFailed, match="not_released"):
        await payee.desk.redeem(ticket.ticket_id, (0, 1), 30)
    await payer.begin(ticket, 1)
    preimage = await payer.succeed(ticket, 1)
    release = Release(ticket.ticket_id, 1, preimage, "17", "sha256:" + "ab" * 32)
    with pytest.raises(PaymentFailed, match="preimage_mismatch"):
        await payee.told_by(Release(ticket.ticket_id, 0, preimage))
    await payee.told_by(release)
    assert await payee.item_states(ticket.ticket_id) == ["accepted", "released"]
    await payee.sweep()
    assert await payee.item_states(ticket.ticket_id) == ["accepted", "redeemed"]
    assert await payee.sats() == 37
    row = (await payee.items(ticket.ticket_id))[1]
    assert (row.receipt_id, row.metric) == ("17", {"receipt_hash": "sha256:" + "ab" * 32})
    assert Redeemed(ticket.ticket_id, 1) in payee.letters.values()
    await carry(payer, payee)
    assert await payer.item_states(ticket.ticket_id) == ["accepted", "redeemed"]
    # The same word again changes nothing; the other item is redeemed at the operator's wish, once.
    await payee.told_by(release)
    await payer.begin(ticket, 0)
    await payee.told_by(Release(ticket.ticket_id, 0, await payer.succeed(ticket, 0)))
    await payee.desk.redeem(ticket.ticket_id, (0, 1), 30)
    await payee.desk.redeem(ticket.ticket_id, (0, 1), 30)
    assert await payee.item_states(ticket.ticket_id) == ["redeemed"] * 2 and await payee.sats() == 97
    redeemed = [op for op in await payee.ops() if op.kind is OpKind.REDEEM]
    assert len(redeemed) == 2 and {op.state for op in redeemed} == {OpState.DONE}
    told = [what for what, _ in payee.heard]
    assert told == ["ticket_accepted", *["ticket_released", "ticket_redeemed"] * 2]


async def test_what_a_backup_holds_of_tickets_is_earned_on_a_fresh_database(
    payer: EscrowWorld, payee: ReceivingWorld, mint_url: str, tmp_path: Path
) -> None:
    ticket = await handed_over(payer, payee)
    await carry(payer, payee)
    await payer.begin(ticket, 0)
    await payee.told_by(Release(ticket.ticket_id, 0, await payer.succeed(ticket, 0)))
    rows = dict[str, list[dict[str, Any]]]()

    def tables(world: ReceivingWorld) -> Any:
        return SimpleNamespace(
            wallet=world.store, locks=world.rows, tickets=world.tickets, facts=StateStore()
        )

    def written(tx: Tx) -> None:
        of = SimpleNamespace(_t=tables(payee), _facts=StateStore())
        for table, row in BackupService._wallet(of, tx):  # type: ignore[arg-type]
            rows.setdefault(table, []).append(json.loads(json.dumps(row)))

    await payee.db.read(written)
    fresh = ReceivingWorld(tmp_path / "fresh", mint_url, seed=payee.seed)
    found = {table: rows.get(table, []) for table in TABLES["escrow"]}
    await fresh.db.write(lambda tx: restore_wallet(tx, tables(fresh), found, fresh.now))
    await fresh.payers.load()
    # One item was released before the loss, the other is afterwards, by a payer who was told a key once.
    await payer.begin(ticket, 1)
    await fresh.told_by(Release(ticket.ticket_id, 1, await payer.succeed(ticket, 1)))
    await fresh.sweep()
    assert await fresh.item_states(ticket.ticket_id) == ["redeemed"] * 2
    fees = sum(op.fee_sats for op in await fresh.ops())
    assert await fresh.sats() == sum(row.face_sats for row in await fresh.every()) - fees >= sum(AMOUNTS)
    # What is handed over under the key that was told before the loss is taken.
    later = await handed_over(payer, fresh)
    payer.read = set()
    await carry(payer, fresh)
    assert await fresh.item_states(later.ticket_id) == ["accepted"] * 2
    # The same backup once more changes nothing; a row that is none is refused.
    outcome = await fresh.db.write(lambda tx: restore_wallet(tx, tables(fresh), found, fresh.now))
    assert outcome.restored == 0
    bad = {**found, "comms_state": [{"key": "emergency", "value": "{}"}]}
    with pytest.raises(ValueError, match="no key of tickets"):
        await fresh.db.write(lambda tx: restore_wallet(tx, tables(fresh), bad, fresh.now))
    await fresh.close()


async def test_only_who_was_told_a_key_hands_over_and_only_for_that_key(
    payer: EscrowWorld, payee: ReceivingWorld, mint_url: str, tmp_path: Path
) -> None:
    ticket = await handed_over(payer, payee)
    (letter,) = payer.letters.values()
    with pytest.raises(NotFound, match="was told no key"):
        await payee.told_by(letter, sender=STRANGER[2:])
    # Nobody but its payer says anything of it, and a key that has run out takes nothing new.
    await payee.announce(days=1)
    payee.now += 2 * 86_400
    await payee.told_by(letter)
    await payee.desk.tick()
    (reject,) = [each for each in payee.letters.values() if isinstance(each, TicketReject)]
    assert reject.reason == "token_invalid(party)" and await payee.items(ticket.ticket_id) == []
    assert (await payee.desk.undecided(ticket.ticket_id)).reason == "token_invalid(party)"
    other = ReceivingWorld(tmp_path / "other", mint_url)
    await other.desk.announce(THEM, "another", other.probed.accepted(), 30)
    await other.told_by(letter)
    await other.desk.tick()
    (reject,) = [each for each in other.letters.values() if isinstance(each, TicketReject)]
    assert reject.reason == "token_invalid(own_key)"
    with pytest.raises(NotFound):
        await other.told_by(Release(ticket.ticket_id, 0, "11" * 32))
    assert other.heard == [("ticket_refused", ticket.ticket_id)] and await other.every() == []
    await other.close()


async def test_acceptance_03_06_a_ticket_of_a_foreign_or_unprobed_mint_is_refused_and_nothing_is_asked(
    payer: EscrowWorld, payee: ReceivingWorld
) -> None:
    ticket = await handed_over(payer, payee)
    (letter,) = payer.letters.values()
    countdown = Countdown(10_000)
    countdown.watch(payee.probed.client, *_MINT_CALLS, "keysets", "keyset", "info")
    accepted, payee.probed.mint_url = payee.probed.mint_url, "https://ours.example"
    await payee.told_by(letter)
    await payee.desk.tick()
    (reject,) = [each for each in payee.letters.values() if isinstance(each, TicketReject)]
    assert reject.reason == "token_invalid(mint)" and countdown.left == 10_000
    payee.probed.mint_url = accepted
    payee.probed.caps = Caps()
    again = await handed_over(payer, payee)
    (letter,) = payer.letters.values()
    await payee.told_by(letter)
    await payee.desk.tick()
    # The mint may hold it yet: it is not refused for good.
    assert (await payee.desk.undecided(again.ticket_id)).reason == "mint_nonconformant"
    assert await payee.items(ticket.ticket_id) == [] == await payee.every()


async def test_a_large_ticket_comes_in_parts_and_what_misses_is_asked_for(
    payer: EscrowWorld, payee: ReceivingWorld
) -> None:
    ticket = await handed_over(payer, payee)
    (letter,) = payer.letters.values()
    assert isinstance(letter, Ticket)
    first = Ticket(letter.ticket_id, [], letter.terms, letter.sig)
    await payee.told_by(first)
    payee.now += 31
    await payee.desk.tick()
    (resend,) = [each for each in payee.letters.values() if isinstance(each, TicketResend)]
    assert (resend.first, resend.last) == (0, 1)
    assert (await payee.desk.undecided(ticket.ticket_id)).intake == "collecting"
    await payee.told_by(Ticket(letter.ticket_id, letter.tokens, first=0, last=1))
    await payee.desk.tick()
    assert await payee.item_states(ticket.ticket_id) == ["accepted"] * 2
    # Said again, it is told again what was decided; other terms of the same ticket are none.
    await payee.told_by(letter, msg_id="again")
    assert len([each for each in payee.letters.values() if isinstance(each, TicketAck)]) == 2
    assert isinstance(letter.terms, dict)
    with pytest.raises(Conflict, match="other terms"):
        await payee.told_by(Ticket(letter.ticket_id, [], {**letter.terms, "salt": "00" * 16}, letter.sig))
    with pytest.raises(RateLimited):
        for _ in range(120):
            await payee.told_by(first)


async def test_acceptance_03_03_what_was_not_earned_goes_back_and_may_be_disputed(
    payer: EscrowWorld, mint_url: str, tmp_path: Path
) -> None:
    paying = EscrowWorld(tmp_path / "payer", mint_url)
    await paying.service.fund(256, None, None, 30)
    paying.now -= _LATER_S  # The mint's clock is real: there the locktime is past already.
    payee = ReceivingWorld(tmp_path / "payee", mint_url)
    payee.now = paying.now
    await payee.announce()
    ticket = await handed_over(paying, payee)
    await carry(paying, payee)
    assert await payee.item_states(ticket.ticket_id) == ["accepted"] * 2
    await paying.begin(ticket, 0)
    await paying.fail(ticket, 0)
    paying.now, payee.now = paying.now + _LATER_S, payee.now + _LATER_S
    await paying.sweep()
    assert await paying.item_states(ticket.ticket_id) == ["refunded"] * 2
    await payee.sweep()
    assert await payee.item_states(ticket.ticket_id) == ["lost"] * 2 and await payee.sats() == 0
    assert [what for what, _ in payee.heard][1:] == ["ticket_taken_back"] * 2
    with pytest.raises(PaymentFailed, match="not_released"):
        await payee.desk.redeem(ticket.ticket_id, (0, 1), 30)
    opened = await payee.disputes.open(ticket.ticket_id, 0, "the review was done", ["sha256:" + "0" * 64])
    assert await payee.item_states(ticket.ticket_id) == ["disputed", "lost"]
    (said,) = [each for each in payee.letters.values() if isinstance(each, Dispute)]
    await paying.tell_us(said)
    assert await paying.item_states(ticket.ticket_id) == ["disputed", "refunded"]
    await paying.disputes.answer(ticket.ticket_id, 0, Answer(Outcome.REJECT, "it was not"))
    reply = list(paying.letters.values())[-1]
    assert isinstance(reply, DisputeReply)
    with pytest.raises(NotFound):
        await payee.db.write(lambda tx: payee.disputes.take_reply(tx, STRANGER[2:], reply))
    await payee.db.write(lambda tx: payee.disputes.take_reply(tx, THEM, reply))
    assert await payee.item_states(ticket.ticket_id) == ["lost", "lost"]
    (row,) = await payee.db.read(lambda tx: payee.tickets.disputes(tx, ticket.ticket_id))
    assert (row.dispute_id, row.state) == (opened.dispute_id, "rejected")
    await paying.close()
    await payee.close()


async def test_a_ticket_without_hash_is_redeemed_when_the_operator_says_that_the_work_is_done(
    payer: EscrowWorld, payee: ReceivingWorld
) -> None:
    ticket = await handed_over(payer, payee, mode=Mode.P2PK, danger=2)
    await carry(payer, payee)
    await payee.sweep()
    assert await payee.item_states(ticket.ticket_id) == ["accepted"] * 2
    await payee.desk.redeem(ticket.ticket_id, (0, 1), 30)
    assert await payee.item_states(ticket.ticket_id) == ["redeemed"] * 2
    assert await payee.sats() >= sum(AMOUNTS)


async def test_a_ticket_in_mode_receipt_is_redeemed_by_our_own_preimage_which_its_payer_sees(
    payer: EscrowWorld, payee: ReceivingWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, strange = b"\x51" * 32, b"\x52" * 32
    row = SecretRow(sha256(plain).hex(), Secret(plain), "job", SecretSource.IMPORTED, payee.now, None)
    await payee.db.write(lambda tx: payee.tickets.add_secrets(tx, [row]))
    none = await handed_over(
        payer, payee, items=[ItemPlan(30, hash=sha256(strange).hex())], mode=Mode.RECEIPT
    )
    await carry(payer, payee)
    assert (await payee.desk.undecided(none.ticket_id)).reason == "token_invalid(hash)"
    ticket = await handed_over(payer, payee, items=[ItemPlan(30, hash=row.hash)], mode=Mode.RECEIPT)
    await carry(payer, payee)
    await payee.desk.redeem(ticket.ticket_id, (0,), 30)
    assert await payee.item_states(ticket.ticket_id) == ["redeemed"]
    await carry(payer, payee)
    (item,) = await payer.items(ticket.ticket_id)
    assert item.state == "redeemed"
    (lock,) = await payer.locks.rows(item.lock_ids)
    assert lock.preimage == plain.hex()
    # The same hash opens no second ticket, whether or not its payer keeps to the rule.
    with pytest.raises(Conflict, match="used before"):
        await handed_over(payer, payee, items=[ItemPlan(30, hash=row.hash)], mode=Mode.RECEIPT)
    monkeypatch.setattr(payer.tickets, "refuse_used", lambda *_: None)
    again = await handed_over(payer, payee, items=[ItemPlan(30, hash=row.hash)], mode=Mode.RECEIPT)
    await carry(payer, payee)
    assert (await payee.desk.undecided(again.ticket_id)).intake == "refused"


async def released(payer: EscrowWorld, payee: ReceivingWorld) -> tuple[TicketRow, list[Release]]:
    """A ticket that was handed over, and the preimages of its items."""
    ticket = await handed_over(payer, payee)
    said = []
    for i in range(len(AMOUNTS)):
        await payer.begin(ticket, i)
        said.append(Release(ticket.ticket_id, i, await payer.succeed(ticket, i)))
    return ticket, said


async def taken_whole(
    payer: EscrowWorld, payee: ReceivingWorld, ticket: TicketRow, said: list[Release]
) -> None:
    """What the payer's node does with its ticket, all of it: messages come again until they are taken."""
    for message in (*payer.letters.values(), None, *said):
        if message is None:
            await payee.desk.tick()
        else:
            await payee.told_by(message)
    await payee.desk.redeem(ticket.ticket_id, (0, 1), 30)


async def both_agree(payer: EscrowWorld, payee: ReceivingWorld, ticket: TicketRow, start: int) -> None:
    """Every sat is where both say it is, and the mint says the same."""
    assert await payee.item_states(ticket.ticket_id) == ["redeemed"] * 2
    await payer.locks.swaps.look(
        [lock for item in await payer.items(ticket.ticket_id) for lock in item.lock_ids]
    )
    assert await payer.item_states(ticket.ticket_id) == ["redeemed"] * 2
    ops = [op for op in await payee.ops() if op.kind is OpKind.REDEEM]
    assert all(not op.open for op in ops)
    rows = await payee.every()
    came = sum(row.face_sats for row in rows) - sum(op.fee_sats for op in ops if op.state is OpState.DONE)
    assert await payee.sats() == came >= sum(AMOUNTS) and await payee.held() == 0
    assert {row.state for row in rows} == {LockState.REDEEMED} and len(rows) == 2
    face = sum(row.face_sats for row in rows)
    fees = sum(op.fee_sats for op in await payer.ops() if op.state is OpState.DONE)
    assert await payer.sats() == start - face - fees
    for row in rows:
        told = {each.state for each in await payee.mints.client.checkstate(row.ys)}
        assert told == {SpendState.SPENT}
    assert payee.alerts == [] and payee.lock_alerts.raised == []
    assert [what for what, _ in payee.heard].count("ticket_redeemed") == 2


async def test_acceptance_03_12_a_payee_killed_at_every_disk_and_mint_call_takes_each_item_once(
    payer: EscrowWorld, mint_url: str, tmp_path: Path
) -> None:
    for at in (0, *range(1, _MOST_POINTS, 3)):
        payee = ReceivingWorld(tmp_path / str(at), mint_url)
        await payee.announce()
        start = await payer.sats() + sum(op.fee_sats for op in await payer.ops() if op.state is OpState.DONE)
        ticket, said = await released(payer, payee)
        countdown = Countdown(at)
        countdown.watch(payee.db, "write")
        countdown.watch(payee.mints.client, *_MINT_CALLS)
        countdown.watch(payee.probed.client, *_MINT_CALLS)
        died = True
        try:
            await taken_whole(payer, payee, ticket, said)
            died = False
        except Crash:
            pass
        countdown.left = -1
        payee.heard.clear() if not await payee.items(ticket.ticket_id) else None
        await payee.restart()
        await payee.payers.load()
        await payee.sweep()
        try:
            await taken_whole(payer, payee, ticket, said)
        except HiveError as error:
            pytest.fail(f"killed at {at}: {error}")
        await payee.sweep()
        await both_agree(payer, payee, ticket, start)
        await payee.close()
        if not died:
            break
    else:
        pytest.fail(f"more than {_MOST_POINTS} points")
    assert at > 8


async def test_acceptance_03_12_an_answer_of_the_mint_that_is_lost_costs_no_sat(
    payer: EscrowWorld, mint_url: str, tmp_path: Path
) -> None:
    kinds = (MintFaultKind.LOSE_AFTER, MintFaultKind.LOSE_BEFORE)
    async with MintFaultFront.before(mint_url) as front:
        for kind in kinds:
            for path in ("/v1/swap", "/v1/checkstate"):
                payee = ReceivingWorld(tmp_path / f"{kind}-{path[4:]}", mint_url)
                via = OneMint(front.url)
                payee.mints.client = payee.probed.client = via.client
                await payee.announce()
                start = await payer.sats()
                start += sum(op.fee_sats for op in await payer.ops() if op.state is OpState.DONE)
                ticket, said = await released(payer, payee)
                front.set(MintFault(kind, path=path, times=1))
                for message in payer.letters.values():
                    await payee.told_by(message)
                for _ in range(3):
                    payee.now += 31
                    await payee.sweep()
                for message in said:
                    await payee.told_by(message)
                for _ in range(3):
                    payee.now += 61
                    await payee.sweep()
                front.clear()
                await both_agree(payer, payee, ticket, start)
                await via.reached.close()
                await payee.close()


async def test_who_it_worked_for_is_known_after_a_restart_and_who_it_was_told_once_is_enough(
    payer: EscrowWorld, payee: ReceivingWorld
) -> None:
    ticket = await handed_over(payer, payee)
    await carry(payer, payee)
    payee.now += 31 * 86_400
    await payee.restart()
    await payee.payers.load()
    await payee.db.write(lambda tx: tx.execute("DELETE FROM comms_state"))
    assert payee.payers.known == {THEM}
    peer = await payee.payers.peer(THEM)
    assert peer is not None and not peer.working and not peer.lock_keys
    await payee.desk.announce(THEM, CONTEXT, payee.probed.accepted(), 1)
    again = await payee.payers.peer(THEM)
    assert again is not None and again.lock_keys == {payee.lock_pubkey: CONTEXT}
    assert await payee.item_states(ticket.ticket_id) == ["accepted"] * 2
