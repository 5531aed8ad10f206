"""A mint that reads short arrays, made of a real one (docs/protocol/03-escrow-and-payments.md §2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from ecash_world import OneMint
from hive_shared.cashu.ports import MintRefused
from hive_shared.cashu.wire import BlindedMessage, Proof


def short_mint(mints: OneMint, most: int, patch: pytest.MonkeyPatch) -> list[int]:
    """From now on the mint says that it reads `most` elements, and refuses a swap or a melt with more. The
    length of every array of inputs that it was sent."""
    client, seen = mints.client, list[int]()
    swap, melt = client.swap, client.melt

    def read(*arrays: Sequence[object]) -> None:
        seen.append(len(arrays[0]))
        if max(map(len, arrays)) > most:
            raise MintRefused(client.url, 422, None, "list too long")

    async def short_swap(inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]) -> Any:
        read(inputs, outputs)
        return await swap(inputs, outputs)

    async def short_melt(quote: str, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]) -> Any:
        read(inputs, outputs)
        return await melt(quote, inputs, outputs)

    patch.setattr(client, "swap", short_swap)
    patch.setattr(client, "melt", short_melt)
    patch.setattr(mints, "most_elements", most)
    return seen
