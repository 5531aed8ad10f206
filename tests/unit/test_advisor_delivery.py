"""Which way the kit takes to a node, and the next one when it fails: always the same bytes (11 §4, §5.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hive_advisor.advisor import MIGRATIONS
from hive_advisor.domain.command_machine import CommandState
from hive_advisor.domain.route import CommandoRoute, OfferedRest, RestRoute, Routes
from hive_advisor.domain.rows import Client, StoredCommand, StoredCredential
from hive_advisor.services.delivery import DeliveryService
from hive_advisor.storage.route_store import RouteStore
from hive_shared.crypto import Sealer, Secret
from hive_shared.errors import Conflict, InvalidParams, TransportUnavailable
from hive_shared.store import Db, Tx

CONTENT = '{"v":1}'
SENDER = "bb" * 32
CLIENT = Client("cl-1", "alice", "aa" * 32, "02" + "ab" * 32, "regtest", (), 300, "active", 0, 0)


class World:
    """A kit whose ways are open or closed; `tried` says which took what."""

    def __init__(self, path: Path) -> None:
        self.db = Db.open(path, MIGRATIONS)
        self.rows = RouteStore(Sealer({1: Secret(bytes(32))}, 1))
        self.open = {"nostr", "rest", "local", "commando"}
        self.tried: list[tuple[str, str]] = []
        self.answers: list[str] = []
        self.said: list[str] = []
        self.patience: list[float] = []
        self.rest, self.local, self.commando = _Rest(self), _Local(self), _Commando(self)

    def service(self, *order: str) -> DeliveryService:
        return DeliveryService(
            self.db,
            self.rows,
            order=order or ("nostr", "rest", "local", "commando"),
            nostr=self,
            rest=self.rest,
            local=self.local,
            commando=self.commando,
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

    async def deliver(
        self,
        recipient: str,
        content: str,
        relays: Sequence[str],
        *,
        expires_at: int,
        sender: str,
        patience_s: float = 15.0,
    ) -> int:
        self.patience.append(patience_s)
        assert (recipient, sender) == (CLIENT.node_key, SENDER)
        self.tried.append(("nostr", content))
        return 1 if "nostr" in self.open else 0

    async def set_up(self, *ways: str) -> None:
        """What the user set for this client."""
        routes = Routes(
            RestRoute("https://node.example:3010") if "rest" in ways else None,
            "/run/lightning-rpc" if "local" in ways else None,
            CommandoRoute("/run/mine") if "commando" in ways else None,
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
        return await service.deliver(CLIENT, CONTENT, ("wss://r",), ways, expires_at=9_000, sender=SENDER)


class _Rest:
    def __init__(self, world: World) -> None:
        self._world = world

    async def call(self, route: RestRoute, offered: OfferedRest, envelope: str, sender: str) -> str:
        assert (offered.rune, sender) == ("r" * 44, SENDER)
        return self._world.took("rest", envelope)


class _Local:
    def __init__(self, world: World) -> None:
        self._world = world

    async def call(self, socket_path: str, envelope: str, rune: str | None, sender: str) -> str:
        assert (socket_path, sender) == ("/run/lightning-rpc", SENDER)
        return self._world.took("local", envelope)


class _Commando:
    def __init__(self, world: World) -> None:
        self._world = world
        self.runes: list[str] = []

    async def call(self, route: CommandoRoute, rune: str, node_id: str, envelope: str, sender: str) -> str:
        assert (route.socket_path, node_id, sender) == ("/run/mine", CLIENT.node_id, SENDER)
        self.runes.append(rune)
        return self._world.took("commando", envelope)


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
    # Relays that are down hold up a command for seconds only, where it can go another way.
    assert world.patience == [4.0]
    world.open = {"local"}
    world.tried.clear()
    assert await world.send(world.service()) == "local"
    assert world.tried == [("nostr", CONTENT), ("rest", CONTENT), ("local", CONTENT)]


async def test_the_users_order_counts_and_only_ways_that_are_set_up(world: World) -> None:
    await world.set_up("local")
    assert await world.send(world.service("rest", "local", "nostr")) == "local"
    assert world.tried == [("local", CONTENT)]
    world.open = {"nostr"}
    assert await world.send(world.service("local", "nostr")) == "nostr"
    assert world.patience == [15.0]
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


async def test_commando_takes_the_rune_that_was_given_or_else_the_offered_one(world: World) -> None:
    await world.set_up("commando")
    service = world.service("commando")
    assert await world.send(service) == "commando"
    credential = StoredCredential("cred-1", CLIENT.client_id, {}, "active", 9, 0)
    given = await service.set_commando(
        CLIENT, credential, socket_path="/run/mine", rune="g" * 44, address="[::1]:9735"
    )
    assert given.commando == CommandoRoute("/run/mine", "g" * 44, "::1", 9735)
    assert await world.send(service) == "commando"
    assert world.commando.runes == ["r" * 44, "g" * 44]
    other = StoredCredential("cred-2", CLIENT.client_id, {}, "active", 9, 0)
    with pytest.raises(Conflict, match="--rune-file"):
        await service.set_commando(CLIENT, other, socket_path="/run/mine", rune=None, address=None)
    for address in ("host", "host:0", "host:65536", ":1", "a b:1", "id@host:1", "host:x"):
        with pytest.raises(InvalidParams, match=r"HOST:PORT|odd characters"):
            await service.set_commando(
                CLIENT, credential, socket_path="/run/mine", rune=None, address=address
            )
    assert (await service.routes(CLIENT)).commando == given.commando
    assert (await service.clear(CLIENT, "commando")).commando is None
