"""A payee's checks of a ticket: an honest one passes, every other has its own reason (03 §6.6, §14.4-6)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cashu_mint import PaperMint
from cashu_tickets import (
    LOCK_KEY,
    LOCK_SEED,
    NODE,
    NOW,
    PAYER,
    REFUND_KEY,
    SECRET_VARIANTS,
    URL,
    PaperTicket,
    document,
    item,
    preimage,
)
from hive_shared.cashu.derive import lock_nonce, public_key
from hive_shared.cashu.keysets import Keyset
from hive_shared.cashu.reasons import MintNonconformant, TokenInvalid, TokenSpent
from hive_shared.cashu.secrets import build_secret
from hive_shared.cashu.terms import decode_terms, terms_hash, terms_text
from hive_shared.cashu.ticket import check_states, lock_of, lock_outputs
from hive_shared.cashu.token import Token, decode_token, encode_token
from hive_shared.cashu.wire import Dleq, Proof, ProofState, SpendState
from hive_shared.cashu.witness import inputs_digest, preimage_matches, sign, signers
from hive_shared.crypto import Secret, cln_sign_message

STRANGER = public_key(Secret(b"\x44" * 32))
SECOND = "https://second.example"
TWO_MINTS = [{"url": URL, "permille": 600}, {"url": SECOND, "permille": 400}]


def single(amount: int = 100, **kwargs: Any) -> PaperTicket:
    return PaperTicket.make(document([item(0, amount)]), **kwargs)


@pytest.mark.parametrize(("ppk", "version"), [(0, 1), (100, 2), (5_000, 1)])
def test_an_honest_ticket_nets_what_was_agreed(ppk: int, version: int) -> None:
    ticket = single(input_fee_ppk=ppk, version=version)
    checked = ticket.check()
    (share,) = checked.shares
    assert share.net_sats >= 100
    assert sum(proof.amount for proof in share.proofs) == share.net_sats + -(
        -ppk * len(share.proofs) // 1_000
    )
    assert checked.ys_at(0) == share.ys and len(set(share.ys)) == len(share.proofs)
    check_states(checked, 0, [ProofState(y, SpendState.UNSPENT) for y in share.ys])
    # The payee can spend what it accepted: its key signs, the preimage is that of the lock.
    for proof in share.proofs:
        digest = inputs_digest(proof.secret)
        assert signers(share.lock.keys, digest, [sign(LOCK_KEY, digest)]) == set(share.lock.keys)
    assert share.lock.hash is not None and preimage_matches(preimage(0).hex(), share.lock.hash)
    assert share.lock.refund == (public_key(REFUND_KEY),) and share.lock.locktime == NOW + 7_200


def test_a_ticket_survives_the_way_through_its_token() -> None:
    ticket = single(version=2)
    read = [decode_token(encode_token(token)) for token in ticket.tokens()]
    assert ticket.check(tokens=read) == ticket.check()
    shuffled = [Token(token.mint, token.proofs[::-1]) for token in ticket.tokens()]
    assert ticket.check(tokens=shuffled) == ticket.check()


def test_locks_are_made_again_from_terms_and_seed() -> None:
    terms = decode_terms(document([item(0, 100), item(1, 7)]))
    keyset = PaperMint().keyset
    first, again = (lock_outputs(terms, 1, 0, keyset, LOCK_SEED) for _ in range(2))
    assert first == again and [each.amount for each in first] == [1, 2, 4]
    other = lock_outputs(terms, 1, 0, keyset, Secret(b"\x34" * 64))
    assert [each.secret for each in other] == [each.secret for each in first]
    assert not {each.blinded for each in other} & {each.blinded for each in first}


def test_shares_of_two_mints() -> None:
    ticket = PaperTicket.make(document([item(0, 100), item(1, 50)], mints=TWO_MINTS), input_fee_ppk=100)
    checked = ticket.check()
    nets = {(share.item, share.mint): share.net_sats for share in checked.shares}
    assert {
        key: net >= due for (key, net), due in zip(nets.items(), (60, 30, 40, 20), strict=True)
    } == dict.fromkeys([(0, 0), (1, 0), (0, 1), (1, 1)], True)
    later = {share.mint: share.lock.locktime for share in checked.shares}
    assert later == {0: NOW + 7_200, 1: NOW + 7_200 + 86_400}
    assert not set(checked.ys_at(0)) & set(checked.ys_at(1))


def test_modes() -> None:
    bare = item(0, 5)
    del bare["hash"]
    pre_authorised = PaperTicket.make(document([bare], mode="p2pk"))
    assert pre_authorised.check().shares[0].lock.hash is None
    receipt = document([item(0, 5)], mode="receipt")
    receipt["verifier"]["id"] = receipt["payee"]["id"]
    PaperTicket.make(receipt).check()


def test_a_node_signs_as_a_payer() -> None:
    made = document([item(0, 5)])
    made["payer"]["id"] = public_key(NODE)
    ticket = PaperTicket.make(made)
    signature = cln_sign_message(NODE, terms_text(terms_hash(ticket.terms)))
    ticket.check(payer_id=public_key(NODE), payer_signature=signature)
    with pytest.raises(TokenInvalid, match="signature"):
        ticket.check(payer_id=public_key(NODE))
    made["payer"]["id"] = did = "did:cid:bagaaiera"
    by_did = PaperTicket.make(made)
    with pytest.raises(TokenInvalid, match="signature"):
        by_did.check(payer_id=did)
    by_did.check(payer_id=did, did_signature_checked=True)


def refused(check: str, ticket: PaperTicket, **changes: Any) -> TokenInvalid:
    with pytest.raises(TokenInvalid) as found:
        ticket.check(**changes)
    assert found.value.check == check, found.value
    assert len(str(found.value)) < 220
    return found.value


def test_terms_that_are_not_with_us() -> None:
    ticket = single()
    refused("party", ticket, payer_id="ab" * 32)
    refused("party", ticket, payee_id="ab" * 32)
    refused("own_key", ticket, lock_pubkey=STRANGER)
    refused("signature", ticket, payer_signature="ab" * 64)
    refused("signature", ticket, payer_signature="")
    other = PaperTicket.make(document([item(0, 101)]))
    refused("signature", ticket, payer_signature=other.signature)


def test_times() -> None:
    tight = PaperTicket.make(document([item(0, 5, locktime=NOW + 3_600 + 599)]))
    refused("deadline", tight)
    ticket = single()
    ticket.check(now_s=NOW + 7_200 - 900)
    refused("too_late", ticket, now_s=NOW + 7_200 - 899)
    refused("too_late", ticket, now_s=NOW + 90_000)


def with_secret(ticket: PaperTicket, change: Callable[[str], str]) -> PaperTicket:
    ticket.replace_secret(change(ticket.proofs[URL][0].secret))
    return ticket


@pytest.mark.parametrize(
    ("name", "check", "change"), SECRET_VARIANTS, ids=[each[0] for each in SECRET_VARIANTS]
)
def test_a_secret_that_is_not_the_one_of_the_terms(
    name: str, check: str, change: Callable[[str], str]
) -> None:
    # Signed by the right mint for the right amount: everything but the condition is honest.
    refused(check, with_secret(single(), change))


def test_proofs_that_the_mint_did_not_sign() -> None:
    ticket = single()
    ticket.change(dleq=None)
    refused("dleq_missing", ticket)
    ticket = single()
    dleq = ticket.proofs[URL][0].dleq
    assert dleq is not None
    ticket.change(dleq=Dleq(dleq.e, dleq.s))
    refused("dleq_missing", ticket)
    for bad in (
        Dleq(dleq.s, dleq.e, dleq.r),
        Dleq(dleq.e, dleq.s, dleq.e),
        Dleq("00" * 32, "00" * 32, "00" * 32),
    ):
        ticket.change(dleq=bad)
        refused("dleq_invalid", ticket)
    # Never minted: made with a key of the payer's own, which the mint's checkstate would call UNSPENT.
    forger = PaperMint(seed="forger")
    ticket = single()
    proof = ticket.proofs[URL][0]
    forged = forger.proof(proof.amount, proof.secret)
    ticket.change(C=forged.C, dleq=forged.dleq)
    refused("dleq_invalid", ticket)
    ticket.change(C="02" + "0" * 64)
    refused("dleq_invalid", ticket)


def test_an_amount_claimed_for_a_smaller_proof_is_not_signed() -> None:
    ticket = single()
    ticket.change(amount=ticket.proofs[URL][0].amount * 2)
    refused("dleq_invalid", ticket)
    ticket.change(amount=3)
    refused("keyset", ticket)


def test_amounts_that_fall_short() -> None:
    ticket = single(input_fee_ppk=100)
    ticket.proofs[URL].pop()
    assert "agreed are 100" in refused("amount_short", ticket).detail
    # The face of a mint without fees is short at one that takes them.
    dear = single(input_fee_ppk=100)
    free = PaperTicket.make(document([item(0, 100)]))
    for at, proof in enumerate(free.proofs[URL]):
        dear.proofs[URL][at : at + 1] = [dear.mints[URL].proof(proof.amount, proof.secret)]
    dear.proofs[URL] = dear.proofs[URL][: len(free.proofs[URL])]
    refused("amount_short", dear)
    refused("amount_short", ticket, tokens=[])


def cut(ticket: PaperTicket, keyset: Keyset, amounts: list[int]) -> PaperTicket:
    """The ticket's one item in proofs of these amounts, every one of them as the terms allow it."""
    lock, hash_ = lock_of(ticket.terms, 0, 0), terms_hash(ticket.terms)
    assert keyset.id == ticket.mints[URL].keyset.id
    ticket.proofs[URL] = [
        ticket.mints[URL].proof(amount, build_secret(lock, lock_nonce(hash_, 0, 0, number)))
        for number, amount in enumerate(amounts)
    ]
    return ticket


