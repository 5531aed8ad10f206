"""What a write may spend: counted with the executing row, settled with the outcome
(docs/protocol/02-fleet-management.md §2.4, §3 "anti-splitting", §11; 08 §5.4 `daily_budget_sats`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

import msgspec
from hive_shared.alerts import Level
from hive_shared.errors import HiveError, from_symbol
from hive_shared.store import Tx

from ..domain.constraints import LIQUIDITY_DAILY_SATS, ONCHAIN_SATS, PAYMENT_SATS
from ..domain.policy_limits import SPENT_SATS
from ..domain.spend import DAY_S, LIQUIDITY, ONCHAIN, PAYMENT, Spend
from .ports_commands import Alerts

_COUNTER_OF: Final[Mapping[str, str]] = MappingProxyType(
    {ONCHAIN: ONCHAIN_SATS, PAYMENT: PAYMENT_SATS, LIQUIDITY: LIQUIDITY_DAILY_SATS}
)
_CONSTRAINT_OF: Final[Mapping[str, str]] = MappingProxyType(
    {
        ONCHAIN: "max_onchain_sats_24h",
        PAYMENT: "max_payment_sats_24h",
        LIQUIDITY: "max_liquidity_spend_daily_sats",
    }
)


class SpendRows(Protocol):
    """The spend store (storage.spend_store.SpendStore, where the methods are described)."""

    def of_credential(self, tx: Tx, credential_id: str, kind: str, since: int, *, but: str = "") -> int: ...
    def fees_of(self, tx: Tx, credential_id: str, kind: str, since: int, *, but: str = "") -> int: ...
    def of_node(self, tx: Tx, since: int, *, but: str = "") -> int: ...
    def reserve(self, tx: Tx, command_id: str, credential_id: str, spend: Spend, now: int) -> None: ...
    def settle(self, tx: Tx, command_id: str, spend: Spend | None) -> None: ...
    def release(self, tx: Tx, command_id: str) -> None: ...
    def prune(self, tx: Tx, before: int) -> int: ...


class SpendCap(msgspec.Struct, frozen=True):
    """A spend that was judged, and what it was judged against.

    `budget_sat` is the operator's daily budget, `limit_sat` the credential's limit of that class (None: no
    limit); `same_danger` says whether so much spent before still scores as it was judged.
    """

    spend: Spend
    credential_id: str
    budget_sat: int | None
    limit_sat: int | None
    same_danger: Callable[[int], bool]


class SpendLimits:
    """Counts spends."""

    def __init__(self, rows: SpendRows, alerts: Alerts) -> None:
        self._rows, self._alerts = rows, alerts

    def used(self, tx: Tx, credential_id: str, kind: str, now: int, *, but: str = "") -> int:
        """Sats of a class that a credential spent in the last 24 h."""
        return self._rows.of_credential(tx, credential_id, kind, now - DAY_S, but=but)

    def fees(self, tx: Tx, credential_id: str, kind: str, now: int, *, but: str = "") -> int:
        """Fees of a class that a credential paid in the last 24 h, in sat."""
        return self._rows.fees_of(tx, credential_id, kind, now - DAY_S, but=but)

    def counts(
        self, tx: Tx, spend: Spend | None, credential_id: str, now: int, *, but: str = ""
    ) -> dict[str, int]:
        """What constraints and policy look at, under their names; nothing for what spends nothing."""
        if spend is None:
            return {}
        found = {SPENT_SATS: self._rows.of_node(tx, now - DAY_S, but=but)}
        if spend.kind in _COUNTER_OF:
            found[_COUNTER_OF[spend.kind]] = self.used(tx, credential_id, spend.kind, now, but=but)
        return found

    @staticmethod
    def limit_of(constraints: Mapping[str, object], kind: str) -> int | None:
        """The credential's own limit for a class of spends in 24 h."""
        limit = constraints.get(_CONSTRAINT_OF.get(kind, ""))
        return limit if isinstance(limit, int) else None

    def take(self, tx: Tx, cap: SpendCap, command_id: str, now: int) -> None:
        """Count again inside the transaction that starts the command, for another may have started since it
        was judged; reserve; alert when that brings the budget or the credential's limit to 80 %.

        Raises BudgetExhausted, the error of `constraint_violated`, or Busy when the command now scores a
        higher danger than the one it was allowed with.
        """
        spend = cap.spend
        before = self._rows.of_node(tx, now - DAY_S, but=command_id)
        if cap.budget_sat is not None and before + spend.total_sat > cap.budget_sat:
            raise from_symbol(
                "budget_exhausted",
                f"{before} of {cap.budget_sat} sat of the operator's daily budget are spent;"
                f" {spend.total_sat} sat more do not fit",
                rule="daily_budget_sats",
            )
        used = self.used(tx, cap.credential_id, spend.kind, now, but=command_id)
        if cap.limit_sat is not None and spend.amount_sat and used + spend.amount_sat > cap.limit_sat:
            name = _CONSTRAINT_OF[spend.kind]
            raise from_symbol(
                "constraint_violated",
                f"{name}: {used + spend.amount_sat} sat is above {cap.limit_sat} sat",
                constraint=name,
                limit=cap.limit_sat,
            )
        if not cap.same_danger(used):
            raise from_symbol(
                "busy",
                "another of your spends began meanwhile, which makes this one more dangerous; ask again",
            )
        self._rows.reserve(tx, command_id, cap.credential_id, spend, now)
        if cap.budget_sat is not None:
            self._near(tx, "daily_budget_sats", before, before + spend.total_sat, cap.budget_sat)
        if cap.limit_sat is not None:
            name = _CONSTRAINT_OF[spend.kind]
            self._near(tx, name, used, used + spend.amount_sat, cap.limit_sat, cap.credential_id)

    def _near(self, tx: Tx, name: str, before: int, after: int, limit: int, credential_id: str = "") -> None:
        """Alert when this spend is the one that brings a limit (sat) to 80 %."""
        if not before * 5 < limit * 4 <= after * 5:
            return
        whose = f" of credential {credential_id}" if credential_id else ""
        self._alerts.raise_in(
            tx,
            Level.WARNING,
            "limit_near",
            f"{after} of {limit} sat of {name}{whose} are spent or on their way; beyond it they are refused",
            f"limit_near:{name}:{credential_id}" if credential_id else f"limit_near:{name}",
        )


def tell_hit(alerts: Alerts, tx: Tx, error: HiveError) -> None:
    """Tell the operator in the refusal's transaction when a budget was what refused (08 §6): that of what
    advisors spend, or a limit of what they are paid."""
    if error.symbol != "budget_exhausted":
        return
    text, key = f"an advisor's spend was refused, the daily budget is used up: {error.detail}", "budget_hit"
    if (limit := error.data.get("limit")) is not None:
        text, key = f"pay for an advisor's command was refused: {error.detail}", "payment_budget_hit"
    alerts.raise_in(tx, Level.CRITICAL, "budget_hit", text, f"{key}:{limit or 'daily_budget_sats'}")
