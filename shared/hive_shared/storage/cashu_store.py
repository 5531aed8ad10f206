"""Sole writer of the ecash wallet's proofs, operations and counters (docs/protocol/03 §5, §8): of the node's
(comms_cashu_*) and of the advisor kit's (adv_cashu_*), each in a database of its own.

What can be spent is sealed cell by cell; nothing but amounts, states and the public names of proofs (`y`)
is readable in the file.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import fields

from ..cashu.journal import (
    INCOMING,
    LONGEST_WAIT_S,
    MOVES,
    OPEN,
    Coin,
    Op,
    OpKind,
    OpState,
    OwnProof,
    ProofStatus,
    body_from_text,
    body_to_text,
)
from ..cashu.wire import Dleq, Proof
from ..crypto import Sealer
from ..errors import Conflict, NotFound
from ..store import Tx

_OPEN: Final = ", ".join(f"'{state.value}'" for state in OPEN)
_PLAIN: Final = tuple(
    each.name for each in fields(Op) if each.name not in ("body", "quote_key", "next_retry_at")
)
_CHUNK: Final = 400
"""Names in one statement: below SQLite's limit of variables everywhere."""


class CashuStore:
    """The wallet's rows; every method runs inside the caller's transaction. `family` is what the names of its
    tables begin with: "comms_cashu" or "adv_cashu"."""

    def __init__(self, sealer: Sealer, family: str) -> None:
        self._sealer = sealer
        self._proofs, self._ops, self._counters = f"{family}_proofs", f"{family}_ops", f"{family}_counters"

    # -- proofs ----------------------------------------------------------------------------------------

    def add_proofs(
        self, tx: Tx, mint_url: str, proofs: Sequence[OwnProof], state: ProofStatus, op_id: str, now: int
    ) -> int:
        """Note proofs; one that is known keeps its state. How many are new."""
        added = 0
        for proof in proofs:
            dleq = msgspec.json.encode(proof.proof.dleq).decode()
            given = state in (ProofStatus.SPENT, ProofStatus.PENDING)
            added += tx.execute(
                f"INSERT INTO {self._proofs} (y, mint_url, keyset_id, amount, state, secret_enc, c_enc,"
                " dleq_enc, counter, origin_op, used_op, created_at, spent_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (y) DO NOTHING",
                (
                    proof.y,
                    mint_url,
                    proof.proof.id,
                    proof.proof.amount,
                    state,
                    self._seal(self._proofs, proof.y, "secret_enc", proof.proof.secret),
                    self._seal(self._proofs, proof.y, "c_enc", proof.proof.C),
                    self._seal(self._proofs, proof.y, "dleq_enc", dleq),
                    proof.counter,
                    op_id,
                    op_id if given else None,
                    now,
                    now if state is ProofStatus.SPENT else None,
                ),
            ).rowcount
        return added

    def proofs(self, tx: Tx, ys: Sequence[str]) -> tuple[OwnProof, ...]:
        """These proofs in clear, in the order asked for. Raises NotFound for an unknown one, SealBroken."""
        found: dict[str, OwnProof] = {}
        for part in _parts(ys):
            rows = tx.execute(f"SELECT * FROM {self._proofs} WHERE y IN ({_marks(part)})", part)
            found |= {row["y"]: self._proof(row) for row in rows}
        if len(found) != len(set(ys)):
            raise NotFound("a proof that an operation names is not in this wallet", reason="unknown_proof")
        return tuple(found[y] for y in ys)

    def known(self, tx: Tx, ys: Sequence[str]) -> dict[str, ProofStatus]:
        """The state of those of these proofs that are known."""
        found: dict[str, ProofStatus] = {}
        for part in _parts(ys):
            rows = tx.execute(f"SELECT y, state FROM {self._proofs} WHERE y IN ({_marks(part)})", part)
            found |= {row["y"]: ProofStatus(row["state"]) for row in rows}
        return found

    def available(self, tx: Tx, mint_url: str, limit: int) -> dict[int, list[Coin]]:
        """Unspent proofs of a mint by amount, at most `limit` of each: one look into the index each."""
        found: dict[int, list[Coin]] = {}
        amount = (1 << 63) - 1
        while True:
            row = tx.execute(
                f"SELECT MAX(amount) FROM {self._proofs} WHERE mint_url = ? AND state = 'unspent'"
                " AND amount < ?",
                (mint_url, amount),
            ).fetchone()
            if row[0] is None:
                return found
            amount = int(row[0])
            found[amount] = [
                Coin(coin["y"], coin["keyset_id"], amount)
                for coin in tx.execute(
                    f"SELECT y, keyset_id FROM {self._proofs} WHERE mint_url = ? AND state = 'unspent'"
                    " AND amount = ? LIMIT ?",
                    (mint_url, amount, limit),
                )
            ]

    def crowded(self, tx: Tx, above: int) -> list[tuple[str, int, int]]:
        """(mint, amount, count) of denominations of which more than `above` proofs are unspent."""
        rows = tx.execute(
            f"SELECT mint_url, amount, COUNT(*) AS n FROM {self._proofs} WHERE state = 'unspent'"
            " GROUP BY mint_url, amount HAVING n > ?",
            (above,),
        )
        return [(row["mint_url"], int(row["amount"]), int(row["n"])) for row in rows]

    def reserve(self, tx: Tx, ys: Sequence[str], op_id: str) -> None:
        """Unspent proofs become pending for an operation: all, or Conflict is raised."""
        changed = 0
        for part in _parts(ys):
            changed += tx.execute(
                f"UPDATE {self._proofs} SET state = 'pending', used_op = ?"
                f" WHERE state = 'unspent' AND y IN ({_marks(part)})",
                (op_id, *part),
            ).rowcount
        if changed != len(ys):
            raise Conflict("proofs of this wallet were taken by another operation", reason="proofs_taken")

    def settle(self, tx: Tx, op_id: str, ys: Sequence[str], state: ProofStatus, now: int) -> None:
        """What became of proofs that an operation held: spent, or unspent again."""
        spent = state is ProofStatus.SPENT
        for part in _parts(ys):
            tx.execute(
                f"UPDATE {self._proofs} SET state = ?, used_op = ?, spent_at = ?"
                f" WHERE state IN ('pending', 'unspent') AND y IN ({_marks(part)})"
                " AND (used_op IS NULL OR used_op = ?)",
                (state, op_id if spent else None, now if spent else None, *part, op_id),
            )

    def balances(self, tx: Tx) -> dict[str, dict[str, int]]:
        """Sats by mint and state."""
        found: dict[str, dict[str, int]] = {}
        rows = tx.execute(
            f"SELECT mint_url, state, SUM(amount) AS sat, COUNT(*) AS n FROM {self._proofs}"
            " WHERE state <> 'spent' GROUP BY mint_url, state"
        )
        for row in rows:
            mint = found.setdefault(
                row["mint_url"], {"unspent": 0, "pending": 0, "quarantined": 0, "proofs": 0}
            )
            mint[row["state"]] = int(row["sat"])
            mint["proofs"] += int(row["n"])
        return found

    def coming(self, tx: Tx, mint_url: str) -> int:
        """Sats that open fund operations will bring to a mint."""
        return int(
            tx.execute(
                f"SELECT COALESCE(SUM(amount_sats), 0) FROM {self._ops} WHERE mint_url = ?"
                f" AND kind = 'fund' AND state IN ({_OPEN})",
                (mint_url,),
            ).fetchone()[0]
        )

    def prune_proofs(self, tx: Tx, before: int, most: int) -> int:
        """Forget at most so many proofs that were spent before a time; how many."""
        return int(
            tx.execute(
                f"DELETE FROM {self._proofs} WHERE y IN (SELECT y FROM {self._proofs} WHERE state = 'spent'"
                " AND spent_at < ? LIMIT ?)",
                (before, most),
            ).rowcount
        )

    def proof_rows(self, tx: Tx) -> int:
        """How many proofs are noted, spent ones included."""
        return int(tx.execute(f"SELECT COUNT(*) FROM {self._proofs}").fetchone()[0])

    def spent_rows(self, tx: Tx, most: int) -> int:
        """How many proofs are spent, counted up to so many."""
        count = f"SELECT COUNT(*) FROM (SELECT 1 FROM {self._proofs} WHERE state = 'spent' LIMIT ?)"
        return int(tx.execute(count, (most,)).fetchone()[0])

    def drop_spent(self, tx: Tx, most: int) -> int:
        """Forget at most so many spent proofs, those spent longest ago; how many."""
        return int(
            tx.execute(
                f"DELETE FROM {self._proofs} WHERE y IN (SELECT y FROM {self._proofs} WHERE state = 'spent'"
                " ORDER BY spent_at LIMIT ?)",
                (most,),
            ).rowcount
        )

    def raw_proofs(self, tx: Tx) -> Iterator[dict[str, object]]:
        """Every proof that is not spent, in clear, for a backup."""
        for row in tx.execute(f"SELECT * FROM {self._proofs} WHERE state <> 'spent' ORDER BY y"):
            own = self._proof(row)
            yield {
                "y": own.y,
                "mint_url": row["mint_url"],
                "proof": msgspec.to_builtins(own.proof),
                "counter": own.counter,
                "created_at": row["created_at"],
            }

    def put_raw_proof(self, tx: Tx, row: Mapping[str, Any]) -> bool:
        """Take a proof of a backup in unless it is known: not to be spent before its mint was asked."""
        own = OwnProof(str(row["y"]), msgspec.convert(row["proof"], Proof), row["counter"])
        at = int(row["created_at"])
        return bool(self.add_proofs(tx, str(row["mint_url"]), [own], ProofStatus.QUARANTINED, "backup", at))

    def quarantined(self, tx: Tx, mint_url: str, limit: int) -> list[str]:
        """Names of proofs whose mint is to be asked before they count."""
        rows = tx.execute(
            f"SELECT y FROM {self._proofs} WHERE mint_url = ? AND state = 'quarantined' LIMIT ?",
            (mint_url, limit),
        )
        return [str(row[0]) for row in rows]

    def doubt_all(self, tx: Tx) -> None:
        """These rows are an older copy: what they call unspent or held may be spent since."""
        tx.execute(
            f"UPDATE {self._proofs} SET state = 'quarantined', used_op = NULL"
            " WHERE state IN ('unspent', 'pending')"
        )

    def judge(self, tx: Tx, ys: Sequence[str], state: ProofStatus, now: int) -> None:
        """What their mint said of quarantined proofs."""
        for part in _parts(ys):
            tx.execute(
                f"UPDATE {self._proofs} SET state = ?, spent_at = ?"
                f" WHERE state = 'quarantined' AND y IN ({_marks(part)})",
                (state, now if state is ProofStatus.SPENT else None, *part),
            )

    # -- counters --------------------------------------------------------------------------------------

    def take_counters(self, tx: Tx, mint_url: str, keyset_id: str, count: int) -> int:
        """The first of `count` counters that nothing else ever gets (docs/protocol/03 §2.4), at whatever
        address a mint with this keyset is named."""
        first = self.counter(tx, mint_url, keyset_id)
        self.raise_counter(tx, mint_url, keyset_id, first + count)
        return first

    def raise_counter(self, tx: Tx, mint_url: str, keyset_id: str, least: int) -> bool:
        """Counters below `least` are used; a counter only ever rises. Whether this one did."""
        changed = tx.execute(
            f"INSERT INTO {self._counters} (mint_url, keyset_id, next) VALUES (?, ?, ?)"
            " ON CONFLICT (mint_url, keyset_id) DO UPDATE SET next = excluded.next"
            " WHERE next < excluded.next",
            (mint_url, keyset_id, least),
        )
        return changed.rowcount == 1

    def counter(self, tx: Tx, mint_url: str, keyset_id: str) -> int:
        """The next counter of a keyset: secrets are made of the keyset's id alone, and a mint may be named by
        several addresses, or have moved."""
        row = tx.execute(
            f"SELECT MAX(next) FROM {self._counters} WHERE keyset_id = ?", (keyset_id,)
        ).fetchone()
        return int(row[0] or 0)

    def counters(self, tx: Tx) -> list[tuple[str, str, int]]:
        """(mint, keyset, next counter) of all."""
        rows = tx.execute(f"SELECT mint_url, keyset_id, next FROM {self._counters} ORDER BY 1, 2")
        return [(row[0], row[1], int(row[2])) for row in rows]

    # -- the journal -----------------------------------------------------------------------------------

    def add_op(self, tx: Tx, op: Op) -> None:
        """A new operation; its idempotency key is unique."""
        tx.execute(
            f"INSERT INTO {self._ops} (op_id, idempotency_key, content, owner, kind, mint_url, state,"
            " inputs_json, outputs_enc, amount_sats, fee_sats, quote_id, quote_key_enc, payment_id,"
            " lock_ids_json, attempts, next_retry_at, expires_at, sent_at, watch_until, error, reason,"
            " created_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (op.op_id, op.idempotency_key, op.content, op.owner, op.kind, op.mint_url, *self._changing(op),
             op.created_at, op.updated_at),
        )  # fmt: skip

    def move(self, tx: Tx, op: Op, was: OpState) -> None:
        """Write an operation's new state over `was`. Raises Conflict when it stands elsewhere by now."""
        if op.state is not was and op.state not in MOVES[was]:
            raise Conflict(f"an operation does not go from {was} to {op.state}", reason="stale_state")
        changed = tx.execute(
            f"UPDATE {self._ops} SET state = ?, inputs_json = ?, outputs_enc = ?, amount_sats = ?,"
            " fee_sats = ?, quote_id = ?, quote_key_enc = ?, payment_id = ?, lock_ids_json = ?, attempts = ?,"
            " next_retry_at = ?, expires_at = ?, sent_at = ?, watch_until = ?, error = ?, reason = ?,"
            " updated_at = ? WHERE op_id = ? AND state = ?",
            (*self._changing(op), op.updated_at, op.op_id, was),
        ).rowcount
        if changed != 1:
            raise Conflict(f"operation {op.op_id} is not {was} any more", reason="stale_state")

    def op(self, tx: Tx, op_id: str) -> Op:
        """One operation. Raises NotFound, SealBroken."""
        row = tx.execute(f"SELECT * FROM {self._ops} WHERE op_id = ?", (op_id,)).fetchone()
        if row is None:
            raise NotFound(f"there is no wallet operation {op_id[:40]!a}; list its operations")
        return self._op(row)

    def op_by_key(self, tx: Tx, idempotency_key: str) -> Op | None:
        """The operation of an idempotency key."""
        row = tx.execute(
            f"SELECT * FROM {self._ops} WHERE idempotency_key = ?", (idempotency_key,)
        ).fetchone()
        return None if row is None else self._op(row)

    def open_ops(self, tx: Tx, due: int | None = None) -> list[tuple[str, str]]:
        """(op_id, mint) of what is not settled, oldest first; with `due` only what is to be looked at: also
        what would wait longer than anything does, by a clock that was set back since."""
        rows = tx.execute(
            f"SELECT op_id, mint_url FROM {self._ops} WHERE state IN ({_OPEN})"
            " AND (?1 IS NULL OR next_retry_at <= ?1 OR next_retry_at > ?1 + ?2) ORDER BY created_at, op_id",
            (due, LONGEST_WAIT_S),
        )
        return [(row[0], row[1]) for row in rows]

    def watched(self, tx: Tx, now: int) -> list[tuple[str, str]]:
        """(op_id, mint) of released operations that the mint may still carry out, and are to be asked of."""
        rows = tx.execute(
            f"SELECT op_id, mint_url FROM {self._ops} WHERE watch_until > ?1"
            " AND (next_retry_at <= ?1 OR next_retry_at > ?1 + ?2) ORDER BY created_at, op_id",
            (now, LONGEST_WAIT_S),
        )
        return [(row[0], row[1]) for row in rows]

    def undecided(self, tx: Tx, mint_url: str, now: int) -> list[Op]:
        """Operations at a mint that are not settled, or were released and may still be carried out."""
        rows = tx.execute(
            f"SELECT * FROM {self._ops} WHERE mint_url = ? AND (state IN ({_OPEN}) OR watch_until > ?)",
            (mint_url, now),
        )
        return [self._op(row) for row in rows]

    def newest_begun(self, tx: Tx, key_prefix: str) -> int:
        """When the newest operation with such an idempotency key was begun, Unix s; 0: none."""
        return int(
            tx.execute(
                f"SELECT COALESCE(MAX(created_at), 0) FROM {self._ops}"
                " WHERE idempotency_key >= ? AND idempotency_key < ?",
                _prefixed(key_prefix),
            ).fetchone()[0]
        )

    def newest_done(self, tx: Tx, kind: str) -> int:
        """When the newest operation of a kind ended well, Unix s; 0: none."""
        return int(
            tx.execute(
                f"SELECT COALESCE(MAX(updated_at), 0) FROM {self._ops} WHERE state = 'done' AND kind = ?",
                (kind,),
            ).fetchone()[0]
        )

    def failed_since(self, tx: Tx, key_prefix: str, since: int) -> int:
        """How many operations with such an idempotency key were begun after a time and failed."""
        return int(
            tx.execute(
                f"SELECT COUNT(*) FROM {self._ops} WHERE idempotency_key >= ? AND idempotency_key < ?"
                " AND state = 'failed' AND created_at > ?",
                (*_prefixed(key_prefix), since),
            ).fetchone()[0]
        )

    def unopened_probes(self, tx: Tx) -> list[Op]:
        """Probes whose locks were made and whose openings are not in the journal, or of whose openings one
        failed: its locks may still be there."""
        rows = tx.execute(
            f"SELECT * FROM {self._ops} AS made WHERE kind = 'probe' AND state = 'done' AND (NOT EXISTS"
            f" (SELECT 1 FROM {self._ops} WHERE idempotency_key = made.idempotency_key || ':first')"
            f" OR EXISTS (SELECT 1 FROM {self._ops} WHERE state = 'failed' AND idempotency_key"
            " > made.idempotency_key || ':' AND idempotency_key < made.idempotency_key || ';'))"
        )
        return [self._op(row) for row in rows.fetchall()]

    def list_ops(self, tx: Tx, state: str | None, before: tuple[int, str] | None, limit: int) -> list[Op]:
        """Newest first, beginning behind (created_at, op_id)."""
        at, op_id = before or ((1 << 62), "")
        rows = tx.execute(
            f"SELECT * FROM {self._ops} WHERE (created_at, op_id) < (?, ?)"
            " AND (? IS NULL OR state = ?) ORDER BY created_at DESC, op_id DESC LIMIT ?",
            (at, op_id, state, state, limit),
        )
        return [self._op(row) for row in rows]

    def prune_ops(self, tx: Tx, before: int) -> int:
        """Forget operations that ended before a time, but none that still holds what its owner decides about;
        how many."""
        return int(
            tx.execute(
                f"DELETE FROM {self._ops} AS ended WHERE state IN ('done', 'failed') AND updated_at < ?"
                f" AND watch_until < ? AND NOT EXISTS (SELECT 1 FROM {self._proofs}"
                " WHERE used_op = ended.op_id AND state = 'pending')",
                (before, before),
            ).rowcount
        )

    def raw_ops(self, tx: Tx) -> Iterator[dict[str, object]]:
        """Operations under way that bring money in, in clear, for a backup. What the others hold is in the
        proofs, and what they make comes back from the seed."""
        marks = _marks([*INCOMING])
        rows = tx.execute(
            f"SELECT * FROM {self._ops} WHERE state IN ({_OPEN}) AND kind IN ({marks}) ORDER BY op_id",
            [kind.value for kind in sorted(INCOMING)],
        )
        for row in rows:
            op = self._op(row)
            plain = {name: getattr(op, name) for name in _PLAIN}
            yield {**plain, "body": body_to_text(op.body), "quote_key": op.quote_key.hex()}

    def put_raw_op(self, tx: Tx, row: Mapping[str, Any]) -> bool:
        """Carry on an operation of a backup unless it is known; an invoice is not paid for it again."""
        values = {name: row[name] for name in _PLAIN}
        op = Op(
            **{
                **values,
                "kind": OpKind(values["kind"]),
                "state": OpState(values["state"]),
                "inputs": tuple(values["inputs"]),
                "lock_ids": tuple(values["lock_ids"]),
                "payment_id": values["payment_id"] or "before the backup",
                "next_retry_at": 0,
                "body": body_from_text(str(row["body"])),
                "quote_key": bytes.fromhex(str(row["quote_key"])),
            }
        )
        known = f"SELECT 1 FROM {self._ops} WHERE op_id = ? OR idempotency_key = ?"
        if tx.execute(known, (op.op_id, op.idempotency_key)).fetchone():
            return False
        self.add_op(tx, op)
        return True

    # -- sealing ---------------------------------------------------------------------------------------

    def _seal(self, table: str, row: str, column: str, text: str) -> bytes:
        return self._sealer.seal(table, row, column, text.encode())

    def _open(self, table: str, row: str, column: str, blob: bytes) -> str:
        return self._sealer.open(table, row, column, blob).decode()

    def _proof(self, row: sqlite3.Row) -> OwnProof:
        y = str(row["y"])
        dleq = msgspec.json.decode(self._open(self._proofs, y, "dleq_enc", row["dleq_enc"]), type=Dleq | None)
        secret = self._open(self._proofs, y, "secret_enc", row["secret_enc"])
        c = self._open(self._proofs, y, "c_enc", row["c_enc"])
        return OwnProof(y, Proof(int(row["amount"]), row["keyset_id"], secret, c, dleq=dleq), row["counter"])

    def _changing(self, op: Op) -> tuple[Any, ...]:
        key = None
        if op.quote_key:
            key = self._sealer.seal(self._ops, op.op_id, "quote_key_enc", op.quote_key)
        return (
            op.state,
            json.dumps(op.inputs),
            self._seal(self._ops, op.op_id, "outputs_enc", body_to_text(op.body)),
            op.amount_sats,
            op.fee_sats,
            op.quote_id,
            key,
            op.payment_id,
            json.dumps(op.lock_ids),
            op.attempts,
            op.next_retry_at,
            op.expires_at,
            op.sent_at,
            op.watch_until,
            op.error,
            op.reason,
        )

    def _op(self, row: sqlite3.Row) -> Op:
        op_id = str(row["op_id"])
        key = row["quote_key_enc"]
        return Op(
            op_id=op_id,
            idempotency_key=row["idempotency_key"],
            content=row["content"],
            owner=row["owner"],
            kind=OpKind(row["kind"]),
            mint_url=row["mint_url"],
            state=OpState(row["state"]),
            inputs=tuple(json.loads(row["inputs_json"])),
            amount_sats=int(row["amount_sats"]),
            fee_sats=int(row["fee_sats"]),
            created_at=int(row["created_at"]),
            updated_at=int(row["updated_at"]),
            body=body_from_text(self._open(self._ops, op_id, "outputs_enc", row["outputs_enc"])),
            quote_id=row["quote_id"],
            quote_key=b"" if key is None else self._sealer.open(self._ops, op_id, "quote_key_enc", key),
            payment_id=row["payment_id"],
            lock_ids=tuple(json.loads(row["lock_ids_json"])),
            attempts=int(row["attempts"]),
            next_retry_at=int(row["next_retry_at"]),
            expires_at=int(row["expires_at"]),
            sent_at=int(row["sent_at"]),
            watch_until=int(row["watch_until"]),
            error=row["error"],
            reason=row["reason"],
        )


def _prefixed(prefix: str) -> tuple[str, str]:
    """The bounds of texts that begin so."""
    return prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _parts(ys: Sequence[str]) -> Iterator[list[str]]:
    return (list(ys[start : start + _CHUNK]) for start in range(0, len(ys), _CHUNK))


def _marks(part: Sequence[str]) -> str:
    return ", ".join("?" * len(part))
