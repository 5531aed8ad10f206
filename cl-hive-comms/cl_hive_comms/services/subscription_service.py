"""Subscriptions: the period that is due is paid, once or not at all
(docs/protocol/03-escrow-and-payments.md §7.4; docs/decisions/0560, 0561).

What is paid stands in comms_payments; a subscription moves on in the transaction that settles its period.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from hive_shared.alerts import Level
from hive_shared.cln import ClnError
from hive_shared.errors import (
    BudgetExhausted,
    Busy,
    Conflict,
    EmergencyStop,
    HiveError,
    NotFound,
    PaymentFailed,
)
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.lightning_invoice import Asked, sats_up
from ..domain.payment import ADVISOR, BOLT11, BOLT12, Order, Payment, Period
from ..domain.payment_choice import SUBSCRIPTION, Case, choose
from ..domain.recurrence import RETRIES_S, Window, plain_window
from ..domain.subscription import INVOICES, PLAIN, RECURRING, Subscription, id_of
from ..domain.subscription_machine import Event, State
from .payment_service import PaymentService
from .ports_commands import Alerts, Database, KillSwitch, Log
from .ports_payments import Lightning, Offers, SubscriptionRows

PURPOSE: Final = "subscription"
_CHANGED: Final = ("offer_changed", "invoice_mismatch")
_FOREVER: Final = 2**53


class SubscriptionService:
    """Begins, pays and ends them. `hired` says whether an advisor still has a credential, `methods` are the
    operator's."""

    def __init__(
        self,
        *,
        db: Database,
        rows: SubscriptionRows,
        payments: PaymentService,
        lightning: Lightning,
        offers: Offers,
        hired: Callable[[str], bool],
        name_of: Callable[[str], str],
        methods: Callable[[], Sequence[str]],
        kill_switch: KillSwitch,
        alerts: Alerts,
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._db, self._rows, self._payments = db, rows, payments
        self._lightning, self._offers = lightning, offers
        self._hired, self._name_of, self._methods = hired, name_of, methods
        self._kill_switch, self._alerts = kill_switch, alerts
        self._now, self._log = now, log
        self._lock = asyncio.Lock()
        payments.when_paid = self._paid

    # -- the operator ----------------------------------------------------------------------------------

    async def pay(self, order: Order) -> Payment:
        """Pay the due period of an advisor's subscription, or begin one with this offer or invoice.

        The same key again answers what became of it. Raises as PaymentService.pay does, and Conflict
        (`too_early`) while no period is due, PaymentFailed (`too_late`) when the period is over.
        """
        async with self._lock:
            if not await self._payments.knows(order.key):
                choose(Case(SUBSCRIPTION), self._methods(), (order.method,))
                order = replace(order, period=await self._period_of(order))
            return await self._payments.pay(order)

    async def _period_of(self, order: Order) -> Period:
        now = self._now()
        found = await self._db.read(lambda tx: self._same(tx, order))
        if found is None:
            start = await self._first_period(order)
            return Period(id_of(order.key), 0, plain_window(None, now), start)
        if now < found.window_start:
            raise Conflict(
                f"the next period of subscription {found.sub_id} can be paid from {found.window_start} on",
                reason="too_early",
            )
        if found.kind == RECURRING and now > found.window_end:
            raise PaymentFailed(
                f"the period of subscription {found.sub_id} could be paid until {found.window_end}; end it"
                f" (hive-client-payments action=end sub_id={found.sub_id}) and begin anew; nothing was paid",
                reason="too_late",
            )
        return self._next_period(found)

    def _same(self, tx: Tx, order: Order) -> Subscription | None:
        text = order.target.strip().lower().removeprefix("lightning:")
        for row in self._rows.live(tx):
            if row.advisor_id != order.advisor_id:
                continue
            if row.offer == text or (row.kind == INVOICES and order.method == BOLT11):
                return row
        return None

    async def _first_period(self, order: Order) -> int | None:
        """Which period of an offer that says when its first one began runs now."""
        if order.method != BOLT12:
            return None
        try:
            asked: Asked = await self._lightning.read(order.target)
        except ClnError:
            raise Busy("the node does not answer; nothing was paid, try again") from None
        if asked.recurrence is None or asked.recurrence.base is None:
            return None
        return asked.recurrence.current(self._now())

    def _next_period(self, row: Subscription) -> Period:
        plain = plain_window(row.window_start, self._now())
        return Period(row.sub_id, row.recurrence_counter, plain, row.recurrence_start)

    async def end(self, sub_id: str) -> Subscription:
        """End one; a payment that is under way ends by itself. Raises NotFound, Conflict for one that has."""
        row = await self._db.read(lambda tx: self._rows.get(tx, sub_id))
        if row is None:
            raise NotFound("no subscription has this id (hive-client-payments action=subscriptions)")
        if row.state is State.ENDED:
            raise Conflict(f"subscription {sub_id} has ended already", reason="stale_state")
        return await self._ended(row, None)

    async def listed(self, advisor_id: str | None, limit: int) -> tuple[Subscription, ...]:
        """All of them or one advisor's, those that have not ended first."""
        return await self._db.read(lambda tx: self._rows.page(tx, advisor_id, limit))

    # -- by the clock ----------------------------------------------------------------------------------

    async def tick(self) -> None:
        """End those whose advisor has no credential any more, pay what is due; at the start, then hourly."""
        if self._kill_switch.engaged() or self._kill_switch.draining():
            return
        async with self._lock:
            for row in await self._db.read(self._rows.live):
                if not self._hired(row.advisor_id):
                    await self._ended(row, "its advisor has no credential any more")
            for row in await self._db.read(lambda tx: self._rows.due(tx, self._now())):
                if self._kill_switch.engaged():
                    return
                await self._try(row)

    async def _try(self, row: Subscription) -> None:
        if self._now() > row.window_end:
            await self._suspend(row, "the period was not paid in its time")
            return
        if row.kind == INVOICES:
            await self._ask(row)
            return
        order = Order(
            key=row.attempt_key,
            budget=ADVISOR,
            purpose=PURPOSE,
            method=BOLT12,
            target=row.offer,
            amount_msat=row.amount_sats * 1_000,
            advisor_id=row.advisor_id,
            period=self._next_period(row),
        )
        try:
            await self._payments.pay(order)
        except (EmergencyStop, Busy, Conflict):
            # Nothing is known to have failed: the next hour tries again, under the same key.
            return
        except BudgetExhausted as error:
            await self._failed(row, error)
        except PaymentFailed as error:
            if error.symbol in _CHANGED:
                await self._suspend(row, error.detail)
            else:
                await self._failed(row, error)
        except HiveError as error:
            await self._suspend(row, error.detail)

    async def _failed(self, row: Subscription, error: HiveError) -> None:
        failures = row.failures + 1
        if failures > len(RETRIES_S):
            await self._suspend(row, error.detail)
            return
        due = self._now() + RETRIES_S[failures - 1]
        text = f"{error.symbol}: {error.detail}"[:500]
        await self._changed(
            lambda tx: self._rows.note(tx, row, self._now(), failures=failures, next_due=due, error=text)
        )

    async def _ask(self, row: Subscription) -> None:
        """The operator has to bring the invoice of this period."""
        name = self._name_of(row.advisor_id)
        text = (
            f"the subscription of {name} ({row.amount_sats} sat) is due: pay the advisor's invoice with"
            f" hive-client-pay purpose=subscription until {row.window_end}"
        )

        def body(tx: Tx) -> Subscription:
            after = self._rows.note(tx, row, self._now(), next_due=row.window_end + 1)
            self._alerts.raise_in(
                tx, Level.WARNING, "subscription_due", text, f"subscription:{row.attempt_key}"
            )
            return after

        await self._changed(body)

    async def _suspend(self, row: Subscription, why: str) -> None:
        text = (
            f"the subscription of {self._name_of(row.advisor_id)} ({row.amount_sats} sat, {row.sub_id}) is"
            f" suspended: {why}; hive-client-pay purpose=subscription pays the period and goes on"
        )

        def body(tx: Tx) -> Subscription:
            after = self._rows.move(tx, row, Event.ON_UNPAID, self._now(), error=why[:500])
            key = f"subscription:{row.attempt_key}"
            self._alerts.raise_in(tx, Level.WARNING, "subscription_suspended", text, key)
            return after

        await self._changed(body)

    async def _ended(self, row: Subscription, why: str | None) -> Subscription:
        def body(tx: Tx) -> Subscription:
            after = self._rows.move(tx, row, Event.ON_ENDED, self._now(), error=why)
            if why is not None:
                text = f"the subscription of {self._name_of(row.advisor_id)} ({row.sub_id}) ended: {why}"
                self._alerts.raise_in(tx, Level.WARNING, "subscription_ended", text, f"end:{row.sub_id}")
            return after

        after = await self._db.write(body)
        if row.kind == RECURRING:
            try:
                await self._offers.end(
                    row.offer, row.recurrence_counter, row.recurrence_label, row.recurrence_start
                )
            except ClnError:
                # A courtesy: what is not paid ends by itself.
                self._log("info", "subscription_end_not_told", sub_id=row.sub_id)
        return after

    async def _changed(self, body: Callable[[Tx], Subscription]) -> None:
        try:
            await self._db.write(body)
        except Conflict:
            # A payment settled meanwhile, or the operator ended it: that holds.
            return

    # -- in the transaction that settles a payment -----------------------------------------------------

    def _paid(self, tx: Tx, payment: Payment) -> None:
        """A period is paid: the subscription begins or moves on."""
        series = payment.target.series
        if payment.period_key is None or series is None or payment.advisor_id is None:
            return
        sub_id = payment.period_key.partition(":")[0]
        now, window = self._now(), series.following
        known = self._rows.get(tx, sub_id)
        event = Event.ON_PAID if window is not None else Event.ON_LAST_PAID
        window = window or Window(now, _FOREVER, now)
        if known is None:
            self._rows.insert(tx, _begun(payment, sub_id, window, event, now))
            return
        if series.counter != known.recurrence_counter:
            return
        self._rows.move(
            tx,
            known,
            event,
            now,
            offer=payment.target.text,
            amount_sats=sats_up(payment.amount_msat),
            next_due=window.due,
            window_start=window.start,
            window_end=window.end,
            recurrence_counter=known.recurrence_counter + 1,
            failures=0,
            error=None,
        )


def _begun(payment: Payment, sub_id: str, window: Window, event: Event, now: int) -> Subscription:
    series, advisor_id = payment.target.series, payment.advisor_id
    assert series is not None and advisor_id is not None
    kind = INVOICES if payment.kind == BOLT11 else PLAIN if series.label is None else RECURRING
    return Subscription(
        sub_id=sub_id,
        advisor_id=advisor_id,
        kind=kind,
        offer=payment.target.text,
        period=series.period,
        amount_sats=sats_up(payment.amount_msat),
        next_due=window.due,
        state=State.ACTIVE if event is Event.ON_PAID else State.ENDED,
        failures=0,
        recurrence_counter=series.counter + 1,
        recurrence_label=f"hive:{sub_id}",
        recurrence_start=series.start,
        window_start=window.start,
        window_end=window.end,
        error=None,
        created_at=now,
        updated_at=now,
    )
