"""The invoice of a period: asked of the agent, checked, told to be paid
(docs/protocol/03-escrow-and-payments.md §7.4; 11-advisor-kit.md §15.8, §15.10; docs/decisions/0640).

That the agent was asked, and what it gave, stands in the subscription's row; asking is a letter in the same
transaction. So a kill loses neither, and of a period one invoice is paid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.errors import Conflict, NotFound, Unauthorized
from hive_shared.invoice_messages import INVOICE_REQUEST, Invoice, InvoiceRequest, body_doc, read_body
from hive_shared.market.dues import period_due
from hive_shared.signed_message import Draft
from hive_shared.store import Tx

from ..domain.lightning_invoice import sats_up
from ..domain.payment import Payment
from ..domain.recurrence import DAY_S, RETRIES_S
from ..domain.subscription import INVOICES, Subscription
from ..domain.subscription_machine import Event, State
from .asked_invoice import check_unused, read_answer
from .debts import Letters, Pushes
from .ports_commands import Database
from .ports_payments import Lightning, PaymentRows, SubscriptionRows

KEY: Final = "subscription"
"""Begins the idempotency key of a request; `:<sub_id>:<period>:<time>` follows."""
MOST_ASKS: Final = len(RETRIES_S) + 1
UNHEARD_S: Final = 3_600
"""So long after the begin it is waited for an agent that has not said that it holds its credential."""
SILENCE: Final = "its agent gave no invoice that could be paid, though asked several times"


class Whom(msgspec.Struct, frozen=True):
    """Who is asked: the agent's key, and the contract or credential by which it is owed the fee; `until`
    (Unix s) that ends, None where the end plays no part. `there`: it has said that it holds its credential,
    before which it may not know us."""

    agent_key: str
    context: str
    until: int | None = None
    there: bool = True


class Agreements(Protocol):
    """Which agreement a subscription stands on (plugin.subscriptions)."""

    def whom(self, tx: Tx, row: Subscription) -> Whom | None:
        """None where no agreement says this fee by bolt11: its invoices are the operator's to bring."""
        ...

    def over(self, tx: Tx, contract_id: str) -> bool:
        """Whether a contract has ended."""
        ...


