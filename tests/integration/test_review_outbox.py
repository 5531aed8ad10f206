"""One agent with dead relays, or a full disk, must not stop what others are told
(docs/protocol/02-fleet-management.md §6.2, §2.5)."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from cl_hive_comms.domain.outbox import MAX_QUEUED, Outgoing
from cl_hive_comms.services import messenger as module
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.messenger import MAX_QUEUED_EACH, Messenger
from cl_hive_comms.services.ports_transport import Delivery
from cl_hive_comms.storage.transport_store import OutboxStore
from hive_shared.crypto import Sealer, Secret
from hive_shared.store import Db, StoreError

MIGRATIONS = Path(module.__file__).parents[1] / "storage" / "migrations"
BAD, GOOD = "bb" * 32, "cc" * 32


class Key:
    pubkey = "aa" * 32

    def secret(self) -> Secret:
        return Secret(bytes(31) + b"\x01")

    def secret_of(self, pubkey: str) -> Secret:
        return self.secret()


class Relays:
    """Takes messages at once, except for BAD: those hang."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.hang = True

    async def send(self, secret: Secret, message: Outgoing, relays: Sequence[str]) -> Delivery:
        if message.recipient == BAD and self.hang:
            await asyncio.sleep(3_600)
        self.sent.append(message.idempotency_key)
        return Delivery(("wss://r.example",), {})

    async def relays_for(self, message: Outgoing, attempts: int) -> list[str]:
        return ["wss://r.example"]


class World:
    def __init__(self, path: Path) -> None:
        self.db = Db.open(path / "comms.db", MIGRATIONS)
        self.relays = Relays()
        self.store = OutboxStore(Sealer({1: Secret(bytes(32))}, 1))
        self.messenger = Messenger(
            self.db,
            self.store,
            cast("IdentityService", Key()),
            self.relays,
            self.relays,
            now=lambda: int(time.time()),
            log=lambda *_, **__: None,
        )

    async def queue(self, recipient: str, names: Sequence[str], kind: str = "response") -> None:
        def body(tx: Any) -> None:
            for name in names:
                self.messenger.enqueue(
                    tx,
                    recipient=recipient,
                    content="{}",
                    kind=kind,
                    idempotency_key=name,
                    expires_at=int(time.time()) + 3_600,
                )

        await self.db.write(body)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.db.close()


async def test_messages_to_a_dead_end_do_not_delay_those_of_others(world: World) -> None:
    await world.queue(BAD, [f"bad{n}" for n in range(100)])
    await world.queue(GOOD, ["good"])
    running = asyncio.create_task(world.messenger.run())
    try:
        async with asyncio.timeout(60):
            while "good" not in world.relays.sent:
                await asyncio.sleep(0.02)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_an_agent_fills_its_own_share_only(world: World) -> None:
    await world.queue(GOOD, ["offer"], "push")
    await world.queue(BAD, [f"bad{n}" for n in range(MAX_QUEUED_EACH + 50)])
    assert await world.db.read(lambda tx: world.store.queued_for(tx, BAD)) == MAX_QUEUED_EACH
    assert await world.db.read(lambda tx: world.store.queued_for(tx, GOOD)) == 1


async def test_a_full_outbox_does_not_stop_a_revocation(world: World) -> None:
    for agent in range(MAX_QUEUED // MAX_QUEUED_EACH):
        key = f"{agent:064x}"
        await world.queue(key, [f"{agent}-{n}" for n in range(MAX_QUEUED_EACH)])
    await world.queue(GOOD, ["credential_revoked"], "push")
    assert await world.db.read(lambda tx: world.store.queued_for(tx, GOOD)) == 1
    assert await world.db.read(world.store.queued_count) == MAX_QUEUED


@pytest.mark.parametrize("failure", [StoreError("disk full"), TypeError("a fault of ours")])
async def test_a_delivery_that_cannot_be_noted_is_not_repeated_again_and_again(
    world: World, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    await world.queue(GOOD, ["once"])

    async def full(_body: Any, **_how: Any) -> Any:
        raise failure

    monkeypatch.setattr(world.db, "write", full)
    running = asyncio.create_task(world.messenger.run())
    try:
        async with asyncio.timeout(60):
            while not world.relays.sent:
                await asyncio.sleep(0.02)
        for _ in range(50):
            world.messenger.kick()
            await asyncio.sleep(0.002)
        assert world.relays.sent == ["once"]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
