"""Bonuses of tickets, which this node measures itself: the baseline before the ticket, the value after it
(docs/protocol/03-escrow-and-payments.md §6.3, §6.7 "Performance")."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from hive_shared.canonical import JsonValue
from hive_shared.cashu.escrow_rows import ItemRow, TicketRow
from hive_shared.cashu.escrow_terms import bonus_of
from hive_shared.cashu.terms import TicketType
from hive_shared.cashu.ticket_machine import PayerItem
from hive_shared.cashu.windows import BONUS_GRACE_S
from hive_shared.cln import ClnError
from hive_shared.errors import Capacity, Conflict, InvalidParams, PaymentFailed
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Tx

from ..domain.advisor import Advisor, CredentialRow
from ..domain.bonus import METRICS, baseline_of, value_of
from ..domain.trial import Income
from .item_ends import ItemPorts, Measured, Verdict
from .ports_identity import Log

_OPEN: Final = (PayerItem.DELIVERED, PayerItem.ACCEPTED)
_PAGE: Final = 5_000


class Incomes(Protocol):
    """The node's records (services.trial_measure.TrialMeasure)."""

    async def income(self, since: int, until: int) -> Income:
        """Raises ClnError."""
        ...


class Baselines(Protocol):
    """Signed baselines of credentials (services.report_service.ReportService)."""

    async def taken(self, row: CredentialRow) -> dict[str, JsonValue] | None: ...


class Credentials(Protocol):
    """All credentials, oldest first (services.credential_service.CredentialService)."""

    def rows(self) -> tuple[CredentialRow, ...]: ...


class BonusMeasure:
    """Takes baselines into terms, and measures when a bonus's window is over."""

    def __init__(
        self,
        items: ItemPorts,
        *,
        incomes: Incomes,
        baselines: Callable[[], Baselines],
        credentials: Credentials,
        in_trial: Callable[[str], Awaitable[bool]],
        stopped: Callable[[], bool],
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._db, self._rows, self._work, self._ends = items.db, items.rows, items.work, items.ends
        self._mail, self._notices = items.mail, items.notices
        self._incomes, self._baselines = incomes, baselines
        self._credentials, self._in_trial, self._stopped = credentials, in_trial, stopped
        self._now, self._log, self._alone = now, log, RowByRow(log)

    # -- before the ticket -----------------------------------------------------------------------------

    async def baseline(self, advisor: Advisor, metrics: Sequence[str]) -> dict[str, JsonValue] | None:
        """The baseline of a ticket whose bonuses have these metrics; None where the node does not measure
        them and the operator has to name it.

        Raises InvalidParams: several metrics, an advisor on trial, no period without the advisor's access.
        """
        if not set(metrics) & METRICS:
            return None
        if len(set(metrics)) > 1:
            raise InvalidParams(
                f"the bonuses of a ticket have one metric, here are {', '.join(sorted(set(metrics)))}",
                data={"param": "items"},
            )
        own = [row for row in self._credentials.rows() if _of(row, advisor)]
        if own and await self._in_trial(own[-1].credential_id):
            raise InvalidParams(
                "a trial has a flat fee and no bonus: make performance tickets once it is over",
                data={"param": "type"},
            )
        for row in reversed(own):
            signed = await self._baselines().taken(row)
            found = None if signed is None else baseline_of(metrics[0], signed)
            if found is not None and not _overlapped(found, row, own):
                return found
        raise InvalidParams(
            f"this node has no baseline of {metrics[0]} for the advisor: seven days that it can measure"
            " and that ended before the advisor had any access; renew the credential and hire it again after"
            " seven days without access, or have your own metric judged with baseline=",
            data={"param": "baseline"},
        )

    # -- after its window ------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Measure what is due and end it. Waits while the emergency stop is on, and for a node that cannot
        tell its forwards, as long as the bonus's deadline allows."""
        if self._stopped():
            return
        due = await self._db.read(self._due)
        taken: dict[tuple[int, int], Income | None] = {}
        with self._alone.round("bonuses") as alone:
            for ticket, item, since in due:
                with alone(f"{ticket.ticket_id}:{item.i}"):
                    bonus, until = bonus_of(item.cond), item.deadline - BONUS_GRACE_S
                    if bonus is None:
                        continue
                    if (since, until) not in taken:
                        taken[since, until] = await self._income(since, until)
                    income = taken[since, until]
                    value = None if income is None else value_of(bonus[0], income)
                    try:
                        await self._db.write(partial(self._end, ticket=ticket, i=item.i, value=value))
                    except Capacity:
                        break  # the outbox is full: next time
                    except (Conflict, PaymentFailed):
                        continue  # the operator was quicker
        if due:
            self._mail.kick()

    async def _income(self, since: int, until: int) -> Income | None:
        try:
            return await self._incomes.income(since, until)
        except ClnError as error:
            self._log("warning", "bonus_not_measured", method=error.method)
            return None

    def _due(self, tx: Tx) -> list[tuple[TicketRow, ItemRow, int]]:
        """Bonuses of our metrics whose window is over and whose base was earned, and when it began."""
        now, found = self._now(), []
        for item in self._rows.items_in(tx, _OPEN, _PAGE):
            bonus = bonus_of(item.cond)
            if bonus is None or bonus[0] not in METRICS or now < item.deadline - BONUS_GRACE_S:
                continue
            ticket = self._rows.ticket(tx, item.ticket_id)
            base = self._rows.item(tx, item.ticket_id, 0)
            if ticket is None or base is None or ticket.terms.type is not TicketType.PERFORMANCE:
                continue
            if item.i and base.released_at is not None:
                found.append((ticket, item, base.deadline))
        return found

    def _end(self, tx: Tx, ticket: TicketRow, i: int, value: int | None) -> None:
        now, item = self._now(), self._rows.item(tx, ticket.ticket_id, i)
        bonus = None if item is None else bonus_of(item.cond)
        if item is None or bonus is None or item.state not in _OPEN:
            return
        if now > item.deadline or value is None:
            if now > item.deadline:
                why = "could not be measured in time: it goes back at its locktime"
                self._notices.tell(tx, ticket, "not_measured", f"the bonus of item {i} {why}")
            return
        found = Measured(bonus[0], value, bonus[1], now)
        started = self._work.start(
            tx, self._work.check_free(tx, ticket, i), f"measure:{ticket.ticket_id}:{i}"
        )
        after = self._ends.tell_metric(tx, ticket, started, found)
        result: dict[str, JsonValue] = {"metric": found.metric, "value": value, "threshold": found.threshold}
        self._ends.end(tx, ticket, after, Verdict(found.met, result, "missed"))


def _of(row: CredentialRow, advisor: Advisor) -> bool:
    return row.advisor_id == advisor.advisor_id or row.agent_key == advisor.pubkey


def _overlapped(
    baseline: Mapping[str, JsonValue], taken_for: CredentialRow, rows: Sequence[CredentialRow]
) -> bool:
    """Whether the agent had access in the baseline's period; its own credential begins where that ends."""
    match baseline["period"]:
        case [int(since), int(until)]:
            pass
        case _:
            return True
    if until > taken_for.credential.valid_from:
        return True
    for row in rows:
        document = row.credential
        ended = document.valid_until if row.revoked_at is None else min(row.revoked_at, document.valid_until)
        if document.valid_from < until and ended > since:
            return True
    return False
