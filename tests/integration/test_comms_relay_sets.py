"""Relay sets, privacy and older messages on a running plugin with real relays (Protocol 04 §6, §7)."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from comms_world import Agent, call, refused, until, world
from hive_devnet.node import NodeHandle
from hive_devnet.relay import RelayProcess
from hive_shared import envelope
from hive_shared.crypto import Secret
from hive_shared.nostr import nip44
from hive_shared.nostr.event import Event, build
from hive_shared.nostr.keys import parse_pubkey
from hive_shared.nostr.relay import RelayPool
from json_lines import lines_of
from socks_proxy import SocksServer

SIBLING = Path(__file__).parents[1] / "sibling_plugin.py"
DEAD = "ws://127.0.0.1:9"


@asynccontextmanager
async def relays(count: int) -> AsyncIterator[list[RelayProcess]]:
    """Further relays, each a process of its own."""
    async with AsyncExitStack() as stack:
        made = [await RelayProcess.start() for _ in range(count)]
        for one in made:
            stack.push_async_callback(one.stop)
        yield made


async def stored(relay: str, **wanted: Any) -> list[Event]:
    """What a relay holds."""

    async def nothing(*_: object) -> None:
        return None

    pool = RelayPool(on_event=nothing, private_relays=True)
    await pool.start()
    try:
        return list((await pool.query([wanted], [relay])).events)
    finally:
        await pool.stop()


async def has(relay: str, **wanted: Any) -> bool:
    return bool(await stored(relay, **wanted))


async def nostr_row(node: NodeHandle) -> dict[str, Any]:
    (row,) = [
        row for row in (await call(node, "hive-comms-transports"))["items"] if row["name"] == "nostr_dm"
    ]
    return dict(row)


async def relay_check(node: NodeHandle) -> dict[str, Any]:
    """What self-check says of the relays."""
    report = await call(node, "hive-client-selfcheck")
    (row,) = [row for row in report["checks"] if row["id"] == "relays"]
    return dict(row)


async def set_option(node: NodeHandle, name: str, value: str) -> None:
    await call(node, "setconfig", config=f"hive-comms-{name}", val=value)


class Sibling:
    """The test plugin on the node."""

    def __init__(self, node: NodeHandle, record: Path) -> None:
        self.node, self.record = node, record

    @classmethod
    async def started(cls, node: NodeHandle, directory: Path) -> Sibling:
        record = directory / "sibling.jsonl"
        record.touch()
        await node.call("plugin", {"subcommand": "start", "plugin": str(SIBLING)})

        async def known() -> bool:
            rows = (await call(node, "hive-client-status"))["siblings"]["plugins"]
            return any(row["plugin"] == "cl-hive" and row["present"] for row in rows)

        await until(known, "comms to know the sibling")
        return cls(node, record)

    async def call(self, method: str, /, **params: Any) -> dict[str, Any]:
        answer = await self.node.call("hive-probe-call", {"method": method, "params": params})
        assert "result" in answer, answer
        return dict(answer["result"])

    async def refused(self, method: str, /, **params: Any) -> dict[str, Any]:
        answer = await self.node.call("hive-probe-call", {"method": method, "params": params})
        assert "error" in answer, answer
        return dict(answer["error"])

    async def publish(self, kind: int, name: str = "x") -> dict[str, Any]:
        event = {"kind": kind, "content": "{}", "tags": [["d", name], ["expiration", "4000000000"]]}
        return await self.call("hive-comms-publish-event", event_json=event)

    def events(self) -> list[str]:
        lines = lines_of(self.record)
        return [line["event"]["content"] for line in lines if line["method"] == "hive-probe-event"]

    async def gets(self, content: str) -> None:
        async def came() -> bool:
            return content in self.events()

        await until(came, f"the event {content}")


class LegacyAgent(Agent):
    """Writes and reads kind 4."""

    def __init__(self, relay: str) -> None:
        super().__init__(relay)
        self.legacy: list[dict[str, Any]] = []

    async def __aenter__(self) -> LegacyAgent:
        await super().__aenter__()
        self._pool.subscribe("old", [{"kinds": [4], "#p": [self.pubkey]}], lambda url: None)
        return self

    async def _on_event(self, url: str, name: str, event: Event) -> None:
        if event.kind != 4:
            await super()._on_event(url, name, event)
            return
        assert event.pubkey == self.node_key
        text = nip44.decrypt(nip44.conversation_key(self.secret, event.pubkey), event.content)
        self.legacy.append(json.loads(text))
        self._came.set()

    async def write(self, content: str) -> None:
        event = build(self.secret, 4, [["p", self.node_key]], content, int(time.time()))
        await self.publish(event)

    def sealed(self, text: str) -> str:
        return nip44.encrypt(nip44.conversation_key(self.secret, self.node_key), text)

    async def answer(self, nonce: int, *, among: list[dict[str, Any]]) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while True:
                for message in among:
                    if message.get("request_nonce") == nonce:
                        return message
                self._came.clear()
                await self._came.wait()


async def dropped(node: NodeHandle, name: str) -> int:
    return int((await nostr_row(node))["received"].get(name, 0))


async def test_kind_4_is_read_and_answered_alike_only_where_the_operator_allows_it(tmp_path: Path) -> None:
    (tmp_path / "on").mkdir()
    async with (
        world(tmp_path / "on", **{"hive-comms-nostr-legacy-dm": True}) as (_, node, relay),
        LegacyAgent(relay.url) as agent,
    ):
        await agent.hired(node)
        for content in ("b64:e30=", "nip44:e30=", "AA?iv=BB", "hello"):
            await agent.write(content)
        await until(lambda: dropped(node, "invalid_encryption"), "the forms that are no NIP-44")
        # A plain command is not read, and not run: its nonce stays free for the encrypted one.
        text = agent.command("hive:monitor/v1", "health_summary")
        await agent.write(text)
        await until(lambda: dropped(node, "invalid_plaintext"), "the plain command")
        await agent.write(agent.sealed(text))
        answer = await agent.answer(agent.nonce, among=agent.legacy)
        assert answer["status"] == 0 and envelope.verify_response(answer, agent.node_key)
        assert not any("request_nonce" in message for message in agent.received)
        assert (await dropped(node, "invalid_encryption")) == 4

        # What is told unasked goes the same way; who writes gift wraps again is answered by gift wrap.
        before = len(agent.legacy)
        await call(node, "hive-client-authorize", advisor=agent.npub, access="fees")
        await until(lambda: _more(agent.legacy, before), "the new offer by kind 4")
        agent.credential_id = agent.legacy[-1]["schema_payload"]["params"]["credential"]["credential_id"]
        answer = await agent.run("hive:monitor/v1", "health_summary")
        assert answer["status"] == 0

    (tmp_path / "off").mkdir()
    async with world(tmp_path / "off") as (_, node, relay), LegacyAgent(relay.url) as agent:
        await agent.hired(node)
        await agent.write(agent.sealed(agent.command("hive:monitor/v1", "health_summary")))
        answer = await agent.run("hive:monitor/v1", "health_summary")
        assert answer["status"] == 0 and agent.legacy == []
        received = (await nostr_row(node))["received"]
        assert not any(name.startswith("invalid") for name in received), "kind 4 is not even asked for"


async def _more(found: list[Any], count: int) -> bool:
    return len(found) > count


async def test_plain_messages_are_read_on_regtest_only_and_answered_encrypted(tmp_path: Path) -> None:
    async with (
        world(tmp_path, **{"hive-comms-nostr-allow-plaintext": True}) as (_, node, relay),
        LegacyAgent(relay.url) as agent,
    ):
        await agent.hired(node)
        text = agent.command("hive:monitor/v1", "health_summary")
        await agent.write("b64:" + text)
        await until(lambda: dropped(node, "invalid_encryption"), "the pretended encryption")
        await agent.write(text)
        answer = await agent.answer(agent.nonce, among=agent.received)
        assert answer["status"] == 0 and agent.legacy == []
        # Encrypted kind 4 is another option.
        await agent.write(agent.sealed(agent.command("hive:monitor/v1", "health_summary")))
        await until(lambda: dropped(node, "invalid_legacy"), "the encrypted one")


async def test_adverts_go_to_search_relays_too_whose_failure_is_no_error(tmp_path: Path) -> None:
    os.environ["HIVE_SIBLING_FILE"] = str(tmp_path / "sibling.jsonl")
    async with relays(3) as (search, private, profile), world(tmp_path) as (_, node, relay):
        sibling = await Sibling.started(node, tmp_path)
        first = await sibling.publish(38381, "alone")
        assert first["warning"] == "low_redundancy"
        assert "warning" not in await sibling.publish(38383, "confirmation")
        await set_option(node, "nostr-search-relays", f"{search.url},{private.url}")
        await set_option(node, "nostr-profile-relays", profile.url)
        await set_option(node, "nostr-private-relays", private.url)
        # The private relay is in the search list as well, and still gets nothing public.
        offer = await sibling.publish(38381, "two")
        card = await sibling.publish(38380, "me")
        assert offer["warning"] == "low_redundancy" and "warning" not in card
        for where in (relay, search):
            await until(lambda url=where.url: has(url, ids=[offer["id"]]), "the offer")
        for where in (relay, search, profile):
            await until(lambda url=where.url: has(url, ids=[card["id"]]), "the profile")
        assert not await has(profile.url, ids=[offer["id"]])
        # What the operator added with publish-kinds is no advert.
        error = await sibling.refused(
            "hive-comms-publish-event", event_json={"kind": 30078, "content": "", "tags": [["d", "x"]]}
        )
        assert error["code"] == 4003 and "hive-comms-publish-kinds" in error["message"]
        await set_option(node, "publish-kinds", "30078,1")
        own = await sibling.publish(30078)
        assert "warning" not in own
        note = await sibling.call("hive-comms-publish-event", event_json={"kind": 1, "content": "hello"})
        for event in (own, note):
            await until(lambda wanted=event["id"]: has(relay.url, ids=[wanted]), "the added kind")
            assert not await has(search.url, ids=[event["id"]])
        # A kind that speaks for the key is never among them.
        error = await refused(node, "setconfig", config="hive-comms-publish-kinds", val="99999")
        assert "99999" in error.message
        await set_option(node, "publish-kinds", "3,10002")
        error = await sibling.refused("hive-comms-publish-event", event_json={"kind": 3, "content": ""})
        assert error["code"] == 4003 and "never" in error["message"]

        # A dead search relay: the event counts as sent, status says what happened there.
        await set_option(node, "nostr-search-relays", DEAD)
        later = await sibling.publish(38381, "three")

        async def is_sent() -> bool:
            row = await nostr_row(node)
            told = [one for one in row["search"] if one["url"] == DEAD and one["last_error"]]
            return bool(told) and row["queue"] == 0

        await until(is_sent, "the event without the search relay")
        assert await has(relay.url, ids=[later["id"]])
        assert await stored(private.url, kinds=[38380, 38381, 10002, 10050, 30078, 1]) == []
        lists = await stored(relay.url, kinds=[10002, 10050])
        assert lists and not any(private.url in str(event.tags) for event in lists)
        assert "low_redundancy" in (await relay_check(node))["detail"]


async def test_adverts_are_read_from_search_relays_and_isolated_ones_without_our_key(tmp_path: Path) -> None:
    os.environ["HIVE_SIBLING_FILE"] = str(tmp_path / "sibling.jsonl")
    author = Secret(os.urandom(32))

    def advert(content: str, kind: int = 38381) -> Event:
        return build(author, kind, [["d", content], ["t", "hive-advisor-offer"]], content, int(time.time()))

    # The node's own search would read adverts from the start.
    unread = world(tmp_path, **{"hive-comms-marketplace-subscribe": "false"})
    async with relays(1) as (search,), unread as (_, node, relay), Agent(relay.url) as agent:
        sibling = await Sibling.started(node, tmp_path)
        await set_option(node, "nostr-search-relays", search.url)
        assert not any(row["url"] == search.url for row in (await nostr_row(node))["relays"])
        wanted = [{"kinds": [38381], "#t": ["hive-advisor-offer"]}, {"kinds": [30078]}]
        await sibling.call("hive-comms-subscribe", filters=wanted, method="hive-probe-event")
        await agent.publish(advert("on-search"), [search.url])
        await sibling.gets("on-search")
        # Kinds that are no adverts are not asked of a search relay.
        await agent.publish(advert("other-on-search", 30078), [search.url])
        await agent.publish(advert("other", 30078), [relay.url])
        await sibling.gets("other")
        assert "other-on-search" not in sibling.events()

        for turn, mode in enumerate(("isolated", "standard", "isolated")):
            await set_option(node, "nostr-privacy", mode)
            await agent.publish(advert(f"{mode}-{turn}"), [search.url])
            await sibling.gets(f"{mode}-{turn}")
            status = await call(node, "hive-client-status")
            assert status["identity"]["privacy"] == mode
            rows = (await nostr_row(node))["relays"]
            apart = {row["url"] for row in rows if row.get("isolated")}
            assert apart == ({search.url, relay.url} if mode == "isolated" else set())
            assert search.url not in {row["url"] for row in rows if not row.get("isolated")} or not apart
        # Messages go on over the other sockets.
        await agent.hired(node)
        assert (await agent.run("hive:monitor/v1", "health_summary"))["status"] == 0

        # Without a proxy of the node strict means offline, and says so; REST serves on.
        await set_option(node, "nostr-privacy", "strict")
        row = await nostr_row(node)
        assert row["state"] == "off" and row["relays"] == []
        warnings = (await call(node, "hive-client-status"))["warnings"]
        assert any("proxy" in text and "isolated" in text for text in warnings)
        check = await relay_check(node)
        assert check["status"] == "fail" and "proxy" in check["detail"]
        text = agent.command("hive:monitor/v1", "health_summary")
        assert (await call(node, "hive-comms-rpc", request=text, sender=agent.npub))["status"] == 0
        await sibling.publish(38381, "waits")
        assert (await nostr_row(node))["queue"] >= 1
        await set_option(node, "nostr-privacy", "standard")
        assert (await agent.run("hive:monitor/v1", "health_summary"))["status"] == 0
        error = await refused(node, "setconfig", config="hive-comms-nostr-privacy", val="secret")
        assert "standard, isolated, strict" in error.message


async def test_a_private_relay_carries_the_messages_of_the_fleet_alone(tmp_path: Path) -> None:
    os.environ["HIVE_SIBLING_FILE"] = str(tmp_path / "sibling.jsonl")
    async with (
        relays(1) as (private,),
        world(tmp_path, **{"hive-comms-nostr-private-relays": private.url}) as (_, node, relay),
        Agent(private.url) as agent,
        Agent(relay.url) as stranger,
    ):
        # The advisor listens on the private relay alone: the offer comes there, and names it.
        await agent.hired(node)
        offer = agent.received[0]["schema_payload"]["params"]
        assert private.url in offer["relays"]
        assert (await agent.run("hive:monitor/v1", "health_summary"))["status"] == 0
        assert (await nostr_row(node))["state"] == "up"

        # A stranger who names the private relay as his inbox gets his message elsewhere.
        sibling = await Sibling.started(node, tmp_path)
        inbox = build(stranger.secret, 10050, [["relay", private.url]], "", int(time.time()))
        await stranger.publish(inbox, [relay.url])
        await sibling.call(
            "hive-comms-send-dm", recipient=stranger.pubkey, message="hi", schema="hive:gossip/hello/v1"
        )
        await stranger.wait_for(lambda message: message.get("schema") == "hive:gossip/hello/v1")
        assert not await has(private.url, kinds=[1059], **{"#p": [stranger.pubkey]})

        # Primary and private relays together are eight at most.
        many = ",".join(f"ws://127.0.0.1:{port}" for port in range(1, 9))
        error = await refused(node, "setconfig", config="hive-comms-nostr-relays", val=many)
        assert "9 relays together; 8 are used" in error.message
        assert parse_pubkey((await call(node, "hive-client-identity"))["npub"]) == agent.node_key


async def test_strict_reads_adverts_through_the_proxy_and_asks_no_search_relay(tmp_path: Path) -> None:
    os.environ["HIVE_SIBLING_FILE"] = str(tmp_path / "sibling.jsonl")
    author, targets = Secret(os.urandom(32)), dict[str, int]()
    async with relays(1) as (search,), SocksServer(targets).running() as socks:
        options = {"proxy": f"127.0.0.1:{socks.port}", "hive-comms-nostr-privacy": "strict"}
        async with world(tmp_path, **options) as (_, node, relay), Agent(relay.url) as agent:
            port = int(relay.url.rsplit(":", 1)[1])
            targets["7f000001"] = port
            await set_option(node, "nostr-search-relays", search.url)
            sibling = await Sibling.started(node, tmp_path)
            await sibling.call(
                "hive-comms-subscribe", filters=[{"kinds": [38381]}], method="hive-probe-event"
            )
            event = build(author, 38381, [["d", "x"]], "by-proxy", int(time.time()))
            await agent.publish(event)
            await sibling.gets("by-proxy")
            rows = (await nostr_row(node))["relays"]
            assert {row["url"] for row in rows if row.get("isolated")} == {relay.url}
            offer = await sibling.publish(38381, "mine")
            assert offer["warning"] == "low_redundancy"
            await until(lambda: has(relay.url, ids=[offer["id"]]), "the offer")
            assert not await has(search.url, ids=[offer["id"]])
            # The socket of messages, that of adverts, and no other place.
            assert set(socks.asked) == {("7f000001", port)} and len(socks.asked) >= 2
