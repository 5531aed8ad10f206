"""What the operator asks of tickets (docs/protocol/03-escrow-and-payments.md §6, §9 hive-client-escrow)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.cashu.escrow import EscrowEngine, Ordered
from hive_shared.cashu.escrow_ports import Database, Mail
from hive_shared.cashu.escrow_rows import (
    EscrowRows,
    ItemRow,
    Side,
    TicketQuery,
    TicketRow,
    WithItems,
    with_items,
)
from hive_shared.cashu.escrow_terms import ItemPlan, TicketPlan, bonus_of
from hive_shared.cashu.escrow_work import EscrowWork
from hive_shared.cashu.terms import Mode, TicketType
from hive_shared.cashu.ticket_machine import PayerItem
from hive_shared.cashu.windows import BONUS_GRACE_S, MOST_UNJUDGED, OperatorRecord, Quote, Standing, quote
from hive_shared.errors import (
    ConfirmationRequired,
    Conflict,
    InvalidParams,
    PaymentFailed,
    Unauthorized,
)
from hive_shared.registry import managed, task_params
from hive_shared.store import Tx
from hive_shared.unreadable import Unreadable
from msgspec.structs import replace

from ..domain.advisor import Advisor, CredentialRow
from ..domain.bonus import METRICS
from .bonus_measure import BonusMeasure
from .item_ends import ItemEnds, Measured, Receipts, Verdict
from .item_judge import ItemJudge, check_judges, judge_of
from .ticket_mints import NO_MINT, ChosenMints, EscrowSettings, TicketMints

DAY_S: Final = 86_400
NEEDS_APPROVALS: Final = 9
"""From this danger on a release follows from an approved command, never from the operator's word alone."""
_RELEASABLE: Final = (PayerItem.EXECUTING, PayerItem.UNKNOWN)


class PayeeTold(msgspec.Struct, frozen=True):
    """What a payee announced: the key for its tickets, and the mints it takes (empty: any of ours)."""

    lock_pubkey: str
    mints: tuple[str, ...] = ()


class ItemAsked(msgspec.Struct, frozen=True):
    """An item as the operator wants it; without an amount the price of its danger."""

    amount_sats: int | None = None
    label: str = ""
    window_s: int | None = None
    cond: Mapping[str, Any] = msgspec.field(default_factory=dict)
    hash: str | None = None
    params: Mapping[str, JsonValue] | None = None


class TicketAsked(msgspec.Struct, frozen=True):
    """A ticket as the operator wants it."""

    advisor: Advisor
    type: TicketType
    mode: Mode
    items: Sequence[ItemAsked]
    danger: int
    schema: str
    task_action: str
    params: Mapping[str, JsonValue]
    mint: str | None = None
    payee_pubkey: str | None = None
    task_id: str | None = None
    contract_id: str | None = None
    baseline: Mapping[str, Any] | None = None
    replaces: str | None = None
    standing: Standing | None = None


class Judged(msgspec.Struct, frozen=True):
    """The operator's word on an item: `success` None where a measured `value`, or the item's judge within
    `timeout_s`, decides."""

    success: bool | None
    result: Mapping[str, JsonValue]
    confirm: bool
    timeout_s: float = 30.0


class Credentials(Protocol):
    """Who an advisor is to us (services.credential_service.CredentialService)."""

    def active_of(self, advisor_id: str) -> CredentialRow | None: ...
    def known_since(self, advisor_id: str) -> int | None: ...


