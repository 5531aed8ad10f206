"""The kit is paid by escrow tickets: told what a ticket needs, handed one, works on it, redeems it
(docs/protocol/11-advisor-kit.md §8; docs/protocol/03-escrow-and-payments.md §6.6)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from cashu_tickets import REFUND_KEY, as_p2pk_with_hash, item, preimage
from crash_points import Countdown
from hive_advisor.advisor import Advisor
from hive_advisor.cli.tickets import _shown
from hive_advisor.domain.keyring import Keyring
from hive_advisor.services.tickets import MESSAGES_AN_HOUR
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_shared.cashu.curve import y_of
from hive_shared.cashu.outputs import output
from hive_shared.cashu.terms import Terms, lock_key_text, signed_by, terms_hash
from hive_shared.cashu.ticket_messages import (
    Dispute,
    DisputeReply,
    Outcome,
    Redeemed,
    Release,
    TicketAck,
    TicketReject,
)
from hive_shared.cashu.wire import SpendState
from hive_shared.cashu.witness import build, inputs_digest, sign
from hive_shared.crypto import Secret
from hive_shared.errors import Conflict, InvalidParams, NotFound, from_symbol
from hive_shared.store import Db, Tx
from hive_shared.unreadable import readable
from hostile_tickets import COUNT, SATS, hostile_tickets
from kit_tickets import HOUR, PaidKit, sats, states
from kit_world import FEE, PARAMS, run_fee
from pipeline_world import Crash
from scripted_node import ScriptedNode

_MOST_POINTS = 60
pytestmark = pytest.mark.asyncio(loop_scope="module")


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


async def test_a_node_is_told_what_a_ticket_needs_and_pays_work_by_one(world: PaidKit, kit: Advisor) -> None:
    request = await world.asked(kit)
    (credential,) = await kit.clients.credentials(await kit.clients.named("alice"))
    assert request.context == credential.credential_id and request.mints == list(world.mints)
    assert signed_by(kit.pubkey, lock_key_text(request.context, request.lock_pubkey), request.binding)
    terms = await world.handed(kit, 100)
    assert await world.decided(kit) == [TicketAck(terms.ticket_id, terms_hash(terms).hex())]
    done = await run_fee(kit)
    assert done.state == "done"
    proof = {"method": "cashu_escrow", "ticket_id": terms.ticket_id, "item": 0}
    assert world.node.commands[-1].payment_proof == proof
    await kit.tickets.tend()
    view = await kit.tickets.view(terms.ticket_id)
    assert (states(view), view.items[0].command_id) == (["redeemed"], done.command_id)
    assert await sats(kit) == 100
    assert (await world.told(kit))[-1] == Redeemed(terms.ticket_id, 0)
    # Told once, and nothing is attached where no ticket fits.
    assert [type(each).__name__ for each in await world.told(kit)].count("TicketRequest") == 1
    await run_fee(kit, 151)
    assert world.node.commands[-1].payment_proof == {"method": "none"}


async def test_work_that_is_not_answered_with_its_preimage_waits_for_a_release(
    world: PaidKit, kit: Advisor
) -> None:
    world.reveals = False
    terms = await world.handed(kit, 30, 20)
    assert (await run_fee(kit)).state == "done"
    await kit.tickets.tend()
    assert states(await kit.tickets.view(terms.ticket_id)) == ["unknown", "accepted"]
    await world.say(kit, Release(terms.ticket_id, 0, "ab" * 32))
    await world.say(kit, Release(terms.ticket_id, 0, preimage(0).hex()))
    await kit.tickets.tend()
    assert states(await kit.tickets.view(terms.ticket_id)) == ["redeemed", "accepted"]
    kept = await kit._db.read(lambda tx: [row["raw_json"] for row in tx.execute("SELECT * FROM adv_inbox")])
    assert any("hive:escrow/release" in text for text in kept)
    assert not any(secret in text for text in kept for secret in (preimage(0).hex(), "ab" * 32, "cashuB"))
    assert await sats(kit) == 30


async def test_a_client_is_heard_120_times_an_hour_and_what_it_released_always(
    world: PaidKit, kit: Advisor
) -> None:
    terms, more = await world.handed(kit, 7), [await world.terms(kit, 7) for _ in range(3)]
    for _ in range(MESSAGES_AN_HOUR - 1):
        await world.say(kit, Release(terms.ticket_id, 0, "ab" * 32))
    assert await heard(world, kit, more[0]) is False
    # What makes money ours is never too much.
    await world.say(kit, Release(terms.ticket_id, 0, preimage(0).hex()))
    assert states(await kit.tickets.view(terms.ticket_id)) == ["released"]
    # Another client is not concerned.
    alice, world.node = world.node, ScriptedNode("ws://127.0.0.1:1")
    await world.push(kit, world.node.offer(kit.pubkey))
    await kit.clients.accept(next(c for c in await kit.clients.all() if c.state == "offered"), "bob")
    assert await heard(world, kit, more[1])
    world.node = alice
    world.ahead += HOUR
    assert await heard(world, kit, more[2])


async def test_a_ticket_that_cannot_be_read_is_named_among_the_others(world: PaidKit, kit: Advisor) -> None:
    good, bad = await world.handed(kit, 7), await world.handed(kit, 8)
    await world.decided(kit)
    harm = "UPDATE adv_cashu_locks SET token_enc = x'00' WHERE ticket_id = ?"
    await kit._db.write(lambda tx: tx.execute(harm, (bad.ticket_id,)))
    rows = [await _shown(kit, view) for view in await kit.tickets.listed(None, 9)]
    shown = {row["ticket_id"]: row for row in rows}
    assert set(shown) == {good.ticket_id, bad.ticket_id} and "unreadable" not in shown[good.ticket_id]
    assert shown[bad.ticket_id]["unreadable"] == "seal_broken"


async def heard(world: PaidKit, kit: Advisor, terms: Terms) -> bool:
    """Whether a ticket's first message is taken."""
    await world.say(kit, world.ticket(terms, [], tokens=[]))
    return terms.ticket_id in {v.ticket.ticket_id for v in readable(await kit.tickets.listed(None, 9))}


