"""Sole writer of escrow_receipts (docs/protocol/03-escrow-and-payments.md §8)."""

from __future__ import annotations

import json
import sqlite3
from typing import Final

from hive_shared.canonical import encode
from hive_shared.store import Tx

from cl_hive.domain.fleet_escrow import FleetReceipt

MOST_RECEIPTS: Final = 100_000


class FleetReceiptStore:
    """Receipts of items; every method runs inside the caller's transaction."""

    def add(self, tx: Tx, row: FleetReceipt) -> None:
        """Add the receipt of an item; beyond 100,000 the oldest go. Raises sqlite3.IntegrityError for an item
        that has one."""
        tx.execute(
            "INSERT INTO escrow_receipts (receipt_id, ticket_id, i, schema_id, action, params_json,"
            " result_json, success, preimage_revealed, agent_signature, node_signature, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(row.receipt_id, row.ticket_id, row.i, row.schema_id, row.action),
                *(encode(dict(row.params)).decode(), encode(dict(row.result)).decode(), row.success),
                *(row.preimage_revealed, row.agent_signature, row.node_signature, row.created_at),
            ),
        )
        tx.execute(
            "DELETE FROM escrow_receipts WHERE receipt_id IN (SELECT receipt_id FROM escrow_receipts"
            " ORDER BY created_at DESC, receipt_id LIMIT -1 OFFSET ?)",
            (MOST_RECEIPTS,),
        )

    def revealed(self, tx: Tx, ticket_id: str, i: int) -> None:
        """The preimage of the item was given out."""
        tx.execute(
            "UPDATE escrow_receipts SET preimage_revealed = 1 WHERE ticket_id = ? AND i = ?", (ticket_id, i)
        )

    def of_item(self, tx: Tx, ticket_id: str, i: int) -> FleetReceipt | None:
        """The receipt of an item."""
        row = tx.execute(
            "SELECT * FROM escrow_receipts WHERE ticket_id = ? AND i = ?", (ticket_id, i)
        ).fetchone()
        return None if row is None else _receipt(row)

    def of_ticket(self, tx: Tx, ticket_id: str) -> list[FleetReceipt]:
        """Those of a ticket, by item."""
        rows = tx.execute("SELECT * FROM escrow_receipts WHERE ticket_id = ? ORDER BY i", (ticket_id,))
        return [_receipt(row) for row in rows]


def _receipt(row: sqlite3.Row) -> FleetReceipt:
    return FleetReceipt(
        *(row["ticket_id"], row["i"], row["schema_id"], row["action"]),
        *(json.loads(row["params_json"]), json.loads(row["result_json"]), bool(row["success"])),
        *(row["created_at"], row["node_signature"], row["agent_signature"], bool(row["preimage_revealed"])),
    )