def test_more_proofs_than_a_sum_takes_could_not_be_redeemed_in_one_swap() -> None:
    ticket = single(7)
    keyset = ticket.mints[URL].keyset
    assert cut(ticket, keyset, [1, 2, 4]).check().shares[0].net_sats == 7
    assert "4 proofs make 7 sat, which takes 3" in refused("split", cut(ticket, keyset, [1, 2, 2, 2])).detail
    refused("split", cut(ticket, keyset, [1] * 7))
    # More than was agreed is welcome, in the fewest proofs.
    assert cut(ticket, keyset, [8]).check().shares[0].net_sats == 8
    # At a mint that signs nothing greater than 2 sat there are no fewer.
    small = changed(keyset, denominations=(1, 2))
    assert cut(ticket, keyset, [1, 2, 2, 2]).check(mints=small).shares[0].net_sats == 7
    refused("split", ticket, mints=changed(keyset, denominations=(2,)))


def test_repeated_secrets() -> None:
    ticket = single()
    (token,) = ticket.tokens()
    refused("repeated_secret", ticket, tokens=[token, token])
    refused("repeated_secret", ticket, tokens=[Token(URL, (*token.proofs, token.proofs[0]))])
    ys = ticket.check().ys_at(0)
    refused("repeated_secret", ticket, seen_ys={ys[-1]})
    # One nonce in two spellings is one proof too many.
    proof = token.proofs[0]
    twin = ticket.mints[URL].proof(proof.amount, proof.secret.replace(",", ", ", 1))
    refused("nonce", ticket, tokens=[token, Token(URL, (twin,))])


