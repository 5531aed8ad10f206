"""Signed messages as a node takes and sends them, for tests."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cl_hive_comms.domain.arrival import Arrival
from cl_hive_comms.domain.outbox import Outgoing
from cl_hive_comms.plugin.parts import MIGRATIONS
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.inbound_errors import MessageErrors
from cl_hive_comms.services.inbound_ids import MessageIds
from cl_hive_comms.services.inbound_signed import SignedInbox
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.messenger_signed import SignedMessages
from cl_hive_comms.services.ports_transport import Delivery
from cl_hive_comms.services.sibling_delivery import Outcome, SiblingDelivery
from cl_hive_comms.services.sibling_registry import SiblingRegistry
from cl_hive_comms.storage.identity_store import IdentityStore
from cl_hive_comms.storage.sibling_store import SiblingStore
from cl_hive_comms.storage.state_store import StateStore
from cl_hive_comms.storage.transport_store import OutboxStore
from hive_shared.canonical import encode
from hive_shared.crypto import Sealer, Secret, schnorr_sign, xonly_pubkey
from hive_shared.errors import Capacity, HiveError
from hive_shared.signed_message import Draft, digest, parse, sign
from hive_shared.store import Db

NOW = 1_800_000_000
UNKNOWN = "hive:gossip/no-such-verb"


class World:
    """The inbox for signed messages over a real outbox; nobody handles anything yet."""

    def __init__(self, file: Path) -> None:
        self.now, self.db = NOW, Db.open(file, MIGRATIONS)
        self.peer = Secret(os.urandom(32))
        sealer = Sealer({1: Secret(bytes(32))}, 1)
        self.store = OutboxStore(sealer)
        self.identity = IdentityService(
            self.db,
            IdentityStore(),
            sealer,
            makesecret=self._secret,
            now=lambda: self.now,
            random_bytes=os.urandom,
            log=self._quiet,
        )
        self.messenger = Messenger(
            self.db, self.store, self.identity, self, self, now=lambda: self.now, log=self._quiet
        )
        self.messages = SignedMessages(
            self.db,
            StateStore(),
            self.identity,
            self.messenger,
            now=lambda: self.now,
            random_bytes=os.urandom,
        )
        self.registry = SiblingRegistry(self.db, SiblingStore(), self, now=lambda: self.now, log=self._quiet)
        self.full = False
        self.handed_over: list[dict[str, Any]] = []
        self.ids = MessageIds(1_000)
        self.inbox = self._inbox()

    def _inbox(self) -> SignedInbox:
        return SignedInbox(
            self.registry,
            SiblingDelivery(self._take, present=lambda who: True, log=self._quiet),
            self.identity,
            errors=MessageErrors(self._reply, now=lambda: self.now),
            now=lambda: self.now,
            log=self._quiet,
        )

    def restart(self) -> None:
        """Nothing in memory is left."""
        self.inbox, self.ids = self._inbox(), MessageIds(1_000)

    async def _reply(self, recipient: str, area: str, msg_id: str, code: str) -> bool:
        try:
            if self.full:
                raise Capacity("the outbox is full")
            await self.messages.tell_error(recipient, area, msg_id, code)
        except HiveError:
            return False
        return True

    @staticmethod
    def _quiet(level: str, event: str, /, **fields: object) -> None:
        return None

    async def _secret(self, text: str) -> bytes:
        return b"\x05" * 32

    async def _take(self, who: str, method: str, params: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        self.handed_over.append(params)
        return {"result": "queued"}

    async def call(self, method: str, params: dict[str, Any], *, timeout: float) -> object:
        return {}

    async def send(self, secret: Secret, message: Outgoing, relays: Sequence[str]) -> Delivery:
        return Delivery((), {"wss://r": "unreachable"})

    async def relays_for(self, message: Outgoing, attempts: int) -> list[str]:
        return ["wss://r"]

    def message(self, secret: Secret | None = None, **changes: Any) -> dict[str, Any]:
        """A signed message; `changes` replace fields before it is signed."""
        draft = Draft(UNKNOWN, str(uuid.uuid4()), "t-1", 1, self.now, self.now + 600, {"n": 1})
        made: dict[str, Any] = json.loads(sign(draft, secret or self.peer, self.identity.pubkey))
        made |= changes
        made["sig"] = schnorr_sign(secret or self.peer, digest(made, self.identity.pubkey))
        return made

    async def take(
        self, message: dict[str, Any], *, known: bool = True, sender: Secret | None = None
    ) -> Outcome | None:
        key = xonly_pubkey(sender or self.peer)
        arrival = Arrival("nostr_dm", key, os.urandom(32).hex(), self.now, known)
        return await self.inbox.take(
            encode(message).decode(), arrival, message["schema"], self.ids, lambda name, outcome: None
        )

    async def told(self) -> list[tuple[str, str, str, str]]:
        """(recipient, schema, msg_id it is about, code) of every error in the outbox, each checked as its
        recipient would."""
        rows = await self.db.read(
            lambda tx: tx.execute("SELECT idempotency_key FROM comms_outbox ORDER BY outbox_id").fetchall()
        )
        found = []
        for row in rows:
            kept = await self.db.read(lambda tx, key=row[0]: self.store.find(tx, key))  # type: ignore[misc]
            assert kept is not None
            sent: Outgoing = kept[0]
            read = parse(sent.content, self.identity.pubkey, (sent.recipient,))
            assert isinstance(read, Draft) and isinstance(read.body, dict)
            found.append((sent.recipient, read.schema, str(read.body["msg_id"]), str(read.body["code"])))
        return found


@asynccontextmanager
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "comms.db")
    await made.identity.load_or_create()
    yield made
    made.db.close()
