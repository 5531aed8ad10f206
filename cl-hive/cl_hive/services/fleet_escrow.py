"""What the operator asks of the fleet's tickets (docs/protocol/03-escrow-and-payments.md §6, §9)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.cashu.escrow import EscrowEngine, Ordered
from hive_shared.cashu.escrow_ports import Database, Mail, Notices
from hive_shared.cashu.escrow_rows import (
    DisputeRow,
    EscrowRows,
    ItemRow,
    TicketQuery,
    TicketRow,
    WithItems,
    with_items,
)
from hive_shared.cashu.escrow_terms import ItemPlan, TicketPlan
from hive_shared.cashu.escrow_work import EscrowWork
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.terms import TicketType, task_params_hash
from hive_shared.cashu.ticket_machine import PayerItem
from hive_shared.cashu.ticket_messages import Failure, Message, Release
from hive_shared.cashu.windows import OperatorRecord, Quote, Standing, quote
from hive_shared.errors import (
    ConfirmationRequired,
    Conflict,
    EmergencyStop,
    InvalidParams,
    NotFound,
    PaymentFailed,
    SiblingUnavailable,
    Unauthorized,
)
from hive_shared.registry import task_params
from hive_shared.store import Tx
from hive_shared.unreadable import Unreadable
from msgspec.structs import replace

from cl_hive.domain.fleet_escrow import MARGIN_S, RELEASED_HOLD_S, FleetLock, FleetReceipt
from cl_hive.services.fleet_ports import Comms, LockRows, NodeCall, ReceiptRows
from cl_hive.services.fleet_results import StoredResult, StoredResults
from cl_hive.services.fleet_wallet import FleetLocks

MOST_SATS: Final = 10_000_000
NEEDS_APPROVALS: Final = 9
"""From this danger on a release follows from an approved command, never from the operator's word alone."""
_MESSAGE_S: Final = 14 * 86_400
_HELD: Final = (
    *(PayerItem.LOCKED, PayerItem.DELIVERED, PayerItem.ACCEPTED, PayerItem.FAILED, PayerItem.UNKNOWN),
    *(PayerItem.RELEASED, PayerItem.REFUNDABLE, PayerItem.REFUNDING, PayerItem.CANCELLED),
)
"""States in which an item's money may be asked back."""


_UNKNOWN: Final = (
    "its money is due back, and cl-hive-comms does not know its locks: restore a backup of cl-hive-comms that"
    " has them, or let hive-client-wallet action=restore look for them by the terms (hive-escrow-get)"
)
_MEMBERS: Final = (
    "tickets that pay a member of a fleet come with settlements (docs/protocol/06), which this version does"
    " not serve; one that pays this node for work is redeemed by hive-client-escrow action=redeem"
)


class FleetAsked(msgspec.Struct, frozen=True):
    """A ticket as the operator wants it. `agent` is its Nostr key (x-only hex)."""

    agent: str
    schema: str
    action: str
    danger: int
    type: TicketType
    items: Sequence[ItemPlan]
    params: Mapping[str, JsonValue] = msgspec.field(default_factory=dict)
    mint: str | None = None
    task_id: str | None = None
    payee_pubkey: str | None = None


class FleetJudged(msgspec.Struct, frozen=True):
    """What the operator says came of an item's task."""

    schema: str | None
    action: str | None
    params: Mapping[str, JsonValue] | None
    result: Mapping[str, JsonValue]
    success: bool | None
    reveal: bool
    confirm: bool


class TicketMail(Mail, Notices, Protocol):
    """The engine's mail and the operator's notices (services.fleet_mail.FleetMail)."""


