"""What a sibling plugin takes part in: events, messages, and a transport of its own (Protocol 08 §3.4)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from agent import Agent
from channel_world import exists, plugin_again, receipts
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World, until
from hive_shared import envelope
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr.event import Event, build
from hive_shared.nostr.keys import npub_encode
from hive_shared.nostr.relay import RelayPool
from hive_shared.signed_message import Draft, sign
from json_lines import lines_of

SIBLING = Path(__file__).parents[1] / "sibling_plugin.py"
OFFER = {"kind": 38381, "content": "{}", "tags": [["d", "offer-1"], ["expiration", "4000000000"]]}


class Sibling:
    """The test plugin on alice: calls it makes, calls it got."""

    def __init__(self, world: World, record: Path) -> None:
        self.world, self.record = world, record

    async def start(self) -> None:
        await self.world.alice.call("plugin", {"subcommand": "start", "plugin": str(SIBLING)})

        async def known() -> bool:
            try:
                rows = (await self.world.alice.call("hive-client-status"))["siblings"]["plugins"]
            except DevnetRpcError:
                return False
            return any(row["plugin"] == "cl-hive" and row["present"] for row in rows)

        await until(known, "comms to know the sibling")

    async def stop(self) -> None:
        await self.world.alice.call("plugin", {"subcommand": "stop", "plugin": str(SIBLING)})

    async def call(self, method: str, /, **params: Any) -> dict[str, Any]:
        answer = await self.world.alice.call("hive-probe-call", {"method": method, "params": params})
        if "error" in answer:
            error = answer["error"]
            raise DevnetRpcError(error["code"], error["message"], error.get("data"))
        return dict(answer["result"])

    async def refused(self, method: str, /, **params: Any) -> DevnetRpcError:
        with pytest.raises(DevnetRpcError) as error:
            await self.call(method, **params)
        return error.value

    def got(self, method: str) -> list[dict[str, Any]]:
        return [line for line in lines_of(self.record) if line["method"] == method]

    async def gets(self, method: str, count: int = 1) -> list[dict[str, Any]]:
        async def enough() -> list[dict[str, Any]]:
            found = self.got(method)
            return found if len(found) >= count else []

        return list(await until(enough, f"{count} calls of {method}"))


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    """Counts what the node is asked to do, too."""
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    record = directory / "sibling.jsonl"
    record.touch()
    os.environ["HIVE_SIBLING_FILE"] = str(record)
    made = await World.start(directory, with_witness=True)
    yield made
    log = made.alice.log_text()
    await made.close()
    shutil.rmtree(directory, ignore_errors=True)
    assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:3_000]


@pytest_asyncio.fixture
async def sibling(world: World) -> Sibling:
    made = Sibling(world, Path(os.environ["HIVE_SIBLING_FILE"]))
    await made.start()
    return made


@contextlib.asynccontextmanager
async def watching(relay: str, **wanted: Any) -> AsyncIterator[list[Event]]:
    """The events of a relay that match."""
    seen: list[Event] = []

    async def on_event(_url: str, _name: str, event: Event) -> None:
        seen.append(event)

    pool = RelayPool(on_event=on_event, private_relays=True)
    await pool.set_relays([relay], [relay], [])
    pool.subscribe("watch", [wanted], lambda _url: None)
    await pool.start()
    try:
        yield seen
    finally:
        await pool.stop()


async def some(seen: list[Event]) -> bool:
    return bool(seen)


async def published(relay: str, event: Event) -> None:
    async with watching(relay, kinds=[1]):
        pool = RelayPool(on_event=_nothing, private_relays=True)
        await pool.set_relays([relay], [relay], [])
        await pool.start()
        try:
            assert await pool.wait_for(lambda: pool.connected() == 1, 60)
            results = await pool.publish(event, [relay])
            assert all(result.accepted for result in results.values()), results
        finally:
            await pool.stop()


async def _nothing(*_: object) -> None:
    return None


def message(agent: Agent, body: dict[str, Any], schema: str = "hive:gossip/hello") -> str:
    now = int(time.time())
    draft = Draft(schema, str(uuid.uuid4()), "t-1", 1, now, now + 600, body)
    return sign(draft, agent.secret, agent.node_key)


async def test_an_event_of_an_allowed_kind_is_signed_and_published_once(
    world: World, sibling: Sibling
) -> None:
    async with watching(world.relay.url, kinds=[38381]) as seen, Agent(world.alice, world.relay.url) as other:
        event = {**OFFER, "created_at": int(time.time()), "pubkey": other.key}
        first = await sibling.call("hive-comms-publish-event", event_json=event)
        again = await sibling.call("hive-comms-publish-event", event_json=event)
        assert {**again, "state": ""} == {**first, "state": ""} and again["state"] in ("queued", "sent")
        await until(lambda: some(seen), "the event on the relay")
        # The author is the node, whatever the event said; parse_event has checked id and signature.
        assert first["pubkey"] == other.node_key == seen[0].pubkey and first["id"] == seen[0].id
        assert len(seen) == 1

        for kind in (0, 3, 4, 5, 13, 1059, 10002, 10050, 22242, 27235, 1, 30000):
            error = await sibling.refused(
                "hive-comms-publish-event", event_json={"kind": kind, "content": ""}
            )
            assert error.code == 4003, kind
        for bad in (
            {"content": ""},
            {**OFFER, "sig": "00" * 64},
            {**OFFER, "tags": [["d", "x"]]},
            {**OFFER, "tags": [["expiration", "4000000000"]]},
            {**OFFER, "content": "x" * 60_001},
            {**OFFER, "created_at": int(time.time()) + 3_600},
            "text",
        ):
            assert (await sibling.refused("hive-comms-publish-event", event_json=bad)).code == -32602, bad

        await world.alice.call("setconfig", {"config": "hive-comms-marketplace-publish", "val": False})
        error = await sibling.refused("hive-comms-publish-event", event_json={**OFFER, "content": "2"})
        assert error.code == 4011
        await world.alice.call("setconfig", {"config": "hive-comms-marketplace-publish", "val": True})
        await world.alice.call("hive-client-emergency-stop", {"action": "engage", "reason": "test"})
        error = await sibling.refused("hive-comms-publish-event", event_json={**OFFER, "content": "3"})
        assert error.code == 4012


async def test_a_subscription_delivers_verified_events_until_it_ends(world: World, sibling: Sibling) -> None:
    author = Secret(os.urandom(32))
    wanted = {"kinds": [38383], "authors": [xonly_pubkey(author)]}
    answer = await sibling.call("hive-comms-subscribe", filters=[wanted], method="hive-probe-event")

    def event(content: str, secret: Secret = author) -> Event:
        return build(secret, 38383, [["d", content]], content, int(time.time()))

    one, foreign = event("one"), event("foreign", Secret(os.urandom(32)))
    await published(world.relay.url, foreign)
    await published(world.relay.url, one)
    (got,) = await sibling.gets("hive-probe-event")
    assert got["sub_id"] == answer["sub_id"] and got["event"] == one.to_json()
    assert (await sibling.refused("hive-comms-unsubscribe", sub_id="00")).code == 4001
    await sibling.call("hive-comms-unsubscribe", sub_id=answer["sub_id"])
    second = await sibling.call("hive-comms-subscribe", filters=[wanted], method="hive-probe-event")
    await published(world.relay.url, event("two"))
    later = await sibling.gets("hive-probe-event", 3)
    # The stored event again, for the new subscription, and the new one; nothing for the ended one.
    assert {each["sub_id"] for each in later[1:]} == {second["sub_id"]}
    assert {each["event"]["content"] for each in later[1:]} == {"one", "two"}
    for bad in ({"filters": "x"}, {"filters": [{}]}, {"filters": [{"kinds": "x"}]}, {"method": "getinfo"}):
        params = {"filters": [wanted], "method": "hive-probe-event", **bad}
        assert (await sibling.refused("hive-comms-subscribe", **params)).code == -32602, bad
    error = await sibling.refused("hive-comms-subscribe", filters=[wanted], method="hive-no-such")
    assert error.code == 4001
    await sibling.stop()
    rows = await world.alice.call("hive-comms-transports")
    assert rows["subscriptions"] == 0


async def test_acceptance_08_05_a_handler_gets_the_verified_key_whatever_the_message_says(
    world: World, agent: Agent, sibling: Sibling
) -> None:
    params = {"pattern": "hive:gossip/*", "method": "hive-probe-inbound"}
    first = await sibling.call("hive-comms-register-handler", **params)
    assert await sibling.call("hive-comms-register-handler", **params) == first
    text = message(agent, {"n": 1, "sender": "02" * 33, "pubkey": "someone"})
    await agent.dm(text)
    (got,) = await sibling.gets("hive-probe-inbound")
    assert got["schema"] == "hive:gossip/hello" and got["source"] == "nostr_dm"
    assert got["pubkey"] == agent.key
    assert got["payload"] == {"n": 1, "sender": agent.key, "pubkey": agent.key}
    # The same message in another wrap is the same message; one signed by another key is none.
    await agent.dm(text)
    async with Agent(world.alice, world.relay.url) as other:
        forged = json.loads(message(other, {"n": 2}))
        await agent.dm(forged)
    await agent.dm(message(agent, {"n": 3}))
    got_all = await sibling.gets("hive-probe-inbound", 2)
    assert [each["payload"]["n"] for each in got_all] == [1, 3]
    for pattern, code in (("hive:fee-policy/*", 4003), ("hive:archon/*", 4003), ("gossip", -32602)):
        error = await sibling.refused("hive-comms-register-handler", **{**params, "pattern": pattern})
        assert error.code == code, pattern
    rows = (await world.alice.call("hive-comms-transports"))["handlers"]
    assert rows == [{"pattern": "hive:gossip/*", "plugin": "cl-hive", "state": "up"}]
    await sibling.stop()
    rows = (await world.alice.call("hive-comms-transports"))["handlers"]
    assert [row["state"] for row in rows] == ["away"]
    await agent.dm(message(agent, {"n": 4}))
    await agent.dm(message(agent, {"n": 5}, "hive:gossip/later"))

    async def held() -> bool:
        return (await world.alice.call("hive-comms-transports"))["held"]["cl-hive"] == 2

    await until(held, "the messages to be held")
    assert len(sibling.got("hive-probe-inbound")) == 2


async def air(sibling: Sibling, **changes: Any) -> dict[str, Any]:
    params = {"name": "test-air", "send_method": "hive-probe-send", **changes}
    return await sibling.call("hive-comms-register-transport", **params)


def answers_of(agent: Agent) -> list[dict[str, Any]]:
    """What came over the relay, each once: a relay that was slow to say yes gets a message a second time."""
    found = [each for each in agent.inbox if "request_nonce" in each]
    return [each for number, each in enumerate(found) if each not in found[:number]]


async def test_acceptance_02_02_a_command_over_a_registered_transport_is_answered_over_it(
    world: World, agent: Agent, sibling: Sibling
) -> None:
    await air(sibling)
    params = {"transport": "test-air", "message_id": "m-1", "sender_npub": agent.npub}
    document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 520})
    assert await sibling.call("hive-comms-ingest", **params, payload=document) == {"result": "queued"}
    (got,) = await sibling.gets("hive-probe-send")
    answer = json.loads(got["payload"])
    assert answer["status"] == 0 and answer["request_nonce"] == document["nonce"]
    assert got["recipient_npub"] == agent.npub
    assert (await world.channel_fees())[1] == 520
    # Once more, and once more over the relay: the same command, one effect.
    assert await sibling.call("hive-comms-ingest", **params, payload=document) == {"result": "queued"}
    again = {**params, "message_id": "m-2"}
    await sibling.call("hive-comms-ingest", **again, payload=document)
    await sibling.gets("hive-probe-send", 2)
    await agent.dm(document)

    async def by_relay() -> bool:
        return any(each.get("request_nonce") == document["nonce"] for each in agent.inbox)

    await until(by_relay, "the answer over the relay")
    assert answers_of(agent) == [answer]
    assert len(await receipts(world, "set_single")) == 1
    # Signed by another key than it names: nothing is changed and nothing answered with success.
    async with Agent(world.alice, world.relay.url) as other:
        forged = agent.command("set_single", {"channel_id": world.scid, "fee_ppm": 530})
        bad = envelope.sign_command(other.secret, forged)
        await sibling.call("hive-comms-ingest", **{**params, "message_id": "m-3"}, payload=bad)
        last = agent.signed("get_info", {}, "hive:monitor/v1")
        await sibling.call("hive-comms-ingest", **{**params, "message_id": "m-4"}, payload=last)

        async def answered() -> bool:
            return any(
                json.loads(each["payload"]).get("request_nonce") == last["nonce"]
                for each in sibling.got("hive-probe-send")
            )

        await until(answered, "the last answer")
    assert (await world.channel_fees())[1] == 520
    assert answers_of(agent) == [answer]
    for bad_params, code in (
        ({"transport": "nostr_dm"}, -32602),
        ({"transport": "no-such"}, 4017),
        ({"message_id": ""}, -32602),
        ({"sender_npub": ""}, -32602),
        ({"sender_npub": "npub1x"}, -32602),
        ({"payload": 5}, -32602),
        ({"payload": "x" * 65_536}, -32602),
    ):
        given = {**params, "message_id": "m-9", "payload": document, **bad_params}
        error = await sibling.refused("hive-comms-ingest", **given)
        assert error.code == code, (bad_params, error.code, error.message)
    for name in ("nostr_dm", "rest", "local"):
        with pytest.raises(DevnetRpcError):
            await air(sibling, name=name)

    async def all_sent() -> bool:
        rows = {row["name"]: row for row in (await world.alice.call("hive-comms-transports"))["items"]}
        assert rows["test-air"]["state"] == "up"
        return bool(rows["test-air"]["queue"] == 0)

    # What the sibling has noted is counted as sent a moment later.
    await until(all_sent, "an empty queue")
    # This way needs no relay.
    await world.relay.kill()
    sent = len(sibling.got("hive-probe-send"))
    read = agent.signed("health_summary", {}, "hive:monitor/v1")
    await sibling.call("hive-comms-ingest", **{**params, "message_id": "m-10"}, payload=read)
    await sibling.gets("hive-probe-send", sent + 1)
    await air(sibling, enabled=False)
    error = await sibling.refused("hive-comms-ingest", **{**params, "message_id": "m-11"}, payload=document)
    assert error.code == 4017


@pytest.mark.parametrize("point", ["after_ingested", "after_executing", "after_cln", "after_outcome"])
async def test_a_message_handed_in_before_a_kill_is_run_once(
    world: World, agent: Agent, sibling: Sibling, point: str
) -> None:
    await air(sibling)
    before = len(world.witnessed("setchannel"))
    document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 520})
    params = {"transport": "test-air", "message_id": "m-1", "sender_npub": agent.npub, "payload": document}
    reached = world.arm_fault(point)
    calling = asyncio.create_task(sibling.call("hive-comms-ingest", **params))
    await until(lambda: exists(reached), f"the plugin to reach {point}")
    await plugin_again(world)
    with contextlib.suppress(DevnetRpcError, ConnectionError):
        await calling
    if world.network.kind != "embedded":
        await sibling.start()
    (got, *_) = await sibling.gets("hive-probe-send")
    answer = json.loads(got["payload"])
    assert answer["request_nonce"] == document["nonce"] and got["recipient_npub"] == agent.npub
    expected = 500 if point == "after_executing" else 520
    assert (await world.channel_fees())[1] == expected, answer
    # Its sender, who did not get an answer, hands it in once more.
    await air(sibling)
    await sibling.call("hive-comms-ingest", **params)
    # The first answer may be that it is under way still; its end is the receipt.
    (receipt,) = await until(lambda: receipts(world, "set_single"), "the receipt")
    assert receipt["status"] == ("success" if expected == 520 else "error")
    assert len(world.witnessed("setchannel")) - before == (expected == 520)
    assert (await world.alice.call("hive-client-receipts-verify"))["ok"]


async def test_acceptance_08_05_a_caller_without_auth_is_refused_everywhere(
    world: World, sibling: Sibling
) -> None:
    calls: dict[str, dict[str, Any]] = {
        "hive-comms-publish-event": {"event_json": OFFER},
        "hive-comms-subscribe": {"filters": [{"kinds": [1]}], "method": "hive-probe-event"},
        "hive-comms-unsubscribe": {"sub_id": "00"},
        "hive-comms-register-handler": {"pattern": "hive:gossip/*", "method": "hive-probe-inbound"},
        "hive-comms-register-transport": {"name": "test-air", "send_method": "hive-probe-send"},
        "hive-comms-ingest": {
            "transport": "test-air",
            "message_id": "m",
            "sender_npub": npub_encode("11" * 32),
            "payload": {},
        },
    }
    for method, params in calls.items():
        with pytest.raises(DevnetRpcError) as error:
            await world.alice.call(method, params)
        assert error.value.code == 4003, method
    rows = await world.alice.call("hive-comms-transports")
    assert rows["handlers"] == [] and rows["subscriptions"] == 0 and "test-air" not in str(rows["items"])
