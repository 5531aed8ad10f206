"""How far a node's clock is from ours: the median of its last five answers (11 §4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

SAMPLES: Final = 5


def with_sample(samples: Sequence[int], newest: int) -> tuple[int, ...]:
    """The last five with the newest one."""
    return (*samples, newest)[-SAMPLES:]


def median(samples: Sequence[int]) -> int:
    """The middle one, the mean of the middle two rounded towards zero; 0 without any."""
    ordered = sorted(samples)
    if not ordered:
        return 0
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    total = low + high
    return total // 2 if total >= 0 else -(-total // 2)