class PeriodInvoices:
    """Asks and takes. `on_taken` is told after the commit that there is something to pay."""

    def __init__(
        self,
        db: Database,
        rows: SubscriptionRows,
        payments: PaymentRows,
        lightning: Lightning,
        letters: Letters,
        push: Pushes,
        agreements: Agreements,
        *,
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._payments = db, rows, payments
        self._lightning, self._letters, self._push = lightning, letters, push
        self._agreements, self._now = agreements, now
        self.on_taken: Callable[[], None] = lambda: None

    async def whom(self, row: Subscription) -> Whom | None:
        """Who is asked for the invoices of a subscription; None: its operator brings them."""
        return await self._db.read(lambda tx: self._agreements.whom(tx, row))

    async def over(self, row: Subscription) -> bool:
        """Whether the contract that began it has ended."""
        return await self._db.read(lambda tx: self.over_in(tx, row))

    def over_in(self, tx: Tx, row: Subscription) -> bool:
        """The same inside a transaction."""
        return row.contract_id is not None and self._agreements.over(tx, row.contract_id)

    def last(self, tx: Tx, row: Subscription, following: int) -> bool:
        """Whether no period begins at `following` (Unix s) any more: its contract has ended by then."""
        whom = self._agreements.whom(tx, row) if row.contract_id is not None else None
        return whom is not None and whom.until is not None and following >= whom.until

    async def good(self, row: Subscription) -> bool:
        """Whether the invoice that the agent gave can still be paid. Raises ClnError."""
        if row.invoice is None:
            return False
        asked = await self._lightning.read(row.invoice)
        return asked.expires_at is None or asked.expires_at >= self._now() + 60

    async def ask(self, row: Subscription, whom: Whom) -> bool:
        """Ask for the invoice of the due period: at once, after 1, 4 and 12 hours, and wait a day then.
        False when the agent stayed silent, or nothing is due any more."""
        now = self._now()
        if not whom.there and now < row.window_start + UNHEARD_S:
            return True
        purpose, sats = period_due(row.amount_sats, row.window_start, whom.until)
        if row.asks >= MOST_ASKS or not sats:
            return False
        pause = RETRIES_S[row.asks] if row.asks < len(RETRIES_S) else DAY_S
        request = InvoiceRequest(
            purpose=purpose,
            amount_sats=sats,
            due_at=row.window_end,
            idempotency_key=f"{KEY}:{row.sub_id}:{row.recurrence_counter}:{now}",
            contract_id=whom.context,
            period_start=row.window_start,
        )

        def body(tx: Tx) -> None:
            self._rows.note(
                *(tx, row, now),
                asks=row.asks + 1,
                asked_sats=sats,
                invoice=None,
                next_due=min(now + pause, row.window_end + 1),
            )
            self._letters.put(
                tx,
                whom.agent_key,
                body_doc(request),
                schema=INVOICE_REQUEST,
                key=f"invoice_request:{request.idempotency_key}",
                expires_at=now + DAY_S,
            )

        await self._db.write(body)
        self._letters.kick()
        return True

    async def take(self, message: Draft, sender: str) -> None:
        """The agent's answer: kept, and paid soon. It also ends a suspension that its silence brought.

        Raises InvalidParams, NotFound, Unauthorized, Conflict, PaymentFailed, Busy.
        """
        invoice = read_body(message.body, Invoice)
        row = await self._asked(invoice.idempotency_key, sender)
        if row.invoice == invoice.bolt11:
            return
        if row.invoice is not None:
            raise Conflict("another invoice of this period was taken", reason="already_invoiced")
        now = self._now()
        asked = await read_answer(self._lightning, invoice.bolt11, row.asked_sats * 1_000, now)

        def body(tx: Tx) -> None:
            check_unused(tx, self._payments, str(asked.payment_hash))
            self._rows.move(
                *(tx, row, Event.ON_INVOICED, now), asks=1, invoice=asked.text, next_due=now, error=None
            )

        await self._db.write(body)
        self.on_taken()

    async def _asked(self, key: str, sender: str) -> Subscription:
        """The subscription whose due period a request was for. Raises NotFound, Unauthorized, Conflict."""
        sub_id, _, rest = key.removeprefix(f"{KEY}:").partition(":")

        def body(tx: Tx) -> tuple[Subscription | None, Whom | None]:
            row = self._rows.get(tx, sub_id)
            return row, None if row is None else self._agreements.whom(tx, row)

        row, whom = await self._db.read(body)
        if row is None or row.kind != INVOICES:
            raise NotFound(f"nobody asked for an invoice under {key}")
        if whom is None or whom.agent_key != sender:
            raise Unauthorized("the invoice was asked of another agent")
        due = rest.partition(":")[0] == str(row.recurrence_counter)
        if row.state is State.ENDED or not row.asks or not due or self._now() > row.window_end:
            raise Conflict("the invoice of this period is waited for no more", reason="stale_state")
        return row

    def told(self, tx: Tx, row: Subscription, payment: Payment) -> None:
        """A period is paid: the agent gets the proof, in the transaction that stores it."""
        whom = self._agreements.whom(tx, row)
        if whom is None or payment.payment_hash is None or payment.preimage is None:
            return
        body: dict[str, JsonValue] = {
            "payment_id": payment.payment_id,
            "purpose": "period",
            "contract_id": whom.context,
            "method": payment.kind,
            "amount_sats": sats_up(payment.amount_msat),
            "payment_hash": payment.payment_hash,
            "state": payment.state.value,
            "preimage": payment.preimage,
        }
        self._push.push(tx, whom.agent_key, "payment_notice", body)

    def kick(self) -> None:
        """Send what was put for agents; call after the commit."""
        self._push.kick()
