"""What a payee of tickets writes down: tickets, their items, the locked proofs of each item at each mint
(docs/protocol/03-escrow-and-payments.md §6.6, §8).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from ..store import Tx
from .terms import Terms
from .ticket import CheckedTicket
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


class HeldTicket(msgspec.Struct, frozen=True):
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


class HeldItem(msgspec.Struct, frozen=True):
    """One payable part of an accepted ticket. Amount in sat, times in Unix seconds. `preimage` is None until
    it was revealed; `params_hash` names its task,
    `command_id` the work it is meant for; `note` is what the payer last said of it, `receipt_id` and
    `receipt_hash` the receipt it named ("" for none)."""

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
    receipt_id: str = ""
    receipt_hash: str = ""

    def __repr__(self) -> str:
        return f"<item {self.i} of {self.ticket_id}: {self.state}>"


class Share(msgspec.Struct, frozen=True):
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


class Part(msgspec.Struct, frozen=True):
    """Tokens of the items `first` to `last` of a ticket that is still being collected."""

    first: int
    last: int
    tokens: tuple[str, ...]


class PayeeRows(Protocol):
    """Storage of a payee. Every method joins the caller's transaction."""

    def ticket(self, tx: Tx, ticket_id: str) -> HeldTicket | None: ...
    def open_of_peer(self, tx: Tx, peer: str) -> int: ...
    def live_of_peer(self, tx: Tx, peer: str) -> int: ...
    def waiting(self, tx: Tx, now: int) -> Sequence[HeldTicket]: ...
    def put_ticket(self, tx: Tx, ticket: HeldTicket) -> None: ...
    def forget_refused(self, tx: Tx, before: int) -> None: ...
    def add_part(self, tx: Tx, ticket_id: str, part: Part) -> None: ...
    def parts(self, tx: Tx, ticket_id: str) -> Sequence[Part]: ...
    def drop_parts(self, tx: Tx, ticket_id: str) -> None: ...
    def seen(self, tx: Tx, ys: Collection[str]) -> frozenset[str]: ...
    def live_sats(self, tx: Tx, mint_url: str) -> int: ...
    def item(self, tx: Tx, ticket_id: str, i: int) -> HeldItem | None: ...
    def put_item(self, tx: Tx, item: HeldItem, was: PayeeItem) -> None: ...

    def accept(self, tx: Tx, ticket: HeldTicket, items: Sequence[HeldItem], checked: CheckedTicket) -> None:
        """An accepted ticket with its items and its locked proofs, for the key of its `context`."""
        ...

    def redeemable(self, tx: Tx, item: HeldItem, now: int) -> None:
        """The locked proofs of an item are ours to redeem from now on."""
        ...


class ShareRows(PayeeRows, Protocol):
    """Storage of the locked proofs too, for `redeeming.Redeemer`."""

    def shares(self, tx: Tx, ticket_id: str, item: int) -> Sequence[Share]: ...
    def shares_in(self, tx: Tx, states: Collection[HeldLock]) -> Sequence[Share]: ...
    def late_shares(self, tx: Tx, ended: tuple[int, int], now: int) -> Sequence[Share]: ...
    def mints_at_work(self, tx: Tx, now: int) -> frozenset[str]: ...
    def put_share(self, tx: Tx, share: Share, was: HeldLock) -> None: ...


class Peer(msgspec.Struct, frozen=True):
    """Who may hand us tickets, and as whom it knows us. `ids` are the names that terms may give it, `ours`
    those they may give us; `lock_keys` are the keys we announced to it, by pubkey, with their contexts.
    `node_ids` are its nodes and `credentials` those it gave us; None: work for it is bound to neither.
    `working` is whether anything new is begun for it."""

    key: str
    name: str
    ids: frozenset[str]
    node_ids: frozenset[str] | None
    ours: frozenset[str]
    lock_keys: Mapping[str, str]
    credentials: frozenset[str] | None
    working: bool = True


class Peers(Protocol):
    """Those we work for."""

    async def peer(self, key: str) -> Peer | None:
        """By the key its messages come from; None for a stranger."""
        ...


class OwnHashes(Protocol):
    """Preimages that we made for tickets in mode receipt. Every method joins the caller's transaction."""

    def preimage(self, tx: Tx, peer: str, hash_: str, ticket_id: str) -> str | None:
        """That of a hash made for a peer, 64 hex; None where there is none, or another ticket has it."""
        ...

    def bind(self, tx: Tx, hash_: str, ticket_id: str, i: int) -> None:
        """An item has it from now on. Raises Conflict where another one has."""
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
