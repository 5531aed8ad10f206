"""A payee of tickets at the real mint: what it takes, what it refuses before any work, and how what was
earned becomes its own (docs/protocol/03-escrow-and-payments.md §6.6, §6.7)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from cashu_mint import PaperMint
from cashu_tickets import NOW, PAYER, REFUND_KEY, STRANGER, item, preimage
from crash_points import Countdown
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.journal import OpState
from hive_shared.cashu.keysets import split
from hive_shared.cashu.mint_caps import Caps
from hive_shared.cashu.payee_rows import HeldLock
from hive_shared.cashu.ports import MintRefused
from hive_shared.cashu.terms import Terms, sign_text, terms_hash
from hive_shared.cashu.ticket_messages import (
    Failure,
    Metric,
    Owed,
    Redeemed,
    Release,
    Ticket,
    TicketAck,
    TicketReject,
    TicketResend,
)
from hive_shared.cashu.token import Token, encode_token
from hive_shared.cashu.wire import Proof
from hive_shared.cashu.witness import build, inputs_digest, sign
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import (
    Busy,
    Capacity,
    Conflict,
    HiveError,
    NotFound,
    PaymentFailed,
    SiblingUnavailable,
)
from hive_shared.mint_http import MintHttp
from hostile_tickets import COUNT, SATS, hostile_tickets
from locked_at_mint import locked, plain
from msgspec.structs import replace
from payee_world import CONTEXT, PayeeWorld, signature
from pipeline_world import Crash

pytestmark = pytest.mark.asyncio(loop_scope="module")
_UNDER_WAY = (HeldLock.REDEEMABLE, HeldLock.REDEEMING)
_MOST_POINTS = 60
_MINT_CALLS = ("swap", "checkstate", "restore")


@pytest_asyncio.fixture(loop_scope="module")
async def world(tmp_path: Path, mint_url: str) -> AsyncIterator[PayeeWorld]:
    opened = PayeeWorld(tmp_path, mint_url)
    yield opened
    await opened.close()


async def test_a_ticket_is_taken_earned_and_redeemed(world: PayeeWorld) -> None:
    terms = world.terms(100, 37)
    await world.hand_over(terms)
    ack = TicketAck(terms.ticket_id, terms_hash(terms).hex())
    assert world.sent == [ack]
    assert await world.states(terms.ticket_id) == ["accepted", "accepted"]
    await world.release(terms.ticket_id, 1)
    assert await world.states(terms.ticket_id) == ["accepted", "released"]
    assert await world.redeemer.redeem() == 1
    assert await world.states(terms.ticket_id) == ["accepted", "redeemed"]
    assert await world.sats() == 37
    assert world.sent[1:] == [Redeemed(terms.ticket_id, 1)]
    # The same word again changes nothing; what the payer asks again, it is told again.
    await world.release(terms.ticket_id, 1)
    assert await world.redeemer.redeem() == 0
    await world.engine.ticket(world.me, world.message(terms, ()), "m2")
    assert world.sent[2:] == [ack]


async def test_no_work_is_begun_after_the_deadline_near_the_locktime_or_at_a_mint_that_was_given_up(
    world: PayeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two hours to redeem after the first item, ten minutes after the second.
    end, deadlines = NOW + 10_800, (NOW + 3_600, NOW + 10_200)
    terms = world.terms(items=[item(n, 9, deadline=each, locktime=end) for n, each in enumerate(deadlines)])
    await world.hand_over(terms)

    async def usable(now: int) -> list[bool]:
        world.now = now
        items = await world.items(terms.ticket_id)
        assert [each.state.value for each in items] == ["accepted", "accepted"]
        return await world.db.read(lambda tx: [world.engine.usable(tx, each) for each in items])

    assert await usable(NOW + 3_599) == [True, True]
    assert await usable(NOW + 3_600) == [False, True]
    assert await usable(NOW + 9_900) == [False, True]
    assert await usable(NOW + 9_901) == [False, False]
    monkeypatch.setattr(world.mints, "accepted", lambda: ("https://another.example",))
    assert await usable(NOW) == [False, False]


async def test_every_hostile_ticket_is_refused_for_its_own_reason_and_the_mint_is_not_asked(
    tmp_path: Path, mint_url: str
) -> None:
    async with MintFaultFront.before(mint_url) as front:
        world = PayeeWorld(tmp_path, front.url)
        keyset, client = await world.keyset(), world.mints.client
        assert isinstance(client, MintHttp)
        tickets = await hostile_tickets(
            [world.terms(SATS) for _ in range(COUNT)],
            keyset,
            lambda outputs: locked(client, keyset, outputs),
            world.message,
        )
        asked = len(front.requests)
        for number, (_, _, message) in enumerate(tickets):
            await world.engine.ticket(world.me, message, f"m{number}")
        assert await world.engine.look() == len(tickets)
        assert len(front.requests) == asked
        for (name, check, message), answer in zip(tickets, world.sent, strict=True):
            assert isinstance(answer, TicketReject), name
            assert (name, answer.ticket_id, answer.reason) == (
                name,
                message.ticket_id,
                f"token_invalid({check})",
            )
            # No item to work for, nothing to redeem, and what it said is not kept.
            assert await world.items(message.ticket_id) == []
            assert await world.db.read(lambda tx, m=message: world.rows.parts(tx, m.ticket_id)) == []
        await world.close()


async def test_terms_that_are_not_for_us_are_refused_before_anything_is_asked(
    tmp_path: Path, mint_url: str
) -> None:
    async with MintFaultFront.before(mint_url) as front, MintFaultFront.before(mint_url) as other:
        world = PayeeWorld(tmp_path, front.url)
        me, key = PAYER, world.lock_pubkey
        stranger = Secret(b"\x55" * 32)
        late = item(0, 10, locktime=NOW + 4_000)
        variants: list[tuple[str, Terms, dict[str, Any]]] = [
            ("token_invalid(party)", world.terms(10, payee={"id": "ab" * 32, "lock_pubkey": key}), {}),
            (
                "token_invalid(own_key)",
                world.terms(10, payee={"id": next(iter(world.me.ours)), "lock_pubkey": STRANGER}),
                {},
            ),
            (
                "token_invalid(party)",
                world.terms(
                    10, payer={"id": xonly_pubkey(stranger), "refund_pubkey": public_key(REFUND_KEY)}
                ),
                {},
            ),
            ("token_invalid(party)", world.terms(10, node_id=STRANGER), {}),
            ("token_invalid(party)", world.terms(10, credential_ref="none of ours"), {}),
            ("token_invalid(signature)", world.terms(10), {"sig": sign_text(me, "another text")}),
            ("token_invalid(deadline)", world.terms(items=[late]), {}),
            ("token_invalid(hash)", world.terms(10, mode="receipt"), {}),
            ("token_invalid(mint)", world.terms(10, mints=[{"url": other.url, "permille": 1_000}]), {}),
            ("token_invalid(terms_form)", world.terms(10), {"terms": {"v": 2}}),
        ]
        for number, (_, terms, changes) in enumerate(variants):
            message = Ticket(
                **{
                    "ticket_id": terms.ticket_id,
                    "tokens": [encode_token(Token(world.mint_url, (PaperMint().proof(8, "ab" * 32),)))],
                    "terms": msgspec.to_builtins(terms),
                    "sig": signature(terms),
                    **changes,
                }
            )
            await world.engine.ticket(world.me, message, f"m{number}")
            await world.engine.look()
            answer = world.sent[-1]
            assert isinstance(answer, TicketReject) and len(world.sent) == number + 1
            assert (answer.reason, answer.ticket_id) == (variants[number][0], terms.ticket_id), answer
        # Nor is anything new begun for a payer that we gave up, whatever it hands over.
        world.me = msgspec.structs.replace(world.me, working=False)
        terms = world.terms(10)
        token = encode_token(Token(world.mint_url, (PaperMint().proof(8, "ab" * 32),)))
        given_up = Ticket(terms.ticket_id, [token], terms=msgspec.to_builtins(terms), sig=signature(terms))
        await world.engine.ticket(world.me, given_up, "given up")
        await world.engine.look()
        answer = world.sent[-1]
        assert isinstance(answer, TicketReject) and "none of those we work for" in answer.detail
        # The mint that the terms named and we do not accept never heard of us.
        assert other.connections == 0
        await world.close()


async def test_spent_proofs_proofs_seen_before_and_late_tickets_are_refused(world: PayeeWorld) -> None:
    terms = world.terms(21)
    (proofs,) = await world.lock(terms)
    key = world.keys.lock(CONTEXT)
    spend = [
        msgspec.structs.replace(
            proof, witness=build(preimage(0).hex(), [sign(key, inputs_digest(proof.secret))])
        )
        for proof in proofs
    ]
    keyset = await world.keyset()
    await world.mints.client.swap(spend, [each.message for each in plain([1, 4, 16], keyset)])
    await world.engine.ticket(world.me, world.message(terms, proofs), "m")
    await world.engine.look()
    assert isinstance(world.sent[-1], TicketReject) and world.sent[-1].reason == "token_spent"
    taken = world.terms(8)
    kept = await world.hand_over(taken)
    assert isinstance(world.sent[-1], TicketAck)
    # The same terms under another id have other nonces; the same proofs cannot be of two tickets.
    again = world.terms(8)
    await world.engine.ticket(world.me, world.message(again, kept[0]), "m")
    await world.engine.look()
    assert isinstance(world.sent[-1], TicketReject) and world.sent[-1].reason == "token_invalid(nonce)"
    late = world.terms(5)
    proofs = (await world.lock(late))[0]
    world.now = NOW + 7_200 - 899
    await world.engine.ticket(world.me, world.message(late, proofs), "m")
    await world.engine.look()
    assert isinstance(world.sent[-1], TicketReject) and world.sent[-1].reason == "token_invalid(too_late)"


async def test_altered_terms_and_other_senders_change_nothing(world: PayeeWorld) -> None:
    terms = world.terms(12)
    await world.hand_over(terms)
    altered = world.terms(12, ticket_id=terms.ticket_id)
    before = list(world.sent)
    with pytest.raises(Conflict, match="other terms"):
        await world.engine.ticket(world.me, world.message(altered, ()), "m9")
    stranger = replace(world.me, key="cd" * 32, name="mallory")
    for call in (
        world.engine.ticket(stranger, world.message(terms, ()), "m9"),
        world.engine.released(stranger, Release(terms.ticket_id, 0, preimage(0).hex())),
        world.engine.failed(stranger, Failure(terms.ticket_id, 0, "node_error")),
    ):
        with pytest.raises(HiveError):
            await call
    with pytest.raises(PaymentFailed) as wrong:
        await world.engine.released(world.me, Release(terms.ticket_id, 0, "ab" * 32))
    assert wrong.value.reason == "preimage_mismatch"
    with pytest.raises(NotFound):
        await world.engine.released(world.me, Release(terms.ticket_id, 7, preimage(7).hex()))
    assert world.sent == before and await world.states(terms.ticket_id) == ["accepted"]


async def test_a_ticket_in_parts_is_put_together_and_what_misses_is_asked_for(world: PayeeWorld) -> None:
    terms = world.terms(3, 4, 5, 6)
    proofs = await world.lock(terms)

    def part(first: int, last: int) -> Ticket:
        few = [proof for each in proofs[first : last + 1] for proof in each]
        token = encode_token(Token(world.mint_url, tuple(few)))
        return Ticket(terms.ticket_id, [token], first=first, last=last)

    # The part comes before the terms: mail has no order.
    await world.engine.ticket(world.me, part(2, 2), "m1")
    await world.engine.look()
    assert world.sent == []
    world.now += 30
    await world.engine.look()
    assert world.sent == [TicketResend(terms.ticket_id, 0, 0)]
    await world.engine.ticket(
        world.me,
        world.message(terms, [p for each in proofs[:2] for p in each], first=0, last=1),
        "m2",
    )
    world.now += 30
    await world.engine.look()
    assert world.sent[1:] == [TicketResend(terms.ticket_id, 3, 3)]
    await world.engine.look()
    assert len(world.sent) == 2
    await world.engine.ticket(world.me, part(3, 3), "m3")
    await world.engine.look()
    assert isinstance(world.sent[-1], TicketAck)
    assert await world.states(terms.ticket_id) == ["accepted"] * 4


async def test_what_is_sent_again_may_overlap_what_came(world: PayeeWorld) -> None:
    terms = world.terms(2, 3, 4)
    proofs = await world.lock(terms)
    for number, (first, last) in enumerate(((2, 2), (0, 0), (0, 1))):
        few = [proof for each in proofs[first : last + 1] for proof in each]
        part = world.message(terms, few, first=first, last=last)
        await world.engine.ticket(world.me, part, f"m{number}")
    await world.engine.look()
    assert isinstance(world.sent[-1], TicketAck)
    # The same twice in one part is nobody's accident; another proof under a known secret neither.
    for twice in (proofs[0] * 2, [*proofs[0], msgspec.structs.replace(proofs[0][0], amount=64)]):
        other = world.terms(2, 3)
        await world.engine.ticket(world.me, world.message(other, twice, first=0, last=0), "m8")
        await world.engine.ticket(world.me, world.message(other, proofs[1], first=1, last=1), "m9")
        await world.engine.look()
        answer = world.sent[-1]
        assert isinstance(answer, TicketReject) and answer.reason == "token_invalid(repeated_secret)"


async def test_a_ticket_that_never_becomes_whole_is_refused_and_a_peer_leaves_few_of_them(
    world: PayeeWorld,
) -> None:
    whole = [world.terms(3) for _ in range(65)]
    for number, terms in enumerate(whole[:64]):
        await world.engine.ticket(world.me, world.message(terms, (), tokens=[]), f"m{number}")
    with pytest.raises(Capacity):
        await world.engine.ticket(world.me, world.message(whole[64], (), tokens=[]), "m64")
    for _ in range(8):
        world.now += 600
        await world.engine.look()
    assert {str(type(each).__name__) for each in world.sent} == {"TicketResend", "TicketReject"}
    refused = [each for each in world.sent if isinstance(each, TicketReject)]
    assert len(refused) == 64 and {each.reason for each in refused} == {"token_invalid(amount_short)"}
    await world.engine.ticket(world.me, world.message(whole[64], (), tokens=[]), "m65")


@pytest.mark.parametrize("known", [True, False], ids=["its keysets known", "nothing of it known"])
async def test_a_ticket_whose_mint_stays_silent_is_refused_while_its_payer_can_still_plan(
    tmp_path: Path, mint_url: str, known: bool
) -> None:
    async with MintFaultFront.before(mint_url) as front:
        world = PayeeWorld(tmp_path, front.url)
        soon = item(0, 40, deadline=NOW + 5_000, locktime=NOW + 9_000)
        later = item(1, 40, deadline=NOW + 9_000, locktime=NOW + 9_600)
        terms = world.terms(items=[soon, later])
        proofs = [each for few in await world.lock(terms) for each in few]
        await world.engine.ticket(world.me, world.message(terms, proofs), "m")
        front.set(MintFault(MintFaultKind.LOSE_BEFORE, times=0))
        if not known:
            await world.restart()
        # While anything could be earned by it, it waits.
        world.now = NOW + 8_100
        assert await world.engine.look() == 0 and world.sent == []
        world.now += 31
        assert await world.engine.look() == 1
        (answer,) = world.sent
        assert isinstance(answer, TicketReject) and answer.reason == "mint_unavailable"
        assert world.now + 600 < NOW + 9_000 and await world.items(terms.ticket_id) == []
        front.clear()
        assert await world.engine.look() == 0
        await world.close()


async def test_a_mint_that_is_away_delays_the_answer_and_an_unprobed_one_is_trusted_little(
    tmp_path: Path, mint_url: str
) -> None:
    async with MintFaultFront.before(mint_url) as front:
        world = PayeeWorld(tmp_path, front.url)
        terms = world.terms(40)
        proofs = (await world.lock(terms))[0]
        await world.engine.ticket(world.me, world.message(terms, proofs), "m")
        front.set(MintFault(MintFaultKind.LOSE_BEFORE, times=0))
        assert await world.engine.look() == 0
        assert (await world.ticket(terms.ticket_id)).reason == "mint_unavailable" and world.sent == []
        front.clear()
        world.now += 1
        assert await world.engine.look() == 1
        assert isinstance(world.sent[-1], TicketAck)
        world.mints.caps = None
        for amount, says in ((960, "TicketAck"), (1, "TicketReject")):
            await world.hand_over(world.terms(amount))
            assert type(world.sent[-1]).__name__ == says
        last = world.sent[-1]
        assert isinstance(last, TicketReject) and last.reason == "exposure_limit"
        # What was redeemed makes room again.
        await world.release(terms.ticket_id, 0)
        assert await world.redeemer.redeem(at_once=True) == 1
        await world.hand_over(world.terms(1))
        assert isinstance(world.sent[-1], TicketAck)
        world.mints.caps = Caps(htlc=False, restore=True)
        await world.hand_over(world.terms(1))
        last = world.sent[-1]
        assert isinstance(last, TicketReject) and last.reason == "mint_nonconformant"
        await world.close()


async def test_what_is_not_the_tickets_fault_does_not_refuse_it(
    world: PayeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = world.terms(40)
    proofs = (await world.lock(terms))[0]
    await world.engine.ticket(world.me, world.message(terms, proofs), "m")
    for where, name, error in (
        (world.mints.client, "checkstate", MintRefused(world.mint_url, 403, None, "not from there")),
        (world.mints, "keysets", Busy("5000 database writes are waiting")),
        (world, "peer", SiblingUnavailable("cl-hive starts")),
    ):

        async def fails(_: object, error: HiveError = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(where, name, fails)
            assert await world.engine.look() == 0
        held = await world.ticket(terms.ticket_id)
        assert (held.reason, held.detail, world.sent) == (error.symbol, error.detail, [])
        world.now += 30
    assert await world.engine.look() == 1 and isinstance(world.sent[-1], TicketAck)


async def test_a_failure_is_not_the_last_word_and_claims_of_the_payer_are_only_noted(
    world: PayeeWorld,
) -> None:
    terms = world.terms(9, 9)
    await world.hand_over(terms)
    await world.engine.failed(world.me, Failure(terms.ticket_id, 0, "node_error"))
    assert await world.states(terms.ticket_id) == ["failed", "accepted"]
    await world.engine.noted(
        world.me, Metric(terms.ticket_id, 1, "revenue_msat", 5, 3, 9, met=False, measured_at=NOW)
    )
    assert [each.note for each in await world.items(terms.ticket_id)] == [
        "node_error",
        "revenue_msat 5, needed 9: not reached",
    ]
    await world.release(terms.ticket_id, 0)
    await world.redeemer.redeem()
    assert (await world.states(terms.ticket_id), await world.sats()) == (["redeemed", "accepted"], 9)
    # A failure that comes after the money takes nothing back.
    await world.engine.failed(world.me, Failure(terms.ticket_id, 0, "node_error"))
    assert await world.states(terms.ticket_id) == ["redeemed", "accepted"]
    await world.engine.noted(world.me, Owed(terms.ticket_id, 1, 9, "no_late_redeem"))
    assert "owes 9 sat" in (await world.items(terms.ticket_id))[1].note
    claims = [text for kind, _, text in world.events if kind in ("ticket_metric", "ticket_owed")]
    assert len(claims) == 2 and all(text.startswith("item 1: ") for text in claims)


async def test_items_of_many_are_redeemed_together_and_one_that_is_gone_does_not_hold_up_the_others(
    world: PayeeWorld,
) -> None:
    terms = world.terms(*([5] * 12))
    proofs = await world.hand_over(terms)
    # Somebody with our key and the preimage was quicker with item 4: a copy of this profile.
    key = world.keys.lock(CONTEXT)
    stolen = [
        msgspec.structs.replace(
            proof, witness=build(preimage(4).hex(), [sign(key, inputs_digest(proof.secret))])
        )
        for proof in proofs[4]
    ]
    await world.mints.client.swap(stolen, [each.message for each in plain([1, 4], await world.keyset())])
    for number in range(10):
        await world.release(terms.ticket_id, number)
    await settled(world)
    assert await world.states(terms.ticket_id) == ["redeemed"] * 10 + ["accepted"] * 2
    # Each of the nine is of 6 sat, of which the mint keeps 1 alone; the tenth is with who was quicker.
    assert 45 <= await world.sats() <= 53


async def settled(world: PayeeWorld) -> None:
    """Redeem until nothing is under way."""
    for _ in range(12):
        await world.redeemer.redeem()
        await world.service.tick()
        states = {str(s.state) for s in await world.db.read(lambda tx: world.rows.shares_in(tx, _UNDER_WAY))}
        if not states:
            return
        world.now += 120
    pytest.fail(f"still {states}")


async def test_what_the_payer_took_back_is_known_from_the_mint(world: PayeeWorld) -> None:
    locktime = int(time.time()) - 60
    world.now = locktime - 5_000
    parts = [item(number, 20, deadline=locktime - 3_600, locktime=locktime) for number in range(3)]
    terms = world.terms(items=parts, issued_at=locktime - 7_200)
    proofs = await world.hand_over(terms)
    refund = [
        msgspec.structs.replace(proof, witness=build(None, [sign(REFUND_KEY, inputs_digest(proof.secret))]))
        for few in proofs[:2]
        for proof in few
    ]
    back = sum(proof.amount for proof in refund) - 1
    keyset = await world.keyset()
    outputs = plain(split(back, keyset.denominations), keyset)
    await world.mints.client.swap(refund, [each.message for each in outputs])
    # One item was released and is too late, one was never worked for, one is still there.
    await world.release(terms.ticket_id, 0)
    await world.release(terms.ticket_id, 2)
    await settled(world)
    world.now = max(world.now, locktime + 120)
    await world.redeemer.look_back()
    assert await world.states(terms.ticket_id) == ["lost", "lost", "redeemed"]
    assert [kind for kind, *_ in world.events if kind.startswith("ticket_")][-4:].count("ticket_lost") == 1
    assert 20 <= await world.sats() <= 23


async def test_killed_at_every_disk_and_mint_call_of_taking_a_ticket_in_and_redeeming_it(
    tmp_path: Path, mint_url: str
) -> None:
    # Behind one call is before the next.
    for at in (0, *range(1, _MOST_POINTS, 2)):
        world = PayeeWorld(tmp_path / str(at), mint_url)
        terms = world.terms(100, 9)
        proofs = [proof for few in await world.lock(terms) for proof in few]
        countdown = Countdown(at)
        countdown.watch(world.db, "write")
        countdown.watch(world.mints.client, *_MINT_CALLS)
        died = True
        try:
            await taken_and_redeemed(world, terms, proofs)
            died = False
        except Crash:
            pass
        countdown.left = -1
        await world.restart()
        # The relay still has every message whose handling was not noted.
        await taken_and_redeemed(world, terms, proofs)
        await settled(world)
        assert await world.states(terms.ticket_id) == ["redeemed", "redeemed"], at
        face = sum(proof.amount for proof in proofs)
        ops = await world.service.ops(None, None, 50)
        assert all(not op.open for op in ops)
        done = [op for op in ops if op.state is OpState.DONE]
        assert await world.sats() == face - sum(op.fee_sats for op in done) >= 109, at
        assert isinstance(world.sent[0], TicketAck)
        assert not any(isinstance(each, TicketReject) for each in world.sent)
        await world.close()
        if not died:
            return
    pytest.fail(f"more than {_MOST_POINTS} points")


async def taken_and_redeemed(world: PayeeWorld, terms: Terms, proofs: list[Proof]) -> None:
    await world.engine.ticket(world.me, world.message(terms, proofs), "m1")
    await world.engine.look()
    for number in (0, 1):
        await world.release(terms.ticket_id, number)
    await world.redeemer.redeem()


async def test_no_answer_of_the_mint_that_is_lost_costs_a_sat(tmp_path: Path, mint_url: str) -> None:
    async with MintFaultFront.before(mint_url) as front:
        for at in range(_MOST_POINTS):
            struck = 0
            for fault in (MintFaultKind.LOSE_BEFORE, MintFaultKind.LOSE_AFTER):
                world = PayeeWorld(tmp_path / f"{at}{fault}", front.url)
                terms = world.terms(50, 6)
                proofs = [proof for few in await world.lock(terms) for proof in few]
                front.set(MintFault(fault, skip=at, times=1))
                await world.engine.ticket(world.me, world.message(terms, proofs), "m1")
                for _ in range(4):
                    await world.engine.look()
                    world.now += 30
                for number in (0, 1):
                    await world.release(terms.ticket_id, number)
                await world.redeemer.redeem()
                struck += front.clear()
                await settled(world)
                assert await world.states(terms.ticket_id) == ["redeemed", "redeemed"], (at, fault)
                done = [op for op in await world.service.ops(None, None, 50) if op.state is OpState.DONE]
                face = sum(proof.amount for proof in proofs)
                assert await world.sats() == face - sum(op.fee_sats for op in done) >= 56, (at, fault)
                await world.close()
            if not struck:
                return
    pytest.fail(f"more than {_MOST_POINTS} requests")
