"""Commands: planned, signed once, sent until answered or proven dead (docs/protocol/11-advisor-kit.md §5)."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from hive_shared import envelope
from hive_shared.canonical import JsonValue
from hive_shared.errors import Ambiguous, InvalidParams, NotFound
from hive_shared.hidden import hidden
from hive_shared.registry import CONTROL
from hive_shared.store import Db, Tx

from hive_advisor.domain import pace
from hive_advisor.domain.answer import Answer, number_of
from hive_advisor.domain.command_machine import FINAL, CommandEvent, CommandState, next_state
from hive_advisor.domain.keyring import Keyring
from hive_advisor.domain.rows import Client, StoredCommand, StoredCredential
from hive_advisor.services.delivery import DeliveryService
from hive_advisor.services.guard import GuardService
from hive_advisor.services.ports import ClientRows, CommandRows, RecordRows
from hive_advisor.services.shared_key import SharedKeyService

DEATH_MARGIN_S = 30
SKEW_WARN_S = 60
"""Seconds of travel are not skew; only a clock that is really off is corrected for."""
_MAX_SIGNED_ANEW = 3
_PROMPT_S = 30
_LOOK_AGAIN_S = 30
_JUST_SENT_S = 45
_NONCE_AHEAD_US = 7 * 86_400 * 1_000_000


def death_s(command: StoredCommand, client: Client) -> int:
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
        guard: GuardService,
        *,
        now: Callable[[], int],
        now_us: Callable[[], int],
        relays: tuple[str, ...],
    ) -> None:
        self._db, self._commands, self._clients, self._records = db, commands, clients, records
        self._delivery, self._keyring, self._shared, self._guard = delivery, keyring, shared_key, guard
        self._now, self._now_us, self._relays = now, now_us, relays
        self._moved = asyncio.Condition()

    async def transmit(self, command: StoredCommand, client: Client) -> str | None:
        """Send the command's bytes (always the same); returns the transport that took them, None if none, or
        if they have to wait: for the guard, for a client that takes none, for our own pace.

        Raises Conflict when no transport is set up, or the key is shared.
        """
        now = self._now()
        ways = await self._delivery.ways(client, command)

        def body(tx: Tx) -> bool:
            self._shared.check(tx)
            until = self._waits(tx, command, now)
            if until is not None:
                self._commands.postpone(tx, command.command_id, until)
                return False
            self._commands.note_send(tx, command.command_id, now + ways.resend_s, now)
            if command.state == CommandState.READY:
                self._commands.move(tx, command, CommandState.SENT, now)
            return True

        if not await self._db.write(body):
            return None
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

    def _waits(self, tx: Tx, command: StoredCommand, now: int) -> int | None:
        """Until when the bytes of a command must not leave, None when they may."""
        if self._guard.stops(command):
            return now + _LOOK_AGAIN_S
        if command.schema == CONTROL:
            return None
        client = self._clients.by_id(tx, command.client_id)
        credential = self._clients.credential(tx, command.credential_id)
        live = credential is not None and credential.state == "active" and now < credential.valid_until
        if client is None or client.state != "active" or not live:
            return now + _LOOK_AGAIN_S
        if command.state != CommandState.READY:
            return None
        since = now - pace.DAY_S
        return pace.wait_until(
            command,
            now + client.offset_s - client.max_skew_s,
            self._commands.lately(tx, command.client_id, now),
            self._commands.first_sent(tx, command.client_id, since),
            now,
        )

    async def before(self, command: StoredCommand) -> list[StoredCommand]:
        """Signed commands to the same client that have to leave before this one, in order."""
        return [
            other
            for other in await self.open()
            if other.client_id == command.client_id
            and other.state == CommandState.READY
            and other.schema != CONTROL
            and other.nonce < command.nonce
        ]

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
                        json.dumps(hidden(answer.document))[:4000],
                        self._now(),
                    )
                return command
            if self._follow_node(tx, client, command, answer) and self._signed_anew(
                tx, client, command, answer
            ):
                return self._commands.get(tx, command.command_id)
            self._commands.move(tx, command, to, self._now())
            self._guard.ended(tx, command, to, answer.slug, answer.result)
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
                # What was measured before this is another clock's.
                self._clients.set_offsets(tx, client.client_id, (offset,))
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

    async def asked(self, client: Client, answer: Answer) -> StoredCommand | None:
        """The command of ours that this is the answer to, as it is now; None when it is none."""
        return await self._db.read(lambda tx: self._answered(tx, client, answer))

    def _answered(self, tx: Tx, client: Client, answer: Answer) -> StoredCommand | None:
        command_id = answer.document.get("command_id")
        nonce = number_of(answer.document.get("request_nonce"))
        command = self._commands.get(tx, str(command_id)) if command_id else None
        if command is None and nonce is not None:
            command = self._commands.by_nonce(tx, client.client_id, nonce)
        if command is None or command.client_id != client.client_id or nonce != command.nonce:
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

    async def newest_under(self, credential: StoredCredential, action: str) -> StoredCommand | None:
        """The newest command of this name under a credential."""
        return await self._db.read(lambda tx: self._commands.newest_under(tx, credential, action))

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

    async def answered(self, wait_s: float) -> None:
        """Give what was sent just now so long for its answer; whatever has none stays `sent`."""
        if wait_s <= 0:
            return
        since = self._now() - _JUST_SENT_S
        waiting = [
            self.settled(command.command_id, math.ceil(wait_s))
            for command in await self.open()
            if command.state == CommandState.SENT and command.schema != CONTROL and command.updated >= since
        ]
        if waiting:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*waiting), wait_s)

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
            # What is ready has not left: it becomes a draft again, or the kit asks anew.
            if command.state != CommandState.SENT and (
                command.state != CommandState.READY or command.schema != CONTROL
            ):
                continue
            client = await self._client(command.client_id)
            if client is not None and self._now() + client.offset_s >= death_s(command, client):
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
                self._guard.ended(tx, current, to)

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
            if moved and to is not None:
                self._guard.ended(tx, current, to)
                self._records.add_event(tx, "command_lost", command.command_id, "", self._now())
            return moved

        return await self._db.write(body)
