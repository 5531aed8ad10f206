"""Sole writer of comms_escrow_received and comms_escrow_parts (docs/protocol/03-escrow-and-payments.md §6.6,
§8): tickets that were handed to this node, until they are accepted. Tokens are sealed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from hive_shared.canonical import encode
from hive_shared.cashu.payee_rows import HeldTicket, Intake, Part
from hive_shared.cashu.terms import decode_terms, terms_json
from hive_shared.crypto import Sealer
from hive_shared.errors import Conflict
from hive_shared.store import Tx

_PARTS: Final = "comms_escrow_parts"
_AT_ONCE: Final = 100
_MOST_REFUSED: Final = 1_000
_WAITING: Final = "('collecting', 'checking')"


class ReceivedStore:
    """Every method runs inside the caller's transaction."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def ticket(self, tx: Tx, ticket_id: str) -> HeldTicket | None:
        """One that was not accepted."""
        row = tx.execute("SELECT * FROM comms_escrow_received WHERE ticket_id = ?", (ticket_id,)).fetchone()
        return None if row is None else _ticket(row)

    def open_of_peer(self, tx: Tx, peer: str) -> int:
        """How many of a peer are neither accepted nor refused."""
        (count,) = tx.execute(
            f"SELECT COUNT(*) FROM comms_escrow_received WHERE peer = ? AND intake IN {_WAITING}", (peer,)
        ).fetchone()
        return int(count)

    def waiting(self, tx: Tx, now: int) -> list[HeldTicket]:
        """Those to look at, the one that waits longest first."""
        rows = tx.execute(
            f"SELECT * FROM comms_escrow_received WHERE intake IN {_WAITING} AND next_at <= ?"
            " ORDER BY next_at LIMIT ?",
            (now, _AT_ONCE),
        )
        return [_ticket(row) for row in rows]

    def put(self, tx: Tx, ticket: HeldTicket) -> None:
        """Store one, new or changed. Raises Conflict for one that was refused."""
        terms = None if ticket.terms is None else encode(terms_json(ticket.terms)).decode()
        changed = tx.execute(
            "INSERT INTO comms_escrow_received (ticket_id, peer, intake, terms_json, terms_hash, payer_sig,"
            " reason, detail, tries, next_at, created_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (ticket_id) DO UPDATE SET intake = excluded.intake,"
            " terms_json = excluded.terms_json, terms_hash = excluded.terms_hash,"
            " payer_sig = excluded.payer_sig, reason = excluded.reason, detail = excluded.detail,"
            " tries = excluded.tries, next_at = excluded.next_at, updated_at = excluded.updated_at"
            f" WHERE intake IN {_WAITING}",
            (
                *(ticket.ticket_id, ticket.peer, ticket.intake.value, terms, ticket.terms_hash),
                *(ticket.payer_sig, ticket.reason, ticket.detail, ticket.tries, ticket.next_at),
                *(ticket.created_at, ticket.updated_at),
            ),
        ).rowcount
        if not changed:
            raise Conflict(f"ticket {ticket.ticket_id} was decided before", reason="stale_state")

    def accepted(self, tx: Tx, ticket_id: str) -> None:
        """It is in the books of tickets now."""
        self.drop_parts(tx, ticket_id)
        tx.execute("DELETE FROM comms_escrow_received WHERE ticket_id = ?", (ticket_id,))

    def forget_refused(self, tx: Tx, before: int) -> None:
        """Erase those that were refused before a time, and the oldest of too many; nothing of them was
        ours."""
        tx.execute("DELETE FROM comms_escrow_received WHERE intake = 'refused' AND updated_at < ?", (before,))
        tx.execute(
            "DELETE FROM comms_escrow_received WHERE ticket_id IN (SELECT ticket_id FROM"
            " comms_escrow_received WHERE intake = 'refused' ORDER BY updated_at DESC LIMIT -1 OFFSET ?)",
            (_MOST_REFUSED,),
        )

    def add_part(self, tx: Tx, ticket_id: str, part: Part) -> None:
        """Keep tokens of some items; those of the same items again take their place."""
        key = _key(ticket_id, part)
        sealed = self._sealer.seal(_PARTS, key, "tokens_enc", json.dumps(part.tokens).encode())
        tx.execute(
            "INSERT OR REPLACE INTO comms_escrow_parts (ticket_id, first, last, tokens_enc)"
            " VALUES (?, ?, ?, ?)",
            (ticket_id, part.first, part.last, sealed),
        )

    def parts(self, tx: Tx, ticket_id: str) -> Sequence[Part]:
        """The tokens that came so far, in the items' order. Raises SealBroken."""
        rows = tx.execute(
            "SELECT * FROM comms_escrow_parts WHERE ticket_id = ? ORDER BY first, last", (ticket_id,)
        )
        return [self._part(row) for row in rows]

    def drop_parts(self, tx: Tx, ticket_id: str) -> None:
        """The ticket was decided."""
        tx.execute("DELETE FROM comms_escrow_parts WHERE ticket_id = ?", (ticket_id,))

    def _part(self, row: sqlite3.Row) -> Part:
        empty = Part(row["first"], row["last"], ())
        key = _key(row["ticket_id"], empty)
        text = self._sealer.open(_PARTS, key, "tokens_enc", row["tokens_enc"])
        return Part(empty.first, empty.last, tuple(json.loads(text)))


def _key(ticket_id: str, part: Part) -> str:
    return f"{ticket_id}:{part.first}:{part.last}"


def _ticket(row: sqlite3.Row) -> HeldTicket:
    return HeldTicket(
        ticket_id=row["ticket_id"],
        peer=row["peer"],
        intake=Intake(row["intake"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        terms=None if row["terms_json"] is None else decode_terms(row["terms_json"]),
        terms_hash=row["terms_hash"],
        payer_sig=row["payer_sig"],
        reason=row["reason"],
        detail=row["detail"],
        next_at=row["next_at"],
        tries=row["tries"],
    )
