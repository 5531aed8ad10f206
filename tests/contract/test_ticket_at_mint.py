"""Tickets locked at the real mint: the payee's checks hold against proofs that the mint did sign, and what
passes them is redeemed (docs/protocol/03-escrow-and-payments.md §6.6, §14)."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
import pytest
import pytest_asyncio
from cashu_mint import PaperMint
from cashu_tickets import (
    LOCK_KEY,
    LOCK_SEED,
    NOW,
    PAYEE,
    PAYER,
    SECRET_VARIANTS,
    as_p2pk_with_hash,
    document,
    item,
    preimage,
)
from hive_devnet.mint_faults import MintFaultFront
from hive_shared.cashu import witness
from hive_shared.cashu.curve import y_of
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.keysets import Keyset, fee_sats, split
from hive_shared.cashu.outputs import output, restored
from hive_shared.cashu.ports import MintRefused
from hive_shared.cashu.reasons import TokenInvalid, TokenSpent
from hive_shared.cashu.terms import Terms, decode_terms, sign_text, terms_hash, terms_text
from hive_shared.cashu.ticket import CheckedTicket, check_states, check_ticket, lock_outputs
from hive_shared.cashu.token import Token, decode_token, encode_token
from hive_shared.cashu.wire import Dleq, Proof, SpendState
from hive_shared.crypto import xonly_pubkey
from hive_shared.mint_http import MintHttp, Mints
from locked_at_mint import locked, plain

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(mint_url: str) -> AsyncIterator[MintFaultFront]:
    async with MintFaultFront.before(mint_url) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mint(front: MintFaultFront) -> AsyncIterator[MintHttp]:
    mints = Mints(jitter=lambda: 0.0)
    yield mints.at(front.url)
    await mints.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keyset(mint: MintHttp) -> Keyset:
    (listed,) = [each for each in await mint.keysets() if each.active]
    return await mint.keyset(listed)


def terms_at(mint: MintHttp, *amounts: int) -> Terms:
    parts = [item(number, amount) for number, amount in enumerate(amounts)]
    mints = [{"url": mint.url, "permille": 1_000}]
    return decode_terms(document(parts, mints=mints, ticket_id=secrets.token_hex(16)))


def check(terms: Terms, tokens: Sequence[Token], mint: MintHttp, keyset: Keyset) -> CheckedTicket:
    return check_ticket(
        terms,
        sign_text(PAYER, terms_text(terms_hash(terms))),
        tokens,
        payer_id=xonly_pubkey(PAYER),
        payee_id=xonly_pubkey(PAYEE),
        lock_pubkey=public_key(LOCK_KEY),
        mints={mint.url: {keyset.id: keyset}},
        seen_ys=frozenset(),
        now_s=NOW,
    )


async def test_a_ticket_that_passes_is_redeemed_and_shows_the_payer_its_preimage(
    mint: MintHttp, keyset: Keyset
) -> None:
    terms = terms_at(mint, 100, 37)
    outputs = [each for part in (0, 1) for each in lock_outputs(terms, part, 0, keyset, LOCK_SEED)]
    token = Token(mint.url, tuple(await locked(mint, keyset, outputs)))
    checked = check(terms, [decode_token(encode_token(token))], mint, keyset)
    ys = checked.ys_at(0)
    check_states(checked, 0, await mint.checkstate(ys))

    # Both items, with different hashes, in one swap: what each nets is what was agreed.
    inputs = []
    for share in checked.shares:
        for proof in share.proofs:
            signature = witness.sign(LOCK_KEY, witness.inputs_digest(proof.secret))
            text = witness.build(preimage(share.item).hex(), [signature])
            inputs.append(msgspec.structs.replace(proof, witness=text))
    net = sum(each.amount for each in inputs) - fee_sats([keyset.input_fee_ppk] * len(inputs))
    assert net >= 137
    new = plain(split(net, keyset.denominations), keyset)
    wrong = [msgspec.structs.replace(inputs[0], witness=inputs[-1].witness), *inputs[1:]]
    with pytest.raises(MintRefused):
        await mint.swap(wrong, [each.message for each in new])
    await mint.swap(inputs, [each.message for each in new])

    states = await mint.checkstate(ys)
    assert {each.state for each in states} == {SpendState.SPENT}
    for share in checked.shares:
        shown = next(each.witness for each in states if share.ys[0] == each.Y)
        assert share.lock.hash is not None
        assert witness.preimage_in(shown, share.lock.hash) == preimage(share.item).hex()
    with pytest.raises(TokenSpent, match="spent"):
        check_states(checked, 0, states)


async def test_locks_come_back_from_seed_and_terms(mint: MintHttp, keyset: Keyset) -> None:
    terms = terms_at(mint, 21)
    proofs = await locked(mint, keyset, lock_outputs(terms, 0, 0, keyset, LOCK_SEED))
    # The database is gone: what is left are the terms, the seed and the mint.
    again = lock_outputs(terms, 0, 0, keyset, LOCK_SEED)
    answer = await mint.restore([each.message for each in again])
    found = restored(again, answer.outputs, answer.signatures, {keyset.id: keyset})
    assert {each.C for each in found.values()} == {each.C for each in proofs}
    check(terms, [Token(mint.url, tuple(found.values()))], mint, keyset)


async def test_acceptance_03_05_every_variant_of_a_token_is_rejected_with_its_own_reason(
    mint: MintHttp, keyset: Keyset, front: MintFaultFront
) -> None:
    terms = terms_at(mint, 63)  # one proof of 64, of which the mint keeps 1
    (honest,) = lock_outputs(terms, 0, 0, keyset, LOCK_SEED)
    altered = [
        output(64, keyset.id, change(honest.secret), secrets.token_bytes(32))
        for _, _, change in SECRET_VARIANTS
    ]
    small = output(32, keyset.id, honest.secret, secrets.token_bytes(32))
    good, short, *signed = await locked(mint, keyset, [honest, small, *altered])
    assert good.dleq is not None
    forged = PaperMint(seed="forger").proof(64, honest.secret)
    never_minted = msgspec.structs.replace(good, C=forged.C, dleq=forged.dleq)
    dleq = good.dleq
    bad_dleq = msgspec.structs.replace(good, dleq=Dleq(dleq.e, "11" * 32, dleq.r))
    variants: list[tuple[str, str, tuple[Proof, ...]]] = [
        (name, reason, (proof,)) for (name, reason, _), proof in zip(SECRET_VARIANTS, signed, strict=True)
    ]
    variants += [
        ("missing DLEQ", "dleq_missing", (msgspec.structs.replace(good, dleq=None),)),
        ("bad DLEQ", "dleq_invalid", (bad_dleq,)),
        ("repeated secret", "repeated_secret", (good, good)),
        ("short amount", "amount_short", (short,)),
        ("never minted", "dleq_invalid", (never_minted,)),
    ]
    before = len(front.requests)
    for name, reason, proofs in variants:
        with pytest.raises(TokenInvalid) as refused:
            check(terms, [Token(mint.url, proofs)], mint, keyset)
        assert (name, refused.value.check) == (name, reason)
    with pytest.raises(TokenInvalid) as refused:
        check(terms, [Token("https://foreign.example", (good,))], mint, keyset)
    assert refused.value.check == "mint"
    # Nothing of this was asked of a mint; and a mint would have called the forgery unspent.
    assert len(front.requests) == before
    (state,) = await mint.checkstate([y_of(never_minted.secret)])
    assert state.state is SpendState.UNSPENT

    checked = check(terms, [Token(mint.url, (good,))], mint, keyset)
    check_states(checked, 0, await mint.checkstate(checked.ys_at(0)))
    signature = witness.sign(LOCK_KEY, witness.inputs_digest(good.secret))
    spend = msgspec.structs.replace(good, witness=witness.build(preimage(0).hex(), [signature]))
    await mint.swap([spend], [each.message for each in plain([1, 2, 4, 8, 16, 32], keyset)])
    with pytest.raises(TokenSpent):
        check_states(checked, 0, await mint.checkstate(checked.ys_at(0)))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (as_p2pk_with_hash, "spends without any preimage"),
        (lambda secret: secret, "asks for the preimage"),
    ],
    ids=["key with a hash tag", "hash in data"],
)
async def test_why_the_older_form_is_refused(
    mint: MintHttp, keyset: Keyset, make: Callable[[str], str], says: str
) -> None:
    terms = terms_at(mint, 7)
    (honest,) = lock_outputs(terms, 0, 0, keyset, LOCK_SEED)
    (proof,) = await locked(mint, keyset, [output(8, keyset.id, make(honest.secret), honest.r)])
    signature = witness.sign(LOCK_KEY, witness.inputs_digest(proof.secret))
    spend = msgspec.structs.replace(proof, witness=witness.build(None, [signature]))
    new = [each.message for each in plain([1, 2, 4], keyset)]
    if says == "asks for the preimage":
        with pytest.raises(MintRefused):
            await mint.swap([spend], new)
    else:
        await mint.swap([spend], new)
        with pytest.raises(TokenInvalid) as refused:
            check(terms, [Token(mint.url, (proof,))], mint, keyset)
        assert refused.value.check == "unknown_tag"
