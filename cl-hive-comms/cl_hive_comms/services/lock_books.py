"""What becomes of locks when a swap of the wallet ends, inside the transaction that ends it
(docs/protocol/03-escrow-and-payments.md §5, §8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from hive_shared.cashu.curve import y_of
from hive_shared.cashu.journal import Op, OpKind
from hive_shared.cashu.lock_machine import LOCKS, LockEvent, LockState
from hive_shared.cashu.token import Token, encode_token
from hive_shared.cashu.wire import Proof
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.cashu_lock import LockRow, poll_after
from .ports_locks import LockRows, OnChange

_RETRY_S: Final = 30
_RETRY_MOST_S: Final = 1_800
_PUT_OFF: Final = {
    OpKind.REDEEM: (LockState.REDEEMING, LockEvent.ON_REDEEM_PUT_OFF),
    OpKind.REFUND: (LockState.REFUNDING, LockEvent.ON_REFUND_PUT_OFF),
}


class LockBooks:
    """Moves locks, and tells whoever follows them."""

    def __init__(self, rows: LockRows, now: Callable[[], int]) -> None:
        self._rows, self._now = rows, now
        self._followers: list[OnChange] = []

    def follow(self, follower: OnChange) -> None:
        """Tell `follower` of every lock that is new or moved, inside the transaction that does it."""
        self._followers.append(follower)

    def add(self, tx: Tx, row: LockRow) -> None:
        """A new lock."""
        self._rows.insert(tx, row)
        self._tell(tx, row)

    def tell_again(self, tx: Tx, rows: Sequence[LockRow]) -> None:
        """Where these stand, for followers that could not take it when it was told."""
        for row in rows:
            self._tell(tx, row)

    def move(self, tx: Tx, row: LockRow, event: LockEvent, **changes: Any) -> LockRow:
        """One step. Raises Conflict (`stale_state`) when it is none of the table, or another came first."""
        after = self._rows.move(tx, row, event, self._now(), **changes)
        self._tell(tx, after)
        return after

    def done(self, tx: Tx, op: Op, given: Sequence[Proof]) -> None:
        """The mint carried out an operation, perhaps late: what its locks are now."""
        rows = self._rows.get(tx, op.lock_ids)
        if op.kind is OpKind.LOCK:
            self._funded(tx, op, rows, given)
            return
        for row in rows:
            event, changes = LockEvent.ON_REDEEMED, dict[str, Any]()
            if op.kind is OpKind.REFUND and not row.preimage:
                event, changes = LockEvent.ON_REFUNDED, {"counted_sats": 0}
            if (row.state, event) in LOCKS:
                self.move(tx, row, event, error="", reason="", **changes)

    def failed(self, tx: Tx, op: Op) -> None:
        """Nothing came of an operation, so far as is known: nothing is locked, or the swap is tried again,
        with at most half as many locks in it."""
        now, rows = self._now(), self._rows.get(tx, op.lock_ids)
        for row in rows:
            why = {"error": op.error, "reason": op.reason}
            if op.kind is OpKind.LOCK:
                if row.state is LockState.PLANNED:
                    self.move(tx, row, LockEvent.ON_FAILED, counted_sats=0, **why)
                continue
            state, event = _PUT_OFF[op.kind]
            if row.state is not state or row.op_id != op.op_id:
                continue
            alone, tries = len(rows) == 1, row.tries + 1
            later = min(_RETRY_MOST_S, _RETRY_S << min(tries, 6)) if alone else 0
            if op.kind is OpKind.REDEEM and now < row.locktime:
                # After it the payer may take it back.
                later = min(later, _RETRY_S)
            batch = max(1, len(rows) // 2)
            next_at = now if op.reason == "token_spent" else now + later
            self.move(tx, row, event, batch=batch, tries=tries, next_at=next_at, **why)

    def _funded(self, tx: Tx, op: Op, rows: Sequence[LockRow], given: Sequence[Proof]) -> None:
        by_y = {y_of(proof.secret): proof for proof in given}
        for row in rows:
            if (row.state, LockEvent.ON_LOCKED) not in LOCKS:
                continue
            token = encode_token(Token(op.mint_url, tuple(by_y[y] for y in row.ys)))
            counted = row.face_sats if row.budget is not None else 0
            next_at = poll_after(replace(row, updated_at=self._now()), self._now())
            self.move(
                tx,
                row,
                LockEvent.ON_LOCKED,
                token=token,
                counted_sats=counted,
                next_at=next_at,
                error="",
                reason="",
            )

    def _tell(self, tx: Tx, row: LockRow) -> None:
        for follower in self._followers:
            follower(tx, row)
