"""Tickets that pay this node: handed over, checked before any work, earned, redeemed
(docs/protocol/03-escrow-and-payments.md §6.6, §6.7, §9 hive-client-escrow).

A message and the operator only write rows. The wallet's loop of locks redeems what may be redeemed, and items
follow their locks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from hive_shared.alerts import Alerts, Level
from hive_shared.cashu.escrow_inbox import MESSAGES_AN_HOUR, Windows
from hive_shared.cashu.escrow_ports import Database, Mail
from hive_shared.cashu.lock_machine import FINAL, LockState
from hive_shared.cashu.payee import PayeeEngine
from hive_shared.cashu.payee_rows import HeldItem, HeldTicket, Intake
from hive_shared.cashu.terms import Mode
from hive_shared.cashu.ticket_machine import PAYEE_ITEMS, PayeeEvent, PayeeItem
from hive_shared.cashu.ticket_messages import (
    MAX_MINTS_TOLD,
    Failure,
    Message,
    Metric,
    Owed,
    Redeemed,
    Release,
    Ticket,
    decode_message,
)
from hive_shared.errors import Capacity, NotFound, PaymentFailed, RateLimited
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.cashu_lock import LockRow, Role
from .payer_book import Announced, PayerBook
from .ports_identity import Log
from .received_rows import ReceivedTickets

VERBS: Final = ("ticket", "release", "failure", "metric", "owed")
"""Verbs of `hive:escrow` that a payee alone is sent."""
_MESSAGE_S: Final = 14 * 86_400
_AT_ONCE: Final = 500
_LEVELS: Final = {
    **dict.fromkeys(("ticket_refused", "ticket_owed", "ticket_taken_back"), Level.WARNING),
    "ticket_lost": Level.CRITICAL,
}
_WORDS: Final = {
    "ticket_accepted": "accepted, work for it is safe:",
    "ticket_refused": "refused, do no work for it:",
    "ticket_released": "earned:",
    "ticket_redeemed": "redeemed:",
    "ticket_lost": "earned, but its payer took it back:",
    "ticket_taken_back": "not earned in time, its payer took it back:",
    "ticket_metric": "measured:",
    "ticket_owed": "its payer says:",
}


class Locks(Protocol):
    """Who redeems (services.lock_service.LockService)."""

    async def redeem(self, preimages: Mapping[str, str], timeout: float = 30) -> tuple[LockRow, ...]: ...


class PayeeMail:
    """`payee_rows.Outgoing` among the node's messages of tickets."""

    def __init__(self, mail: Mail, now: Callable[[], int]) -> None:
        self._mail, self._now = mail, now

    def put(self, tx: Tx, peer: str, message: Message, key: str) -> None:
        """Store one with the transaction; the same key again is the same message."""
        self._mail.put(tx, peer, message, key=f"payee:{key}", expires_at=self._now() + _MESSAGE_S)


class PayeeAlerts:
    """The operator hears what became of a ticket. What a payer can say as often as it likes is one alert and
    a count: a flood of it would hide what else is wrong."""

    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts

    def __call__(self, tx: Tx, kind: str, ticket_id: str, text: str) -> None:
        words = f"ticket {ticket_id} for this node {_WORDS.get(kind, kind)} {text}"
        # Before the colon stands the reason of a refusal, the item of a claim.
        about = text.partition(":")[0][:80]
        key = f"{kind}:{about}" if kind == "ticket_refused" else f"{kind}:{ticket_id}:{about}"
        self._alerts.raise_in(tx, _LEVELS.get(kind, Level.INFO), "escrow", words, f"escrow:{key}")


