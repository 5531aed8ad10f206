"""Which way the kit takes to a node, and the next one when it fails: always the same bytes (11 §4, §5.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hive_advisor.advisor import MIGRATIONS
from hive_advisor.domain.command_machine import CommandState
from hive_advisor.domain.route import OfferedRest, RestRoute, Routes
from hive_advisor.domain.rows import Client, StoredCommand
from hive_advisor.services.delivery import DeliveryService
from hive_advisor.storage.route_store import RouteStore
from hive_shared.crypto import Sealer, Secret
from hive_shared.errors import Conflict, TransportUnavailable
from hive_shared.store import Db, Tx

CONTENT = '{"v":1}'
CLIENT = Client("cl-1", "alice", "aa" * 32, "02" + "ab" * 32, "regtest", (), 300, "active", 0, 0)


class World:
    """A kit whose ways are open or closed; `tried` says which took what."""

    def __init__(self, path: Path) -> None:
        self.db = Db.open(path, MIGRATIONS)
        self.rows = RouteStore(Sealer({1: Secret(bytes(32))}, 1))
        self.open = {"nostr", "rest", "local"}
        self.tried: list[tuple[str, str]] = []
        self.answers: list[str] = []
        self.said: list[str] = []
        self.pubkey = "bb" * 32
        self.rest, self.local = _Rest(self), _Local(self)

    def service(self, *order: str) -> DeliveryService:
        return DeliveryService(
            self.db,
            self.rows,
            order=order or ("nostr", "rest", "local"),
            nostr=self,
            rest=self.rest,
            local=self.local,
            answered=self._answered,
            say=self.said.append,
        )

    async def _answered(self, client: Client, answer: str) -> None:
        assert client == CLIENT
        self.answers.append(answer)

    def took(self, way: str, content: str) -> str:
        self.tried.append((way, content))
        if way not in self.open:
            raise TransportUnavailable(f"{way} is down")
        return f"answer by {way}"

    async def deliver(self, recipient: str, content: str, relays: Sequence[str], *, expires_at: int) -> int:
        assert recipient == CLIENT.node_key
        self.tried.append(("nostr", content))
        return 1 if "nostr" in self.open else 0

    async def set_up(self, *ways: str) -> None:
        """What the user set for this client."""
        routes = Routes(
            RestRoute("https://node.example:3010") if "rest" in ways else None,
            "/run/lightning-rpc" if "local" in ways else None,
        )
        offered = OfferedRest("https://node.example:3010", "r" * 44)

        def body(tx: Tx) -> None:
            tx.execute(
                "INSERT INTO adv_clients (client_id, alias, alias_key, node_key, node_id, network,"
                " relays_json, max_skew_s, state, created, updated)"
                " VALUES (?, 'alice', 'alice', ?, ?, 'regtest', '[]', 300, 'active', 0, 0)",
                (CLIENT.client_id, CLIENT.node_key, CLIENT.node_id),
            )
            tx.execute(
                "INSERT INTO adv_credentials (credential_id, client_id, doc_json, state, valid_until,"
                " created) VALUES ('cred-1', ?, '{}', 'active', 9, 0)",
                (CLIENT.client_id,),
            )
            self.rows.set_routes(tx, CLIENT.client_id, routes)
            self.rows.keep_offered(tx, "cred-1", offered)

        await self.db.write(body)

    async def send(self, service: DeliveryService, sends: int = 0) -> str | None:
        ways = await service.ways(CLIENT, command(sends))
        return await service.deliver(CLIENT, CONTENT, ("wss://r",), ways, expires_at=9_000)


class _Rest:
    def __init__(self, world: World) -> None:
        self._world = world

    async def call(self, route: RestRoute, offered: OfferedRest, envelope: str) -> str:
        assert offered.rune == "r" * 44
        return self._world.took("rest", envelope)


class _Local:
    def __init__(self, world: World) -> None:
        self._world = world

    async def call(self, socket_path: str, envelope: str, rune: str | None) -> str:
        assert socket_path == "/run/lightning-rpc"
        return self._world.took("local", envelope)


def command(sends: int) -> StoredCommand:
    return StoredCommand(
        "c-1",
        CLIENT.client_id,
        "cred-1",
        "hive:monitor/v1",
        "health_summary",
        {},
        (1,),
        "cli",
        1,
        0,
        "",
        {},
        CommandState.SENT,
        0,
        0,
        sends=sends,
    )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "advisor.db")
    yield made
    made.db.close()


async def test_acceptance_02_22_with_relays_down_the_next_way_carries_the_same_bytes(world: World) -> None:
    await world.set_up("rest", "local")
    world.open = {"rest", "local"}
    assert await world.send(world.service()) == "rest"
    assert world.tried == [("nostr", CONTENT), ("rest", CONTENT)]
    assert world.answers == ["answer by rest"] and world.said == ["no relay took the command"]
    world.open = {"local"}
    world.tried.clear()
    assert await world.send(world.service()) == "local"
    assert world.tried == [("nostr", CONTENT), ("rest", CONTENT), ("local", CONTENT)]


async def test_the_users_order_counts_and_only_ways_that_are_set_up(world: World) -> None:
    await world.set_up("local")
    assert await world.send(world.service("rest", "local", "nostr")) == "local"
    assert world.tried == [("local", CONTENT)]
    with pytest.raises(Conflict, match=r"transport\.order names none that is set up"):
        await world.send(world.service("rest"))


async def test_a_repeat_begins_with_the_way_after_the_one_that_brought_no_answer(world: World) -> None:
    await world.set_up("rest", "local")
    # Every way takes it, and no answer comes by relay: the next time it starts one further.
    assert [await world.send(world.service(), sends) for sends in range(4)] == [
        "nostr",
        "rest",
        "local",
        "nostr",
    ]
    assert {content for _, content in world.tried} == {CONTENT}


async def test_when_no_way_takes_it_nobody_says_it_was_sent(world: World) -> None:
    await world.set_up("rest", "local")
    world.open = set()
    assert await world.send(world.service()) is None
    assert world.said == ["no relay took the command", "rest is down", "local is down"]
    assert world.answers == []
