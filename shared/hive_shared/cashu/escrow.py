"""The payer's tickets: made, locked, handed over, followed to their end
(docs/protocol/03-escrow-and-payments.md §6.5 to §6.7).

Terms, signature and preimages are committed before anything is locked; a ticket leaves when all of it is
locked. What becomes of an item's money is what its locks say, which is what the mint says.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from hive_shared.cashu.escrow_ports import Database, Mail, Notices, Payer, TicketLocks
from hive_shared.cashu.escrow_rows import (
    SECRET_UNUSED_S,
    EscrowRows,
    ItemRow,
    SecretRow,
    SecretSource,
    Side,
    TicketQuery,
    TicketRow,
)
from hive_shared.cashu.escrow_terms import Made, TicketPlan, make_terms
from hive_shared.cashu.escrow_tokens import ticket_messages
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.terms import Mode, Terms, terms_hash
from hive_shared.cashu.ticket_machine import PAYER_ITEMS, PayerEvent, PayerItem, TicketStatus
from hive_shared.cashu.ticket_messages import Owed
from hive_shared.crypto import Secret, sha256
from hive_shared.errors import (
    Capacity,
    Conflict,
    HiveError,
    InvalidParams,
    NotFound,
    PaymentFailed,
    SiblingUnavailable,
    Unauthorized,
)
from hive_shared.row_by_row import RowByRow
from hive_shared.runtime_loops import Log
from hive_shared.store import Tx

UNLOCKED_S: Final = 900
"""A ticket of which nothing was locked for so long is given up: its call (300 s at most) has ended."""
_PRUNE_EVERY_S: Final = 3_600
MESSAGE_S: Final = 14 * 86_400
"""How long a message to the payee is kept for sending, at most."""
_OVER: Final = frozenset({LockState.REDEEMED, LockState.REFUNDED, LockState.LOST, LockState.FAILED})
_PAID_NOTHING: Final = (PayerItem.CANCELLED, PayerItem.REFUNDED)
_NEVER_LOCKED: Final = frozenset({LockState.PLANNED, LockState.FAILED})
_PAGE: Final = 200
_REASON: Final = re.compile(r"[a-z_]+(\([a-z_]+\))?")


class Ordered(msgspec.Struct, frozen=True):
    """Who asks for a ticket: the same key with the same plan is the same ticket. `task_id` names preimages
    that were made for it; `mints` are address and permille. `named` is the ticket's id with the key that
    takes its money back, where that is another plugin's and was asked for before."""

    key: str
    mints: Sequence[tuple[str, int]]
    advisor_id: str | None = None
    task_id: str | None = None
    named: tuple[str, str] | None = None


SignTerms = Callable[[Terms], Awaitable[str]]
"""The payer's signature where making it takes a call; before anything is locked."""
HandOver = Callable[[Tx, TicketRow, int, int, str, int], None]
"""`hand_over(tx, ticket, first, last, key, expires_at)`: have the tokens of these items sent, where they are
not at hand inside a transaction."""


