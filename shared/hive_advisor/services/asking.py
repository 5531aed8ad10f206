"""Commands sent and followed to their answer, and the kit's own questions to a node
(docs/protocol/11-advisor-kit.md §4, §5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from hive_shared import credential as credentials
from hive_shared import envelope
from hive_shared.crypto import schnorr_sign
from hive_shared.errors import (
    SYMBOLS,
    Busy,
    ClockSkew,
    Conflict,
    HiveError,
    Internal,
    InvalidParams,
    RateLimited,
    TransportUnavailable,
    from_symbol,
)
from hive_shared.registry import CONTROL, MONITOR
from hive_shared.store import Db, Tx

from hive_advisor.domain.answer import Answer, number_of, read_answer
from hive_advisor.domain.clock import median, with_sample
from hive_advisor.domain.command_machine import CommandState
from hive_advisor.domain.evidence import Fork
from hive_advisor.domain.keyring import Keyring
from hive_advisor.domain.plan import Plan
from hive_advisor.domain.rows import Client, StoredCommand, StoredCredential
from hive_advisor.services.answers import AnswerService
from hive_advisor.services.clients import ClientService
from hive_advisor.services.commands import SKEW_WARN_S, CommandService
from hive_advisor.services.guard import KIT
from hive_advisor.services.plans import PlanService
from hive_advisor.services.ports import ClientRows
from hive_advisor.services.retries import RetryService

_ACK: Final = "credential_ack"
_ACK_AGAIN_S: Final = 600
_OVERTAKEN_AGAIN_S: Final = 60
_OVERTAKEN: Final = "nonce_too_low"
_UNHEARD: Final = (CommandState.EXPIRED, CommandState.LOST, CommandState.INDETERMINATE)
_NOT_NOW: Final = (Busy, ClockSkew, Internal, RateLimited)
_ON_ITS_WAY: Final = (CommandState.READY, CommandState.SENT, CommandState.PENDING)


class AskService:
    """Sends, waits, and repeats the same bytes; `say` gets what a human should know meanwhile."""

    def __init__(
        self,
        db: Db,
        rows: ClientRows,
        clients: ClientService,
        commands: CommandService,
        plans: PlanService,
        retries: RetryService,
        answers: AnswerService,
        keyring: Keyring,
        *,
        now: Callable[[], int],
        say: Callable[[str], None],
    ) -> None:
        self._db, self._rows, self._clients, self._commands = db, rows, clients, commands
        self._plans, self._retries = plans, retries
        self._answers, self._keyring, self._now, self._say = answers, keyring, now, say
        self._said: set[str] = set()

    async def quote(self, plan: Plan, wait_s: int) -> dict[str, Any]:
        """What the node says to a plan, without doing it: danger with what it knows, workflow, and whether
        its policy would refuse it."""
        params = {"schema": plan.spec.schema, "action": plan.spec.name, "params": plan.params}
        return await self.control(plan.client.client_id, "quote", params, wait_s)

    async def execute(
        self,
        plan: Plan,
        *,
        wait_s: int,
        again: bool = False,
        origin: str = "lib",
        human: bool = False,
        confirmed_danger: int | None = None,
        retry_until: int | None = None,
        command_id: str | None = None,
    ) -> StoredCommand:
        """Sign, send, and wait for an answer; what is not answered stays recorded and is never doubled.

        What the guard holds is kept as ``held`` and waits for a human, unless one said yes already
        (``human``); ``confirmed_danger``: they confirmed this plan and its danger, see ``confirm``.
        ``retry_until`` (unix seconds): until then it is planned anew while the node answers ``cooldown``.
        ``command_id`` is the caller's own id for it, a UUID; Conflict when there is such a command.
        Raises PolicyDenied when the guard refuses.
        """
        command = await self._plans.issue(
            plan,
            again=again,
            origin=origin,
            human=human,
            confirmed_danger=confirmed_danger,
            retry_until=retry_until,
            command_id=command_id,
        )
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_s
        while True:
            done = await self.follow(command, max(0, round(deadline - clock())))
            at = await self._retries.when(done)
            if at is None or clock() + at - self._now() >= deadline:
                return done
            await asyncio.sleep(max(0, at - self._now()))
            command = await self._retries.again(done)

    async def follow(self, command: StoredCommand, wait_s: int) -> StoredCommand:
        """Send what is ready, and wait for its answer; what is held stays held."""
        if command.state != CommandState.READY:
            return command
        client = next(c for c in await self._clients.all() if c.client_id == command.client_id)
        await self.send_again(command, client)
        return await self._followed(command, client, wait_s)

    async def _followed(self, command: StoredCommand, client: Client, wait_s: int) -> StoredCommand:
        """Wait for an answer; without one in time the same bytes go out again, over another way first."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_s
        while True:
            sent = await self._commands.get(command.command_id)
            patience = max(1, (sent.next_send or 0) - self._now())
            left = max(0, int(deadline - clock()))
            sent = await self._commands.settled(command.command_id, min(left, patience), nonce=sent.nonce)
            if sent.state not in (CommandState.READY, CommandState.SENT) or clock() >= deadline - 1:
                return sent
            client = await self._clients.named(client.alias)
            node_time = self._now() + client.offset_s
            if (sent.next_send or 0) <= self._now() and node_time < sent.timestamp + client.max_skew_s:
                await self.send_again(sent, client)

    async def send_again(self, command: StoredCommand, client: Client) -> None:
        """Send the bytes of an open command, the same as ever, after those that have to leave before it."""
        if command.state == CommandState.READY and command.schema != CONTROL:
            for earlier in await self._commands.before(command):
                await self._commands.transmit(earlier, client)
        if await self._commands.transmit(command, client) is None:
            self._say("nothing took the command yet; it is kept and sent again")

    async def control(
        self,
        client_id: str,
        action: str,
        params: Mapping[str, Any],
        wait_s: int,
        *,
        about: StoredCommand | None = None,
    ) -> dict[str, Any]:
        """A ``hive:control/v1`` command; returns {state, result?, slug?, message?}.

        With ``about`` it is signed by the key that signed that command: nobody else is told of it.
        """
        client = next((c for c in await self._clients.all() if c.client_id == client_id), None)
        if client is None:
            raise InvalidParams("the client of this command is gone")
        if about is None:
            asking = action == "capabilities"
            credential = await self._clients.usable_credential(client, though_stopped=asking)
        else:
            credential = await self._clients.credential_about(client, about)
        plan = self._plans.plan(client, credential, CONTROL, action, params)
        done = await self.execute(plan, wait_s=wait_s, again=True, origin=KIT)
        answer: Answer | None = read_answer(done.response) if done.response else None
        return {
            "state": str(done.state),
            "result": answer.result if answer else None,
            "slug": answer.slug if answer else None,
            "message": answer.sentence if answer else "no answer yet",
            "node_time": answer.timestamp if answer else 0,
            "command_id": done.command_id,
        }

    async def read(
        self, client: Client, action: str, params: Mapping[str, Any], wait_s: int
    ) -> Mapping[str, Any] | None:
        """A reading action of ``hive:monitor/v1``; None when it was refused or not answered in time."""
        credential = await self._clients.usable_credential(client)
        plan = self._plans.plan(client, credential, MONITOR, action, params)
        done = await self.execute(plan, wait_s=wait_s, again=True, origin="auto")
        answer = read_answer(done.response) if done.response else None
        return answer.result if answer is not None and isinstance(answer.result, dict) else None

    async def acknowledge(
        self, client: Client, credential: StoredCredential, *, accepted: bool, wait_s: int
    ) -> str:
        """Tell the node that its credential was accepted or declined; "done" or how far it got."""
        parsed = credentials.parse(credential.document)
        params = {
            "credential_id": credential.credential_id,
            "doc_hash": credentials.doc_hash(parsed),
            "accepted": accepted,
        }
        plan = self._plans.plan(client, credential, CONTROL, _ACK, params)
        try:
            done = await self.execute(plan, wait_s=wait_s, again=True, origin=KIT)
        except TransportUnavailable:
            return "not sent yet"
        return str(done.state)

    async def acknowledge_unsaid(self, client: Client) -> None:
        """Tell the node of credentials in use what it has not heard: the process ended before it was said,
        nobody answered, the node was busy, or later commands of ours came first."""
        for credential in await self._clients.credentials(client):
            if credential.state != "active" or credential.credential_id in self._said:
                continue
            said = await self._commands.newest_under(credential, _ACK)
            if said is not None:
                # A later command of ours came first (this one was lost and repeated): it was not looked at.
                overtaken = said.state == CommandState.REJECTED and said.slug == _OVERTAKEN
                if said.state in _ON_ITS_WAY:
                    continue
                refused_for_now = SYMBOLS.get(said.slug or "") in _NOT_NOW
                if not overtaken and not refused_for_now and said.state not in _UNHEARD:
                    self._said.add(credential.credential_id)
                    continue
                if self._now() < said.created + (_OVERTAKEN_AGAIN_S if overtaken else _ACK_AGAIN_S):
                    continue
            await self.acknowledge(client, credential, accepted=True, wait_s=0)

    async def capabilities(self, client: Client, wait_s: int) -> dict[str, Any] | None:
        """Ask the node what it serves; also measures its clock. None without an answer."""
        answer = await self.control(client.client_id, "capabilities", {}, wait_s)
        result = answer["result"]
        if not isinstance(result, dict):
            return None
        server_time = number_of(result.get("server_time"))
        sample = 0 if server_time is None else server_time - self._now()

        def body(tx: Tx) -> None:
            samples = with_sample(self._rows.offsets(tx, client.client_id), sample)
            offset = median(samples)
            offset = offset if abs(offset) > SKEW_WARN_S else 0
            self._rows.set_capabilities(tx, client.client_id, result, offset, self._now())
            self._rows.set_offsets(tx, client.client_id, samples)

        await self._db.write(body)
        await self._clients.answered_again(client)
        return result

    async def ask_status(self, command: StoredCommand, wait_s: int) -> dict[str, Any]:
        """``command_status``: adopt what the node says; a dead envelope it does not know is lost."""
        answer = await self.control(
            command.client_id,
            "command_status",
            {"command_id": command.command_id},
            wait_s,
            about=command,
        )
        client = next(c for c in await self._clients.all() if c.client_id == command.client_id)
        result = answer["result"] if isinstance(answer["result"], dict) else {}
        stored = result.get("response")
        if isinstance(stored, dict) and envelope.verify_response(stored, client.node_key):
            try:
                await self._answers.take(client, stored)
            except (HiveError, Fork):
                # Not about this command, or a contradiction, which is on record now.
                return {"state": "refused", "meaning": "what the node says of it cannot be believed"}
        unknown = result.get("state") == "not_found" or answer["slug"] == "not_found"
        if unknown and await self._commands.prove_lost(command, client, int(answer["node_time"])):
            return {"state": "not_found", "meaning": "proven not to have run"}
        return {"state": result.get("state") or answer["slug"] or answer["state"]}

    async def confirm(self, command: StoredCommand, wait_s: int) -> dict[str, Any]:
        """Sign the challenge of a danger 7-8 command (11 §15.5).

        Only for a command that a human confirmed, at a terminal now or when planning it: whoever calls this
        says so. Raises Conflict without a challenge, PolicyDenied (approval_expired) after its time.
        """
        if command.challenge is None or command.state != CommandState.PENDING:
            raise Conflict(
                f"the node has sent no challenge for this command (it is {command.state}); it comes once"
                " the operator approved, 'hive-advisor run --once' fetches it"
            )
        if command.deadline is not None and self._now() >= command.deadline:
            raise from_symbol("approval_expired", "the challenge has expired; send the command again")
        digest = envelope.confirm_digest(command.command_hash, command.challenge)
        secret = self._keyring.secret(command.sender)
        params = {"command_id": command.command_id, "challenge_sig": schnorr_sign(secret, digest)}
        return await self.control(command.client_id, "confirm", params, wait_s, about=command)

    async def cancel(self, command: StoredCommand, wait_s: int) -> dict[str, Any]:
        """Withdraw a command that waits at the node."""
        params = {"command_id": command.command_id}
        return await self.control(command.client_id, "cancel", params, wait_s, about=command)
