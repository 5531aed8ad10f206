"""Escrow tickets in our favour: what a node hands us, the work it is for, the money it becomes
(docs/protocol/11-advisor-kit.md §8; docs/protocol/03-escrow-and-payments.md §6.6, §6.7).

What an item came to is read from the command it was sent with, again at every look: nothing depends on who
was there when the answer came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

import msgspec
from hive_shared.cashu.payee import PayeeEngine
from hive_shared.cashu.payee_rows import (
    LOCK_ENDS,
    HeldItem,
    HeldLock,
    HeldTicket,
    Intake,
    Peer,
    Peers,
    Share,
    ShareRows,
)
from hive_shared.cashu.redeeming import Redeemer
from hive_shared.cashu.terms import Mode, task_params_hash
from hive_shared.cashu.ticket_machine import PayeeEvent, PayeeItem
from hive_shared.cashu.ticket_messages import (
    DisputeReply,
    Failure,
    Message,
    Metric,
    Owed,
    Release,
    SecretHashes,
    Ticket,
    decode_message,
    schema_of,
    schema_of_verb,
)
from hive_shared.errors import Conflict, HiveError, InvalidParams, NotFound, RateLimited, Unsupported
from hive_shared.rate_limit import SlidingWindows
from hive_shared.registry import CONTROL
from hive_shared.row_by_row import RowByRow
from hive_shared.signed_message import Draft
from hive_shared.store import Db, Tx
from hive_shared.unreadable import Unreadable, attempted
from msgspec.structs import replace

from hive_advisor.domain.command_machine import FINAL, CommandState, did_nothing
from hive_advisor.domain.earning import rate_sats
from hive_advisor.domain.plan import Plan
from hive_advisor.domain.rows import Client, StoredCommand
from hive_advisor.services.ports import CommandRows, RecordRows
from hive_advisor.services.signed_mail import SignedMail
from hive_advisor.services.ticket_disputes import TicketDisputes
from hive_advisor.services.ticket_hashes import TicketHashes
from hive_advisor.services.ticket_peers import TicketOffers

ESCROW: Final = "cashu_escrow"
"""The method of a `payment_proof` that names an item of a ticket."""
HANDLED: Final = ("ticket", "release", "failure", "metric", "owed", "dispute_reply", "secret")
"""Verbs of `hive:escrow` that a payee is sent and this kit takes."""
MESSAGES_AN_HOUR: Final = 120
"""Of one client (03 §6.7); a `release` that opens what it locked for us is not among them."""
_RELEASE: Final = schema_of_verb("release")
_FITTING: Final = 64


class TicketRows(ShareRows, Protocol):
    """storage.ticket_store.TicketStore, where the methods are described."""

    def items(self, tx: Tx, ticket_id: str) -> Sequence[HeldItem]: ...
    def newest(self, tx: Tx, before: tuple[int, str] | None, limit: int) -> list[HeldTicket | Unreadable]: ...
    def at_work(self, tx: Tx) -> Sequence[HeldItem]: ...
    def unpaid(self, tx: Tx, peer: str) -> tuple[int, int]: ...
    def fitting(self, tx: Tx, peer: str, params_hash: str, limit: int) -> Sequence[HeldItem]: ...


class TicketView(msgspec.Struct, frozen=True):
    """A ticket with what became of it."""

    ticket: HeldTicket
    items: tuple[HeldItem, ...]
    shares: tuple[Share, ...]


class TicketService:
    """Owns tickets in our favour; `tend` does what is due. `ready` makes the wallet so."""

    def __init__(
        self,
        db: Db,
        rows: TicketRows,
        engine: PayeeEngine,
        redeemer: Redeemer,
        peers: Peers,
        commands: CommandRows,
        records: RecordRows,
        mail: SignedMail,
        disputes: TicketDisputes,
        hashes: TicketHashes,
        offers: TicketOffers,
        *,
        ready: Callable[[], Awaitable[None]],
        now: Callable[[], int],
        alone: RowByRow,
    ) -> None:
        self._alone = alone
        self._db, self._rows, self._engine, self._redeemer = db, rows, engine, redeemer
        self._peers, self._commands, self._records, self._mail = peers, commands, records, mail
        self._now, self.disputes, self._offers, self._ready = now, disputes, offers, ready
        self.hashes, self._windows = hashes, SlidingWindows(now, window_s=3_600)
        self._due, self._one_at_a_time = asyncio.Event(), asyncio.Lock()
        for verb in HANDLED:
            mail.handle(f"hive:escrow/{verb}", self._message)

    # -- messages ----------------------------------------------------------------------------------------

    async def _message(self, client: Client, draft: Draft, _agent_key: str) -> None:
        peer = await self._peers.peer(client.node_key)
        if peer is None:
            raise NotFound(f"{client.alias} is none of those we work for")
        if not await self._earns(peer, draft) and not self._windows.allow(
            "tickets", client.client_id, MESSAGES_AN_HOUR
        ):
            raise RateLimited(f"more than {MESSAGES_AN_HOUR} messages about tickets in an hour")
        await self._take(client, peer, decode_message(draft.schema, draft.body), draft)
        self._due.set()

    async def _earns(self, peer: Peer, draft: Draft) -> bool:
        """A release that makes money ours: never too many, every item has one."""
        if draft.schema != _RELEASE:
            return False
        message = decode_message(draft.schema, draft.body)
        return isinstance(message, Release) and await self._engine.opens(peer, message)

    async def _take(self, client: Client, peer: Peer, message: Message, draft: Draft) -> None:
        if isinstance(message, Ticket):
            await self._engine.ticket(peer, message, draft.msg_id)
        elif isinstance(message, SecretHashes):
            await self.hashes.told(client, message, draft)
        elif isinstance(message, Release):
            await self._engine.released(peer, message)
        elif isinstance(message, Failure):
            await self._engine.failed(peer, message)
        elif isinstance(message, Metric | Owed):
            await self._engine.noted(peer, message)
        elif isinstance(message, DisputeReply):
            await self.disputes.replied(peer, message)
        else:
            raise Unsupported(f"a payee takes no {schema_of(message)}", reason="unsupported_schema")

    # -- work --------------------------------------------------------------------------------------------

    async def with_fitting(self, plan: Plan) -> Plan:
        """A plan with the item of a ticket that was made for it and pays what the credential agrees on, the
        best one; as it is where it has a payment, or there is none. Less is worked for only where a human
        names the ticket (`planned`)."""
        if plan.spec.schema == CONTROL or plan.spec.read_only or plan.payment is not None:
            return plan
        wanted = task_params_hash(plan.spec.schema, plan.spec.name, plan.params)
        peer, danger = plan.client.node_key, plan.danger.total
        least = rate_sats(plan.credential.document, danger)

        def body(tx: Tx) -> HeldItem | None:
            for item in self._rows.fitting(tx, peer, wanted, _FITTING):
                ticket = self._rows.ticket(tx, item.ticket_id)
                assert ticket is not None and ticket.terms is not None
                enough = item.amount_sats >= least
                if enough and ticket.terms.danger >= danger and self._free(tx, item):
                    return item
            return None

        found = await self._db.read(body)
        return plan if found is None else replace(plan, payment=proof_of(found))

    async def planned(self, plan: Plan, ticket_id: str, number: int | None) -> Plan:
        """A plan with a ticket that a human named; its first free item where none is given.

        Raises NotFound, Conflict where that ticket is not for this command.
        """

        def body(tx: Tx) -> HeldItem:
            view = self._view(tx, ticket_id)
            self._check_ticket(view.ticket, plan)
            named = [item for item in view.items if number is None or item.i == number]
            if not named:
                raise NotFound(f"ticket {ticket_id} has no item {number}")
            task = task_params_hash(plan.spec.schema, plan.spec.name, plan.params)
            wanted = [item for item in named if item.params_hash == task]
            if not wanted:
                raise Conflict(f"ticket {ticket_id} is for another task than this command")
            free = [item for item in wanted if self._free(tx, item)]
            if not free:
                states = ", ".join(f"{item.i}: {item.state}" for item in wanted[:10])
                raise Conflict(
                    f"no item of ticket {ticket_id} can be worked for now ({states})", reason="stale_state"
                )
            return free[0]

        return replace(plan, payment=proof_of(await self._db.read(body)))

    def claim(self, tx: Tx, command: StoredCommand) -> None:
        """A command that names an item is being signed: the item is its own. Raises Conflict, NotFound."""
        proof = command.payment or {}
        if proof.get("method") != ESCROW:
            return
        item = self._rows.item(tx, str(proof["ticket_id"]), int(proof["item"]))
        if item is None:
            raise NotFound(f"ticket {proof['ticket_id']} with item {proof['item']} is not here")
        if item.command_id == command.command_id:
            return
        if not self._free(tx, item):
            raise Conflict(
                f"item {item.i} of ticket {item.ticket_id} is not free any more; plan again",
                reason="stale_state",
            )
        self._rows.put_item(tx, replace(item, command_id=command.command_id), item.state)

    def _free(self, tx: Tx, item: HeldItem) -> bool:
        """Usable, in its turn, and no other command has it."""
        if not self._engine.usable(tx, item) or not self._in_turn(tx, item):
            return False
        user = None if item.command_id is None else self._commands.get(tx, item.command_id)
        if user is None or did_nothing(user.state, user.slug):
            return True
        # A draft or held command gave up its envelope, and the item with it.
        return user.state not in FINAL and not user.envelope

    def _in_turn(self, tx: Tx, item: HeldItem) -> bool:
        ticket = self._rows.ticket(tx, item.ticket_id)
        if ticket is None or ticket.terms is None or item.i == 0:
            return True
        if ticket.terms.type == "performance":
            return False
        if ticket.terms.type != "milestone":
            return True
        before = self._rows.item(tx, item.ticket_id, item.i - 1)
        return before is not None and before.state in (PayeeItem.RELEASED, PayeeItem.REDEEMED)

    def _check_ticket(self, ticket: HeldTicket, plan: Plan) -> None:
        terms = ticket.terms
        if terms is None or ticket.intake is not Intake.ACCEPTED:
            raise Conflict(f"ticket {ticket.ticket_id} is {ticket.intake}: no work is begun on it")
        if ticket.peer != plan.client.node_key:
            raise Conflict(f"ticket {ticket.ticket_id} is not of client {plan.client.alias!r}")
        if terms.danger < plan.danger.total:
            raise Conflict(
                f"ticket {ticket.ticket_id} is for danger {terms.danger}, this command has"
                f" {plan.danger.total}"
            )

    # -- what is due -------------------------------------------------------------------------------------

    async def tend(self) -> None:
        """Check tickets, take outcomes from commands, redeem what is due, look after what was not paid.

        Each is done whatever became of the others; raises ExceptionGroup of what failed.
        """
        async with self._one_at_a_time:
            await self._tend()

    async def _tend(self) -> None:
        self._due.clear()
        steps: tuple[Callable[[], Awaitable[object]], ...] = (
            self._ready,
            self._engine.look,
            self._settle_work,
            self._redeemer.redeem,
            self._redeemer.look_back,
            self.disputes.expire,
            self._offers.tell,
        )
        failed: list[Exception] = []
        for step in steps:
            try:
                await step()
            except Exception as error:
                failed.append(error)
        self._mail.kick()
        if failed:
            raise ExceptionGroup("looking after tickets", failed)

    async def wanted(self) -> bool:
        """Whether there may be something for `tend` since a message came: a ticket, or an answer to work."""
        return self._due.is_set() or bool(await self._db.read(self._rows.at_work))

    async def redeem_now(self, ticket_id: str | None) -> None:
        """Redeem all that is released without waiting for more. Raises NotFound."""
        if ticket_id is not None:
            await self._db.read(lambda tx: self._view(tx, ticket_id))
        await self._ready()
        await self._settle_work()
        await self._redeemer.redeem(at_once=True)
        self._mail.kick()

    async def take_owed(self, ticket_id: str) -> int:
        """Redeem a ticket whose money waits for nobody's word (modes p2pk and receipt) and that no command of
        ours is for: a human says that it is earned. How many items that is.

        Raises NotFound, InvalidParams for a ticket in mode task, Conflict where nothing of it is left.
        """

        def body(tx: Tx) -> int:
            view = self._view(tx, ticket_id)
            terms = view.ticket.terms
            if terms is None or view.ticket.intake is not Intake.ACCEPTED:
                raise Conflict(f"ticket {ticket_id} is {view.ticket.intake}", reason="stale_state")
            if terms.mode is Mode.TASK:
                raise InvalidParams(
                    f"ticket {ticket_id} is in mode task: its payer keeps the preimage, and reveals it with"
                    " the answer to the work"
                )
            free = [item for item in view.items if item.state is PayeeItem.ACCEPTED and not item.command_id]
            if not free:
                states = ", ".join(f"{item.i}: {item.state}" for item in view.items[:10])
                raise Conflict(f"nothing of ticket {ticket_id} is free ({states})", reason="stale_state")
            for item in free:
                self._take_own(tx, item, terms.mode)
            return len(free)

        return await self._db.write(body)

    def _take_own(self, tx: Tx, item: HeldItem, mode: Mode) -> None:
        if mode is Mode.RECEIPT:
            self._engine.take_with_own_hash(tx, item)
        else:
            self._engine.take_without_hash(tx, item)

    async def due_at(self) -> int | None:
        """When something released is redeemed next, Unix seconds."""
        return await self._redeemer.due_at()

    def unpaid(self, tx: Tx, peer: str) -> tuple[int, int]:
        """What a client, by its node key, locked for us that has not ended: items, sats."""
        return self._rows.unpaid(tx, peer)

    async def live_at(self, mint_url: str) -> list[Share]:
        """What tickets may still bring at a mint."""
        live = [state for state in HeldLock if state not in LOCK_ENDS]
        shares = await self._db.read(lambda tx: self._rows.shares_in(tx, live))
        return [share for share in shares if share.mint_url == mint_url]

    async def _settle_work(self) -> None:
        with self._alone.round("items at work") as alone:
            for item in await self._db.read(self._rows.at_work):
                with alone(f"{item.ticket_id}:{item.i}"):
                    await self._settle(item)

    async def _settle(self, item: HeldItem) -> None:
        command = await self._db.read(lambda tx: self._commands.get(tx, item.command_id or ""))
        if command is None or command.state not in FINAL or did_nothing(command.state, command.slug):
            return
        try:
            await self._db.write(lambda tx: self._outcome(tx, item, command))
        except HiveError as error:
            text = f"item {item.i}: {error.detail}"[:500]
            now = self._now()
            await self._db.write(lambda tx: self._doubted(tx, item, text, now))

    def _outcome(self, tx: Tx, item: HeldItem, command: StoredCommand) -> None:
        """What the answer to the work means for its item."""
        current = self._rows.item(tx, item.ticket_id, item.i)
        if current is None or current.state is not item.state:
            return
        if current.state is PayeeItem.ACCEPTED:
            current = self._engine.move(tx, current, PayeeEvent.ON_STARTED)
        preimage = (command.response or {}).get("preimage")
        ticket = self._rows.ticket(tx, item.ticket_id)
        terms = None if ticket is None else ticket.terms
        worked = command.state in (CommandState.DONE, CommandState.PARTIAL)
        if terms is not None and terms.mode is not Mode.TASK and worked:
            self._take_own(tx, current, terms.mode)
        elif isinstance(preimage, str):
            self._engine.release(tx, current, preimage)
        elif command.state is CommandState.ERROR or command.state is CommandState.PARTIAL:
            note = command.slug or str(command.state)
            self._engine.move(tx, replace(current, note=note), PayeeEvent.ON_FAILED)
        elif current.state is PayeeItem.EXECUTING:
            # Done without its preimage, or nobody knows: a `release` may still come.
            self._engine.move(tx, replace(current, note=str(command.state)), PayeeEvent.ON_UNANSWERED)

    def _doubted(self, tx: Tx, item: HeldItem, text: str, now: int) -> None:
        """The answer's preimage opens nothing: the item waits for another word."""
        current = self._rows.item(tx, item.ticket_id, item.i)
        if current is None or current.state not in (PayeeItem.ACCEPTED, PayeeItem.EXECUTING):
            return
        if current.state is PayeeItem.ACCEPTED:
            current = self._engine.move(tx, current, PayeeEvent.ON_STARTED)
        self._engine.move(tx, replace(current, note="preimage_mismatch"), PayeeEvent.ON_UNANSWERED)
        self._records.add_event(tx, "ticket_unpaid", item.ticket_id, text, now)

    # -- reading -----------------------------------------------------------------------------------------

    async def listed(self, before: tuple[int, str] | None, limit: int) -> list[TicketView | Unreadable]:
        """Tickets, the newest first."""

        def whole(tx: Tx, each: HeldTicket | Unreadable) -> TicketView | Unreadable:
            if isinstance(each, Unreadable):
                return each
            return attempted(lambda: self._whole(tx, each), each.ticket_id, each.created_at)

        return await self._db.read(
            lambda tx: [whole(tx, each) for each in self._rows.newest(tx, before, limit)]
        )

    async def view(self, ticket_id: str) -> TicketView:
        """One ticket. Raises NotFound."""
        return await self._db.read(lambda tx: self._view(tx, ticket_id))

    async def check(self, ticket_id: str) -> TicketView:
        """Every check again: of a ticket that waits, all of 03 §6.6; of an accepted one, that its mint still
        holds what was not redeemed. Raises what speaks against it."""
        view = await self.view(ticket_id)
        await self._ready()
        if view.ticket.intake is Intake.CHECKING:
            await self._engine.check(view.ticket.ticket_id)
        elif view.ticket.intake is Intake.ACCEPTED:
            await self._redeemer.check_held(view.shares)
        else:
            raise Conflict(f"ticket {ticket_id} is {view.ticket.intake}", reason="stale_state")
        return view

    def _view(self, tx: Tx, ticket_id: str) -> TicketView:
        ticket = self._rows.ticket(tx, ticket_id)
        if ticket is None:
            raise NotFound(
                f"no ticket {ticket_id!r} is here; 'hive-advisor ticket list' shows those that are"
            )
        return self._whole(tx, ticket)

    def _whole(self, tx: Tx, ticket: HeldTicket) -> TicketView:
        items = tuple(self._rows.items(tx, ticket.ticket_id))
        shares = tuple(share for item in items for share in self._rows.shares(tx, ticket.ticket_id, item.i))
        return TicketView(ticket, items, shares)


def proof_of(item: HeldItem) -> dict[str, Any]:
    """The `payment_proof` that names an item (03 §6.6)."""
    return {"method": ESCROW, "ticket_id": item.ticket_id, "item": item.i}
