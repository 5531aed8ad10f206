"""The measure of a fee change, one for credentials and policy (docs/protocol/02-fleet-management.md §2.4).

Change = |new - ref| / max(ref, 10 ppm), against the present value and against the value 24 h ago, so that
small steps do not add up to a leap. A channel at 0 ppm may go up to 50 ppm whatever the percentage.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final

SMALLEST_REFERENCE_PPM: Final = 10
FROM_ZERO_PPM: Final = 50


def change(new_ppm: int, ref_ppm: int) -> Fraction:
    """The change as an exact fraction (1 = 100 %)."""
    return Fraction(abs(new_ppm - ref_ppm), max(ref_ppm, SMALLEST_REFERENCE_PPM))


def within(new_ppm: int, ref_ppm: int, percent: int) -> bool:
    """Whether the change stays within `percent`, or leaves 0 ppm for at most 50."""
    if ref_ppm == 0 and new_ppm <= FROM_ZERO_PPM:
        return True
    # change(new, ref) · 100 <= percent, multiplied out: a bulk asks this 400 times.
    return abs(new_ppm - ref_ppm) * 100 <= percent * max(ref_ppm, SMALLEST_REFERENCE_PPM)


def exceeds(new_ppm: int, now_ppm: int, day_ago_ppm: int | None, percent: int) -> int | None:
    """The reference (ppm) from which the new rate is too far away, or None when it is within both.

    `day_ago_ppm` None: the rate did not change in 24 h.
    """
    for reference in (now_ppm, now_ppm if day_ago_ppm is None else day_ago_ppm):
        if not within(new_ppm, reference, percent):
            return reference
    return None


def bounds(now_ppm: int, day_ago_ppm: int | None, percent: int) -> tuple[int, int]:
    """The lowest and highest rate (ppm) that `exceeds` admits; lowest > highest when nothing is."""
    low, high = 0, 2**53
    for reference in (now_ppm, now_ppm if day_ago_ppm is None else day_ago_ppm):
        span = max(reference, SMALLEST_REFERENCE_PPM) * percent // 100
        top = reference + span
        low = max(low, reference - span)
        high = min(high, max(top, FROM_ZERO_PPM) if reference == 0 else top)
    return low, high
