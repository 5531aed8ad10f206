"""Checks of a token before it is exchanged (docs/protocol/03-escrow-and-payments.md §5 "receive")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ..crypto import Secret
from ..errors import PaymentFailed
from .curve import verify_proof_dleq, y_of
from .derive import EscrowKeys, public_key
from .keysets import Keyset, expand
from .ports import Mint
from .reasons import MintNonconformant, TokenInvalid
from .secrets import Kind, SigFlag, is_plain, parse_secret
from .wire import Proof, ProofState, SpendState
from .witness import build, inputs_digest, parse, sign, signers

RECEIVE_CONTEXT: Final = "wallet"
"""Context of the key that others may lock plain payments to."""


def receive_key(keys: EscrowKeys) -> Secret:
    """The key that ecash for this wallet may be locked to."""
    return keys.lock(RECEIVE_CONTEXT)


def acceptable(proofs: Sequence[Proof], keysets: Mapping[str, Keyset], key: Secret) -> tuple[Proof, ...]:
    """A token's proofs (`token.decode_token`) with whole keyset ids and the witness they need; `key` is ours,
    and the only condition that it meets is a lock to it alone. Raises TokenInvalid naming the check.
    """
    found = []
    for number, proof in enumerate(proofs):
        place = f"proof {number} of the token"
        keyset = keysets[expand(proof.id, keysets.keys())]
        if keyset.unit != "sat":
            raise TokenInvalid("unit", f"{place} is in {keyset.unit[:20]!a}, this wallet holds sat")
        dleq = proof.dleq
        if dleq is None or dleq.r is None:
            raise TokenInvalid("dleq", f"{place} has no DLEQ: nobody can tell that the mint signed it")
        signer = keyset.key(proof.amount)
        if not verify_proof_dleq(signer, proof.secret, proof.C, dleq.e, dleq.s, dleq.r):
            raise TokenInvalid("dleq", f"{place} was not signed with the mint's key: its DLEQ does not hold")
        witness = _witness(proof.secret, key, place)
        found.append(Proof(proof.amount, keyset.id, proof.secret, proof.C, witness, dleq))
    return tuple(found)


def _witness(secret: str, key: Secret, place: str) -> str | None:
    if is_plain(secret):
        return None
    lock = parse_secret(secret).lock
    if lock.kind is not Kind.P2PK or lock.sigflag is SigFlag.SIG_ALL or (lock.n_sigs or 1) > 1:
        raise TokenInvalid(
            "condition", f"{place} asks for more than one signature: this wallet cannot spend it"
        )
    if public_key(key) not in lock.keys:
        raise TokenInvalid("pubkeys", f"{place} is locked to other keys than this wallet's")
    return build(None, [sign(key, inputs_digest(secret))])


async def refuse_spent(mint: Mint, proofs: Sequence[Proof]) -> None:
    """Ask the mint. Raises PaymentFailed `token_spent`, MintNonconformant, and what the call does."""
    ys = [y_of(proof.secret) for proof in proofs]
    states = {entry.Y: entry.state for entry in await mint.checkstate(ys)}
    if not set(ys) <= set(states):
        raise MintNonconformant("the mint did not tell the state of every proof of the token")
    used = [y for y in ys if states[y] is not SpendState.UNSPENT]
    if used:
        raise PaymentFailed(
            f"{len(used)} of the token's {len(ys)} proofs were spent before: it is worth nothing",
            reason="token_spent",
        )


def spent_by(pubkey: str, proofs: Sequence[Proof], states: Mapping[str, ProofState]) -> bool:
    """Whether the mint shows (`states` by Y) that all of these are spent, each with this key's signature."""
    for proof in proofs:
        told = states.get(y_of(proof.secret))
        if told is None or told.state is not SpendState.SPENT or told.witness is None:
            return False
        try:
            signatures = parse(told.witness).signatures
        except TokenInvalid:
            return False
        if not signers([pubkey], inputs_digest(proof.secret), signatures):
            return False
    return True


def own_pubkey(keys: EscrowKeys) -> str:
    """What a payer locks ecash for this wallet to."""
    return public_key(receive_key(keys))
