"""Messages of a running plugin: in and out over Nostr, repeated, lost, flooded (Protocol 02 §6, 04 §6)."""

import asyncio
import json
import os
import sqlite3
import time
from pathlib import Path

from comms_world import PLUGIN, Agent, call, until, world
from hive_devnet.node import NodeHandle
from hive_devnet.relay import RelayProcess
from hive_shared import envelope
from hive_shared.crypto import Secret
from hive_shared.nostr.giftwrap import wrap
from hive_shared.nostr.keys import parse_pubkey
from hive_shared.nostr.relay import RelayPool


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
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        await agent.hired(node)
        await agent.run("hive:monitor/v1", "health_summary")
        file = node.net_dir / "cl_hive_comms.db"
        await until(lambda: quiet(file), "the outbox has settled")
        before = changes(file)
        pool = RelayPool(on_event=_ignore, private_relays=True)
        await pool.set_relays([], [relay.url], [])
        await pool.start()
        for number in range(120):
            stranger = Secret(os.urandom(32))
            text = (
                "{" * 50
                if number % 3 == 0
                else json.dumps({"schema_type": "hive:monitor/v1", "n": number})
                if number % 3 == 1
                else json.dumps({"schema": "hive:chunk/v1", "id": "0" * 16})
            )
            event, _ = wrap(
                stranger, agent.node_key, text, tags=[], now=int(time.time()), rng=os.urandom, expiration=None
            )
            results = await pool.publish(event, [relay.url])
            assert all(result.accepted for result in results.values())
        await until(lambda: handled(node, 120), "all were looked at")
        assert changes(file) == before
        await pool.stop()
        answer = await agent.run("hive:monitor/v1", "health_summary")
        assert answer["status"] == 0


async def _ignore(*_: object) -> None:
    return None


def changes(file: Path) -> int:
    """How often the database was written, as SQLite itself counts."""
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
        rows = 0
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            rows += connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return rows


async def quiet(file: Path) -> bool:
    before = changes(file)
    await asyncio.sleep(2.5)
    return changes(file) == before


async def handled(node: NodeHandle, count: int) -> bool:
    received = (await call(node, "hive-comms-transports"))["items"][0]["received"]
    return sum(received.values()) >= count


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
