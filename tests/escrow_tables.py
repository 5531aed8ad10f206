"""Rows of a ticket for tests, as its payer writes them down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cashu_tickets import NOW, PAYER, document, item, preimage
from hive_shared.cashu.escrow_rows import ItemRow, SecretRow, SecretSource, Side, TicketRow
from hive_shared.cashu.terms import Terms, decode_terms, sign_text, terms_hash, terms_text
from hive_shared.cashu.ticket_machine import PayerItem, TicketStatus
from hive_shared.crypto import Secret, sha256

TASK = "task-1"


def rows_of(terms: Terms, at: int, **changes: Any) -> tuple[TicketRow, list[ItemRow]]:
    """A ticket of these terms that nothing has happened to."""
    hash_ = terms_hash(terms)
    ticket = TicketRow(
        *(terms.ticket_id, Side.PAYER, terms, hash_.hex(), sign_text(PAYER, terms_text(hash_))),
        *(TicketStatus.PENDING, f"key-{terms.ticket_id}", "content", at, at),
        **changes,
    )
    items = [
        ItemRow(
            *(terms.ticket_id, each.i, each.label, each.amount_sats),
            each.hash if isinstance(each.hash, str) else None,
            *(each.deadline, each.locktime, each.cond, PayerItem.PLANNED),
        )
        for each in terms.items
    ]
    return ticket, items


def ticket_rows(at: int = NOW, **changes: Any) -> tuple[TicketRow, list[ItemRow]]:
    """A single ticket of 100 sat; `changes` are those of the terms."""
    made: Mapping[str, Any] = document([item(0, 100)], **changes)
    return rows_of(decode_terms(made), at)


def secret_row(at: int = NOW, i: int = 0, **changes: Any) -> SecretRow:
    """The preimage of an item of these tickets, free for a task."""
    plain = preimage(i)
    kept: dict[str, Any] = {"task_id": TASK, "source": SecretSource.GENERATED, "expires_at": at + 86_400}
    return SecretRow(sha256(plain).hex(), Secret(plain), created_at=at, **{**kept, **changes})
