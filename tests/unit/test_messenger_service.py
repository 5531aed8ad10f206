"""The outbox service: order, retries, expiry, a full queue (Protocol 02 §6.2)."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cl_hive_comms.domain.outbox import MAX_QUEUED, Outgoing, retry_delay
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.ports_transport import Delivery
from cl_hive_comms.storage.identity_store import IdentityStore
from cl_hive_comms.storage.transport_store import OutboxStore
from hive_shared.crypto import Sealer, Secret
from hive_shared.errors import Capacity, TransportUnavailable
from hive_shared.store import Db

MIGRATIONS = Path(__file__).parents[2] / "cl-hive-comms" / "cl_hive_comms" / "storage" / "migrations"
PEER = "bb" * 32


class Relays:
    """A Nostr adapter that does as it is told."""

    def __init__(self) -> None:
        self.up = True
        self.sent: list[str] = []
        self.tried = asyncio.Event()

    async def send(self, secret: Secret, message: Outgoing, relays: Sequence[str]) -> Delivery:
        self.tried.set()
        if not self.up:
            return Delivery((), {"wss://r.example": "unreachable"})
        self.sent.append(message.content)
        return Delivery(("wss://r.example",), {})

    async def relays_for(self, message: Outgoing, attempts: int) -> list[str]:
        return ["wss://r.example"]


class World:
    """A messenger on a real file with a clock of its own."""

    def __init__(self, db: Db) -> None:
        self.now, self.relays, self.db = 1_000, Relays(), db
        sealer = Sealer({1: Secret(bytes(32))}, 1)
        self.store = OutboxStore(sealer)
        self.identity = IdentityService(
            db,
            IdentityStore(),
            sealer,
            makesecret=self._secret,
            now=lambda: self.now,
            random_bytes=lambda n: b"\x07" * n,
            log=lambda level, event, /, **fields: None,
        )
        self.messenger = Messenger(
            db,
            self.store,
            self.identity,
            self.relays,
            self.relays,
            now=lambda: self.now,
            log=lambda level, event, /, **fields: None,
        )

    async def _secret(self, text: str) -> bytes:
        return b"\x05" * 32

    async def enqueue(self, key: str, kind: str = "push", expires_in: int = 10_000) -> None:
        await self.db.write(
            lambda tx: self.messenger.enqueue(
                tx,
                recipient=PEER,
                content=key,
                kind=kind,
                idempotency_key=key,
                expires_at=self.now + expires_in,
            )
        )
        self.messenger.kick()

    async def until(self, condition: object) -> None:
        async with asyncio.timeout(30):
            while not await condition():  # type: ignore[operator]
                await asyncio.sleep(0.01)

    async def state(self) -> dict[str, int]:
        return await self.db.read(self.store.counts)


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[World]:
    db = Db.open(path / "comms.db", MIGRATIONS)
    world = World(db)
    await world.identity.load_or_create()
    task = asyncio.create_task(world.messenger.run())
    try:
        yield world
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        db.close()


async def test_messages_leave_in_the_order_in_which_they_were_stored(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        for number in range(5):
            await world.enqueue(f"m{number}")

        async def all_sent() -> bool:
            return (await world.state()).get("sent") == 5

        await world.until(all_sent)
        assert world.relays.sent == [f"m{number}" for number in range(5)]


async def test_a_message_of_a_rolled_back_transaction_is_never_sent(tmp_path: Path) -> None:
    async with running(tmp_path) as world:

        def body(tx: object) -> None:
            world.messenger.enqueue(
                tx,  # type: ignore[arg-type]
                recipient=PEER,
                content="ghost",
                kind="push",
                idempotency_key="ghost",
                expires_at=9_999,
            )
            raise KeyError("the caller failed")

        with pytest.raises(KeyError):
            await world.db.write(body)
        await world.enqueue("real")

        async def one_sent() -> bool:
            return (await world.state()).get("sent") == 1

        await world.until(one_sent)
        assert world.relays.sent == ["real"]


async def test_a_failed_message_waits_and_goes_out_when_relays_are_back(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as world:
        world.relays.up = False
        await world.enqueue("m")

        async def tried() -> bool:
            return await world.db.read(world.store.next_due) == world.now + 2

        await world.until(tried)
        world.relays.up = True
        world.now += 2
        world.messenger.kick()

        async def done() -> bool:
            return (await world.state()) == {"sent": 1}

        await world.until(done)


def test_waits_grow_from_two_seconds_to_five_minutes() -> None:
    assert [retry_delay(n) for n in (1, 2, 3, 8, 9, 40)] == [2, 4, 8, 256, 300, 300]


async def test_what_nobody_needs_any_more_is_given_up(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.relays.up = False
        await world.enqueue("m", expires_in=60)
        async with asyncio.timeout(30):
            await world.relays.tried.wait()
        world.now += 61
        await world.messenger.sweep()

        async def expired() -> bool:
            return (await world.state()) == {"expired": 1}

        await world.until(expired)


async def test_a_full_queue_refuses_messages_but_never_a_response(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.relays.up = False

        def fill(tx: object) -> None:
            for number in range(MAX_QUEUED):
                world.messenger.enqueue(
                    tx,  # type: ignore[arg-type]
                    recipient=f"{number // 100:064x}",
                    content="x",
                    kind="push",
                    idempotency_key=f"p{number}",
                    expires_at=99_999,
                )

        await world.db.write(fill)
        with pytest.raises(Capacity):
            await world.enqueue("message", kind="message")
        await world.enqueue("response", kind="response")
        assert await world.db.read(world.store.queued_count) == MAX_QUEUED


async def test_a_message_beyond_one_megabyte_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        with pytest.raises(TransportUnavailable) as caught:
            await world.enqueue("x" * 1_048_577)
        assert caught.value.reason == "message_too_large"


async def test_messages_leave_when_relays_are_back_and_not_at_their_next_turn(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.relays.up = False
        await world.enqueue("first")

        async def waits() -> bool:
            return world.db.peek(world.store.next_due) == world.now + retry_delay(1)

        await world.until(waits)
        world.relays.up = True
        world.messenger.relays_back()

        async def sent() -> bool:
            return world.relays.sent == ["first"]

        await world.until(sent)
        # A relay that comes and goes does not have everything sent each time.
        world.relays.up = False
        world.relays.tried.clear()
        await world.enqueue("second")
        await world.until(waits)
        world.relays.tried.clear()
        for _ in range(3):
            world.messenger.relays_back()
            await world.enqueue("first")
            await asyncio.sleep(0.05)
        assert not world.relays.tried.is_set()
