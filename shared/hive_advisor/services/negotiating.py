"""Negotiations with operators: what they propose, what we answer
(docs/protocol/04-marketplace-and-nostr.md §6, §9; docs/protocol/11-advisor-kit.md §7).

A message is kept as it was signed in the transaction that acts on it, and taken in the order of its sender's
numbers. One that is refused keeps its place, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import msgspec
from hive_shared import signed_message, vc
from hive_shared.errors import (
    Capacity,
    Conflict,
    HiveError,
    InvalidParams,
    NotFound,
    RateLimited,
    Unauthorized,
)
from hive_shared.market import messages, negotiation
from hive_shared.market.messages import (
    GAP_S,
    Abort,
    Accept,
    ContractProposal,
    ContractSign,
    CounterOffer,
    EmergencyTermination,
    Message,
    MessageError,
    Reject,
    TerminationAck,
    TerminationNotice,
)
from hive_shared.market.negotiation import Negotiation, Side
from hive_shared.market.negotiation_machine import ThreadState
from hive_shared.market.terms import read_terms
from hive_shared.row_by_row import RowByRow
from hive_shared.signed_message import Draft
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from hive_advisor.domain.auto_hire import AutoHire, objection
from hive_advisor.domain.engagement import Engagement, Thread, ThreadMessage
from hive_advisor.services.contracts import ContractService, EngagementRows
from hive_advisor.services.ports import ClientRows, RecordRows
from hive_advisor.services.signed_mail import SignedMail

_OPEN_OF_STRANGER: Final = 3
_OPEN_OF_CLIENT: Final = 20
_OPEN_OF_ALL: Final = 200
_MESSAGES: Final = 500
_LATE_S: Final = 86_400
"""What was said in time counts this long after nothing stands any more."""
_TAKEN: Final = (
    "contract_proposal",
    "counter_offer",
    "accept",
    "reject",
    "abort",
    "contract_sign",
    "termination_notice",
    "termination_ack",
    "emergency_termination",
)


class ThreadView(msgspec.Struct, frozen=True):
    """A thread with its messages, and its contract once its operator signed one."""

    thread: Thread
    messages: tuple[ThreadMessage, ...]
    engagement: Engagement | None


class NegotiationService:
    """Owns threads."""

    def __init__(
        self,
        db: Db,
        rows: EngagementRows,
        clients: ClientRows,
        records: RecordRows,
        mail: SignedMail,
        contracts: ContractService,
        *,
        auto: AutoHire | None,
        halted: Callable[[], bool],
        now: Callable[[], int],
        alone: RowByRow,
    ) -> None:
        self._alone = alone
        self._db, self._rows, self._clients, self._records = db, rows, clients, records
        self._mail, self._contracts, self._auto = mail, contracts, auto
        self._halted, self._now = halted, now
        for verb in _TAKEN:
            mail.handle_any(messages.schema_of_verb(verb), self.take)
        mail.handle_any(messages.schema_of_verb("error"), self._told)
        mail.also_known(rows.knows)

    # -- what comes in ---------------------------------------------------------------------------------

    async def take(self, draft: Draft, content: str, sender: str, agent_key: str) -> None:
        """A message of a negotiation. Raises why it was refused; it is kept all the same where it belongs to
        a thread."""
        refusal = await self._db.write(lambda tx: self._arrived(tx, draft, content, sender, agent_key))
        if refusal is not None:
            raise refusal

    async def _told(self, draft: Draft, _content: str, sender: str, _agent_key: str) -> None:
        """What an operator found wrong with a message of ours."""
        message = messages.decode_message(draft.schema, draft.body)
        assert isinstance(message, MessageError)

        def body(tx: Tx) -> None:
            known = self._rows.message(tx, message.msg_id)
            thread = None if known is None else self._rows.thread(tx, known.thread_id)
            if known is None or known.inbound or thread is None or thread.peer_key != sender:
                raise NotFound("an error about a message that is none of ours to this sender")
            why = f"{known.verb} refused: {message.code[:40]}"
            self._rows.put_thread(tx, replace(thread, why=why, updated=self._now()))
            self._records.add_event(tx, "thread_error", thread.contract_id, why, self._now())

        await self._db.write(body)

    def _arrived(self, tx: Tx, draft: Draft, content: str, sender: str, agent_key: str) -> HiveError | None:
        known = self._rows.message(tx, draft.msg_id)
        if known is not None:
            return InvalidParams(known.why) if known.state == "refused" else None
        now, verb = self._now(), draft.schema.rpartition("/")[2]
        thread = self._rows.thread(tx, draft.thread_id)
        if thread is None:
            thread = self._opened(tx, draft, sender, agent_key)
        elif (thread.peer_key, thread.agent_key) != (sender, agent_key):
            raise Unauthorized("the thread is with another key")
        elif draft.seq <= thread.last_in:
            raise Conflict(f"message {draft.seq} of this thread came before", reason="stale_state")
        elif self._rows.count(tx, thread.thread_id) >= _MESSAGES:
            raise Capacity(f"the thread has {_MESSAGES} messages")
        early = draft.seq > thread.last_in + 1
        message = ThreadMessage(
            draft.msg_id,
            thread.thread_id,
            True,
            draft.seq,
            verb,
            content,
            "early" if early else "taken",
            draft.sent_at,
            now,
        )
        self._rows.add_message(tx, message)
        if early:
            return None
        refusal = None if verb == "contract_proposal" else self._acted(tx, thread, draft)
        if verb == "contract_proposal":
            self._maybe(tx, thread, draft.msg_id)
        self._follow(tx, thread.thread_id)
        return refusal

    def _opened(self, tx: Tx, draft: Draft, sender: str, agent_key: str) -> Thread:
        """The thread that a proposal begins; a proposal that is refused leaves nothing."""
        if not draft.schema.endswith("/contract_proposal") or draft.seq != 1:
            raise NotFound("the thread is not known here")
        body = messages.decode_message(draft.schema, draft.body)
        assert isinstance(body, ContractProposal)
        if vc.key_of(body.sender) != sender or vc.key_of(body.recipient) != agent_key:
            raise InvalidParams("from or to is not did:nostr: and the key that signed, or was written to")
        client = self._clients.by_node_key(tx, sender)
        most = _OPEN_OF_STRANGER if client is None else _OPEN_OF_CLIENT
        if self._rows.open_count(tx, sender) >= most or self._rows.open_count(tx) >= _OPEN_OF_ALL:
            raise RateLimited("too many negotiations are open")
        if self._rows.of_contract(tx, body.proposalId) is not None:
            raise Conflict(f"proposalId {body.proposalId} was used before", reason="stale_state")
        now = self._now()
        begun = negotiation.proposed(body, Side.OPERATOR, min(draft.sent_at, now))
        thread = Thread(draft.thread_id, body.proposalId, sender, agent_key, begun, 1, now, now)
        self._rows.put_thread(tx, thread)
        self._records.add_event(tx, "contract_proposal", thread.contract_id, "", now)
        return thread

    def _follow(self, tx: Tx, thread_id: str, *, skip: bool = False) -> None:
        """What came early and is next now; with `skip`, whatever is missing before it."""
        while True:
            thread, waiting = self._rows.thread(tx, thread_id), self._rows.early(tx, thread_id)
            if thread is None or waiting is None or (waiting.seq != thread.last_in + 1 and not skip):
                return
            skip = False
            draft = signed_message.parse(waiting.content, thread.peer_key, (thread.agent_key,))
            assert isinstance(draft, Draft)
            refusal = self._acted(tx, thread, draft)
            if refusal is None:
                self._rows.settle(tx, waiting.msg_id, "")

    def _acted(self, tx: Tx, thread: Thread, draft: Draft) -> HiveError | None:
        """Take the next message of a thread; why it was refused, nothing but its place having changed."""
        now = self._now()
        thread = replace(thread, last_in=draft.seq, updated=now)
        self._rows.put_thread(tx, thread)
        try:
            message = messages.decode_message(draft.schema, draft.body)
            if messages.contract_of(message) != thread.contract_id:
                raise InvalidParams("the message is about another contract than its thread")
            self._act(tx, thread, message, draft)
        except HiveError as refusal:
            why = f"{refusal.symbol}: {refusal.detail}"[:500]
            self._rows.settle(tx, draft.msg_id, why)
            self._records.add_event(tx, "message_refused", thread.contract_id, why[:200], now)
            return refusal
        return None

    def _act(self, tx: Tx, thread: Thread, message: Message, draft: Draft) -> None:
        at, said = min(draft.sent_at, self._now()), thread.negotiation
        if isinstance(message, CounterOffer):
            moved = negotiation.countered(said, Side.OPERATOR, message, at)
        elif isinstance(message, Accept):
            moved = negotiation.accepted(said, Side.OPERATOR, message.terms_hash, at)
        elif isinstance(message, Reject):
            moved = negotiation.rejected(said, Side.OPERATOR, at)
        elif isinstance(message, Abort) and said.open:
            moved = negotiation.aborted(said, Side.OPERATOR, at)
        elif isinstance(message, Abort):
            moved = self._withdrawn(tx, said)
        else:
            self._signed_or_ended(tx, thread, message, draft.msg_id)
            return
        why = message.reason[:200] if isinstance(message, Reject | Abort) else thread.why
        thread = replace(thread, negotiation=moved, why=why)
        self._rows.put_thread(tx, thread)
        verb = messages.verb_of(message)
        self._records.add_event(tx, verb, thread.contract_id, moved.state.value, self._now())
        if isinstance(message, CounterOffer):
            self._maybe(tx, thread, draft.msg_id)

    def _signed_or_ended(self, tx: Tx, thread: Thread, message: Message, msg_id: str) -> None:
        if isinstance(message, ContractSign):
            self._contracts.offered(tx, thread, message, msg_id)
        elif isinstance(message, TerminationNotice):
            self._contracts.noticed(tx, thread, message, msg_id)
        elif isinstance(message, EmergencyTermination):
            self._contracts.emergency(tx, message)
        elif isinstance(message, TerminationAck):
            self._records.add_event(tx, "termination_ack", thread.contract_id, "", self._now())
        else:
            raise Conflict(f"an advisor is sent no {messages.verb_of(message)}", reason="stale_state")

    def _withdrawn(self, tx: Tx, said: Negotiation) -> Negotiation:
        """What was agreed and not signed by both comes to nothing. Raises Conflict where both have."""
        if said.state is not ThreadState.AGREED:
            raise Conflict(f"the negotiation is {said.state.value} already", reason="stale_state")
        self._contracts.aborted(tx, said.contract_id)
        return msgspec.structs.replace(said, state=ThreadState.ABORTED)

    def _maybe(self, tx: Tx, thread: Thread, msg_id: str) -> None:
        """Agree unasked, where the limits of `[auto]` allow these terms."""
        standing = thread.negotiation.standing(self._now())
        if self._auto is None or standing is None or self._halted() or not thread.ours_to_answer(self._now()):
            return
        why = objection(self._auto, read_terms(standing.terms), self._contracts.load(tx))
        if why:
            self._records.add_event(tx, "not_automatic", thread.contract_id, why, self._now())
        else:
            self._accept(tx, replace(thread, sign_at_once=True), msg_id)

    # -- acts of a human -------------------------------------------------------------------------------

    async def accept(self, prefix: str, *, sign: bool, terms_hash: str = "") -> Thread:
        """Agree to what stands; with `sign`, sign the contract too when it comes and says just that.

        Raises NotFound, Ambiguous, PolicyDenied, Conflict: nothing stands, our own terms do, or not those of
        `terms_hash`.
        """

        def body(tx: Tx) -> Thread:
            thread = self._going(tx, prefix)
            standing = thread.negotiation.standing(self._now())
            if terms_hash and standing is not None and standing.terms_hash != terms_hash:
                raise Conflict(
                    f"terms {standing.terms_hash} stand now, not those; look again", reason="stale_terms"
                )
            return self._accept(tx, replace(thread, sign_at_once=sign))

        return await self._acted_on(body)

    def _accept(self, tx: Tx, thread: Thread, answers: str = "") -> Thread:
        now = self._now()
        standing = thread.negotiation.standing(now)
        wanted = "" if standing is None else standing.terms_hash
        moved = negotiation.accepted(thread.negotiation, Side.ADVISOR, wanted, now)
        thread = self._stored(tx, thread, moved)
        self._contracts.say(tx, thread, Accept(thread.contract_id, wanted), "accept", answers)
        return thread

    async def counter(
        self, prefix: str, changes: Mapping[str, Any], justification: str, *, expires_at: int, sign: bool
    ) -> Thread:
        """Offer other terms: `changes` by dotted path, None removes.

        Raises NotFound, Ambiguous, PolicyDenied, Conflict, InvalidParams: a path or value that cannot be.
        """

        def body(tx: Tx) -> Thread:
            thread, now = self._going(tx, prefix), self._now()
            standing, number = thread.negotiation.standing(now), thread.negotiation.last.number + 1
            if number > negotiation.MAX_ROUNDS:
                raise Conflict(
                    f"{negotiation.MAX_ROUNDS} rounds were used: accept, reject or abort", reason="rounds_out"
                )
            offer = CounterOffer(
                type="HiveCounterOffer",
                proposalId=thread.contract_id,
                round=number,
                base_terms_hash="0" * 64 if standing is None else standing.terms_hash,
                modifications=dict(changes),
                justification=justification,
                expiresAt=expires_at,
            )
            moved = negotiation.countered(thread.negotiation, Side.ADVISOR, offer, now)
            thread = self._stored(tx, replace(thread, sign_at_once=sign), moved)
            self._contracts.say(tx, thread, offer, f"counter_offer:{number}")
            return thread

        return await self._acted_on(body)

    async def reject(self, prefix: str, reason: str) -> Thread:
        """End a negotiation with a no. Raises NotFound, Ambiguous, Conflict."""

        def body(tx: Tx) -> Thread:
            thread = self._contracts.find(tx, prefix)
            moved = negotiation.rejected(thread.negotiation, Side.ADVISOR, self._now())
            thread = self._stored(tx, thread, moved)
            self._contracts.say(tx, thread, Reject(thread.contract_id, reason), "reject")
            return thread

        return await self._acted_on(body)

    async def abort(self, prefix: str, reason: str) -> Thread:
        """Withdraw, at any time before both have signed. Raises NotFound, Ambiguous, Conflict."""

        def body(tx: Tx) -> Thread:
            thread = self._contracts.find(tx, prefix)
            if thread.negotiation.open:
                moved = negotiation.aborted(thread.negotiation, Side.ADVISOR, self._now())
                thread = self._stored(tx, thread, moved)
            else:
                thread = self._stored(tx, thread, self._withdrawn(tx, thread.negotiation))
            self._contracts.say(tx, thread, Abort(thread.contract_id, reason), "abort")
            return thread

        return await self._acted_on(body)

    async def _acted_on(self, body: Callable[[Tx], Thread]) -> Thread:
        thread = await self._db.write(body)
        self._mail.kick()
        return thread

    def _going(self, tx: Tx, prefix: str) -> Thread:
        thread = self._contracts.find(tx, prefix)
        self._contracts.check_going()
        return thread

    def _stored(self, tx: Tx, thread: Thread, moved: Negotiation) -> Thread:
        thread = replace(thread, negotiation=moved, updated=self._now())
        self._rows.put_thread(tx, thread)
        return thread

    # -- time ------------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Messages that waited long enough for one before them, and negotiations nobody went on with."""
        now = self._now()
        waiting = await self._db.read(lambda tx: self._rows.waiting(tx, now - GAP_S))
        with self._alone.round("conversations") as alone:
            for thread_id in dict.fromkeys(each.thread_id for each in waiting):
                with alone(thread_id):
                    await self._db.write(partial(self._follow, thread_id=thread_id, skip=True))
        ended = await self._db.read(lambda tx: self._rows.ended(tx, now - _LATE_S))
        with self._alone.round("negotiations") as alone:
            for thread in ended:
                with alone(thread.thread_id):
                    await self._db.write(partial(self._over, thread=thread, now=now))
        if waiting or ended:
            self._mail.kick()

    def _over(self, tx: Tx, thread: Thread, now: int) -> None:
        if self._rows.thread(tx, thread.thread_id) == thread:  # nobody went on meanwhile
            self._stored(tx, thread, negotiation.expired(thread.negotiation, now))
            self._records.add_event(tx, "thread_expired", thread.contract_id, "", now)

    # -- reading ---------------------------------------------------------------------------------------

    async def listed(self, limit: int) -> list[tuple[Thread, Engagement | None]]:
        """Threads, the one changed last first, each with its contract."""

        def body(tx: Tx) -> list[tuple[Thread, Engagement | None]]:
            found = self._rows.newest(tx, limit)
            return [(each, self._rows.contract(tx, each.contract_id)) for each in found]

        return await self._db.read(body)

    async def view(self, prefix: str) -> ThreadView:
        """One thread with all that was said. Raises NotFound, Ambiguous."""

        def body(tx: Tx) -> ThreadView:
            thread = self._contracts.find(tx, prefix)
            said = tuple(self._rows.messages(tx, thread.thread_id))
            return ThreadView(thread, said, self._rows.contract(tx, thread.contract_id))

        return await self._db.read(body)

    async def peers(self) -> set[str]:
        """Keys whose long messages are put together: we negotiate or have a contract with them."""
        return await self._db.read(self._rows.peers)
