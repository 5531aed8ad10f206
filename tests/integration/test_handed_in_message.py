"""What a transport hands in is handled once: beside a second call, a restart, a revocation, a reconciler."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from cl_hive_comms.domain.arrival import Arrival
from cl_hive_comms.plugin.parts import MIGRATIONS
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.inbound_service import KNOWN_PER_MINUTE, InboundService
from cl_hive_comms.storage.transport_store import InboxStore
from hive_shared.crypto import Sealer, Secret
from hive_shared.errors import RateLimited
from hive_shared.store import Db, StoreError
from pipeline_world import Crash, World

ALICE, BOB = "aa" * 32, "bb" * 32
COMMAND = '{"schema_type":"hive:monitor/v1"}'


class Inbox:
    """An InboundService over one file; `handled` is what reached the pipeline."""

    def __init__(self, path: Path) -> None:
        self.db = Db.open(path, MIGRATIONS)
        self.store = InboxStore(Sealer({1: Secret(b"k" * 32)}, 1))
        self.known = {ALICE, BOB}
        self.handled: list[Arrival] = []
        self.fails: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.service = InboundService(
            self.db,
            self.store,
            cast(IdentityService, None),
            knows=self.known.__contains__,
            handle_command=self._handle,
            now=lambda: 1_800_000_000,
            log=lambda level, event, **fields: None,
        )

    async def _handle(self, text: str, arrival: Arrival) -> bool:
        assert text == COMMAND
        await self.gate.wait()
        if self.fails:
            raise self.fails.pop()
        self.handled.append(arrival)
        return True

    async def hand_in(self, message_id: str = "m-1", sender: str = ALICE) -> None:
        await self.service.ingest(COMMAND, "air", sender, None, message_id)

    async def ended(self) -> list[tuple[str, bool]]:
        """State and whether the text is still there, of every row, once nothing is in work."""
        async with asyncio.timeout(60):
            while tasks := set(self.service._tasks):
                await asyncio.wait(tasks)
            if self.service._flushing is not None:
                await self.service._flushing
        await self.service.flush()
        return await self.rows()

    async def rows(self) -> list[tuple[str, bool]]:
        found = await self.db.read(
            lambda tx: tx.execute("SELECT state, content_enc FROM comms_inbox ORDER BY sender_key").fetchall()
        )
        return [(row["state"], row["content_enc"] is not None) for row in found]

    async def kill(self) -> None:
        for task in list(self.service._tasks):
            task.cancel()
        await asyncio.gather(*self.service._tasks, return_exceptions=True)
        self.db.close()


async def test_a_message_is_handled_once_however_often_it_is_handed_in(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "comms.db")
    inbox.gate.clear()
    await asyncio.gather(*(inbox.hand_in() for _ in range(5)))
    # In work: neither the minute's look nor another call takes it up again.
    await inbox.service.resume()
    await inbox.hand_in()
    inbox.gate.set()
    assert await inbox.ended() == [("handled", False)]
    await inbox.service.resume()
    await inbox.hand_in()
    assert await inbox.ended() == [("handled", False)] and len(inbox.handled) == 1
    # The same id of another sender is another message.
    await inbox.hand_in(sender=BOB)
    assert await inbox.ended() == [("handled", False)] * 2
    assert [row.sender for row in inbox.handled] == [ALICE, BOB]
    # A stranger's is handled, and nothing is kept of it.
    await inbox.hand_in(sender="cc" * 32)
    assert len(await inbox.ended()) == 2 and len(inbox.handled) == 3
    await inbox.kill()


async def test_a_kept_message_survives_a_stop_and_a_full_disk(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "comms.db")
    inbox.gate.clear()
    await inbox.hand_in()
    await inbox.kill()
    again = Inbox(tmp_path / "comms.db")
    await again.service.load()
    assert await again.rows() == [("queued", True)] and not again.handled
    # While it waits for its turn, its transport repeats it.
    await again.hand_in()
    again.fails.append(StoreError("disk full"))
    await again.service.resume()
    assert await again.ended() == [("queued", True)]
    await again.service.resume()
    assert await again.ended() == [("handled", False)]
    (arrival,) = again.handled
    assert (arrival.transport, arrival.sender, arrival.message_id, arrival.known) == (
        "air",
        ALICE,
        "m-1",
        True,
    )
    await again.kill()


async def test_a_kept_message_of_a_sender_revoked_meanwhile_does_not_wait_for_ever(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "comms.db")
    inbox.gate.clear()
    await inbox.hand_in()
    await inbox.kill()
    again = Inbox(tmp_path / "comms.db")
    again.known.clear()
    await again.service.resume()
    assert await again.ended() == [("handled", False)]
    # The pipeline knows the sender no more and drops it; here it only arrives.
    assert [row.known for row in again.handled] == [False]
    await again.kill()


async def test_a_message_that_cannot_be_kept_is_not_called_queued(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "comms.db")
    keep = inbox.store.keep

    def full(*_: Any) -> bool:
        raise StoreError("disk full")

    inbox.store.keep = full  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        await inbox.hand_in()
    inbox.store.keep = keep  # type: ignore[method-assign]
    await inbox.hand_in()
    assert await inbox.ended() == [("handled", False)] and len(inbox.handled) == 1
    for n in range(KNOWN_PER_MINUTE - 2):
        await inbox.hand_in(f"n-{n}")
    with pytest.raises(RateLimited) as error:
        await inbox.hand_in("one too many")
    assert error.value.data["retry_after"] == 60
    await inbox.kill()


class Gated:
    """Holds a call back until it is let go."""

    def __init__(self, owner: object, name: str) -> None:
        self._call = getattr(owner, name)
        self.reached, self.open = asyncio.Event(), asyncio.Event()
        setattr(owner, name, self)

    async def __call__(self, *args: Any, **named: Any) -> Any:
        self.reached.set()
        async with asyncio.timeout(60):
            await self.open.wait()
        return await self._call(*args, **named)


async def died(path: Path, point: str) -> tuple[World, dict[str, Any]]:
    """A world killed at a point of a fee change that came over a transport, and up again."""
    world = World(path)
    document = world.envelope(
        "hive:fee-policy/v1",
        "set_single",
        {"channel_id": "101x1x0", "fee_ppm": 120},
        # By its own id a repeat can be taken for the command.
        command_id="00000000-0000-4000-8000-00000000c0de",
    )
    world.crash_at = point
    with pytest.raises(Crash):
        await world.handle(document, transport="air")
    world.restart()
    return world, document


@pytest.mark.parametrize("point", ["after_executing", "after_cln"])
async def test_a_message_that_comes_again_beside_the_reconciler_runs_nothing(
    tmp_path: Path, point: str
) -> None:
    world, document = await died(tmp_path, point)
    done = world.setchannels
    gate = Gated(world.node, "listpeerchannels")
    reconciling = asyncio.create_task(world.pipeline.commands.reconcile())
    # It asks the node at this moment; the message that was kept comes to the pipeline.
    async with asyncio.timeout(60):
        await gate.reached.wait()
    answer = await world.handle(document, transport="air")
    assert answer is not None and answer["status"] == 3
    gate.open.set()
    assert await reconciling
    await ended_once(world, document, point, done)


@pytest.mark.parametrize("point", ["after_received", "after_executing", "after_cln"])
async def test_the_reconciler_does_not_take_a_repeat_for_the_command_in_work(
    tmp_path: Path, point: str
) -> None:
    world, document = await died(tmp_path, point)
    done = world.setchannels
    sending = Gated(world.pipeline.commands, "_send")
    repeat = asyncio.create_task(world.handle(document, transport="air"))
    async with asyncio.timeout(60):
        await sending.reached.wait()
    # Under way still; the row it repeats gets its end now, not at the next look.
    assert await world.pipeline.commands.reconcile()
    assert len(await world.docs()) == 1
    sending.open.set()
    assert (await repeat or {})["status"] == 3
    await ended_once(world, document, point, done)


@pytest.mark.parametrize("point", ["after_received", "after_executing", "after_cln"])
async def test_a_row_passed_by_for_a_repeat_gets_its_end_with_the_repeat(tmp_path: Path, point: str) -> None:
    world, document = await died(tmp_path, point)
    done = world.setchannels
    storing = Gated(world.db, "write")
    repeat = asyncio.create_task(world.handle(document, transport="air"))
    async with asyncio.timeout(60):
        await storing.reached.wait()
    # Whether it is a repeat is not known yet: the clock's look takes it for a command in work.
    await world.pipeline.commands.reconcile()
    storing.open.set()
    assert (await repeat or {})["status"] != 3
    await ended_once(world, document, point, done)


async def ended_once(world: World, document: dict[str, Any], point: str, done: int) -> None:
    """One receipt that tells the truth, no further effect, and every answer by the way of the command."""
    ran = point == "after_cln"
    assert world.setchannels == done == ran
    (receipt,) = await world.docs()
    assert receipt["status"] == {"after_received": "rejected"}.get(point, "success" if ran else "error")
    final = await world.handle(document, transport="air")
    assert final is not None and final["request_nonce"] == document["nonce"]
    assert (final["status"] == 0) == ran and final["status"] != 3
    assert world.setchannels == done and len(await world.docs()) == 1
    assert {message["transport"] for message in world.out.sent} == {"air"}
    world.close()
