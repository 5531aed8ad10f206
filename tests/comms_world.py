"""A node with cl-hive-comms, a relay, and an agent that talks to the node over Nostr: for tests."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hive_devnet.network import open_network
from hive_devnet.node import DevnetRpcError, Network, NodeHandle
from hive_devnet.relay import RelayProcess
from hive_devnet.world import PATIENCE_S
from hive_shared import envelope
from hive_shared.canonical import encode
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr.event import Event
from hive_shared.nostr.giftwrap import unwrap, wrap
from hive_shared.nostr.keys import npub_encode
from hive_shared.nostr.relay import RelayPool

PLUGIN = Path(__file__).parents[1] / "cl-hive-comms" / "cl-hive-comms.py"


def relay_options(*relays: RelayProcess) -> dict[str, object]:
    """Options that keep the plugin on these relays alone."""
    return {
        "hive-comms-nostr-relays": ",".join(relay.url for relay in relays),
        "hive-comms-nostr-profile-relays": "",
        "hive-comms-nostr-search-relays": "",
    }


class Agent:
    """An advisor's key on a relay: what it received, in order, and a way to send."""

    def __init__(self, relay: str, seed: bytes | None = None) -> None:
        self.secret = Secret(seed or os.urandom(32))
        self.pubkey = xonly_pubkey(self.secret)
        self.npub = npub_encode(self.pubkey)
        self.received: list[dict[str, Any]] = []
        self.senders: list[str] = []
        self.credential_id = self.node_key = ""
        self.nonce = 0
        self._relay = relay
        self._came = asyncio.Event()
        self._pool = RelayPool(on_event=self._on_event, private_relays=True)

    async def __aenter__(self) -> Agent:
        await self._pool.set_relays([self._relay], [self._relay], [])
        self._pool.subscribe("dm", [{"kinds": [1059], "#p": [self.pubkey]}], lambda url: None)
        await self._pool.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.stop()

    async def _on_event(self, url: str, name: str, event: Event) -> None:
        message = unwrap(self.secret, event, verified=True)
        self.received.append(json.loads(message.content))
        self.senders.append(message.sender)
        self._came.set()

    async def wait_for(
        self, wanted: Callable[[dict[str, Any]], bool], timeout: float = PATIENCE_S
    ) -> dict[str, Any]:
        """The first received message that is wanted."""
        async with asyncio.timeout(timeout):
            while True:
                for message in self.received:
                    if wanted(message):
                        return message
                self._came.clear()
                await self._came.wait()

    async def push(self, action: str, *, after: int = 0) -> dict[str, Any]:
        """The first push of this action, beyond the first `after` messages."""
        return await self.wait_for(
            lambda message: (
                message in self.received[after:] and message.get("schema_payload", {}).get("action") == action
            )
        )

    async def hired(self, node: NodeHandle, **params: object) -> None:
        """Have the operator authorise this key, and take the credential it is offered."""
        # Counted before the call: the offer may arrive before the call returns.
        before = len(self.received)
        await call(node, "hive-client-authorize", **{"advisor": self.npub, "access": "fees", **params})
        offer = (await self.push("credential_offer", after=before))["schema_payload"]["params"]
        self.credential_id = offer["credential"]["credential_id"]
        self.node_key = offer["node"]["node_key"]

    def command(self, schema: str, action: str, params: dict[str, Any] | None = None, **fields: Any) -> str:
        """A signed command envelope as text."""
        self.nonce = max(self.nonce + 1, time.time_ns() // 1_000)
        document: dict[str, Any] = {
            "v": 1,
            "schema_type": schema,
            "schema_payload": {"action": action, "params": params or {}},
            "credential": {"credential_id": self.credential_id},
            "payment_proof": {"method": "none"},
            "nonce": self.nonce,
            "timestamp": int(time.time()),
            "node": self.node_key,
            "sender": self.pubkey,
            **fields,
        }
        return encode(envelope.sign_command(self.secret, document)).decode()

    async def run(self, schema: str, action: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a command and return the final or first response to it."""
        text = self.command(schema, action, params)
        await self.send(self.node_key, text)
        return await self.response(self.nonce)

    async def response(self, nonce: int) -> dict[str, Any]:
        """The response to the command of that nonce."""
        return await self.wait_for(lambda message: message.get("request_nonce") == nonce)

    async def send(self, recipient: str, content: str, later: int = 0) -> None:
        """Send one direct message; `later` seconds make the same text another message."""
        event, _ = wrap(
            self.secret,
            recipient,
            content,
            tags=[["t", "hive-mgmt"]],
            now=int(time.time()) + later,
            rng=os.urandom,
            expiration=None,
        )
        await self.publish(event)

    async def publish(self, event: Event, relays: Sequence[str] = ()) -> None:
        """Put an event on our relay, or on these."""
        results = await self._pool.publish(event, list(relays) or [self._relay])
        assert all(result.accepted for result in results.values()), results


@asynccontextmanager
async def world(
    directory: Path, **options: object
) -> AsyncIterator[tuple[Network, NodeHandle, RelayProcess]]:
    """A network with one node that runs the plugin, and one relay."""
    relay = await RelayProcess.start()
    network = await open_network(directory)
    try:
        node = await network.add_node("alice", {**relay_options(relay), **options}, [PLUGIN])
        await until(lambda: call(node, "hive-client-status"), "the plugin answers")
        yield network, node, relay
        assert "Traceback" not in node.log_text()
    finally:
        await network.close()
        await relay.stop()


async def killed(kind: str, node: NodeHandle, while_down: Callable[[], None]) -> None:
    """Kill -9 of the plugin, on real CLN with its node, which dies at a second plugin start; up again."""
    if kind == "embedded":
        await node.kill_plugin(PLUGIN.name)
        while_down()
        await node.call("plugin", ["start", str(PLUGIN)])
    else:
        await node.kill()
        while_down()
        await node.start()
    await until(lambda: call(node, "hive-client-status"), "the plugin answers", 60)


async def call(node: NodeHandle, method: str, **params: object) -> dict[str, Any]:
    """One RPC call."""
    return await node.call(method, params)


async def refused(node: NodeHandle, method: str, **params: object) -> DevnetRpcError:
    """The error of a call that must fail."""
    try:
        result = await node.call(method, params)
    except DevnetRpcError as error:
        return error
    raise AssertionError(f"{method} was not refused: {result}")


async def until(attempt: Callable[[], Any], what: str, timeout: float = PATIENCE_S) -> Any:
    """The first truthy result of `attempt`; refusals count as not yet."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            result = await attempt()
            if result:
                return result
            last: object = result
        except DevnetRpcError as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout} s, last: {last}")
        await asyncio.sleep(0.05)
