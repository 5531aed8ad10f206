"""What this node pays by itself: written down first, asked for once, looked for afterwards
(docs/protocol/03-escrow-and-payments.md §7.3; docs/decisions/0516).

Crash points: `payment_reserved`, `payment_sending`, `payment_answered`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from hive_shared.alerts import Level
from hive_shared.cln import ClnError
from hive_shared.errors import (
    BudgetExhausted,
    Busy,
    Conflict,
    HiveError,
    InvalidParams,
    NotFound,
    PaymentFailed,
    Unsupported,
)
from hive_shared.row_by_row import RowByRow
from hive_shared.store import StoreError, Tx
from msgspec.structs import replace

from ..domain.lightning_invoice import Asked, sats_up
from ..domain.payment import (
    ADVISOR,
    BOLT11,
    BOLT12,
    CASHU,
    KEYSEND,
    L402,
    LIQUIDITY,
    OUT,
    SETTLE_S,
    Found,
    Order,
    Payment,
    Target,
    fee_limit_msat,
    id_of,
)
from ..domain.payment_checks import WHY, check_asked, due_msat, failed, of_target
from ..domain.payment_machine import OPEN, Event, State
from ..domain.payment_series import fetched, series_of
from .payment_limits import PaymentLimits
from .ports_commands import Alerts, Database, Fault, KillSwitch, Log
from .ports_payments import Lightning, Offers, PaymentRows

_KIND: Final = {"bolt11 invoice": BOLT11, "bolt12 invoice": BOLT12, "bolt12 offer": BOLT12}
_UNPAID: Final = "; nothing was paid"
_ANEW: Final = "to try again give another idempotency_key"


class PaymentService:
    """Pays orders and finds out what became of them. `paying` names the unfinished command of an agent that
    pays a hash, `methods` the operator's for its own budgets; `restored` says whether an
    older copy of the database was restored here."""

    def __init__(
        self,
        *,
        db: Database,
        rows: PaymentRows,
        limits: PaymentLimits,
        lightning: Lightning,
        offers: Offers,
        paying: Callable[[str], Awaitable[str | None]],
        methods: Callable[[], Sequence[str]],
        kill_switch: KillSwitch,
        alerts: Alerts,
        restored: Callable[[Tx], bool],
        now: Callable[[], int],
        log: Log,
        fault: Fault,
    ) -> None:
        self._db, self._rows, self._limits = db, rows, limits
        self._lightning, self._offers, self._paying = lightning, offers, paying
        self._methods = methods
        self._kill_switch, self._alerts, self._restored = kill_switch, alerts, restored
        self._now, self._log, self._fault = now, log, fault
        self._alone = RowByRow(log)
        self.on_debt_paid: Callable[[Tx, Payment], None] = lambda _tx, _row: None
        self._live: set[str] = set()
        self._told: set[str] = set()
        self._looking = asyncio.Lock()
        self._looked = False
        self.when_paid: Callable[[Tx, Payment], None] = lambda _tx, _row: None
        """Told of the payment of a period, inside the transaction that settles it."""

    # -- paying ----------------------------------------------------------------------------------------

    async def pay(
        self, order: Order, beside: Callable[[Tx, Payment], None] = lambda _tx, _row: None
    ) -> Payment:
        """Pay what is ordered, or answer what became of the same order before. `beside` writes what has to be
        on disk with the row of a payment that begins.

        Returns a payment that is settled, or one whose end is not known yet (`sending`, `unknown`). Raises
        PaymentFailed when nothing was paid, Conflict for a key that stands for something else or an invoice
        that is being paid, BudgetExhausted, EmergencyStop, InvalidParams, Busy.
        """
        known = await self._db.read(lambda tx: self._rows.by_key(tx, order.key))
        if known is not None:
            return self._stored(await self._looked_up(known), order)
        self._check_stop()
        if order.budget in (ADVISOR, LIQUIDITY) and order.method not in self._methods():
            allowed = ", ".join(self._methods()) or "nothing"
            raise failed(
                f"hive-comms-payment-methods allows {allowed}, not {order.method}", "no_common_method"
            )
        await self._resolve_first()
        row = await self._planned(order)
        other = await self._reserve(row, beside)
        if other is not None:
            return self._stored(other, order)
        try:
            return await self._send(row)
        finally:
            self._live.discard(row.payment_id)

    async def pay_debt(self, row: Payment) -> Payment:
        """Pay what is owed for a command, by the invoice that its row has.

        Returns the payment, settled or without an end yet, or still owed when nothing was paid. Raises
        HiveError before anything was sent.
        """
        self._check_stop()
        await self._resolve_first()
        if row.payment_id in self._live:
            return row
        self._live.add(row.payment_id)
        try:
            return await self._send(row)
        finally:
            self._live.discard(row.payment_id)

    async def _looked_up(self, row: Payment) -> Payment:
        """A payment without an end, as the node's list has it now."""
        if row.state not in OPEN or row.payment_id in self._live:
            return row
        await self.settle()
        return await self._db.read(lambda tx: self._rows.get(tx, row.payment_id)) or row

    def _stored(self, known: Payment, order: Order) -> Payment:
        if known.content_hash != order.content_hash():
            raise Conflict(
                f"this idempotency_key, or without one this invoice, stands for another payment:"
                f" {known.payment_id} over {sats_up(known.amount_msat)} sat by {known.kind}, {known.state}."
                " Amount, method, target or purpose differ, so nothing was paid; a new payment takes a new"
                " key",
                reason="idempotency_conflict",
                data={"payment_id": known.payment_id},
            )
        return ended(known)

    def _check_stop(self) -> None:
        self._kill_switch.check()
        if self._kill_switch.draining():
            raise Busy("this node is being drained and takes no new work; remove the file DRAIN")

    async def _resolve_first(self) -> None:
        # 08 §6: rows that a stop left behind are resolved before anything new is paid.
        if not self._looked:
            await self.settle()
        if not self._looked:
            raise Busy("the node does not answer, so what became of earlier payments is not known; try again")

    async def _planned(self, order: Order) -> Payment:
        try:
            own = await self._lightning.own_id()
            if order.method == KEYSEND:
                if order.target == own:
                    raise failed("the payee is this node itself", "invoice_mismatch")
                return self._row(
                    order,
                    Target(order.target, payee=order.target, **_notes(order)),
                    None,
                    None,
                    order.amount_msat,
                )
            try:
                asked = await self._lightning.read(order.invoice or order.target)
            except InvalidParams as error:
                if order.method == L402:
                    what = "the invoice for the access is no BOLT 11 invoice that this node can read"
                    raise failed(what, "payment_invalid") from None
                raise of_target(error) from None
        except ClnError as error:
            raise _unreachable(error) from None
        kind = _KIND[asked.kind]
        if order.method == L402 and kind != BOLT11:
            raise failed(f"the access is sold for a {asked.kind}, not a BOLT 11 invoice", "payment_invalid")
        if order.method not in (kind, L402):
            raise InvalidParams(
                f"target is a {asked.kind}, method is {order.method}; give method={kind} or leave it out"
            )
        amount_msat = due_msat(order, asked)
        check_asked(asked, amount_msat, own, order.payee, self._now())
        series = series_of(order, asked)
        if asked.kind == "bolt12 offer" and (lacking := self._offers.lacking()):
            raise Unsupported(lacking)
        invoice = None if asked.kind == "bolt12 offer" else asked.text
        ours = asked.amount_msat is None
        text = order.target if order.method == L402 else asked.text
        target = Target(text, invoice, asked.payee, ours, **_notes(order), series=series)
        return self._row(order, target, asked.payment_hash, asked.expires_at, amount_msat)

    def _row(
        self,
        order: Order,
        target: Target,
        payment_hash: str | None,
        expires_at: int | None,
        amount_msat: int,
    ) -> Payment:
        payment_id, now = id_of(order.key), self._now()
        fee = fee_limit_msat(amount_msat, self._limits.limits().max_fee_ppm, order.max_fee_msat)
        row = Payment(
            payment_id=payment_id,
            key=order.key,
            content_hash=order.content_hash(),
            advisor_id=order.advisor_id,
            budget=order.budget,
            kind=order.method,
            purpose=order.purpose,
            direction=OUT,
            amount_msat=amount_msat,
            max_fee_msat=fee,
            state=State.RESERVED,
            target=target,
            label=f"hive:{payment_id}",
            created_at=now,
            updated_at=now,
            payment_hash=payment_hash,
            contract_id=order.contract_id,
            expires_at=expires_at,
            period_key=None if order.period is None else order.period.key,
        )
        return replace(row, counted_sats=row.reserve_sats)

    async def _reserve(self, row: Payment, beside: Callable[[Tx, Payment], None]) -> Payment | None:
        """None when the payment is ours to send now, else the one that its key stands for already."""
        if row.payment_hash is not None and (command := await self._paying(row.payment_hash)) is not None:
            raise Conflict(
                f"command {command} of an agent is paying this invoice; wait for its end",
                reason="unknown_state",
            )

        begun = False

        def body(tx: Tx) -> Payment | None:
            known = self._rows.by_key(tx, row.key)
            if known is not None:
                return known
            self._check_free(tx, row)
            self._limits.take(tx, row)
            self._rows.insert(tx, row)
            beside(tx, row)
            # Before the commit, so that no look at open rows comes in between.
            self._live.add(row.payment_id)
            nonlocal begun
            begun = True
            return None

        try:
            return await self._db.write(body)
        except BudgetExhausted as error:
            await self._limits.tell_hit(error)
            raise
        except BaseException:
            # Only what this call began: the same order may be under way in another one.
            if begun:
                self._live.discard(row.payment_id)
            raise

    def _check_free(self, tx: Tx, row: Payment) -> None:
        other, what = None, "invoice"
        if row.period_key is not None and row.state is State.RESERVED:
            other, what = self._rows.by_period(tx, row.period_key), "period"
            if other is not None and other.payment_id == row.payment_id:
                other = None
        if other is None and row.payment_hash is not None:
            other, what = next(iter(self._rows.by_hash(tx, row.payment_hash, OUT)), None), "invoice"
        if other is None or other.state is State.FAILED:
            return
        if other.state in OPEN:
            text = f"payment {other.payment_id} of this {what} has no end yet ({other.state}); wait for it"
            raise Conflict(text, reason="unknown_state", data={"payment_id": other.payment_id})
        text = f"payment {other.payment_id} has paid this {what} already"
        raise Conflict(text, reason="already_paid", data={"payment_id": other.payment_id})

    async def _send(self, row: Payment) -> Payment:
        await self._fault("payment_reserved")
        try:
            resolved: dict[str, Any] = {}
            before = await self._before_restore(row)
            if before is not None and before.invoice is not None:
                # Its issuer gives no other invoice of a period that is paid.
                resolved = self._resolved(row, await self._lightning.read(before.invoice))
            elif row.target.invoice is None and row.kind == BOLT12:
                resolved = await self._invoice(row)
            # One that the node is at already is looked for among all of its parts.
            since = await self._lightning.count() if before is None else 0
        except (ClnError, HiveError) as error:
            why = _unreachable(error, _ANEW) if isinstance(error, ClnError) else error
            raise await self._refuse(row, why) from None
        if self._kill_switch.engaged():
            raise await self._refuse(row, failed("the emergency stop was engaged", "emergency_stop"))

        def body(tx: Tx) -> Payment:
            if "payment_hash" in resolved:
                self._check_free(tx, replace(row, payment_hash=resolved["payment_hash"]))
            return self._rows.move(
                tx, row, Event.ON_SENT, self._now(), sent_index=since, sent_at=self._now(), **resolved
            )

        try:
            sending = await self._db.write(body)
        except Conflict as error:
            raise await self._refuse(row, error) from None
        await self._fault("payment_sending")
        if before is not None:
            sending = replace(sending, payment_hash=before.payment_hash or sending.payment_hash)
            paid = before.state == "complete"
            return await (self._paid(sending, replace(before, ours=False)) if paid else self._lost(sending))
        # Asked last, directly before the call that has an effect (docs/decisions/0397).
        if self._kill_switch.engaged():
            return await self._end(sending, failed("the emergency stop was engaged", "emergency_stop"))
        try:
            found = await self._lightning.pay(sending)
        except ClnError as error:
            return await self._doubt(sending, error)
        await self._fault("payment_answered")
        return await self._paid(sending, found)

    async def _before_restore(self, row: Payment) -> Found | None:
        """What a copy of the database that was restored may have forgotten: that this key was paid, or is
        being paid. Of an invoice the node itself refuses to pay it twice, but a debt may have been paid by
        another invoice than the one that the copy knows."""
        debt = row.command_id is not None
        if (row.payment_hash is not None and not debt) or not await self._db.read(self._restored):
            return None
        found = await self._lightning.look(replace(row, payment_hash=None, sent_index=0))
        return found if found.state in ("pending", "complete") else None

    async def _invoice(self, row: Payment) -> dict[str, Any]:
        """Of an offer its invoice, checked like one that was given."""
        asked: Asked = await self._offers.fetch(row)
        check_asked(asked, row.amount_msat, await self._lightning.own_id(), None, self._now())
        command = await self._paying(str(asked.payment_hash))
        if command is not None:
            raise Conflict(f"command {command} of an agent is paying this invoice", reason="unknown_state")
        return self._resolved(row, asked)

    def _resolved(self, row: Payment, asked: Asked) -> dict[str, Any]:
        target = replace(row.target, invoice=asked.text, payee=asked.payee, amount_is_ours=False)
        if row.target.series is not None:
            target = replace(target, series=fetched(row.target.series, asked))
        return {"target": target, "payment_hash": asked.payment_hash, "expires_at": asked.expires_at}

    # -- ends ------------------------------------------------------------------------------------------

    async def _refuse(self, row: Payment, why: HiveError) -> HiveError:
        """Nothing was sent: free what was reserved, and answer why."""
        await self._db.write(lambda tx: self._failed(tx, row, Event.ON_REFUSED, why))
        return why

    async def _end(self, row: Payment, why: HiveError) -> Payment:
        return ended(await self._db.write(lambda tx: self._failed(tx, row, Event.ON_FAILED, why)))

    def _failed(self, tx: Tx, row: Payment, event: Event, why: HiveError) -> Payment:
        error = f"{why.symbol}: {why.detail}"[:500]
        if row.command_id is not None:
            # What was earned stays owed, and counted, however often paying it fails.
            return self._rows.move(tx, row, Event.ON_UNPAID, self._now(), error=error)
        after = self._rows.move(tx, row, event, self._now(), error=error)
        self._rows.count(tx, row, 0)
        return replace(after, counted_sats=0)

    async def _paid(self, row: Payment, found: Found) -> Payment:
        preimage, known = found.preimage, row.payment_hash or found.payment_hash
        if preimage is None or hashlib.sha256(bytes.fromhex(preimage)).hexdigest() != known:
            self._log("error", "payment_without_proof", payment_id=row.payment_id)
            return await self._lost(row)
        sats = sats_up(found.amount_msat) + sats_up(found.fee_msat) if found.ours else 0

        def body(tx: Tx) -> Payment:
            changes: dict[str, Any] = {
                "preimage": preimage,
                "payment_hash": known,
                "fee_msat": found.fee_msat,
            }
            after = self._rows.move(tx, row, Event.ON_PAID, self._now(), error=None, **changes)
            self._rows.count(tx, row, sats)
            if row.command_id is not None:
                self.on_debt_paid(tx, after)
            if row.period_key is not None:
                self.when_paid(tx, after)
            return replace(after, counted_sats=sats)

        return await self._db.write(body)

    async def _lost(self, row: Payment) -> Payment:
        if row.state is State.UNKNOWN:
            return row
        return await self._db.write(lambda tx: self._rows.move(tx, row, Event.ON_LOST, self._now()))

    async def _doubt(self, row: Payment, error: ClnError) -> Payment:
        """The node gave an error or none answered: its list says what is true, never the code."""
        try:
            found = await self._lightning.look(row)
        except ClnError:
            return await self._lost(row)
        if found.state == "complete":
            return await self._paid(row, found)
        if error.outcome_unknown or found.state == "pending":
            return await self._lost(row)
        # The call is over and left no part under way.
        return await self._end(row, self._why(error))

    def _why(self, error: ClnError) -> HiveError:
        text, reason = WHY.get(error.code, (f"the node refused to pay (code {error.code})", None))
        return failed(text, reason)

    # -- afterwards ------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Find out what became of payments without an end; at the start, then every minute."""
        async with self._looking:
            rows = await self._db.read(lambda tx: self._rows.in_states(tx, OPEN))
            reached = True
            with self._alone.round("payments") as alone:
                for row in rows:
                    if row.payment_id in self._live or row.kind == CASHU:
                        # What became of ecash its mint says (services.bearer_pay).
                        continue
                    with alone(row.payment_id):
                        try:
                            await self._settle(row)
                        except ClnError:
                            reached = False
                        except Conflict:
                            # Its own task has moved it on.
                            continue
                        except (StoreError, Busy):
                            raise
                        except Exception:
                            await self._tell(
                                row, "has an end that this version cannot read from the node's list"
                            )
                            raise
            self._looked = self._looked or reached

    async def _settle(self, row: Payment) -> None:
        if row.state is State.RESERVED and row.command_id is not None:
            # Its command runs, or its end is not proved.
            return
        if row.state is State.RESERVED:
            why = failed("the plugin stopped before the node was told to pay", None)
            await self._db.write(lambda tx: self._failed(tx, row, Event.ON_REFUSED, why))
            return
        row = await self._lost(row)
        found = await self._lightning.look(row)
        if found.state == "complete":
            await self._paid(row, found)
            return
        assert row.sent_at is not None and row.sent_index is not None
        if self._now() < row.sent_at + SETTLE_S:
            return
        if found.state == "pending":
            await self._tell(row, "is under way for more than three minutes: a node on its route holds it up")
            return
        if found.state == "none" and not await self._lightning.none_missing(row.sent_index):
            what = "was perhaps made: payments of that time were deleted from the node's list; see its books"
            await self._tell(row, what)
            return
        why = failed(
            "every attempt to pay failed" if found.state == "failed" else "the node never began to pay", None
        )
        await self._db.write(lambda tx: self._failed(tx, row, Event.ON_FAILED, why))

    async def _tell(self, row: Payment, what: str) -> None:
        if row.payment_id in self._told:
            return
        self._told.add(row.payment_id)
        text = f"payment {row.payment_id} of {sats_up(row.amount_msat)} sat {what}; it stays reserved"
        key = f"payment_unknown:{row.payment_id}"
        await self._db.write(
            lambda tx: self._alerts.raise_in(tx, Level.CRITICAL, "payment_unknown", text, key)
        )

    async def paying(self, payment_hash: str) -> str | None:
        """The payment of a hash that has no end yet, by its id."""
        rows = await self._db.read(lambda tx: self._rows.by_hash(tx, payment_hash, OUT))
        return next((row.payment_id for row in rows if row.state in OPEN), None)

    async def knows(self, key: str) -> bool:
        """Whether an order with this idempotency key was given before."""
        return await self._db.read(lambda tx: self._rows.by_key(tx, key)) is not None

    async def find(self, *, payment_id: str = "", key: str = "", payment_hash: str = "") -> Payment:
        """The payment of an id, a key or a hash; of a hash the one that counts. Raises NotFound."""

        def body(tx: Tx) -> Payment | None:
            if payment_id:
                return self._rows.get(tx, payment_id)
            if key:
                return self._rows.by_key(tx, key)
            return next(iter(self._rows.by_hash(tx, payment_hash, OUT)), None)

        row = await self._db.read(body)
        if row is None or row.direction != OUT:
            raise NotFound("no payment has this id, key or hash")
        return await self._looked_up(row)


def ended(row: Payment) -> Payment:
    """The payment, unless nothing was paid. Raises PaymentFailed then."""
    if row.state is not State.FAILED:
        return row
    reason, _, text = (row.error or "payment_failed: nothing was paid").partition(": ")
    error = PaymentFailed(
        f"{text.partition(_UNPAID)[0]}{_UNPAID}, and this key is used up: {_ANEW}",
        reason=None if reason == "payment_failed" else reason,
    )
    error.data["payment_id"] = row.payment_id
    raise error


def _notes(order: Order) -> dict[str, Any]:
    return {"payer_note": order.payer_note, "note": order.note, "tlvs": dict(order.tlvs)}


def _unreachable(error: ClnError, again: str = "try again") -> HiveError:
    if error.outcome_unknown:
        return Busy(f"the node does not answer{_UNPAID}, {again}")
    return failed(f"the node refused {error.method} (code {error.code})", None)