def test_proofs_of_another_place() -> None:
    batch = PaperTicket.make(document([item(0, 4), item(1, 4)]))
    batch.proofs[URL].reverse()
    batch.check()
    first, second = sorted(
        batch.proofs[URL], key=lambda proof: proof.secret != batch.check().shares[0].proofs[0].secret
    )
    assert (
        lock_of(batch.terms, 0, 0).hash in first.secret and lock_of(batch.terms, 1, 0).hash in second.secret
    )
    # Both proofs locked to the first item's hash: the second would be paid by the first preimage.
    nonce = json.loads(second.secret)[1]["nonce"]
    batch.proofs[URL] = [
        first,
        batch.mints[URL].proof(4, first.secret.replace(json.loads(first.secret)[1]["nonce"], nonce)),
    ]
    refused("hash", batch)
    swapped = PaperTicket.make(document([item(0, 3)]))
    one, two = swapped.proofs[URL]
    swapped.proofs[URL] = [
        swapped.mints[URL].proof(two.amount, one.secret),
        swapped.mints[URL].proof(one.amount, two.secret),
    ]
    refused("order", swapped)
    gap = PaperTicket.make(document([item(0, 7)]))
    third = lock_nonce(terms_hash(gap.terms), 0, 0, 9)
    last = json.loads(gap.proofs[URL][2].secret)[1]["nonce"]
    gap.replace_secret(gap.proofs[URL][2].secret.replace(last, third), at=2)
    refused("nonce", gap)


