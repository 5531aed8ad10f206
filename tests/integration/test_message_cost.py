"""What a message may cost the database, counted by SQLite itself (Protocol 04 §6, 02 §7.1).

Foreign and malformed ones nothing; a malformed command of an agent its answer, so many in a minute.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from broken_wraps import broken
from cl_hive_comms.domain.arrival import Arrival
from cl_hive_comms.domain.outbox import Outgoing
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.inbound_errors import PER_MINUTE as ERRORS_PER_MINUTE
from cl_hive_comms.services.inbound_errors import MessageErrors
from cl_hive_comms.services.inbound_service import KNOWN_PER_MINUTE, InboundService
from cl_hive_comms.services.inbound_signed import SignedInbox
from cl_hive_comms.services.intake import Ingress
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.messenger_signed import SignedMessages
from cl_hive_comms.services.part_resend import PartResend
from cl_hive_comms.services.ports_transport import Delivery
from cl_hive_comms.services.sibling_delivery import SiblingDelivery
from cl_hive_comms.services.sibling_registry import SiblingRegistry
from cl_hive_comms.storage.sibling_store import SiblingStore
from cl_hive_comms.storage.state_store import StateStore
from cl_hive_comms.storage.transport_store import InboxStore, OutboxStore
from hive_shared.crypto import Sealer, Secret
from hive_shared.nostr.chunks import Missing, split
from hive_shared.nostr.event import Event
from hive_shared.nostr.giftwrap import split_chunks, wrap
from hive_shared.signed_message import Draft, sign
from pipeline_world import AGENT_KEY, NODE_KEY, Keys, World

ANSWERED_PER_MINUTE = 120
"""Answers to commands that are none, to one key (services.intake)."""


class NodeKeys(Keys):
    """The pipeline's key, also for reading."""

    def readable_secrets(self) -> dict[str, Secret]:
        return {self.pubkey: NODE_KEY}

    def secret_of(self, pubkey: str) -> Secret | None:
        return NODE_KEY if pubkey == self.pubkey else None


