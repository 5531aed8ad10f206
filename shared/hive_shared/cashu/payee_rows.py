"""What a payee of tickets writes down: tickets, their items, the locked proofs of each item at each mint
(docs/protocol/03-escrow-and-payments.md §6.6, §8).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from ..store import Tx
from .terms import Terms
from .ticket_machine import PayeeItem
from .ticket_messages import Message
from .wire import Proof


class Intake(StrEnum):
    """How far a ticket that was handed to us is looked at. The values are stored."""

    COLLECTING = "collecting"
    CHECKING = "checking"
    ACCEPTED = "accepted"
    REFUSED = "refused"


class HeldLock(StrEnum):
    """Where the proofs of one item at one mint are, for who is paid. The values are stored and are those of
    03 §8 that a payee's lock has."""

    DELIVERED = "delivered"
    REDEEMABLE = "redeemable"
    REDEEMING = "redeeming"
    REDEEMED = "redeemed"
    LOST = "lost"


LOCK_ENDS: Final = frozenset({HeldLock.REDEEMED, HeldLock.LOST})


@dataclass(frozen=True, slots=True)
class HeldTicket:
    """A ticket that a peer handed to us. `terms` is None until the message with them came; `context` names
    the lock key (03 §4.1). `next_at` is when it is looked at again, `tries` how often that was in vain."""

    ticket_id: str
    peer: str
    intake: Intake
    created_at: int
    updated_at: int
    terms: Terms | None = None
    terms_hash: str = ""
    payer_sig: str = ""
    context: str = ""
    reason: str = ""
    detail: str = ""
    next_at: int = 0
    tries: int = 0


@dataclass(frozen=True, slots=True)
class HeldItem:
    """One payable part of an accepted ticket. Amount in sat, times in Unix seconds. `preimage` is None until
    it was revealed; `params_hash` names its task,
    `command_id` the work it is meant for; `note` is what the payer last said of it."""

    ticket_id: str
    i: int
    state: PayeeItem
    amount_sats: int
    hash: str
    deadline: int
    locktime: int
    label: str = ""
    params_hash: str = ""
    preimage: str | None = None
    command_id: str | None = None
    note: str = ""
    released_at: int = 0
    ended_at: int = 0

    def __repr__(self) -> str:
        return f"<item {self.i} of {self.ticket_id}: {self.state}>"


@dataclass(frozen=True, slots=True)
class Share:
    """The proofs of one item at one mint. `batch` names the redemption that has it, `locktime` is the
    share's own; `released_at` is when its preimage came."""

    ticket_id: str
    item: int
    share: int
    mint_url: str
    state: HeldLock
    proofs: tuple[Proof, ...]
    ys: tuple[str, ...]
    net_sats: int
    locktime: int
    context: str
    batch: str = ""
    tries: int = 0
    next_at: int = 0
    released_at: int = 0

    @property
    def place(self) -> tuple[str, int, int]:
        """Its name in the store."""
        return self.ticket_id, self.item, self.share

    def __repr__(self) -> str:
        return f"<share {self.share} of item {self.item} of {self.ticket_id}: {self.state}>"


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens of the items `first` to `last` of a ticket that is still being collected."""

    first: int
    last: int
    tokens: tuple[str, ...]


class PayeeRows(Protocol):
    """Storage of a payee. Every method joins the caller's transaction."""

    def ticket(self, tx: Tx, ticket_id: str) -> HeldTicket | None: ...
    def open_of_peer(self, tx: Tx, peer: str) -> int: ...
    def waiting(self, tx: Tx, now: int) -> Sequence[HeldTicket]: ...
    def put_ticket(self, tx: Tx, ticket: HeldTicket) -> None: ...
    def forget_refused(self, tx: Tx, before: int) -> None: ...
    def add_part(self, tx: Tx, ticket_id: str, part: Part) -> None: ...
    def parts(self, tx: Tx, ticket_id: str) -> Sequence[Part]: ...
    def drop_parts(self, tx: Tx, ticket_id: str) -> None: ...
    def add_item(self, tx: Tx, item: HeldItem) -> None: ...
    def item(self, tx: Tx, ticket_id: str, i: int) -> HeldItem | None: ...
    def items(self, tx: Tx, ticket_id: str) -> Sequence[HeldItem]: ...
    def put_item(self, tx: Tx, item: HeldItem, was: PayeeItem) -> None: ...
    def add_share(self, tx: Tx, share: Share) -> None: ...
    def seen(self, tx: Tx, ys: Collection[str]) -> frozenset[str]: ...
    def shares(self, tx: Tx, ticket_id: str, item: int) -> Sequence[Share]: ...
    def shares_in(self, tx: Tx, states: Collection[HeldLock]) -> Sequence[Share]: ...
    def put_share(self, tx: Tx, share: Share, was: HeldLock) -> None: ...
    def live_sats(self, tx: Tx, mint_url: str) -> int: ...


@dataclass(frozen=True, slots=True)
class Peer:
    """Who may hand us tickets, and as whom it knows us. `ids` are the names that terms may give it, `ours`
    those they may give us; `lock_keys` are the keys we announced to it, by pubkey, with their contexts.
    `working` is whether anything new is begun for it."""

    key: str
    name: str
    ids: frozenset[str]
    node_ids: frozenset[str]
    ours: frozenset[str]
    lock_keys: Mapping[str, str]
    credentials: frozenset[str]
    working: bool = True


class Peers(Protocol):
    """Those we work for."""

    async def peer(self, key: str) -> Peer | None:
        """By the key its messages come from; None for a stranger."""
        ...


class Outgoing(Protocol):
    """Messages to a peer, kept until they left."""

    def put(self, tx: Tx, peer: str, message: Message, key: str) -> None:
        """In the caller's transaction; the same key again is the same message."""
        ...


class Told(Protocol):
    """Whoever wants to know what became of a ticket."""

    def __call__(self, tx: Tx, kind: str, ticket_id: str, text: str) -> None:
        """In the caller's transaction."""
        ...
