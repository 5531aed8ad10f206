"""An advisor in the test's own hands: signs envelopes as it likes, over DM or REST, and reads the answers.

The kit refuses to send what cannot work; these tests are about what the node does with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from collections.abc import Callable
from typing import Any

from hive_devnet.node import NodeHandle
from hive_devnet.world import PATIENCE_S, World
from hive_shared import envelope
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr import giftwrap
from hive_shared.nostr.event import Event
from hive_shared.nostr.keys import npub_encode, parse_pubkey
from hive_shared.nostr.relay import RelayPool


def real_time() -> int:
    """Unix seconds."""
    return int(time.time())


class Agent:
    """One agent key. ``credential_id`` is filled by ``hired``; `now` is its clock, Unix seconds."""

    def __init__(
        self,
        node: NodeHandle,
        relay: str,
        secret: Secret | None = None,
        now: Callable[[], int] = real_time,
    ) -> None:
        self.node, self.relay, self.now = node, relay, now
        self.secret = secret or Secret(os.urandom(32))
        self.key = xonly_pubkey(self.secret)
        self.npub = npub_encode(self.key)
        self.node_key = ""
        self.credential_id = ""
        self.nonce = time.time_ns() // 1_000
        self.inbox: list[dict[str, Any]] = []
        self._pool = RelayPool(on_event=self._event, secret_provider=lambda: self.secret, now=now)
        self._came = asyncio.Condition()

    async def __aenter__(self) -> Agent:
        await self._pool.set_relays([self.relay], [self.relay], [])
        self._pool.subscribe("dm", [{"kinds": [1059], "#p": [self.key]}], lambda _url: None)
        await self._pool.start()
        assert await self._pool.wait_for(lambda: self._pool.connected() == 1, PATIENCE_S)
        status = await self.node.call("hive-client-identity")
        self.node_key = parse_pubkey(str(status["npub"]))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.stop()

    async def _event(self, _relay: str, _name: str, event: Event) -> None:
        message = giftwrap.unwrap(self.secret, event, verified=True)
        async with self._came:
            self.inbox.append(json.loads(message.content))
            self._came.notify_all()

    def dial(self) -> None:
        """End the wait for the relay's next attempt: after an outage it may be a minute."""
        self._pool.dial_now()

    async def hired(self, access: str = "fees", **parameters: object) -> Agent:
        """Have the operator authorise this key; keeps the credential id."""
        answer = await self.node.call(
            "hive-client-authorize", {"advisor": self.npub, "access": access, **parameters}
        )
        self.credential_id = str(answer["credential_id"])
        return self

    def command(
        self, action: str, params: dict[str, Any], schema: str = "hive:fee-policy/v1", **fields: Any
    ) -> dict[str, Any]:
        """An unsigned command document; ``fields`` replace its parts, None removes one."""
        self.nonce += 1
        document: dict[str, Any] = {
            "v": 1,
            "command_id": str(uuid.uuid4()),
            "schema_type": schema,
            "schema_payload": {"action": action, "params": params},
            "credential": {"credential_id": self.credential_id},
            "payment_proof": {"method": "none"},
            "nonce": self.nonce,
            "timestamp": self.now(),
            "node": self.node_key,
            "sender": self.key,
            **fields,
        }
        return {name: value for name, value in document.items() if value is not None}

    def signed(
        self, action: str, params: dict[str, Any], schema: str = "hive:fee-policy/v1", **fields: Any
    ) -> dict[str, Any]:
        return envelope.sign_command(self.secret, self.command(action, params, schema, **fields))

    async def rest(self, document: dict[str, Any] | str, **extra: object) -> dict[str, Any]:
        """Through hive-comms-rpc, as clnrest or a local agent does; returns the response envelope."""
        request = document if isinstance(document, str) else json.dumps(document)
        return await self.node.call("hive-comms-rpc", {"request": request, "sender": self.key, **extra})

    async def dm(
        self, document: dict[str, Any] | str, relays: list[str] | None = None, secret: Secret | None = None
    ) -> str:
        """Wrap and publish; returns the wrap's id."""
        content = document if isinstance(document, str) else json.dumps(document)
        event, _ = giftwrap.wrap(
            secret or self.secret,
            self.node_key,
            content,
            tags=[["t", "hive-mgmt"]],
            now=self.now(),
            rng=os.urandom,
            expiration=self.now() + 3_600,
        )
        results = await self._pool.publish(event, relays or [self.relay])
        assert any(result.accepted for result in results.values()), results
        return event.id

    async def answer(
        self, nonce: int, timeout: float = PATIENCE_S, *, status: int | None = None
    ) -> dict[str, Any]:
        """The (newest) response to ``nonce`` that came by DM, with this status if given."""

        def found() -> dict[str, Any] | None:
            for document in reversed(self.inbox):
                if document.get("request_nonce") == nonce and status in (None, document.get("status")):
                    return document
            return None

        async with asyncio.timeout(timeout), self._came:
            await self._came.wait_for(lambda: found() is not None)
        document = found()
        assert document is not None and envelope.verify_response(document, self.node_key)
        return document

    async def pushed(self, action: str, timeout: float = PATIENCE_S) -> dict[str, Any]:
        """The body of the (newest) push of this name, checked against the node's key."""

        def found() -> dict[str, Any] | None:
            for document in reversed(self.inbox):
                if document.get("schema_payload", {}).get("action") == action:
                    return document
            return None

        async with asyncio.timeout(timeout), self._came:
            await self._came.wait_for(lambda: found() is not None)
        document = found()
        assert document is not None and envelope.verify_push(document, self.node_key)
        body: dict[str, Any] = document["schema_payload"]["params"]
        return body


async def hired_agent(world: World, access: str = "fees", **parameters: object) -> Agent:
    """Shorthand for tests that need one agent; the caller enters it as a context."""
    agent = Agent(world.alice, world.relay.url)
    await agent.__aenter__()
    return await agent.hired(access, **parameters)
