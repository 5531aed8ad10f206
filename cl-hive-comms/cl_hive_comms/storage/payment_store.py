"""Sole writer of comms_payments and comms_payment_sums (docs/protocol/03-escrow-and-payments.md §8)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from hive_shared.crypto import Sealer
from hive_shared.errors import Conflict
from hive_shared.store import Tx
from hive_shared.unreadable import Unreadable, read_each
from msgspec.structs import asdict, replace

from ..domain.compensation import command_of
from ..domain.payment import INTERNAL, OPERATOR_SCOPE, REPLENISH, Payment, Target, scope_of
from ..domain.payment_limits import HOUR_S, Bound
from ..domain.payment_machine import OPEN, PAYMENT_TABLE, Event, State
from ..domain.payment_query import PaymentQuery, Total

_TABLE: Final = "comms_payments"
_PLAIN: Final = (
    *("payment_id", "content_hash", "advisor_id", "budget", "kind", "purpose", "direction", "amount_msat"),
    *(
        "fee_msat",
        "max_fee_msat",
        "counted_sats",
        "payment_hash",
        "contract_id",
        "offer_id",
        "label",
        "period_key",
    ),
    *("sent_index", "sent_at", "bound_to", "expires_at", "error", "created_at", "updated_at"),
    "period_key",
)
_CHANGED: Final = (
    *("kind", "fee_msat", "payment_hash", "sent_index", "sent_at", "expires_at", "error", "bound_to"),
)


class PaymentStore:
    """Payments. Targets (invoices, notes) and preimages are sealed. `move` follows the table of §7.3."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    # -- rows ------------------------------------------------------------------------------------------

    def insert(self, tx: Tx, row: Payment) -> None:
        """Add a payment; what it counts is counted. Raises sqlite3.IntegrityError when its key, label or the
        hash of one that is not over is there."""
        columns = (*_PLAIN, "idempotency_key", "state", "target_enc", "preimage_enc")
        plain = [getattr(row, name) for name in _PLAIN]
        tx.execute(
            f"INSERT INTO comms_payments ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
            (*plain, row.key, row.state.value, self._target(row), self._preimage(row)),
        )
        self._sum(tx, row, row.counted_sats)

    def get(self, tx: Tx, payment_id: str) -> Payment | None:
        """The payment of an id."""
        return self._one(tx.execute("SELECT * FROM comms_payments WHERE payment_id = ?", (payment_id,)))

    def by_key(self, tx: Tx, key: str) -> Payment | None:
        """The payment of an idempotency key."""
        return self._one(tx.execute("SELECT * FROM comms_payments WHERE idempotency_key = ?", (key,)))

    def by_label(self, tx: Tx, label: str) -> Payment | None:
        """The payment that the node knows by this label."""
        return self._one(tx.execute("SELECT * FROM comms_payments WHERE label = ?", (label,)))

    def by_offer(self, tx: Tx, offer_id: str) -> Payment | None:
        """What is awaited, or came, by an offer of this node."""
        return self._one(
            tx.execute("SELECT * FROM comms_payments WHERE offer_id = ? AND direction = 'in'", (offer_id,))
        )

    def by_period(self, tx: Tx, period_key: str) -> Payment | None:
        """The payment of a subscription's period that has not failed."""
        return self._one(
            tx.execute(
                "SELECT * FROM comms_payments WHERE period_key = ? AND state NOT IN ('failed', 'expired')",
                (period_key,),
            )
        )

    def by_hash(self, tx: Tx, payment_hash: str, direction: str) -> tuple[Payment, ...]:
        """Payments of a hash, the newest first; all but one have failed or expired."""
        rows = tx.execute(
            "SELECT * FROM comms_payments WHERE payment_hash = ? AND direction = ?"
            " ORDER BY state IN ('failed', 'expired'), created_at DESC",
            (payment_hash, direction),
        )
        return tuple(map(self._row, rows))

    def in_states(self, tx: Tx, states: Sequence[State], limit: int = 1_000) -> tuple[Payment, ...]:
        """Payments in any of the states, oldest first."""
        return tuple(map(self._row, self._in_states(tx, states, limit)))

    def shown_in(
        self, tx: Tx, states: Sequence[State], limit: int = 1_000
    ) -> tuple[Payment | Unreadable, ...]:
        """The same for a list that people read."""
        return tuple(read_each(self._in_states(tx, states, limit), self._row, "payment_id"))

    def _in_states(self, tx: Tx, states: Sequence[State], limit: int) -> sqlite3.Cursor:
        marks = ", ".join("?" * len(states))
        return tx.execute(
            f"SELECT * FROM comms_payments WHERE state IN ({marks}) ORDER BY created_at LIMIT ?",
            (*(state.value for state in states), limit),
        )

    def move(self, tx: Tx, before: Payment, event: Event, now: int, **changes: Any) -> Payment:
        """Apply an event to a payment that is still as read. Raises Conflict (`stale_state`) when its state
        does not take the event or another has come first; then nothing is written."""
        step = PAYMENT_TABLE.get((before.state, event))
        if step is None:
            raise Conflict(
                f"payment {before.payment_id} is {before.state}, which does not take {event}",
                reason="stale_state",
            )
        after = replace(before, state=step.to, updated_at=now, **changes)
        sets = "".join(f", {name} = ?" for name in _CHANGED)
        done = tx.execute(
            f"UPDATE comms_payments SET state = ?, updated_at = ?, target_enc = ?, preimage_enc = ?{sets}"
            " WHERE payment_id = ? AND state = ?",
            (
                *(after.state.value, now, self._target(after), self._preimage(after)),
                *(getattr(after, name) for name in _CHANGED),
                *(before.payment_id, before.state.value),
            ),
        )
        if done.rowcount != 1:
            raise Conflict(f"payment {before.payment_id} was moved meanwhile", reason="stale_state")
        return after

    def asked(self, tx: Tx, row: Payment, now: int) -> None:
        """Note the invoice or offer that the node made for a payment that is awaited."""
        tx.execute(
            "UPDATE comms_payments SET target_enc = ?, payment_hash = ?, offer_id = ?, expires_at = ?,"
            " updated_at = ? WHERE payment_id = ? AND direction = 'in'",
            (self._target(row), row.payment_hash, row.offer_id, row.expires_at, now, row.payment_id),
        )

    def bind(self, tx: Tx, payment_id: str, agent: str, now: int) -> bool:
        """Use up what was received for an agent; False when it was used before."""
        done = tx.execute(
            "UPDATE comms_payments SET bound_to = ?, updated_at = ? WHERE payment_id = ? AND bound_to IS NULL"
            " AND direction = 'in' AND state = 'settled'",
            (agent, now, payment_id),
        )
        return done.rowcount == 1

    def claim(self, tx: Tx, payment_id: str, agent: str, now: int) -> bool:
        """An agent presents what pays an awaited payment; False when that is not awaited any more."""
        done = tx.execute(
            "UPDATE comms_payments SET bound_to = ?, updated_at = ? WHERE payment_id = ? AND direction = 'in'"
            " AND state = 'awaiting'",
            (agent, now, payment_id),
        )
        return done.rowcount == 1

    def awaited(self, tx: Tx) -> int:
        """How many payments to us are waited for."""
        (count,) = tx.execute("SELECT COUNT(*) FROM comms_payments WHERE state = 'awaiting'").fetchone()
        return int(count)

    # -- limits ----------------------------------------------------------------------------------------

    def count(self, tx: Tx, row: Payment, sats: int) -> None:
        """Let a payment count so much from now on; it stays counted at the time it was made."""
        tx.execute("UPDATE comms_payments SET counted_sats = ? WHERE payment_id = ?", (sats, row.payment_id))
        self._sum(tx, row, sats - row.counted_sats)

    def used(self, tx: Tx, bound: Bound, now: int) -> int:
        """Sats that count in a limit's window: whole hours by their sums, the first one by its rows."""
        since = now - bound.window_s
        edge = since // HOUR_S
        (whole,) = tx.execute(
            "SELECT COALESCE(SUM(sats), 0) FROM comms_payment_sums WHERE scope = ? AND advisor_id = ?"
            " AND hour > ?",
            (bound.scope, bound.advisor_id, edge),
        ).fetchone()
        whose, more = _of(bound)
        (first,) = tx.execute(
            f"SELECT COALESCE(SUM(counted_sats), 0) FROM comms_payments WHERE {whose}"
            " AND created_at > ? AND created_at < ? AND counted_sats > 0",
            (*more, since, (edge + 1) * HOUR_S),
        ).fetchone()
        return int(whole) + int(first) + self._refills(tx, bound)

    def _refills(self, tx: Tx, bound: Bound) -> int:
        """Sats of refills of the wallet under way: no spend, but nothing else may spend them (03 §5)."""
        if bound.scope != OPERATOR_SCOPE or bound.advisor_id:
            return 0
        marks = ", ".join("?" * len(OPEN))
        (sats,) = tx.execute(
            f"SELECT COALESCE(SUM(counted_sats), 0) FROM comms_payments WHERE state IN ({marks})"
            " AND purpose = ? AND budget = ?",
            (*(state.value for state in OPEN), REPLENISH, INTERNAL),
        ).fetchone()
        return int(sats)

    def oldest_counted(self, tx: Tx, bound: Bound, now: int) -> int | None:
        """When the first payment that counts in the window was made (unix seconds)."""
        whose, more = _of(bound)
        (at,) = tx.execute(
            f"SELECT MIN(created_at) FROM comms_payments WHERE {whose} AND created_at > ?"
            " AND counted_sats > 0",
            (*more, now - bound.window_s),
        ).fetchone()
        return None if at is None else int(at)

    def reserved(self, tx: Tx, scope: str) -> int:
        """Sats that payments without an end hold in a scope."""
        marks = ", ".join("?" * len(OPEN))
        rows = tx.execute(
            f"SELECT budget, SUM(counted_sats) FROM comms_payments WHERE state IN ({marks})"
            " AND budget IS NOT NULL GROUP BY budget",
            [state.value for state in OPEN],
        )
        return sum(int(sats) for budget, sats in rows if scope_of(budget) == scope)

    def _sum(self, tx: Tx, row: Payment, sats: int) -> None:
        if row.budget is None or sats == 0:
            return
        scope, hour = scope_of(row.budget), row.created_at // HOUR_S
        for advisor in {"", row.advisor_id or ""}:
            tx.execute(
                "INSERT INTO comms_payment_sums (scope, advisor_id, hour, sats) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (scope, advisor_id, hour) DO UPDATE SET sats = sats + excluded.sats"
                if sats > 0
                else "UPDATE comms_payment_sums SET sats = sats + ?4"
                " WHERE scope = ?1 AND advisor_id = ?2 AND hour = ?3",
                (scope, advisor, hour, sats),
            )

    # -- lists -----------------------------------------------------------------------------------------

    def page(self, tx: Tx, query: PaymentQuery) -> tuple[Payment | Unreadable, ...]:
        """Payments that a query means, newest first."""
        where, values = _where(query)
        if query.before is not None:
            where.append("(created_at, payment_id) < (?, ?)")
            values += query.before
        rows = tx.execute(
            f"SELECT * FROM comms_payments WHERE {' AND '.join(where)}"
            " ORDER BY created_at DESC, payment_id DESC LIMIT ?",
            (*values, query.limit),
        )
        return tuple(read_each(rows, self._row, "payment_id"))

    def totals(self, tx: Tx, query: PaymentQuery) -> tuple[Total, ...]:
        """Sums of what a query means, by direction, method, advisor and state."""
        where, values = _where(query)
        rows = tx.execute(
            "SELECT direction, kind, advisor_id, state, COUNT(*), SUM(amount_msat), SUM(fee_msat)"
            f" FROM comms_payments WHERE {' AND '.join(where)}"
            " GROUP BY direction, kind, advisor_id, state",
            values,
        )
        return tuple(Total(*row) for row in rows)

    # -- backups ---------------------------------------------------------------------------------------

    def raw_payments(self, tx: Tx) -> Iterator[dict[str, object]]:
        """Every payment, readable without this node's seed."""
        for row in tx.execute("SELECT * FROM comms_payments ORDER BY created_at, payment_id"):
            known = self._row(row)
            yield {**asdict(known), "state": known.state.value, "target": known.target.to_json()}

    def put_raw_payment(self, tx: Tx, raw: Mapping[str, Any]) -> bool:
        """Insert a payment of a backup; False when it is here. One that had no end then is unknown now: what
        became of it since, the node's list says. Raises KeyError, TypeError, ValueError for a broken row."""
        state = State(raw["state"])
        if state is State.RESERVED and command_of(raw["key"]) is not None:
            # Whether its command succeeded since, no list says.
            raw, state = {**raw, "counted_sats": 0, "error": "not_due: restored before its end"}, State.FAILED
        if state in OPEN:
            # Begun after the copy was made, perhaps: every part of the node's list may be its own.
            known = {"sent_at": raw["sent_at"] or raw["created_at"], "sent_index": raw["sent_index"] or 0}
            raw, state = {**raw, **known}, State.UNKNOWN
        row = Payment(**{**raw, "state": state, "target": Target.from_json(raw["target"])})
        taken = tx.execute(
            "SELECT 1 FROM comms_payments WHERE payment_id = ?1 OR idempotency_key = ?2 OR label = ?3"
            " OR ((payment_hash = ?4 AND direction = ?5 OR period_key = ?6)"
            " AND state NOT IN ('failed', 'expired'))",
            (row.payment_id, row.key, row.label, row.payment_hash, row.direction, row.period_key),
        ).fetchone()
        if taken is not None:
            return False
        self.insert(tx, row)
        return True

    # -- sealed columns --------------------------------------------------------------------------------

    def _target(self, row: Payment) -> bytes:
        text = json.dumps(row.target.to_json(), separators=(",", ":"))
        return self._sealer.seal(_TABLE, row.payment_id, "target_enc", text.encode())

    def _preimage(self, row: Payment) -> bytes | None:
        if row.preimage is None:
            return None
        return self._sealer.seal(_TABLE, row.payment_id, "preimage_enc", bytes.fromhex(row.preimage))

    def _one(self, found: sqlite3.Cursor) -> Payment | None:
        row = found.fetchone()
        return None if row is None else self._row(row)

    def _row(self, row: sqlite3.Row) -> Payment:
        payment_id, sealed = row["payment_id"], row["preimage_enc"]
        target = json.loads(self._sealer.open(_TABLE, payment_id, "target_enc", row["target_enc"]))
        preimage = None
        if sealed is not None:
            preimage = self._sealer.open(_TABLE, payment_id, "preimage_enc", sealed).hex()
        plain = {name: row[name] for name in _PLAIN}
        return Payment(
            **plain,
            key=row["idempotency_key"],
            state=State(row["state"]),
            target=Target.from_json(target),
            preimage=preimage,
        )


def _of(bound: Bound) -> tuple[str, tuple[str, ...]]:
    if bound.advisor_id:
        return "advisor_id = ? AND budget IN ('advisor', 'liquidity')", (bound.advisor_id,)
    if bound.scope == OPERATOR_SCOPE:
        return "budget IN ('advisor', 'liquidity')", ()
    return "budget = ?", (bound.scope,)


def _where(query: PaymentQuery) -> tuple[list[str], list[Any]]:
    where = ["created_at >= ?"]
    values: list[Any] = [query.since]
    for name, value in (("advisor_id", query.advisor_id), ("kind", query.kind)):
        if value is not None:
            where.append(f"{name} = ?")
            values.append(value)
    return where, values
