"""The engine of tickets on this node: its locks, its key, its messages, its operator
(docs/protocol/03-escrow-and-payments.md §1, §6.6)."""

from __future__ import annotations

from collections.abc import Sequence

from hive_shared.alerts import Alerts, Level
from hive_shared.cashu.derive import EscrowKeys, public_key
from hive_shared.cashu.escrow_rows import TicketRow
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.terms import Terms, sign_text, terms_hash, terms_text
from hive_shared.cashu.ticket_messages import Message, body_of, schema_of
from hive_shared.store import Tx

from ..domain.cashu_lock import LockRow, Role
from ..domain.payment import ADVISOR
from .identity_service import IdentityService
from .lock_service import LockOrder, LockService
from .messenger_signed import SignedMessages
from .ports_locks import LockRows

_WARN = ("rejected", "disputed", "partly_locked", "locked_late", "unjudged", "undecided", "not_measured")
_LEVELS = {
    **dict.fromkeys(_WARN, Level.WARNING),
    "owed": Level.CRITICAL,
}


class NodeLocks:
    """Locks of tickets in the node's wallet."""

    def __init__(self, locks: LockService, rows: LockRows) -> None:
        self._locks, self._rows = locks, rows

    async def lock(self, ticket: TicketRow, timeout: float) -> None:
        """All of a ticket, within the limits of its advisor."""
        order = LockOrder(f"ticket:{ticket.ticket_id}", budget=ADVISOR, advisor_id=ticket.advisor_id)
        await self._locks.lock(order, ticket.terms, None, timeout)

    async def refund(self, lock_ids: Sequence[str], timeout: float) -> None:
        """Take back what is due."""
        await self._locks.refund(lock_ids, timeout)

    async def look(self, lock_ids: Sequence[str]) -> None:
        """Ask the mint."""
        await self._locks.swaps.look(lock_ids)

    def of_terms(self, tx: Tx, terms_hash: str) -> Sequence[LockRow]:
        """Those that we made."""
        return [row for row in self._rows.of_terms(tx, terms_hash) if row.role is Role.PAYER]

    def states(self, tx: Tx, lock_ids: Sequence[str]) -> Sequence[LockState]:
        """Where they stand."""
        return [row.state for row in self._rows.known(tx, lock_ids)]

    def delivered(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """The payee was sent their tokens."""
        self._locks.delivered(tx, lock_ids)

    def held(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """A task is carried out for them."""
        self._locks.held(tx, lock_ids)

    def unheld(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """The task failed."""
        self._locks.unheld(tx, lock_ids)

    def released(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """The payee may have the preimage."""
        self._locks.released(tx, lock_ids)

    def tell_again(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """Where they stand, once more."""
        self._locks.tell_again(tx, lock_ids)


class EscrowMail:
    """Messages of tickets among the node's signed messages."""

    def __init__(self, messages: SignedMessages) -> None:
        self._messages = messages

    def put(self, tx: Tx, recipient: str, message: Message, *, key: str, expires_at: int) -> None:
        """Store one with the transaction."""
        self._messages.put(
            tx,
            recipient,
            body_of(message),
            schema=schema_of(message),
            key=f"escrow:{key}",
            expires_at=expires_at,
        )

    def stored(self, tx: Tx, key: str) -> bool:
        """Whether it was stored."""
        return self._messages.stored(tx, f"escrow:{key}")

    def kick(self) -> None:
        """Send what is due."""
        self._messages.kick()


class NodePayer:
    """This node as payer and verifier."""

    def __init__(self, identity: IdentityService, keys: EscrowKeys, node_id: str) -> None:
        self._identity, self._keys, self.node_id = identity, keys, node_id

    @property
    def payer_id(self) -> str:
        """The Nostr key that signs terms."""
        return self._identity.pubkey

    def refund_pubkey(self, ticket_id: str) -> str:
        """The key that takes a ticket's money back."""
        return public_key(self._keys.refund(ticket_id))

    def sign(self, terms: Terms) -> str:
        """Our signature on terms."""
        return sign_text(self._identity.secret(), terms_text(terms_hash(terms)))


class EscrowNotices:
    """The operator hears of tickets as alerts."""

    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts

    def tell(self, tx: Tx, ticket: TicketRow, what: str, text: str) -> None:
        """An alert, once per ticket and thing."""
        level = _LEVELS.get(what, Level.INFO)
        words = f"ticket {ticket.ticket_id}: {text}"
        self._alerts.raise_in(tx, level, "escrow", words, f"escrow:{what}:{ticket.ticket_id}:{text[:80]}")