class FleetEscrow:
    """Tickets of cl-hive. `settlement_mints` is the operator's option."""

    def __init__(
        self,
        db: Database,
        rows: EscrowRows,
        locks: LockRows,
        receipts: ReceiptRows,
        engine: EscrowEngine,
        work: EscrowWork,
        wallet: FleetLocks,
        mail: TicketMail,
        comms: Comms,
        results: StoredResults,
        *,
        node: NodeCall,
        settlement_mints: Callable[[], Sequence[str]],
        now: Callable[[], int],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._db, self._rows, self._locks, self._receipts = db, rows, locks, receipts
        self.engine, self._work, self._wallet, self._mail = engine, work, wallet, mail
        self._comms, self._results, self._node = comms, results, node
        self._mints, self._now, self._random_bytes = settlement_mints, now, random_bytes

    # -- reading ---------------------------------------------------------------------------------------

    async def tickets(self, query: TicketQuery) -> list[WithItems | Unreadable]:
        """A page of tickets with their items."""

        return await self._db.read(lambda tx: with_items(self._rows, tx, query))

    async def whole(
        self, ticket_id: str
    ) -> tuple[TicketRow, list[ItemRow], list[FleetLock], list[DisputeRow]]:
        """One ticket with everything but money and preimages. Raises NotFound."""
        ticket = await self.engine.ticket(ticket_id)

        def body(tx: Tx) -> tuple[TicketRow, list[ItemRow], list[FleetLock], list[DisputeRow]]:
            return (
                ticket,
                self._rows.items(tx, ticket_id),
                self._locks.of_terms(tx, ticket.terms_hash),
                self._rows.disputes(tx, ticket_id),
            )

        return await self._db.read(body)

    async def receipts_of(self, ticket_id: str) -> list[FleetReceipt]:
        """The receipts of a ticket's items. Raises NotFound."""
        await self.engine.ticket(ticket_id)
        return await self._db.read(lambda tx: self._receipts.of_ticket(tx, ticket_id))

    # -- making ----------------------------------------------------------------------------------------

    async def create(self, asked: FleetAsked, key: str, timeout: float) -> TicketRow:
        """Make, lock and hand over a ticket; the same call again gives the same ticket.

        Raises SiblingUnavailable, EmergencyStop, InvalidParams, Conflict for a key that stands for another
        ticket, Capacity, and what locking raises: BudgetExhausted, PaymentFailed.
        """
        self._need_comms()
        name = f"fleet:{key}"
        known = await self._db.read(lambda tx: self._rows.by_key(tx, name))
        if known is not None:
            mints = [(each.url, each.permille) for each in known.terms.mints]
            plan = self._plan(asked, known.terms.payee.lock_pubkey, 0, None)
            return await self.engine.create(plan, Ordered(name, mints, asked.agent, asked.task_id), timeout)
        if self._comms.stopped():
            raise EmergencyStop("the emergency stop is on: no ticket is made until it is released")
        named = self._named(asked.mint)
        query: dict[str, Any] = {
            "agent": asked.agent,
            "amounts": [item.amount_sats for item in asked.items],
            "window_s": self._window(asked),
            "mints": named,
        }
        if asked.payee_pubkey is not None:
            query["payee_pubkey"] = asked.payee_pubkey
        needs = await self._comms.call("hive-comms-cashu-payee", query)
        mints = [(str(each["url"]), int(each["permille"])) for each in needs["mints"]]
        ticket_id = self._random_bytes(16).hex()
        refund = await self._comms.call("hive-comms-cashu-pubkey", {"context": ticket_id, "role": "payer"})
        plan = self._plan(
            asked, str(needs["lock_pubkey"]), int(needs["buffer_s"]), needs.get("credential_id")
        )
        order = Ordered(name, mints, asked.agent, asked.task_id, (ticket_id, str(refund["pubkey"])))
        return await self.engine.create(plan, order, timeout)

    def _named(self, mint: str | None) -> list[str]:
        listed = list(self._mints())
        if not listed:
            raise PaymentFailed(
                "hive-settlement-mints is empty: without a mint that you name there are no fleet tickets",
                reason="mint_not_allowed",
            )
        if mint is None:
            return listed
        if mint.rstrip("/") not in listed:
            raise PaymentFailed(
                f"mint {mint[:80]!a} is none of hive-settlement-mints", reason="mint_not_allowed"
            )
        return [mint.rstrip("/")]

    def _plan(
        self, asked: FleetAsked, lock_pubkey: str, buffer_s: int, credential_id: str | None
    ) -> TicketPlan:
        task = (asked.schema, asked.action)
        items = [
            replace(
                item,
                params=None if item.params is None else task_params(*task, dict(item.params)),
                cond={**item.cond, "action": asked.action},
            )
            for item in asked.items
        ]
        return TicketPlan(
            payee_id=asked.agent,
            lock_pubkey=lock_pubkey,
            type=asked.type,
            items=items,
            schema=asked.schema,
            action=asked.action,
            danger=asked.danger,
            window_s=_window_s(asked.danger),
            buffer_s=buffer_s,
            params=task_params(*task, dict(asked.params)),
            credential_ref=credential_id,
        )

    def _window(self, asked: FleetAsked) -> int:
        usual = _window_s(asked.danger)
        return max(usual if item.window_s is None else item.window_s for item in asked.items)

    # -- judging ---------------------------------------------------------------------------------------

    async def complete(self, ticket_id: str, i: int, judged: FleetJudged) -> ItemRow:
        """Judge an item by what is stored of its task: the result of an earlier call, or the receipt of the
        command that did it; with `confirm` by the operator's word. Its receipt, the step and the message to
        the payee are one transaction; again is the same.

        Raises SiblingUnavailable, ConfirmationRequired where nothing is stored and `confirm` is missing,
        Unauthorized, PaymentFailed (`lock_mismatch`, `too_late`, `not_released`), Conflict, InvalidParams,
        NotFound.
        """
        self._need_comms()
        ticket = await self.engine.own(ticket_id)
        item = await self._db.read(lambda tx: self.engine.item(tx, ticket, i))
        self._check_task(ticket, item, judged)
        receipt = await self._db.read(lambda tx: self._receipts.of_item(tx, ticket_id, i))
        command = None
        if receipt is None:
            command = await self._stored(ticket, item)
            receipt = await self._signed(ticket, item, judged, command)
        elif judged.success not in (None, receipt.success):
            raise Conflict(
                f"item {i} was judged before: success={str(receipt.success).lower()}", reason="judged"
            )
        task = f"operator:{ticket_id}:{i}" if command is None else command.command_id
        done = await self._db.write(lambda tx: self._judged(tx, ticket, i, receipt, task, judged.reveal))
        self._mail.kick()
        return done

    def _judged(
        self, tx: Tx, ticket: TicketRow, i: int, receipt: FleetReceipt, task: str, reveal: bool
    ) -> ItemRow:
        ticket_id, item = ticket.ticket_id, self.engine.item(tx, ticket, i)
        stored = self._receipts.of_item(tx, ticket_id, i)
        if stored is None:
            item = self._work.start(tx, self._work.check_free(tx, ticket, i), task)
            self._receipts.add(tx, receipt)
        else:
            receipt = stored
        if item.released_at is not None:
            # Once a minute at most, however often it is asked for.
            again = f"release:{ticket_id}:{i}:{self._now() // 60}"
            self._tell(tx, ticket, self._release(ticket_id, i, receipt), again)
        elif item.state in (PayerItem.EXECUTING, PayerItem.UNKNOWN):
            if not receipt.success:
                self._work.fail(tx, item, receipt.receipt_id)
                said = Failure(ticket_id, i, "task_failed", receipt.receipt_id, receipt.hash)
                self._tell(tx, ticket, said, f"failure:{ticket_id}:{i}")
            elif reveal:
                self._work.succeed(tx, item, receipt.receipt_id)
                self._receipts.revealed(tx, ticket_id, i)
                self._tell(tx, ticket, self._release(ticket_id, i, receipt), f"release:{ticket_id}:{i}")
        return self.engine.item(tx, ticket, i)

    def _release(self, ticket_id: str, i: int, receipt: FleetReceipt) -> Release:
        # The preimage is put in when the message leaves.
        return Release(ticket_id, i, "0" * 64, receipt.receipt_id, receipt.hash)

    def _tell(self, tx: Tx, ticket: TicketRow, message: Message, key: str) -> None:
        self._mail.put(tx, ticket.terms.payee.id, message, key=key, expires_at=self._now() + _MESSAGE_S)

    def _check_task(self, ticket: TicketRow, item: ItemRow, judged: FleetJudged) -> None:
        if judged.schema is not None and judged.schema != ticket.terms.schema:
            raise InvalidParams(
                f"the ticket is for {ticket.terms.schema}, not for {judged.schema[:64]!a}",
                data={"param": "schema_id"},
            )
        if judged.params is not None and judged.action is not None:
            wanted = _params_hash(ticket, item)
            task = (ticket.terms.schema, judged.action)
            if task_params_hash(*task, task_params(*task, dict(judged.params))) != wanted:
                raise InvalidParams(
                    "action and params_json are not the task that the ticket was made for",
                    data={"param": "params_json"},
                )

    async def _stored(self, ticket: TicketRow, item: ItemRow) -> StoredResult | None:
        """The newest command that was this task since the ticket was made and pays no other item."""
        terms = ticket.terms
        found = await self._results.of_task(
            terms.payee.id, terms.schema, _action(item), _params_hash(ticket, item), terms.issued_at
        )
        free = await self._db.read(
            lambda tx: [each for each in found if self._rows.of_command(tx, each.command_id) is None]
        )
        return free[0] if free else None

    async def _signed(
        self, ticket: TicketRow, item: ItemRow, judged: FleetJudged, command: StoredResult | None
    ) -> FleetReceipt:
        """The receipt of an item, with this node's signature."""
        danger, success = ticket.terms.danger, judged.success
        params, result = judged.params or {}, judged.result
        if command is not None:
            if success not in (None, command.success):
                raise Conflict(
                    f"command {command.command_id} did this task, and its receipt says"
                    f" success={str(command.success).lower()}",
                    reason="judged",
                )
            success, params, result = command.success, command.params, command.result
            if danger >= NEEDS_APPROVALS and success and not command.approved:
                raise Unauthorized(f"danger {danger} is released by a command with its approvals")
        elif success is None:
            raise InvalidParams(
                f"nothing is stored of the task of item {item.i}: say success=true or false and"
                " confirm=true, if you judged the work yourself",
                data={"param": "success"},
            )
        elif danger >= NEEDS_APPROVALS:
            raise Unauthorized(f"danger {danger} is released by a command with its approvals, not by a word")
        elif not judged.confirm:
            raise ConfirmationRequired(
                f"no result of item {item.i} is stored: confirm=true says that you judged the work yourself"
            )
        receipt = FleetReceipt(
            *(ticket.ticket_id, item.i, ticket.terms.schema, _action(item)),
            *(params, result, bool(success), self._now()),
        )
        signed = await self._node("signmessage", {"message": receipt.text})
        return replace(receipt, node_signature=str(signed["zbase"]))

    # -- being paid ------------------------------------------------------------------------------------

    async def redeem(self, ticket_id: str, preimage: str | None, timeout: float) -> TicketRow:
        """Take what a ticket pays this node, for the items whose preimage this is, or that were released.

        Raises SiblingUnavailable, Unauthorized for a ticket that this node pays, PaymentFailed
        (`preimage_mismatch`, `not_released`).
        """
        self._need_comms()
        try:
            await self.engine.ticket(ticket_id)
        except NotFound:
            raise NotFound(f"there is no ticket {ticket_id[:64]!a} here: {_MEMBERS}") from None
        raise Unauthorized(
            f"ticket {ticket_id} is paid by this node: its payee redeems it; hive-escrow-refund takes"
            f" back what was not earned, after its locktime; {_MEMBERS}"
        )

    # -- taking back -----------------------------------------------------------------------------------

    async def refund(self, ticket_id: str, timeout: float) -> TicketRow:
        """Take back what is due of a ticket now. Raises SiblingUnavailable, PaymentFailed(`too_early`),
        Conflict where nothing of it is locked."""
        self._need_comms()
        ticket = await self.engine.own(ticket_id)
        now = self._now()

        def body(tx: Tx) -> tuple[list[FleetLock], int]:
            standing = [row for row in self._locks.of_terms(tx, ticket.terms_hash) if _stands(row)]
            times = [self._back_at(tx, row) for row in standing]
            due = [row for row, at in zip(standing, times, strict=True) if at <= now]
            return due, min(times, default=0)

        due, earliest = await self._db.read(body)
        if not due and earliest:
            raise PaymentFailed(
                f"nothing of ticket {ticket_id} goes back before {earliest}",
                reason="too_early",
                data={"refundable_at": earliest},
            )
        if not due:
            raise Conflict(
                f"ticket {ticket_id} is {ticket.status.value}: nothing of it is locked", reason="stale_state"
            )
        await self._back(due, timeout)
        return await self.engine.ticket(ticket_id)

    async def sweep(self) -> None:
        """Ask back what is due of every ticket. Raises SiblingUnavailable."""
        now = self._now()

        def body(tx: Tx) -> list[FleetLock]:
            return [row for row in self._locks.past(tx, now - MARGIN_S) if self._back_at(tx, row) <= now]

        by_ticket: dict[str, list[FleetLock]] = {}
        for row in await self._db.read(body):
            by_ticket.setdefault(row.ticket_id, []).append(row)
        for ticket_id, rows in by_ticket.items():
            try:
                await self._back(rows, 60)
            except (PaymentFailed, Conflict):
                continue  # Its mint's clock is behind, or it is not there: next time.
            except NotFound:
                # The others come back all the same.
                await self._db.write(partial(self._tell_unknown, ticket_id=ticket_id))

    def _tell_unknown(self, tx: Tx, *, ticket_id: str) -> None:
        if (ticket := self._rows.ticket(tx, ticket_id)) is not None:
            self._mail.tell(tx, ticket, "locks_unknown", _UNKNOWN)

    async def _back(self, rows: Sequence[FleetLock], timeout: float) -> None:
        """From here on nothing pays a task any more; then comms is asked."""

        lock_ids = [row.lock_id for row in rows]
        await self._db.write(lambda tx: self._wallet.refund_due(tx, lock_ids))
        await self._wallet.refund(lock_ids, timeout)

    def _back_at(self, tx: Tx, row: FleetLock) -> int:
        """From when on a lock is asked back; far away while its task is under way."""
        item = self._rows.item_of(tx, row.terms_hash, row.item)
        if item is None or item.state in _HELD:
            hold = RELEASED_HOLD_S if item is not None and item.released_at is not None else 0
            return row.locktime + (hold or MARGIN_S)
        return row.locktime + RELEASED_HOLD_S

    # -- inside ----------------------------------------------------------------------------------------

    def _need_comms(self) -> None:
        if not self._comms.present():
            raise SiblingUnavailable(
                "cl-hive-comms, which has the money, is not running: start it; nothing was changed",
                data={"plugin": "cl-hive-comms"},
            )


def price(danger: int, standing: Standing) -> Quote:
    """Price and window of a danger for an agent of a standing (03 §6.4)."""
    return quote(danger, standing, OperatorRecord.NEW, by_trust=True)


def _window_s(danger: int) -> int:
    return quote(danger, Standing.NEWCOMER, OperatorRecord.NEW).window_s


def _stands(row: FleetLock) -> bool:
    return row.state in (LockState.LOCKED, LockState.DELIVERED, LockState.REFUNDABLE)


def _params_hash(ticket: TicketRow, item: ItemRow) -> str:
    return str(item.cond.get("task_params_hash", ticket.terms.task_params_hash))


def _action(item: ItemRow) -> str:
    return str(item.cond.get("action", ""))
