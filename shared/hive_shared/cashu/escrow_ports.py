"""What the engine of tickets needs of the outside (docs/protocol/03-escrow-and-payments.md §1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from hive_shared.cashu.escrow_rows import TicketRow
from hive_shared.cashu.escrow_work import HeldLocks
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.terms import Terms
from hive_shared.cashu.ticket_messages import Message
from hive_shared.store import Tx

T = TypeVar("T")


class Database(Protocol):
    """Transactions (hive_shared.store.Db)."""

    async def read(self, body: Callable[[Tx], T]) -> T: ...
    async def write(self, body: Callable[[Tx], T]) -> T: ...


class LockedShare(Protocol):
    """A lock of the wallet: one item's share at one mint."""

    @property
    def lock_id(self) -> str: ...
    @property
    def terms_hash(self) -> str: ...
    @property
    def item(self) -> int: ...
    @property
    def share(self) -> int: ...
    @property
    def state(self) -> LockState: ...
    @property
    def token(self) -> str: ...
    @property
    def error(self) -> str: ...


class TicketLocks(HeldLocks, Protocol):
    """The payer's locks of tickets."""

    async def lock(self, ticket: TicketRow, timeout: float) -> None:
        """Lock every share; the same ticket again is the same. Raises HiveError with nothing locked."""
        ...

    async def refund(self, lock_ids: Sequence[str], timeout: float) -> None:
        """Take back what is due. Raises PaymentFailed(`too_early`)."""
        ...

    async def look(self, lock_ids: Sequence[str]) -> None:
        """Ask the mint about these now; its answer comes by what follows the locks."""
        ...

    def of_terms(self, tx: Tx, terms_hash: str) -> Sequence[LockedShare]:
        """All locks of a ticket of ours, by item and share."""
        ...

    def states(self, tx: Tx, lock_ids: Sequence[str]) -> Sequence[LockState]:
        """Where these stand."""
        ...

    def delivered(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """The payee was sent their tokens."""
        ...


class Mail(Protocol):
    """Signed messages to the other side, stored with the transaction and sent after it."""

    def put(self, tx: Tx, recipient: str, message: Message, *, key: str, expires_at: int) -> None:
        """Store one; the same key stores nothing twice. Raises Capacity with a full outbox."""
        ...

    def stored(self, tx: Tx, key: str) -> bool:
        """Whether a message of this key was stored."""
        ...

    def kick(self) -> None:
        """Send what is due; after the commit."""
        ...


class Payer(Protocol):
    """Who we are as payer."""

    @property
    def payer_id(self) -> str: ...
    @property
    def node_id(self) -> str: ...
    def refund_pubkey(self, ticket_id: str) -> str: ...
    def sign(self, terms: Terms) -> str: ...


class Notices(Protocol):
    """Whom something is told on this node, inside the transaction."""

    def tell(self, tx: Tx, ticket: TicketRow, what: str, text: str) -> None:
        """`what` is a short name: rejected, partly_locked, locked_late, disputed, dispute_answered, owed,
        unjudged, undecided, not_measured."""
        ...
