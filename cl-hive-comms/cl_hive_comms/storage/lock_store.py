"""Sole writer of comms_cashu_locks (docs/protocol/03-escrow-and-payments.md §8).

Tokens and preimages are sealed cell by cell. `move` follows the table of `cashu.lock_machine`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from hive_shared.cashu.lock_machine import FINAL, HOLDING, LOCKS, STANDING, LockEvent, LockState
from hive_shared.cashu.secrets import Kind, Lock, SigFlag
from hive_shared.crypto import Sealer
from hive_shared.errors import Conflict, NotFound
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.cashu_lock import LockRow, Role
from ..domain.payment import ADVISOR, LIQUIDITY, OPERATOR_SCOPE, scope_of
from ..domain.payment_limits import Bound

_TABLE: Final = "comms_cashu_locks"
_PLAIN: Final = (
    *("lock_id", "owner", "ref", "mint_url", "keyset_id", "amount_sats", "face_sats", "key_context"),
    *("terms_hash", "item", "share", "released_at", "refund_hold_until", "op_id", "request_key", "content"),
    *("budget", "advisor_id", "counted_sats", "batch", "tries", "next_at", "error", "reason"),
    *("created_at", "updated_at"),
)
_CHANGING: Final = (
    *("released_at", "refund_hold_until", "op_id", "counted_sats", "batch", "tries", "next_at", "error"),
    *("reason", "updated_at"),
)
_COLUMNS: Final = (
    *_PLAIN,
    *("role", "kind", "hash", "keys_json", "n_sigs", "sigflag", "refund_pubkey", "locktime", "ys_json"),
    *("state", "token_enc", "witness_enc"),
)
_CHUNK: Final = 400
_HELD_BACK: Final = (LockState.LOCKED, LockState.DELIVERED, LockState.REFUNDABLE)
LONGEST_WAIT_S: Final = 1_800
"""The longest that a lock waits, from now or its locktime on, before it is looked at again."""
HELD_AFTER_RESTORE_S: Final = 86_400
"""How long after its locktime a payer's lock of a backup is left to its payee (03 §6.7)."""


