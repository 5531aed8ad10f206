"""Ecash of the real mint for tests: bought, and locked as a payer of tickets does."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from hive_shared.cashu.keysets import Keyset, fee_sats, split
from hive_shared.cashu.outputs import Output, finish, output
from hive_shared.cashu.wire import Proof
from hive_shared.mint_http import MintHttp


def plain(amounts: Sequence[int], keyset: Keyset) -> list[Output]:
    return [output(each, keyset.id, secrets.token_hex(32), secrets.token_bytes(32)) for each in amounts]


async def locked(mint: MintHttp, keyset: Keyset, outputs: Sequence[Output]) -> list[Proof]:
    """Proofs for these outputs: ecash bought for exactly this, and swapped."""
    wanted = sum(each.amount for each in outputs)
    pieces: tuple[int, ...] = ()
    while sum(pieces) - fee_sats([keyset.input_fee_ppk] * len(pieces)) < wanted:
        pieces = split(max(wanted, sum(pieces) + 1), keyset.denominations)
    quote = await mint.mint_quote(sum(pieces))
    bought = plain(pieces, keyset)
    signed = await mint.mint(quote.quote, [each.message for each in bought])
    inputs = finish(bought, signed, {keyset.id: keyset})
    rest = sum(pieces) - fee_sats([keyset.input_fee_ppk] * len(pieces)) - wanted
    change = plain(split(rest, keyset.denominations), keyset)
    answer = await mint.swap(inputs, [each.message for each in (*outputs, *change)])
    return list(finish([*outputs, *change], answer, {keyset.id: keyset})[: len(outputs)])
