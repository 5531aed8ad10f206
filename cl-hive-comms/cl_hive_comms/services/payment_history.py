"""What was paid and received, for the operator (docs/protocol/08-client-and-plugins.md §5.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hive_shared.unreadable import Unreadable

from ..domain.lightning_invoice import sats_up
from ..domain.payment import OUT, SETTLE_S, Payment
from ..domain.payment_limits import DAY_S, WEEK_S
from ..domain.payment_machine import OPEN, State
from ..domain.payment_query import PaymentQuery, Total
from .ports_commands import Database
from .ports_payments import PaymentRows
from .spend_report import Unresolved


class PaymentHistory:
    """Reads payments; `name_of` is what an advisor is called."""

    def __init__(
        self, db: Database, rows: PaymentRows, *, name_of: Callable[[str], str], now: Callable[[], int]
    ) -> None:
        self._db, self._rows, self._name_of, self._now = db, rows, name_of, now

    async def page(
        self, query: PaymentQuery
    ) -> tuple[tuple[Payment | Unreadable, ...], tuple[int, str] | None]:
        """Payments, newest first, and where the next page begins (None: nowhere)."""
        more = PaymentQuery(query.advisor_id, query.kind, query.since, query.before, query.limit + 1)
        rows = await self._db.read(lambda tx: self._rows.page(tx, more))
        if len(rows) <= query.limit:
            return rows, None
        last = rows[query.limit - 1]
        name = last.name if isinstance(last, Unreadable) else last.payment_id
        return rows[: query.limit], (last.created_at, name)

    async def sums(self, advisor_id: str | None, kind: str | None, since: int | None) -> dict[str, Any]:
        """Sums of the last day and week, or of everything since a time."""
        now = self._now()
        windows = {"day": now - DAY_S, "week": now - WEEK_S} if since is None else {"since": since}

        def body(tx: Any) -> dict[str, Any]:
            found = {}
            for name, start in windows.items():
                totals = self._rows.totals(tx, PaymentQuery(advisor_id, kind, start))
                found[name] = {"from": start, **self._summed(totals)}
            return found

        return await self._db.read(body)

    async def open(self) -> tuple[Payment | Unreadable, ...]:
        """Payments without an end, oldest first."""
        return await self._db.read(lambda tx: self._rows.shown_in(tx, OPEN))

    async def owed(self) -> tuple[Payment | Unreadable, ...]:
        """What agents' commands have earned and is not paid yet, oldest first."""
        owed = await self._db.read(lambda tx: self._rows.shown_in(tx, (State.OWED,)))
        return tuple(row for row in owed if isinstance(row, Unreadable) or row.direction == OUT)

    async def unresolved(self) -> tuple[Unresolved, ...]:
        """Those that have been without an end for longer than any call to pay runs."""
        late = self._now() - SETTLE_S
        return tuple(
            Unresolved(row.name, "payment", "unreadable", row.created_at)
            if isinstance(row, Unreadable)
            else Unresolved(row.payment_id, "payment", row.state.value, row.created_at)
            for row in await self.open()
            if row.created_at < late
        )

    def _summed(self, totals: Sequence[Total]) -> dict[str, Any]:
        paid = [each for each in totals if each.direction == OUT and each.state == State.SETTLED]
        open_ = [each for each in totals if each.direction == OUT and each.state in OPEN]
        got = [each for each in totals if each.direction != OUT and each.state == State.SETTLED]
        by_advisor: dict[str, int] = {}
        by_method: dict[str, int] = {}
        for each in paid:
            sats = sats_up(each.amount_msat + each.fee_msat)
            who = "-" if each.advisor_id is None else self._name_of(each.advisor_id)
            by_advisor[who] = by_advisor.get(who, 0) + sats
            by_method[each.kind] = by_method.get(each.kind, 0) + sats
        return {
            "payments": sum(each.count for each in paid),
            "paid_sats": sats_up(sum(each.amount_msat for each in paid)),
            "fees_sats": sats_up(sum(each.fee_msat for each in paid)),
            "open_sats": sats_up(sum(each.amount_msat for each in open_)),
            "received_sats": sum(each.amount_msat for each in got) // 1_000,
            "by_method": by_method,
            "by_advisor": by_advisor,
        }