class EscrowEngine:
    """Tickets of which we are the payer. `on_lock` follows the wallet's locks inside their transactions."""

    def __init__(
        self,
        db: Database,
        rows: EscrowRows,
        locks: TicketLocks,
        mail: Mail,
        payer: Payer,
        notices: Notices,
        *,
        now: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        log: Log,
        sign_terms: SignTerms | None = None,
        hand_over: HandOver | None = None,
    ) -> None:
        self._sign_terms, self._hand_over = sign_terms, hand_over
        self._db, self._rows, self._locks, self._mail = db, rows, locks, mail
        self._prune_at, self._alone = 0, RowByRow(log)
        self._payer, self._notices, self._now, self._random_bytes = payer, notices, now, random_bytes

    # -- preimages -------------------------------------------------------------------------------------

    async def secrets(self, task_id: str, count: int) -> list[str]:
        """New hashes for a task; their preimages stay here. Raises Capacity at 50,000."""
        return await self._db.write(lambda tx: self.new_secrets(tx, task_id, count))

    def new_secrets(self, tx: Tx, task_id: str, count: int, asked_by: str = "") -> list[str]:
        """The same in the caller's transaction; `asked_by` is the agent they are told to.

        Raises Capacity, for an agent also with 1,024 of its own that no ticket uses.
        """
        plain = [self._random_bytes(32) for _ in range(count)]
        made = [self._secret(each, task_id, SecretSource.GENERATED, asked_by) for each in plain]
        self._rows.add_secrets(tx, made)
        return [row.hash for row in made]

    async def register(self, task_id: str, preimage: bytes) -> str:
        """Take a preimage of the operator's own for a task; the same again changes nothing.

        Raises InvalidParams for one that is not 32 random bytes, Conflict for one of another task.
        """
        if len(preimage) != 32 or len(set(preimage)) < 8:
            raise InvalidParams("secret is 32 random bytes, as 64 hex", data={"param": "secret"})
        row = self._secret(preimage, task_id, SecretSource.IMPORTED, "")

        def body(tx: Tx) -> None:
            known = self._rows.secret(tx, row.hash)
            if known is None:
                self._rows.add_secrets(tx, [row])
            elif (known.task_id, known.asked_by) != (task_id, ""):
                raise Conflict("this secret was registered for another task", reason="hash_used")

        await self._db.write(body)
        return row.hash

    # -- making ----------------------------------------------------------------------------------------

    async def create(self, plan: TicketPlan, order: Ordered, timeout: float) -> TicketRow:
        """Make a ticket, lock it and hand it over; the same call again gives the same ticket.

        Returns it as it stands after `timeout` seconds: `pending` while the mint has not answered. Raises
        what a lock may raise, with nothing locked and the ticket cancelled; Conflict for a key that stands
        for another plan; InvalidParams, Capacity.
        """
        ticket = await self._db.write(lambda tx: self.made(tx, plan, order))
        if ticket.status is TicketStatus.PENDING:
            await self._lock(await self._signed(ticket), timeout)
            await self.deliver(ticket.ticket_id)
        elif ticket.status is TicketStatus.CANCELLED:
            raise PaymentFailed(
                f"ticket {ticket.ticket_id} was given up: {ticket.error}; take a new idempotency_key",
                reason=_given_up_for(ticket),
                data={"ticket_id": ticket.ticket_id},
            )
        return await self.ticket(ticket.ticket_id)

    async def ticket(self, ticket_id: str) -> TicketRow:
        """A ticket as it stands. Raises NotFound."""
        found = await self._db.read(lambda tx: self._rows.ticket(tx, ticket_id))
        if found is None:
            raise NotFound(f"there is no ticket {ticket_id[:40]!a}", data={"ticket_id": ticket_id[:64]})
        return found

    async def own(self, ticket_id: str) -> TicketRow:
        """A ticket that is ours to judge and to take back. Raises NotFound, Unauthorized."""
        ticket = await self.ticket(ticket_id)
        if ticket.role is not Side.PAYER:
            raise Unauthorized(f"ticket {ticket_id} pays this node: its payer judges it and takes it back")
        return ticket

    def item(self, tx: Tx, ticket: TicketRow, i: int) -> ItemRow:
        """An item of a ticket as it stands. Raises NotFound."""
        item = self._rows.item(tx, ticket.ticket_id, i)
        if item is None:
            raise NotFound(
                f"ticket {ticket.ticket_id} has items 0 to {len(ticket.terms.items) - 1}, not {i}",
                data={"item": i},
            )
        return item

    async def deliver(self, ticket_id: str) -> bool:
        """Hand a ticket over that is locked whole, every share of every item; False where it is not, or was
        handed over."""

        def body(tx: Tx) -> bool:
            ticket = self._rows.ticket(tx, ticket_id)
            items = self._rows.items(tx, ticket_id)
            if ticket is None or {item.state for item in items} != {PayerItem.LOCKED}:
                return False
            if ticket.error:
                # Its operator was told that it is not handed over, and may have made another: what a mint
                # locks late changes nothing about that.
                return False
            locks = self._locks.of_terms(tx, ticket.terms_hash)
            if {lock.state for lock in locks} != {LockState.LOCKED}:
                return False
            self._send_tokens(tx, ticket, 0, len(items) - 1, f"ticket:{ticket_id}")
            now = self._now()
            for item in items:
                self._rows.move_item(tx, item, PayerEvent.ON_DELIVERED, now, delivered_at=now)
            self._locks.delivered(tx, [lock.lock_id for lock in locks])
            return True

        done = await self._db.write(body)
        if done:
            self._mail.kick()
        return done

    def send_again(self, tx: Tx, ticket: TicketRow, first: int, last: int, key: str) -> None:
        """The tokens of some items once more, as the payee asked."""
        self._send_tokens(tx, ticket, first, last, key)

    async def cancel(self, ticket_id: str) -> TicketRow:
        """Give up a ticket of which nothing is locked. Raises Conflict for any other, NotFound."""
        ticket = await self.ticket(ticket_id)

        def body(tx: Tx) -> None:
            if self._rows.states(tx, ticket_id) != {PayerItem.PLANNED} or self._begun(tx, ticket):
                raise Conflict(
                    f"ticket {ticket_id} is {ticket.status.value}, or being locked: only what was never"
                    " funded is cancelled, anything else goes back at its locktime",
                    reason="stale_state",
                    data={"status": ticket.status.value},
                )
            self._give_up(tx, ticket, "cancelled by the operator")

        if ticket.status is not TicketStatus.CANCELLED:
            await self._db.write(body)
        return await self.ticket(ticket_id)

    def is_back(self, tx: Tx, item: ItemRow) -> bool:
        """Whether all that was locked for an item came back: nothing can be redeemed by it any more."""
        states = set(self._locks.states(tx, item.lock_ids))
        return LockState.REFUNDED in states and states <= {LockState.REFUNDED, LockState.FAILED}

    # -- what the locks say ----------------------------------------------------------------------------

    def on_lock(self, tx: Tx, terms_hash: str, number: int, lock_id: str, state: LockState) -> None:
        """A lock of ours is new or has moved; called inside the transaction that moved it.

        Raises Conflict for a new lock of a ticket that was given up while its call was under way.
        """
        item = self._rows.item_of(tx, terms_hash, number)
        if item is None or not isinstance(item.state, PayerItem):
            return
        if state is LockState.PLANNED and item.state is PayerItem.CANCELLED:
            raise Conflict(
                f"ticket {item.ticket_id} was given up meanwhile: nothing is locked for it",
                reason="stale_state",
                data={"ticket_id": item.ticket_id},
            )
        if lock_id not in item.lock_ids:
            item = self._rows.note_item(tx, item, self._now(), lock_ids=(*item.lock_ids, lock_id))
        if state is LockState.PLANNED:
            return
        states = [state] if len(item.lock_ids) == 1 else list(self._locks.states(tx, item.lock_ids))
        if item.state is PayerItem.PLANNED:
            self._funded(tx, item, states)
        else:
            self._followed(tx, item, states)

    def _funded(self, tx: Tx, item: ItemRow, states: Sequence[LockState]) -> None:
        if LockState.PLANNED in states:
            return
        alive = [state for state in states if state is not LockState.FAILED]
        if alive:
            self._step(tx, item, PayerEvent.ON_LOCKED)
        else:
            self._step(tx, item, PayerEvent.ON_CANCELLED)
            self._owe_again(tx, item.ticket_id)
        if len(alive) < len(states):
            self._rows.note_ticket(
                tx, item.ticket_id, self._now(), error=f"item {item.i} could not be locked whole"
            )
        self._tell_partly(tx, item)

    def _tell_partly(self, tx: Tx, item: ItemRow) -> None:
        """Once the mints have answered for every item: a ticket not locked whole is not handed over."""
        ticket = self._rows.ticket(tx, item.ticket_id)
        if ticket is None or PayerItem.PLANNED in self._rows.states(tx, item.ticket_id):
            return
        locks = self._locks.of_terms(tx, ticket.terms_hash)
        failed = sorted({lock.item for lock in locks if lock.state is LockState.FAILED})
        if failed and any(lock.state is LockState.LOCKED for lock in locks):
            named = ", ".join(str(i) for i in failed[:5]) + (", ..." if len(failed) > 5 else "")
            self._notices.tell(
                tx,
                ticket,
                "partly_locked",
                f"item {named} could not be locked whole: the ticket is not handed over, what is locked of it"
                " goes back at its locktime; create another one",
            )

    def _followed(self, tx: Tx, item: ItemRow, states: Sequence[LockState]) -> None:
        now = self._now()
        if item.state is PayerItem.CANCELLED:
            if all(state in _NEVER_LOCKED for state in states):
                return
            item = self._locked_late(tx, item)
        if all(state in _OVER for state in states):
            if LockState.REDEEMED in states or LockState.LOST in states:
                self._step(tx, item, PayerEvent.ON_REDEEMED, redeemed_at=now)
            elif LockState.REFUNDED in states:
                self._refunded(tx, item, now)
        elif LockState.REFUNDING in states:
            item = self._step(tx, item, PayerEvent.ON_REFUND_DUE)
            self._step(tx, item, PayerEvent.ON_REFUND_STARTED)
        elif LockState.REFUNDABLE in states:
            event = PayerEvent.ON_REFUND_DUE
            if item.state is PayerItem.REFUNDING:
                event = PayerEvent.ON_REFUND_PUT_OFF
            self._step(tx, item, event)

    def _locked_late(self, tx: Tx, item: ItemRow) -> ItemRow:
        """The mint carried out what was given up. The item was never handed over and is not now: another
        ticket may have been made for it."""
        item = self._step(tx, item, PayerEvent.ON_LOCKED)
        text = (
            f"the mint locked item {item.i} after it was given up: it is not handed over, its"
            f" {item.amount_sats} sat come back at its locktime {item.locktime}"
        )
        self._rows.note_ticket(tx, item.ticket_id, self._now(), error=text)
        if (ticket := self._rows.ticket(tx, item.ticket_id)) is not None:
            self._notices.tell(tx, ticket, "locked_late", text)
        return item

    def _refunded(self, tx: Tx, item: ItemRow, now: int) -> None:
        for event in (PayerEvent.ON_REFUND_DUE, PayerEvent.ON_REFUND_STARTED):
            item = self._step(tx, item, event)
        # Earned, and taken back all the same: its mint lets nobody redeem after the locktime.
        owed = item.amount_sats if item.released_at is not None else 0
        item = self._step(tx, item, PayerEvent.ON_REFUNDED, refunded_at=now, owed_sats=owed)
        ticket = self._rows.ticket(tx, item.ticket_id)
        if owed and ticket is not None:
            text = f"item {item.i} was earned and came back: {owed} sat are owed to the advisor"
            self._notices.tell(tx, ticket, "owed", text)
        if not owed:
            self._owe_again(tx, item.ticket_id)

    def _step(self, tx: Tx, item: ItemRow, event: PayerEvent, **changes: Any) -> ItemRow:
        """One step where the item's state takes it; a task under way is not disturbed by its lock."""
        if not isinstance(item.state, PayerItem) or (item.state, event) not in PAYER_ITEMS:
            return item
        return self._rows.move_item(tx, item, event, self._now(), **changes)

    # -- the loop --------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Hand over what is locked, tell of what is owed, give up what nobody locks, forget what is old."""
        locked = await self._db.read(lambda tx: self._rows.items_in(tx, [PayerItem.LOCKED], 5_000))
        with self._alone.round("tickets to hand over") as alone:
            for ticket_id in dict.fromkeys(item.ticket_id for item in locked):
                with alone(ticket_id):
                    try:
                        await self.deliver(ticket_id)
                    except Capacity:
                        break  # the outbox is full: next time
        await self._tell_owed()
        with self._alone.round("tickets that nobody locks") as alone:
            for ticket in await self._db.read(self._unlocked):
                with alone(ticket.ticket_id):
                    await self._db.write(partial(self._tidy, ticket_id=ticket.ticket_id))
        if self._now() >= self._prune_at:
            self._prune_at = self._now() + _PRUNE_EVERY_S
            await self._db.write(lambda tx: self._rows.prune(tx, self._now()))

    async def _tell_owed(self) -> None:
        def untold(tx: Tx) -> list[ItemRow]:
            return [item for item in self._rows.owed(tx) if not self._mail.stored(tx, _owed_key(item))]

        def body(tx: Tx, item: ItemRow) -> None:
            ticket = self._rows.ticket(tx, item.ticket_id)
            if ticket is not None:
                said = Owed(item.ticket_id, item.i, item.owed_sats, "late_release")
                self._put(tx, ticket, said, _owed_key(item))

        owed = await self._db.read(untold)
        with self._alone.round("items that are owed") as alone:
            for item in owed:
                with alone(f"{item.ticket_id}:{item.i}"):
                    try:
                        await self._db.write(partial(body, item=item))
                    except Capacity:
                        break  # the outbox is full: next time
        if owed:
            self._mail.kick()

    def _unlocked(self, tx: Tx) -> list[TicketRow]:
        """Tickets of ours for which nothing was locked in time."""
        before = self._now() - UNLOCKED_S
        query = TicketQuery(role=Side.PAYER, status=TicketStatus.PENDING, limit=_PAGE)
        return [
            ticket
            for ticket in self._rows.tickets(tx, query)
            if ticket.updated_at <= before and not self._begun(tx, ticket)
        ]

    def _tidy(self, tx: Tx, ticket_id: str) -> None:
        ticket = self._rows.ticket(tx, ticket_id)
        if ticket is not None and ticket.status is TicketStatus.PENDING and not self._begun(tx, ticket):
            self._give_up(tx, ticket, "the plugin stopped before anything was locked")

    # -- inside ----------------------------------------------------------------------------------------

    def made(self, tx: Tx, plan: TicketPlan, order: Ordered) -> TicketRow:
        """A ticket with its preimages, written down and not locked yet; the one of this key if there is one.
        `create` does the rest."""
        known = self._rows.by_key(tx, order.key)
        if known is not None:
            if known.content != plan.content:
                raise Conflict(
                    f"this idempotency_key stands for another ticket: {known.ticket_id} over"
                    f" {known.terms.amount_sats} sat, {known.status}; take a new key for a new one",
                    reason="idempotency_conflict",
                    data={"ticket_id": known.ticket_id},
                )
            return known
        now = self._now()
        self._check_replaced(tx, plan)
        ticket_id, refund_pubkey = order.named or self._new_name()
        made = Made(
            *(self._payer.payer_id, self._payer.node_id, refund_pubkey, ticket_id),
            *(self._random_bytes(16).hex(), now, order.mints, self._hashes(tx, plan, order)),
        )
        terms = make_terms(plan, made)
        hash_ = terms_hash(terms).hex()
        ticket = TicketRow(
            *(ticket_id, Side.PAYER, terms, hash_, self._payer.sign(terms), TicketStatus.PENDING),
            *(order.key, plan.content, now, now, order.advisor_id),
        )
        items = [
            ItemRow(
                *(ticket_id, each.i, each.label, each.amount_sats),
                each.hash if isinstance(each.hash, str) else None,
                *(each.deadline, each.locktime, each.cond, PayerItem.PLANNED),
            )
            for each in terms.items
        ]
        self._rows.add_ticket(tx, ticket, items)
        if terms.mode is Mode.TASK:
            self._rows.bind_secrets(tx, ticket_id, dict(enumerate(made.hashes)))
        self._settle_owed(tx, ticket)
        return ticket

    def _new_name(self) -> tuple[str, str]:
        ticket_id = self._random_bytes(16).hex()
        return ticket_id, self._payer.refund_pubkey(ticket_id)

    async def _signed(self, ticket: TicketRow) -> TicketRow:
        """The ticket with the payer's signature, which is on disk before anything is locked."""
        if ticket.payer_sig or self._sign_terms is None:
            return ticket
        signature, ticket_id = await self._sign_terms(ticket.terms), ticket.ticket_id
        await self._db.write(
            lambda tx: self._rows.note_ticket(tx, ticket_id, self._now(), payer_sig=signature)
        )
        return replace(ticket, payer_sig=signature)

    def _hashes(self, tx: Tx, plan: TicketPlan, order: Ordered) -> list[str]:
        """Those the payee gave, those made for the task, or new ones."""
        if plan.mode is Mode.P2PK:
            return []
        if plan.mode is Mode.RECEIPT:
            given = [item.hash for item in plan.items if item.hash is not None]
            if len(given) != len(plan.items):
                raise InvalidParams(
                    "mode receipt needs the payee's hash of every item", data={"param": "items"}
                )
            self._rows.refuse_used(tx, given)
            return given
        count, now = len(plan.items), self._now()
        task_id = order.task_id or plan.params_hash
        free = self._rows.free_secrets(tx, task_id, "" if order.task_id else plan.payee_id, now)
        if len(free) >= count:
            return [row.hash for row in free[:count]]
        if order.task_id is not None and free:
            raise InvalidParams(
                f"{len(free)} hashes are free for task {order.task_id}, {count} items need one each",
                data={"param": "task_id"},
            )
        return self.new_secrets(tx, task_id, count)

    def _check_replaced(self, tx: Tx, plan: TicketPlan) -> None:
        if plan.replaces is None:
            return
        old = self._rows.ticket(tx, plan.replaces)
        if old is None or old.terms.payee.id != plan.payee_id:
            raise InvalidParams(
                f"there is no ticket {plan.replaces} of this advisor to replace", data={"param": "replaces"}
            )

    def _settle_owed(self, tx: Tx, ticket: TicketRow) -> None:
        """What a replacement is for is owed no more."""
        if isinstance(ticket.terms.replaces, str):
            for item in self._rows.items(tx, ticket.terms.replaces):
                if item.owed_sats and not item.owed_by:
                    self._rows.note_item(tx, item, self._now(), owed_by=ticket.ticket_id)

    async def _lock(self, ticket: TicketRow, timeout: float) -> None:
        try:
            await self._locks.lock(ticket, timeout)
        except HiveError as error:
            text = f"{error.symbol}: {error.detail}"

            def body(tx: Tx) -> bool:
                if self._begun(tx, ticket):
                    return False
                if self._rows.states(tx, ticket.ticket_id) == {PayerItem.CANCELLED}:
                    return True  # by another call, whose reason stands
                self._give_up(tx, ticket, text[:500])
                return True

            if await self._db.write(body) or isinstance(error, SiblingUnavailable):
                raise
            if (await self.ticket(ticket.ticket_id)).status is TicketStatus.CANCELLED:
                raise

    def _begun(self, tx: Tx, ticket: TicketRow) -> bool:
        return bool(self._locks.of_terms(tx, ticket.terms_hash))

    def _give_up(self, tx: Tx, ticket: TicketRow, why: str) -> None:
        for item in self._rows.items(tx, ticket.ticket_id):
            self._step(tx, item, PayerEvent.ON_CANCELLED)
        self._rows.note_ticket(tx, ticket.ticket_id, self._now(), error=why)
        self._owe_again(tx, ticket.ticket_id)

    def _owe_again(self, tx: Tx, ticket_id: str) -> None:
        """A replacement that paid nothing, and cannot any more, has settled nothing."""
        ticket = self._rows.ticket(tx, ticket_id)
        replaced = None if ticket is None else ticket.terms.replaces
        if not isinstance(replaced, str) or any(
            item.state not in _PAID_NOTHING or item.released_at is not None
            for item in self._rows.items(tx, ticket_id)
        ):
            return
        for item in self._rows.items(tx, replaced):
            if item.owed_by == ticket_id:
                self._rows.note_item(tx, item, self._now(), owed_by="")

    def _send_tokens(self, tx: Tx, ticket: TicketRow, first: int, last: int, key: str) -> None:
        if self._hand_over is not None:
            self._hand_over(tx, ticket, first, last, key, self._until(ticket))
            return
        tokens = [
            (each.item, each.share, each.token)
            for each in self._locks.of_terms(tx, ticket.terms_hash)
            if first <= each.item <= last and each.token
        ]
        for number, message in enumerate(ticket_messages(ticket, tokens)):
            self._put(tx, ticket, message, f"{key}:{number}")

    def _put(self, tx: Tx, ticket: TicketRow, message: Any, key: str) -> None:
        self._mail.put(tx, ticket.terms.payee.id, message, key=key, expires_at=self._until(ticket))

    def _until(self, ticket: TicketRow) -> int:
        last = max(item.locktime for item in ticket.terms.items)
        return min(max(last, self._now() + 86_400), self._now() + MESSAGE_S)

    def _secret(self, plain: bytes, task_id: str, source: SecretSource, asked_by: str) -> SecretRow:
        now = self._now()
        until = None if source is SecretSource.IMPORTED else now + SECRET_UNUSED_S
        return SecretRow(sha256(plain).hex(), Secret(plain), task_id, source, now, until, asked_by)


def _given_up_for(ticket: TicketRow) -> str:
    """The reason that a refusal gave, in one word; what stopped or cancelled it has none."""
    word = ticket.error.partition(":")[0]
    return word if _REASON.fullmatch(word) else "stale_state"


def _owed_key(item: ItemRow) -> str:
    return f"owed:{item.ticket_id}:{item.i}"
