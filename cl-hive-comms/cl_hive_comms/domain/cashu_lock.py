"""A lock of ecash in our books: its row, who it is for, when it goes back, who spent it
(docs/protocol/03-escrow-and-payments.md §2.3, §6.7, §8). Amounts in sat, times in Unix seconds."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec
from hive_shared.cashu.curve import y_of
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.reasons import TokenInvalid
from hive_shared.cashu.secrets import Kind, Lock, SigFlag
from hive_shared.cashu.wire import Proof, ProofState, SpendState
from hive_shared.cashu.witness import inputs_digest, parse, preimage_in, signers

MARGIN_S: Final = 60
"""How long after its locktime, by the mint's clock, a lock is taken back at the earliest."""
POLL_LEAST_S: Final = 60
POLL_MOST_S: Final = 900


class Role(StrEnum):
    """What we are to a lock. The values are stored."""

    PAYER = "payer"
    PAYEE = "payee"
    COSIGNER = "cosigner"
    OBSERVER = "observer"


class LockRow(msgspec.Struct, frozen=True):
    """One row of comms_cashu_locks. `lock` are the conditions; `token` (V4) is the money once it is locked,
    `preimage` what opens it, ours to give or seen at the mint; `key_context` is the payer's ticket id or the
    payee's lock context; `counted_sats` count in the sums of `budget`."""

    lock_id: str
    owner: str
    ref: str
    role: Role
    mint_url: str
    keyset_id: str
    amount_sats: int
    face_sats: int
    lock: Lock
    key_context: str
    terms_hash: str
    item: int
    share: int
    ys: tuple[str, ...]
    state: LockState
    request_key: str
    content: str
    created_at: int
    updated_at: int
    next_at: int
    token: str = ""
    preimage: str = ""
    released_at: int | None = None
    refund_hold_until: int = 0
    op_id: str = ""
    budget: str | None = None
    advisor_id: str | None = None
    counted_sats: int = 0
    batch: int = 0
    tries: int = 0
    error: str = ""
    reason: str = ""

    def __repr__(self) -> str:
        return f"<lock {self.lock_id} {self.state}>"

    @property
    def locktime(self) -> int:
        """From when on the refund key may spend it."""
        assert self.lock.locktime is not None
        return self.lock.locktime

    def refund_at(self, skew_s: int) -> int:
        """From when on we take it back, with a mint whose clock differs from ours by so much."""
        return max(self.locktime + abs(skew_s) + MARGIN_S, self.refund_hold_until)


class Spent(StrEnum):
    """Who spent a proof, by the witness that the mint shows; UNKNOWN: it shows none that does it."""

    PAYEE = "payee"
    REFUND = "refund"
    UNKNOWN = "unknown"


class Evidence(msgspec.Struct, frozen=True):
    """What a mint says of a lock's proofs: those nobody spent, by whom the others were, and the preimage."""

    unspent: tuple[str, ...]
    spent: frozenset[Spent]
    pending: bool
    preimage: str = ""


def evidence(lock: Lock, proofs: Sequence[Proof], states: Sequence[ProofState]) -> Evidence:
    """Judge a mint's answer about every proof of a lock; a witness counts only where its signatures hold."""
    by_y = {state.Y: state for state in states}
    unspent, spent, pending, preimage = [], set[Spent](), False, ""
    for proof in proofs:
        y = y_of(proof.secret)
        told = by_y[y]
        if told.state is SpendState.UNSPENT:
            unspent.append(y)
        elif told.state is SpendState.PENDING:
            pending = True
        else:
            who = _who(lock, proof.secret, told.witness)
            spent.add(who)
            if who is Spent.PAYEE and lock.hash is not None:
                preimage = preimage_in(told.witness, lock.hash) or preimage
    return Evidence(tuple(unspent), frozenset(spent), pending, preimage)


def _who(lock: Lock, secret: str, witness: str | None) -> Spent:
    if witness is None:
        return Spent.UNKNOWN
    shown = lock.hash is not None and preimage_in(witness, lock.hash) is not None
    if lock.sigflag is SigFlag.SIG_ALL:
        return Spent.PAYEE if shown else Spent.UNKNOWN
    try:
        signatures = parse(witness).signatures
    except TokenInvalid:
        return Spent.UNKNOWN
    digest = inputs_digest(secret)
    signed = len(signers(lock.keys, digest, signatures)) >= (lock.n_sigs or 1)
    if signed and (shown or lock.kind is Kind.P2PK):
        return Spent.PAYEE
    # The payer knows the preimage too: beside its own signature it does not say that the payee has the money.
    if len(signers(lock.refund, digest, signatures)) >= (lock.n_sigs_refund or 1):
        return Spent.REFUND
    return Spent.PAYEE if shown else Spent.UNKNOWN


def poll_after(row: LockRow, now: int) -> int:
    """When the mint is asked about a lock again: soon after something happened to it, ever later then."""
    return now + min(POLL_MOST_S, max(POLL_LEAST_S, (now - row.updated_at) // 2))
