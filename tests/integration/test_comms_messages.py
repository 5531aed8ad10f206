"""Messages of a running plugin: in and out over Nostr, repeated, lost, flooded (Protocol 02 §6, 04 §6)."""

import os
import time
import uuid
from pathlib import Path

from broken_wraps import broken
from comms_world import PLUGIN, Agent, call, until, world
from hive_devnet.node import NodeHandle
from hive_devnet.relay import RelayProcess
from hive_shared import envelope
from hive_shared.canonical import encode
from hive_shared.crypto import Secret
from hive_shared.nostr.event import Event
from hive_shared.nostr.giftwrap import wrap
from hive_shared.nostr.keys import parse_pubkey
from hive_shared.nostr.relay import RelayPool
from hive_shared.signed_message import Draft, parse, sign
from outside import StoreWatch


async def test_a_command_by_direct_message_is_answered_with_a_signed_response(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        await agent.hired(node)
        answer = await agent.run("hive:monitor/v1", "health_summary")
        assert answer["status"] == 0
        assert envelope.verify_response(answer, agent.node_key)
        refused = await agent.run(
            "hive:channel/v1", "open", {"peer_id": "02" + "11" * 32, "amount_sats": 50_000}
        )
        assert refused["status"] in (1, 2) and envelope.verify_response(refused, agent.node_key)


async def test_the_credential_offer_waits_for_relays_and_survives_a_kill(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay):
        await relay.kill()
        agent = Agent(relay.url)
        await call(node, "hive-client-authorize", advisor=agent.npub, access="fees")
        await until(lambda: waiting(node), "the offer waits")
        await node.kill_plugin("cl-hive-comms.py")
        await relay.restart()
        await node.call("plugin", {"subcommand": "start", "plugin": str(PLUGIN)})
        async with agent:
            await agent.push("credential_offer")
        await until(lambda: sent(node), "the outbox is empty")


async def waiting(node: NodeHandle) -> bool:
    return bool((await call(node, "hive-comms-transports"))["items"][0]["queue"])


async def sent(node: NodeHandle) -> bool:
    return not await waiting(node)


async def test_foreign_and_malformed_messages_cost_no_database_write(tmp_path: Path) -> None:
    """Watched over a connection of our own: SQLite's version of the file changes with every commit, whatever
    it does to which table. What each kind of message may cost exactly is in test_message_cost."""
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        await agent.hired(node)
        await agent.run("hive:monitor/v1", "health_summary")
        now, stranger = int(time.time()), Secret(os.urandom(32))
        command = agent.command("hive:monitor/v1", "health_summary")
        events = [
            event
            for secret in (stranger, agent.secret)
            for event in broken(secret, agent.node_key, command, now).values()
        ]
        for number in range(60):
            junk = ("{" * 50, command, '{"schema":"hive:chunk/v1","id":"' + "0" * 16 + '"}')[number % 3]
            events.append(wrapped(Secret(os.urandom(32)), agent.node_key, junk))
        for text in (
            '{"hello":1}',
            '{"schema":"hive:chunk/v1"}',
            '{"schema":"hive:chunk-resend/v1","id":"' + "0" * 16 + '","missing":[0]}',
            '{"schema":"hive:gossip/hello","v":1}',
        ):
            events.append(wrapped(agent.secret, agent.node_key, text))
        watch = StoreWatch.of(node)
        version, tables, seen = await watch.quiet(), watch.tables(), await handled(node)
        for event in events:
            await agent.publish(event)

        async def all_seen() -> bool:
            return await handled(node) - seen >= len(events)

        await until(all_seen, "all were looked at")
        # Longer than what is noted in memory waits for its turn to be written.
        await watch.quiet()
        assert watch.unwritten(version, tables), watch.changed(tables)
        # An agent that sends what is no command hears so, and that it came is noted: two rows.
        await agent.send(agent.node_key, "{" * 50)
        answer = await agent.wait_for(lambda message: "request_nonce" in message and message["status"] == 1)
        assert answer["error"]["slug"] == "malformed" and envelope.verify_response(answer, agent.node_key)
        await watch.quiet()
        assert watch.changed(tables) == {"comms_inbox", "comms_outbox"}
        counted = "SELECT count(*) FROM comms_outbox WHERE idempotency_key LIKE 'refusal:%'"
        assert watch.one(counted) == 1
        watch.close()
        assert (await agent.run("hive:monitor/v1", "health_summary"))["status"] == 0


async def test_a_message_that_cannot_be_taken_is_answered_with_a_signed_error(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent, Agent(relay.url) as stranger:
        await agent.hired(node)
        stranger.node_key = agent.node_key
        now = int(time.time())

        def message(secret: Secret, verb: str, until: int) -> tuple[str, str]:
            msg_id = str(uuid.uuid4())
            draft = Draft(f"hive:gossip/{verb}", msg_id, "t", 1, now - 60, until, {})
            return msg_id, sign(draft, secret, agent.node_key)

        _, foreign = message(stranger.secret, "nobody", now - 1)
        await stranger.send(agent.node_key, foreign)
        cases = [("nobody", now - 1, "expired"), ("nobody", now + 600, "unsupported")]
        for verb, expires, code in cases:
            msg_id, text = message(agent.secret, verb, expires)
            await agent.send(agent.node_key, text)
            error = await agent.wait_for(lambda one, about=msg_id: one.get("body", {}).get("msg_id") == about)
            assert error["schema"] == "hive:gossip/error" and error["body"]["code"] == code
            read = parse(encode(error).decode(), agent.node_key, (agent.pubkey,))
            assert isinstance(read, Draft) and read.sent_at >= now
            await agent.send(agent.node_key, text, later=1)
        _, error = message(agent.secret, "error", now - 1)
        await agent.send(agent.node_key, error)
        # What came before this has been looked at by the time it is answered.
        await agent.run("hive:monitor/v1", "health_summary")
        assert sum(one.get("schema") == "hive:gossip/error" for one in agent.received) == 2
        assert stranger.received == []


async def _ignore(*_: object) -> None:
    return None


def wrapped(secret: Secret, node_key: str, text: str) -> Event:
    event, _ = wrap(secret, node_key, text, tags=[], now=int(time.time()), rng=os.urandom, expiration=None)
    return event


async def handled(node: NodeHandle) -> int:
    received = (await call(node, "hive-comms-transports"))["items"][0]["received"]
    return sum(received.values())


async def test_a_seal_by_another_key_than_the_rumor_is_dropped_in_silence(tmp_path: Path) -> None:
    from hive_shared.nostr import nip44
    from hive_shared.nostr.event import build, event_id, to_text

    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        await agent.hired(node)
        mallory, once = Secret(os.urandom(32)), Secret(os.urandom(32))
        text = agent.command("hive:monitor/v1", "health_summary")
        now = int(time.time())
        rumor = {
            "id": event_id(agent.pubkey, now, 14, [["p", agent.node_key]], text),
            "pubkey": agent.pubkey,
            "created_at": now,
            "kind": 14,
            "tags": [["p", agent.node_key]],
            "content": text,
        }
        sealed = nip44.encrypt(nip44.conversation_key(mallory, agent.node_key), to_text(rumor))
        seal = build(mallory, 13, [], sealed, now)
        packed = nip44.encrypt(nip44.conversation_key(once, agent.node_key), to_text(seal.to_json()))
        event = build(once, 1059, [["p", agent.node_key]], packed, now)
        await agent.publish(event)
        received = await until(lambda: counted(node, "invalid_author"), "the forgery was seen")
        assert received == 1
        assert not any("request_nonce" in message for message in agent.received)


async def counted(node: NodeHandle, name: str) -> int:
    received = (await call(node, "hive-comms-transports"))["items"][0]["received"]
    return int(received.get(name, 0))


async def test_the_node_says_where_it_reads_its_messages(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay):
        pubkey = parse_pubkey((await call(node, "hive-client-identity"))["npub"])
        pool = RelayPool(on_event=_ignore, private_relays=True)
        await pool.set_relays([relay.url], [], [])
        await pool.start()

        async def lists() -> set[int]:
            found = await pool.query([{"kinds": [10002, 10050], "authors": [pubkey]}])
            assert all(relay.url in str(event.tags) for event in found.events)
            kinds = {event.kind for event in found.events}
            return kinds if len(kinds) == 2 else set()

        assert await until(lists, "both lists are there") == {10002, 10050}
        await pool.stop()


async def test_one_command_over_two_relays_runs_once(tmp_path: Path) -> None:
    second = await RelayProcess.start()
    try:
        async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
            both = f"{relay.url},{second.url}"
            await call(node, "hive-client-identity", action="set-relays", relays=both)
            await until(lambda: connected(node, 2), "both relays are connected")
            await agent.hired(node)
            text = agent.command("hive:monitor/v1", "fee_report")
            event, _ = wrap(
                agent.secret,
                agent.node_key,
                text,
                tags=[],
                now=int(time.time()),
                rng=os.urandom,
                expiration=None,
            )
            await agent.publish(event, [relay.url, second.url])
            answer = await agent.response(agent.nonce)
            assert answer["status"] == 0
            again = len(agent.received)
            await agent.send(agent.node_key, text, later=1)
            repeated = await agent.wait_for(
                lambda message: (
                    message in agent.received[again:] and message.get("request_nonce") == agent.nonce
                )
            )
            assert repeated == answer
    finally:
        await second.stop()


async def connected(node: NodeHandle, count: int) -> bool:
    rows = (await call(node, "hive-comms-transports"))["items"][0]["relays"]
    return sum(bool(row["connected"]) for row in rows) >= count
