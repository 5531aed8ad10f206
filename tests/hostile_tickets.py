"""Tickets that are not what their terms say, each signed by the real mint where the mint would sign it
(docs/protocol/03-escrow-and-payments.md §14.5)."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from cashu_mint import PaperMint
from cashu_tickets import LOCK_SEED, SECRET_VARIANTS
from hive_shared.cashu.keysets import Keyset
from hive_shared.cashu.outputs import Output, output
from hive_shared.cashu.terms import Terms
from hive_shared.cashu.ticket import lock_outputs
from hive_shared.cashu.ticket_messages import Ticket
from hive_shared.cashu.token import Token, encode_token
from hive_shared.cashu.wire import Dleq, Proof

SATS = 63
"""What each of them is about: one proof of 64 sat, of which the mint keeps 1."""


async def hostile_tickets(
    terms: Sequence[Terms],
    keyset: Keyset,
    lock: Callable[[Sequence[Output]], Awaitable[list[Proof]]],
    message: Callable[..., Ticket],
) -> list[tuple[str, str, Ticket]]:
    """Name, check that it fails, ticket; `terms` are `COUNT` of SATS each. `message` makes the honest ticket
    of terms and proofs, with fields replaced."""
    own, others = terms[: len(SECRET_VARIANTS)], terms[len(SECRET_VARIANTS) :]
    altered = []
    for each, (_, _, change) in zip(own, SECRET_VARIANTS, strict=True):
        (honest,) = lock_outputs(each, 0, 0, keyset, LOCK_SEED)
        altered.append(output(64, keyset.id, change(honest.secret), secrets.token_bytes(32)))
    rest = [lock_outputs(each, 0, 0, keyset, LOCK_SEED)[0] for each in others]
    small = output(32, keyset.id, rest[3].secret, secrets.token_bytes(32))
    proofs = await lock([*altered, *rest, small])
    made = [
        (name, check, message(each, [proof]))
        for each, (name, check, _), proof in zip(own, SECRET_VARIANTS, proofs, strict=False)
    ]
    good, short = proofs[len(own) : -1], proofs[-1]
    dleq = good[1].dleq
    assert dleq is not None
    forged = PaperMint(seed="forger").proof(64, good[4].secret)
    changed = msgspec.structs.replace
    variants: list[tuple[str, str, Sequence[Proof]]] = [
        ("missing DLEQ", "dleq_missing", [changed(good[0], dleq=None)]),
        ("bad DLEQ", "dleq_invalid", [changed(good[1], dleq=Dleq(dleq.e, "11" * 32, dleq.r))]),
        ("repeated secret", "repeated_secret", [good[2], good[2]]),
        ("short amount", "amount_short", [short]),
        ("never minted", "dleq_invalid", [changed(good[4], C=forged.C, dleq=forged.dleq)]),
    ]
    made += [(name, check, message(others[n], each)) for n, (name, check, each) in enumerate(variants)]
    foreign: dict[str, Any] = {"tokens": [encode_token(Token("https://foreign.example", (good[5],)))]}
    made.append(("a token of a foreign mint", "mint", message(others[5], (), **foreign)))
    return made


COUNT = len(SECRET_VARIANTS) + 6
