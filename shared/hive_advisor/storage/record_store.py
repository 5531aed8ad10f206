"""adv_receipts, adv_inbox, adv_events: what was received and what happened."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from hive_shared.store import Tx

from hive_advisor.domain.rows import Event, Quarantined, ReceiptLevel, Standing, StoredReceipt

_MAX_INBOX = 50_000
_MAX_QUARANTINE = 1_000
_EVENT_DAYS = 30


class RecordStore:
    """Receipts, seen messages, events. Methods join the caller's transaction."""

    def receipt(self, tx: Tx, client_id: str, receipt_id: int) -> StoredReceipt | None:
        row = tx.execute(
            "SELECT * FROM adv_receipts WHERE client_id = ? AND receipt_id = ?", (client_id, receipt_id)
        ).fetchone()
        return _receipt(row) if row else None

    def add_receipt(self, tx: Tx, receipt: StoredReceipt) -> None:
        """Keep a receipt; a stub may be replaced by the full document, never the reverse."""
        tx.execute(
            "INSERT INTO adv_receipts (client_id, receipt_id, hash, prev, mine, doc_json, level, acked,"
            " carried_by) VALUES (?,?,?,?,?,?,?,?,?)"
            " ON CONFLICT (client_id, receipt_id) DO UPDATE SET doc_json = excluded.doc_json,"
            " mine = excluded.mine, level = excluded.level WHERE adv_receipts.level = 'stub'"
            " AND excluded.level <> 'stub'",
            (
                receipt.client_id,
                receipt.receipt_id,
                receipt.hash,
                receipt.prev,
                int(receipt.mine),
                json.dumps(receipt.document),
                receipt.level,
                int(receipt.acked),
                receipt.carried_by,
            ),
        )

    def set_level(self, tx: Tx, client_id: str, receipt_id: int, level: ReceiptLevel) -> None:
        tx.execute(
            "UPDATE adv_receipts SET level = ? WHERE client_id = ? AND receipt_id = ?",
            (level, client_id, receipt_id),
        )

    def receipts(self, tx: Tx, client_id: str, since_id: int = 0, limit: int = 500) -> list[StoredReceipt]:
        """Receipts with an id above ``since_id``, in order of their ids."""
        rows = tx.execute(
            "SELECT * FROM adv_receipts WHERE client_id = ? AND receipt_id > ? ORDER BY receipt_id LIMIT ?",
            (client_id, since_id, limit),
        ).fetchall()
        return [_receipt(row) for row in rows]

    def first_below(self, tx: Tx, client_id: str, level: ReceiptLevel) -> int:
        """The first receipt of ours that is not at ``level``; one past the last receipt when all are."""
        row = tx.execute(
            "SELECT coalesce(min(CASE WHEN mine = 1 AND level <> ? THEN receipt_id END),"
            " max(receipt_id) + 1, 1) AS first FROM adv_receipts WHERE client_id = ?",
            (level, client_id),
        ).fetchone()
        return int(row["first"])

    def newest(self, tx: Tx, client_id: str) -> StoredReceipt | None:
        """The receipt with the highest id that was ever seen."""
        row = tx.execute(
            "SELECT * FROM adv_receipts WHERE client_id = ? ORDER BY receipt_id DESC LIMIT 1", (client_id,)
        ).fetchone()
        return _receipt(row) if row else None

    def uncompared(self, tx: Tx, client_id: str, limit: int) -> list[StoredReceipt]:
        """Receipts of our own commands that were not compared with them yet, oldest first."""
        rows = tx.execute(
            "SELECT * FROM adv_receipts WHERE client_id = ? AND mine = 1 AND standing IS NULL"
            " ORDER BY receipt_id LIMIT ?",
            (client_id, limit),
        ).fetchall()
        return [_receipt(row) for row in rows]

    def set_standing(
        self, tx: Tx, client_id: str, receipt_id: int, standing: Standing, ack_next: int | None
    ) -> None:
        tx.execute(
            "UPDATE adv_receipts SET standing = ?, ack_next = ? WHERE client_id = ? AND receipt_id = ?",
            (standing, ack_next, client_id, receipt_id),
        )

    def ack_due(self, tx: Tx, client_id: str, now: int, limit: int) -> list[StoredReceipt]:
        """Receipts whose acknowledgement is due, oldest first."""
        rows = tx.execute(
            "SELECT * FROM adv_receipts WHERE ack_next <= ? AND client_id = ? ORDER BY receipt_id LIMIT ?",
            (now, client_id, limit),
        ).fetchall()
        return [_receipt(row) for row in rows]

    def note_ack(self, tx: Tx, client_id: str, receipt_id: int, *, acked: bool, ack_next: int | None) -> None:
        """Acknowledged, or when the node is told again."""
        tx.execute(
            "UPDATE adv_receipts SET acked = ?, ack_next = ? WHERE client_id = ? AND receipt_id = ?",
            (int(acked), ack_next, client_id, receipt_id),
        )

    def seen(self, tx: Tx, rumor_id: str) -> bool:
        return tx.execute("SELECT 1 FROM adv_inbox WHERE rumor_id = ?", (rumor_id,)).fetchone() is not None

    def add_message(self, tx: Tx, rumor_id: str, peer: str, raw: dict[str, Any], now: int) -> None:
        tx.execute(
            "INSERT OR IGNORE INTO adv_inbox VALUES (?,?,?,'done','',?)",
            (rumor_id, peer, json.dumps(raw), now),
        )
        tx.execute(
            "DELETE FROM adv_inbox WHERE state = 'done' AND rowid <= (SELECT max(rowid) FROM adv_inbox) - ?",
            (_MAX_INBOX,),
        )

    def quarantine(self, tx: Tx, item: Quarantined) -> None:
        tx.execute(
            "INSERT OR IGNORE INTO adv_inbox VALUES (?,?,?,'quarantined',?,?)",
            (item.rumor_id, item.peer, json.dumps(item.raw), item.why, item.received_at),
        )
        tx.execute(
            "DELETE FROM adv_inbox WHERE state = 'quarantined' AND rumor_id NOT IN"
            " (SELECT rumor_id FROM adv_inbox WHERE state = 'quarantined'"
            " ORDER BY received_at DESC, rowid DESC LIMIT ?)",
            (_MAX_QUARANTINE,),
        )

    def quarantined(self, tx: Tx, limit: int) -> list[Quarantined]:
        rows = tx.execute(
            "SELECT * FROM adv_inbox WHERE state = 'quarantined' ORDER BY received_at DESC LIMIT ?", (limit,)
        ).fetchall()
        return [
            Quarantined(
                row["rumor_id"], row["peer"], row["why"], row["received_at"], json.loads(row["raw_json"])
            )
            for row in rows
        ]

    def add_event(self, tx: Tx, kind: str, ref: str, text: str, now: int) -> None:
        tx.execute("INSERT INTO adv_events (kind, ref, text, at) VALUES (?,?,?,?)", (kind, ref, text, now))
        tx.execute("DELETE FROM adv_events WHERE at < ?", (now - _EVENT_DAYS * 86_400,))

    def events(self, tx: Tx, since: int, limit: int) -> list[Event]:
        rows = tx.execute(
            "SELECT * FROM adv_events WHERE cursor > ? ORDER BY cursor LIMIT ?", (since, limit)
        ).fetchall()
        return [Event(row["cursor"], row["kind"], row["ref"], row["text"], row["at"]) for row in rows]

    def event_span(self, tx: Tx) -> tuple[int, int]:
        """Cursors of the oldest event that is kept and of the newest there ever was; (1, 0) without any."""
        first = tx.execute("SELECT min(cursor) AS first FROM adv_events").fetchone()["first"]
        last = tx.execute("SELECT seq FROM sqlite_sequence WHERE name = 'adv_events'").fetchone()
        newest = 0 if last is None else int(last["seq"])
        return (newest + 1 if first is None else int(first)), newest

    def forget(self, tx: Tx, client_id: str) -> int:
        """Erase the messages of a client; its receipts stay; how many rows."""
        return int(
            tx.execute(
                "DELETE FROM adv_inbox WHERE peer = (SELECT node_key FROM adv_clients WHERE client_id = ?)",
                (client_id,),
            ).rowcount
        )


def _receipt(row: sqlite3.Row) -> StoredReceipt:
    return StoredReceipt(
        client_id=row["client_id"],
        receipt_id=row["receipt_id"],
        hash=row["hash"],
        prev=row["prev"],
        mine=bool(row["mine"]),
        document=json.loads(row["doc_json"]),
        level=row["level"],
        acked=bool(row["acked"]),
        standing=row["standing"],
        ack_next=row["ack_next"],
        carried_by=row["carried_by"],
    )