class EscrowService:
    """Tickets of this node as payer."""

    def __init__(
        self,
        db: Database,
        rows: EscrowRows,
        engine: EscrowEngine,
        work: EscrowWork,
        ends: ItemEnds,
        judge: ItemJudge,
        bonuses: BonusMeasure,
        mail: Mail,
        mints: ChosenMints,
        receipts: Receipts,
        credentials: Credentials,
        *,
        payee: Callable[[Tx, str, Sequence[str]], PayeeTold | None],
        locked_sats: Callable[[Tx], dict[str, int]],
        settings: Callable[[], EscrowSettings],
        refund: Callable[[Sequence[str], float], Any],
        check_stop: Callable[[], None],
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self.engine, self._work, self._mail = db, rows, engine, work, mail
        self._ends, self._judge, self._bonuses = ends, judge, bonuses
        self._mints, self._receipts, self._credentials = mints, receipts, credentials
        self._payee, self._settings = payee, settings
        self._chooser = TicketMints(db, mints, locked_sats, settings)
        self._refund, self._check_stop, self._now = refund, check_stop, now
        self.check_contract: Callable[[Tx, str, str], None] = lambda tx, contract_id, pubkey: None
        """Set by the composition root: raises Conflict for a contract that does not pay this advisor."""

    # -- reading ---------------------------------------------------------------------------------------

    async def tickets(self, query: TicketQuery) -> list[WithItems | Unreadable]:
        """A page of tickets with their items."""

        return await self._db.read(lambda tx: with_items(self._rows, tx, query))

    async def in_short(self) -> dict[str, object]:
        """How many tickets are live, for the status."""

        def body(tx: Tx) -> tuple[int, int]:
            return self._rows.active(tx, Side.PAYER), self._rows.active(tx, Side.PAYEE)

        given, received = await self._db.read(body)
        return {"state": "served", "tickets_given": given, "tickets_received": received}

    async def whole(self, ticket_id: str) -> tuple[TicketRow, list[ItemRow], list[Any]]:
        """One ticket with items and disputes. Raises NotFound."""
        ticket = await self.engine.ticket(ticket_id)

        def body(tx: Tx) -> tuple[list[ItemRow], list[Any]]:
            return self._rows.items(tx, ticket_id), list(self._rows.disputes(tx, ticket_id))

        items, disputes = await self._db.read(body)
        return ticket, items, disputes

    async def receipts_of(self, ticket_id: str) -> list[tuple[ItemRow, dict[str, JsonValue]]]:
        """The receipts of a ticket's items, of those that have one."""
        await self.engine.ticket(ticket_id)

        def body(tx: Tx) -> list[tuple[ItemRow, dict[str, JsonValue]]]:
            found = []
            for item in self._rows.items(tx, ticket_id):
                if item.receipt_id is not None and item.receipt_id.isdigit():
                    receipt = self._receipts.read(tx, int(item.receipt_id))
                    found += [] if receipt is None else [(item, receipt)]
            return found

        return await self._db.read(body)

    def standing_of(self, advisor: Advisor) -> Standing:
        """How long the advisor has served here without a break: 30 days recognized, 90 senior."""
        since = self._credentials.known_since(advisor.advisor_id)
        days = 0 if since is None else (self._now() - since) // DAY_S
        if days > 90:
            return Standing.SENIOR
        return Standing.RECOGNIZED if days > 30 else Standing.NEWCOMER

    def price(
        self, danger: int, standing: Standing, operator: OperatorRecord = OperatorRecord.NEW, *, trust: bool
    ) -> Quote:
        """Price and window of a danger; `trust`: with the modifiers of trust on the price."""
        return quote(danger, standing, operator, by_trust=trust)

    def mints_taken(self) -> Sequence[str]:
        """The mints that the operator named, in normal form."""
        return self._mints.accepted()

    # -- making ----------------------------------------------------------------------------------------

    async def create(self, asked: TicketAsked, key: str, timeout: float) -> TicketRow:
        """Make, lock and hand over a ticket. Raises EmergencyStop, InvalidParams, BudgetExhausted, Conflict,
        Capacity, PaymentFailed (`mint_unavailable`, `mint_not_allowed`, `insufficient_ecash`)."""
        known = await self._db.read(lambda tx: self._rows.by_key(tx, key))
        if known is None:
            self._check_stop()
            if not self._mints.accepted():
                raise PaymentFailed(NO_MINT, reason="mint_not_allowed")
            contract_id, pubkey = asked.contract_id, asked.advisor.pubkey
            if contract_id is not None and pubkey is not None:
                await self._db.read(lambda tx: self.check_contract(tx, contract_id, pubkey))
        told = await self._told(asked)
        asked = await self._with_baseline(asked, known)
        plan = self._plan(asked, told, new=known is None)
        mints: Sequence[tuple[str, int]] = ()
        if known is not None:
            mints = [(each.url, each.permille) for each in known.terms.mints]
        else:
            last = plan.last_locktime(self._now())
            amounts = [item.amount_sats for item in plan.items]
            mints = await self._chooser.chosen(amounts, last, takes=told.mints, wanted=asked.mint)
        order = Ordered(key, mints, asked.advisor.advisor_id, asked.task_id)
        return await self.engine.create(plan, order, timeout)

    async def _with_baseline(self, asked: TicketAsked, known: TicketRow | None) -> TicketAsked:
        """With the baseline that this node measured, for bonuses that it measures itself."""
        bonuses = [bonus_of(item.cond) for item in asked.items[1:]]
        if asked.type is not TicketType.PERFORMANCE:
            return asked
        metrics = [bonus[0] for bonus in bonuses if bonus is not None]
        if asked.baseline is not None:
            if METRICS.isdisjoint(metrics):
                return asked
            raise InvalidParams(
                f"this node measures {', '.join(sorted(METRICS.intersection(metrics)))} itself, also its"
                " baseline: leave baseline= out",
                data={"param": "baseline"},
            )
        if known is not None:
            same = known.terms.baseline
            return replace(asked, baseline=same) if isinstance(same, dict) else asked
        return replace(asked, baseline=await self._bonuses.baseline(asked.advisor, metrics))

    async def _told(self, asked: TicketAsked) -> PayeeTold:
        pubkey = asked.advisor.pubkey
        if pubkey is None:
            raise InvalidParams(
                "the advisor has no Nostr key, to which a ticket could be sent", data={"param": "advisor"}
            )
        row = self._credentials.active_of(asked.advisor.advisor_id)
        contexts = [each for each in (asked.contract_id, row and row.credential_id) if each]
        told = await self._db.read(lambda tx: self._payee(tx, pubkey, contexts))
        if asked.payee_pubkey is not None:
            return PayeeTold(asked.payee_pubkey, () if told is None else told.mints)
        if told is None:
            raise InvalidParams(
                "the advisor has not told which key its tickets are locked to; its kit does so by itself when"
                " it takes ecash, or name the key in payee_pubkey=",
                data={"param": "payee_pubkey"},
            )
        return told

    def _plan(self, asked: TicketAsked, told: PayeeTold, *, new: bool = True) -> TicketPlan:
        if asked.mode is not Mode.TASK and asked.danger > MOST_UNJUDGED and managed(asked.schema):
            raise InvalidParams(
                f"mode {asked.mode.value} pays whatever comes of the work: for commands of this node's"
                f" management from danger {MOST_UNJUDGED + 1} on take mode task, not {asked.mode.value}"
                f" for danger {asked.danger}",
                data={"param": "mode"},
            )
        own_command = managed(asked.schema)
        check_judges([item.cond for item in asked.items], self._judge.allowed(), own_command=own_command)
        priced = self.price(asked.danger, asked.standing or self.standing_of(asked.advisor), trust=False)
        row = self._credentials.active_of(asked.advisor.advisor_id)
        rate = 0
        if row is not None and row.credential.compensation.get("model") == "per_action":
            agreed = row.credential.compensation.get("rate_sats")
            rate = agreed if type(agreed) is int else 0
        items, task = [], (asked.schema, asked.task_action)
        for i, item in enumerate(asked.items):
            amount = item.amount_sats or rate or priced.adjusted_sats
            if amount < 1:
                raise InvalidParams(
                    f"item {i} needs amount_sats: work of danger {asked.danger} has no price of its own",
                    data={"param": "items"},
                )
            params = None if item.params is None else task_params(*task, dict(item.params))
            items.append(ItemPlan(amount, item.label, item.window_s, item.cond, item.hash, params))
        if new and asked.type is TicketType.PERFORMANCE and items[0].amount_sats < rate:
            raise InvalidParams(
                f"the base of a performance ticket pays for the work alone: {items[0].amount_sats} sat are"
                f" less than the {rate} sat an action that the credential agrees on",
                data={"param": "items"},
            )
        return TicketPlan(
            payee_id=str(asked.advisor.pubkey),
            lock_pubkey=told.lock_pubkey,
            type=asked.type,
            mode=asked.mode,
            items=items,
            schema=asked.schema,
            action=asked.task_action,
            params=task_params(*task, dict(asked.params)),
            danger=asked.danger,
            window_s=priced.window_s,
            buffer_s=self._settings().buffer_s,
            contract_id=asked.contract_id,
            credential_ref=None if row is None else row.credential_id,
            baseline=asked.baseline,
            replaces=asked.replaces,
            valid_from=None if row is None else row.credential.valid_from,
        )

    # -- judging ---------------------------------------------------------------------------------------

    async def complete(self, ticket_id: str, i: int, judged: Judged) -> ItemRow:
        """The operator judges an item that no command decides: work of another kind, a measured bonus, what a
        crash left unknown. Its receipt, the step and the message to the payee are one transaction.

        Raises ConfirmationRequired without `confirm`; Unauthorized from danger 9 on; PaymentFailed
        (`lock_mismatch`, `too_late`, `too_early`, `not_released`), Conflict, InvalidParams, NotFound.
        """
        ticket = await self.engine.own(ticket_id)
        if judged.success is not False:
            self._check_stop()
        asked = await self._db.read(lambda tx: self.engine.item(tx, ticket, i))
        if judged.success is None and judge_of(asked.cond) is not None:
            self._check_judge(ticket, asked, judged, by_method=True)
            return await self._judge.ask(ticket, i, judged.result, judged.timeout_s)

        def body(tx: Tx) -> ItemRow:
            item = self.engine.item(tx, ticket, i)
            bonus = bonus_of(item.cond)
            success = judged.success if bonus is None else self._measured(item, bonus, judged)
            if success is None:
                raise InvalidParams("complete needs success=true or false", data={"param": "success"})
            self._check_judge(ticket, item, judged, back=self.engine.is_back(tx, item))
            if item.state not in _RELEASABLE:
                item = self._work.start(tx, self._work.check_free(tx, ticket, i), f"operator:{ticket_id}:{i}")
            reason = "task_failed"
            if bonus is not None:
                found = Measured(*(bonus[0], int(str(judged.result["value"])), bonus[1], self._now()))
                item, reason = self._ends.tell_metric(tx, ticket, item, found), "missed"
            return self._ends.end(tx, ticket, item, Verdict(success, judged.result, reason))

        done = await self._db.write(body)
        self._mail.kick()
        return done

    async def release(self, ticket_id: str, i: int) -> ItemRow:
        """Send the payee what it earned, again if need be: the same preimage and receipt. Raises
        PaymentFailed(`not_released`, `too_late`) for anything not earned."""
        ticket = await self.engine.own(ticket_id)

        def body(tx: Tx) -> ItemRow:
            item = self.engine.item(tx, ticket, i)
            if item.state is PayerItem.SUCCEEDED:
                self._work.release(tx, ticket, item)
                item = self.engine.item(tx, ticket, i)
            self._ends.tell_released(tx, ticket, item)
            return item

        done = await self._db.write(body)
        self._mail.kick()
        return done

    async def refund(self, ticket_id: str, timeout: float) -> TicketRow:
        """Take back what is due of a ticket now. Raises PaymentFailed(`too_early`), Conflict where nothing
        of it is locked."""
        ticket = await self.engine.own(ticket_id)
        going = (PayerItem.REDEEMED, PayerItem.REFUNDED, PayerItem.CANCELLED, PayerItem.PLANNED)

        def body(tx: Tx) -> list[str]:
            return [
                lock_id
                for item in self._rows.items(tx, ticket_id)
                if item.state not in going
                for lock_id in item.lock_ids
            ]

        lock_ids = await self._db.read(body)
        if not lock_ids:
            raise Conflict(
                f"ticket {ticket_id} is {ticket.status.value}: nothing of it is locked", reason="stale_state"
            )
        await self._refund(lock_ids, timeout)
        return await self.engine.ticket(ticket_id)

    # -- inside ----------------------------------------------------------------------------------------

    def _check_judge(
        self, ticket: TicketRow, item: ItemRow, judged: Judged, *, by_method: bool = False, back: bool = False
    ) -> None:
        if item.state is PayerItem.EXECUTING:
            raise Conflict(
                f"item {item.i} pays command {item.command_id}, which is under way: its result decides",
                reason="stale_state",
            )
        # Neither a failure nor what is owed after the money came back releases anything.
        harmless = judged.success is False or back
        if ticket.terms.danger >= NEEDS_APPROVALS and not (item.state is PayerItem.UNKNOWN and harmless):
            raise Unauthorized(
                f"danger {ticket.terms.danger} is released by a command with its approvals, not by a word"
            )
        if not judged.confirm and not by_method:
            raise ConfirmationRequired(
                f"no result of item {item.i} is stored here: confirm=true says that you judged the work"
                " yourself"
            )

    def _measured(self, item: ItemRow, bonus: tuple[str, int], judged: Judged) -> bool:
        value = judged.result.get("value")
        if type(value) is not int:
            raise InvalidParams(
                f'item {item.i} is a bonus: result={{"value": n}} says what was measured of {bonus[0]}',
                data={"param": "result"},
            )
        if self._now() < item.deadline - BONUS_GRACE_S:
            raise PaymentFailed(
                f"item {item.i} is measured until {item.deadline - BONUS_GRACE_S}",
                reason="too_early",
                data={"measured_until": item.deadline - BONUS_GRACE_S},
            )
        met = value >= bonus[1]
        if judged.success not in (None, met):
            raise InvalidParams(
                f"success={str(judged.success).lower()} contradicts {value} of {bonus[1]}: leave it out",
                data={"param": "success"},
            )
        return met
