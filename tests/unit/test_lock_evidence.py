"""When a lock goes back and who spent it (docs/protocol/03-escrow-and-payments.md §2.3, §6.7)."""

from __future__ import annotations

import pytest
from cashu_mint import PaperMint
from cl_hive_comms.domain.cashu_lock import (
    MARGIN_S,
    POLL_LEAST_S,
    POLL_MOST_S,
    LockRow,
    Role,
    Spent,
    evidence,
    poll_after,
)
from hive_shared.cashu import secrets
from hive_shared.cashu.curve import y_of
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.secrets import Lock, build_secret
from hive_shared.cashu.wire import Proof, ProofState, SpendState
from hive_shared.cashu.witness import build, inputs_digest, sign
from hive_shared.crypto import Secret, sha256
from msgspec.structs import replace

T = 1_900_000_000
PAYEE, REFUND, STRANGER = (Secret(bytes([number]) * 32) for number in (1, 2, 3))
PREIMAGE = "07" * 32
HASHED = secrets.htlc(
    sha256(bytes.fromhex(PREIMAGE)).hex(), public_key(PAYEE), locktime=T, refund=public_key(REFUND)
)
BARE = secrets.p2pk(public_key(PAYEE), locktime=T, refund=public_key(REFUND))


def row(**changes: object) -> LockRow:
    made = LockRow(
        *("id", "comms", "ref", Role.PAYER, "https://mint.example", "00" * 8, 100, 100, HASHED, "context"),
        *("ab" * 32, 0, 0, (), LockState.LOCKED, "key", "content", T, T, T),
    )
    return replace(made, **changes)


def test_a_lock_goes_back_when_both_clocks_say_so_and_nobody_holds_it() -> None:
    assert row().refund_at(0) == T + MARGIN_S == T + 60
    for skew in (45, -45):
        assert row().refund_at(skew) == T + 105
    assert row(refund_hold_until=T + 86_400).refund_at(45) == T + 86_400
    assert row(refund_hold_until=T + 1).refund_at(0) == T + 60


def test_a_mint_is_asked_ever_later() -> None:
    asked = [poll_after(row(updated_at=T), T + passed) - T - passed for passed in (0, 300, 86_400)]
    assert asked == [POLL_LEAST_S, 150, POLL_MOST_S]


def proofs(lock: Lock) -> tuple[Proof, Proof]:
    first, second = (PaperMint().proof(1, build_secret(lock, nonce * 16)) for nonce in ("aa", "bb"))
    return first, second


def told(lock: Lock, witness: str | None) -> tuple[frozenset[Spent], str]:
    """What a spent proof with this witness says; the other proof of the lock is unspent."""
    first, second = proofs(lock)
    states = [
        ProofState(y_of(second.secret), SpendState.UNSPENT),
        ProofState(y_of(first.secret), SpendState.SPENT, witness),
    ]
    found = evidence(lock, (first, second), states)
    assert found.unspent == (y_of(second.secret),) and not found.pending
    return found.spent, found.preimage


def by(key: Secret, lock: Lock, preimage: str | None = None, *, of: int = 0) -> str:
    return build(preimage, [sign(key, inputs_digest(proofs(lock)[of].secret))])


@pytest.mark.parametrize(
    ("lock", "witness", "who", "preimage"),
    [
        (HASHED, by(PAYEE, HASHED, PREIMAGE), Spent.PAYEE, PREIMAGE),
        (HASHED, by(REFUND, HASHED), Spent.REFUND, ""),
        # Its payer knows the preimage too: shown beside the refund key's signature it says nothing.
        (HASHED, by(REFUND, HASHED, PREIMAGE), Spent.REFUND, ""),
        (HASHED, by(STRANGER, HASHED, PREIMAGE), Spent.PAYEE, PREIMAGE),
        (BARE, by(PAYEE, BARE), Spent.PAYEE, ""),
        (BARE, by(REFUND, BARE), Spent.REFUND, ""),
        # Words of the mint that show nothing: no witness, a wrong preimage, nobody's or another's signature.
        (HASHED, None, Spent.UNKNOWN, ""),
        (HASHED, "{}", Spent.UNKNOWN, ""),
        (HASHED, "nonsense", Spent.UNKNOWN, ""),
        (HASHED, by(PAYEE, HASHED), Spent.UNKNOWN, ""),
        (HASHED, by(PAYEE, HASHED, "08" * 32), Spent.UNKNOWN, ""),
        (HASHED, by(STRANGER, HASHED), Spent.UNKNOWN, ""),
        (HASHED, by(REFUND, HASHED, of=1), Spent.UNKNOWN, ""),
        (BARE, by(STRANGER, BARE), Spent.UNKNOWN, ""),
        (BARE, by(PAYEE, BARE, of=1), Spent.UNKNOWN, ""),
    ],
)
def test_who_spent_a_lock_is_what_its_witness_shows(
    lock: Lock, witness: str | None, who: Spent, preimage: str
) -> None:
    assert told(lock, witness) == (frozenset({who}), preimage)


def test_what_another_request_holds_is_neither_spent_nor_free() -> None:
    first, second = proofs(HASHED)
    states = [ProofState(y_of(each.secret), SpendState.PENDING) for each in (first, second)]
    found = evidence(HASHED, (first, second), states)
    assert found.pending and not found.spent and not found.unspent
