"""Commands: planned, signed once, sent until answered or proven dead (docs/protocol/11-advisor-kit.md §5)."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hive_shared import credential as credentials
from hive_shared import envelope, registry
from hive_shared.canonical import JsonValue, encode
from hive_shared.crypto import sha256
from hive_shared.errors import Ambiguous, Conflict, InvalidParams, NotFound
from hive_shared.registry import ActionSpec, Danger, DangerFacts
from hive_shared.store import Db, Tx

from hive_advisor.domain import plan_check
from hive_advisor.domain.answer import Answer
from hive_advisor.domain.command_machine import FINAL, CommandEvent, CommandState, next_state
from hive_advisor.domain.keyring import Keyring
from hive_advisor.domain.rows import Client, StoredCommand, StoredCredential
from hive_advisor.services.delivery import DeliveryService
from hive_advisor.services.ports import ClientRows, CommandRows, RecordRows
from hive_advisor.services.shared_key import SharedKeyService

CONTROL = "hive:control/v1"
DEATH_MARGIN_S = 30
SKEW_WARN_S = 60
"""Seconds of travel are not skew; only a clock that is really off is corrected for."""
_MAX_SIGNED_ANEW = 3
_PROMPT_S = 30
_NONCE_AHEAD_US = 7 * 86_400 * 1_000_000


@dataclass(frozen=True)
class Plan:
    """What would be sent: checked against registry and credential, nothing signed yet."""

    client: Client
    credential: StoredCredential
    spec: ActionSpec
    params: dict[str, Any]
    danger: Danger
    note: str = ""
    retry_of: str | None = None
    expected_policy_root: str | None = None

    @property
    def hash(self) -> str:
        """What the plan would do, as 64 hex digits (11 §6)."""
        return sha256(
            encode(
                {
                    "client": self.client.client_id,
                    "credential_id": self.credential.credential_id,
                    "schema": self.spec.schema,
                    "action": self.spec.name,
                    "params": self.params,
                    "payment": {"method": "none"},
                }
            )
        ).hex()

    def summary(self) -> dict[str, Any]:
        """The plan as people and ``--dry-run`` see it."""
        root = self.expected_policy_root
        return {
            "client": self.client.alias,
            "schema": self.spec.schema,
            "action": self.spec.name,
            "params": self.params,
            "danger": {**self.danger._asdict(), "total": self.danger.total},
            "danger_at_least": plan_check.least_danger(self.spec, self.params).total,
            "tier": str(self.credential.document.get("tier", "")),
            "constraints": self.credential.document.get("constraints", {}),
            "credential_id": self.credential.credential_id,
            "plan_hash": self.hash,
            "price_sats": 0,
            **({} if root is None else {"expected_policy_root": root}),
        }


def _check_root(spec: ActionSpec, root: str) -> None:
    if spec.read_only or spec.schema == CONTROL:
        raise InvalidParams(f"{spec.name} changes nothing, so it takes no policy root")
    if not re.fullmatch("[0-9a-f]{64}", root):
        raise InvalidParams(
            f"{root[:80]!r} is no policy root: give the 64 hex characters that"
            " hive:monitor/state_hash shows under roots.policy"
        )


def _death_s(command: StoredCommand, client: Client) -> int:
    """When, by its clock, the node must refuse the envelope as stale whatever happens."""
    return command.timestamp + client.max_skew_s + DEATH_MARGIN_S


class CommandService:
    """Signs, sends, and follows commands. One envelope per command, ever."""

    def __init__(
        self,
        db: Db,
        commands: CommandRows,
        clients: ClientRows,
        records: RecordRows,
        delivery: DeliveryService,
        keyring: Keyring,
        shared_key: SharedKeyService,
        *,
        now: Callable[[], int],
        now_us: Callable[[], int],
        relays: tuple[str, ...],
    ) -> None:
        self._db, self._commands, self._clients, self._records = db, commands, clients, records
        self._delivery, self._keyring, self._shared = delivery, keyring, shared_key
        self._now, self._now_us, self._relays = now, now_us, relays
        self._moved = asyncio.Condition()

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
    ) -> Plan:
        """Check a command against registry and credential; what they forbid is never sent.

        With ``expected_policy_root`` the node refuses it once the settings of its channels are others.

        Raises InvalidParams, Unsupported, CredentialInvalid.
        """
        spec = registry.find(schema_id, action)
        parsed = registry.parse_params(spec, dict(params))
        facts = DangerFacts()
        if expected_policy_root is not None:
            _check_root(spec, expected_policy_root)
        if spec.schema != CONTROL:
            plan_check.check_scope(spec, parsed, credentials.parse(credential.document))
            heard = client.capabilities_at
            fresh = heard is not None and self._now() - heard < plan_check.FRESH_S
            plan_check.check_served(spec, parsed, client.capabilities if fresh else None)
        danger = spec.danger(parsed, facts)
        return Plan(client, credential, spec, dict(parsed), danger, note, retry_of, expected_policy_root)

    async def issue(
        self,
        plan: Plan,
        *,
        origin: str = "cli",
        again: bool = False,
        confirmed_danger: int | None = None,
    ) -> StoredCommand:
        """Nonce, signature, envelope and row in one transaction; bytes leave after the commit.

        ``confirmed_danger`` is the danger a human confirmed for exactly this plan, None when nobody did.
        Raises Conflict when the same command is open already (``again`` overrides) or the key is shared.
        """

        def body(tx: Tx) -> StoredCommand:
            self._shared.check(tx)
            params_json = json.dumps(plan.params)
            if not again and not plan.spec.read_only:
                same = self._commands.same_open(
                    tx, plan.client.client_id, plan.spec.schema, plan.spec.name, params_json
                )
                if same is not None:
                    raise Conflict(
                        f"the same command is open: {same.command_id} ({same.state}); --again sends it anyway"
                    )
            now = self._now()
            nonce = self._clients.take_nonce(tx, plan.client.client_id, self._now_us())
            signed: dict[str, Any] = self._envelope(plan, nonce, now + self._offset(tx, plan.client))
            command = StoredCommand(
                command_id=signed["command_id"],
                client_id=plan.client.client_id,
                credential_id=plan.credential.credential_id,
                schema=plan.spec.schema,
                action=plan.spec.name,
                params=plan.params,
                danger=tuple(plan.danger),
                origin=origin,
                nonce=nonce,
                timestamp=signed["timestamp"],
                command_hash=envelope.command_digest(signed).hex(),
                envelope=signed,
                state=CommandState.READY,
                created=now,
                updated=now,
                note=plan.note,
                retry_of=plan.retry_of,
                next_send=now,
                confirmed_danger=confirmed_danger,
            )
            self._commands.add(tx, command)
            return command

        return await self._db.write(body)

    def _envelope(self, plan: Plan, nonce: int, timestamp: int) -> dict[str, JsonValue]:
        secret = self._keyring.secret(plan.credential.agent_key)
        document: dict[str, JsonValue] = {
            "v": 1,
            "command_id": str(uuid.uuid4()),
            "schema_type": plan.spec.schema,
            "schema_payload": {"action": plan.spec.name, "params": plan.params},
            "credential": {"credential_id": plan.credential.credential_id},
            "payment_proof": {"method": "none"},
            "nonce": nonce,
            "timestamp": timestamp,
            "node": plan.client.node_key,
            "sender": plan.credential.agent_key,
        }
        if plan.expected_policy_root is not None:
            document["expected_policy_root"] = plan.expected_policy_root
        if self._relays:
            document["reply_relays"] = list(self._relays[:3])
        return envelope.sign_command(secret, document)

    async def transmit(self, command: StoredCommand, client: Client) -> str | None:
        """Send the command's bytes (always the same); returns the transport that took them, None if none.

        Raises Conflict when no transport is set up, or the key is shared.
        """
        now = self._now()
        ways = await self._delivery.ways(client, command)

        def body(tx: Tx) -> None:
            self._shared.check(tx)
            self._commands.note_send(tx, command.command_id, now + ways.resend_s, now)
            if command.state == CommandState.READY:
                self._commands.move(tx, command, CommandState.SENT, now)

        await self._db.write(body)
        content = json.dumps(command.envelope, separators=(",", ":"), ensure_ascii=False)
        relays = tuple(dict.fromkeys((*client.relays, *self._relays)))
        return await self._delivery.deliver(
            client,
            content,
            relays,
            ways,
            # By our clock, as relays see it; the timestamp is by the node's.
            expires_at=max(command.timestamp, now) + 3_600,
            sender=command.sender,
        )

    async def apply_answer(
        self, client: Client, answer: Answer, receipt_id: int | None
    ) -> StoredCommand | None:
        """A verified response: moves the command it answers. None when it answers none of ours."""

        def body(tx: Tx) -> StoredCommand | None:
            command = self._answered(tx, client, answer)
            if command is None:
                return None
            to = next_state(command.state, answer.event)
            if to is None:
                if command.response is not None and command.response != answer.document:
                    # A second, different final answer changes nothing; it is kept as evidence.
                    self._records.add_event(
                        tx,
                        "contradiction",
                        command.command_id,
                        json.dumps(answer.document)[:4000],
                        self._now(),
                    )
                return command
            if self._follow_node(tx, client, command, answer) and self._signed_anew(
                tx, client, command, answer
            ):
                return self._commands.get(tx, command.command_id)
            self._commands.move(tx, command, to, self._now())
            self._commands.record_answer(
                tx,
                command.command_id,
                answer.document,
                answer.slug,
                answer.challenge,
                receipt_id,
                answer.expires,
            )
            if to in FINAL or to == CommandState.PENDING:
                self._records.add_event(
                    tx, f"command_{to}", command.command_id, answer.slug or "", self._now()
                )
            return self._commands.get(tx, command.command_id)

        moved = await self._db.write(body)
        async with self._moved:
            self._moved.notify_all()
        return moved

    def _offset(self, tx: Tx, client: Client) -> int:
        """How far the node's clock is ahead of ours, as of now."""
        current = self._clients.by_id(tx, client.client_id)
        return (current or client).offset_s

    def _signed_anew(self, tx: Tx, client: Client, command: StoredCommand, answer: Answer) -> bool:
        """A command refused for its number or its time before it counted goes out under another one, with the
        same id (11 §5.2). False when it does not: three times is enough, and what stays refused is final."""
        to = next_state(command.state, CommandEvent.ON_SIGNED_ANEW)
        if to is None or command.resigned >= _MAX_SIGNED_ANEW or self._shared.raised(tx):
            return False
        now = self._now()
        nonce = self._clients.take_nonce(tx, client.client_id, self._now_us())
        timestamp = now + self._offset(tx, client)
        before = {k: v for k, v in command.envelope.items() if k not in ("signature", "signature_alg")}
        document: dict[str, JsonValue] = {**before, "nonce": nonce, "timestamp": timestamp}
        signed = envelope.sign_command(self._keyring.secret(command.sender), document)
        self._commands.move(tx, command, to, now)
        self._commands.sign_anew(
            tx,
            command.command_id,
            envelope=signed,
            nonce=nonce,
            timestamp=timestamp,
            command_hash=envelope.command_digest(signed).hex(),
            now=now,
        )
        self._records.add_event(tx, "signed_anew", command.command_id, answer.slug or "", now)
        return True

    def _follow_node(self, tx: Tx, client: Client, command: StoredCommand, answer: Answer) -> bool:
        """Take over its clock where it called ours stale, and a number above what it has seen, unless that is
        far from our time: nonces are microseconds. Returns whether the same command may be taken now.

        An answer that took long tells no time, and a command that took long, or that a later one of ours
        overtook, is not sent again by itself.
        """
        current = self._clients.by_id(tx, client.client_id) or client
        now, wanted, last = self._now(), answer.expected_min, current.last_nonce
        self._shared.answered(tx, client.node_key, client.alias, answer, last, command.command_id)
        if answer.slug == "stale_timestamp" and now - command.updated <= _PROMPT_S:
            offset = answer.timestamp - now
            offset = offset if abs(offset) > SKEW_WARN_S else 0
            # By its own time, not by what another command's refusal has taught us meanwhile.
            used = current.offset_s if command.resigned else command.timestamp - command.created
            if abs(offset - used) > SKEW_WARN_S:
                self._clients.set_offset(tx, client.client_id, offset, now)
                return True
        if answer.slug != "nonce_too_low" or not wanted or wanted > self._now_us() + _NONCE_AHEAD_US:
            return False
        self._clients.raise_nonce(tx, client.client_id, wanted - 1)
        return command.nonce == last

    async def challenged(self, client: Client, params: Mapping[str, Any]) -> None:
        """A pushed challenge: kept if it is for an open command of ours at this client.

        Nothing is signed here, only a human's word does that. Raises InvalidParams.
        """

        def body(tx: Tx) -> None:
            command = self._commands.get(tx, str(params["command_id"]))
            if command is None or command.client_id != client.client_id:
                raise InvalidParams("the challenge is for no command of ours at this node")
            if params["command_hash"] != command.command_hash:
                raise InvalidParams("the challenge names another content than the command we signed")
            if command.state in FINAL:
                return
            if int(params["expires"]) <= self._now():
                raise InvalidParams("the challenge has expired")
            self._commands.set_challenge(
                tx, command.command_id, str(params["challenge"]), int(params["expires"])
            )
            self._records.add_event(tx, "confirm_challenge", command.command_id, command.action, self._now())

        await self._db.write(body)
        async with self._moved:
            self._moved.notify_all()

    def _answered(self, tx: Tx, client: Client, answer: Answer) -> StoredCommand | None:
        command_id = answer.document.get("command_id")
        nonce = answer.document.get("request_nonce")
        command = self._commands.get(tx, str(command_id)) if command_id else None
        if command is None and isinstance(nonce, int | str) and str(nonce).isdigit():
            command = self._commands.by_nonce(tx, client.client_id, int(nonce))
        if command is None or command.client_id != client.client_id or str(nonce) != str(command.nonce):
            return None
        return command

    async def get(self, command_id: str) -> StoredCommand:
        """By full id or a unique prefix of at least 4 characters. Raises NotFound, Ambiguous."""
        if len(command_id) < 4 or not set(command_id) <= set("0123456789abcdef-"):
            raise InvalidParams(f"{command_id!r} is not a command id or a prefix of at least 4 characters")
        found = await self._db.read(lambda tx: self._commands.find(tx, command_id))
        if not found:
            raise NotFound(f"no command {command_id!r}; see 'hive-advisor command list'")
        if len(found) > 1:
            raise Ambiguous(
                f"{command_id!r} fits several commands",
                data={"candidates": [row.command_id for row in found]},
            )
        return found[0]

    async def listed(self, client: Client | None, state: str | None, limit: int) -> list[StoredCommand]:
        client_id = client.client_id if client else None
        return await self._db.read(lambda tx: self._commands.listed(tx, client_id, state, limit))

    async def open(self) -> list[StoredCommand]:
        return await self._db.read(self._commands.open)

    async def settled(
        self, command_id: str, wait_s: int, *, pending_counts: bool = True, nonce: int | None = None
    ) -> StoredCommand:
        """Wait until the command is final (or pending), at most ``wait_s``; returns its row as it is then.

        With ``nonce``, also until it was signed anew under another one.
        """

        def reached(command: StoredCommand) -> bool:
            anew = nonce is not None and command.nonce != nonce
            return (
                anew or command.state in FINAL or (pending_counts and command.state == CommandState.PENDING)
            )

        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            command = await self.get(command_id)
            left = deadline - asyncio.get_running_loop().time()
            if reached(command) or left <= 0:
                return command
            async with self._moved:
                try:
                    # The second look every few seconds covers an answer stored by another process.
                    await asyncio.wait_for(self._moved.wait(), min(left, 5))
                except TimeoutError:
                    pass

    async def due(self) -> list[StoredCommand]:
        """Open commands whose bytes should go out again now, and are still alive."""
        now = self._now()
        offsets = {client.client_id: client.offset_s for client in await self._db.read(self._clients.all)}
        return [
            command
            for command in await self.open()
            if command.state in (CommandState.READY, CommandState.SENT)
            and (command.next_send or 0) <= now
            and now + offsets.get(command.client_id, 0) < command.timestamp + 300
        ]

    async def dead(self) -> list[tuple[StoredCommand, Client]]:
        """Sent commands without an answer whose envelope the node must refuse by now."""
        result = []
        for command in await self.open():
            if command.state not in (CommandState.READY, CommandState.SENT):
                continue
            client = await self._client(command.client_id)
            if client is not None and self._now() + client.offset_s >= _death_s(command, client):
                result.append((command, client))
        return result

    async def _client(self, client_id: str) -> Client | None:
        return await self._db.read(lambda tx: self._clients.by_id(tx, client_id))

    async def expire(self, command: StoredCommand) -> None:
        """A question of the kit's own that died unanswered: its bytes can do nothing any more."""

        def body(tx: Tx) -> None:
            current = self._commands.get(tx, command.command_id)
            to = None if current is None else next_state(current.state, CommandEvent.ON_EXPIRED)
            if current is not None and to is not None:
                self._commands.move(tx, current, to, self._now())

        await self._db.write(body)

    async def prove_lost(self, command: StoredCommand, client: Client, node_time: int) -> bool:
        """``not_found`` from the node, by its own clock after the envelope died: it never ran (§5.2)."""
        if node_time <= command.timestamp + client.max_skew_s:
            return False

        def body(tx: Tx) -> bool:
            current = self._commands.get(tx, command.command_id)
            if current is None:
                return False
            if current.state == CommandState.READY:
                self._commands.move(tx, current, CommandState.SENT, self._now())
                current = self._commands.get(tx, command.command_id) or current
            to = next_state(current.state, CommandEvent.ON_PROVEN_NOT_RUN)
            moved = to is not None and self._commands.move(tx, current, to, self._now())
            if moved:
                self._records.add_event(tx, "command_lost", command.command_id, "", self._now())
            return moved

        return await self._db.write(body)
