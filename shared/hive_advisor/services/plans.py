"""From a plan to a signed command: judged, held for a human, signed (docs/protocol/11-advisor-kit.md §5, §6).

Every step is one transaction: the state, what the guard counts, the question to the human, and, where it
comes to that, number, signature and envelope.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from hive_shared import credential as credentials
from hive_shared import envelope, registry
from hive_shared.canonical import JsonValue
from hive_shared.crypto import sha256
from hive_shared.errors import Conflict, CredentialInvalid, NotFound, from_symbol
from hive_shared.registry import CONTROL, DangerFacts
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from hive_advisor.domain import plan_check
from hive_advisor.domain.command_machine import CommandEvent, CommandState, next_state
from hive_advisor.domain.engagement import read_scope, within
from hive_advisor.domain.guard import Judgement, Verdict
from hive_advisor.domain.keyring import Keyring
from hive_advisor.domain.plan import PLAN_S, Plan, check_root, hash_of, plan_of
from hive_advisor.domain.question import PLAN, WAIT_S, Question
from hive_advisor.domain.rows import Client, Passed, StoredCommand, StoredCredential
from hive_advisor.services.fees import FeeService
from hive_advisor.services.guard import GuardService, refuse
from hive_advisor.services.ports import ClientRows, CommandRows, QuestionRows, RecordRows
from hive_advisor.services.shared_key import SharedKeyService

UNSENT_S: Final = 240
"""How long signed bytes wait to leave; what they say grows old."""
_DRAFTS_KEPT_S: Final = 86_400


class PlanService:
    """Owns drafts and held commands, and signs. `claim` has a command take what its payment names, or raises;
    `new_id` makes command ids."""

    def __init__(
        self,
        db: Db,
        commands: CommandRows,
        clients: ClientRows,
        records: RecordRows,
        questions: QuestionRows,
        guard: GuardService,
        keyring: Keyring,
        shared_key: SharedKeyService,
        fees: FeeService,
        claim: Callable[[Tx, StoredCommand], None],
        *,
        now: Callable[[], int],
        now_us: Callable[[], int],
        new_id: Callable[[], str],
        relays: tuple[str, ...],
    ) -> None:
        self._db, self._commands, self._clients, self._records = db, commands, clients, records
        self._questions, self._guard, self._keyring, self._shared = questions, guard, keyring, shared_key
        self._now, self._now_us, self._new_id, self._relays = now, now_us, new_id, relays
        self._fees, self._claim = fees, claim

    def plan(
        self,
        client: Client,
        credential: StoredCredential,
        schema_id: str,
        action: str,
        params: Mapping[str, Any],
        *,
        note: str = "",
        retry_of: str | None = None,
        expected_policy_root: str | None = None,
        payment: dict[str, Any] | None = None,
    ) -> Plan:
        """Check a command against registry and credential; what they forbid is never sent.

        With ``expected_policy_root`` the node refuses it once the settings of its channels are others.
        ``payment`` is the payment_proof it goes with, unchanged.

        Raises InvalidParams, Unsupported, CredentialInvalid.
        """
        spec = registry.find(schema_id, action)
        parsed = registry.parse_params(spec, dict(params))
        if expected_policy_root is not None:
            check_root(spec, expected_policy_root)
        if spec.schema != CONTROL:
            given = credentials.parse(credential.document)
            plan_check.check_scope(spec, parsed, given)
            if credential.scope is not None:
                plan_check.check_contract(spec, parsed, within(given, read_scope(credential.scope)))
            heard = client.capabilities_at
            fresh = heard is not None and self._now() - heard < plan_check.FRESH_S
            plan_check.check_served(spec, parsed, client.capabilities if fresh else None)
        danger = spec.danger(parsed, DangerFacts())
        return Plan(
            client, credential, spec, dict(parsed), danger, note, retry_of, expected_policy_root, payment
        )

    async def draft(self, plan: Plan, origin: str) -> StoredCommand:
        """Keep a plan for ten minutes; its id (`command_id`) commits it. What it uses is reserved meanwhile.

        Raises PolicyDenied when the guard refuses it.
        """

        def body(tx: Tx) -> StoredCommand:
            self._expire(tx, UNSENT_S)
            command = self._row(plan, origin)
            judgement = self._guard.judge_in(tx, plan, origin)
            refuse(judgement)
            self._commands.add(tx, command)
            self._guard.reserve(tx, command.command_id, command.client_id, judgement)
            return command

        return await self._db.write(body)

    async def issue(
        self,
        plan: Plan,
        *,
        origin: str,
        again: bool = False,
        human: bool = False,
        confirmed_danger: int | None = None,
        retry_until: int | None = None,
        command_id: str | None = None,
    ) -> StoredCommand:
        """Judge a plan and sign it, or hold it for a human; bytes leave after the commit.

        ``human``: a person at the command line said yes to what the guard would hold.
        ``confirmed_danger`` is the danger they confirmed for exactly this plan, None when nobody did.
        ``command_id`` is an id that the caller made; without it there is a new one.
        Raises PolicyDenied (guard), Conflict when the same command is open already (``again`` overrides),
        the client takes none, or the key is shared; CredentialInvalid when the credential ended.
        """

        def body(tx: Tx) -> StoredCommand:
            self._expire(tx, UNSENT_S)
            command = replace(
                self._row(plan, origin), confirmed_danger=confirmed_danger, retry_until=retry_until
            )
            if command_id is not None:
                command = replace(command, command_id=command_id)
            self._check_new(tx, command)
            self._commands.add(tx, command)
            return self._go(tx, command, plan, again=again, passed="human" if human else "")

        return await self._db.write(body)

    async def commit(self, plan_id: str, origin: str, *, again: bool = False) -> StoredCommand:
        """Sign exactly the plan that was kept, once; held when the guard says so by now.

        Raises NotFound for a plan of nobody or of another origin, PolicyDenied (plan_expired, plan_edited,
        guard), Conflict when it was used.
        """

        def body(tx: Tx) -> StoredCommand:
            command = self._commands.get(tx, plan_id)
            if command is None or command.origin != origin:
                raise NotFound(f"no plan {plan_id!r} of {origin}; plan again")
            if command.state == CommandState.DRAFT and self._now() >= (command.deadline or 0):
                raise from_symbol("approval_expired", "the plan is older than 10 minutes; plan again")
            if command.state != CommandState.DRAFT:
                raise Conflict(f"the plan was used before: it is {command.state}", reason="plan_used")
            return self._again(tx, command, again=again, passed=command.passed)

        done = await self._db.write(body)
        await self.expire()
        return done

    async def approve(self, question: Question) -> StoredCommand:
        """Sign a held command. The caller has made sure that a human said so (PIN).

        Raises NotFound, Conflict (decided before), PolicyDenied (expired, edited, guard), CredentialInvalid.
        """

        def body(tx: Tx) -> StoredCommand:
            command = self._held(tx, question)
            if command.plan_hash != question.plan_hash:
                raise Conflict("the question is about another plan than the one that waits")
            self._questions.end(tx, question.approval_id, "approved", self._now())
            confirmed = replace(command, confirmed_danger=command.total_danger)
            return self._again(tx, confirmed, again=True, passed="pin")

        return await self._db.write(body)

    async def reject(self, question: Question) -> StoredCommand:
        """A human said no: the held command ends. Raises NotFound, Conflict."""

        def body(tx: Tx) -> StoredCommand:
            command = self._held(tx, question)
            self._questions.end(tx, question.approval_id, "rejected", self._now())
            return self._end(tx, command, CommandEvent.ON_REJECTED, "rejected_here")

        return await self._db.write(body)

    async def withdraw(self, command: StoredCommand) -> StoredCommand:
        """End a draft or held command before anything was signed. Raises Conflict when it was."""

        def body(tx: Tx) -> StoredCommand:
            current = self._commands.get(tx, command.command_id)
            to = None if current is None else next_state(current.state, CommandEvent.ON_CANCELLED)
            if current is None or current.envelope or to is None:
                raise Conflict(f"command {command.command_id} is past withdrawing here")
            question = self._questions.of_command(tx, command.command_id)
            if question is not None:
                self._questions.end(tx, question.approval_id, "rejected", self._now())
            return self._end(tx, current, CommandEvent.ON_CANCELLED, "withdrawn")

        return await self._db.write(body)

    async def expire(self, unsent_s: int = UNSENT_S) -> int:
        """Signed bytes that could not leave for so long become drafts again, drafts and held commands run
        out. How many became drafts."""
        return await self._db.write(lambda tx: self._expire(tx, unsent_s))

    # -- within a transaction ------------------------------------------------------------------------

    def _row(self, plan: Plan, origin: str) -> StoredCommand:
        now = self._now()
        return StoredCommand(
            command_id=self._new_id(),
            client_id=plan.client.client_id,
            credential_id=plan.credential.credential_id,
            schema=plan.spec.schema,
            action=plan.spec.name,
            params=plan.params,
            danger=tuple(plan.danger),
            origin=origin,
            nonce=0,
            timestamp=0,
            command_hash="",
            envelope={},
            state=CommandState.DRAFT,
            created=now,
            updated=now,
            note=plan.note,
            retry_of=plan.retry_of,
            deadline=now + PLAN_S,
            plan_hash=plan.hash,
            expected_root=plan.expected_policy_root,
            payment=plan.payment,
        )

    def _held(self, tx: Tx, question: Question) -> StoredCommand:
        command = self._commands.get(tx, question.command_id or "")
        if command is None:
            raise NotFound("the question is about no plan of ours")
        current = self._questions.of_command(tx, command.command_id)
        if command.state != CommandState.HELD or current is None or current.state != "waiting":
            raise Conflict(f"nothing waits any more: the command is {command.state}")
        if self._now() >= question.expires:
            raise from_symbol("approval_expired", "the plan waited a day for a human; plan again")
        return command

    def _again(self, tx: Tx, command: StoredCommand, *, again: bool, passed: Passed) -> StoredCommand:
        if hash_of(command) != command.plan_hash:
            raise Conflict("the plan is not what was planned; plan again", reason="plan_edited")
        client = self._clients.by_id(tx, command.client_id)
        credential = self._clients.credential(tx, command.credential_id)
        if client is None or credential is None:
            raise NotFound("the client of this plan is gone")
        plan = plan_of(command, client, credential)
        return self._go(tx, command, plan, again=again, passed=passed)

    def _go(
        self, tx: Tx, command: StoredCommand, plan: Plan, *, again: bool, passed: Passed
    ) -> StoredCommand:
        """The command's next state by guard and human: ready, or held."""
        self._check(tx, plan)
        if not again and not plan.spec.read_only:
            self._check_open(tx, command)
        judgement = self._guard.judge_in(tx, plan, command.origin, command.command_id)
        refuse(judgement)
        if judgement.verdict is Verdict.ALLOW:
            passed = passed or "guard"
        kept = self._signed(tx, command, plan, passed) if passed else self._hold(tx, command, judgement)
        self._commands.commit(tx, kept)
        self._guard.reserve(tx, command.command_id, command.client_id, judgement)
        return kept

    def _check(self, tx: Tx, plan: Plan) -> None:
        self._shared.check(tx)
        if plan.spec.schema == CONTROL:
            return
        client = self._clients.by_id(tx, plan.client.client_id)
        if client is None or client.state != "active":
            state = "gone" if client is None else client.state
            raise Conflict(f"client {plan.client.alias!r} is {state}: nothing is sent to it")
        credential = self._clients.credential(tx, plan.credential.credential_id)
        if credential is None or credential.state != "active" or self._now() >= credential.valid_until:
            raise CredentialInvalid(
                f"the credential this was planned with has ended; plan it again for {plan.client.alias!r}",
                reason="credential_superseded",
            )

    def _check_new(self, tx: Tx, command: StoredCommand) -> None:
        if self._commands.get(tx, command.command_id) is not None:
            raise Conflict(f"command {command.command_id} was planned before")
        if command.retry_of is None:
            return
        other = self._commands.retried_by(tx, command.retry_of)
        if other is not None:
            raise Conflict(f"{command.retry_of} was planned anew already: {other.command_id} ({other.state})")

    def _check_open(self, tx: Tx, command: StoredCommand) -> None:
        same = self._commands.same_open(
            tx, command.client_id, command.schema, command.action, json.dumps(command.params)
        )
        if same is not None:
            raise Conflict(
                f"the same command is open: {same.command_id} ({same.state}); --again sends it anyway"
            )

    def _hold(self, tx: Tx, command: StoredCommand, judgement: Judgement) -> StoredCommand:
        now = self._now()
        self._questions.add(
            tx,
            Question(
                approval_id=sha256(f"{command.command_id}:{now}".encode()).hex()[:16],
                kind=PLAN,
                origin=command.origin,
                state="waiting",
                expires=now + WAIT_S,
                created=now,
                command_id=command.command_id,
                plan_hash=command.plan_hash,
                reason="; ".join(reason.text for reason in judgement.reasons)[:2_000],
            ),
        )
        self._records.add_event(tx, "plan_held", command.command_id, command.action, now)
        return replace(command, state=CommandState.HELD, deadline=now + WAIT_S, updated=now)

    def _signed(self, tx: Tx, command: StoredCommand, plan: Plan, passed: Passed) -> StoredCommand:
        now = self._now()
        current = self._clients.by_id(tx, command.client_id) or plan.client
        nonce = self._clients.take_nonce(tx, command.client_id, self._now_us())
        timestamp = now + current.offset_s
        signed: dict[str, Any] = self._envelope(tx, command, plan, nonce, timestamp)
        return replace(
            command,
            state=CommandState.READY,
            nonce=nonce,
            timestamp=timestamp,
            command_hash=envelope.command_digest(signed).hex(),
            envelope=signed,
            passed=passed,
            next_send=now,
            deadline=None,
            created=now,
            updated=now,
        )

    def _envelope(
        self, tx: Tx, command: StoredCommand, plan: Plan, nonce: int, timestamp: int
    ) -> dict[str, JsonValue]:
        secret = self._keyring.secret(plan.credential.agent_key)
        document: dict[str, JsonValue] = {
            "v": 1,
            "command_id": command.command_id,
            "schema_type": command.schema,
            "schema_payload": {"action": command.action, "params": command.params},
            "credential": {"credential_id": command.credential_id},
            "payment_proof": self._payment(tx, command, plan),
            "nonce": nonce,
            "timestamp": timestamp,
            "node": plan.client.node_key,
            "sender": plan.credential.agent_key,
        }
        if command.expected_root is not None:
            document["expected_policy_root"] = command.expected_root
        if self._relays:
            document["reply_relays"] = list(self._relays[:3])
        return envelope.sign_command(secret, document)

    def _payment(self, tx: Tx, command: StoredCommand, plan: Plan) -> JsonValue:
        if plan.payment is None:
            return self._fees.take_in(tx, command, plan.credential.document)
        self._claim(tx, command)
        return plan.payment

    def _end(self, tx: Tx, command: StoredCommand, event: CommandEvent, slug: str) -> StoredCommand:
        to = next_state(command.state, event)
        if to is None or not self._commands.move(tx, command, to, self._now()):
            raise Conflict(f"the command is {command.state}")
        self._commands.set_slug(tx, command.command_id, slug)
        self._guard.ended(tx, command, to)
        self._records.add_event(tx, f"command_{to}", command.command_id, slug, self._now())
        return self._commands.get(tx, command.command_id) or command

    def _expire(self, tx: Tx, unsent_s: int) -> int:
        now, back = self._now(), 0
        for command in self._commands.unsent(tx, now - unsent_s):
            to = next_state(command.state, CommandEvent.ON_UNSENT)
            if to is None:
                continue
            draft = replace(
                command, state=to, envelope={}, command_hash="", deadline=now + PLAN_S, updated=now
            )
            self._commands.commit(tx, replace(draft, next_send=None))
            self._records.add_event(tx, "command_unsent", command.command_id, command.action, now)
            back += 1
        for command in self._commands.overdue(tx, now):
            self._end(tx, command, CommandEvent.ON_EXPIRED, "plan_expired")
        self._questions.expire(tx, now)
        self._commands.forget_drafts(tx, now - _DRAFTS_KEPT_S)
        return back
