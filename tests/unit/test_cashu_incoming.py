"""A token before it is exchanged: each proof was signed by its mint and can be spent by us
(docs/protocol/03-escrow-and-payments.md §5 "receive")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from cashu_mint import PaperMint
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.incoming import acceptable, refuse_spent
from hive_shared.cashu.reasons import MintNonconformant, TokenInvalid
from hive_shared.cashu.secrets import SigFlag, build_secret, htlc, multisig, p2pk
from hive_shared.cashu.wire import Dleq, Proof, ProofState, SpendState
from hive_shared.cashu.witness import inputs_digest, parse, signers
from hive_shared.crypto import Secret
from hive_shared.errors import PaymentFailed
from msgspec.structs import replace

OURS, OTHER = Secret(b"\x21" * 32), Secret(b"\x22" * 32)
OWN, THEIRS = public_key(OURS), public_key(OTHER)
T = 1_900_000_000
MINT, PLAIN = PaperMint(), "ab" * 32


def refused(check: str, proof: Proof, mint: PaperMint = MINT) -> None:
    with pytest.raises(TokenInvalid) as found:
        acceptable([MINT.proof(1, "cd" * 32), proof], {**MINT.keysets, **mint.keysets}, OURS)
    assert found.value.check == check
    assert check == "keyset" or "proof 1 of the token" in found.value.detail


def test_what_the_mint_signed_and_we_can_spend_is_taken_with_its_witness() -> None:
    locked = build_secret(p2pk(OWN, locktime=T, refund=THEIRS), "aa" * 16)
    plain, ours = acceptable([MINT.proof(8, PLAIN), MINT.proof(4, locked)], MINT.keysets, OURS)
    assert (plain.amount, plain.witness, ours.amount) == (8, None, 4)
    assert ours.witness is not None
    assert signers([OWN], inputs_digest(locked), parse(ours.witness).signatures) == {OWN}


def test_what_the_mint_did_not_sign_is_refused() -> None:
    good = MINT.proof(8, PLAIN)
    forged = PaperMint(seed="forger").proof(8, PLAIN)
    assert good.dleq is not None and forged.dleq is not None
    refused("dleq", replace(good, dleq=None))
    refused("dleq", replace(good, dleq=Dleq(good.dleq.e, good.dleq.s)))
    refused("dleq", replace(good, dleq=Dleq(good.dleq.s, good.dleq.e, good.dleq.r)))
    refused("dleq", replace(good, C=forged.C, dleq=forged.dleq))
    refused("dleq", replace(good, C=forged.C))
    refused("dleq", replace(good, amount=16))
    refused("dleq", replace(good, secret="ac" * 32))
    refused("keyset", replace(good, amount=3))
    refused("keyset", replace(good, id="00" + "f" * 14))
    dollars = PaperMint(seed="dollars", unit="usd", version=2)
    refused("unit", dollars.proof(8, PLAIN), dollars)


def test_what_we_cannot_spend_alone_is_refused() -> None:
    both = (OWN, THEIRS)
    hashed = htlc("ab" * 32, OWN, locktime=T, refund=THEIRS)
    for check, lock in (
        ("pubkeys", p2pk(THEIRS, locktime=T, refund=OWN)),
        ("condition", hashed),
        ("condition", multisig(both, 2, locktime=T, refund=THEIRS)),
        ("condition", multisig(both, 1, locktime=T, refund=THEIRS, sigflag=SigFlag.SIG_ALL)),
    ):
        refused(check, MINT.proof(8, build_secret(lock, "aa" * 16)))


class Told:
    """A mint that calls its proofs what the test says."""

    def __init__(self, *states: SpendState) -> None:
        self.states = states

    async def checkstate(self, ys: Sequence[str]) -> list[ProofState]:
        return [ProofState(y, state) for y, state in zip(ys, self.states, strict=False)]


@pytest.mark.parametrize("state", [SpendState.SPENT, SpendState.PENDING])
async def test_what_is_spent_or_being_spent_is_worth_nothing(state: SpendState) -> None:
    proofs = [MINT.proof(8, PLAIN), MINT.proof(4, "cd" * 32)]
    free: Any = Told(SpendState.UNSPENT, SpendState.UNSPENT)
    await refuse_spent(free, proofs)
    used: Any = Told(SpendState.UNSPENT, state)
    with pytest.raises(PaymentFailed, match="1 of the token's 2 proofs") as refused_:
        await refuse_spent(used, proofs)
    assert refused_.value.reason == "token_spent"
    silent: Any = Told(SpendState.UNSPENT)
    with pytest.raises(MintNonconformant, match="every proof"):
        await refuse_spent(silent, proofs)
