"""What nodes owe us: invoices made and handed out, payment noticed (docs/protocol/11-advisor-kit.md §8,
§15.8, §15.10, §15.11).

An invoice is handed out only once it is on disk, and there is one for a debt at any time: the next is made
when the one before ran out and our wallet says that it was not paid.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final, Protocol

from hive_shared.errors import Conflict, HiveError, InvalidParams, NotFound, PaymentFailed
from hive_shared.invoice_messages import INVOICE, Invoice, InvoiceRequest, Purpose, body_doc, read_body
from hive_shared.row_by_row import Alone, RowByRow
from hive_shared.signed_message import Draft
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from hive_advisor.domain.command_machine import UNSIGNED, did_nothing
from hive_advisor.domain.earning import (
    ANSWER_EXPIRY_S,
    MADE_EXPIRY_S,
    UNPAID_AFTER_S,
    WORK_EXPIRY_S,
    Asked,
    Earning,
    EarningEvent,
    EarningState,
    Made,
    Order,
    agreed_sats,
    check_invoice,
    look_pause_s,
    next_state,
    shows,
)
from hive_advisor.domain.rows import Client, StoredCommand
from hive_advisor.services.monthly_fees import MonthlyFees, other_amount
from hive_advisor.services.ports import ClientRows, CommandRows, RecordRows
from hive_advisor.services.ports_money import WayIn
from hive_advisor.services.signed_mail import SignedMail

_AT_ONCE: Final = 8
_PER_ROUND: Final = 40
_LOOKED_AFTER_S: Final = 7 * 86_400
"""How long after an invoice ran out our wallet is asked for it."""
_NEVER_CAME_S: Final = 3_600
_DUE_WITHIN_S: Final = 86_400
CASHU: Final = "cashu"
"""Way of an earning that is paid by ecash."""


class InvoiceRows(Protocol):
    """storage.invoice_store.InvoiceStore, where the methods are described."""

    def add(self, tx: Tx, earning: Earning) -> None: ...
    def put(self, tx: Tx, earning: Earning, was: EarningState) -> bool: ...
    def get(self, tx: Tx, earning_id: str) -> Earning | None: ...
    def of_command(self, tx: Tx, command_id: str) -> Earning | None: ...
    def of_request(self, tx: Tx, client_id: str, key: str) -> Earning | None: ...
    def of_hash(self, tx: Tx, payment_hash: str) -> Earning | None: ...
    def find(self, tx: Tx, prefix: str) -> list[Earning]: ...
    def newest(self, tx: Tx, limit: int) -> list[Earning]: ...
    def open(self, tx: Tx) -> list[Earning]: ...
    def to_look_at(self, tx: Tx, now: int, oldest: int, limit: int) -> list[Earning]: ...
    def asked(self, tx: Tx, limit: int) -> list[Earning]: ...


class EarningService:
    """Owns what is owed to us. `way(None)` is the way in of the configuration, `way(name)` the one that made
    an invoice before; both None where there is none. `retried` tells whether a command that did nothing is
    yet to be planned anew."""

    def __init__(
        self,
        db: Db,
        rows: InvoiceRows,
        commands: CommandRows,
        clients: ClientRows,
        records: RecordRows,
        mail: SignedMail,
        fees: MonthlyFees,
        way: Callable[[str | None], Awaitable[WayIn | None]],
        retried: Callable[[Tx, StoredCommand], bool],
        *,
        now: Callable[[], int],
        new_id: Callable[[], str],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        alone: RowByRow,
    ) -> None:
        self._alone = alone
        self._db, self._rows, self._commands, self._clients = db, rows, commands, clients
        self._records, self._mail, self._way, self._retried = records, mail, way, retried
        self._now, self._new_id, self._spawn = now, new_id, spawn
        self._fees = fees
        self._making, self._looking = asyncio.Lock(), asyncio.Semaphore(_AT_ONCE)
        self._told: set[str] = set()
        self.on_token: Callable[[Client, dict[str, Any]], Awaitable[None]] | None = None

    async def claimed(self, client: Client, command_id: str, amount_sats: int) -> Earning:
        """What a command not yet sent is to earn, paid without an invoice. Claimed again, it is the same.
        Raises Conflict where another amount was claimed, or it is paid."""
        now = self._now()
        earning = Earning(
            earning_id=self._new_id(),
            client_id=client.client_id,
            purpose=str(Purpose.ACTION),
            command_id=command_id,
            amount_sats=amount_sats,
            state=EarningState.DUE,
            due_at=now,
            created=now,
            updated=now,
        )
        return await self._db.write(lambda tx: self._claimed(tx, earning))

    def _claimed(self, tx: Tx, earning: Earning) -> Earning:
        known = self._rows.of_command(tx, earning.command_id)
        if known is None:
            self._rows.add(tx, earning)
            return earning
        if known.amount_sats != earning.amount_sats:
            raise Conflict(
                f"{known.amount_sats} sat were claimed for this before, now the node pays"
                f" {earning.amount_sats} sat: send it as a command of its own"
            )
        if known.state == EarningState.PAID:
            raise Conflict("it is paid", reason="already_paid")
        self._move(tx, known, EarningEvent.ON_INVOICED if known.invoice else EarningEvent.ON_CLAIMED, "")
        return self._rows.get(tx, known.earning_id) or known

    # -- invoices ------------------------------------------------------------------------------------

    async def order(self, client: Client, command_id: str, amount_sats: int, pasted: str = "") -> Earning:
        """The invoice that a command not yet sent is to be paid by: of the way in, or `pasted`. Raises
        PaymentFailed, TransportUnavailable, Unsupported; then nothing came of it."""
        earning = await self.claimed(client, command_id, amount_sats)
        try:
            return await self.invoice(earning, pasted, least_s=WORK_EXPIRY_S)
        except HiveError:
            # The command is not sent then.
            await self._db.write(lambda tx: self._move(tx, earning, EarningEvent.ON_NOT_RUN, ""))
            raise

    async def invoice(self, earning: Earning, pasted: str = "", *, least_s: int = ANSWER_EXPIRY_S) -> Earning:
        """The invoice by which it can be paid now, good for `least_s` at least; a new one only where there is
        none that is. Raises Conflict (paid), PaymentFailed, TransportUnavailable, Unsupported."""
        async with self._making:
            current = await self._current(earning)
            if current.live(self._now(), least_s):
                if pasted and pasted.lower() != current.invoice.lower():
                    raise Conflict("it has an invoice that can still be paid; a second one could be paid too")
                return await self._db.write(lambda tx: self._answered(tx, self._owed_again(tx, current)))
            if current.live(self._now(), 0):
                raise Conflict(
                    f"its invoice is good until {current.expires_at} only; a new one is made when it ran out"
                )
            if current.invoice and await self._seen_paid(current):
                raise Conflict("it is paid", reason="already_paid")
            return await self._made(current, pasted, least_s)

    async def _made(self, current: Earning, pasted: str, least_s: int) -> Earning:
        client = await self._db.read(lambda tx: self._clients.by_id(tx, current.client_id))
        if client is None:
            raise NotFound("the client who owes it is gone")
        number = len(current.former) + bool(current.invoice)
        order = Order(
            label=f"hive-advisor:{current.earning_id}:{number}",
            amount_sats=current.amount_sats,
            network=client.network,
            description=f"{current.purpose} {current.command_id}",
            expiry_s=max(MADE_EXPIRY_S, least_s),
        )
        way, made = "manual", Made(pasted)
        if not pasted:
            found = await self._way(None)
            if found is None:
                raise InvalidParams(
                    "no way in makes invoices: set receive.method in config.toml, or give an invoice of your"
                    " wallet with --invoice",
                    reason="no_way_in",
                )
            way, made = found.name, await found.make(order)
        now = self._now()
        invoice = check_invoice(made.invoice, order, least_s, now)

        def body(tx: Tx) -> Earning:
            if self._rows.of_hash(tx, invoice.payment_hash) is not None:
                raise PaymentFailed("this invoice was handed out before", reason="invoice_mismatch")
            to = next_state(current.state, EarningEvent.ON_INVOICED)
            if to is None or self._void(tx, current):
                raise Conflict(f"nothing is to be paid: it is {current.state}")
            former = (*current.former, *((current.payment_hash,) if current.payment_hash else ()))
            fresh = replace(
                current,
                state=to,
                way=way,
                invoice=made.invoice,
                payment_hash=invoice.payment_hash,
                expires_at=invoice.expires_at,
                look_at=made.look_at,
                looks=0,
                next_look=now + look_pause_s(0),
                former=former,
                updated=now,
            )
            self._put(tx, fresh, current)
            return self._answered(tx, fresh)

        return await self._db.write(body)

    def _void(self, tx: Tx, earning: Earning) -> bool:
        """Whether it is void, and no command of its line was more than refused."""
        command = self._commands.get(tx, earning.command_id)
        void = earning.state == EarningState.VOID
        return void and (command is None or self._came_to_nothing(tx, command))

    def _owed_again(self, tx: Tx, earning: Earning) -> Earning:
        """It as it is; a void one whose command ran after all is owed by its invoice again."""
        if earning.state == EarningState.VOID and not self._void(tx, earning):
            self._move(tx, earning, EarningEvent.ON_INVOICED, "")
        return self._rows.get(tx, earning.earning_id) or earning

    async def _current(self, earning: Earning) -> Earning:
        found = await self._db.read(lambda tx: self._rows.get(tx, earning.earning_id))
        if found is None:
            raise NotFound("it was forgotten meanwhile")
        if found.state == EarningState.PAID:
            raise Conflict("it is paid", reason="already_paid")
        return found

    # -- what nodes ask and say ----------------------------------------------------------------------

    async def requested(self, client: Client, message: Draft, agent_key: str) -> None:
        """An `invoice_request` (11 §15.10): answered when what it is for, and the amount, are those we know.
        Raises InvalidParams, NotFound, Conflict."""
        request = read_body(message.body, InvoiceRequest)
        asked = Asked(message.msg_id, request.idempotency_key, agent_key)
        await self._db.write(lambda tx: self._note(tx, client, request, asked))
        self._spawn(self._answer())

    def _note(self, tx: Tx, client: Client, request: InvoiceRequest, asked: Asked) -> None:
        if request.command_id is None:
            self._wait(tx, self._of_period(tx, client, request, asked), asked)
            return
        if request.purpose != Purpose.ACTION:
            raise InvalidParams(f"a command is paid for as action, not as {request.purpose}")
        known = self._rows.of_request(tx, client.client_id, asked.key)
        command = self._commands.get(tx, request.command_id)
        if command is None or command.client_id != client.client_id:
            raise NotFound(f"command {request.command_id} is none of ours", reason="not_found")
        if known is not None and (
            known.amount_sats != request.amount_sats or known.command_id not in self._line(tx, command)
        ):
            raise _other_request()
        if command.state in UNSIGNED or did_nothing(command.state, command.slug):
            raise Conflict(f"command {command.command_id} is {command.state}: nothing is owed for it")
        self._wait(tx, self._owed(tx, command, request), asked)

    def _wait(self, tx: Tx, earning: Earning, asked: Asked) -> None:
        """A node waits for the invoice of what it owes. Raises Conflict for what is paid."""
        if earning.state == EarningState.PAID:
            what = "command" if earning.work else "period"
            raise Conflict(f"{what} {earning.command_id} is paid", reason="already_paid")
        key = earning.request_key or asked.key
        noted = replace(earning, asked=asked, request_key=key, updated=self._now())
        self._put(tx, noted, earning)

    def _of_period(self, tx: Tx, client: Client, request: InvoiceRequest, asked: Asked) -> Earning:
        """What is owed for a period, noted now if it was not. Raises as MonthlyFees.owed does."""
        found = self._fees.owed(tx, client, request)
        name = found if isinstance(found, str) else found.command_id
        before = self._rows.of_request(tx, client.client_id, asked.key)
        if before is not None and before.command_id != name:
            raise _other_request()
        if isinstance(found, Earning):
            return found
        return self._noted(tx, client.client_id, name, request)

    def _owed(self, tx: Tx, command: StoredCommand, request: InvoiceRequest) -> Earning:
        """What is owed for a command, noted now if it was not. Raises InvalidParams for another amount."""
        for command_id in self._line(tx, command):
            known = self._rows.of_command(tx, command_id)
            if known is not None:
                if known.amount_sats != request.amount_sats:
                    raise other_amount(request, known.amount_sats)
                return known
        credential = self._clients.credential(tx, command.credential_id)
        agreed = 0 if credential is None else agreed_sats(credential.document, command.total_danger)
        if agreed != request.amount_sats:
            raise other_amount(request, agreed)
        return self._noted(tx, command.client_id, command.command_id, request)

    def _noted(self, tx: Tx, client_id: str, name: str, request: InvoiceRequest) -> Earning:
        now = self._now()
        made = Earning(
            earning_id=self._new_id(),
            client_id=client_id,
            purpose=str(request.purpose),
            command_id=name,
            amount_sats=request.amount_sats,
            state=EarningState.DUE,
            # A node's word does not put off when an unpaid debt is told of.
            due_at=min(request.due_at, now + _DUE_WITHIN_S),
            created=now,
            updated=now,
        )
        self._rows.add(tx, made)
        return made

    def _line(self, tx: Tx, command: StoredCommand) -> list[str]:
        """The command, and those it was planned instead of."""
        found: list[str] = []
        current: StoredCommand | None = command
        while current is not None and current.command_id not in found:
            found.append(current.command_id)
            current = None if current.retry_of is None else self._commands.get(tx, current.retry_of)
        return found

    async def _answer(self) -> None:
        """Make the invoices that nodes wait for; where that fails it is tried in the next round."""
        with self._alone.round("invoices that are asked for") as alone:
            for earning in await self._db.read(lambda tx: self._rows.asked(tx, _PER_ROUND)):
                with alone(earning.earning_id):
                    try:
                        await self.invoice(earning)
                    except HiveError as error:
                        await self._not_made(earning, error)
        self._mail.kick()

    async def _not_made(self, earning: Earning, error: HiveError) -> None:
        def body(tx: Tx) -> None:
            current = self._rows.get(tx, earning.earning_id)
            if current is None:
                return
            over = error.reason == "already_paid" or self._now() > current.updated + MADE_EXPIRY_S
            if over:
                self._put(tx, replace(current, asked=None), current)
            elif current.earning_id not in self._told:
                text = error.detail[:300]
                self._records.add_event(tx, "invoice_not_made", current.command_id, text, self._now())

        await self._db.write(body)
        self._told.add(earning.earning_id)

    def _answered(self, tx: Tx, earning: Earning) -> Earning:
        """Put the answer to the node that waits for this invoice, if one does."""
        asked = earning.asked
        client = self._clients.by_id(tx, earning.client_id)
        if asked is None or client is None:
            return earning
        body = Invoice(
            idempotency_key=asked.key,
            bolt11=earning.invoice,
            amount_sats=earning.amount_sats,
            expires_at=earning.expires_at,
        )
        self._mail.put(
            tx,
            client,
            INVOICE,
            body_doc(body),
            name=f"invoice:{asked.msg_id}",
            sender=asked.agent_key,
            answers=asked.msg_id,
        )
        told = replace(earning, asked=None)
        self._put(tx, told, earning)
        return told

    async def noticed(self, client: Client, params: dict[str, Any]) -> None:
        """A `payment_notice` (11 §15.8). Its preimage shows that we were paid; without one our wallet is
        asked soon, and nothing else comes of it. Ecash that it brings is kept. Raises InvalidParams for a
        preimage of another payment."""
        if params.get("method") == CASHU and self.on_token is not None:
            await self.on_token(client, params)
            return
        payment_hash, preimage = str(params.get("payment_hash")), params.get("preimage")
        if preimage is not None and not shows(str(preimage), payment_hash):
            raise InvalidParams("the preimage of the payment notice is not that of its payment hash")

        def body(tx: Tx) -> None:
            earning = self._rows.of_hash(tx, payment_hash)
            if earning is None or earning.client_id != client.client_id:
                return
            if preimage is not None:
                self._settle(tx, earning, "preimage", str(preimage))
            elif earning.state != EarningState.PAID:
                self._put(tx, replace(earning, looks=0, next_look=self._now()), earning)

        await self._db.write(body)

    # -- whether it was paid -------------------------------------------------------------------------

    async def received(self, payment_hash: str) -> None:
        """Our wallet says that something came: it is asked about it."""
        earning = await self._db.read(lambda tx: self._rows.of_hash(tx, payment_hash))
        if earning is not None and earning.state != EarningState.PAID:
            await self._look(earning)

    async def tick(self) -> None:
        """What is done again and again: look for payments, give up on old debts, answer requests."""
        with self._alone.round("debts that grow old") as alone:
            for earning, event in await self._db.read(partial(self._old, alone=alone)):
                with alone(earning.earning_id):
                    await self._db.write(partial(self._aged, earning=earning, event=event))
        now = self._now()
        due = await self._db.read(
            lambda tx: self._rows.to_look_at(tx, now, now - _LOOKED_AFTER_S, _PER_ROUND)
        )
        with self._alone.round("earnings") as alone:
            await asyncio.gather(*(self._look_alone(earning, alone) for earning in due))
        await self._answer()

    async def _look_alone(self, earning: Earning, alone: Alone) -> None:
        with alone(earning.earning_id):
            await self._look(earning)

    def _old(self, tx: Tx, alone: Alone) -> list[tuple[Earning, EarningEvent]]:
        """What was never run, or is overdue."""
        now, found = self._now(), []
        for earning in self._rows.open(tx):
            with alone(earning.earning_id):
                command = self._commands.get(tx, earning.command_id)
                never = earning.work and command is None and now > earning.created + _NEVER_CAME_S
                if never or (command is not None and self._came_to_nothing(tx, command)):
                    event = EarningEvent.ON_NOT_RUN
                elif now > earning.due_at + UNPAID_AFTER_S:
                    event = EarningEvent.ON_OVERDUE
                else:
                    continue
                if next_state(earning.state, event) is not None:
                    found.append((earning, event))
        return found

    def _aged(self, tx: Tx, earning: Earning, event: EarningEvent) -> None:
        current = self._rows.get(tx, earning.earning_id)
        if current == earning:  # nothing came of it since it was read
            self._move(tx, earning, event, "earning_unpaid" if event is EarningEvent.ON_OVERDUE else "")

    def _came_to_nothing(self, tx: Tx, command: StoredCommand) -> bool:
        """Whether a command did nothing, was not planned anew and will not be: what is planned anew is paid
        by the same invoice."""
        last = command
        while did_nothing(last.state, last.slug):
            anew = self._commands.retried_by(tx, last.command_id)
            if anew is None:
                return not self._retried(tx, last)
            last = anew
        return False

    async def _look(self, earning: Earning) -> None:
        async with self._looking:
            try:
                await self._seen_paid(earning)
            except HiveError:
                # The wallet says nothing now: it is asked again, ever less often.
                await self._db.write(lambda tx: self._later(tx, earning))

    async def _seen_paid(self, earning: Earning) -> bool:
        """Whether our wallet shows that it was paid; then it is. Raises what the way in raises."""
        way = await self._way(earning.way)
        sight = (
            None if way is None else await way.look(earning.payment_hash, earning.invoice, earning.look_at)
        )
        if sight is not None and sight.preimage and not shows(sight.preimage, earning.payment_hash):
            raise PaymentFailed("the wallet shows a preimage of another payment", reason="wallet_failed")

        def body(tx: Tx) -> bool:
            if sight is None or not sight.paid:
                self._later(tx, earning)
                return False
            current = self._rows.get(tx, earning.earning_id)
            if current is not None:
                self._settle(tx, current, "wallet", sight.preimage)
            return True

        return await self._db.write(body)

    def came(self, tx: Tx, command_id: str, net_sats: int) -> None:
        """Ecash for a command is ours: what it was to earn is paid, if it is that much."""
        command, now = self._commands.get(tx, command_id), self._now()
        line = [] if command is None else self._line(tx, command)
        known = (self._rows.of_command(tx, each) for each in line)
        earning = next((each for each in known if each is not None), None)
        if earning is None or earning.state == EarningState.PAID or net_sats < earning.amount_sats:
            owed = "" if earning is None else f", {earning.amount_sats} sat were owed"
            self._records.add_event(tx, "ecash_came", command_id, f"{net_sats} sat{owed}", now)
            return
        self._settle(tx, replace(earning, way=CASHU), "wallet", "")

    def _later(self, tx: Tx, earning: Earning) -> None:
        current = self._rows.get(tx, earning.earning_id)
        if current is not None and current.state != EarningState.PAID:
            again = self._now() + look_pause_s(current.looks)
            self._put(tx, replace(current, looks=current.looks + 1, next_look=again), current)

    def _settle(self, tx: Tx, earning: Earning, evidence: str, preimage: str) -> None:
        shown = replace(earning, evidence=evidence, preimage=preimage, asked=None)
        self._move(tx, shown, EarningEvent.ON_PAID, "earning_paid")

    def _move(self, tx: Tx, earning: Earning, event: EarningEvent, told: str) -> bool:
        to = next_state(earning.state, event)
        if to is None:
            return False
        now = self._now()
        self._put(tx, replace(earning, state=to, updated=now), earning)
        if told:
            text = f"{earning.amount_sats} sat, {earning.evidence or 'nothing shows that it was paid'}"
            self._records.add_event(tx, told, earning.command_id, text, now)
        return True

    def _put(self, tx: Tx, earning: Earning, was: Earning) -> None:
        if not self._rows.put(tx, earning, was.state):
            raise Conflict("it moved meanwhile; look at it again")

    # -- people --------------------------------------------------------------------------------------

    async def get(self, name: str) -> Earning:
        """By its id, its command's id, or the beginning of one, 4 characters at least. Raises InvalidParams,
        NotFound."""
        if not 4 <= len(name) <= 36 or not set(name) <= set("0123456789abcdef-"):
            raise InvalidParams(
                f"{name[:40]!a} is no id of an earning or a command, nor the beginning of one"
            )
        found = await self._db.read(lambda tx: self._rows.find(tx, name))
        if len(found) != 1:
            what = "fits several earnings" if found else "is no earning"
            raise NotFound(f"{name!r} {what}; see 'hive-advisor pay list'")
        return found[0]

    async def of_command(self, command_id: str) -> Earning | None:
        """What is owed for a command."""
        return await self._db.read(lambda tx: self._rows.of_command(tx, command_id))

    async def listed(self, limit: int) -> list[Earning]:
        """The newest first."""
        return await self._db.read(lambda tx: self._rows.newest(tx, limit))

    async def dispute(self, earning: Earning) -> Earning:
        """A human says that it is owed and was not paid. Raises Conflict where nothing can be disputed."""

        def body(tx: Tx) -> Earning:
            current = self._rows.get(tx, earning.earning_id) or earning
            if not self._move(tx, current, EarningEvent.ON_DISPUTED, "earning_disputed"):
                raise Conflict(f"it is {current.state}: there is nothing to dispute")
            return self._rows.get(tx, earning.earning_id) or current

        return await self._db.write(body)


def _other_request() -> HiveError:
    return Conflict(
        "the same idempotency_key asked for another invoice before", reason="idempotency_conflict"
    )
