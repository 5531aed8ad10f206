"""What the node owes agents for commands that succeeded: paid after the receipt, asked for anew where no
invoice is good any more (docs/protocol/02-fleet-management.md §8; 03 §7; 11 §15.8, §15.10).

A debt is one row of comms_payments under the key of its command, and is paid at most once: a try that failed
for good leaves it owed, one whose end is not known is looked for and never repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import Conflict, HiveError, NotFound, Unauthorized
from hive_shared.invoice_messages import (
    INVOICE_REQUEST,
    Invoice,
    InvoiceRequest,
    Purpose,
    body_doc,
    read_body,
)
from hive_shared.row_by_row import Alone, RowByRow
from hive_shared.signed_message import Draft
from hive_shared.store import StoreError, Tx
from msgspec.structs import replace

from ..domain.command_machine import State as CommandState
from ..domain.lightning_invoice import sats_up
from ..domain.payment import CASHU, OUT, Payment, Target
from ..domain.payment_checks import LEAST_LEFT_S
from ..domain.payment_machine import Event, State
from .asked_invoice import check_unused, read_answer
from .bearer_pay import BearerPay
from .payment_service import PaymentService
from .ports_commands import Alerts, CommandRows, Database, Log
from .ports_payments import Lightning, PaymentRows

AGAIN_S: Final = 600
"""Between two tries to pay a debt by the same invoice."""
AT_ONCE: Final = 4
"""Debts that are being paid."""
ASK_EVERY_S: Final = 86_400
"""An agent that gave no invoice is asked once a day."""
ASKED_DAYS: Final = 14
"""For so long; the operator is told then."""
UNPROVEN_S: Final = 30 * 86_400
"""After that what an indeterminate command may have earned is not held any longer."""
_OWED: Final = (State.OWED, State.RESERVED, State.SENDING, State.UNKNOWN)


class Letters(Protocol):
    """Signed messages in the caller's transaction (services.messenger_signed.SignedMessages)."""

    def put(
        self, tx: Tx, recipient: str, body: JsonValue, *, schema: str, key: str, expires_at: int
    ) -> None: ...
    def kick(self) -> None: ...


class Pushes(Protocol):
    """Pushes to agents (services.command_push.CommandPush)."""

    def push(self, tx: Tx, recipient: str, action: str, payload: dict[str, JsonValue]) -> int: ...
    def kick(self) -> None: ...


