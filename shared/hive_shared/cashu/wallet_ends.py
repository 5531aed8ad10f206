"""What the end of a wallet operation means beside its proofs: the token that was made, locks that moved
(docs/protocol/03-escrow-and-payments.md §5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec.structs import replace

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


class Holders(Protocol):
    """Owners of operations that hold what they brought until something is decided."""

    def wants(self, tx: Tx, op: Op) -> bool:
        """Whether what an operation holds is to stay held; asked in the transaction that ends it."""
        ...


class WalletEnds:
    """Ends of operations, in the transaction that ends them. `locks` keeps what is locked, `holders` knows
    what is to stay held."""

    def __init__(
        self,
        rows: ServiceRows,
        now: Callable[[], int],
        locks: Locks | None = None,
        holders: Holders | None = None,
    ) -> None:
        self._rows, self._now, self._locks, self._holders = rows, now, locks, holders

    def done(self, tx: Tx, op: Op, given: Sequence[Proof]) -> Op:
        """Somebody else's outputs leave our books as a token that the operation keeps."""
        if self._locks is not None and op.lock_ids:
            # Each of them keeps its own token.
            self._locks.done(tx, op, given)
            return op
        held = [y_of(each.output.secret) for each in op.body.outputs if each.use == "hold"]
        if held and (self._holders is None or not self._holders.wants(tx, op)):
            # Nobody is left who decides: all of it lies in this wallet and is its owner's to give back.
            rest = [OwnProof(y_of(proof.secret), proof) for proof in given]
            self._rows.settle(tx, op.op_id, held, ProofStatus.UNSPENT, self._now())
            self._rows.add_proofs(tx, op.mint_url, rest, ProofStatus.UNSPENT, op.op_id, self._now())
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
