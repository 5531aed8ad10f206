"""Sole writer of tickets that others handed over and of their tokens (docs/protocol/03-escrow-and-payments.md
§6.6, §8): of cl-hive-comms (comms_escrow_received, comms_escrow_parts), whose accepted ones go to its books,
and of the advisor kit (adv_tickets, adv_ticket_parts; 11-advisor-kit.md §12), each in its own database.

Tokens are sealed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from ..canonical import encode
from ..cashu.payee_rows import HeldTicket, Intake, Part
from ..cashu.terms import decode_terms, terms_json
from ..crypto import Sealer
from ..errors import Conflict
from ..store import Tx
from .families import IntakeTables

_AT_ONCE: Final = 100
_MOST_REFUSED: Final = 1_000
_WAITING: Final = f"('{Intake.COLLECTING.value}', '{Intake.CHECKING.value}')"
_KEPT: Final = ("ticket_id", "peer", "created_at")
"""What never changes of a ticket."""


class IntakeStore:
    """Tickets until they are decided, and in the kit from then on; methods join the caller's transaction."""

    def __init__(self, sealer: Sealer, tables: IntakeTables) -> None:
        self._sealer, self._tables = sealer, tables
        self._received, self._parts = tables.received, tables.parts

    def ticket(self, tx: Tx, ticket_id: str) -> HeldTicket | None:
        """One by its id."""
        row = tx.execute(f"SELECT * FROM {self._received} WHERE ticket_id = ?", (ticket_id,)).fetchone()
        return None if row is None else self.held(row)

    def open_of_peer(self, tx: Tx, peer: str) -> int:
        """How many of a peer (x-only hex) are neither accepted nor refused."""
        (count,) = tx.execute(
            f"SELECT COUNT(*) FROM {self._received} WHERE peer = ? AND intake IN {_WAITING}", (peer,)
        ).fetchone()
        return int(count)

    def waiting(self, tx: Tx, now: int) -> Sequence[HeldTicket]:
        """Those to look at by now (Unix s), the one that waits longest first, at most 100."""
        rows = tx.execute(
            f"SELECT * FROM {self._received} WHERE intake IN {_WAITING} AND next_at <= ?"
            " ORDER BY next_at LIMIT ?",
            (now, _AT_ONCE),
        )
        return [self.held(row) for row in rows]

    def put_ticket(self, tx: Tx, ticket: HeldTicket) -> None:
        """Store one, new or changed. Raises Conflict (`stale_state`) for one that was decided."""
        values = self._values(ticket)
        changes = ", ".join(f"{name} = excluded.{name}" for name in values if name not in _KEPT)
        changed = tx.execute(
            f"INSERT INTO {self._received} ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})"
            f" ON CONFLICT (ticket_id) DO UPDATE SET {changes} WHERE intake IN {_WAITING}",
            list(values.values()),
        ).rowcount
        if not changed:
            raise Conflict(f"ticket {ticket.ticket_id} was decided before", reason="stale_state")

    def accepted(self, tx: Tx, ticket_id: str) -> None:
        """It stands in the books of tickets now and no longer here."""
        self.drop_parts(tx, ticket_id)
        tx.execute(f"DELETE FROM {self._received} WHERE ticket_id = ?", (ticket_id,))

    def forget_refused(self, tx: Tx, before: int) -> None:
        """Erase those refused before a time (Unix s), and the oldest of more than 1,000; nothing of them was
        ours."""
        tx.execute(f"DELETE FROM {self._received} WHERE intake = 'refused' AND updated_at < ?", (before,))
        tx.execute(
            f"DELETE FROM {self._received} WHERE ticket_id IN (SELECT ticket_id FROM {self._received}"
            " WHERE intake = 'refused' ORDER BY updated_at DESC LIMIT -1 OFFSET ?)",
            (_MOST_REFUSED,),
        )

    # -- tokens ----------------------------------------------------------------------------------------

    def add_part(self, tx: Tx, ticket_id: str, part: Part) -> None:
        """Keep tokens of some items; those of the same items again take their place."""
        text = json.dumps(part.tokens).encode()
        sealed = self._sealer.seal(self._parts, _part_key(ticket_id, part), "tokens_enc", text)
        tx.execute(
            f"INSERT OR REPLACE INTO {self._parts} (ticket_id, first, last, tokens_enc) VALUES (?, ?, ?, ?)",
            (ticket_id, part.first, part.last, sealed),
        )

    def parts(self, tx: Tx, ticket_id: str) -> Sequence[Part]:
        """The tokens that came so far, in the items' order. Raises SealBroken."""
        rows = tx.execute(
            f"SELECT * FROM {self._parts} WHERE ticket_id = ? ORDER BY first, last", (ticket_id,)
        )
        return [self._part(row) for row in rows]

    def drop_parts(self, tx: Tx, ticket_id: str) -> None:
        """The ticket was decided."""
        tx.execute(f"DELETE FROM {self._parts} WHERE ticket_id = ?", (ticket_id,))

    # -- rows ------------------------------------------------------------------------------------------

    def held(self, row: sqlite3.Row) -> HeldTicket:
        """A row of the table of tickets."""
        return HeldTicket(
            ticket_id=row["ticket_id"],
            peer=row["peer"],
            intake=Intake(row["intake"]),
            created_at=row["created_at"],
            updated_at=row["updated_at"],
            terms=None if row["terms_json"] is None else decode_terms(row["terms_json"]),
            terms_hash=row["terms_hash"] or "",
            payer_sig=row["payer_sig"],
            context=row["context"] if self._tables.keeps_accepted else "",
            reason=row["reason"],
            detail=row["detail"],
            next_at=row["next_at"],
            tries=row["tries"],
        )

    def _values(self, ticket: HeldTicket) -> dict[str, object]:
        values: dict[str, object] = {
            "ticket_id": ticket.ticket_id,
            "peer": ticket.peer,
            "intake": ticket.intake.value,
            "terms_json": None if ticket.terms is None else encode(terms_json(ticket.terms)).decode(),
            "terms_hash": ticket.terms_hash,
            "payer_sig": ticket.payer_sig,
            "reason": ticket.reason,
            "detail": ticket.detail,
            "tries": ticket.tries,
            "next_at": ticket.next_at,
            "created_at": ticket.created_at,
            "updated_at": ticket.updated_at,
        }
        if self._tables.keeps_accepted:
            # Terms are of one ticket for good there; those that did not come yet are nobody's.
            values |= {"context": ticket.context, "terms_hash": ticket.terms_hash or None}
        return values

    def _part(self, row: sqlite3.Row) -> Part:
        empty = Part(row["first"], row["last"], ())
        key = _part_key(row["ticket_id"], empty)
        text = self._sealer.open(self._parts, key, "tokens_enc", row["tokens_enc"])
        return Part(empty.first, empty.last, tuple(json.loads(text)))


def _part_key(ticket_id: str, part: Part) -> str:
    return f"{ticket_id}:{part.first}:{part.last}"
