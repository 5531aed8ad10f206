"""Contracts: the operator's signature checked, ours given, the credential that comes for one, its end
(docs/protocol/04-marketplace-and-nostr.md §10; docs/protocol/11-advisor-kit.md §4, §7).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from hive_shared import vc
from hive_shared.credential import Credential
from hive_shared.errors import Ambiguous, Conflict, InvalidParams, NotFound, PolicyDenied
from hive_shared.machine import EventRejected
from hive_shared.market import contract as contracts
from hive_shared.market.contract_machine import CONTRACTS, RUNNING, ContractEvent, ContractState
from hive_shared.market.messages import (
    ContractSign,
    ContractSigned,
    EmergencyTermination,
    Message,
    TerminationAck,
    TerminationNotice,
    body_of,
    schema_of,
    verb_of,
)
from hive_shared.market.negotiation_machine import ThreadState
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from hive_advisor.domain.engagement import (
    Engagement,
    Link,
    Thread,
    ThreadMessage,
    narrower,
    read_scope,
    wider,
)
from hive_advisor.domain.keyring import Keyring
from hive_advisor.domain.mail import Stranger
from hive_advisor.domain.rows import CredentialState
from hive_advisor.services.ports import ClientRows, RecordRows
from hive_advisor.services.signed_mail import SignedMail

_WEEK: Final = 7 * 86_400
_MIN_PREFIX: Final = 4


_RESTORED_AT: Final = "threads_restored_at"
"""Meta: when this profile was last restored from a copy, Unix s."""


class EngagementRows(Protocol):
    """storage.engagement_store.EngagementStore, where the methods are described."""

    def thread(self, tx: Tx, thread_id: str) -> Thread | None: ...
    def of_contract(self, tx: Tx, contract_id: str) -> Thread | None: ...
    def find(self, tx: Tx, prefix: str) -> list[Thread]: ...
    def newest(self, tx: Tx, limit: int) -> list[Thread]: ...
    def open_count(self, tx: Tx, peer_key: str | None = None) -> int: ...
    def knows(self, tx: Tx, peer_key: str) -> bool: ...
    def peers(self, tx: Tx) -> set[str]: ...
    def ended(self, tx: Tx, before: int) -> list[Thread]: ...
    def put_thread(self, tx: Tx, thread: Thread) -> None: ...
    def message(self, tx: Tx, msg_id: str) -> ThreadMessage | None: ...
    def messages(self, tx: Tx, thread_id: str) -> list[ThreadMessage]: ...
    def count(self, tx: Tx, thread_id: str) -> int: ...
    def early(self, tx: Tx, thread_id: str) -> ThreadMessage | None: ...
    def waiting(self, tx: Tx, since: int) -> Any: ...
    def add_message(self, tx: Tx, message: ThreadMessage) -> None: ...
    def settle(self, tx: Tx, msg_id: str, why: str) -> None: ...
    def contract(self, tx: Tx, contract_id: str) -> Engagement | None: ...
    def contracts(self, tx: Tx, limit: int) -> list[Engagement]: ...
    def running(self, tx: Tx) -> int: ...
    def due(self, tx: Tx, now: int) -> list[Engagement]: ...
    def put_contract(self, tx: Tx, engagement: Engagement) -> None: ...


class ContractService:
    """Owns contracts. Methods with a `tx` join the caller's transaction and send nothing themselves."""

    def __init__(
        self,
        db: Db,
        rows: EngagementRows,
        clients: ClientRows,
        records: RecordRows,
        keyring: Keyring,
        mail: SignedMail,
        *,
        halted: Callable[[], bool],
        now: Callable[[], int],
        alone: RowByRow,
    ) -> None:
        self._alone = alone
        self._db, self._rows, self._clients, self._records = db, rows, clients, records
        self._keyring, self._mail, self._halted, self._now = keyring, mail, halted, now

    # -- messages --------------------------------------------------------------------------------------

    def say(self, tx: Tx, thread: Thread, message: Message, name: str, answers: str = "") -> None:
        """Keep a message of ours in its thread and for sending; nothing new for a `name` that was used."""
        put = self._mail.put(
            tx,
            Stranger(thread.peer_key),
            schema_of(message),
            body_of(message),
            name=f"{thread.contract_id}:{name}",
            sender=thread.agent_key,
            answers=answers,
            good_s=_WEEK,
            thread_id=thread.thread_id,
            least=self._least_number(tx, thread),
        )
        if put is not None:
            now = self._now()
            self._rows.add_message(
                tx,
                ThreadMessage(
                    put.msg_id,
                    thread.thread_id,
                    False,
                    put.seq,
                    verb_of(message),
                    put.content,
                    "sent",
                    now,
                    now,
                ),
            )

    async def note_restored(self) -> None:
        """This is an older copy of the profile: its conversations may have gone on since."""
        now = self._now()
        await self._db.write(lambda tx: self._clients.set_meta(tx, _RESTORED_AT, str(now)))

    def _least_number(self, tx: Tx, thread: Thread) -> int:
        """Above any number that a conversation of an older copy can have used: the time of the restore."""
        restored = int(self._clients.meta(tx, _RESTORED_AT) or 0)
        return restored if thread.created <= restored else 1

    def offered(self, tx: Tx, thread: Thread, body: ContractSign, msg_id: str) -> None:
        """The operator signed. Its proof is looked at before anything else that stands in the contract.

        Raises Conflict, InvalidParams: another contract than what was agreed, or not signed by its operator.
        """
        if thread.negotiation.state is not ThreadState.AGREED:
            raise Conflict(
                f"{thread.contract_id} is {thread.negotiation.state.value}, not agreed", reason="stale_state"
            )
        agreed = thread.negotiation.agreed_round
        contracts.check_proofs(body.contract, thread.peer_key)
        found = contracts.check_contract(body.contract, agreed.terms)
        if body.terms_hash != agreed.terms_hash:
            raise InvalidParams("the contract is for other terms than those agreed", reason="stale_terms")
        expected = (thread.contract_id, thread.peer_key, thread.agent_key)
        if (found.contract_id, found.operator_key, found.advisor_key) != expected:
            raise InvalidParams("the contract names another contract, operator or advisor than this thread")
        now = self._now()
        if not now - contracts.SIGNING_S < found.valid_from <= now + 86_400:
            raise InvalidParams(f"the contract begins at {found.valid_from}; it is {now}", reason="expired")
        digest = contracts.contract_hash(body.contract)
        known = self._rows.contract(tx, thread.contract_id)
        if known is not None:
            if known.contract_hash == digest:
                return
            raise Conflict(f"another contract {thread.contract_id} was signed before", reason="stale_state")
        ends_at = vc.unix(body.contract["validUntil"], "validUntil")
        made = Engagement(
            thread.contract_id,
            ContractState.SIGNING,
            body.contract,
            digest,
            found.credential_ref,
            ends_at,
            now,
            now,
        )
        self._rows.put_contract(tx, made)
        self._records.add_event(tx, "contract_to_sign", thread.contract_id, "the operator signed", now)
        if thread.sign_at_once and not self._halted():
            self._sign(tx, thread, made, msg_id)

    def _sign(self, tx: Tx, thread: Thread, engagement: Engagement, answers: str = "") -> Engagement:
        now = self._now()
        begun = vc.unix(engagement.document["validFrom"], "validFrom")
        if now > begun + contracts.SIGNING_S:
            raise Conflict(
                f"contract {engagement.contract_id} had to be signed within 72 hours", reason="expired"
            )
        secret = self._keyring.secret(thread.agent_key)
        signed = contracts.sign(engagement.document, secret, now)
        contracts.verify_contract(signed)
        moved = self._moved(engagement, ContractEvent.ON_SIGNED, document=signed)
        self._rows.put_contract(tx, moved)
        body = ContractSigned(engagement.contract_id, engagement.contract_hash, signed["proof"][-1])
        self.say(tx, thread, body, "contract_signed", answers)
        self._records.add_event(tx, "contract_signed", engagement.contract_id, "both have signed", now)
        return moved

    def aborted(self, tx: Tx, contract_id: str) -> None:
        """One side withdrew before both had signed. Raises Conflict where both have."""
        engagement = self._rows.contract(tx, contract_id)
        if engagement is not None:
            self._rows.put_contract(tx, self._moved(engagement, ContractEvent.ON_ABORTED))

    def noticed(self, tx: Tx, thread: Thread, body: TerminationNotice, msg_id: str) -> None:
        """The operator gave notice. Raises NotFound, Conflict."""
        engagement = self._begun(tx, self._of(tx, body.contractId))
        at = max(body.effective_at, self._now())
        moved = self._moved(
            engagement,
            ContractEvent.ON_NOTICE,
            effective_at=at,
            ended_by="operator",
            reason=body.reason,
        )
        self._rows.put_contract(tx, moved)
        ack = TerminationAck(engagement.contract_id, body.effective_at)
        self.say(tx, thread, ack, "termination_ack", msg_id)
        self._records.add_event(
            tx, "contract_notice", engagement.contract_id, f"by the operator, from {at} on", self._now()
        )

    def emergency(self, tx: Tx, body: EmergencyTermination) -> None:
        """The operator ended it at once. Raises NotFound, Conflict."""
        engagement = self._of(tx, body.contractId)
        self._end(tx, engagement, "operator", body.reason)

    # -- acts of a human -------------------------------------------------------------------------------

    async def sign(self, prefix: str) -> Engagement:
        """Sign a contract that its operator signed. Raises NotFound, Ambiguous, Conflict, PolicyDenied."""

        def body(tx: Tx) -> Engagement:
            thread = self.find(tx, prefix)
            engagement = self._of(tx, thread.contract_id)
            self.check_going()
            return self._sign(tx, thread, engagement)

        signed = await self._db.write(body)
        self._mail.kick()
        return signed

    async def terminate(self, prefix: str, reason: str) -> Engagement:
        """Give notice: the contract ends when its notice period is over.

        Raises NotFound, Ambiguous, Conflict where it does not run or notice was given.
        """

        def body(tx: Tx) -> Engagement:
            thread = self.find(tx, prefix)
            engagement = self._begun(tx, self._of(tx, thread.contract_id))
            days = engagement.document["credentialSubject"]["duration"]["noticePeriodDays"]
            at = self._now() + days * 86_400
            moved = self._moved(
                engagement,
                ContractEvent.ON_NOTICE,
                effective_at=at,
                ended_by="advisor",
                reason=reason,
            )
            self._rows.put_contract(tx, moved)
            notice = TerminationNotice(engagement.contract_id, at, reason)
            self.say(tx, thread, notice, "termination_notice")
            return moved

        moved = await self._db.write(body)
        self._mail.kick()
        return moved

    async def stop(self, prefix: str, reason: str) -> Engagement:
        """End a contract at once: nothing more is sent under it. Raises NotFound, Ambiguous, Conflict."""

        def body(tx: Tx) -> Engagement:
            thread = self.find(tx, prefix)
            ended = self._end(tx, self._of(tx, thread.contract_id), "advisor", reason)
            self.say(tx, thread, EmergencyTermination(ended.contract_id, reason), "emergency")
            return ended

        ended = await self._db.write(body)
        self._mail.kick()
        return ended

    # -- credentials -----------------------------------------------------------------------------------

    def link(self, tx: Tx, contract_id: str, node_key: str, credential: Credential) -> Link | None:
        """The contract that a credential is offered for; None where there is none that both have signed with
        this node, for this key and, of its nodes, this one."""
        engagement = self._rows.contract(tx, contract_id)
        thread = self._rows.of_contract(tx, contract_id)
        if engagement is None or thread is None or engagement.state not in RUNNING:
            return None
        named = engagement.scope["nodeIds"]
        if (thread.peer_key, thread.agent_key) != (node_key, credential.agent_key):
            return None
        if credential.node_id not in named:
            return None
        scope = read_scope(engagement.scope)
        return Link(engagement, tuple(wider(credential, scope)), tuple(narrower(credential, scope)))

    def joined(self, tx: Tx, link: Link, credential_id: str) -> None:
        """The credential of a contract came: it runs. What it gives beyond the contract is said once."""
        engagement, now = link.engagement, self._now()
        begun = self._begun(tx, engagement)
        self._rows.put_contract(tx, replace(begun, credential_id=credential_id, updated=now))
        for kind, what in (("wider_than_contract", link.wider), ("narrower_than_contract", link.narrower)):
            if what:
                self._records.add_event(tx, kind, engagement.contract_id, "; ".join(what)[:500], now)

    # -- time ------------------------------------------------------------------------------------------

    async def tick(self) -> int:
        """What is due: notices that take effect, terms that end, contracts nobody signed; how many."""
        done = 0
        with self._alone.round("contracts") as alone:
            for engagement in await self._db.read(lambda tx: self._rows.due(tx, self._now())):
                with alone(engagement.contract_id):
                    if self._next(engagement) is not None:
                        done += await self._db.write(partial(self._due, contract_id=engagement.contract_id))
        return done

    def _due(self, tx: Tx, contract_id: str) -> bool:
        engagement = self._rows.contract(tx, contract_id)
        event = None if engagement is None else self._next(engagement)
        if engagement is None or event is None:
            return False
        if event is ContractEvent.ON_TERMINATED:
            self._end(tx, engagement, engagement.ended_by or "operator", engagement.reason)
        else:
            self._rows.put_contract(tx, self._moved(engagement, event))
            self._records.add_event(tx, f"contract_{event.value}", engagement.contract_id, "", self._now())
        return True

    def _next(self, engagement: Engagement) -> ContractEvent | None:
        now, state = self._now(), engagement.state
        if state is ContractState.SIGNING:
            begun = vc.unix(engagement.document["validFrom"], "validFrom")
            return ContractEvent.ON_EXPIRED if now > begun + contracts.SIGNING_S else None
        if engagement.effective_at is not None and now >= engagement.effective_at:
            return ContractEvent.ON_TERMINATED
        renewed = engagement.document["credentialSubject"]["duration"]["autoRenew"]
        over = now >= engagement.ends_at and not renewed
        return ContractEvent.ON_COMPLETED if over and state is ContractState.ACTIVE else None

    # -- reading ---------------------------------------------------------------------------------------

    def find(self, tx: Tx, prefix: str) -> Thread:
        """The thread whose contract's id begins so. Raises NotFound, Ambiguous."""
        found = self._rows.find(tx, prefix) if len(prefix) >= _MIN_PREFIX else []
        if not found:
            raise NotFound(
                f"no contract or negotiation {prefix[:60]!r} is here; 'hive-advisor inbox list' shows them"
            )
        if len(found) > 1:
            raise Ambiguous(f"{prefix!r} is the beginning of more than one id; give more of it")
        return found[0]

    async def view(self, prefix: str) -> tuple[Thread, Engagement]:
        """A contract that its operator signed, and its thread. Raises NotFound, Ambiguous."""

        def body(tx: Tx) -> tuple[Thread, Engagement]:
            thread = self.find(tx, prefix)
            return thread, self._of(tx, thread.contract_id)

        return await self._db.read(body)

    async def listed(self, limit: int) -> list[tuple[Thread, Engagement]]:
        """Contracts with their threads, the newest first."""

        def body(tx: Tx) -> list[tuple[Thread, Engagement]]:
            found = []
            for engagement in self._rows.contracts(tx, limit):
                thread = self._rows.of_contract(tx, engagement.contract_id)
                assert thread is not None
                found.append((thread, engagement))
            return found

        return await self._db.read(body)

    def load(self, tx: Tx) -> int:
        """How many contracts run."""
        return self._rows.running(tx)

    def check_going(self) -> None:
        """Nothing is agreed to while everything is halted. Raises PolicyDenied."""
        if self._halted():
            raise PolicyDenied(
                "everything is halted; 'hive-advisor guard release' ends that", reason="halted"
            )

    # -- inside ----------------------------------------------------------------------------------------

    def _of(self, tx: Tx, contract_id: str) -> Engagement:
        engagement = self._rows.contract(tx, contract_id)
        if engagement is None:
            raise NotFound(f"the operator has not signed a contract {contract_id} yet")
        return engagement

    def _begun(self, tx: Tx, engagement: Engagement) -> Engagement:
        """A signed contract as it runs: in its trial, where it has one."""
        if engagement.state is not ContractState.SIGNED:
            return engagement
        times = engagement.document["credentialSubject"]["duration"]
        trial = times["trialStart"] != times["trialEnd"]
        event = ContractEvent.ON_TRIAL if trial else ContractEvent.ON_ACTIVATED
        self._records.add_event(tx, "contract_active", engagement.contract_id, event.value, self._now())
        return self._moved(engagement, event)

    def _end(self, tx: Tx, engagement: Engagement, by: Any, reason: str) -> Engagement:
        ended = self._moved(engagement, ContractEvent.ON_TERMINATED, ended_by=by, reason=reason)
        self._rows.put_contract(tx, ended)
        state: CredentialState = "revoked" if by == "operator" else "declined"
        thread = self._rows.of_contract(tx, engagement.contract_id)
        client = None if thread is None else self._clients.by_node_key(tx, thread.peer_key)
        if client is not None:
            held = self._clients.credentials(tx, client.client_id)
            for each in held:
                if each.contract_id == engagement.contract_id and each.state in ("active", "offered"):
                    self._clients.set_credential_state(tx, each.credential_id, state)
            if not any(
                each.state == "active" and each.contract_id != engagement.contract_id for each in held
            ):
                self._clients.set_state(tx, client.client_id, "ended", self._now())
        self._records.add_event(
            tx, "contract_terminated", engagement.contract_id, f"by the {by}", self._now()
        )
        return ended

    def _moved(self, engagement: Engagement, event: ContractEvent, **changes: Any) -> Engagement:
        step = CONTRACTS.get((engagement.state, event))
        if step is None:
            raise EventRejected(engagement.contract_id, engagement.state, event)
        return replace(engagement, state=step.to, updated=self._now(), **changes)
