"""What limits bound a payment (docs/protocol/03-escrow-and-payments.md §7.2): sliding sums in sats."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from .payment import INTERNAL, OPERATOR_SCOPE, scope_of

DAY_S: Final = 86_400
WEEK_S: Final = 7 * DAY_S
HOUR_S: Final = 3_600


class Bound(msgspec.Struct, frozen=True):
    """One limit: `sats` in `window_s`, of a scope and, if named, one advisor's part of it. `name` is the
    option that sets it."""

    name: str
    window_s: int
    sats: int
    scope: str
    advisor_id: str = ""


class Limits(msgspec.Struct, frozen=True):
    """All limits in force. `per_action` 0 means none; 0 elsewhere means that nothing may be spent.
    `siblings` are (day, week) by budget, `of_advisor` what the operator set for single advisors."""

    daily: int
    weekly: int
    per_advisor_daily: int
    per_action: int
    max_fee_ppm: int
    siblings: Mapping[str, tuple[int, int]] = msgspec.field(default_factory=lambda: MappingProxyType({}))

    def bounds(self, budget: str, advisor_id: str | None, advisor_daily: int | None) -> tuple[Bound, ...]:
        """What bounds a payment out of a budget. `advisor_daily` is the advisor's own limit; it counts
        beside the general one."""
        if budget == INTERNAL:
            return ()
        scope = scope_of(budget)
        if scope != OPERATOR_SCOPE:
            # A budget that the option leaves out has nothing to spend.
            day, week = self.siblings.get(budget, (0, 0))
            name = f"sibling-limits {budget}"
            return Bound(f"{name} (day)", DAY_S, day, scope), Bound(f"{name} (week)", WEEK_S, week, scope)
        found = [
            Bound("daily-limit", DAY_S, self.daily, scope),
            Bound("weekly-limit", WEEK_S, self.weekly, scope),
        ]
        if advisor_id is not None:
            found.append(Bound("per-advisor-daily-limit", DAY_S, self.per_advisor_daily, scope, advisor_id))
            if advisor_daily is not None:
                found.append(Bound("daily limit of this advisor", DAY_S, advisor_daily, scope, advisor_id))
        return tuple(found)


def near(before: int, after: int, limit: int) -> bool:
    """Whether this is the payment that brings a limit to 80 %."""
    return before * 5 < limit * 4 <= after * 5
