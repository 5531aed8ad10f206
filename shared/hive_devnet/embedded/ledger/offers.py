"""Offers of a node, and which invoices were given for them."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from hive_devnet.embedded.ledger.database import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS offer (
    node_id TEXT NOT NULL, offer_id TEXT NOT NULL, bolt12 TEXT NOT NULL, label TEXT,
    single_use INTEGER NOT NULL, active INTEGER NOT NULL, used INTEGER NOT NULL,
    PRIMARY KEY (node_id, offer_id));
CREATE TABLE IF NOT EXISTS offer_invoice (
    node_id TEXT NOT NULL, payment_hash TEXT NOT NULL, offer_id TEXT NOT NULL, bolt12 TEXT NOT NULL,
    payer_note TEXT, PRIMARY KEY (node_id, payment_hash));
"""


@dataclass(frozen=True)
class OfferRow:
    """One offer."""

    offer_id: str
    bolt12: str
    label: str | None
    single_use: bool
    active: bool
    used: bool


def _row(row: sqlite3.Row) -> OfferRow:
    flags = {name: bool(row[name]) for name in ("single_use", "active", "used")}
    return OfferRow(row["offer_id"], row["bolt12"], row["label"], **flags)


class OfferBook:
    """The offers of one node."""

    def __init__(self, database: Database, node_id: str) -> None:
        self._db, self._node_id = database, node_id

    def get(self, offer_id: str) -> OfferRow | None:
        """The offer of an id."""
        query = "SELECT * FROM offer WHERE node_id = ? AND offer_id = ?"
        row = self._db.find(query, (self._node_id, offer_id))
        return None if row is None else _row(row)

    def all(self) -> list[OfferRow]:
        """Every offer by its id, as lightningd lists them."""
        query = "SELECT * FROM offer WHERE node_id = ? ORDER BY offer_id"
        return [_row(row) for row in self._db.rows(query, (self._node_id,))]

    def add(self, offer: OfferRow) -> None:
        """Records a new offer."""
        with self._db.transaction():
            self._db.run(
                "INSERT INTO offer VALUES (?, ?, ?, ?, ?, 1, 0)",
                (self._node_id, offer.offer_id, offer.bolt12, offer.label, int(offer.single_use)),
            )

    def set_active(self, offer_id: str, active: bool) -> OfferRow | None:
        """Switches an offer on or off."""
        with self._db.transaction():
            self._db.run(
                "UPDATE offer SET active = ? WHERE node_id = ? AND offer_id = ?",
                (int(active), self._node_id, offer_id),
            )
        return self.get(offer_id)

    def given(self, payment_hash: str, offer_id: str, bolt12: str, payer_note: str | None) -> None:
        """Records which offer an invoice was given for."""
        with self._db.transaction():
            self._db.run(
                "INSERT INTO offer_invoice VALUES (?, ?, ?, ?, ?)",
                (self._node_id, payment_hash, offer_id, bolt12, payer_note),
            )

    def of_invoice(self, payment_hash: str) -> OfferRow | None:
        """The offer that an invoice was given for."""
        row = self._db.find(
            "SELECT offer_id FROM offer_invoice WHERE node_id = ? AND payment_hash = ?",
            (self._node_id, payment_hash),
        )
        return None if row is None else self.get(row["offer_id"])

    def paid(self, payment_hash: str) -> None:
        """An invoice was paid: its offer is used, and over if it was for one use."""
        offer = self.of_invoice(payment_hash)
        if offer is None:
            return
        self._db.run(
            "UPDATE offer SET used = 1, active = active AND NOT single_use"
            " WHERE node_id = ? AND offer_id = ?",
            (self._node_id, offer.offer_id),
        )
        if offer.single_use:
            index = self._db.add(f"invoice updates {self._node_id}")
            self._db.run(
                "UPDATE invoice SET status = 'expired', updated_index = ? WHERE node_id = ?"
                " AND status = 'unpaid' AND payment_hash IN"
                " (SELECT payment_hash FROM offer_invoice WHERE node_id = ? AND offer_id = ?)",
                (index, self._node_id, self._node_id, offer.offer_id),
            )
