"""Sole writer of comms_subscriptions (docs/protocol/03-escrow-and-payments.md §8)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, Final

from hive_shared.errors import Conflict
from hive_shared.store import Tx
from msgspec.structs import asdict, fields, replace

from ..domain.subscription import RECURRING, RESTORED, Subscription
from ..domain.subscription_machine import SUBSCRIPTION_TABLE, Event, State

_COLUMNS: Final = tuple(each.name for each in fields(Subscription))
_MOST: Final = 500


class SubscriptionStore:
    """Subscriptions. `move` follows their table."""

    def insert(self, tx: Tx, row: Subscription) -> None:
        """Add one. Raises sqlite3.IntegrityError when its id is there."""
        marks = ", ".join("?" * len(_COLUMNS))
        tx.execute(
            f"INSERT INTO comms_subscriptions ({', '.join(_COLUMNS)}) VALUES ({marks})",
            [asdict(row)[name] for name in _COLUMNS],
        )

    def get(self, tx: Tx, sub_id: str) -> Subscription | None:
        """The subscription of an id."""
        found = tx.execute("SELECT * FROM comms_subscriptions WHERE sub_id = ?", (sub_id,)).fetchone()
        return None if found is None else _row(found)

    def due(self, tx: Tx, now: int) -> tuple[Subscription, ...]:
        """Active ones whose time to be tried has come, the longest overdue first."""
        rows = tx.execute(
            "SELECT * FROM comms_subscriptions WHERE state = 'active' AND next_due <= ?"
            " ORDER BY next_due LIMIT ?",
            (now, _MOST),
        )
        return tuple(map(_row, rows))

    def live(self, tx: Tx) -> tuple[Subscription, ...]:
        """Those that have not ended, oldest first."""
        rows = tx.execute(
            "SELECT * FROM comms_subscriptions WHERE state <> 'ended' ORDER BY created_at LIMIT ?", (_MOST,)
        )
        return tuple(map(_row, rows))

    def page(self, tx: Tx, advisor_id: str | None, limit: int) -> tuple[Subscription, ...]:
        """All of them or one advisor's, those that have not ended first, then the newest."""
        rows = tx.execute(
            "SELECT * FROM comms_subscriptions WHERE ?1 IS NULL OR advisor_id = ?1"
            " ORDER BY state = 'ended', created_at DESC LIMIT ?2",
            (advisor_id, limit),
        )
        return tuple(map(_row, rows))

    def move(self, tx: Tx, before: Subscription, event: Event, now: int, **changes: Any) -> Subscription:
        """Apply an event to one that is still as read. Raises Conflict (`stale_state`) when its state does
        not take the event or it was changed meanwhile; then nothing is written."""
        step = SUBSCRIPTION_TABLE.get((before.state, event))
        if step is None:
            raise _stale(before)
        return self._write(tx, before, replace(before, state=step.to, updated_at=now, **changes))

    def note(self, tx: Tx, before: Subscription, now: int, **changes: Any) -> Subscription:
        """Change what is no state: when it is tried next, how often it failed. Raises Conflict."""
        return self._write(tx, before, replace(before, updated_at=now, **changes))

    def _write(self, tx: Tx, before: Subscription, after: Subscription) -> Subscription:
        sets = ", ".join(f"{name} = ?" for name in _COLUMNS)
        done = tx.execute(
            f"UPDATE comms_subscriptions SET {sets} WHERE sub_id = ? AND state = ?"
            " AND recurrence_counter = ? AND failures = ? AND asks = ? AND invoice IS ?",
            (
                *(asdict(after)[name] for name in _COLUMNS),
                *(before.sub_id, before.state.value, before.recurrence_counter, before.failures),
                *(before.asks, before.invoice),
            ),
        )
        if done.rowcount != 1:
            raise _stale(before)
        return after

    # -- backups ---------------------------------------------------------------------------------------

    def raw_subscriptions(self, tx: Tx) -> Iterator[dict[str, object]]:
        """Every subscription."""
        for row in tx.execute("SELECT * FROM comms_subscriptions ORDER BY created_at, sub_id"):
            yield dict(row)

    def put_raw_subscription(self, tx: Tx, raw: Mapping[str, Any]) -> bool:
        """Insert one of a backup; False when it is here. The periods of a recurring offer are counted by its
        issuer too; any other may have been paid since the copy was made, so that one waits for the operator.
        Raises KeyError, TypeError, ValueError for a broken row."""
        row = Subscription(**{**raw, "state": State(raw["state"])})
        if row.state is State.ACTIVE and row.kind != RECURRING:
            # Nor does it wait for an invoice that was asked for before: it may be that of a paid period.
            row = replace(
                row,
                state=State.SUSPENDED,
                error=RESTORED,
                asks=0,
                asked_sats=0,
                invoice=None,
            )
        if self.get(tx, row.sub_id) is not None:
            return False
        self.insert(tx, row)
        return True


def _row(row: sqlite3.Row) -> Subscription:
    return Subscription(**{**dict(row), "state": State(row["state"])})


def _stale(row: Subscription) -> Conflict:
    return Conflict(f"subscription {row.sub_id} was changed meanwhile", reason="stale_state")
