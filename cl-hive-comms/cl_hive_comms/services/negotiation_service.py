"""Negotiating with an advisor, by the operator's own hand (docs/protocol/04-marketplace-and-nostr.md §9).

Every step is one transaction: the row, the message to the other side and the receipt, or none of them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

import msgspec
from hive_shared import vc
from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue
from hive_shared.errors import Capacity, Conflict, InvalidParams
from hive_shared.market import negotiation
from hive_shared.market.contract_machine import FINAL, NEGOTIATED, UNSIGNED, ContractEvent, ContractState
from hive_shared.market.messages import (
    MAX_REASON,
    Abort,
    Accept,
    ContractProposal,
    CounterOffer,
    Message,
    Reject,
)
from hive_shared.market.negotiation import MAX_ROUNDS, Negotiation, Round, Side
from hive_shared.market.negotiation_machine import ThreadState
from hive_shared.market.terms import modified, read_terms, widened
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Db, Tx

from ..domain.engagement import MAX_CONTRACTS, Engagement, check_open
from .alert_service import AlertService
from .kill_switch import KillSwitch
from .market_mail import MarketMail
from .ports_engagements import EngagementRows
from .ports_identity import Clock, Log, RandomBytes
from .receipt_service import ReceiptService, operator_event

DAY_S: Final = 86_400
MAX_OPEN: Final = 200
"""Negotiations under way at the same time."""
GRACE_S: Final = 3_600
"""How long after the last terms ran out, or the start of the plugin, an answer of before may still come."""
_BATCH: Final = 100


class Whom(msgspec.Struct, frozen=True):
    """The advisor that is meant: key (x-only hex), id, name."""

    pubkey: str
    did: str
    name: str


class NegotiationService:
    """Proposes, counters, accepts, rejects, aborts; and takes what the other side says.

    `agreed(tx, row)` goes on with what both agreed to, in the same transaction.
    """

    def __init__(
        self,
        db: Db,
        rows: EngagementRows,
        mail: MarketMail,
        *,
        receipts: ReceiptService,
        alerts: AlertService,
        kill_switch: KillSwitch,
        own_key: Callable[[], str],
        node_id: str,
        rehire_days: Callable[[], int],
        now: Clock,
        random_bytes: RandomBytes,
        log: Log,
    ) -> None:
        self._db, self._rows, self._mail, self._alone = db, rows, mail, RowByRow(log)
        self._receipts, self._alerts, self._kill_switch = receipts, alerts, kill_switch
        self._own_key, self._node_id, self._rehire_days = own_key, node_id, rehire_days
        self._now, self._random_bytes = now, random_bytes
        self._since = now()
        self._peers: frozenset[str] = frozenset()
        self.agreed: Callable[[Tx, Engagement], Engagement] = lambda tx, row: row
        mail.verbs.update(
            {
                CounterOffer: self._countered,
                Accept: self._accepted,
                Reject: self._rejected,
                Abort: self._aborted,
                ContractProposal: self._proposed,
            }
        )

    # -- who is heard --------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read with whom something is under way; at start and after every change."""
        peers = await self._db.read(lambda tx: self._rows.peers(tx, FINAL))
        self._peers = frozenset(peers)

    def hears(self, key: str) -> bool:
        """Whether something is under way with this key (x-only hex)."""
        return key in self._peers

    # -- the operator's acts -------------------------------------------------------------------------

    async def propose(
        self, whom: Whom, terms: Mapping[str, Any], *, last_s: int = negotiation.PROPOSAL_S
    ) -> Engagement:
        """Propose a contract for this node.

        Raises InvalidParams, Conflict (`already_negotiating`, `rehire_cooldown`), Capacity, EmergencyStop,
        TransportUnavailable for terms too long to send.
        """
        self._kill_switch.check()
        read_terms(terms)
        if whom.pubkey in (self._own_key(), self._node_id[2:]):
            raise InvalidParams("this is the node's own key; a node cannot be its own advisor")
        row = await self._db.write(lambda tx: self._propose(tx, whom, dict(terms), last_s))
        await self._told()
        return row

    async def counter(
        self, contract_id: str, modifications: Mapping[str, Any], justification: str
    ) -> Engagement:
        """Offer other terms for those that stand. The sixth round ends it as failed.

        Raises InvalidParams, NotFound, Conflict, Capacity, EmergencyStop.
        """
        self._kill_switch.check()
        if len(justification) > MAX_REASON:
            raise InvalidParams(f"justification is {len(justification)} characters, at most {MAX_REASON}")

        def step(tx: Tx) -> Engagement:
            row, at = self._rows.get(tx, contract_id), self._now()
            check_open(row)
            standing = _standing(row, at)
            if row.thread.last.number < MAX_ROUNDS:
                modified(standing.terms, modifications)
            body = CounterOffer(
                type="HiveCounterOffer",
                proposalId=row.contract_id,
                round=row.thread.last.number + 1,
                base_terms_hash=standing.terms_hash,
                modifications=dict(modifications),
                justification=justification,
                expiresAt=at + negotiation.ROUND_S,
            )
            after = negotiation.countered(row.thread, Side.OPERATOR, body, at)
            saved = self._rows.save(tx, _with_round(row, after, at))
            self._mail.send(tx, saved, body, body.expiresAt)
            self._receipt(tx, "market_counter", saved, {"modifications": dict(modifications)})
            return saved

        return await self._write(step)

    async def accept(self, contract_id: str, wanted_hash: str = "") -> Engagement:
        """Accept the terms that stand, by hash where one is given; the node signs the contract with it.

        Raises InvalidParams, NotFound, Conflict (`own_terms`, `stale_terms`, `expired`, `stale_state`),
        Capacity, EmergencyStop.
        """
        self._kill_switch.check()

        def step(tx: Tx) -> Engagement:
            row, at = self._rows.get(tx, contract_id), self._now()
            check_open(row)
            wanted = wanted_hash or _standing(row, at).terms_hash
            after = negotiation.accepted(row.thread, Side.OPERATOR, wanted, at)
            _check_served(after)
            saved = self._rows.save(tx, row.after(ContractEvent.ON_ACCEPTED, at, thread=after))
            self._mail.send(tx, saved, Accept(row.contract_id, wanted), at + negotiation.ROUND_S)
            self._receipt(tx, "market_accept", saved, {"terms_hash": wanted})
            return self.agreed(tx, saved)

        return await self._write(step)

    async def reject(self, contract_id: str, reason: str) -> Engagement:
        """Decline the other side's terms. Raises InvalidParams, NotFound, Conflict."""
        return await self._ended(contract_id, reason, ContractEvent.ON_REJECTED)

    async def abort(self, contract_id: str, reason: str) -> Engagement:
        """Withdraw before the node has signed. Raises InvalidParams, NotFound, Conflict."""
        return await self._ended(contract_id, reason, ContractEvent.ON_ABORTED)

    # -- time ----------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """End what nobody answered in time, and take what waited for an earlier message."""
        await self._mail.release()

        before = self._now() - GRACE_S
        if before < self._since:
            return

        def due(tx: Tx) -> list[Engagement]:
            return self._rows.unanswered(tx, (*NEGOTIATED, ContractState.DRAFT), before, _BATCH)

        def step(tx: Tx, contract_id: str) -> None:
            row = self._rows.get(tx, contract_id)
            after = negotiation.expired(row.thread, self._now())
            self._rows.save(tx, row.after(ContractEvent.ON_EXPIRED, self._now(), thread=after))
            self._tell(tx, row, "market_expired", "ran out without an answer")

        # An hour in which nothing ran out writes nothing.
        rows = await self._db.read(due)
        with self._alone.round("negotiations") as alone:
            for row in rows:
                with alone(row.contract_id), suppress(Conflict):  # answered meanwhile
                    await self._db.write(partial(step, contract_id=row.contract_id))
        if rows:
            await self._told()

    # -- what the other side says --------------------------------------------------------------------

    def _proposed(self, tx: Tx, row: Engagement, message: Message, at: int) -> None:
        raise Conflict("this node takes no proposals", reason="not_offering")

    def _countered(self, tx: Tx, row: Engagement, message: Message, at: int) -> None:
        assert isinstance(message, CounterOffer)
        check_open(row)
        before = row.thread.standing(at)
        after = negotiation.countered(row.thread, Side.ADVISOR, message, at)
        self._rows.save(tx, _with_round(row, after, at))
        if not after.open or before is None:
            self._tell(tx, row, "market_failed", f"failed: more than {MAX_ROUNDS} rounds")
            return
        more = widened(read_terms(before.terms), read_terms(after.last.terms))
        wider = f"; wider than yours: {'; '.join(more)}" if more else ""
        level: Level = Level.WARNING if more else Level.NOTICE
        self._tell(
            tx, row, "market_counter_offer", f"has a counter offer, round {message.round}{wider}", level
        )

    def _accepted(self, tx: Tx, row: Engagement, message: Message, at: int) -> None:
        assert isinstance(message, Accept)
        check_open(row)
        after = negotiation.accepted(row.thread, Side.ADVISOR, message.terms_hash, at)
        saved = self._rows.save(tx, row.after(ContractEvent.ON_ACCEPTED, at, thread=after))
        self._tell(tx, row, "market_accepted", "accepted your terms")
        self.agreed(tx, saved)

    def _rejected(self, tx: Tx, row: Engagement, message: Message, at: int) -> None:
        assert isinstance(message, Reject)
        check_open(row)
        after = negotiation.rejected(row.thread, Side.ADVISOR, at)
        self._rows.save(
            tx, row.after(ContractEvent.ON_REJECTED, at, thread=after, termination_reason=message.reason)
        )
        self._tell(tx, row, "market_rejected", f"declined: {message.reason[:200]}")

    def _aborted(self, tx: Tx, row: Engagement, message: Message, at: int) -> None:
        assert isinstance(message, Abort)
        check_open(row)
        self._rows.save(tx, _abort(row, Side.ADVISOR, message.reason, at))
        self._tell(tx, row, "market_aborted", f"withdrew: {message.reason[:200]}")

    # -- inside --------------------------------------------------------------------------------------

    def _propose(self, tx: Tx, whom: Whom, terms: dict[str, Any], last_s: int) -> Engagement:
        at = self._now()
        self._refuse_second(tx, whom, at)
        body = ContractProposal(
            type="HiveContractProposal",
            proposalId=self._uuid(),
            sender=vc.did_of(self._own_key()),
            recipient=whom.did,
            terms=terms,
            expiresAt=at + last_s,
        )
        thread = negotiation.proposed(body, Side.OPERATOR, at)
        _check_served(thread)
        row = Engagement(
            contract_id=body.proposalId,
            thread_id=self._uuid(),
            peer_pubkey=whom.pubkey,
            advisor_did=whom.did,
            advisor_name=whom.name,
            operator_id=body.sender,
            node_id=self._node_id,
            status=ContractState.PROPOSED,
            thread=thread,
            created_at=at,
            updated_at=at,
        )
        self._rows.add(tx, row)
        self._mail.send(tx, row, body, body.expiresAt)
        self._receipt(tx, "market_propose", row, {"terms_hash": thread.last.terms_hash})
        return row

    def _refuse_second(self, tx: Tx, whom: Whom, at: int) -> None:
        under_way = self._rows.in_states(tx, UNSIGNED, MAX_OPEN + 1)
        other = next((row for row in under_way if row.peer_pubkey == whom.pubkey), None)
        if other is not None:
            raise Conflict(
                f"a negotiation with {whom.name} is {other.status.value}: {other.contract_id}; answer or"
                " abort it first",
                reason="already_negotiating",
            )
        days = self._rehire_days()
        ended = self._rows.ended_with(tx, whom.pubkey, at - days * DAY_S)
        if ended is not None:
            raise Conflict(
                f"a contract with {whom.name} was terminated {(at - ended) // DAY_S} days ago; another one is"
                f" possible {days} days after (hive-comms-marketplace-rehire-days)",
                reason="rehire_cooldown",
            )
        if len(under_way) >= MAX_OPEN or self._rows.count(tx) >= MAX_CONTRACTS:
            raise Capacity(f"{MAX_OPEN} negotiations at a time and {MAX_CONTRACTS} contracts are kept")

    async def _ended(self, contract_id: str, reason: str, event: ContractEvent) -> Engagement:
        if len(reason) > MAX_REASON:
            raise InvalidParams(f"reason is {len(reason)} characters, at most {MAX_REASON}")

        def step(tx: Tx) -> Engagement:
            row, at = self._rows.get(tx, contract_id), self._now()
            check_open(row)
            message: Message
            if event is ContractEvent.ON_REJECTED:
                if row.thread.turn(at) is Side.ADVISOR:
                    raise Conflict(
                        "your own terms stand; withdraw them with hive-marketplace-abort", reason="own_terms"
                    )
                thread = negotiation.rejected(row.thread, Side.OPERATOR, at)
                after = row.after(event, at, thread=thread, termination_reason=reason)
                message = Reject(row.contract_id, reason)
            else:
                if row.document is not None:
                    raise Conflict(
                        "this node has signed the contract; hive-marketplace-terminate ends it once the"
                        " advisor has, and without its signature it runs out after 72 h",
                        reason="stale_state",
                    )
                after = _abort(row, Side.OPERATOR, reason, at)
                message = Abort(row.contract_id, reason)
            saved = self._rows.save(tx, after)
            self._mail.send(tx, saved, message, at + negotiation.PROPOSAL_S)
            self._receipt(tx, f"market_{event.value}", saved, {"reason": reason})
            return saved

        return await self._write(step)

    async def _write(self, step: Callable[[Tx], Engagement]) -> Engagement:
        row = await self._db.write(step)
        await self._told()
        return row

    async def _told(self) -> None:
        await self.load()
        self._mail.kick()

    def _receipt(self, tx: Tx, action: str, row: Engagement, params: dict[str, JsonValue]) -> None:
        self._receipts.append(
            tx,
            operator_event(
                action,
                params={"contract_id": row.contract_id, **params},
                result={"status": row.status.value},
                agent_id=row.advisor_did,
            ),
        )

    def _tell(self, tx: Tx, row: Engagement, code: str, what: str, level: Level = Level.NOTICE) -> None:
        text = f"contract {row.contract_id}: {row.advisor_name} {what}"
        self._alerts.raise_in(tx, level, code, text, f"{code}:{row.contract_id}:{row.version}")

    def _uuid(self) -> str:
        return str(uuid.UUID(bytes=self._random_bytes(16), version=4))


def _standing(row: Engagement, at: int) -> Round:
    found = row.thread.standing(at)
    if found is None:
        raise Conflict(f"the terms ran out at {row.thread.ends_at}; propose again", reason="expired")
    return found


def _with_round(row: Engagement, thread: Negotiation, at: int) -> Engagement:
    failed = thread.state is ThreadState.FAILED
    return row.after(ContractEvent.ON_ROUNDS_OUT if failed else ContractEvent.ON_COUNTERED, at, thread=thread)


def _abort(row: Engagement, by: Side, reason: str, at: int) -> Engagement:
    thread = negotiation.aborted(row.thread, by, at) if row.thread.open else row.thread
    return row.after(ContractEvent.ON_ABORTED, at, thread=thread, termination_reason=reason)


def _check_served(thread: Negotiation) -> None:
    """Raises InvalidParams for terms that this version cannot carry out."""
    terms = thread.last.terms if thread.agreed is None else thread.agreed_round.terms
    if terms["duration"]["trialDays"]:
        raise InvalidParams(
            "terms: duration.trialDays: a contract with a trial is not served yet; use 0, and"
            " hive-client-trial for a trial beside a contract"
        )
