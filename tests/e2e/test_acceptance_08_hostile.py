"""Sheet 08 §13, checks 20 and 23: floods and monsters at every door, nothing secret behind any of them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import websockets
from agent import Agent
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World, until
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import HiveError
from hive_shared.nostr import giftwrap
from hive_shared.nostr.event import build
from hive_shared.nostr.keys import nsec_encode
from outside import COMMS, StoreWatch, resident_mb

STRANGERS = 10_000
MONITOR = "hive:monitor/v1"
DEEP = '{"a":' * 50_000 + "1" + "}" * 50_000
MONSTERS = {
    "2 MB of text": '"' + "x" * 2_000_000 + '"',
    "2 MB of blanks": " " * 2_000_000 + "{}",
    "2 MB of numbers": "[" + "1," * 1_000_000 + "1]",
    "2 MB envelope": '{"v":1,"schema_type":"' + "A" * 2_000_000 + '"}',
    "one number of 100,000 digits": "1" * 100_000,
    "50,000 objects deep": DEEP,
    "50,000 lists deep": "[" * 50_000 + "]" * 50_000,
    "never closed": "[" * 100_000,
    "NaN": '{"v":NaN}',
    "Infinity": '{"v":1,"nonce":-Infinity}',
    "huge exponent": '{"v":1e999999}',
    "surrogate": '{"v":1,"schema_type":"\\ud800"}',
    "surrogate key": '{"\\udfff":1}',
    "raw zero": '{"v":"\x00"}',
    "10,000 equal keys": "{" + ",".join('"k":1' for _ in range(10_000)) + "}",
    "byte order mark": "\ufeff{}",
    "quoted twice": json.dumps(json.dumps({"v": 1})),
}


async def messages_seen(world: World) -> int:
    """How many messages the node has dealt with, whatever it did with them."""
    rows = (await world.alice.call("hive-comms-transports"))["items"]
    received = next(row["received"] for row in rows if row["name"] == "nostr_dm")
    return sum(int(number) for number in received.values())


def changed_tables(watch: StoreWatch, before: dict[str, str]) -> str:
    """Which tables differ from before; for the message of a failed test."""
    return "; ".join(
        f"{name}: {was} -> {now}" for name, now in watch.tables().items() if (was := before[name]) != now
    )


async def test_acceptance_08_20_monsters_by_rpc(world: World, agent: Agent) -> None:
    """A stranger is refused unread, the hired agent gets a precise refusal. None is stored."""
    pid = await world.alice.plugin_pid(COMMS)
    watch = StoreWatch.of(world.alice)
    version, tables, memory = await watch.quiet(), watch.tables(), resident_mb(pid)
    stranger = xonly_pubkey(Secret(os.urandom(32)))
    for name, text in MONSTERS.items():
        began = time.monotonic()
        with pytest.raises(DevnetRpcError) as refused:
            await world.alice.call("hive-comms-rpc", {"request": text, "sender": stranger})
        assert refused.value.code in (-32602, 4003), (name, refused.value)
        assert len(refused.value.message) < 1_000, name
        answer = await agent.rest(text)
        assert (answer["status"], answer["error"]["code"]) == (1, -32602), (name, answer)
        assert answer["error"]["slug"] in ("malformed", "too_large"), (name, answer)
        assert time.monotonic() - began < 30, name
    assert watch.unwritten(version, tables), changed_tables(watch, tables)
    assert resident_mb(pid) - memory <= 50
    assert (await agent.rest(agent.signed("health_summary", {}, MONITOR)))["status"] == 0
    watch.close()


async def test_acceptance_08_20_monsters_by_dm(world: World, agent: Agent) -> None:
    """Wraps that fit a relay, with what parsers choke on inside, and garbage in the place of each layer."""
    pid = await world.alice.plugin_pid(COMMS)
    watch = StoreWatch.of(world.alice)
    version, tables, memory = await watch.quiet(), watch.tables(), resident_mb(pid)
    now = int(time.time())
    small = [text for text in MONSTERS.values() if giftwrap.rumor_size(text) < 20_000]
    small += ["[" * 9_000, '{"a":' * 3_000, "x" * 27_000, '{"schema_type":' + "1" * 5_000 + "}"]
    events = []
    for text in small:
        for _ in range(10):
            secret = Secret(os.urandom(32))
            event, _ = giftwrap.wrap(
                secret, agent.node_key, text, tags=[], now=now, rng=os.urandom, expiration=now + 600
            )
            events.append(event)
    for content in ("", "not base64", "A" * 60_000, "Ag" + "A" * 200, "=" * 1_000, "😀" * 100):
        events.append(build(Secret(os.urandom(32)), 1059, [["p", agent.node_key]], content, now))
    events.append(
        build(Secret(os.urandom(32)), 1059, [["p", agent.node_key]] + [["p", "ab" * 32]] * 499, "", now)
    )
    before = await messages_seen(world)
    async with websockets.connect(
        world.relay.url, max_queue=None, open_timeout=60, ping_interval=None
    ) as socket:
        for event in events:
            await socket.send(json.dumps(["EVENT", event.to_json()]))
        accepted = 0
        for _ in events:
            accepted += json.loads(await socket.recv())[2] is True
    # What the relay itself refuses does not reach the node.
    assert accepted >= len(events) - 2

    async def digested() -> bool:
        return await messages_seen(world) - before >= accepted

    await until(digested, "every event to be dealt with")
    assert watch.unwritten(version, tables), changed_tables(watch, tables)
    assert resident_mb(pid) - memory <= 50
    document = agent.signed("health_summary", {}, MONITOR)
    await agent.dm(document)
    assert (await agent.answer(document["nonce"]))["status"] == 0
    watch.close()


async def test_acceptance_08_20_ten_thousand_unknown_senders(world: World, agent: Agent) -> None:
    """Each with a key of its own, as envelopes by RPC: no commit, bounded memory, the hired agent served."""
    pid = await world.alice.plugin_pid(COMMS)
    watch = StoreWatch.of(world.alice)
    document = agent.signed("health_summary", {}, MONITOR)
    version, tables, memory = await watch.quiet(), watch.tables(), resident_mb(pid)

    async def knock(first: int) -> None:
        for number in range(first, STRANGERS, 16):
            sender = (number + 1).to_bytes(32, "big").hex()
            with pytest.raises(DevnetRpcError) as refused:
                await world.alice.call(
                    "hive-comms-rpc",
                    {"request": json.dumps({**document, "sender": sender}), "sender": sender},
                )
            assert refused.value.code in (4003, 4007), refused.value

    await asyncio.gather(*(knock(first) for first in range(16)))
    assert watch.unwritten(version, tables), changed_tables(watch, tables)
    assert resident_mb(pid) - memory <= 50
    assert (await agent.rest(agent.signed("health_summary", {}, MONITOR)))["status"] == 0
    watch.close()


AWKWARD: list[Any] = [
    *(None, True, -1, 0, 2**63, 2**64, 10**300, 0.5, "", "x", "\x00", "\u202e", "all", "1", "-1", "true"),
    *("npub1", "x" * 70_000, "../../etc/passwd", "; DROP TABLE x", "\ud7ff"),
    *([], {}, [[]], {"a": {"b": [1, None]}}, ["x"] * 1_000),
]


def known_codes() -> set[int]:
    """Every error number a method may answer with (08 §4)."""

    def below(kind: type[HiveError]) -> set[int]:
        own = {kind.code} if "code" in vars(kind) else set()
        return own.union(*(below(child) for child in kind.__subclasses__()))

    return below(HiveError)


async def test_acceptance_08_20_every_method_refuses_garbage_with_a_sentence(world: World) -> None:
    """Random arguments for every hive method: a result or one of the known refusals, never a crash."""
    chance = random.Random(8_20)
    pid = await world.alice.plugin_pid(COMMS)
    before = await world.channel_fees()
    usages = [row["command"] for row in (await world.alice.call("help"))["help"] if "hive-" in row["command"]]
    codes = known_codes() - {4020}
    wrong: list[str] = []
    for usage in usages:
        method, *names = usage.replace("[", "").replace("]", "").split()
        for _ in range(25):
            params: Any = {
                name: chance.choice(AWKWARD)
                for name in (*names, "unknown")
                if chance.random() < (0.1 if name == "unknown" else 0.6)
            }
            if chance.random() < 0.1:
                params = [chance.choice(AWKWARD) for _ in range(chance.randrange(8))]
            try:
                await world.alice.call(method, params)
            except DevnetRpcError as error:
                if error.code not in codes or "Traceback" in error.message or len(error.message) > 2_000:
                    wrong.append(f"{method} {str(params)[:300]}: {error.code} {error.message[:300]}")
    assert not wrong, "\n".join(wrong)
    assert await world.alice.plugin_pid(COMMS) == pid
    assert await world.channel_fees() == before
    assert "Traceback" not in world.alice.log_text()


# -- check 23 ---------------------------------------------------------------------------------------------


async def test_acceptance_08_23_key_files_and_bad_keys_never_show(tmp_path: Path) -> None:
    """A key by file, then a wrong key and a foreign key by option: refused or warned about, never shown."""
    secret, foreign = Secret(os.urandom(32)), Secret(os.urandom(32))
    path = tmp_path / "key"
    path.write_text(nsec_encode(secret) + "\n")
    path.chmod(0o600)
    world = await World.start(tmp_path / "world", options={"hive-comms-nsec-file": str(path)})
    try:
        whole = nsec_encode(foreign)
        broken = whole[:-1] + ("p" if whole.endswith("q") else "q")
        bob = await world.network.add_node("carol", {"hive-comms-nsec": broken}, [_plugin()])
        shown = {"alice": world.alice.log_text(), "carol": bob.log_text()}
        for name, node in (("alice", world.alice), ("carol", bob)):
            shown[f"{name} listconfigs"] = json.dumps(await node.call("listconfigs"))
            shown[f"{name} plugins"] = json.dumps(await node.call("plugin", {"subcommand": "list"}))
        for method in ("hive-client-status", "hive-client-identity", "hive-client-selfcheck"):
            shown[method] = json.dumps(await world.alice.call(method))
        values = {
            "key": secret.reveal().hex(),
            "nsec": nsec_encode(secret),
            "foreign": foreign.reveal().hex(),
            "broken nsec": broken,
        }
        leaks = [
            f"{name} in {place}"
            for place, text in shown.items()
            for name, value in values.items()
            if value in text
        ]
        assert not leaks
        pids = await world.alice.plugin_pid(COMMS)
        assert nsec_encode(secret) not in Path(f"/proc/{pids}/cmdline").read_text()
        assert nsec_encode(secret) not in Path(f"/proc/{pids}/environ").read_text()
    finally:
        await world.close()


def _plugin() -> Path:
    from hive_devnet.world import PLUGINS

    return PLUGINS["cl-hive-comms"]