class ReceivedTicketService:
    """Owns tickets in this node's favour. `kick`: what came is looked at soon."""

    def __init__(
        self,
        db: Database,
        rows: ReceivedTickets,
        engine: PayeeEngine,
        payers: PayerBook,
        locks: Locks,
        out: PayeeMail,
        mail: Mail,
        told: PayeeAlerts,
        *,
        windows: Windows,
        kick: Callable[[], None],
        now: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        log: Log,
    ) -> None:
        self._random, self._alone = random_bytes, RowByRow(log)
        self._db, self._rows, self._engine, self.payers = db, rows, engine, payers
        self._locks, self._out, self._mail, self._told = locks, out, mail, told
        self._windows, self._kick, self._now = windows, kick, now

    # -- what the payer says -----------------------------------------------------------------------------

    async def take(self, schema: str, body: object, sender: str, msg_id: str) -> None:
        """One message. Raises RateLimited, InvalidParams, NotFound for a sender that was told no key, and
        what the engine raises; nothing is changed then."""
        message = decode_message(schema, body)
        # A release brings money: it is bounded by what the inbox takes of one sender alone.
        if not isinstance(message, Release) and not self._windows.allow(
            "escrow-received", sender, MESSAGES_AN_HOUR
        ):
            raise RateLimited(f"more than {MESSAGES_AN_HOUR} messages about tickets in an hour")
        peer = await self.payers.peer(sender)
        if peer is None:
            raise NotFound("the sender was told no key that a ticket could be locked to")
        match message:
            case Ticket():
                await self._engine.ticket(peer, message, msg_id)
            case Release():
                await self._engine.released(peer, message)
            case Failure():
                await self._engine.failed(peer, message)
            case Metric() | Owed():
                await self._engine.noted(peer, message)
            case _:
                raise NotFound("this message is not for the payee of a ticket")
        self._mail.kick()
        self._kick()

    # -- what the locks say ------------------------------------------------------------------------------

    def on_lock(self, tx: Tx, row: LockRow) -> None:
        """A lock moved; called inside the transaction that moved it."""
        if row.owner != "comms" or row.role is not Role.PAYEE or row.state not in FINAL:
            return
        item = self._rows.item_of(tx, row.terms_hash, row.item)
        if item is not None:
            self._settle(tx, item)

    def _settle(self, tx: Tx, item: HeldItem) -> None:
        """An item ends with the last of its locks: redeemed where one of them was."""
        locks = self._rows.locks_of(tx, item)
        if not locks or any(lock.state not in FINAL for lock in locks):
            return
        got = sum(lock.amount_sats for lock in locks if lock.state is LockState.REDEEMED)
        event = PayeeEvent.ON_REDEEMED if got else PayeeEvent.ON_LOST
        if got and (item.state, event) not in PAYEE_ITEMS:
            # Of an older copy of the database: this key redeemed it after the copy was made.
            if (item.state, PayeeEvent.ON_RELEASED) not in PAYEE_ITEMS:
                return
            item = self._engine.move(tx, replace(item, released_at=self._now()), PayeeEvent.ON_RELEASED)
        if (item.state, event) not in PAYEE_ITEMS:
            return
        self._engine.move(tx, replace(item, ended_at=self._now()), event)
        text = f"item {item.i}, {got or item.amount_sats} sat"
        if got:
            self._told(tx, "ticket_redeemed", item.ticket_id, text)
            ticket = self._rows.ticket(tx, item.ticket_id)
            # The money is ours whether or not there is room for the news: the payer sees it at the mint.
            with suppress(Capacity):
                if ticket is not None:
                    key = f"redeemed:{item.ticket_id}:{item.i}"
                    self._out.put(tx, ticket.peer, Redeemed(item.ticket_id, item.i), key)
        else:
            kind = "ticket_lost" if item.released_at else "ticket_taken_back"
            self._told(tx, kind, item.ticket_id, text)

    # -- the loop ----------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Check what is complete, ask for what misses; items whose locks ended while nobody followed end."""
        try:
            await self._engine.look()
        finally:
            await self._follow()
            self._mail.kick()

    async def _follow(self) -> None:
        def ended(tx: Tx) -> list[HeldItem]:
            return [
                item
                for item in self._rows.items_in(tx, [PayeeItem.RELEASED], _AT_ONCE)
                if (locks := self._rows.locks_of(tx, item)) and all(lock.state in FINAL for lock in locks)
            ]

        def body(tx: Tx, item: HeldItem) -> None:
            current = self._rows.item(tx, item.ticket_id, item.i)
            if current is not None and current.state is PayeeItem.RELEASED:
                self._settle(tx, current)

        with self._alone.round("received items") as alone:
            for item in await self._db.read(ended):
                with alone(f"{item.ticket_id}:{item.i}"):
                    await self._db.write(partial(body, item=item))

    # -- what we say -------------------------------------------------------------------------------------

    async def announce(self, payer: str, context: str | None, mints: Sequence[str], days: int) -> Announced:
        """Tell a payer (x-only hex) the key that its tickets are locked to and the mints that we take; a
        message carries it there too.

        Raises PaymentFailed(`mint_not_allowed`) while no mint is named, InvalidParams, Capacity.
        """
        if not mints:
            raise PaymentFailed(
                "no mint is named: set hive-comms-escrow-mint to one you trust; without one no ticket is"
                " taken",
                reason="mint_not_allowed",
            )
        name, until = context or self._random(16).hex(), self._now() + days * 86_400
        return await self.payers.announce(payer, name, tuple(mints[:MAX_MINTS_TOLD]), until, send=True)

    # -- what the operator asks --------------------------------------------------------------------------

    async def undecided(self, ticket_id: str) -> HeldTicket:
        """A ticket that was not accepted: being collected, checked, or refused. Raises NotFound."""
        found = await self._db.read(lambda tx: self._rows.ticket(tx, ticket_id))
        if found is None or found.intake is Intake.ACCEPTED:
            raise NotFound(f"there is no ticket {ticket_id[:40]!a}", data={"ticket_id": ticket_id[:64]})
        return found

    async def said(self, ticket_id: str, i: int) -> HeldItem | None:
        """An item with what its payer said of it."""
        return await self._db.read(lambda tx: self._rows.item(tx, ticket_id, i))

    async def redeem(self, ticket_id: str, numbers: Sequence[int], timeout: float) -> None:
        """Redeem now what is released of a ticket; of one in mode p2pk or receipt all of it, which says that
        the work is done.

        Raises PaymentFailed(`not_released`) where nothing of it may be redeemed yet, and what the mint's
        answer means; NotFound.
        """

        def body(tx: Tx) -> dict[str, str]:
            ticket = self._rows.ticket(tx, ticket_id)
            if ticket is None or ticket.terms is None or not ticket.peer:
                raise NotFound(f"there is no ticket {ticket_id[:40]!a} that pays this node")
            due: dict[str, str] = {}
            going = False
            for number in numbers:
                item = self._rows.item(tx, ticket_id, number)
                if item is None:
                    continue
                if item.state is PayeeItem.ACCEPTED and ticket.terms.mode is Mode.P2PK:
                    self._engine.take_without_hash(tx, item)
                elif item.state is PayeeItem.ACCEPTED and ticket.terms.mode is Mode.RECEIPT:
                    self._engine.take_with_own_hash(tx, item)
                locks = self._rows.locks_of(tx, item)
                going = going or any(
                    lock.state in (LockState.REDEEMING, LockState.REDEEMED) for lock in locks
                )
                due |= {lock.lock_id: lock.preimage for lock in locks if lock.state is LockState.REDEEMABLE}
            if not due and not going:
                raise PaymentFailed(
                    f"nothing of ticket {ticket_id} is released yet: its payer sends the preimage of an item"
                    " that was earned",
                    reason="not_released",
                )
            return due

        due = await self._db.write(body)
        if due:
            await self._locks.redeem(due, timeout)