class Debts:
    """Pays debts and asks for invoices."""

    def __init__(
        self,
        *,
        db: Database,
        rows: PaymentRows,
        commands: CommandRows,
        payments: PaymentService,
        lightning: Lightning,
        letters: Letters,
        push: Pushes,
        alerts: Alerts,
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._db, self._rows, self._commands, self._payments = db, rows, commands, payments
        self._lightning, self._letters, self._push, self._alerts = lightning, letters, push, alerts
        self._now, self._log, self._alone = now, log, RowByRow(log)
        self._rounds: set[asyncio.Task[None]] = set()
        self._again = False
        # One debt may wait for its route, or its mint, for more than a minute: the others do not.
        self._slots, self._at_work = asyncio.Semaphore(AT_ONCE), set[str]()
        self._told: set[str] = set()
        self.bearer: BearerPay | None = None

    # -- paying -------------------------------------------------------------------------------------------

    def kick(self) -> None:
        """Something is owed: pay it soon, whatever is being paid. Returns at once."""
        if self._again:
            return
        self._again = True
        task = asyncio.ensure_future(self._run())
        self._rounds.add(task)
        task.add_done_callback(self._rounds.discard)

    async def _run(self) -> None:
        self._again = False
        try:
            await self.pay_due()
        except StoreError:
            # The loop of every minute tries again.
            self._log("error", "debts_not_paid")

    async def drain(self) -> None:
        """Wait for what `kick` began."""
        while self._rounds:
            await asyncio.gather(*self._rounds)

    async def pay_due(self) -> None:
        """Pay what is owed and can be paid, a few at once, ask for the invoices that miss; also run every
        minute. Returns when each that nobody else was at has been looked after."""
        with self._alone.round("debts") as alone:
            rows = await self._db.read(lambda tx: self._rows.in_states(tx, _OWED))
            turns = (self._in_turn(row, alone) for row in rows if _ours(row))
            # Each to its end: a payment that was begun is not given up for what befell another.
            for outcome in await asyncio.gather(*turns, return_exceptions=True):
                if outcome is not None:
                    raise outcome
        self._push.kick()

    async def _in_turn(self, row: Payment, alone: Alone) -> None:
        if row.payment_id in self._at_work:
            return
        self._at_work.add(row.payment_id)
        try:
            async with self._slots:
                with alone(row.payment_id):
                    try:
                        # While it waited it may have been paid, or closed.
                        current = await self._db.read(lambda tx: self._rows.get(tx, row.payment_id))
                        if current is not None and _ours(current):
                            await self._look_after(current)
                    except (HiveError, ClnError) as error:
                        why = error.symbol if isinstance(error, HiveError) else type(error).__name__
                        self._log("info", "debt_not_paid", payment_id=row.payment_id, why=why)
        finally:
            self._at_work.discard(row.payment_id)

    async def _look_after(self, row: Payment) -> None:
        now = self._now()
        if row.state is State.RESERVED:
            await self._give_up_unproven(row)
        elif row.kind == CASHU:
            if self.bearer is not None and (
                row.state is not State.OWED or row.error is None or now >= row.updated_at + AGAIN_S
            ):
                await self.bearer.pay(row)
        elif row.target.invoice is None or (
            row.expires_at is not None and row.expires_at < now + LEAST_LEFT_S
        ):
            await self._db.write(lambda tx: self._ask(tx, row))
            self._letters.kick()
        elif row.error is None or now >= row.updated_at + AGAIN_S:
            await self._payments.pay_debt(row)

    async def _give_up_unproven(self, row: Payment) -> None:
        if self._now() < row.created_at + UNPROVEN_S:
            return

        def body(tx: Tx) -> None:
            command = self._commands.get(tx, row.command_id or "")
            if command is None or command.state == CommandState.INDETERMINATE:
                error = "not_due: whether the command succeeded was never proved"
                self._rows.move(tx, row, Event.ON_REFUSED, self._now(), error=error)
                self._rows.count(tx, row, 0)

        await self._db.write(body)

    async def close(self, payment_id: str, note: str) -> Payment:
        """The operator paid a debt in another way, or does not owe it: nothing is asked for or paid any more,
        also no invoice that comes late (0690). Raises NotFound, and Conflict for what is not owed, or is
        being paid."""

        def body(tx: Tx) -> Payment:
            row = self._rows.get(tx, payment_id)
            if row is None:
                raise NotFound(f"there is no payment {payment_id[:40]!a} (action=history lists them)")
            if row.direction != OUT or row.command_id is None or row.state is not State.OWED:
                raise Conflict(
                    f"payment {payment_id} is {row.state}: only what is owed to an agent, and is not being"
                    " paid, can be closed",
                    reason="stale_state",
                )
            error = f"closed by the operator: {note}" if note else "closed by the operator"
            after = self._rows.move(tx, row, Event.ON_CLOSED, self._now(), error=error)
            self._rows.count(tx, row, 0)
            return replace(after, counted_sats=0)

        return await self._db.write(body)

    def told(self, tx: Tx, row: Payment) -> None:
        """A debt is paid: its agent gets the proof, in the transaction that stores it."""
        assert row.command_id is not None and row.bound_to is not None and row.payment_hash is not None
        body: dict[str, JsonValue] = {
            "payment_id": row.payment_id,
            "purpose": row.purpose,
            "command_id": row.command_id,
            "method": row.kind,
            "amount_sats": sats_up(row.amount_msat),
            "payment_hash": row.payment_hash,
            "state": row.state.value,
        }
        if row.preimage is not None:
            body["preimage"] = row.preimage
        self._push.push(tx, row.bound_to, "payment_notice", body)

    # -- asking for an invoice ----------------------------------------------------------------------------

    def _ask(self, tx: Tx, row: Payment) -> None:
        now = self._now()
        since = row.target.asked_since or row.created_at
        day = (now - since) // ASK_EVERY_S
        if day >= ASKED_DAYS:
            if row.payment_id in self._told:
                return
            self._told.add(row.payment_id)
            text = (
                f"{sats_up(row.amount_msat)} sat are owed for command {row.command_id}, but its agent gave no"
                f" invoice in {ASKED_DAYS} days; it is asked no more, one that it sends is still paid"
            )
            self._alerts.raise_in(
                tx, Level.WARNING, "debt_unclaimed", text, f"debt_unclaimed:{row.payment_id}"
            )
            return
        assert row.bound_to is not None
        request = InvoiceRequest(
            purpose=Purpose.ACTION,
            amount_sats=sats_up(row.amount_msat),
            due_at=since + ASKED_DAYS * ASK_EVERY_S,
            idempotency_key=f"{row.payment_id}:{day}",
            command_id=row.command_id,
        )
        self._letters.put(
            tx,
            row.bound_to,
            body_doc(request),
            schema=INVOICE_REQUEST,
            key=f"invoice_request:{request.idempotency_key}",
            expires_at=now + ASK_EVERY_S,
        )

    async def take_invoice(self, message: Draft, sender: str) -> None:
        """The agent's answer (hive:marketplace/invoice): checked like the invoice that came with the command,
        and paid. Raises InvalidParams, NotFound, Unauthorized, Conflict, PaymentFailed, Busy."""
        invoice = read_body(message.body, Invoice)
        payment_id = invoice.idempotency_key.partition(":")[0]
        row = await self._db.read(lambda tx: self._rows.get(tx, payment_id))
        if row is None or row.command_id is None:
            raise NotFound(f"nobody asked for an invoice under {invoice.idempotency_key}")
        if row.bound_to != sender:
            raise Unauthorized("the invoice was asked of another agent")
        if row.state is not State.OWED:
            raise Conflict(f"what the invoice is for is {row.state}", reason="stale_state")
        if row.kind == CASHU:
            # Nobody asked for it, and in the place of the lock it would leave no way to pay the debt.
            raise Conflict("what the invoice is for is paid by ecash", reason="stale_state")
        if row.target.invoice == invoice.bolt11:
            return
        asked = await read_answer(self._lightning, invoice.bolt11, row.amount_msat, self._now())
        good = row
        since = row.target.asked_since
        target = Target(asked.text, asked.text, asked.payee, asked_since=since)

        def body(tx: Tx) -> None:
            check_unused(tx, self._rows, str(asked.payment_hash), payment_id)
            self._rows.move(
                *(tx, replace(good, target=target), Event.ON_UNPAID),
                self._now(),
                payment_hash=asked.payment_hash,
                expires_at=asked.expires_at,
                error=None,
            )

        await self._db.write(body)
        self.kick()


def _ours(row: Payment) -> bool:
    """Whether a payment is a debt that is looked after here: one over Lightning only until it was sent."""
    if row.direction != OUT or row.command_id is None or row.state not in _OWED:
        return False
    return row.kind == CASHU or row.state in (State.OWED, State.RESERVED)
