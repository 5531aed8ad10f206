"""The counters a write uses up: counted again where it is taken, and told of before they are used up
(docs/protocol/02-fleet-management.md §7.5, 08-client-and-plugins.md §5.4, §6 "Alerts")."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from hive_shared.alerts import Level
from hive_shared.errors import from_symbol
from hive_shared.registry import PAYMENT, WALLET
from hive_shared.store import Tx

from ..domain.alert import nears
from ..domain.command_record import NODE_SCOPE, Use
from .ports_commands import Alerts, FeeRows


class Cap(msgspec.Struct, frozen=True):
    """A counter that a run uses, and how many uses its window of seconds allows (None: no limit)."""

    use: Use
    window_s: int
    limit: int | None


PER_DAY: Final[Mapping[tuple[str, str], int]] = {
    (WALLET, "generate_address"): 50,
    (PAYMENT, "create_invoice"): 100,
}
"""Actions that a credential may ask for only so often in 24 hours (02 §4)."""


class ActionCaps:
    """Reserves uses of counters."""

    def __init__(self, fees: FeeRows, alerts: Alerts) -> None:
        self._fees, self._alerts = fees, alerts

    def take(self, tx: Tx, caps: Iterable[Cap], command_id: str, now: int) -> None:
        """Count again inside the transaction that reserves, for two commands may have been judged side by
        side; reserve; alert when that brings a limit to 80 %.

        Raises RateLimited (`daily_cap`) when a counter is used up by other commands.
        """
        taken = []
        for cap in caps:
            used = self._fees.count(tx, cap.use, now - cap.window_s, but=command_id)
            if cap.limit is not None and used >= cap.limit:
                raise from_symbol(
                    "daily_cap",
                    f"{cap.use.name} allows {cap.limit} in {cap.window_s // 3600} h, all are used",
                    counter=cap.use.name,
                    limit=cap.limit,
                )
            taken.append((cap, used + 1))
        self._fees.reserve(tx, (cap.use for cap, _ in taken), command_id, now)
        for cap, used in taken:
            self._tell(tx, cap, used)

    def _tell(self, tx: Tx, cap: Cap, used: int) -> None:
        if cap.limit is None or not nears(used, cap.limit):
            return
        whose = "" if cap.use.scope == NODE_SCOPE else f" of credential {cap.use.scope}"
        self._alerts.raise_in(
            tx,
            Level.WARNING,
            "limit_near",
            f"{used} of {cap.limit} {cap.use.name} in {cap.window_s // 3600} h are used or wait{whose};"
            " beyond the limit they are refused",
            f"limit_near:{cap.use.name}:{cap.use.scope}",
        )
