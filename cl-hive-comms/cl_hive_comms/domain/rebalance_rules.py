"""When a rule of auto_rebalance_rules is in force (docs/protocol/02-fleet-management.md §4 item 12;
docs/decisions/0427)."""

from __future__ import annotations

from typing import Final

import msgspec

from .fee_rules import Hours

_DAY_S: Final = 86_400


class RebalanceRule(msgspec.Struct, frozen=True):
    """One rule: move an amount from one channel to another while ours of `target` is below so many
    thousandths, and ours of `source` above so many. `index` is its place in the list."""

    index: int
    source: str
    target: str
    amount_sat: int
    max_fee_ppm: int
    below: int
    above: int
    hours: Hours | None

    def since(self, source_permille: int, target_permille: int, now: int) -> int | None:
        """When the hours of a rule in force began (without hours: the day); None when it is not in force."""
        if target_permille >= self.below or source_permille <= self.above:
            return None
        if self.hours is None:
            return now // _DAY_S * _DAY_S
        window = self.hours.window(now)
        return None if window is None else window[0]
