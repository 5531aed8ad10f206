"""The messages that one ticket comes in (docs/protocol/03-escrow-and-payments.md §6.6 "Size")."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from .payee_rows import Part
from .terms import Terms
from .ticket_messages import Ticket
from .token import Token, decode_token
from .wire import Proof


def part_of(message: Ticket, terms: Terms | None) -> Part:
    """The tokens of a message; those of a first one without `from` and `to` are of every item."""
    if isinstance(message.first, int) and isinstance(message.last, int):
        return Part(message.first, message.last, tuple(message.tokens))
    return Part(0, len(terms.items) - 1 if terms is not None else 0, tuple(message.tokens))


def tokens_of(parts: Sequence[Part]) -> list[Token]:
    """The tokens of all parts. What is sent again may overlap what came: the very same proof in two parts is
    one; twice in one part it stays, to be refused."""
    found: list[Token] = []
    before: set[tuple[str, str, int]] = set()
    for part in parts:
        tokens = [decode_token(text) for text in part.tokens]
        for token in tokens:
            fresh = tuple(each for each in token.proofs if _same_proof(each) not in before)
            if fresh:
                found.append(replace(token, proofs=fresh))
        before.update(_same_proof(each) for token in tokens for each in token.proofs)
    return found


def _same_proof(proof: Proof) -> tuple[str, str, int]:
    return proof.secret, proof.C, proof.amount


def missing(terms: Terms, parts: Sequence[Part]) -> list[tuple[int, int]]:
    """Runs of items, both ends counted, that no part has the tokens of."""
    here = {number for part in parts for number in range(part.first, part.last + 1)}
    found: list[tuple[int, int]] = []
    for number in (item.i for item in terms.items if item.i not in here):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
