"""How many proofs a wallet keeps (docs/protocol/03-escrow-and-payments.md §8 "Caps").

At the cap what was spent longest ago is forgotten first. When everything that is left is worth something,
nothing new is begun; what brings money back or takes it out goes on.
"""

from __future__ import annotations

from typing import Final, Protocol

from ..errors import Capacity
from ..store import Tx
from .advice import Advice
from .journal import MAX_ELEMENTS, Op, OpKind

MAX_PROOFS: Final = 200_000
"""Proofs of one wallet, spent ones included."""
_NEVER_HELD_UP: Final = frozenset({OpKind.REDEEM, OpKind.REFUND, OpKind.MELT, OpKind.CONSOLIDATE})
"""Money that has a deadline, and the ways to fewer proofs."""
DROPPED_AT_ONCE: Final = 2 * MAX_ELEMENTS
"""The most rows that one transaction forgets: twice what an operation can bring, so a wallet far above its
cap comes down all the same, and no other write waits seconds for it."""


class CapRows(Protocol):
    """Rows that the cap counts."""

    def op(self, tx: Tx, op_id: str) -> Op: ...
    def open_ops(self, tx: Tx, due: int | None = None) -> list[tuple[str, str]]: ...
    def proof_rows(self, tx: Tx) -> int: ...
    def spent_rows(self, tx: Tx, most: int) -> int: ...
    def drop_spent(self, tx: Tx, most: int) -> int: ...


class ProofCap:
    """The cap over a wallet's rows; `most` counts proofs."""

    def __init__(self, rows: CapRows, advice: Advice, most: int = MAX_PROOFS) -> None:
        self._rows, self._advice, self.most = rows, advice, most

    def admit(self, tx: Tx, op: Op) -> None:
        """Room for what a new operation brings, in the transaction that begins it. Raises Capacity where
        there is none and the operation can wait."""
        coming = _coming(op)
        if self.make_room(tx, coming) or op.kind in _NEVER_HELD_UP:
            return
        raise self.full(coming)

    def make_room(self, tx: Tx, coming: int) -> bool:
        """Forget spent proofs, the oldest first, until `coming` more fit beside what open operations bring.
        Whether they fit, where all that is spent is forgotten: past DROPPED_AT_ONCE the rest goes later."""
        if coming == 0:
            return True
        here, under_way = self._rows.proof_rows(tx) + coming, self._rows.open_ops(tx)
        if here + MAX_ELEMENTS * len(under_way) <= self.most:
            return True
        waiting = sum(_coming(self._rows.op(tx, op_id)) for op_id, _ in under_way)
        short = here + waiting - self.most
        if short <= 0:
            return True
        fits = self._rows.spent_rows(tx, short) == short
        self._rows.drop_spent(tx, min(short, DROPPED_AT_ONCE))
        return fits

    def full(self, coming: int) -> Capacity:
        """What is said of `coming` proofs that do not fit."""
        return Capacity(
            f"the wallet keeps at most {self.most} proofs and has no room for {coming} more: small ones are"
            f" joined by themselves while their mint answers; {self._advice.fewer}",
            reason="too_many_proofs",
        )


def _coming(op: Op) -> int:
    return sum(planned.use in ("keep", "hold") for planned in op.body.outputs)
