"""Invoices of a node: issued, paid, expired; and what they were paid with."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass

from hive_devnet.embedded.errors import (
    INVOICE_LABEL_ALREADY_EXISTS,
    INVOICE_PREIMAGE_ALREADY_EXISTS,
    RpcError,
)
from hive_devnet.embedded.ledger.database import Database
from hive_devnet.embedded.ledger.offers import OfferBook

SCHEMA = """
CREATE TABLE IF NOT EXISTS invoice (
    node_id TEXT NOT NULL, created_index INTEGER NOT NULL, label TEXT NOT NULL, payment_hash TEXT NOT NULL,
    preimage TEXT NOT NULL, payment_secret TEXT NOT NULL, amount_msat INTEGER, bolt11 TEXT, description TEXT,
    status TEXT NOT NULL, expires_at INTEGER NOT NULL, pay_index INTEGER, received_msat INTEGER,
    paid_at INTEGER, updated_index INTEGER, PRIMARY KEY (node_id, created_index));
CREATE UNIQUE INDEX IF NOT EXISTS invoice_hash ON invoice (node_id, payment_hash);
CREATE UNIQUE INDEX IF NOT EXISTS invoice_label ON invoice (node_id, label);
"""
UNPAID, PAID, EXPIRED = "unpaid", "paid", "expired"


@dataclass(frozen=True)
class InvoiceRow:
    """One invoice. Amounts are msat, times Unix seconds."""

    node_id: str
    created_index: int
    label: str
    payment_hash: str
    preimage: str
    payment_secret: str
    amount_msat: int | None
    bolt11: str | None
    description: str | None
    status: str
    expires_at: int
    pay_index: int | None = None
    received_msat: int | None = None
    paid_at: int | None = None
    updated_index: int | None = None
    bolt12: str | None = None
    local_offer_id: str | None = None
    payer_note: str | None = None


_SELECT = (
    "SELECT invoice.*, given.bolt12, given.offer_id AS local_offer_id, given.payer_note FROM invoice"
    " LEFT JOIN offer_invoice given USING (node_id, payment_hash) WHERE node_id = ?"
)


def _row(row: sqlite3.Row) -> InvoiceRow:
    return InvoiceRow(**dict(row))


class InvoiceBook:
    """The invoices of one node."""

    def __init__(self, database: Database, node_id: str) -> None:
        self._db = database
        self._node_id = node_id

    def next_index(self) -> int:
        """The created_index the next invoice gets."""
        return self._db.number(f"invoices {self._node_id}") + 1

    def add(self, invoice: InvoiceRow) -> None:
        """Records an invoice. Raises RpcError 900 or 901 on a used label or preimage."""
        with self._db.transaction():
            if self.by_label(invoice.label) is not None:
                raise RpcError(INVOICE_LABEL_ALREADY_EXISTS, f"Duplicate label '{invoice.label}'")
            if self.by_hash(invoice.payment_hash) is not None:
                raise RpcError(INVOICE_PREIMAGE_ALREADY_EXISTS, "preimage already used")
            self._db.add(f"invoices {self._node_id}")
            self._db.run(
                "INSERT INTO invoice (node_id, created_index, label, payment_hash, preimage, payment_secret,"
                " amount_msat, bolt11, description, status, expires_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    self._node_id,
                    invoice.created_index,
                    invoice.label,
                    invoice.payment_hash,
                    invoice.preimage,
                    invoice.payment_secret,
                    invoice.amount_msat,
                    invoice.bolt11,
                    invoice.description,
                    UNPAID,
                    invoice.expires_at,
                ),
            )

    def all(self) -> list[InvoiceRow]:
        """Every invoice by index; those past their time are marked expired first."""
        self._expire()
        query = f"{_SELECT} ORDER BY created_index"
        return [_row(row) for row in self._db.rows(query, (self._node_id,))]

    def by_label(self, label: str) -> InvoiceRow | None:
        """The invoice with that label."""
        return self._find("label", label)

    def by_hash(self, payment_hash: str) -> InvoiceRow | None:
        """The invoice with that payment hash."""
        return self._find("payment_hash", payment_hash)

    def _find(self, column: str, value: str) -> InvoiceRow | None:
        self._expire()
        query = f"{_SELECT} AND {column} = ?"
        row = self._db.find(query, (self._node_id, value))
        return None if row is None else _row(row)

    def _expire(self) -> None:
        now = int(time.time())
        condition = "node_id = ? AND status = 'unpaid' AND expires_at <= ?"
        if self._db.find(f"SELECT 1 FROM invoice WHERE {condition}", (self._node_id, now)):
            with self._db.transaction():
                index = self._db.add(f"invoice updates {self._node_id}")
                self._db.run(
                    f"UPDATE invoice SET status = 'expired', updated_index = ? WHERE {condition}",
                    (index, self._node_id, now),
                )

    def mark_paid(self, payment_hash: str, received_msat: int) -> InvoiceRow:
        """Marks an unpaid invoice paid; returns it as it is now."""
        with self._db.transaction():
            pay_index = self._db.add(f"paid invoices {self._node_id}")
            updated = self._db.add(f"invoice updates {self._node_id}")
            self._db.run(
                "UPDATE invoice SET status = 'paid', pay_index = ?, received_msat = ?, paid_at = ?,"
                " updated_index = ? WHERE node_id = ? AND payment_hash = ?",
                (pay_index, received_msat, int(time.time()), updated, self._node_id, payment_hash),
            )
            OfferBook(self._db, self._node_id).paid(payment_hash)
            paid = self.by_hash(payment_hash)
        if paid is None:
            raise LookupError(f"no invoice for {payment_hash}")
        return paid

    def next_paid(self, after: int) -> InvoiceRow | None:
        """The first invoice paid after pay index `after`."""
        query = f"{_SELECT} AND pay_index > ? ORDER BY pay_index LIMIT 1"
        row = self._db.find(query, (self._node_id, after))
        return None if row is None else _row(row)

    def delete(self, label: str) -> None:
        """Forgets an invoice."""
        with self._db.transaction():
            self._db.run("DELETE FROM invoice WHERE node_id = ? AND label = ?", (self._node_id, label))

    def clear_description(self, label: str) -> None:
        """Forgets an invoice's description."""
        with self._db.transaction():
            self._db.run(
                "UPDATE invoice SET description = NULL WHERE node_id = ? AND label = ?",
                (self._node_id, label),
            )
