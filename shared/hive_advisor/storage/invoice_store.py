"""adv_invoices: what nodes owe us, and the invoice by which each is to be paid."""

from __future__ import annotations

import json
import sqlite3

from hive_shared.store import Tx
from msgspec.structs import asdict

from hive_advisor.domain.earning import Asked, Earning, EarningState


class InvoiceStore:
    """Earnings. Methods join the caller's transaction."""

    def add(self, tx: Tx, earning: Earning) -> None:
        """Keep a new one."""
        tx.execute(
            "INSERT INTO adv_invoices (earning_id, client_id, purpose, command_id, amount_sats, state,"
            " due_at, request_key, asked_json, created, updated) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                earning.earning_id,
                earning.client_id,
                earning.purpose,
                earning.command_id,
                earning.amount_sats,
                str(earning.state),
                earning.due_at,
                earning.request_key,
                _asked(earning.asked),
                earning.created,
                earning.updated,
            ),
        )

    def put(self, tx: Tx, earning: Earning, was: EarningState) -> bool:
        """Write all that changes of one that is still in the state `was`; False when it is not."""
        return bool(
            tx.execute(
                "UPDATE adv_invoices SET state = ?, way = ?, invoice = ?, payment_hash = ?, expires_at = ?,"
                " look_at = ?, looks = ?, next_look = ?, former_json = ?, evidence = ?, preimage = ?,"
                " request_key = ?, asked_json = ?, updated = ? WHERE earning_id = ? AND state = ?",
                (
                    str(earning.state),
                    earning.way,
                    earning.invoice,
                    earning.payment_hash,
                    earning.expires_at,
                    earning.look_at,
                    earning.looks,
                    earning.next_look,
                    json.dumps(earning.former),
                    earning.evidence,
                    earning.preimage,
                    earning.request_key,
                    _asked(earning.asked),
                    earning.updated,
                    earning.earning_id,
                    str(was),
                ),
            ).rowcount
        )

    def get(self, tx: Tx, earning_id: str) -> Earning | None:
        """By id."""
        return _one(tx.execute("SELECT * FROM adv_invoices WHERE earning_id = ?", (earning_id,)).fetchone())

    def of_command(self, tx: Tx, command_id: str) -> Earning | None:
        """That of a command."""
        return _one(tx.execute("SELECT * FROM adv_invoices WHERE command_id = ?", (command_id,)).fetchone())

    def of_context(self, tx: Tx, context: str) -> list[Earning]:
        """Those of the periods of a contract or credential."""
        rows = tx.execute(
            "SELECT * FROM adv_invoices WHERE command_id >= ? AND command_id < ? AND purpose <> 'action'",
            (f"{context}:", f"{context};"),
        )
        return [_earning(row) for row in rows]

    def of_request(self, tx: Tx, client_id: str, key: str) -> Earning | None:
        """The one that a client first asked an invoice for under this key."""
        row = tx.execute(
            "SELECT * FROM adv_invoices WHERE client_id = ? AND request_key = ?", (client_id, key)
        ).fetchone()
        return _one(row)

    def of_hash(self, tx: Tx, payment_hash: str) -> Earning | None:
        """The one that an invoice of this hash was made for, also where that one ran out."""
        row = tx.execute(
            "SELECT * FROM adv_invoices WHERE payment_hash = ? OR earning_id IN (SELECT earning_id FROM"
            " adv_invoices, json_each(former_json) WHERE json_each.value = ?)",
            (payment_hash, payment_hash),
        ).fetchone()
        return _one(row)

    def find(self, tx: Tx, prefix: str) -> list[Earning]:
        """Those whose id or command's id begins so; at most three."""
        rows = tx.execute(
            "SELECT * FROM adv_invoices WHERE (earning_id >= ? AND earning_id < ?)"
            " OR (command_id >= ? AND command_id < ?) LIMIT 3",
            (prefix, prefix + "~", prefix, prefix + "~"),
        )
        return [_earning(row) for row in rows]

    def newest(self, tx: Tx, limit: int) -> list[Earning]:
        """Of all clients, the newest first."""
        rows = tx.execute("SELECT * FROM adv_invoices ORDER BY created DESC, earning_id LIMIT ?", (limit,))
        return [_earning(row) for row in rows]

    def open(self, tx: Tx) -> list[Earning]:
        """Due and invoiced ones, the oldest first."""
        rows = tx.execute(
            "SELECT * FROM adv_invoices WHERE state IN ('due', 'invoiced') ORDER BY created LIMIT 1000"
        )
        return [_earning(row) for row in rows]

    def to_look_at(self, tx: Tx, now: int, oldest: int, limit: int) -> list[Earning]:
        """Those with an invoice that may have been paid, whose turn it is."""
        rows = tx.execute(
            "SELECT * FROM adv_invoices WHERE state IN ('invoiced', 'unpaid', 'disputed', 'void')"
            " AND next_look <= ? AND invoice <> '' AND expires_at > ? ORDER BY next_look LIMIT ?",
            (now, oldest, limit),
        )
        return [_earning(row) for row in rows]

    def asked(self, tx: Tx, limit: int) -> list[Earning]:
        """Those whose invoice a node waits for, the oldest first."""
        rows = tx.execute(
            "SELECT * FROM adv_invoices WHERE asked_json IS NOT NULL ORDER BY updated LIMIT ?", (limit,)
        )
        return [_earning(row) for row in rows]

    def unpaid(self, tx: Tx, client_id: str) -> tuple[int, int]:
        """What a client still owes: how many debts, and their sats."""
        count, total = tx.execute(
            "SELECT count(*), coalesce(sum(amount_sats), 0) FROM adv_invoices WHERE client_id = ?"
            " AND state IN ('due', 'invoiced', 'unpaid', 'disputed')",
            (client_id,),
        ).fetchone()
        return int(count), int(total)

    def forget(self, tx: Tx, client_id: str) -> int:
        """Erase what is kept of a client; how many rows."""
        return int(tx.execute("DELETE FROM adv_invoices WHERE client_id = ?", (client_id,)).rowcount)


def _asked(asked: Asked | None) -> str | None:
    return None if asked is None else json.dumps(asdict(asked))


def _one(row: sqlite3.Row | None) -> Earning | None:
    return None if row is None else _earning(row)


def _earning(row: sqlite3.Row) -> Earning:
    names = (
        *("earning_id", "client_id", "purpose", "command_id", "amount_sats", "due_at", "created", "updated"),
        *("way", "invoice", "payment_hash", "expires_at", "look_at", "looks", "next_look", "evidence"),
        *("preimage", "request_key"),
    )
    asked = row["asked_json"]
    return Earning(
        state=EarningState(row["state"]),
        former=tuple(json.loads(row["former_json"])),
        asked=None if asked is None else Asked(**json.loads(asked)),
        **{name: row[name] for name in names},
    )
