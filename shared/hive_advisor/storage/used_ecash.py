"""Ecash that paid something already: no proof pays twice, neither by tickets nor by tokens."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from hive_shared.store import Tx

_CHUNK: Final = 400


def used(tx: Tx, ys: Collection[str]) -> frozenset[str]:
    """Those of some proofs (66 hex) that a ticket of ours, or a token for a command, had before."""
    names, found = list(ys), set[str]()
    for start in range(0, len(names), _CHUNK):
        few = names[start : start + _CHUNK]
        marks = ", ".join("?" * len(few))
        rows = tx.execute(
            f"SELECT y FROM adv_cashu_lock_ys WHERE y IN ({marks})"
            f" UNION SELECT y FROM adv_token_ys WHERE y IN ({marks})",
            (*few, *few),
        )
        found |= {row["y"] for row in rows}
    return frozenset(found)
