"""Sole writer of tickets, their items, preimages and disputes (docs/protocol/03-escrow-and-payments.md §6.6,
§8): of cl-hive-comms (comms_escrow_*) and of cl-hive (escrow_*), each in a database of its own.

Preimages are sealed. `move_item` follows the tables of `cashu.ticket_machine`, the ticket's status follows
the items.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from ..canonical import encode
from ..cashu.escrow_rows import (
    MAX_ACTIVE_TICKETS,
    MAX_FREE_SECRETS,
    MAX_SECRET_ROWS,
    MAX_TICKET_ROWS,
    OPERATOR_SECRETS,
    REVEAL_S,
    DisputeRow,
    DisputeState,
    ItemEvent,
    ItemRow,
    ItemState,
    SecretRow,
    SecretSource,
    Side,
    TicketQuery,
    TicketRow,
)
from ..cashu.terms import decode_terms, terms_json
from ..cashu.ticket_machine import (
    PAYEE_ITEMS,
    PAYER_ITEMS,
    PayeeEvent,
    PayeeItem,
    PayerEvent,
    PayerItem,
    TicketStatus,
    ticket_status,
)
from ..crypto import Sealer, Secret
from ..errors import Capacity, Conflict
from ..store import Tx
from ..unreadable import Unreadable, read_each

_LIVE: Final = "('pending', 'active', 'expired', 'failed', 'disputed')"
"""Statuses in which something may still happen with the money."""
_TICKET_CHANGES: Final = frozenset({"payer_sig", "acked_by", "error"})
_ITEM_CHANGES: Final = (
    *("command_id", "receipt_id", "released_at", "delivered_at", "redeemed_at", "refunded_at"),
    *("owed_sats", "owed_by"),
)
_EXECUTING: Final = PayerItem.EXECUTING.value
_UNKNOWN: Final = PayerItem.UNKNOWN.value
_SECRET_CHANGES: Final = frozenset({"released_at", "delivered_at"})


class EscrowStore:
    """Tickets of either role; every method runs inside the caller's transaction. `family` is what the names
    of its tables begin with: "comms_escrow" or "escrow"."""

    def __init__(self, sealer: Sealer, family: str) -> None:
        self._sealer = sealer
        self._tickets, self._items = f"{family}_tickets", f"{family}_items"
        self._secrets, self._disputes = f"{family}_secrets", f"{family}_disputes"
        self._order = {
            self._tickets: "created_at, ticket_id",
            self._items: "ticket_id, i",
            self._secrets: "hash",
            self._disputes: "created_at, dispute_id",
        }
        self._insert = {
            self._tickets: f"INSERT OR IGNORE INTO {self._tickets}",
            self._items: f"INSERT OR IGNORE INTO {self._items}",
            self._secrets: f"INSERT OR IGNORE INTO {self._secrets}",
            self._disputes: f"INSERT OR IGNORE INTO {self._disputes}",
        }

    # -- tickets ---------------------------------------------------------------------------------------

    def add_ticket(self, tx: Tx, ticket: TicketRow, items: Sequence[ItemRow]) -> None:
        """Add a ticket with its items. Raises Capacity at 500 of its role that are live, or at 50,000 in all
        of which none is over; Conflict for an id, terms or a key that is there."""
        live = self.active(tx, ticket.role)
        if live >= MAX_ACTIVE_TICKETS:
            raise Capacity(f"{live} tickets are under way, at most {MAX_ACTIVE_TICKETS} may be")
        self._make_room(tx)
        terms = ticket.terms
        unset = msgspec.UNSET
        values = (
            *(ticket.ticket_id, ticket.role.value, terms.type.value, terms.mode.value, ticket.advisor_id),
            None if terms.contract_id is unset else terms.contract_id,
            encode(terms_json(terms)).decode(),
            *(ticket.terms_hash, ticket.payer_sig, ticket.acked_by, terms.amount_sats, terms.danger),
            *(terms.schema, terms.task_params_hash),
            None if terms.credential_ref is unset else terms.credential_ref,
            ticket_status([each.state for each in items]).value,
            None if terms.replaces is unset else terms.replaces,
            *(ticket.key, ticket.content, ticket.error, ticket.created_at, ticket.updated_at),
        )
        try:
            tx.execute(
                f"INSERT INTO {self._tickets} (ticket_id, role, type, mode, advisor_id, contract_id,"
                " terms_json, terms_hash, payer_sig, acked_by, amount_sats, danger, schema, params_hash,"
                " credential_ref, status, replaces, idempotency_key, content, error, created_at, updated_at)"
                f" VALUES ({', '.join('?' * 22)})",
                values,
            )
        except sqlite3.IntegrityError:
            raise Conflict(f"ticket {ticket.ticket_id} is in the books already", reason="ticket") from None
        for item in items:
            self._add_item(tx, item)

    def ticket(self, tx: Tx, ticket_id: str) -> TicketRow | None:
        """The ticket of an id."""
        return self._one(tx, "ticket_id = ?", ticket_id)

    def by_key(self, tx: Tx, key: str) -> TicketRow | None:
        """The ticket that a call with this idempotency key made."""
        return self._one(tx, "idempotency_key = ?", key)

    def tickets(self, tx: Tx, query: TicketQuery) -> list[TicketRow]:
        """A page of tickets, the newest first."""
        return list(map(_ticket, self._page(tx, query)))

    def page(self, tx: Tx, query: TicketQuery) -> list[TicketRow | Unreadable]:
        """The same for a list that people read."""
        return read_each(self._page(tx, query), _ticket, "ticket_id")

    def _page(self, tx: Tx, query: TicketQuery) -> sqlite3.Cursor:
        where, values = ["1"], list[object]()
        for column, value in (
            ("role", query.role),
            ("status", query.status),
            ("advisor_id", query.advisor_id),
        ):
            if value is not None:
                where.append(f"{column} = ?")
                values.append(str(value))
        if query.before is not None:
            where.append("(created_at, ticket_id) < (?, ?)")
            values += query.before
        return tx.execute(
            f"SELECT * FROM {self._tickets} WHERE {' AND '.join(where)}"
            " ORDER BY created_at DESC, ticket_id DESC LIMIT ?",
            (*values, query.limit),
        )

    def others(self, tx: Tx, role: Side) -> frozenset[str]:
        """The keys on the other side of the tickets of a role."""
        whose = "payer" if role is Side.PAYEE else "payee"
        rows = tx.execute(
            f"SELECT DISTINCT terms_json ->> '$.{whose}.id' FROM {self._tickets} WHERE role = ?",
            (role.value,),
        )
        return frozenset(row[0] for row in rows)

    def active(self, tx: Tx, role: Side) -> int:
        """How many tickets of a role are live: what others hand over takes no room from our own."""
        row = tx.execute(
            f"SELECT COUNT(*) FROM {self._tickets} WHERE status IN {_LIVE} AND role = ?", (role.value,)
        ).fetchone()
        return int(row[0])

    def active_of_payer(self, tx: Tx, payer: str) -> int:
        """How many tickets that a payer (x-only hex) handed over are live."""
        row = tx.execute(
            f"SELECT COUNT(*) FROM {self._tickets} WHERE status IN {_LIVE} AND role = ?"
            " AND terms_json ->> '$.payer.id' = ?",
            (Side.PAYEE.value, payer),
        ).fetchone()
        return int(row[0])

    def note_ticket(self, tx: Tx, ticket_id: str, now: int, **changes: Any) -> None:
        """Write what changed beside the status: `payer_sig`, `acked_by`, `error`."""
        assert changes.keys() <= _TICKET_CHANGES, changes
        sets = ", ".join(f"{name} = ?" for name in changes)
        tx.execute(
            f"UPDATE {self._tickets} SET {sets}, updated_at = ? WHERE ticket_id = ?",
            (*changes.values(), now, ticket_id),
        )

    # -- items -----------------------------------------------------------------------------------------

    def items(self, tx: Tx, ticket_id: str) -> list[ItemRow]:
        """A ticket's items in order."""
        rows = tx.execute(f"{self._joined()} WHERE i.ticket_id = ? ORDER BY i.i", (ticket_id,))
        return [_item(row) for row in rows]

    def item(self, tx: Tx, ticket_id: str, i: int) -> ItemRow | None:
        """One item."""
        row = tx.execute(f"{self._joined()} WHERE i.ticket_id = ? AND i.i = ?", (ticket_id, i)).fetchone()
        return None if row is None else _item(row)

    def item_of(self, tx: Tx, terms_hash: str, i: int) -> ItemRow | None:
        """An item of the ticket with these terms."""
        row = tx.execute(f"{self._joined()} WHERE t.terms_hash = ? AND i.i = ?", (terms_hash, i)).fetchone()
        return None if row is None else _item(row)

    def states(self, tx: Tx, ticket_id: str) -> set[ItemState]:
        """Every state that some item of a ticket is in."""
        rows = tx.execute(
            f"SELECT DISTINCT i.state, t.role FROM {self._items} i JOIN {self._tickets} t"
            " USING (ticket_id) WHERE i.ticket_id = ?",
            (ticket_id,),
        )
        return {_side(row)(row["state"]) for row in rows}

    def of_command(self, tx: Tx, command_id: str) -> ItemRow | None:
        """The item that pays a task."""
        row = tx.execute(f"{self._joined()} WHERE i.command_id = ?", (command_id,)).fetchone()
        return None if row is None else _item(row)

    def items_in(self, tx: Tx, states: Sequence[ItemState], limit: int) -> list[ItemRow]:
        """Items in any of these states of one side, those that go back first at the front."""
        role = Side.PAYER if isinstance(states[0], PayerItem) else Side.PAYEE
        marks = ", ".join("?" * len(states))
        rows = tx.execute(
            f"{self._joined()} WHERE i.state IN ({marks}) AND t.role = ?"
            " ORDER BY i.locktime, i.ticket_id, i.i LIMIT ?",
            (*(state.value for state in states), role.value, limit),
        )
        return [_item(row) for row in rows]

    def owed(self, tx: Tx) -> list[ItemRow]:
        """Items that were earned and taken back, and for which nothing was given yet."""
        rows = tx.execute(f"{self._joined()} WHERE i.owed_sats > 0 AND i.owed_by = ''")
        return [_item(row) for row in rows]

    def move_item(self, tx: Tx, before: ItemRow, event: ItemEvent, now: int, **changes: Any) -> ItemRow:
        """Apply an event to an item that is still as read, and let the ticket's status follow.

        Raises Conflict (`stale_state`) where its state does not take the event or another came first; then
        nothing is written.
        """
        step = _step(before.state, event)
        if step is None:
            raise Conflict(
                f"item {before.i} of ticket {before.ticket_id} is {before.state.value}, which does not take"
                f" {event.value}",
                reason="stale_state",
                data={"state": before.state.value, "event": event.value},
            )
        after = self._write(tx, before, replace(before, state=step, **changes))
        self._follow(tx, before.ticket_id, now)
        return after

    def note_item(self, tx: Tx, before: ItemRow, now: int, **changes: Any) -> ItemRow:
        """Write what changed of an item that stays in its state. Raises Conflict where that has changed."""
        after = self._write(tx, before, replace(before, **changes))
        tx.execute(f"UPDATE {self._tickets} SET updated_at = ? WHERE ticket_id = ?", (now, before.ticket_id))
        return after

    def put_item(self, tx: Tx, before: ItemRow, after: ItemRow, now: int) -> None:
        """Store a changed item of a payee, whose steps its engine takes, and let the ticket's status follow.
        Raises Conflict where another came first."""
        self._write(tx, before, after)
        self._follow(tx, before.ticket_id, now)

    # -- secrets ---------------------------------------------------------------------------------------

    def add_secrets(self, tx: Tx, rows: Sequence[SecretRow]) -> None:
        """Add preimages, all told to the same agent or to none. Raises Conflict for a hash that is known;
        Capacity at 50,000, for an agent at 45,000 or with 1,024 of its own that no ticket uses."""
        self._check_secrets(tx, rows)
        for row in rows:
            blob = self._sealer.seal(self._secrets, row.hash, "secret_enc", row.preimage.reveal())
            try:
                tx.execute(
                    f"INSERT INTO {self._secrets} (hash, ticket_id, i, task_id, source, asked_by,"
                    " secret_enc, created_at, released_at, delivered_at, expires_at)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(row.hash, row.ticket_id, row.i, row.task_id, row.source.value, row.asked_by, blob),
                        *(row.created_at, row.released_at, row.delivered_at, row.expires_at),
                    ),
                )
            except sqlite3.IntegrityError:
                raise Conflict(
                    f"hash {row.hash} was used before: a hash is of one item for good", reason="hash_used"
                ) from None

    def _check_secrets(self, tx: Tx, rows: Sequence[SecretRow]) -> None:
        (count,) = tx.execute(f"SELECT COUNT(*) FROM {self._secrets}").fetchone()
        asked_by = rows[0].asked_by if rows else ""
        most = MAX_SECRET_ROWS - (OPERATOR_SECRETS if asked_by else 0)
        if count + len(rows) > most:
            raise Capacity(f"{count} preimages are kept, at most {most} may be")
        if not asked_by:
            return
        (free,) = tx.execute(
            f"SELECT COUNT(*) FROM {self._secrets} WHERE asked_by = ? AND ticket_id IS NULL"
            " AND expires_at > ?",
            (asked_by, rows[0].created_at),
        ).fetchone()
        if free + len(rows) > MAX_FREE_SECRETS:
            raise Capacity(
                f"{free} hashes that you were told are unused and {len(rows)} more are asked for, at most"
                f" {MAX_FREE_SECRETS} may be: use them, or wait until they run out after a day"
            )

    def secret(self, tx: Tx, hash_: str) -> SecretRow | None:
        """A preimage by its hash. Raises SealBroken."""
        row = tx.execute(f"SELECT * FROM {self._secrets} WHERE hash = ?", (hash_,)).fetchone()
        return None if row is None else self._secret(row)

    def free_secrets(self, tx: Tx, task_id: str, asked_by: str, now: int) -> list[SecretRow]:
        """Preimages of a task that no ticket has, given out to `asked_by`, the oldest first."""
        rows = tx.execute(
            f"SELECT * FROM {self._secrets} WHERE task_id = ? AND asked_by = ? AND ticket_id IS NULL"
            " AND (expires_at IS NULL OR expires_at > ?) ORDER BY created_at, hash",
            (task_id, asked_by, now),
        )
        return [self._secret(row) for row in rows]

    def bind_secrets(self, tx: Tx, ticket_id: str, hashes: Mapping[int, str]) -> None:
        """Give free hashes to a ticket's items. Raises Conflict where one is not free any more."""
        for i, hash_ in hashes.items():
            done = tx.execute(
                f"UPDATE {self._secrets} SET ticket_id = ?, i = ?, expires_at = NULL"
                " WHERE hash = ? AND ticket_id IS NULL",
                (ticket_id, i, hash_),
            )
            if done.rowcount != 1:
                raise Conflict(
                    f"hash {hash_} is of another ticket, or has run out: take a new one", reason="hash_used"
                )

    def refuse_used(self, tx: Tx, hashes: Sequence[str]) -> None:
        """Raises Conflict for a hash of a payee that an item has, or whose preimage is kept here."""
        marks = ", ".join("?" * len(hashes))
        for table in (self._items, self._secrets):
            row = tx.execute(f"SELECT hash FROM {table} WHERE hash IN ({marks}) LIMIT 1", hashes).fetchone()
            if row is not None:
                raise Conflict(
                    f"hash {row[0]} was used before: ask the payee for a new one", reason="hash_used"
                )

    def note_secret(self, tx: Tx, hash_: str, **changes: int | None) -> None:
        """Write when a preimage was released, or reached the payee."""
        assert changes.keys() <= _SECRET_CHANGES, changes
        sets = ", ".join(f"{name} = ?" for name in changes)
        tx.execute(f"UPDATE {self._secrets} SET {sets} WHERE hash = ?", (*changes.values(), hash_))

    # -- disputes --------------------------------------------------------------------------------------

    def add_dispute(self, tx: Tx, row: DisputeRow) -> None:
        """Add a dispute. Raises Conflict where the item has one that is open, or the id is known."""
        try:
            tx.execute(
                f"INSERT INTO {self._disputes} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(row.dispute_id, row.ticket_id, row.i, row.role.value, row.claim),
                    *(encode(dict(row.evidence)).decode(), row.state.value, row.due_at, row.created_at),
                    row.resolved_at,
                ),
            )
        except sqlite3.IntegrityError:
            raise Conflict(
                f"item {row.i} of ticket {row.ticket_id} is disputed already", reason="dispute_open"
            ) from None

    def dispute(self, tx: Tx, dispute_id: str) -> DisputeRow | None:
        """One dispute."""
        row = tx.execute(f"SELECT * FROM {self._disputes} WHERE dispute_id = ?", (dispute_id,)).fetchone()
        return None if row is None else _dispute(row)

    def disputes(self, tx: Tx, ticket_id: str) -> list[DisputeRow]:
        """A ticket's disputes, the oldest first."""
        rows = tx.execute(
            f"SELECT * FROM {self._disputes} WHERE ticket_id = ? ORDER BY created_at, dispute_id",
            (ticket_id,),
        )
        return [_dispute(row) for row in rows]

    def disputes_due(self, tx: Tx, now: int) -> list[DisputeRow]:
        """Open ones whose time to answer is over."""
        rows = tx.execute(
            f"SELECT * FROM {self._disputes} WHERE state = 'open' AND due_at <= ? ORDER BY due_at", (now,)
        )
        return [_dispute(row) for row in rows]

    def end_dispute(
        self, tx: Tx, row: DisputeRow, state: DisputeState, evidence: Mapping[str, Any], now: int
    ) -> DisputeRow:
        """Close an open dispute. Raises Conflict where it is closed."""
        done = tx.execute(
            f"UPDATE {self._disputes} SET state = ?, evidence_json = ?, resolved_at = ?"
            " WHERE dispute_id = ? AND state = 'open'",
            (state.value, encode(dict(evidence)).decode(), now, row.dispute_id),
        )
        if done.rowcount != 1:
            raise Conflict(f"dispute {row.dispute_id} is closed", reason="dispute_closed")
        return replace(row, state=state, evidence=evidence, resolved_at=now)

    # -- what goes -------------------------------------------------------------------------------------

    def prune(self, tx: Tx, now: int) -> int:
        """Forget hashes that were given out and never used, and preimages 90 d after their ticket could last
        be asked about; how many."""
        unused = tx.execute(
            f"DELETE FROM {self._secrets} WHERE ticket_id IS NULL AND expires_at <= ?", (now,)
        ).rowcount
        old = tx.execute(
            f"DELETE FROM {self._secrets} WHERE ticket_id IN"
            f" (SELECT t.ticket_id FROM {self._tickets} t"
            f" WHERE t.status NOT IN {_LIVE} AND NOT EXISTS (SELECT 1 FROM {self._items} i"
            " WHERE i.ticket_id = t.ticket_id AND MAX(i.locktime, COALESCE(i.released_at, 0)) > ?))",
            (now - REVEAL_S,),
        ).rowcount
        return int(unused) + int(old)

    # -- backups ---------------------------------------------------------------------------------------

    def raw_rows(self, tx: Tx) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every row with its table, tickets first, preimages in clear."""
        for table, order in self._order.items():
            for row in tx.execute(f"SELECT * FROM {table} ORDER BY {order}"):
                values = dict(row)
                if table == self._secrets:
                    blob = values.pop("secret_enc")
                    values["secret"] = self._opened(values["hash"], blob).hex()
                yield table, values

    def put_raw_row(self, tx: Tx, table: str, row: Mapping[str, Any]) -> bool:
        """Insert a row of a backup; False where this node has it, whose own is newer. An item whose task was
        under way becomes `unknown`: the operator decides. Raises KeyError, ValueError and sqlite3.Error for
        what is no such row."""
        values = dict(row)
        if table == self._secrets:
            plain = bytes.fromhex(values.pop("secret"))
            values["secret_enc"] = self._sealer.seal(self._secrets, values["hash"], "secret_enc", plain)
        if values.get("state") == _EXECUTING and table == self._items:
            # The task ended, or not, on the node that was lost: nobody here will come back to it.
            values["state"] = _UNKNOWN
        columns = [name for name, *_ in tx.execute("SELECT name FROM pragma_table_info(?)", (table,))]
        if table not in self._insert or set(columns) != set(values):
            raise ValueError(f"a row of {table} has other columns")
        done = tx.execute(
            f"{self._insert[table]} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
            [values[name] for name in columns],
        )
        return done.rowcount == 1

    # -- inside ----------------------------------------------------------------------------------------

    def _joined(self) -> str:
        return f"SELECT i.*, t.role FROM {self._items} i JOIN {self._tickets} t USING (ticket_id)"

    def _one(self, tx: Tx, where: str, value: str) -> TicketRow | None:
        row = tx.execute(f"SELECT * FROM {self._tickets} WHERE {where}", (value,)).fetchone()
        return None if row is None else _ticket(row)

    def _make_room(self, tx: Tx) -> None:
        (count,) = tx.execute(f"SELECT COUNT(*) FROM {self._tickets}").fetchone()
        if count < MAX_TICKET_ROWS:
            return
        oldest = tx.execute(
            f"SELECT ticket_id FROM {self._tickets} t WHERE status NOT IN {_LIVE} AND NOT EXISTS"
            f" (SELECT 1 FROM {self._items} i WHERE i.ticket_id = t.ticket_id AND i.owed_sats > 0"
            " AND i.owed_by = '') ORDER BY created_at LIMIT 1"
        ).fetchone()
        if oldest is None:
            raise Capacity(f"{count} tickets are kept and none of them is over")
        for statement in (
            f"DELETE FROM {self._disputes} WHERE ticket_id = ?",
            f"DELETE FROM {self._items} WHERE ticket_id = ?",
            f"DELETE FROM {self._tickets} WHERE ticket_id = ?",
        ):
            tx.execute(statement, (oldest[0],))

    def _add_item(self, tx: Tx, item: ItemRow) -> None:
        columns = (
            *("ticket_id", "i", "label", "amount_sats", "hash", "deadline", "locktime"),
            *_ITEM_CHANGES,
        )
        tx.execute(
            f"INSERT INTO {self._items} ({', '.join(columns)}, cond_json, state, lock_ids_json,"
            f" metric_json) VALUES ({', '.join('?' * (len(columns) + 4))})",
            (*(getattr(item, name) for name in columns), encode(dict(item.cond)).decode(), *_changing(item)),
        )

    def _write(self, tx: Tx, before: ItemRow, after: ItemRow) -> ItemRow:
        sets = ", ".join(f"{name} = ?" for name in (*_ITEM_CHANGES, "state", "lock_ids_json", "metric_json"))
        done = tx.execute(
            f"UPDATE {self._items} SET {sets} WHERE ticket_id = ? AND i = ? AND state = ?",
            (
                *(getattr(after, name) for name in _ITEM_CHANGES),
                *_changing(after),
                *(before.ticket_id, before.i, before.state.value),
            ),
        )
        if done.rowcount != 1:
            raise Conflict(
                f"item {before.i} of ticket {before.ticket_id} was moved meanwhile", reason="stale_state"
            )
        return after

    def _follow(self, tx: Tx, ticket_id: str, now: int) -> None:
        """The status that the items say; equal states say it as well once as often."""
        status = ticket_status(list(self.states(tx, ticket_id)))
        tx.execute(
            f"UPDATE {self._tickets} SET status = ?, updated_at = ? WHERE ticket_id = ?",
            (status.value, now, ticket_id),
        )

    def _opened(self, hash_: str, blob: bytes) -> bytes:
        return self._sealer.open(self._secrets, hash_, "secret_enc", blob)

    def _secret(self, row: sqlite3.Row) -> SecretRow:
        return SecretRow(
            row["hash"],
            Secret(self._opened(row["hash"], row["secret_enc"])),
            row["task_id"],
            SecretSource(row["source"]),
            row["created_at"],
            row["expires_at"],
            row["asked_by"],
            row["ticket_id"],
            row["i"],
            row["released_at"],
            row["delivered_at"],
        )


def _step(state: ItemState, event: ItemEvent) -> ItemState | None:
    if isinstance(state, PayerItem) and isinstance(event, PayerEvent):
        payer = PAYER_ITEMS.get((state, event))
        return None if payer is None else payer.to
    if isinstance(state, PayeeItem) and isinstance(event, PayeeEvent):
        payee = PAYEE_ITEMS.get((state, event))
        return None if payee is None else payee.to
    return None


def _changing(item: ItemRow) -> tuple[object, ...]:
    metric = None if item.metric is None else encode(dict(item.metric)).decode()
    return item.state.value, json.dumps(item.lock_ids), metric


def _ticket(row: sqlite3.Row) -> TicketRow:
    return TicketRow(
        row["ticket_id"],
        Side(row["role"]),
        decode_terms(row["terms_json"]),
        row["terms_hash"],
        row["payer_sig"],
        TicketStatus(row["status"]),
        row["idempotency_key"],
        row["content"],
        row["created_at"],
        row["updated_at"],
        row["advisor_id"],
        row["acked_by"],
        row["error"],
    )


def _side(row: sqlite3.Row) -> type[PayerItem] | type[PayeeItem]:
    return PayerItem if row["role"] == Side.PAYER.value else PayeeItem


def _item(row: sqlite3.Row) -> ItemRow:
    return ItemRow(
        *(row["ticket_id"], row["i"], row["label"], row["amount_sats"], row["hash"], row["deadline"]),
        row["locktime"],
        json.loads(row["cond_json"]),
        _side(row)(row["state"]),
        tuple(json.loads(row["lock_ids_json"])),
        row["command_id"],
        row["receipt_id"],
        None if row["metric_json"] is None else json.loads(row["metric_json"]),
        *(row["released_at"], row["delivered_at"], row["redeemed_at"], row["refunded_at"]),
        *(row["owed_sats"], row["owed_by"]),
    )


def _dispute(row: sqlite3.Row) -> DisputeRow:
    return DisputeRow(
        row["dispute_id"],
        row["ticket_id"],
        row["i"],
        Side(row["role"]),
        row["claim"],
        json.loads(row["evidence_json"]),
        DisputeState(row["state"]),
        row["due_at"],
        row["created_at"],
        row["resolved_at"],
    )