class LockStore:
    """Locks; every method runs inside the caller's transaction."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def insert(self, tx: Tx, row: LockRow) -> None:
        """Add a lock. Raises Conflict where these terms' item is known in this role."""
        lock = row.lock
        values = {
            **{name: getattr(row, name) for name in _PLAIN},
            "role": row.role.value,
            "kind": lock.kind.value,
            "hash": lock.hash,
            "keys_json": json.dumps(lock.keys),
            "n_sigs": lock.n_sigs,
            "sigflag": None if lock.sigflag is None else lock.sigflag.value,
            "refund_pubkey": lock.refund[0],
            "locktime": row.locktime,
            "ys_json": json.dumps(row.ys),
            "state": row.state.value,
            **self._sealed(row),
        }
        marks = ", ".join("?" * len(_COLUMNS))
        try:
            tx.execute(
                f"INSERT INTO comms_cashu_locks ({', '.join(_COLUMNS)}) VALUES ({marks})",
                [values[name] for name in _COLUMNS],
            )
        except sqlite3.IntegrityError:
            raise Conflict(
                f"item {row.item} of these terms is in the books already (lock {row.lock_id})",
                reason="lock_exists",
                data={"lock_id": row.lock_id},
            ) from None

    def move(self, tx: Tx, before: LockRow, event: LockEvent, now: int, **changes: Any) -> LockRow:
        """Apply an event to a lock that is still as read. Raises Conflict (`stale_state`) where its state
        does not take the event or another came first; then nothing is written."""
        step = LOCKS.get((before.state, event))
        if step is None:
            raise Conflict(
                f"lock {before.lock_id} is {before.state.value}, which does not take {event.value}",
                reason="stale_state",
            )
        return self._write(tx, before, replace(before, state=step.to, updated_at=now, **changes))

    def note(self, tx: Tx, before: LockRow, **changes: Any) -> LockRow:
        """Write what changed of a lock that stays in its state. Raises Conflict where that has changed."""
        return self._write(tx, before, replace(before, **changes))

    def put_off(self, tx: Tx, lock_ids: Sequence[str], next_at: int) -> None:
        """When these are looked at again."""
        for part in _parts(lock_ids):
            tx.execute(
                f"UPDATE comms_cashu_locks SET next_at = ? WHERE lock_id IN ({_marks(part)})",
                (next_at, *part),
            )

    def get(self, tx: Tx, lock_ids: Sequence[str]) -> tuple[LockRow, ...]:
        """These, in the order asked for. Raises NotFound naming one that is not there, SealBroken."""
        found = {row.lock_id: row for row in self.known(tx, lock_ids)}
        for lock_id in lock_ids:
            if lock_id not in found:
                raise NotFound(f"there is no lock {lock_id[:40]!a}", data={"lock_id": lock_id[:64]})
        return tuple(found[lock_id] for lock_id in lock_ids)

    def known(self, tx: Tx, lock_ids: Sequence[str]) -> tuple[LockRow, ...]:
        """Those of these that are there."""
        found: list[LockRow] = []
        for part in _parts(lock_ids):
            rows = tx.execute(f"SELECT * FROM comms_cashu_locks WHERE lock_id IN ({_marks(part)})", part)
            found += map(self._row, rows)
        return tuple(found)

    def of_request(self, tx: Tx, request_key: str) -> tuple[LockRow, ...]:
        """Those that one call asked for, by item and share."""
        rows = tx.execute(
            "SELECT * FROM comms_cashu_locks WHERE request_key = ? ORDER BY item, share, role", (request_key,)
        )
        return tuple(map(self._row, rows))

    def of_terms(self, tx: Tx, terms_hash: str) -> tuple[LockRow, ...]:
        """Those of one ticket, by item and share."""
        rows = tx.execute(
            "SELECT * FROM comms_cashu_locks WHERE terms_hash = ? ORDER BY item, share, role", (terms_hash,)
        )
        return tuple(map(self._row, rows))

    def of_ref(self, tx: Tx, owner: str, ref: str) -> tuple[LockRow, ...]:
        """Those of an owner for one ticket or bond, by item and share."""
        rows = tx.execute(
            "SELECT * FROM comms_cashu_locks WHERE ref = ? AND owner = ? ORDER BY item, share, role",
            (ref, owner),
        )
        return tuple(map(self._row, rows))

    def answers(self, tx: Tx, lock_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """What agents answered, by lock, the oldest first."""
        found: dict[str, list[dict[str, Any]]] = {}
        for part in _parts(lock_ids):
            rows = tx.execute(
                f"SELECT lock_id, answers_json FROM comms_cashu_locks WHERE lock_id IN ({_marks(part)})", part
            )
            found |= {row[0]: json.loads(row[1]) for row in rows}
        return found

    def put_answers(self, tx: Tx, lock_id: str, answers: Sequence[Mapping[str, Any]]) -> None:
        """Replace what agents answered about a lock."""
        tx.execute(
            "UPDATE comms_cashu_locks SET answers_json = ? WHERE lock_id = ?",
            (json.dumps(list(answers)), lock_id),
        )

    def due(self, tx: Tx, now: int, limit: int) -> list[tuple[str, str]]:
        """(lock_id, mint) of standing ones that are to be looked at, the longest due first."""
        rows = tx.execute(
            f"SELECT lock_id, mint_url FROM comms_cashu_locks WHERE state IN ({_marks(STANDING)})"
            " AND next_at <= ? ORDER BY next_at, lock_id LIMIT ?",
            (*(state.value for state in STANDING), now, limit),
        )
        return [(row[0], row[1]) for row in rows]

    def wake(self, tx: Tx, now: int) -> None:
        """Have those looked at that would wait longer than anything does: the clock was set back since."""
        tx.execute(
            f"UPDATE comms_cashu_locks SET next_at = ? WHERE state IN ({_marks(STANDING)})"
            " AND next_at > MAX(?, locktime) + ?",
            (now, *(state.value for state in STANDING), now, LONGEST_WAIT_S),
        )

    def unbegun(self, tx: Tx) -> tuple[LockRow, ...]:
        """Planned ones for which no swap was begun."""
        rows = tx.execute("SELECT * FROM comms_cashu_locks WHERE state = 'planned' AND op_id = ''")
        return tuple(map(self._row, rows))

    def prune(self, tx: Tx, before: int) -> int:
        """Forget what ended, and whose locktime was, before a time; how many. Not what an item names of whose
        task the end is open: it follows its lock then."""
        ended = [state.value for state in (*FINAL, LockState.FAILED)]
        return int(
            tx.execute(
                f"DELETE FROM comms_cashu_locks WHERE state IN ({_marks(ended)}) AND locktime < ?"
                " AND updated_at < ? AND lock_id NOT IN (SELECT named.value FROM comms_escrow_items i,"
                " json_each(i.lock_ids_json) named WHERE i.state IN ('executing', 'unknown'))",
                (*ended, before, before),
            ).rowcount
        )

    def locked_sats(self, tx: Tx) -> dict[str, int]:
        """What of ours is locked, or may be, by mint."""
        rows = tx.execute(
            f"SELECT mint_url, SUM(face_sats) FROM comms_cashu_locks WHERE role = 'payer'"
            f" AND state IN ({_marks(HOLDING)}) GROUP BY mint_url",
            [state.value for state in HOLDING],
        )
        return {row[0]: int(row[1]) for row in rows}

    def payee_sats(self, tx: Tx, mint_url: str) -> int:
        """What tickets of others may still bring us at a mint."""
        (sats,) = tx.execute(
            "SELECT COALESCE(SUM(amount_sats), 0) FROM comms_cashu_locks WHERE role = 'payee'"
            f" AND owner = 'comms' AND mint_url = ? AND state IN ({_marks(HOLDING)})",
            (mint_url, *(state.value for state in HOLDING)),
        ).fetchone()
        return int(sats)

    def page(self, tx: Tx, owner: str, before: tuple[int, str] | None, limit: int) -> list[LockRow]:
        """An owner's, newest first, beginning behind (created_at, lock_id)."""
        at, lock_id = before or ((1 << 62), "")
        rows = tx.execute(
            "SELECT * FROM comms_cashu_locks WHERE owner = ? AND (created_at, lock_id) < (?, ?)"
            " ORDER BY created_at DESC, lock_id DESC LIMIT ?",
            (owner, at, lock_id, limit),
        )
        return [self._row(row) for row in rows]

    # -- limits ----------------------------------------------------------------------------------------

    def counted(self, tx: Tx, bound: Bound, since: int) -> int:
        """Sats of locks made after a time that count in a limit."""
        whose, values = _of(bound)
        (sats,) = tx.execute(
            "SELECT COALESCE(SUM(counted_sats), 0) FROM comms_cashu_locks WHERE counted_sats > 0"
            f" AND created_at > ? AND {whose}",
            (since, *values),
        ).fetchone()
        return int(sats)

    def oldest_counted(self, tx: Tx, bound: Bound, since: int) -> int | None:
        """When the first lock that counts was made."""
        whose, values = _of(bound)
        (at,) = tx.execute(
            "SELECT MIN(created_at) FROM comms_cashu_locks WHERE counted_sats > 0"
            f" AND created_at > ? AND {whose}",
            (since, *values),
        ).fetchone()
        return None if at is None else int(at)

    def reserved(self, tx: Tx, scope: str) -> int:
        """Sats that locks without an end hold in a scope."""
        rows = tx.execute(
            "SELECT budget, SUM(counted_sats) FROM comms_cashu_locks WHERE counted_sats > 0"
            f" AND state IN ({_marks(HOLDING)}) GROUP BY budget",
            [state.value for state in HOLDING],
        )
        return sum(int(sats) for budget, sats in rows if scope_of(budget) == scope)

    # -- backups ---------------------------------------------------------------------------------------

    def raw_locks(self, tx: Tx) -> Iterator[dict[str, object]]:
        """Every lock that was funded, in clear, for a backup."""
        for row in tx.execute("SELECT * FROM comms_cashu_locks WHERE token_enc IS NOT NULL ORDER BY lock_id"):
            known = self._row(row)
            lock = known.lock
            yield {
                **{name: getattr(known, name) for name in _PLAIN},
                "role": known.role.value,
                "kind": lock.kind.value,
                "hash": lock.hash,
                "keys": list(lock.keys),
                "n_sigs": lock.n_sigs,
                "sigflag": None if lock.sigflag is None else lock.sigflag.value,
                "refund": list(lock.refund),
                "locktime": known.locktime,
                "ys": list(known.ys),
                "state": known.state.value,
                "token": known.token,
                "preimage": known.preimage,
            }

    def put_raw_lock(self, tx: Tx, raw: Mapping[str, Any]) -> bool:
        """Insert a lock of a backup; False when it is here. One that a swap was at stands again: whoever
        spent it since, the mint says. Raises KeyError, TypeError, ValueError for a broken row."""
        known = "SELECT 1 FROM comms_cashu_locks WHERE lock_id = ?"
        if tx.execute(known, (str(raw["lock_id"]),)).fetchone():
            return False
        sigflag = raw["sigflag"]
        lock = Lock(
            Kind(raw["kind"]),
            raw["hash"],
            tuple(raw["keys"]),
            int(raw["locktime"]),
            tuple(raw["refund"]),
            raw["n_sigs"],
            None if raw["n_sigs"] is None else 1,
            None if sigflag is None else SigFlag(sigflag),
        )
        row = LockRow(
            **{**{name: raw[name] for name in _PLAIN}, "next_at": 0},
            role=Role(raw["role"]),
            lock=lock,
            ys=tuple(raw["ys"]),
            state=_UNDER_WAY.get(LockState(raw["state"]), LockState(raw["state"])),
            token=str(raw["token"]),
            preimage=str(raw["preimage"]),
        )
        if row.role is Role.PAYER and row.state in _HELD_BACK:
            # Nobody here knows whether it was released since the copy was made: as if it was.
            until = max(row.refund_hold_until, row.locktime + HELD_AFTER_RESTORE_S)
            row = replace(row, refund_hold_until=until)
        self.insert(tx, row)
        return True

    # -- cells -----------------------------------------------------------------------------------------

    def _write(self, tx: Tx, before: LockRow, after: LockRow) -> LockRow:
        sets = "".join(f", {name} = ?" for name in _CHANGING)
        sealed = self._sealed(after)
        done = tx.execute(
            f"UPDATE comms_cashu_locks SET state = ?, token_enc = ?, witness_enc = ?{sets}"
            " WHERE lock_id = ? AND state = ?",
            (
                *(after.state.value, sealed["token_enc"], sealed["witness_enc"]),
                *(getattr(after, name) for name in _CHANGING),
                *(before.lock_id, before.state.value),
            ),
        )
        if done.rowcount != 1:
            raise Conflict(f"lock {before.lock_id} was moved meanwhile", reason="stale_state")
        return after

    def _sealed(self, row: LockRow) -> dict[str, bytes | None]:
        return {
            "token_enc": self._seal(row, "token_enc", row.token),
            "witness_enc": self._seal(row, "witness_enc", row.preimage),
        }

    def _seal(self, row: LockRow, column: str, text: str) -> bytes | None:
        return self._sealer.seal(_TABLE, row.lock_id, column, text.encode()) if text else None

    def _open(self, row: sqlite3.Row, column: str) -> str:
        blob = row[column]
        return "" if blob is None else self._sealer.open(_TABLE, row["lock_id"], column, blob).decode()

    def _row(self, row: sqlite3.Row) -> LockRow:
        n_sigs, sigflag = row["n_sigs"], row["sigflag"]
        lock = Lock(
            Kind(row["kind"]),
            row["hash"],
            tuple(json.loads(row["keys_json"])),
            int(row["locktime"]),
            (row["refund_pubkey"],),
            n_sigs,
            None if n_sigs is None else 1,
            None if sigflag is None else SigFlag(sigflag),
        )
        return LockRow(
            **{name: row[name] for name in _PLAIN},
            role=Role(row["role"]),
            lock=lock,
            ys=tuple(json.loads(row["ys_json"])),
            state=LockState(row["state"]),
            token=self._open(row, "token_enc"),
            preimage=self._open(row, "witness_enc"),
        )


_UNDER_WAY: Final = {
    LockState.PLANNED: LockState.LOCKED,
    LockState.REDEEMING: LockState.REDEEMABLE,
    LockState.REFUNDING: LockState.REFUNDABLE,
}


def _of(bound: Bound) -> tuple[str, tuple[str, ...]]:
    values: tuple[str, ...] = (bound.scope,)
    whose = "budget = ?"
    if bound.scope == OPERATOR_SCOPE:
        whose, values = "budget IN (?, ?)", (ADVISOR, LIQUIDITY)
    if bound.advisor_id:
        return f"{whose} AND advisor_id = ?", (*values, bound.advisor_id)
    return whose, values


def _parts(names: Sequence[str]) -> Iterator[list[str]]:
    return (list(names[start : start + _CHUNK]) for start in range(0, len(names), _CHUNK))


def _marks(part: Sequence[object]) -> str:
    return ", ".join("?" * len(part))
