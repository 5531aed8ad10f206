"""The limits of payments as the operator sees and sets them: hive-client-budget
(docs/protocol/08-client-and-plugins.md §5.2, 03 §7.2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hive_shared.store import Tx

from ..domain.advisor import Advisor
from ..domain.payment import OPERATOR_SCOPE
from .payment_limits import PaymentLimits
from .ports_commands import Database

SetOption = Callable[[str, int], Awaitable[None]]
"""Sets a dynamic option of this plugin through the node, by its name without prefix."""


class PaymentBudget:
    """Shows and sets limits. `set_daily` stores an advisor's own limit, `reload` follows it in memory."""

    def __init__(
        self,
        db: Database,
        limits: PaymentLimits,
        *,
        set_option: SetOption,
        set_daily: Callable[[Tx, str, int], None],
        reload: Callable[[], Awaitable[None]],
    ) -> None:
        self._db, self._limits, self._set_option = db, limits, set_option
        self._set_daily, self._reload = set_daily, reload

    async def show(self, advisor: Advisor | None) -> dict[str, Any]:
        """Limits, what is used of each, what payments under way reserve, when the oldest of it counts no
        more."""
        usage, reserved = await self._limits.usage(None if advisor is None else advisor.advisor_id)
        limits = self._limits.limits()
        return {
            "limits": [
                {
                    "name": each.bound.name,
                    "limit_sats": each.bound.sats,
                    "used_sats": each.used,
                    "left_sats": max(0, each.bound.sats - each.used),
                    "resets_at": each.resets_at,
                }
                for each in usage
            ],
            "per_advisor_sats": limits.per_advisor_daily,
            "per_action_sats": limits.per_action or None,
            "max_fee_ppm": limits.max_fee_ppm,
            "reserved_sats": {
                ("advisors" if name == OPERATOR_SCOPE else name): n for name, n in reserved.items()
            },
        }

    async def in_short(self) -> dict[str, Any]:
        """Used and allowed sats of every limit that something counts in, for the status."""
        usage, reserved = await self._limits.usage(None)
        return {
            "limits": {
                each.bound.name: {"used_sats": each.used, "limit_sats": each.bound.sats}
                for each in usage
                if each.used or each.bound.scope == OPERATOR_SCOPE
            },
            "reserved_sats": sum(reserved.values()),
        }

    async def set(self, options: Mapping[str, int]) -> None:
        """Set options, by their names without prefix."""
        for name, sats in options.items():
            await self._set_option(name, sats)

    async def set_advisor(self, advisor: Advisor, sats: int) -> None:
        """Set one advisor's own daily limit; it counts beside the general one."""
        await self._db.write(lambda tx: self._set_daily(tx, advisor.advisor_id, sats))
        await self._reload()
