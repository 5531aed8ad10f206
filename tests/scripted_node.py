"""The node's end of the channel as a script: real keys, real relay, answers as the test says.

For what no honest node does: forged answers, wrong bindings, forked receipts.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Callable
from typing import Any

from hive_shared import credential as credentials
from hive_shared import credential_scope, envelope, receipts
from hive_shared.canonical import encode
from hive_shared.crypto import Secret, cln_sign_message, xonly_pubkey
from hive_shared.hidden import hidden
from hive_shared.nostr import giftwrap
from hive_shared.nostr.event import Event
from hive_shared.nostr.relay import RelayPool
from msgspec.structs import replace

Answer = Callable[[envelope.Command], dict[str, Any] | None]


class ScriptedNode:
    """One node identity; ``answer`` decides what every verified command gets."""

    def __init__(
        self, relay: str, hsm: Secret | None = None, now: Callable[[], int] = lambda: int(time.time())
    ) -> None:
        from coincurve import PrivateKey

        self.relay, self.now = relay, now
        self.secret = Secret(os.urandom(32))
        self.key = xonly_pubkey(self.secret)
        self.hsm = hsm or Secret(os.urandom(32))
        self.node_id = PrivateKey(self.hsm.reveal()).public_key.format().hex()
        self.commands: list[envelope.Command] = []
        self.wraps: list[str] = []
        self.seq = 0
        self.head = (0, receipts.GENESIS)
        self.chain: list[dict[str, Any]] = []
        self.answer: Answer = lambda command: self.response(command, 0, result={"ok": True})
        self._pool = RelayPool(on_event=self._event, secret_provider=lambda: self.secret)

    async def __aenter__(self) -> ScriptedNode:
        await self._pool.set_relays([self.relay], [self.relay], [])
        self._pool.subscribe("dm", [{"kinds": [1059], "#p": [self.key]}], lambda _url: None)
        await self._pool.start()
        assert await self._pool.wait_for(lambda: self._pool.connected() == 1, 60)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.stop()

    async def _event(self, _relay: str, _name: str, event: Event) -> None:
        message = giftwrap.unwrap(self.secret, event, verified=True)
        command = envelope.decode_command(message.content)
        assert envelope.verify_signature(command)
        self.commands.append(command)
        document = self.answer(command)
        if document is not None:
            await self.send(command.sender, document)

    def response(self, command: envelope.Command, status: int, **parts: Any) -> dict[str, Any]:
        """A signed response to ``command``."""
        self.seq += 1
        document = envelope.build_response(
            request_nonce=command.nonce,
            status=status,
            seq=self.seq,
            timestamp=self.now(),
            command_id=command.command_id,
            **parts,
        )
        return envelope.sign_response(self.secret, document)

    def receipt(self, command: envelope.Command, **changes: Any) -> dict[str, Any]:
        """A sealed receipt that continues the chain."""
        number, previous = self.head[0] + 1, self.head[1]
        fields: dict[str, Any] = {
            "receipt_id": number,
            "v": 1,
            "prev_hash": previous,
            "node_id": self.node_id,
            "created_at": self.now(),
            "schema": command.schema_type,
            "action": command.action,
            "status": "success",
            "command_id": command.command_id,
            "command_hash": command.hash,
            "nonce": envelope.nonce_json(command.nonce),
            "params": hidden(command.params),
            "agent_signature": command.signature,
            **changes,
        }
        sealed = receipts.seal(receipts.Receipt(**fields), self.secret)
        self.head = (number, sealed.receipt_hash)
        made = receipts.to_doc(sealed)
        self.chain.append(made)
        return made

    def stub(self) -> dict[str, Any]:
        """The chain goes on with a receipt of another agent, of which ours sees its place only."""
        number, previous = self.head[0] + 1, self.head[1]
        sealed = receipts.seal(
            receipts.Receipt(
                receipt_id=number,
                v=1,
                prev_hash=previous,
                node_id=self.node_id,
                created_at=self.now(),
                schema="hive:peer/v1",
                action="connect",
                status="success",
            ),
            self.secret,
        )
        self.head = (number, sealed.receipt_hash)
        made = {
            "receipt_id": number,
            "prev_hash": previous,
            "receipt_hash": sealed.receipt_hash,
            "node_signature": sealed.node_signature,
            "schema": "hive:peer/v1",
            "time": self.now(),
            "result": "success",
        }
        self.chain.append(made)
        return made

    def listed(self, command: envelope.Command, **changes: Any) -> dict[str, Any]:
        """The honest result of `receipts_list`; ``changes`` replace parts of it."""
        params = command.params
        assert isinstance(params, dict)
        since, limit = int(str(params.get("since_id", 0))), int(str(params.get("limit", 100)))
        items = [item for item in self.chain if int(str(item["receipt_id"])) > since][:limit]
        head = {"receipt_id": self.head[0], "receipt_hash": self.head[1]}
        result = {"count": len(items), "items": items, "roots": [], **({"head": head} if self.chain else {})}
        return {**result, **changes}

    def honest(self, command: envelope.Command) -> dict[str, Any]:
        """What a node answers that does what it is told and keeps the record."""
        if command.action == "receipts_list":
            return self.response(command, 0, result=self.listed(command))
        if command.schema_type == "hive:control/v1":
            return self.response(command, 0, result={"ok": True})
        if command.schema_type == "hive:monitor/v1":
            return self.response(command, 0, result={"channels": []})
        return self.response(command, 0, receipt=self.receipt(command))

    def push(self, agent_key: str, action: str, body: dict[str, Any]) -> dict[str, Any]:
        """A signed push."""
        self.seq += 1
        made = envelope.build_push(
            action, body, node_key=self.key, agent_key=agent_key, seq=self.seq, timestamp=self.now()
        )
        return envelope.sign_push(self.secret, made)

    def credential(self, agent_key: str, access: str = "fees", **constraints: bool) -> dict[str, Any]:
        """A management credential, signed by this node's Lightning key."""
        now, template = self.now(), credential_scope.resolve_access(access)
        made = credentials.new(
            template=replace(template, constraints={**template.constraints, **constraints}),
            credential_id=str(uuid.uuid4()),
            node_id=self.node_id,
            agent_key=agent_key,
            valid_from=now,
            valid_until=now + 30 * 86_400,
        )
        signed = credentials.with_signature(made, cln_sign_message(self.hsm, credentials.signing_text(made)))
        return dict(credentials.to_doc(signed))

    def offer(self, agent_key: str, **changes: Any) -> dict[str, Any]:
        """The signed credential_offer push; ``changes`` replace parts of its body."""
        self.seq += 1
        body = {
            "credential": self.credential(agent_key),
            "node": {
                "node_key": self.key,
                "node_id": self.node_id,
                "network": "regtest",
                "alias": "scripted",
            },
            "binding": cln_sign_message(self.hsm, f"hive-mkt/v1/bind:{self.key}:{self.node_id}"),
            "relays": [self.relay],
            "max_skew_s": 300,
            **changes,
        }
        push = envelope.build_push(
            "credential_offer",
            body,
            node_key=self.key,
            agent_key=agent_key,
            seq=self.seq,
            timestamp=self.now(),
        )
        return envelope.sign_push(self.secret, push)

    async def send(self, recipient: str, document: dict[str, Any]) -> None:
        event, _ = giftwrap.wrap(
            self.secret,
            recipient,
            encode(document).decode(),
            tags=[["t", "hive-mgmt"]],
            now=self.now(),
            rng=os.urandom,
            expiration=None,
        )
        results = await self._pool.publish(event, [self.relay])
        assert all(result.accepted for result in results.values()), results

    async def heard(self, count: int, timeout: float = 60) -> None:
        """Wait until ``count`` commands arrived."""
        async with asyncio.timeout(timeout):
            while len(self.commands) < count:
                await asyncio.sleep(0.02)
