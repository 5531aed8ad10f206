"""What a sender is told of a message that cannot be taken, and who is told nothing (Protocol 04 §6)."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.domain.arrival import Arrival
from cl_hive_comms.domain.outbox import Outgoing
from cl_hive_comms.domain.signed_message import Draft, OtherVersion, digest, parse, sign
from cl_hive_comms.plugin.parts import MIGRATIONS
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.inbound_errors import PER_MINUTE, VERB_TOLD_S, MessageErrors
from cl_hive_comms.services.inbound_ids import MessageIds
from cl_hive_comms.services.inbound_signed import SignedInbox
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.messenger_signed import PER_MINUTE as SIBLINGS_PER_MINUTE
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


OUTSIDE_ITS_TIMES = {
    "sent in the future": {"sent_at": NOW + 301},
    "run out": {"expires_at": NOW},
    "run out long ago": {"sent_at": NOW - 90_000, "expires_at": NOW - 80_000},
}


@pytest.mark.parametrize("what", OUTSIDE_ITS_TIMES)
async def test_a_message_outside_its_times_is_answered_expired_once(tmp_path: Path, what: str) -> None:
    async with world(tmp_path) as node:
        message = node.message(**OUTSIDE_ITS_TIMES[what])
        assert await node.take(message) == "refused"
        peer = xonly_pubkey(node.peer)
        expected = [(peer, "hive:gossip/error", message["msg_id"], "expired")]
        assert await node.told() == expected
        # In another wrap, and after a restart: the same message, which has its answer.
        assert await node.take(message) == "dropped"
        node.restart()
        await node.take(message)
        assert await node.told() == expected
        assert node.inbox.counters["expired"] == 1


async def test_the_last_second_and_five_minutes_ahead_are_within_its_times(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        await node.registry.register_handler("hive:gossip/*", "hive-probe-inbound")
        assert await node.take(node.message(sent_at=NOW + 300, expires_at=NOW + 301)) is None
        assert await node.take(node.message(expires_at=NOW + 1)) is None
        assert await node.told() == []


async def test_an_unknown_verb_is_answered_unsupported_once_an_hour(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        first = node.message()
        assert await node.take(first) == "refused"
        assert await node.take(first) == "dropped" and await node.take(node.message()) == "dropped"
        peer = xonly_pubkey(node.peer)
        assert await node.told() == [(peer, "hive:gossip/error", first["msg_id"], "unsupported")]
        other = node.message(schema="hive:archon/no-such-verb")
        assert await node.take(other) == "refused"
        node.now += VERB_TOLD_S
        later = node.message()
        assert await node.take(later) == "refused"
        assert [row[2] for row in await node.told()] == [one["msg_id"] for one in (first, other, later)]


async def test_another_version_is_answered_unsupported_if_its_signature_is_the_senders(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as node:
        await node.registry.register_handler("hive:gossip/*", "hive-probe-inbound")
        second = node.message(v=2, new_field=[1])
        assert await node.take(second) == "refused"
        ((recipient, schema, msg_id, code),) = await node.told()
        assert (schema, msg_id, code) == ("hive:gossip/error", second["msg_id"], "unsupported")
        assert recipient == xonly_pubkey(node.peer)
        third = node.message(v=3)
        assert await node.take(third) == "refused" and len(await node.told()) == 2
        # Once per version and verb.
        assert await node.take(node.message(v=2)) == "dropped"
        mallory = Secret(os.urandom(32))
        for wrong in (
            {**node.message(v=4), "more": 1},
            {**node.message(v=4), "sig": "00" * 64},
            node.message(mallory, v=4),
            node.message(v=4, msg_id="no uuid"),
            node.message(v=True),
            node.message(v="2"),
            node.message(v=None),
        ):
            assert await node.take(wrong) == "dropped"
        assert len(await node.told()) == 2 and not node.handed_over


async def test_who_is_unknown_or_did_not_sign_is_told_nothing_and_costs_no_write(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        writes, stranger = node.db.stats.writes, Secret(os.urandom(32))
        for changes in ({}, {"v": 2}, {"expires_at": NOW}):
            message = node.message(stranger, **changes)
            assert await node.take(message, known=False, sender=stranger) == "dropped"
            # A known peer's seal around what somebody else signed.
            assert await node.take(message) == "dropped"
            altered = {**node.message(**changes), "body": {"n": 2}}
            assert await node.take(altered) == "dropped"
            for_another = node.message(**changes)
            for_another["sig"] = schnorr_sign(node.peer, digest(for_another, "ab" * 32))
            assert await node.take(for_another) == "dropped"
        assert await node.told() == [] and node.db.stats.writes == writes
        assert node.inbox.counters == {"unhandled": 3, "invalid": 9}


async def test_an_error_is_never_answered_and_neither_is_a_schema_of_the_transport(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        writes = node.db.stats.writes
        for schema in (
            "hive:gossip/error",
            "hive:gossip/error/v1",
            "hive:gossip/error_again",
            "hive:chunk/v1",
            "hive:fee-policy/v1",
            "gossip/hello",
            "hive:/x",
            "hive:gossip\n/x",
        ):
            for changes in ({}, {"v": 2}, {"expires_at": NOW}):
                assert await node.take(node.message(schema=schema, **changes)) == "dropped", schema
                node.now += 10
        assert await node.told() == [] and node.db.stats.writes == writes


async def test_a_flood_of_a_known_sender_costs_ten_answers_a_minute_and_siblings_nothing(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as node:
        for number in range(200):
            await node.take(node.message(schema=f"hive:gossip/verb{number}"))
            await node.take(node.message(expires_at=NOW))
        assert len(await node.told()) == PER_MINUTE
        assert node.inbox.counters["dropped_rate"] == 400 - 60
        # Another peer has its own ten.
        other = Secret(os.urandom(32))
        assert await node.take(node.message(other), sender=other) == "refused"
        for number in range(SIBLINGS_PER_MINUTE):
            await node.messages.send("cc" * 32, {}, schema="hive:gossip/x", key=f"{number}", expires_at=None)


async def test_a_message_that_was_taken_is_not_called_expired_when_it_comes_again_later(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as node:
        await node.registry.register_handler("hive:gossip/*", "hive-probe-inbound")
        message = node.message()
        assert await node.take(message) is None
        node.now += 3_600
        assert await node.take(message) == "dropped"
        assert await node.told() == [] and node.inbox.counters["repeated"] == 1


async def test_an_answer_that_cannot_be_stored_is_no_answer(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        node.full = True
        assert await node.take(node.message()) == "dropped"
        node.full = False
        # The verb was not told yet, so the next message of it is.
        assert await node.take(node.message()) == "refused"


def test_another_version_is_read_as_far_as_its_signature() -> None:
    peer, node = Secret(b"\x01" * 32), "ab" * 32
    made: dict[str, Any] = {"schema": UNKNOWN, "v": 7, "msg_id": str(uuid.UUID(int=1)), "odd": {"x": 1}}
    made["sig"] = schnorr_sign(peer, digest(made, node))
    read = parse(encode(made).decode(), xonly_pubkey(peer), (node,))
    assert read == OtherVersion(7, made["msg_id"])
