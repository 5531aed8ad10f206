"""What comes in: responses and pushes, checked before they have any effect (11 §4, §5.3, §15.1)."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from hive_shared import envelope
from hive_shared.canonical import decode_object, encode
from hive_shared.errors import HiveError, InvalidParams
from hive_shared.nostr.giftwrap import Message
from hive_shared.registry import CONTROL
from hive_shared.store import Db

from hive_advisor.domain.answer import read_answer
from hive_advisor.domain.evidence import Fork
from hive_advisor.domain.keyring import Keyring
from hive_advisor.domain.offer import check_offer
from hive_advisor.domain.rows import Client, Quarantined
from hive_advisor.services.alerts import AlertService
from hive_advisor.services.answers import AnswerService
from hive_advisor.services.approvals import ApprovalService
from hive_advisor.services.clients import ClientService, OfferedContracts
from hive_advisor.services.commands import CommandService
from hive_advisor.services.delivery import DeliveryService
from hive_advisor.services.earnings import EarningService
from hive_advisor.services.pings import PingService
from hive_advisor.services.ports import RecordRows
from hive_advisor.services.signed_mail import SignedMail
from hive_advisor.services.telemetry import TelemetryService

_MAX_MESSAGE = 1_048_576


class MailService:
    """Routes one verified direct message. Whatever fails a check is quarantined, without effect."""

    def __init__(
        self,
        db: Db,
        records: RecordRows,
        clients: ClientService,
        commands: CommandService,
        answers: AnswerService,
        alerts: AlertService,
        delivery: DeliveryService,
        approvals: ApprovalService,
        telemetry: TelemetryService,
        pings: PingService,
        signed: SignedMail,
        earnings: EarningService,
        contracts: OfferedContracts,
        *,
        keyring: Keyring,
        accept_offers: bool,
        own_relays: tuple[str, ...],
        now: Callable[[], int],
        on_accepted: Callable[[Client, str], Awaitable[None]],
    ) -> None:
        self._db, self._records = db, records
        self._clients, self._commands, self._answers, self._alerts = clients, commands, answers, alerts
        self._delivery, self._approvals, self._telemetry = delivery, approvals, telemetry
        self._pings, self._signed, self._earnings = pings, signed, earnings
        self._contracts = contracts
        self._keyring, self._accept, self._now = keyring, accept_offers, now
        self._on_accepted = on_accepted
        self._own_relays = own_relays
        self._one_at_a_time = asyncio.Lock()
        self.taken = 0
        self.refused = 0

    async def receive(self, message: Message, agent_key: str) -> None:
        """One message to ``agent_key``, a key of ours. Never raises for bad content."""
        async with self._one_at_a_time:
            await self._receive(message, agent_key)

    async def receive_answer(self, client: Client, content: str) -> None:
        """What REST or a socket returned: an answer of this client, whose signature proves it."""
        number = "call:" + hashlib.sha256(content.encode()).hexdigest()
        async with self._one_at_a_time:
            await self._receive(
                Message(client.node_key, number, content, self._now(), (), ""),
                self._keyring.current,
                answer_only=True,
            )

    async def receive_polled(self, client: Client, document: dict[str, Any], agent_key: str) -> None:
        """A push that the node kept for us, asked for because its number was missing."""
        content = json.dumps(document, ensure_ascii=False)
        number = "poll:" + hashlib.sha256(content.encode()).hexdigest()
        async with self._one_at_a_time:
            await self._receive(Message(client.node_key, number, content, self._now(), (), ""), agent_key)

    async def _receive(self, message: Message, agent_key: str, *, answer_only: bool = False) -> None:
        if await self._db.read(lambda tx: self._records.seen(tx, message.rumor_id)):
            return
        document: dict[str, Any] = {}
        try:
            document = decode_object(message.content, max_bytes=_MAX_MESSAGE, max_nodes=50_000, floats=True)
            if answer_only and "request_nonce" not in document:
                raise InvalidParams("the call returned something that is no answer")
            await self._route(message, document, agent_key)
        except (HiveError, Fork) as error:
            self.refused += 1
            item = Quarantined(
                message.rumor_id, message.sender, str(error)[:500], self._now(), _kept(document)
            )
            await self._db.write(lambda tx: self._records.quarantine(tx, item))
            return
        self.taken += 1
        await self._db.write(
            lambda tx: self._records.add_message(
                tx, message.rumor_id, message.sender, _kept(document), self._now()
            )
        )

    async def _route(self, message: Message, document: dict[str, Any], agent_key: str) -> None:
        client = await self._clients.with_node_key(message.sender)
        if "status" in document and "request_nonce" in document:
            await self._answer(client, message, document)
        elif document.get("schema_type") == CONTROL:
            await self._push(client, message, agent_key)
        elif isinstance(schema := document.get("schema"), str):
            await self._signed.take(message, schema, agent_key)
        else:
            raise InvalidParams("neither an answer nor a push, nor a signed message")

    async def _answer(self, client: Client | None, message: Message, document: dict[str, Any]) -> None:
        if not envelope.verify_response(document, message.sender):
            raise InvalidParams("the answer's signature is not the sender's node key's")
        answer = read_answer(document)
        if await self._approvals.answered(message.sender, answer):
            if client is not None:
                await self._answers.note_seq(client, answer.seq)
            return
        if client is None:
            raise InvalidParams("an answer from a key that is none of our clients'")
        await self._answers.take(client, document)
        await self._answers.note_seq(client, answer.seq)

    async def _push(self, client: Client | None, message: Message, agent_key: str) -> None:
        push = envelope.decode_push(message.content)
        if push.node_key != message.sender:
            raise InvalidParams("the push was sealed by another key than the one that signed it")
        if push.agent_key != agent_key:
            raise InvalidParams("the push is addressed to another key")
        # The same push may come by a relay and by asking for it.
        number = "push:" + hashlib.sha256(encode(dict(push.raw))).hexdigest()
        if await self._db.read(lambda tx: self._records.seen(tx, number)):
            return
        await self._take_push(client, message, push, agent_key)
        await self._db.write(
            lambda tx: self._records.add_message(tx, number, message.sender, {}, self._now())
        )

    async def _take_push(
        self, client: Client | None, message: Message, push: envelope.Push, agent_key: str
    ) -> None:
        action, params = push.action, dict(push.params)
        if action == "credential_offer":
            await self._offer(message, params, agent_key)
            return
        if action == "approval_request":
            await self._approvals.take(push.node_key, params, agent_key)
            if client is not None:
                await self._answers.note_seq(client, push.seq)
            return
        if client is None:
            raise InvalidParams(f"a {action[:40]} push from a key that is none of our clients'")
        if action == "ping":
            self._pings.take(client, params, push.timestamp)
        else:
            await self._client_push(client, action, params)
        await self._answers.note_seq(client, push.seq)

    async def _offer(self, message: Message, params: dict[str, Any], agent_key: str) -> None:
        offer = check_offer(
            params,
            seal_key=message.sender,
            agent_key=agent_key,
            own_relays=self._own_relays,
            now=self._now(),
        )
        client, fresh = await self._clients.record_offer(offer, self._accept, self._contracts)
        await self._delivery.keep_offered(offer.credential.credential_id, offer.rest)
        if fresh and client.state == "active":
            await self._on_accepted(client, offer.credential.credential_id)

    async def _client_push(self, client: Client, action: str, params: dict[str, Any]) -> None:
        text = str(params.get("text") or params.get("reason") or params.get("command_id") or "")[:500]
        if action == "credential_revoked":
            if not await self._clients.revoked(client, str(params.get("credential_id")), text):
                raise InvalidParams("the revoked credential is not one of this client's")
        elif action == "confirm_challenge":
            await self._commands.challenged(client, params)
        elif action == "telemetry":
            await self._telemetry.take(client, params)
        elif action == "alert":
            await self._alerts.take(client, params)
        elif action in _NOTED_PUSHES:
            if action == "payment_notice":
                await self._earnings.noticed(client, params)
            await self._db.write(
                lambda tx: self._records.add_event(tx, action, client.alias, text, self._now())
            )
        else:
            raise InvalidParams(f"push {action[:40]!r} is not known to this version")


def _kept(document: dict[str, Any]) -> dict[str, Any]:
    """What is written down of a message. Tokens and preimages are money: who takes them seals them, and here
    a signed message leaves its name only, an answer all but its preimage, a push all but its token."""
    if isinstance(document.get("schema"), str):
        return {name: str(document[name])[:100] for name in ("schema", "msg_id") if name in document}
    kept = {name: value for name, value in document.items() if name != "preimage"}
    payload = kept.get("schema_payload")
    params = payload.get("params") if isinstance(payload, dict) else None
    if isinstance(payload, dict) and isinstance(params, dict) and "token" in params:
        kept["schema_payload"] = {**payload, "params": {**params, "token": ""}}
    return kept


_NOTED_PUSHES = {"conflict_held", "payment_notice"}
