"""What sibling plugins may call, and that nobody else may (Protocol 08 §3.3, §3.4, §13.5)."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from comms_world import PLUGIN, Agent, call, refused, until, world
from hive_advisor.transport.nostr_link import NostrLink
from hive_devnet.node import NodeHandle
from hive_shared.canonical import encode
from hive_shared.crypto import hkdf_sha256, schnorr_verify, tagged
from hive_shared.nostr.chunks import Missing
from hive_shared.nostr.giftwrap import Message
from hive_shared.nostr.keys import parse_pubkey
from hive_shared.nostr.relay import RelayPool
from hive_shared.siblings_auth import SiblingAuth
from lossy_relay import lossy


async def auth(node: NodeHandle) -> SiblingAuth:
    """A sibling's side of the authentication: only who may ask the node for secrets can do this."""
    secret = bytes.fromhex((await call(node, "makesecret", string="hive-sibling-v1"))["secret"])
    return SiblingAuth(hkdf_sha256(secret), lambda: int(time.time()), os.urandom)


async def send_dm(node: NodeHandle, **params: Any) -> dict[str, Any]:
    return await node.call("hive-comms-send-dm", (await auth(node)).sign("hive-comms-send-dm", params))


async def test_acceptance_08_05_a_caller_without_auth_sends_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        params: dict[str, Any] = {"recipient": agent.npub, "message": "hello", "schema": "hive:gossip/hello"}
        assert (await refused(node, "hive-comms-send-dm", **params)).code == 4003
        signed = (await auth(node)).sign("hive-comms-send-dm", params)
        altered = {**signed, "message": "something else"}
        assert (await refused(node, "hive-comms-send-dm", **altered)).code == 4003
        other = (await auth(node)).sign("hive-comms-publish-event", params)
        assert (await refused(node, "hive-comms-send-dm", **other)).code == 4003
        assert (await node.call("hive-comms-send-dm", signed))["state"] in ("queued", "sent")
        # The same signed call again: its nonce is used up.
        assert (await refused(node, "hive-comms-send-dm", **signed)).code == 4003


