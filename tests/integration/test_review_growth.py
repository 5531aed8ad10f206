"""What one holder of a credential can make the node keep (docs/protocol/02-fleet-management.md §7.5, §9)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.inbound_service import KNOWN_PER_MINUTE, InboundService
from cl_hive_comms.services.receipt_check import SEAL_SIZE
from cl_hive_comms.services.receipt_service import operator_event
from cl_hive_comms.storage.command_store import CommandStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from cl_hive_comms.storage.transport_store import InboxStore
from hive_shared.crypto import Secret, sha256
from hive_shared.nostr.giftwrap import Message, wrap
from hive_shared.nostr.keys import nsec_encode
from hive_shared.store import StoreError, Tx
from pipeline_world import AGENT_KEY, NODE_KEY, Keys, World, slug

FEES = "hive:fee-policy/v1"
NONSENSE = {"note": ["x" * 1_900] * 25}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


async def test_large_nonsense_leaves_no_large_receipt_and_no_large_row(world: World) -> None:
    for schema, action in ((FEES, "set_single"), (FEES, "no_such"), ("hive:monitor/v1", "fee_report")):
        response = await world.ask(schema, action, NONSENSE)
        assert slug(response) in ("invalid_params", "unsupported_action")
        row = await world.db.read(lambda tx, c=response["command_id"]: CommandStore().get(tx, c))  # type: ignore[misc]
        assert row is not None and len(row.envelope) < 5_000
    for doc in await world.docs():
        assert doc["params"]["bytes"] > 40_000 and len(doc["params"]["sha256"]) == 64
    assert (await world.receipts.verify()).ok


async def test_acceptance_02_25_secrets_an_agent_sends_where_they_do_not_belong(world: World) -> None:
    """Refused for the unknown field or run with the text: the receipt has their hashes, and holds."""
    nsec, preimage = nsec_encode(AGENT_KEY), "5a" * 32
    params = {"channel_id": "101x1x0", "fee_ppm": 110, "preimage": preimage}
    assert slug(await world.ask(FEES, "set_single", params)) == "invalid_params"
    held = await world.ask(FEES, "set_zero_fee", {"channel_id": "102x1x0", "reason": f"my key: {nsec}"})
    assert slug(held) == "constraint_violated", held
    docs = await world.docs()
    assert len(docs) == 2
    shown = str(docs) + str(world.out.alerts) + str(world.log)
    assert nsec not in shown and preimage not in shown
    assert f"sha256:{sha256(nsec.encode()).hex()}" in shown
    assert (await world.receipts.verify()).ok


async def test_the_hourly_loop_seals_what_it_checked(world: World) -> None:
    def fill(tx: Tx) -> None:
        for _ in range(SEAL_SIZE):
            world.receipts.append(tx, operator_event("policy_set"))

    await world.db.write(fill)
    await world.pipeline.timers.hourly()
    assert await world.db.read(ReceiptStore().last_sealed) == SEAL_SIZE
    assert (await world.receipts.verify()).ok


class Identity:
    pubkey = Keys.pubkey

    def readable_secrets(self) -> dict[str, Secret]:
        return {Keys.pubkey: NODE_KEY}


class Inbox:
    def __init__(self, world: World) -> None:
        self.world = world
        self.handled: list[str] = []
        self.service = InboundService(
            world.db,
            InboxStore(),
            cast("IdentityService", Identity()),
            knows=lambda _key: True,
            handle_command=self._handle,
            now=lambda: world.now,
            log=lambda *_, **__: None,
        )

    async def _handle(self, text: str, message: Message) -> bool:
        self.handled.append(text)
        return True

    async def receive(self, count: int) -> None:
        for number in range(count):
            event, _ = wrap(
                AGENT_KEY,
                Keys.pubkey,
                f'{{"schema_type":"x","n":{number}}}',
                tags=[],
                now=self.world.now,
                rng=lambda n: next(self.world.random).to_bytes(n, "big"),
                expiration=None,
            )
            await self.service.on_wrap("wss://r.example", event)


async def test_one_known_sender_has_a_share_of_the_intake(world: World) -> None:
    inbox = Inbox(world)
    await inbox.receive(KNOWN_PER_MINUTE + 20)
    await inbox.service.stop()
    assert len(inbox.handled) == KNOWN_PER_MINUTE
    assert inbox.service.counters["dropped_rate"] == 20


async def test_nothing_is_taken_in_while_stopping(world: World) -> None:
    inbox = Inbox(world)
    await inbox.service.stop()
    await inbox.receive(1)
    assert inbox.handled == []


async def test_ids_that_the_disk_refused_are_stored_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox(world)
    await inbox.receive(2)
    real = world.db.write

    async def full(_body: Any, **_how: Any) -> Any:
        raise StoreError("disk full")

    monkeypatch.setattr(world.db, "write", full)
    await inbox.service.stop()
    with pytest.raises(StoreError):
        await inbox.service.flush()
    monkeypatch.setattr(world.db, "write", real)
    await inbox.service.flush()
    assert len(await world.db.read(lambda tx: InboxStore().recent_ids(tx, 0, 10))) == 4
