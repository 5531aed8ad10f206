"""A ticket's tokens in the messages that carry them (docs/protocol/03-escrow-and-payments.md §6.6 "Size")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec.structs import replace

from hive_shared.cashu.escrow_rows import TicketRow
from hive_shared.cashu.terms import terms_json
from hive_shared.cashu.ticket_messages import Ticket
from hive_shared.cashu.token import Token, decode_token, encode_token
from hive_shared.cashu.wire import Proof

TOKEN_PROOFS: Final = 280
"""Proofs of one token: below 256 KiB with the longest keys, conditions and DLEQs of ours."""
MESSAGE_PROOFS: Final = 560
"""Proofs of one message: with terms of the greatest size it stays below what the transport carries."""

Piece = tuple[int, int, str]
"""Item, share, token of one lock."""


def ticket_messages(ticket: TicketRow, pieces: Sequence[Piece]) -> Iterator[Ticket]:
    """The `ticket` messages of these locks, the first with terms and signature: one where they fit."""
    parts = list(_parts(pieces))
    whole = len({item for item, _, _ in pieces}) == len(ticket.terms.items)
    for number, (first, last, tokens) in enumerate(parts):
        message = Ticket(ticket.ticket_id, tokens)
        if number == 0:
            message = replace(message, terms=terms_json(ticket.terms), sig=ticket.payer_sig)
        if not whole or len(parts) > 1:
            message = replace(message, first=first, last=last)
        yield message


def _parts(pieces: Sequence[Piece]) -> Iterator[tuple[int, int, list[str]]]:
    """Items from, items to, and the tokens of all their locks."""
    held: list[tuple[int, Token]] = []
    count = 0
    for item in sorted({item for item, _, _ in pieces}):
        locks = [decode_token(text) for number, _, text in pieces if number == item]
        more = sum(len(token.proofs) for token in locks)
        if held and count + more > MESSAGE_PROOFS:
            yield held[0][0], held[-1][0], _joined(held)
            held, count = [], 0
        held += [(item, token) for token in locks]
        count += more
    if held:
        yield held[0][0], held[-1][0], _joined(held)


def _joined(held: Sequence[tuple[int, Token]]) -> list[str]:
    by_mint: dict[str, list[Proof]] = {}
    for _, token in held:
        by_mint.setdefault(token.mint, []).extend(token.proofs)
    return [
        encode_token(Token(url, tuple(proofs[at : at + TOKEN_PROOFS])))
        for url, proofs in by_mint.items()
        for at in range(0, len(proofs), TOKEN_PROOFS)
    ]