def test_mints() -> None:
    ticket = single()
    assert "none we accept" in refused("mint", ticket, mints={}).detail
    (token,) = ticket.tokens()
    foreign = Token("https://foreign.example", token.proofs)
    assert "do not name" in refused("mint", ticket, tokens=[foreign]).detail
    ticket.check(tokens=[Token(URL + "/", token.proofs)])
    two = PaperTicket.make(document([item(0, 100)], mints=TWO_MINTS))
    refused("mint", two, mints={URL: two.known()[URL]})
    a, b = two.tokens()
    crossed = [Token(a.mint, b.proofs), Token(b.mint, a.proofs)]
    refused("nonce", two, tokens=crossed)
    refused("amount_short", two, tokens=[a])


def changed(keyset: Keyset, **fields: Any) -> dict[str, dict[str, Keyset]]:
    from msgspec.structs import replace

    other = replace(keyset, **fields)
    return {URL: {other.id: other}}


def test_keysets() -> None:
    ticket = single()
    keyset = ticket.mints[URL].keyset
    refused("keyset", ticket, mints={URL: {}})
    refused("unit", ticket, mints=changed(keyset, unit="usd"))
    week = NOW + 7_200 + 7 * 86_400
    refused("keyset", ticket, mints=changed(keyset, final_expiry=week))
    ticket.check(mints=changed(keyset, final_expiry=week + 1, active=False))
    second = PaperMint(seed=URL + "2", version=2).keyset
    short = PaperTicket.make(document([item(0, 4)]), version=2)
    twin_id = short.mints[URL].keyset.id[:16] + "0" * 50
    from msgspec.structs import replace

    known = short.known()
    known[URL] = {**known[URL], twin_id: replace(second, id=twin_id)}
    (token,) = [decode_token(encode_token(each)) for each in short.tokens()]
    refused("keyset", short, mints=known, tokens=[token])


def test_states() -> None:
    checked = PaperTicket.make(document([item(0, 100)])).check()
    ys = checked.ys_at(0)
    good = [ProofState(y, SpendState.UNSPENT) for y in ys]
    check_states(checked, 0, good)
    for state in (SpendState.SPENT, SpendState.PENDING):
        with pytest.raises(TokenSpent, match=state.value.lower()) as spent:
            check_states(checked, 0, [*good[:-1], ProofState(ys[-1], state)])
        assert spent.value.reason == "token_spent"
    for states in (good[:-1], good[::-1], [*good, good[0]], []):
        with pytest.raises(MintNonconformant, match="asked for"):
            check_states(checked, 0, states)


def test_what_a_token_carries_beside_is_not_kept() -> None:
    ticket = single()
    ticket.change(witness='{"signatures":[]}')
    assert all(proof.witness is None for proof in ticket.check().shares[0].proofs)
    assert isinstance(ticket.check().shares[0].proofs[0], Proof)
    assert PAYER not in (LOCK_KEY, REFUND_KEY) and msgspec.UNSET is not None