async def test_a_sibling_message_arrives_signed_and_once_per_key(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        body = {"schema": "hive:gossip/hello", "n": 1}
        first = await send_dm(node, recipient=agent.npub, message=body, idempotency_key="k")
        second = await send_dm(node, recipient=agent.npub, message=body, idempotency_key="k")
        assert first["event_id"] == second["event_id"]
        message = await agent.wait_for(lambda each: each.get("schema") == "hive:gossip/hello")
        assert message["body"] == body and message["v"] == 1
        node_key = parse_pubkey((await call(node, "hive-client-identity"))["npub"])
        unsigned = {key: value for key, value in message.items() if key != "sig"}
        digest = tagged("hive-mkt-msg:v1:", encode(unsigned) + agent.pubkey.encode())
        assert schnorr_verify(node_key, digest, message["sig"])
        await send_dm(node, recipient=agent.npub, message="text", schema="hive:gossip/note")
        note = await agent.wait_for(lambda each: each.get("schema") == "hive:gossip/note")
        assert note["body"] == "text" and note["seq"] == message["seq"] + 1
        assert len(agent.received) == 2


async def test_a_long_message_arrives_in_parts_that_make_the_whole(tmp_path: Path) -> None:
    from hive_shared.nostr.chunks import ChunkBuffer

    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        text = "x" * 60_000
        await send_dm(node, recipient=agent.npub, message=text, schema="hive:gossip/long")
        await agent.wait_for(
            lambda each: each.get("schema") == "hive:chunk/v1" and each["i"] == each["n"] - 1
        )
        await agent.wait_for(lambda _: len(agent.received) == agent.received[0]["n"])
        buffer = ChunkBuffer()
        wholes = [buffer.add(agent.senders[0], part, 0) for part in agent.received]
        (whole,) = [each for each in wholes if each is not None]
        assert text in whole.text


async def test_lost_parts_are_asked_for_and_sent_again_though_the_plugin_was_killed_between(
    tmp_path: Path,
) -> None:
    """Both ways, over a relay that loses a part of each message. The node asks after its 20 s of quiet."""
    async with (
        world(tmp_path) as (_, node, behind),
        lossy(behind.url) as relay,
        Agent(relay.url) as agent,
    ):
        await call(node, "hive-client-identity", action="set-relays", relays=relay.url)
        await agent.hired(node)
        got: list[Message] = []

        async def on_message(message: Message) -> None:
            got.append(message)

        async def on_event(url: str, name: str, event: Any) -> None:
            await link.received(url, name, event)

        pool = RelayPool(on_event=on_event, private_relays=True)
        link = NostrLink(
            agent.secret,
            pool,
            on_message=on_message,
            trusted=lambda key: key == agent.node_key,
            own_relays=(relay.url,),
            now=lambda: int(time.time()),
            rng=os.urandom,
            say=lambda text: None,
        )
        # The kit asks when this test says so.
        link._long._pause = for_ever
        await pool.set_relays([relay.url], [relay.url], [])
        link.watch(None)
        await pool.start()
        assert await pool.wait_for(lambda: pool.connected() == 1, 60)
        relay.forget()
        relay.loses = lambda number: number in (0, 5)
        await send_dm(node, recipient=agent.npub, message="x" * 60_000, schema="hive:gossip/long")
        await until(lambda: true_when(len(relay.seen) == 4), "the node's four parts")
        text = agent.command("hive:monitor/v1", "health_summary", {"filler": "x" * 60_000})
        assert await link.deliver(agent.node_key, text, [relay.url], expires_at=int(time.time()) + 600)
        assert len(relay.lost) == 2

        async def held() -> bool:
            received = (await call(node, "hive-comms-transports"))["items"][0]["received"]
            return int(received.get("parts", 0)) >= 3

        await until(held, "the node has the other parts")
        await node.kill_plugin("cl-hive-comms.py")
        await node.call("plugin", {"subcommand": "start", "plugin": str(PLUGIN)})
        # From here on the node has its clock running; meanwhile it is asked itself.
        await until(held, "the relay gave the parts once more")
        ((_, chunk_id),) = link._long._buffer._open
        assert await link._ask(Missing(agent.node_key, chunk_id, (0,)))
        await until(lambda: true_when(any("x" * 60_000 in each.content for each in got)), "the message")
        answer = await agent.wait_for(lambda message: message.get("request_nonce") == agent.nonce)
        # It went through the pipeline, which finds the filler strange.
        assert answer["error"]["slug"] == "invalid_params" and len(relay.seen) == 4 + 4 + 2
        received = (await call(node, "hive-comms-transports"))["items"][0]["received"]
        assert received["parts_asked_for"] == received["parts_resent"] == 1
        await link.close()
        await pool.stop()


async def for_ever(_seconds: float) -> None:
    await asyncio.Event().wait()


async def true_when(condition: bool) -> bool:
    return condition


async def test_what_a_sibling_may_not_send_is_refused(tmp_path: Path) -> None:
    cases: list[dict[str, Any]] = [
        {"message": "x"},
        {"message": "x", "schema": "hive:control/v1"},
        {"message": "x", "schema": "gossip"},
        {"message": "x" * 65_536, "schema": "hive:gossip/x"},
        {"message": "x", "schema": "hive:gossip/x", "expires_at": 5},
        {"schema": "hive:gossip/x"},
        {"message": "x", "schema": "hive:gossip/x", "recipient": "nobody"},
    ]
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        signer = await auth(node)
        for params in cases:
            given = {"recipient": agent.npub, **params}
            error = await refused(node, "hive-comms-send-dm", **signer.sign("hive-comms-send-dm", given))
            assert error.code == -32602, (params, error.message)
