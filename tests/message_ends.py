"""A node's message layer and a kit's, in this process, at both ends of a relay that lets parts fall."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cl_hive_comms.domain.arrival import WRAPS_ONLY, Arrival
from cl_hive_comms.domain.relay_sets import RelaySets
from cl_hive_comms.plugin.parts import MIGRATIONS
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.inbound_routes import PeerRoutes
from cl_hive_comms.services.inbound_service import InboundService
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.part_resend import PartResend
from cl_hive_comms.storage.identity_store import IdentityStore
from cl_hive_comms.storage.transport_store import InboxStore, OutboxStore
from cl_hive_comms.transport.nostr import NostrTransport
from hive_advisor.transport.nostr_link import NostrLink
from hive_shared.crypto import Sealer, Secret, xonly_pubkey
from hive_shared.nostr.chunks import RESEND_AFTER_SECONDS
from hive_shared.nostr.giftwrap import Message
from hive_shared.nostr.relay import RelayPool
from hive_shared.store import Db
from lossy_relay import LossyRelay


class Clock:
    """The real time, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return int(time.time()) + self.ahead


class Pauses:
    """The waits of one side: each lasts until the test lets it pass, and then took a little longer than asked
    for, as any: it may have been reckoned a second after the first part came."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._passes = clock, asyncio.Semaphore(0)

    async def wait(self, seconds: float) -> None:
        await self._passes.acquire()
        self._clock.ahead += max(int(seconds), RESEND_AFTER_SECONDS)

    def let_one_pass(self) -> None:
        self._passes.release()


class Node:
    """What a node has of the message layer; `handled` is what reached the pipeline."""

    def __init__(self, file: Path, relay: str, peer: str, clock: Clock) -> None:
        self.peer, self.relay, self.handled = peer, relay, list[str]()
        self.db = Db.open(file, MIGRATIONS)
        sealer = Sealer({1: Secret(b"k" * 32)}, 1)
        self.identity = IdentityService(
            self.db,
            IdentityStore(),
            sealer,
            makesecret=self._secret,
            now=clock,
            random_bytes=os.urandom,
            log=self._quiet,
        )
        self.inbound = InboundService(
            self.db,
            InboxStore(sealer),
            self.identity,
            knows=lambda key: key == peer,
            handle_command=self._handle,
            now=clock,
            log=self._quiet,
        )
        self.pauses = Pauses(clock)
        self.inbound.parts._long._pause = self.pauses.wait
        self.nostr = NostrTransport(
            self.db,
            IdentityStore(),
            self.identity,
            on_wrap=self.inbound.on_wrap,
            now=clock,
            log=self._quiet,
            proxy=None,
            always_use_proxy=False,
            private_relays=True,
            forms=WRAPS_ONLY,
            writes_legacy=(),
        )
        routes = PeerRoutes(
            own_relays=lambda: [relay],
            arrived_from=self.inbound.arrived_from,
            normalise=lambda url: url,
            lookup=self.nostr.lookup,
            now=clock,
        )
        outbox = OutboxStore(sealer)
        self.lost = PartResend(self.db, outbox, self.identity, self.nostr, routes, now=clock, log=self._quiet)
        self.inbound.parts.on_lost(self.lost)
        self.messenger = Messenger(
            self.db, outbox, self.identity, self.nostr, routes, now=clock, log=self._quiet
        )
        self.now = clock

    @staticmethod
    def _quiet(level: str, event: str, /, **fields: object) -> None:
        return None

    async def _secret(self, text: str) -> bytes:
        # Another key for every node: the relay is shared.
        return os.urandom(32)

    async def _handle(self, text: str, arrival: Arrival) -> bool:
        self.handled.append(text)
        return True

    async def start(self) -> None:
        await self.identity.load_or_create()
        await self.inbound.load()
        await self.nostr.start(RelaySets(primary=(self.relay,)))
        assert await self.nostr.pool.wait_for(lambda: self.nostr.pool.connected() == 1, 60)
        self._sending = asyncio.create_task(self.messenger.run())

    async def send(self, content: str, key: str = "k") -> None:
        expires = self.now() + 3_600
        await self.db.write(
            lambda tx: self.messenger.enqueue(
                tx,
                recipient=self.peer,
                content=content,
                kind="response",
                idempotency_key=key,
                expires_at=expires,
            )
        )
        self.messenger.kick()

    async def noted(self) -> bool:
        """Whether the outbox knows of everything that it went out; a relay has it before."""
        queued = await self.db.read(
            lambda tx: tx.execute("SELECT count(*) FROM comms_outbox WHERE state = 'queued'").fetchone()
        )
        return bool(queued[0] == 0)

    async def rows(self) -> int:
        """Received messages that are remembered."""
        await self.inbound.flush()
        return await self.db.read(lambda tx: tx.execute("SELECT count(*) FROM comms_inbox").fetchone()[0])

    async def kill(self) -> None:
        """End without a chance to store anything."""
        self._sending.cancel()
        for task in list(self.inbound._tasks):
            task.cancel()
        await self.inbound.parts.stop()
        await asyncio.gather(self._sending, *self.inbound._tasks, return_exceptions=True)
        await self.nostr.pool.stop()
        self.db.close()


class Kit:
    """The kit's end; `got` is what it took."""

    def __init__(self, relay: str, clock: Clock, secret: Secret | None = None) -> None:
        self.got: list[Message] = []
        self.relay, secret = relay, secret or Secret(os.urandom(32))
        self.pool = RelayPool(on_event=self._event, private_relays=True)
        self.link = NostrLink(
            secret,
            self.pool,
            on_message=self._message,
            trusted=lambda key: True,
            own_relays=(relay,),
            now=clock,
            rng=os.urandom,
            say=lambda text: None,
        )
        self.pauses = Pauses(clock)
        self.link._long._pause = self.pauses.wait
        self.secret, self.key = secret, xonly_pubkey(secret)

    async def _event(self, url: str, name: str, event: Any) -> None:
        await self.link.received(url, name, event)

    async def _message(self, message: Message) -> None:
        self.got.append(message)

    async def start(self) -> None:
        await self.pool.set_relays([self.relay], [self.relay], [])
        self.link.watch(None)
        await self.pool.start()
        assert await self.pool.wait_for(lambda: self.pool.connected() == 1, 60)

    @property
    def parts(self) -> int:
        """How many parts came, whatever became of them."""
        return len(self.link._part_ids)

    async def stop(self) -> None:
        await self.link.close()
        await self.pool.stop()


