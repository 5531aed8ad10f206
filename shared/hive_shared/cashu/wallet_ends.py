"""What the end of a wallet operation means beside its proofs: the token that was made, locks that moved
(docs/protocol/03-escrow-and-payments.md §5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from ..store import Tx
from .curve import y_of
from .journal import Op, OwnProof, ProofStatus
from .token import Token, encode_token
from .wallet_ports import ServiceRows
from .wire import Proof


class Locks(Protocol):
    """The locks that an operation names (`Op.lock_ids`); both run inside the transaction that ends it."""

    def done(self, tx: Tx, op: Op, given: Sequence[Proof]) -> None:
        """The mint carried it out; `given` are the proofs that it locked."""
        ...

    def failed(self, tx: Tx, op: Op) -> None:
        """Nothing came of it, so far as is known; `done` may still follow."""
        ...


class WalletEnds:
    """Ends of operations, in the transaction that ends them. `locks` keeps what is locked."""

    def __init__(self, rows: ServiceRows, now: Callable[[], int], locks: Locks | None = None) -> None:
        self._rows, self._now, self._locks = rows, now, locks

    def done(self, tx: Tx, op: Op, given: Sequence[Proof]) -> Op:
        """Somebody else's outputs leave our books as a token that the operation keeps."""
        if self._locks is not None and op.lock_ids:
            # Each of them keeps its own token.
            self._locks.done(tx, op, given)
            return op
        if not given:
            return op
        gone = [OwnProof(y_of(proof.secret), proof) for proof in given]
        self._rows.add_proofs(tx, op.mint_url, gone, ProofStatus.SPENT, op.op_id, self._now())
        # A restore from the seed may have found them in between and taken them for ours.
        self._rows.settle(tx, op.op_id, [own.y for own in gone], ProofStatus.SPENT, self._now())
        return replace(op, body=replace(op.body, token=encode_token(Token(op.mint_url, tuple(given)))))

    def failed(self, tx: Tx, op: Op) -> None:
        """Nothing was made."""
        if self._locks is not None and op.lock_ids:
            self._locks.failed(tx, op)
