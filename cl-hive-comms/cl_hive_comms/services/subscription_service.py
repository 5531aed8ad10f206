"""Subscriptions: the period that is due is paid, once or not at all
(docs/protocol/03-escrow-and-payments.md §7.4; docs/decisions/0560, 0561).

What is paid stands in comms_payments; a subscription moves on in the transaction that settles its period.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
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
from hive_shared.row_by_row import RowByRow
from hive_shared.signed_message import Draft
from hive_shared.store import StoreError, Tx
from msgspec.structs import replace

from ..domain.lightning_invoice import Asked, sats_up
from ..domain.payment import ADVISOR, BOLT11, BOLT12, Order, Payment, Period
from ..domain.payment_choice import SUBSCRIPTION, Case, choose, ways
from ..domain.recurrence import RETRIES_S, Window, plain_window
from ..domain.subscription import (
    INVOICES,
    PLAIN,
    RECURRING,
    RESTORED,
    Subscription,
    id_of,
    of_contract,
)
from ..domain.subscription_machine import Event, State
from .payment_service import PaymentService
from .period_invoices import SILENCE, PeriodInvoices
from .ports_commands import Alerts, Database, KillSwitch, Log
from .ports_payments import Lightning, Offers, SubscriptionRows

PURPOSE: Final = "subscription"
_CHANGED: Final = ("offer_changed", "invoice_mismatch")
_FOREVER: Final = 2**53


class Dues(msgspec.Struct, frozen=True):
    """What a contract costs by the month: sat, the ways its advisor takes, and when its term begins.
    `restored`: it is of an older copy of the database and may have been begun, and paid, before."""

    monthly_sats: int
    methods: tuple[str, ...]
    start: int
    restored: bool = False


class SubscriptionService:
    """Begins, pays and ends them. `hired` says whether an advisor still has a credential, `methods` are the
    operator's, `invoices` asks agents for those of their periods."""

    def __init__(
        self,
        *,
        db: Database,
        rows: SubscriptionRows,
        payments: PaymentService,
        lightning: Lightning,
        offers: Offers,
        invoices: PeriodInvoices,
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
        self._now, self._log, self._alone = now, log, RowByRow(log)
        self._lock = asyncio.Lock()
        self._invoices = invoices
        self._running: asyncio.Task[None] | None = None
        self._again = self._looked = False
        payments.when_paid, invoices.on_taken = self._paid, self.kick

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
        own = [row for row in self._rows.live(tx) if row.advisor_id == order.advisor_id]
        found = [row for row in own if row.offer == text or (row.kind, order.method) == (INVOICES, BOLT11)]
        # Of several that invoices pay, the one that waits for this one.
        return min(found, key=lambda row: row.window_start, default=None)

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

    async def take_invoice(self, message: Draft, sender: str) -> None:
        """An agent's answer to a request of ours. Raises as PeriodInvoices.take does."""
        await self._invoices.take(message, sender)

    # -- by the clock ----------------------------------------------------------------------------------

    async def tick(self) -> None:
        """End those whose advisor has no credential any more, pay what is due; at the start, then hourly."""
        self._looked = True
        if self._kill_switch.engaged() or self._kill_switch.draining():
            return
        async with self._lock:
            with self._alone.round("subscriptions") as alone:
                for row in await self._db.read(self._rows.live):
                    with alone(row.sub_id):
                        if await self._invoices.over(row):
                            await self._ended(row, "its contract has ended")
                        elif row.contract_id is None and not self._hired(row.advisor_id):
                            await self._ended(row, "its advisor has no credential any more")
            with self._alone.round("periods that are due") as alone:
                for row in await self._db.read(lambda tx: self._rows.due(tx, self._now())):
                    if self._kill_switch.engaged():
                        return
                    with alone(row.sub_id):
                        await self._try(row)
        self._invoices.kick()

    def kick(self) -> None:
        """There may be something to pay: look soon. Returns at once; does nothing before the first look."""
        self._again = self._looked
        if self._looked and (self._running is None or self._running.done()):
            self._running = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while self._again:
            self._again = False
            try:
                await self.tick()
            except (HiveError, StoreError, ClnError) as error:
                # The loop of every hour tries again.
                self._log("error", "subscriptions_not_paid", why=str(error)[:200])

    async def drain(self) -> None:
        """Wait for what `kick` began."""
        if self._running is not None:
            await self._running

    async def _try(self, row: Subscription) -> None:
        if self._now() > row.window_end:
            await self._suspend(row, "the period was not paid in its time")
            return
        if row.kind == INVOICES and not await self._has_invoice(row):
            return
        order = Order(
            key=row.attempt_key,
            budget=ADVISOR,
            purpose=PURPOSE,
            method=BOLT12 if row.invoice is None else BOLT11,
            target=row.offer if row.invoice is None else row.invoice,
            amount_msat=row.due_sats * 1_000,
            advisor_id=row.advisor_id,
            contract_id=row.contract_id,
            period=self._next_period(row),
        )
        try:
            await self._payments.pay(order, lambda tx, _payment: self._check_due(tx, row))
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

    def _check_due(self, tx: Tx, row: Subscription) -> None:
        """Asked where its payment begins: the others of the same round may have taken minutes. Raises
        Conflict when it ended meanwhile, or is about to."""
        now = self._rows.get(tx, row.sub_id)
        if now is None or now.state is not State.ACTIVE or now.attempt_key != row.attempt_key:
            raise Conflict(f"subscription {row.sub_id} was changed meanwhile", reason="stale_state")
        hired = row.contract_id is not None or self._hired(row.advisor_id)
        if not hired or self._invoices.over_in(tx, row):
            raise Conflict(f"what subscription {row.sub_id} is for has ended", reason="stale_state")

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

    async def _has_invoice(self, row: Subscription) -> bool:
        """Whether the agent has given the invoice of this period; where not, it is asked."""
        try:
            if row.invoice is not None and (
                await self._payments.knows(row.attempt_key) or await self._invoices.good(row)
            ):
                return True
        except ClnError:
            # Another hour tells whether it is still good.
            return False
        whom = await self._invoices.whom(row)
        if whom is None:
            await self._ask_operator(row)
        else:
            try:
                if not await self._invoices.ask(row, whom):
                    await self._suspend(row, SILENCE)
            except Conflict:
                # Changed meanwhile: the next look sees how.
                pass
        return False

    async def _ask_operator(self, row: Subscription) -> None:
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
        def body(tx: Tx) -> Subscription:
            after = self._rows.move(tx, row, Event.ON_UNPAID, self._now(), error=why[:500])
            self._tell_suspended(tx, row, why)
            return after

        await self._changed(body)

    def _tell_suspended(self, tx: Tx, row: Subscription, why: str) -> None:
        text = (
            f"the subscription of {self._name_of(row.advisor_id)} ({row.amount_sats} sat, {row.sub_id}) is"
            f" suspended: {why}; hive-client-pay purpose=subscription pays the period and goes on"
        )
        key = f"subscription:{row.attempt_key}"
        self._alerts.raise_in(tx, Level.WARNING, "subscription_suspended", text, key)

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

    # -- in the transaction that makes a contract active -----------------------------------------------

    def begin(self, tx: Tx, contract_id: str, name: str, advisor_id: str, dues: Dues) -> None:
        """A contract's monthly fee is due from the begin of its term on: by invoices, which its agent is
        asked for. Where the two have no such way in common the operator is told."""
        if not dues.monthly_sats:
            return
        found = ways(Case(SUBSCRIPTION), self._methods(), dues.methods)
        if BOLT11 not in found:
            text = (
                f"contract {contract_id} with {name} costs {dues.monthly_sats} sat each 30 days from"
                f" {dues.start} on; the node pays them by itself by bolt11 only, which is not among"
                f" {', '.join(dues.methods)}, hive-comms-payment-methods or both: pay with hive-client-pay"
            )
            self._alerts.raise_in(tx, Level.WARNING, "subscription_by_hand", text, f"by_hand:{contract_id}")
            return
        now = self._now()
        row = of_contract(contract_id, advisor_id, dues.monthly_sats, dues.start, now)
        if self._rows.get(tx, row.sub_id) is not None:
            return
        if dues.restored:
            row = replace(row, state=State.SUSPENDED, error=RESTORED)
            self._tell_suspended(tx, row, RESTORED)
        self._rows.insert(tx, row)

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
        if known.kind == INVOICES:
            self._invoices.told(tx, known, payment)
            if self._invoices.last(tx, known, window.start):
                event = Event.ON_LAST_PAID
        self._rows.move(
            tx,
            known,
            event,
            now,
            offer=payment.target.text,
            # What a contract says holds for the next period too, whatever this one cost.
            amount_sats=known.amount_sats if known.contract_id else sats_up(payment.amount_msat),
            asks=0,
            asked_sats=0,
            invoice=None,
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