class Node(World):
    """The pipeline behind its message layer, on one real file. Relays take nothing."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.keys = cast(IdentityService, NodeKeys())
        outbox = OutboxStore(Sealer({1: Secret(bytes(32))}, 1))
        clock: Callable[[], int] = lambda: self.now  # noqa: E731
        messenger = Messenger(self.db, outbox, self.keys, self, self, now=clock, log=self._quiet)
        # From here on answers are rows, as in the plugin.
        self.out.enqueue = messenger.enqueue  # type: ignore[method-assign]
        self.inbound = InboundService(
            self.db,
            InboxStore(Sealer({1: Secret(bytes(32))}, 1)),
            self.keys,
            knows=self.credentials.knows,
            handle_command=self._handle,
            now=clock,
            log=self._quiet,
        )
        self.messages = SignedMessages(
            self.db, StateStore(), self.keys, messenger, now=clock, random_bytes=os.urandom
        )
        self.inbound.parts.on_lost(
            PartResend(self.db, outbox, self.keys, self, self, now=clock, log=self._quiet)
        )
        self.inbound.on_schema(
            SignedInbox(
                SiblingRegistry(self.db, SiblingStore(), self, now=clock, log=self._quiet),
                SiblingDelivery(self._no_sibling, present=lambda who: False, log=self._quiet),
                self.keys,
                errors=MessageErrors(self._tell, now=clock),
                now=clock,
                log=self._quiet,
            )
        )

    async def _handle(self, text: str, arrival: Arrival) -> bool:
        ingress = Ingress(arrival.transport, arrival.sender, arrival.message_id, arrival.received_at)
        return await self.pipeline.commands.handle(text, ingress) is not None

    async def _tell(self, recipient: str, area: str, msg_id: str, code: str) -> bool:
        await self.messages.tell_error(recipient, area, msg_id, code)
        return True

    async def _no_sibling(self, *_: Any, **__: Any) -> dict[str, Any]:
        raise AssertionError("no sibling is there")

    async def call(self, method: str, params: dict[str, Any], *, timeout: float) -> object:
        return {}

    async def send(self, secret: Secret, message: Outgoing, relays: Sequence[str]) -> Delivery:
        return Delivery((), {"wss://r": "unreachable"})

    async def send_parts(
        self, secret: Secret, message: Outgoing, relays: Sequence[str], indexes: object
    ) -> Delivery:
        raise AssertionError("nothing was sent that could be sent again")

    async def relays_for(self, message: Outgoing, attempts: int) -> list[str]:
        return ["wss://r"]

    @staticmethod
    def _quiet(level: str, event: str, /, **fields: object) -> None:
        return None

    def wrapped(self, text: str, secret: Secret) -> Event:
        event, _ = wrap(
            secret, self.keys.pubkey, text, tags=[], now=self.now, rng=os.urandom, expiration=None
        )
        return event

    async def take(self, event: Event) -> None:
        """One event as the pool hands it over, to its end."""
        await self.inbound.on_wrap("wss://r", event)
        while tasks := set(self.inbound._tasks):
            await asyncio.wait(tasks, timeout=60)

    async def cost(self) -> tuple[int, int]:
        """Rows inserted, updated and deleted since the file was opened, as SQLite counts them, and the
        transactions that were committed besides those of this count."""
        await self.inbound.flush()
        writes = self.db.stats.writes
        changes = await self.db.write(lambda tx: tx.total_changes)
        self.db.stats.writes = writes
        return changes, writes

    async def rows(self, table: str) -> int:
        return await self.db.read(lambda tx: tx.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path)
    yield node
    await node.inbound.parts.stop()
    node.db.close()


def signed(node: Node, secret: Secret, **changes: Any) -> str:
    times = {"sent_at": node.now, "expires_at": node.now + 600, **changes}
    draft = Draft("hive:gossip/nobody", str(uuid.uuid4()), "t", 1, body={"n": 1}, **times)
    return sign(draft, secret, node.keys.pubkey)


def texts(node: Node, secret: Secret) -> dict[str, str]:
    """What anybody may write into a wrap that is right in itself; none of it deserves an answer."""
    part = json.loads(split_chunks("x" * 40_000)[0])
    small = json.loads(split("x")[0])
    request = json.loads(Missing("", "0" * 16, (0, 1)).content())
    good = json.loads(signed(node, secret))
    return {
        "no schema": '{"hello":1}',
        "a schema that is none": '{"schema":7}',
        "a foreign schema": '{"schema":"https://example.com/x"}',
        "a part with a wrong number": json.dumps({**part, "i": 64}),
        "a part with too many fields": json.dumps({**part, "more": 1}),
        "a part that stays alone": json.dumps(part),
        "the same part once more": json.dumps(part),
        "a part whose number is a list": json.dumps({**part, "i": [0]}),
        "a part whose id is none": json.dumps({**part, "id": ["0"]}),
        "a deep part": json.dumps(small)[:-1] + ',"x":' + "[" * 500 + "]" * 500 + "}",
        "a part inside a part": split(json.dumps(small))[0],
        "a part of nothing": json.dumps({**part, "data": ""}),
        "a part with a wrong hash": json.dumps({**part, "n": 1}),
        "a request for parts that never were": json.dumps(request),
        "a request that is none": json.dumps({**request, "missing": [1, 1]}),
        "a long request": json.dumps({**request, "missing": list(range(63)), "x": "y" * 20_000}),
        "a message with a forged signature": json.dumps({**good, "sig": "00" * 64}),
        "a message with another body": json.dumps({**good, "body": {}}),
        "a message of another sender": signed(node, Secret(os.urandom(32))),
        "a message of another version, unsigned": json.dumps({**good, "v": 2}),
        "an error": json.dumps({**good, "schema": "hive:gossip/error"}),
    }


def unreadable() -> dict[str, str]:
    """Of a stranger nothing; an agent learns that its command could not be read."""
    return {
        "no JSON": "{" * 50,
        "a number": "17",
        "a list": "[]",
        "empty": "",
        "deep": '{"a":' * 3_000,
        "a lone surrogate": '{"schema_type":"\\ud800"}',
        "no command": '{"schema_type":"hive:monitor/v1"}',
        "a command of nothing": '{"schema_type":7}',
        "a large command": json.dumps({"schema_type": "hive:monitor/v1", "x": "y" * 20_000}),
    }


@pytest.mark.parametrize("behind", ["a stranger", "an agent", "a stranger that names an agent"])
async def test_a_wrap_that_is_wrong_in_any_layer_costs_nothing(tmp_path: Path, behind: str) -> None:
    async with opened(tmp_path) as node:
        sender = Secret(os.urandom(32)) if behind == "a stranger" else AGENT_KEY
        made = broken(sender, node.keys.pubkey, '{"schema_type":"hive:monitor/v1"}', node.now)
        if behind == "a stranger that names an agent":
            made = {name: event for name, event in made.items() if "another author" in name}
        before = await node.cost()
        for name, event in made.items():
            await node.take(event)
            assert await node.cost() == before, name
        seen = node.inbound.counters
        assert sum(seen.values()) == len(made), seen
        assert all(name.startswith("invalid_") or name == "from_the_future" for name in seen), seen


async def test_a_stranger_costs_nothing_whatever_it_writes(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        before = await node.cost()
        secret = Secret(os.urandom(32))
        told = {
            "a message that has run out": signed(node, secret, expires_at=node.now),
            "a verb nobody knows": signed(node, secret),
            "a command": '{"schema_type":"hive:monitor/v1","v":1}',
        }
        for name, text in {**texts(node, secret), **unreadable(), **told}.items():
            await node.take(node.wrapped(text, secret))
            assert await node.cost() == before, name
        assert node.out.sent == [] and await node.rows("comms_outbox") == 0


async def test_an_agent_costs_nothing_by_what_is_no_command(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        before = await node.cost()
        for name, text in texts(node, AGENT_KEY).items():
            await node.take(node.wrapped(text, AGENT_KEY))
            assert await node.cost() == before, name
        # Nor by the part that never was followed by another, once it is given up.
        node.now += 601
        node.inbound.parts._long._buffer.expire(node.now)
        assert await node.cost() == before and node.inbound.counters["parts"] == 1


@pytest.mark.parametrize("what", unreadable())
async def test_a_command_that_cannot_be_read_costs_its_answer_and_the_note_that_it_came(
    tmp_path: Path, what: str
) -> None:
    async with opened(tmp_path) as node:
        changes, writes = await node.cost()
        event = node.wrapped(unreadable()[what], AGENT_KEY)
        await node.take(event)
        assert await node.cost() == (changes + 2, writes + 2)
        assert await node.rows("comms_outbox") == await node.rows("comms_inbox") == 1
        await node.take(event)
        assert await node.cost() == (changes + 2, writes + 2)


async def test_an_agent_beyond_its_minute_costs_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        changes, _ = await node.cost()
        for number in range(ANSWERED_PER_MINUTE):
            await node.take(node.wrapped(f"junk {number}", AGENT_KEY))
        assert await node.rows("comms_outbox") == ANSWERED_PER_MINUTE
        full = await node.cost()
        assert full[0] == changes + 2 * ANSWERED_PER_MINUTE
        for number in range(KNOWN_PER_MINUTE):
            await node.take(node.wrapped(f"more junk {number}", AGENT_KEY))
        assert await node.cost() == full
        assert node.inbound.counters["dropped_rate"] == ANSWERED_PER_MINUTE
        # Its next minute begins as this one did.
        node.now += 60
        await node.take(node.wrapped("junk again", AGENT_KEY))
        assert (await node.cost())[0] == full[0] + 2


async def test_errors_about_messages_cost_ten_answers_a_minute(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        for _ in range(KNOWN_PER_MINUTE):
            await node.take(node.wrapped(signed(node, AGENT_KEY, expires_at=node.now), AGENT_KEY))
        full = await node.cost()
        assert await node.rows("comms_outbox") == await node.rows("comms_inbox") == ERRORS_PER_MINUTE
        for _ in range(50):
            await node.take(node.wrapped(signed(node, AGENT_KEY), AGENT_KEY))
        assert await node.cost() == full
