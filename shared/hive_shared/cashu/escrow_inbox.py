"""What payees and agents tell the payer of tickets, and either side of a dispute
(docs/protocol/03-escrow-and-payments.md §6.5, §6.6).

Signature, times and repetition of a message are checked before (04 §6); here it has to be of a ticket that
its sender is the other side of, and about the very terms that were signed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from hive_shared.cashu.escrow import EscrowEngine
from hive_shared.cashu.escrow_disputes import EscrowDisputes
from hive_shared.cashu.escrow_ports import Database, Mail, Notices, TicketLocks
from hive_shared.cashu.escrow_rows import EscrowRows, Side, TicketRow
from hive_shared.cashu.ticket_machine import PayerEvent, PayerItem
from hive_shared.cashu.ticket_messages import (
    Dispute,
    DisputeReply,
    Message,
    Redeemed,
    SecretHashes,
    SecretRequest,
    TicketAck,
    TicketReject,
    TicketResend,
    decode_message,
    schema_of_verb,
)
from hive_shared.errors import Conflict, NotFound, RateLimited, Unauthorized
from hive_shared.store import Tx

VERBS: Final = (
    *("ticket_ack", "ticket_reject", "ticket_resend", "redeemed", "dispute", "dispute_reply"),
    "secret_request",
)
"""What a payer is told."""
MESSAGES_AN_HOUR: Final = 120
REQUESTS_AN_HOUR: Final = 30
_SECRET_S: Final = 86_400
_HANDED_OVER: Final = (PayerItem.PLANNED, PayerItem.LOCKED, PayerItem.CANCELLED)


class Windows(Protocol):
    """Counts events of a peer within an hour."""

    def allow(self, kind: str, peer: str, most: int) -> bool: ...


class EscrowInbox:
    """Takes the messages of payees. `may_ask` says whether an agent's credential lets it have hashes."""

    def __init__(
        self,
        db: Database,
        rows: EscrowRows,
        engine: EscrowEngine,
        disputes: EscrowDisputes,
        locks: TicketLocks,
        mail: Mail,
        notices: Notices,
        *,
        windows: Windows,
        may_ask: Callable[[str], bool],
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._engine, self._disputes = db, rows, engine, disputes
        self._locks, self._mail, self._notices = locks, mail, notices
        self._windows, self._may_ask, self._now = windows, may_ask, now

    async def take(self, schema: str, body: object, sender: str, msg_id: str) -> None:
        """One message. Raises RateLimited, InvalidParams, NotFound for a ticket that the sender is not the
        payee of, Conflict for other terms, Unauthorized; nothing is changed then."""
        # A batch that was redeemed says so of every item: that must not shut out what matters more.
        window = "escrow-redeemed" if schema == schema_of_verb("redeemed") else "escrow"
        if not self._windows.allow(window, sender, MESSAGES_AN_HOUR):
            raise RateLimited(f"more than {MESSAGES_AN_HOUR} messages about tickets in an hour")
        message = decode_message(schema, body)
        if isinstance(message, Redeemed):
            await self._look(sender, message)
            return
        if isinstance(message, SecretRequest):
            self._check_request(sender)
        await self._db.write(lambda tx: self._apply(tx, message, sender, msg_id))
        self._mail.kick()

    def _apply(self, tx: Tx, message: Message, sender: str, msg_id: str) -> None:
        match message:
            case TicketAck():
                self._ack(tx, self._ticket(tx, message.ticket_id, sender), message, msg_id)
            case TicketReject():
                self._reject(tx, self._ticket(tx, message.ticket_id, sender), message)
            case TicketResend():
                self._resend(tx, self._ticket(tx, message.ticket_id, sender), message, msg_id)
            case Dispute():
                self._disputes.take(tx, self._of_either(tx, message.ticket_id, sender), message)
            case DisputeReply():
                self._disputes.take_reply(tx, sender, message)
            case SecretRequest():
                self._give_hashes(tx, message, sender, f"secret:{sender}:{msg_id}")
            case _:
                raise NotFound("this message is for the payee of a ticket")

    def _ack(self, tx: Tx, ticket: TicketRow, message: TicketAck, msg_id: str) -> None:
        self._check_terms(ticket, message.terms_hash)
        now = self._now()
        for item in self._rows.items(tx, ticket.ticket_id):
            if item.state is PayerItem.DELIVERED:
                self._rows.move_item(tx, item, PayerEvent.ON_ACKNOWLEDGED, now)
        if not ticket.acked_by:
            self._rows.note_ticket(tx, ticket.ticket_id, now, acked_by=msg_id)

    def _reject(self, tx: Tx, ticket: TicketRow, message: TicketReject) -> None:
        if isinstance(message.terms_hash, str):
            self._check_terms(ticket, message.terms_hash)
        now, refused = self._now(), False
        for item in self._rows.items(tx, ticket.ticket_id):
            if item.state is PayerItem.DELIVERED:
                self._rows.move_item(tx, item, PayerEvent.ON_REFUSED, now)
                refused = True
        if refused:
            text = f"rejected by the advisor: {message.reason} {message.detail[:300]}".strip()
            self._rows.note_ticket(tx, ticket.ticket_id, now, error=text)
            self._notices.tell(tx, ticket, "rejected", text)

    def _resend(self, tx: Tx, ticket: TicketRow, message: TicketResend, msg_id: str) -> None:
        items = self._rows.items(tx, ticket.ticket_id)
        if message.last >= len(items) or any(item.state in _HANDED_OVER for item in items):
            raise Conflict(f"ticket {ticket.ticket_id} has no such items that were handed over")
        key = f"resend:{ticket.ticket_id}:{msg_id}"
        self._engine.send_again(tx, ticket, message.first, message.last, key)

    def _give_hashes(self, tx: Tx, message: SecretRequest, sender: str, key: str) -> None:
        if self._mail.stored(tx, key):
            return  # asked again after a crash: the answer is on its way
        hashes = self._engine.new_secrets(tx, message.task_params_hash, message.count, sender)
        told = SecretHashes(message.task_params_hash, hashes)
        self._mail.put(tx, sender, told, key=key, expires_at=self._now() + _SECRET_S)

    async def _look(self, sender: str, message: Redeemed) -> None:
        """The payee says it has the money: the mint is asked, which alone counts."""

        def body(tx: Tx) -> tuple[str, ...]:
            ticket = self._ticket(tx, message.ticket_id, sender)
            item = self._rows.item(tx, ticket.ticket_id, message.item)
            return () if item is None or item.state is PayerItem.REDEEMED else item.lock_ids

        if lock_ids := await self._db.read(body):
            await self._locks.look(lock_ids)

    def _check_request(self, sender: str) -> None:
        if not self._may_ask(sender):
            raise Unauthorized("the sender's credential does not allow escrow_secret_generation")
        if not self._windows.allow("escrow-secrets", sender, REQUESTS_AN_HOUR):
            raise RateLimited(f"more than {REQUESTS_AN_HOUR} requests for hashes in an hour")

    def _check_terms(self, ticket: TicketRow, terms_hash: str) -> None:
        if terms_hash != ticket.terms_hash:
            raise Conflict(
                f"the message is about other terms of ticket {ticket.ticket_id}", reason="terms_hash"
            )

    def _ticket(self, tx: Tx, ticket_id: str, sender: str) -> TicketRow:
        ticket = self._of_either(tx, ticket_id, sender)
        if ticket.role is not Side.PAYER:
            raise _no_ticket(ticket_id)
        return ticket

    def _of_either(self, tx: Tx, ticket_id: str, sender: str) -> TicketRow:
        ticket = self._rows.ticket(tx, ticket_id)
        if ticket is None or ticket.other_id != sender:
            raise _no_ticket(ticket_id)
        return ticket


def _no_ticket(ticket_id: str) -> NotFound:
    return NotFound(f"there is no ticket {ticket_id} for this peer", data={"ticket_id": ticket_id})
