"""Which way an answer takes, and the next one when that fails (Protocol 02 §6.4, 08 §1.3)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cl_hive_comms.domain.outbox import MessageKind, Outgoing
from cl_hive_comms.plugin.parts import MIGRATIONS
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.messenger import OWN_WAY_S, Messenger
from cl_hive_comms.services.outbound_ways import OutboundWays
from cl_hive_comms.services.ports_transport import Delivery
from cl_hive_comms.services.sibling_registry import SiblingRegistry
from cl_hive_comms.storage.command_store import CommandStore
from cl_hive_comms.storage.identity_store import IdentityStore
from cl_hive_comms.storage.sibling_store import SiblingStore
from cl_hive_comms.storage.transport_store import OutboxStore
from hive_shared.crypto import Sealer, Secret
from hive_shared.errors import Conflict, HiveError, NotFound, SiblingUnavailable
from hive_shared.nostr.keys import npub_encode
from hive_shared.store import Db

AGENT = "bb" * 32
AWAY = SiblingUnavailable("cl-hive is not running")


class Outside:
    """Relays and siblings that do as they are told. `took` is what went out, as (way, text)."""

    def __init__(self) -> None:
        self.relays_up = True
        self.fails: dict[str, HiveError] = {}
        self.answers: dict[str, dict[str, Any]] = {}
        self.took: list[tuple[str, str]] = []
        self.calls: list[dict[str, Any]] = []

    async def send(self, secret: Secret, message: Outgoing, relays: Sequence[str]) -> Delivery:
        if not self.relays_up:
            return Delivery((), {"wss://r": "unreachable"})
        self.took.append(("relays", message.content))
        return Delivery(("wss://r",), {})

    async def relays_for(self, message: Outgoing, attempts: int) -> list[str]:
        return ["wss://r"]

    async def publish_event(self, text: str) -> Delivery:
        if not self.relays_up:
            return Delivery((), {"wss://r": "unreachable"})
        self.took.append(("event", text))
        return Delivery(("wss://r",), {})

    async def call(self, who: str, method: str, params: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        name = method.removeprefix("hive-").removesuffix("-send")
        self.calls.append(params)
        if name in self.fails:
            raise self.fails[name]
        answer = self.answers.get(name, {"state": "sent"})
        if answer.get("state") in ("sent", "queued"):
            self.took.append((name, params["payload"]))
        return answer


class Node:
    """Knows every method."""

    async def call(self, method: str, params: dict[str, Any], *, timeout: float) -> object:
        return {}


class World:
    """A messenger with all its ways, on a real file and a clock of its own."""

    def __init__(self, path: Path) -> None:
        self.now, self.out, self.db = 1_000, Outside(), Db.open(path, MIGRATIONS)
        self.stopped = False
        sealer = Sealer({1: Secret(bytes(32))}, 1)
        self.store = OutboxStore(sealer)
        self.registry = SiblingRegistry(
            self.db, SiblingStore(), Node(), now=lambda: self.now, log=self._quiet
        )
        self.ways = OutboundWays(
            self.registry,
            self.out,
            call=self.out.call,
            did_of=lambda key: None,
            used_by=self._used,
            engaged=lambda: self.stopped,
            log=self._quiet,
        )
        self.identity = IdentityService(
            self.db,
            IdentityStore(),
            sealer,
            makesecret=self._secret,
            now=lambda: self.now,
            random_bytes=lambda n: b"\x07" * n,
            log=self._quiet,
        )
        self.messenger = Messenger(
            self.db,
            self.store,
            self.identity,
            self.out,
            self.out,
            now=lambda: self.now,
            log=self._quiet,
            further=self.ways,
        )

    @staticmethod
    def _quiet(level: str, event: str, /, **fields: object) -> None:
        return None

    async def _secret(self, text: str) -> bytes:
        return b"\x05" * 32

    async def _used(self, key: str) -> list[str]:
        return await self.db.read(lambda tx: CommandStore().transports_of(tx, key))

    async def register(self, name: str, **changes: Any) -> None:
        values = {"enabled": True, "max_bytes": 65_535, "priority": 100, "metadata": {}, **changes}
        await self.registry.register_transport(name, f"hive-{name}-send", **values)

    async def came_by(self, *transports: str) -> None:
        """Commands of the agent that came by these."""

        def body(tx: Any) -> None:
            start = tx.execute("SELECT count(*) FROM comms_commands").fetchone()[0]
            needed = [row for row in tx.execute("PRAGMA table_info(comms_commands)") if row["notnull"]]
            blank = {row["name"]: 0 if row["type"] == "INTEGER" else "" for row in needed}
            for nonce, transport in enumerate(transports, start=start + 1):
                values = blank | {
                    "command_id": f"c{nonce}",
                    "sender_key": AGENT,
                    "nonce": nonce,
                    "transport": transport,
                    "state": "success",
                    "read_only": 1,
                    "received_at": 1,
                    "updated_at": 1,
                }
                names = ", ".join(values)
                tx.execute(
                    f"INSERT INTO comms_commands ({names}) VALUES ({', '.join('?' * len(values))})",
                    tuple(values.values()),
                )

        await self.db.write(body)

    async def send(self, text: str, *, transport: str = "", kind: MessageKind = MessageKind.RESPONSE) -> None:
        """Store one message and let everything that is due be tried once."""
        await self.db.write(
            lambda tx: self.messenger.enqueue(
                tx,
                recipient=AGENT,
                content=text,
                kind=kind.value,
                idempotency_key=text,
                expires_at=self.now + 100_000,
                transport=transport,
            )
        )
        await self.tried()

    async def later(self, seconds: int) -> None:
        self.now += seconds
        await self.tried()

    async def tried(self) -> None:
        """Every message that is due now was tried."""
        while rows := await self.db.read(lambda tx: self.store.due(tx, self.now, 100)):
            for row in rows:
                await self.messenger._send(row)

    async def waiting(self) -> dict[str, int]:
        return await self.db.read(self.store.waiting)


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "comms.db")
    await made.identity.load_or_create()
    yield made
    made.db.close()


async def test_a_response_goes_back_the_way_its_command_came(world: World) -> None:
    await world.register("air")
    await world.send("one", transport="air")
    await world.send("two")
    assert world.out.took == [("air", "one"), ("relays", "two")]
    (call,) = world.out.calls
    assert call["recipient_npub"] == npub_encode(AGENT) and call["payload"] == "one"
    # Only relays count as the last success of direct messages.
    world.now += 50
    await world.send("three", transport="air")
    assert (await world.messenger.status())["last_ok"] == 1_000


async def test_a_response_waits_ten_minutes_for_a_plugin_that_is_away(world: World) -> None:
    await world.register("air")
    world.out.fails["air"] = AWAY
    await world.send("answer", transport="air")
    for _ in range(5):
        await world.later(60)
    assert world.now < 1_000 + OWN_WAY_S
    assert not world.out.took and await world.waiting() == {"air": 1}
    assert len({call["message_id"] for call in world.out.calls}) == 1
    # Back in time, and said so: its own way, at once.
    del world.out.fails["air"]
    await world.messenger.retry_over("wire")
    await world.tried()
    assert not world.out.took
    await world.messenger.retry_over("air")
    await world.tried()
    assert world.out.took == [("air", "answer")] and await world.waiting() == {}


async def test_after_ten_minutes_a_response_goes_by_direct_message(world: World) -> None:
    await world.register("air")
    world.out.fails["air"] = AWAY
    await world.send("answer", transport="air")
    await world.registry.stopped(["hive-air-send"])
    await world.later(OWN_WAY_S - 1)
    assert not world.out.took
    await world.later(300)
    assert world.out.took == [("relays", "answer")]


@pytest.mark.parametrize("why", ["refused", "odd answer", "disabled", "not registered", "too long"])
async def test_a_way_that_will_never_take_it_is_left_at_once(world: World, why: str) -> None:
    if why != "not registered":
        await world.register("air", enabled=why != "disabled", max_bytes=1_024)
    if why == "refused":
        world.out.fails["air"] = NotFound("nobody of that name on the air")
    if why == "odd answer":
        world.out.answers["air"] = {"state": "lost"}
    text = "x" * (2_000 if why == "too long" else 20)
    await world.send(text, transport="air")
    assert world.out.took == [("relays", text)]


async def test_a_push_takes_only_a_way_its_receiver_has_used_when_relays_are_down(world: World) -> None:
    await world.register("air", priority=1)
    await world.register("wire", priority=2)
    world.out.relays_up = False
    await world.send("first", kind=MessageKind.PUSH)
    assert not world.out.calls
    await world.came_by("nostr_dm", "wire", "rest")
    await world.send("second", kind=MessageKind.PUSH)
    assert world.out.took == [("wire", "second")]
    # An answer to a direct message, and one to a caller who hung up, wait for the relays.
    await world.send("third")
    assert world.out.took == [("wire", "second")]
    world.out.relays_up = True
    await world.later(300)
    assert sorted(world.out.took[1:]) == [("relays", "first"), ("relays", "third")]


async def test_with_relays_down_a_response_tries_every_way_of_its_receiver_and_then_waits(
    world: World,
) -> None:
    await world.came_by("air", "wire")
    await world.register("wire")
    world.out.relays_up, world.out.fails["wire"] = False, AWAY
    await world.send("answer", transport="air")
    (row,) = await world.db.read(lambda tx: world.store.due(tx, world.now + 1_000, 10))
    said = await world.db.read(
        lambda tx: tx.execute("SELECT last_error FROM comms_outbox").fetchone()["last_error"]
    )
    # The operator reads of all three.
    assert all(word in said for word in ("air: is not registered now", "wss://r: unreachable", "wire: ")), (
        said
    )
    assert row.attempts == 1
    del world.out.fails["wire"]
    await world.later(10)
    assert world.out.took == [("wire", "answer")]


async def test_events_go_to_relays_alone_and_not_while_the_stop_is_engaged(world: World) -> None:
    await world.register("air")
    await world.came_by("air")
    world.stopped = True
    text = json.dumps({"id": "e"})
    await world.send(text, kind=MessageKind.EVENT)
    await world.later(1_000)
    assert not world.out.took and not world.out.calls
    world.stopped, world.out.relays_up = False, False
    await world.later(1_000)
    assert not world.out.took and not world.out.calls
    world.out.relays_up = True
    await world.later(1_000)
    assert world.out.took == [("event", text)]


async def test_the_ways_of_a_receiver_are_those_of_its_last_commands(world: World) -> None:
    assert await world._used(AGENT) == []
    await world.came_by("rest", "air", *["wire"] * 99)
    # The last hundred commands, the last first; `rest` is one too long ago.
    assert await world._used(AGENT) == ["wire", "air"]
    await world.came_by("nostr_dm")
    assert await world._used(AGENT) == ["nostr_dm", "wire"]
    assert await world._used("cc" * 32) == []


async def test_a_transport_belongs_to_the_plugin_that_registered_it(world: World) -> None:
    await world.register("air")
    values: dict[str, Any] = {"enabled": True, "max_bytes": 65_535, "priority": 1, "metadata": {}}
    with pytest.raises(Conflict, match="air is a transport of cl-hive already; choose another name"):
        await world.registry.register_transport("air", "hive-archon-send", **values)
    with pytest.raises(Conflict, match="nostr_dm is a transport of cl-hive-comms itself"):
        await world.registry.register_transport("nostr_dm", "hive-air-send", **values)
    assert [row.send_method for row in world.registry.transports()] == ["hive-air-send"]