class World:
    """Both ends; `restart` kills the node and starts it over the same file."""

    def __init__(self, file: Path, relay: LossyRelay) -> None:
        self.file, self.relay, self.clock = file, relay, Clock()
        self.known = True
        self.kit_secret: Secret | None = None

    async def start(self) -> None:
        self.kit = Kit(self.relay.url, self.clock, self.kit_secret)
        await self.kit.start()
        await self._start_node()

    async def _start_node(self) -> None:
        peer = self.kit.key if self.known else "ff" * 32
        self.node = Node(self.file, self.relay.url, peer, self.clock)
        self.node.peer = self.kit.key
        await self.node.start()

    async def restart(self) -> None:
        await self.node.kill()
        await self._start_node()

    async def stop(self) -> None:
        await self.node.kill()
        await self.kit.stop()


@asynccontextmanager
async def ends(tmp_path: Path, relay: LossyRelay, **settings: Any) -> AsyncIterator[World]:
    relay.forget()
    world = World(tmp_path / "comms.db", relay)
    for name, value in settings.items():
        setattr(world, name, value)
    await world.start()
    try:
        yield world
    finally:
        relay.loses = lambda number: False
        await world.stop()


async def until(condition: Callable[[], object] | Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(60):
        while True:
            found = condition()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(0.02)