async def test_the_best_ticket_goes_along_and_one_below_what_is_agreed_only_where_it_is_named(
    world: PaidKit, kit: Advisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, great = await world.handed(kit, 24), await world.handed(kit, 26)
    client = await kit.clients.named("alice")
    monkeypatch.setattr("hive_advisor.services.tickets.rate_sats", lambda _document, _danger: 25)
    plan = await kit.plan(client, *FEE, PARAMS)
    assert plan.payment is not None and plan.payment["ticket_id"] == great.ticket_id
    monkeypatch.setattr("hive_advisor.services.tickets.rate_sats", lambda _document, _danger: 27)
    plan = await kit.plan(client, *FEE, PARAMS)
    assert plan.payment is None
    named = (await kit.tickets.planned(plan, small.ticket_id, None)).payment
    assert named is not None and named["ticket_id"] == small.ticket_id


async def test_a_ticket_is_answered_by_the_key_it_is_payable_to_and_by_none_while_the_key_is_shared(
    world: PaidKit, kit: Advisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, fresh = kit.pubkey, Secret(b"\x07" * 32)
    terms = await world.terms(kit, 10)
    await world.say(kit, world.ticket(terms, await world.lock(await world.outputs(terms))))
    ring = Keyring([kit.keyring.secret(before), fresh])
    assert ring.current != before
    monkeypatch.setattr(kit.signed_mail, "_keyring", ring)
    await kit.tickets.tend()
    assert await world.decided(kit) == [TicketAck(terms.ticket_id, terms_hash(terms).hex())]
    asked = "SELECT sender FROM adv_outbox WHERE name LIKE 'ticket_ack:%'"
    signers = await kit._db.read(lambda tx: [row["sender"] for row in tx.execute(asked)])
    assert signers == [before]

    sent: list[str] = []

    async def deliver(recipient: str, content: str, *_: object, **__: object) -> int:
        sent.append(content)
        return 1

    error = {"code": from_symbol("nonce_reuse", "no").code, "slug": "nonce_reuse", "message": "no"}
    world.node.answer = lambda command: world.node.response(command, 1, error=error)
    await run_fee(kit, 151)
    assert await kit.shared_key.found() is not None
    monkeypatch.setattr(kit._link, "deliver", deliver)
    world.ahead = 600
    assert (await kit.signed_mail.flush(), sent) == (0, [])
    assert await kit.shared_key.clear()
    assert await kit.signed_mail.flush() == len(sent) > 0


async def test_refused_tickets_are_kept_for_a_month(world: PaidKit, kit: Advisor) -> None:
    elsewhere = [{"url": "https://mint.example", "permille": 1_000}]
    for _ in range(3):
        terms = await world.terms(kit, 5, mints=elsewhere)
        await world.say(kit, world.ticket(terms, [], tokens=["cashuBabcd"]))
        await kit.tickets.tend()
        assert [view.ticket.intake for view in readable(await kit.tickets.listed(None, 10))] == ["refused"]
        await kit._db.write(lambda tx: tx.execute("UPDATE adv_tickets SET updated_at = updated_at - 2592001"))


async def test_the_preimage_of_an_answer_is_sealed_also_where_an_earlier_version_kept_it(
    tmp_path: Path, mint_url: str
) -> None:
    world, shown = PaidKit(tmp_path, mint_url), preimage(0).hex()
    async with world.open() as kit:
        await world.hired(kit)
        await world.handed(kit, 9)
        done = await run_fee(kit)
        assert done.response["preimage"] == shown
    assert shown.encode() not in in_files(world)
    old = {**done.response, "old": "x" * 5_000}

    def as_before(tx: Tx) -> None:
        tx.execute("UPDATE adv_commands SET response_json = ?, preimage_enc = NULL", (json.dumps(old),))
        tx.execute("DELETE FROM adv_meta WHERE key = 'preimages_sealed'")

    async with world.open() as kit:
        await kit._db.write(as_before)
    assert shown.encode() in in_files(world)
    # Killed at each write of it, it is done at the next start.
    for at in range(_MOST_POINTS):
        left = Countdown(at)
        with counted_writes(left):
            try:
                async with world.open():
                    pass
                died = False
            except Crash:
                died = True
        async with world.open() as kit:
            stored = await kit._db.read(lambda tx: kit._command_rows.get(tx, done.command_id))
            assert stored is not None and stored.response == old
        assert shown.encode() not in in_files(world), at
        if not died:
            break
        async with world.open() as kit:
            await kit._db.write(as_before)
    await world.close()


def in_files(world: PaidKit) -> bytes:
    """Everything that stands in the database's files."""
    return b"".join(path.read_bytes() for path in sorted(world.paths.data_dir.glob("advisor.db*")))


@contextmanager
def counted_writes(left: Countdown) -> Iterator[None]:
    """Every write of every database counts down."""
    with pytest.MonkeyPatch.context() as patch:
        write, compact = Db.write, Db.compact

        async def counted(self: Db, body: Any, **options: Any) -> Any:
            return await left.watched(lambda: write(self, body, **options))()

        patch.setattr(Db, "write", counted)
        patch.setattr(Db, "compact", lambda self: left.watched(lambda: compact(self))())
        yield


async def test_a_client_that_owes_us_is_forgotten_only_where_a_human_gives_that_up(
    world: PaidKit, kit: Advisor
) -> None:
    await world.handed(kit, 30, 20)
    client = await kit.clients.named("alice")
    await kit._db.write(
        lambda tx: tx.execute(
            "INSERT INTO adv_invoices (earning_id, client_id, command_id, purpose, amount_sats, state,"
            " due_at, created, updated) VALUES ('e', ?, 'c', 'period', 70, 'unpaid', 1, 1, 1)",
            (client.client_id,),
        )
    )
    (credential,) = await kit.clients.credentials(client)
    world.ahead = credential.valid_until - world.now() + 5
    with pytest.raises(Conflict, match=r"1 debts of 70 sat .* and 2 items of tickets of 50 sat") as refused:
        await kit.forgetting.forget(client)
    assert refused.value.data["items_sats"] == 50 and await kit.money.earnings.listed(5) != []
    assert await kit.forgetting.forget(client, even_unpaid=True) > 0
    assert await kit.money.earnings.listed(5) == []


async def test_an_item_is_one_commands_and_free_again_where_that_did_not_run(
    world: PaidKit, kit: Advisor
) -> None:
    terms = await world.handed(kit, 5)
    client = await kit.clients.named("alice")
    plans = [await kit.plan(client, *FEE, PARAMS) for _ in range(2)]
    assert plans[0].payment is not None and plans[0].payment == plans[1].payment
    world.node.answer = lambda command: (
        world.node.response(command, 1, error={"code": 4001, "slug": "policy_denied", "message": "no"})
        if command.schema_type == FEE[0]
        else world.work(command)
    )
    refused = await kit.execute(plans[0], wait_s=60, human=True)
    assert refused.state == "rejected"
    world.node.answer = lambda command: None
    sent = await kit.execute(plans[1], wait_s=1, human=True)
    with pytest.raises(Conflict, match="not free any more"):
        await kit.execute(plans[1], wait_s=1, human=True, again=True)
    assert (await kit.tickets.view(terms.ticket_id)).items[0].command_id == sent.command_id
    plain = await kit.plan(client, *FEE, PARAMS, ticketed=False)
    assert plain.payment is None
    with pytest.raises(Conflict, match="can be worked for now"):
        await kit.tickets.planned(plain, terms.ticket_id, None)
    other = await kit.plan(client, *FEE, {**PARAMS, "fee_ppm": 200}, ticketed=False)
    with pytest.raises(Conflict, match="another task"):
        await kit.tickets.planned(other, terms.ticket_id, 0)
    with pytest.raises(NotFound, match="no item 3"):
        await kit.tickets.planned(plain, terms.ticket_id, 3)


async def refused(world: PaidKit, kit: Advisor) -> dict[str, str]:
    """Why each ticket was refused, by its id."""
    return {
        each.ticket_id: each.reason for each in await world.decided(kit) if isinstance(each, TicketReject)
    }


async def test_acceptance_11_09_hostile_tickets_are_refused_each_for_its_own_reason_and_nothing_is_worked(
    tmp_path: Path, mint_url: str
) -> None:
    async with MintFaultFront.before(mint_url) as front, MintFaultFront.before(mint_url) as foreign:
        world = PaidKit(tmp_path, front.url)
        async with world.open() as kit:
            await world.hired(kit)
            (listed,) = [each for each in await world.mint.keysets() if each.active]
            keyset = await world.mint.keyset(listed)
            one = [item(0, SATS)]
            terms = [await world.terms(kit, items=one) for _ in range(COUNT)]
            tickets = await hostile_tickets(terms, keyset, world.lock, world.ticket)
            # The first look at a mint asks what it is.
            await kit.ecash.ready()
            await kit.ecash.book.check(front.url)
            asked = len(front.requests)
            for _, _, message in tickets:
                await world.say(kit, message)
            elsewhere = await world.terms(kit, items=one, mints=[{"url": foreign.url, "permille": 1_000}])
            tickets.append(("terms of a foreign mint", "mint", world.ticket(elsewhere, ())))
            await world.say(kit, world.ticket(elsewhere, (), tokens=["cashuBx"]))
            await kit.tickets.tend()
            reasons = await refused(world, kit)
            assert reasons == {message.ticket_id: f"token_invalid({check})" for _, check, message in tickets}
            assert len(reasons) == COUNT + 1 and len(set(reasons.values())) >= 15
            # No mint was asked anything, the foreign one never heard of us, and no work goes with any.
            assert len(front.requests) == asked and foreign.connections == 0
            assert (await run_fee(kit)).state == "done"
            assert world.node.commands[-1].payment_proof == {"method": "none"}
            assert await sats(kit) == 0
        await world.close()


async def test_acceptance_11_09_a_lost_answer_of_the_mint_loses_no_sat(tmp_path: Path, mint_url: str) -> None:
    async with MintFaultFront.before(mint_url) as front:
        world = PaidKit(tmp_path, front.url)
        async with world.open() as kit:
            await world.hired(kit)
            for number, fault in enumerate((MintFaultKind.LOSE_AFTER, MintFaultKind.LOSE_BEFORE)):
                terms = await world.handed(kit, 100)
                front.set(MintFault(fault, path="/v1/swap", times=1))
                assert (await run_fee(kit)).state == "done"
                for _ in range(4):
                    await kit.tickets.tend()
                    await kit.ecash.tick()
                    world.ahead += 60
                assert states(await kit.tickets.view(terms.ticket_id)) == ["redeemed"]
                assert await sats(kit) == 100 * (number + 1)
        await world.close()


async def test_acceptance_03_04_a_ticket_that_pays_without_its_preimage_is_refused_and_nothing_spent(
    tmp_path: Path, mint_url: str
) -> None:
    async with MintFaultFront.before(mint_url) as front:
        world = PaidKit(tmp_path, front.url)
        async with world.open() as kit:
            await world.hired(kit)
            terms = await world.terms(kit, 7)
            (honest,) = await world.outputs(terms)
            (proof,) = await world.lock(
                [output(8, honest.keyset_id, as_p2pk_with_hash(honest.secret), honest.r)]
            )
            await kit.ecash.ready()
            await kit.ecash.book.check(front.url)
            asked = len(front.requests)
            await world.say(kit, world.ticket(terms, [proof]))
            await kit.tickets.tend()
            assert await refused(world, kit) == {terms.ticket_id: "token_invalid(unknown_tag)"}
            assert (await run_fee(kit)).state == "done"
            assert world.node.commands[-1].payment_proof == {"method": "none"}
            assert len(front.requests) == asked
            (state,) = await world.mint.checkstate([y_of(proof.secret)])
            assert state.state is SpendState.UNSPENT
        await world.close()


async def test_killed_at_every_write_and_call_of_paid_work_it_is_done_and_redeemed_once(
    tmp_path: Path, mint_url: str
) -> None:
    for at in range(0, _MOST_POINTS, 2):
        world = PaidKit(tmp_path / str(at), mint_url)
        async with world.open() as kit:
            await world.hired(kit)
            terms = await world.handed(kit, 100)

        async def work(kit: Advisor) -> None:
            await run_fee(kit)
            await kit.tickets.tend()

        died = await world.killed(at, work)
        async with world.open() as kit:
            client = await kit.clients.named("alice")
            for command in await kit.commands.open():
                await kit.send_again(command, client)
            view = await kit.tickets.view(terms.ticket_id)
            if view.items[0].command_id is None:
                await run_fee(kit)
            for _ in range(3):
                await kit.tickets.tend()
                await kit.ecash.tick()
                world.ahead += 60
            view = await kit.tickets.view(terms.ticket_id)
            assert (states(view), await sats(kit)) == (["redeemed"], 100), at
        paid = [c for c in world.node.commands if (c.payment_proof or {}).get("method") == "cashu_escrow"]
        assert len({command.command_id for command in paid}) == 1, at
        await world.close()
        if not died:
            return
    pytest.fail(f"more than {_MOST_POINTS} points")


async def test_what_the_payer_took_back_can_be_disputed_for_a_month_and_silence_is_no(
    world: PaidKit, kit: Advisor
) -> None:
    await kit.ecash.ready()
    await kit.ecash.book.check(world.mints[0])
    locktime = world.now() - 60
    world.ahead = -5_000
    parts = [item(number, 20, deadline=locktime - HOUR, locktime=locktime) for number in range(2)]
    terms = await world.terms(kit, items=parts, issued_at=locktime - 2 * HOUR)
    proofs = await world.lock(await world.outputs(terms))
    await world.say(kit, world.ticket(terms, proofs))
    await kit.tickets.tend()
    world.reveals = False
    assert (await run_fee(kit)).state == "done"
    back = [
        msgspec.structs.replace(proof, witness=build(None, [sign(REFUND_KEY, inputs_digest(proof.secret))]))
        for proof in proofs
    ]
    await world.swapped(back)
    for number, says in ((0, "is unknown"), (1, "is accepted")):
        with pytest.raises(Conflict, match=says):
            await kit.tickets.disputes.open(terms.ticket_id, number, "it was done")
    world.ahead = 200
    await kit.tickets.tend()
    assert states(await kit.tickets.view(terms.ticket_id)) == ["lost", "lost"]
    with pytest.raises(InvalidParams):
        await kit.tickets.disputes.open(terms.ticket_id, 0, "")
    opened = await kit.tickets.disputes.open(terms.ticket_id, 0, "it was done")
    sent = (await world.told(kit))[-1]
    assert isinstance(sent, Dispute) and (sent.dispute_id, sent.item) == (opened.dispute_id, 0)
    # The receipt of the work goes along, and says that it succeeded.
    assert isinstance(sent.receipt, dict) and sent.receipt["status"] == "success"
    assert sent.evidence_hashes == [f"sha256:{sent.receipt['receipt_hash']}"]
    assert states(await kit.tickets.view(terms.ticket_id)) == ["disputed", "lost"]
    await world.say(kit, DisputeReply(opened.dispute_id, Outcome.REPLACE, "a new one comes"))
    await world.say(kit, DisputeReply(opened.dispute_id, Outcome.REJECT, "no"))
    (ended,) = await kit.tickets.disputes.of_ticket(terms.ticket_id)
    assert (ended.state, ended.reply) == ("replaced", "a new one comes")
    await kit.tickets.disputes.open(terms.ticket_id, 1, "never asked to work, but locked")
    world.ahead += 72 * HOUR
    await kit.tickets.tend()
    disputes = await kit.tickets.disputes.of_ticket(terms.ticket_id)
    assert {each.item: each.state for each in disputes} == {0: "replaced", 1: "rejected"}
    world.ahead += 30 * 24 * HOUR
    with pytest.raises(Conflict, match="30 days"):
        await kit.tickets.disputes.open(terms.ticket_id, 1, "once more")
