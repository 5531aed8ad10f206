"""What this node may pay by itself: sliding sums, checked and reserved in one transaction
(docs/protocol/03-escrow-and-payments.md §7.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
from hive_shared.alerts import Level
from hive_shared.errors import BudgetExhausted
from hive_shared.store import Tx

from ..domain.payment import (
    ADVISOR,
    INTERNAL,
    LIQUIDITY,
    OPERATOR_SCOPE,
    REPLENISH,
    SIBLING_BUDGETS,
    Payment,
)
from ..domain.payment_limits import Bound, Limits, near
from .ports_commands import Alerts, Database
from .ports_payments import LockedSums, PaymentRows


class Usage(msgspec.Struct, frozen=True):
    """A limit and how far it is used: sats, and when (unix seconds) the oldest of it counts no more."""

    bound: Bound
    used: int
    resets_at: int | None


class PaymentLimits:
    """Counts payments and what is locked for tickets. `limits` are those in force, `advisor_daily` an
    advisor's own."""

    def __init__(
        self,
        db: Database,
        rows: PaymentRows,
        locks: LockedSums,
        alerts: Alerts,
        *,
        limits: Callable[[], Limits],
        advisor_daily: Callable[[str], int | None],
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._locks, self._alerts = db, rows, locks, alerts
        self.limits, self._advisor_daily, self._now = limits, advisor_daily, now

    def bounds(self, budget: str, advisor_id: str | None) -> tuple[Bound, ...]:
        """What bounds a payment out of a budget now."""
        own = None if advisor_id is None else self._advisor_daily(advisor_id)
        return self.limits().bounds(budget, advisor_id, own)

    def check(self, tx: Tx, row: Payment) -> None:
        """Whether a payment would fit into everything that bounds it now; reserves nothing. Raises
        BudgetExhausted."""
        assert row.budget is not None
        for _ in self._fitting(tx, row.budget, row.advisor_id, row.counted_sats):
            pass

    def take(self, tx: Tx, row: Payment) -> None:
        """Check a payment that is about to be inserted against everything that bounds it; alert where it
        brings a limit to 80 %. What it reserves is its `counted_sats`. Raises BudgetExhausted."""
        assert row.budget is not None
        # Siblings name their purposes themselves, never this budget.
        refill = (row.budget, row.purpose) == (INTERNAL, REPLENISH)
        budget = LIQUIDITY if refill else row.budget
        self.reserve(tx, budget, row.advisor_id, row.counted_sats)

    def reserve(self, tx: Tx, budget: str, advisor_id: str | None, sats: int) -> None:
        """The same for `sats` that the caller is about to note in its own rows, which count."""
        for bound, used in self._fitting(tx, budget, advisor_id, sats):
            if near(used, used + sats, bound.sats):
                text = (
                    f"{used + sats} of {bound.sats} sat of {bound.name} are spent or reserved; beyond it"
                    " payments are refused"
                )
                key = f"payment_limit_near:{bound.name}:{bound.advisor_id}"
                self._alerts.raise_in(tx, Level.WARNING, "limit_near", text, key)

    def _fitting(self, tx: Tx, budget: str, advisor_id: str | None, sats: int) -> Iterator[tuple[Bound, int]]:
        """Every limit with what is used of it. Raises BudgetExhausted at the one that does not hold it."""
        now = self._now()
        per_action = self.limits().per_action
        if budget == ADVISOR and 0 < per_action < sats:
            raise _exhausted(
                f"per-action-limit: {sats} sat, fees included, are above {per_action} sat;"
                f" {_changed_by('per-action-limit')}",
                "per-action-limit",
                per_action,
                0,
                sats,
            )
        for bound in self.bounds(budget, advisor_id):
            used = self._used(tx, bound, now)
            if used + sats > bound.sats:
                raise _exhausted(
                    f"{bound.name}: {used} of {bound.sats} sat are spent or reserved; {sats} sat more, fees"
                    f" included, do not fit; {_changed_by(bound.name)}",
                    bound.name,
                    bound.sats,
                    used,
                    sats,
                )
            yield bound, used

    def left(self, tx: Tx) -> int:
        """Sats that the operator's limits of the day and the week leave."""
        now = self._now()
        return min(bound.sats - self._used(tx, bound, now) for bound in self.bounds(LIQUIDITY, None))

    async def tell_hit(self, error: BudgetExhausted) -> None:
        """Tell the operator of a payment that a limit refused."""
        key = f"payment_budget_hit:{error.data['limit']}"
        text = f"a payment was refused: {error.detail}"
        await self._db.write(lambda tx: self._alerts.raise_in(tx, Level.CRITICAL, "budget_hit", text, key))

    async def usage(self, advisor_id: str | None = None) -> tuple[tuple[Usage, ...], dict[str, int]]:
        """Every limit with what is used of it, and the sats that payments without an end hold, by scope."""
        bounds = list(self.bounds(ADVISOR, advisor_id))
        for budget in SIBLING_BUDGETS:
            bounds += self.bounds(budget, None)
        now = self._now()

        def body(tx: Tx) -> tuple[tuple[Usage, ...], dict[str, int]]:
            found = tuple(self._usage(tx, bound, now) for bound in bounds)
            scopes = (OPERATOR_SCOPE, *SIBLING_BUDGETS)
            return found, {
                scope: self._rows.reserved(tx, scope) + self._locks.reserved(tx, scope) for scope in scopes
            }

        return await self._db.read(body)

    def _usage(self, tx: Tx, bound: Bound, now: int) -> Usage:
        paid = self._rows.oldest_counted(tx, bound, now)
        locked = self._locks.oldest_counted(tx, bound, now - bound.window_s)
        oldest = min((at for at in (paid, locked) if at is not None), default=None)
        resets = None if oldest is None else oldest + bound.window_s
        return Usage(bound, self._used(tx, bound, now), resets)

    def _used(self, tx: Tx, bound: Bound, now: int) -> int:
        return self._rows.used(tx, bound, now) + self._locks.counted(tx, bound, now - bound.window_s)


def _changed_by(name: str) -> str:
    """Where the operator finds and changes a limit."""
    if name.startswith("sibling-limits"):
        return "hive-comms-sibling-limits sets it"
    return "hive-client-budget shows the limits, its action=set changes them"


def _exhausted(text: str, name: str, limit: int, used: int, asked: int) -> BudgetExhausted:
    return BudgetExhausted(
        text, data={"limit": name, "limit_sats": limit, "used_sats": used, "asked_sats": asked}
    )
