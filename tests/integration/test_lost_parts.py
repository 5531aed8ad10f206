"""A long message arrives although a relay lost a part of it (Protocol 04 §6 "Larger").

A node's message layer and the kit's, in this process, over a real relay that lets parts fall.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cl_hive_comms.domain.arrival import Arrival
from cl_hive_comms.services.part_resend import ALL_STRANGERS, PER_PEER
from hive_devnet.relay import RelayProcess
from hive_shared.crypto import Secret
from hive_shared.nostr.chunks import KEEP_SECONDS, Missing
from hive_shared.nostr.giftwrap import long_id, split_chunks, wrap
from lossy_relay import LossyRelay, lossy
from message_ends import Kit, ends, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


def command(number: int, size: int = 60_000) -> str:
    return json.dumps({"schema_type": "hive:monitor/v1", "number": number, "filler": "x" * size})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relay() -> AsyncIterator[LossyRelay]:
    process = await RelayProcess.start()
    async with lossy(process.url) as door:
        yield door
    await process.stop()


# -- node to kit --------------------------------------------------------------------------------------------


async def test_a_long_answer_of_the_node_arrives_though_a_part_was_lost(
    tmp_path: Path, relay: LossyRelay
) -> None:
    async with ends(tmp_path, relay) as world:
        relay.loses = lambda number: number == 1
        await world.node.send(text := command(1))
        await until(lambda: world.kit.parts == 3)
        world.kit.pauses.let_one_pass()
        await until(lambda: world.kit.got)
        assert [message.content for message in world.kit.got] == [text]
        assert world.kit.got[0].sender == world.node.identity.pubkey
        # Four parts, one of them twice: what was asked for and nothing else.
        assert (len(relay.seen), len(relay.lost)) == (5, 1) and relay.short == 1
        await until(lambda: world.node.lost.counters == {"parts_resent": 1})
        await until(lambda: world.kit.link._long.idle)
        # The next look at the relays brings all parts once more: the same message, under the same name.
        before = world.kit.got[0].rumor_id
        again = Kit(relay.url, world.clock)
        again.link._secret = world.kit.secret
        await again.start()
        await until(lambda: again.got)
        assert again.got[0].rumor_id == before
        await again.stop()


async def test_the_node_answers_after_a_kill_between_its_parts_and_the_request(
    tmp_path: Path, relay: LossyRelay
) -> None:
    async with ends(tmp_path, relay) as world:
        relay.loses = lambda number: number in (0, 3)
        await world.node.send(text := command(2))
        await until(lambda: len(relay.seen) == 4)
        await until(lambda: world.kit.parts == 2)
        # Killed before that, it would send the whole message again by itself (at least once, 04 §6).
        await until(world.node.noted)
        await world.restart()
        assert world.kit.got == []
        name = long_id(text)
        assert name is not None
        missing = Missing(world.node.identity.pubkey, name, (0, 3))
        assert await world.kit.link._ask(missing)
        await until(lambda: world.kit.got)
        assert world.kit.got[0].content == text and len(relay.seen) == 6
        # Once more: these parts went out again already.
        world.clock.ahead += 1
        assert await world.kit.link._ask(missing)
        await until(lambda: world.node.lost.counters["resend_repeated"] == 1)
        assert len(relay.seen) == 6


async def test_when_the_resent_part_is_lost_too_the_kit_forgets_the_message(
    tmp_path: Path, relay: LossyRelay
) -> None:
    async with ends(tmp_path, relay) as world:
        relay.loses = lambda number: number in (1, 4)
        await world.node.send(command(3))
        await until(lambda: world.kit.parts == 3)
        world.kit.pauses.let_one_pass()
        await until(lambda: len(relay.lost) == 2)
        assert relay.short == 1 and not world.kit.got
        link = world.kit.link
        world.clock.ahead += KEEP_SECONDS
        world.kit.pauses.let_one_pass()
        await until(lambda: link._long.idle)
        assert link._long.held_bytes == 0 and not world.kit.got
        assert relay.short == 1 and len(relay.seen) == 5


# -- kit to node --------------------------------------------------------------------------------------------


async def test_a_long_command_of_the_kit_arrives_though_a_part_was_lost(
    tmp_path: Path, relay: LossyRelay
) -> None:
    async with ends(tmp_path, relay) as world:
        relay.loses = lambda number: number == 2
        key = world.node.identity.pubkey
        assert await world.kit.link.deliver(
            key, text := command(4), [relay.url], expires_at=world.clock() + 600
        )
        await until(lambda: world.node.inbound.counters["parts"] == 3)
        world.node.pauses.let_one_pass()
        await until(lambda: world.node.handled)
        assert world.node.handled == [text]
        assert len(relay.seen) == 5 and relay.short == 1
        await until(lambda: world.node.lost.counters == {"parts_asked_for": 1})
        await until(lambda: world.node.inbound.parts.idle)
        # All four parts are remembered now, so the message is known after a restart.
        assert await world.node.rows() == 4
        await world.restart()
        await until(lambda: world.node.inbound.counters["repeated"] == 4)
        assert world.node.handled == [] and world.node.inbound.parts.idle


async def test_a_node_killed_between_the_parts_and_its_request_begins_anew(
    tmp_path: Path, relay: LossyRelay
) -> None:
    async with ends(tmp_path, relay) as world:
        relay.loses = lambda number: number == 0
        key = world.node.identity.pubkey
        await world.kit.link.deliver(key, text := command(5), [relay.url], expires_at=world.clock() + 600)
        await until(lambda: world.node.inbound.counters["parts"] == 3)
        # Parts are held in memory alone, and their ids with them: otherwise they would be lost for good.
        assert await world.node.rows() == 0
        await world.restart()
        await until(lambda: world.node.inbound.counters["parts"] == 3)
        world.node.pauses.let_one_pass()
        await until(lambda: world.node.handled)
        assert world.node.handled == [text] and len(relay.seen) == 5


async def test_when_the_kits_part_is_lost_again_the_node_forgets_the_message_and_takes_it_later(
    tmp_path: Path, relay: LossyRelay
) -> None:
    async with ends(tmp_path, relay) as world:
        relay.loses = lambda number: number in (1, 4)
        key, parts = world.node.identity.pubkey, world.node.inbound.parts
        await world.kit.link.deliver(key, text := command(6), [relay.url], expires_at=world.clock() + 900)
        await until(lambda: world.node.inbound.counters["parts"] == 3)
        world.node.pauses.let_one_pass()
        await until(lambda: len(relay.lost) == 2)
        assert not parts.idle and not world.node.handled
        await until(lambda: world.node.lost.counters["parts_asked_for"] == 1)
        world.clock.ahead += KEEP_SECONDS
        world.node.pauses.let_one_pass()
        await until(lambda: parts.idle)
        assert world.node.lost.counters == {"parts_asked_for": 1} and not world.node.handled
        assert await world.node.rows() == 0
        # It is sent as a whole again, as the kit does with what is unanswered: nothing stands in its way.
        await world.kit.link.deliver(key, text, [relay.url], expires_at=world.clock() + 900)
        await until(lambda: world.node.handled)
        assert world.node.handled == [text] and parts.idle


# -- who gets nothing ---------------------------------------------------------------------------------------


async def test_foreign_and_false_requests_cost_no_part_and_no_database_write(
    tmp_path: Path, relay: LossyRelay
) -> None:
    async with ends(tmp_path, relay) as world:
        text = command(7)
        await world.node.send(text)
        await until(lambda: world.kit.got)
        await until(world.node.noted)
        name = long_id(text)
        assert name is not None
        writes, counters = world.node.db.stats.writes, world.node.lost.counters
        good = Missing(world.node.identity.pubkey, name, (1,)).content()

        async def ask(content: str, secret: Secret = world.kit.secret, ago: int = 0) -> None:
            # The same words in the same second would be the same message.
            world.clock.ahead += 1
            seen = sum(counters.values()) + world.node.inbound.counters["ignored"]
            event, _ = wrap(
                secret,
                world.node.identity.pubkey,
                content,
                tags=[],
                now=world.clock() - ago,
                rng=os.urandom,
                expiration=None,
            )
            await world.kit.pool.publish(event, [relay.url])
            await until(
                lambda: sum(counters.values()) + world.node.inbound.counters["ignored"] > seen,
            )

        await ask(good, Secret(os.urandom(32)))
        await ask(good.replace(name, "0" * 16))
        await ask(good.replace("[1]", "[1,1]"))
        await ask(good.replace("[1]", "[64]"))
        await ask(good.replace("[1]", "[1,4]"))
        await ask(good.replace('"missing"', '"x":1,"missing"'))
        await ask(good, ago=KEEP_SECONDS + 60)
        assert counters == {"resend_unknown": 2, "resend_malformed": 4, "resend_late": 1}
        assert len(relay.seen) == 4
        await world.node.inbound.flush()
        assert world.node.db.stats.writes == writes
        # And one that is none of these is obeyed, once.
        await ask(good)
        await until(lambda: counters["parts_resent"] == 1)
        await ask(good)
        assert counters["resend_repeated"] == 1 and len(relay.seen) == 5


async def test_a_flood_of_requests_is_answered_by_a_look_into_the_outbox_so_many_times_a_minute(
    tmp_path: Path, relay: LossyRelay
) -> None:
    async with ends(tmp_path, relay) as world:
        reads, read = 0, world.node.db.read

        async def counted(body: Any) -> Any:
            nonlocal reads
            reads += 1
            return await read(body)

        world.node.db.read = counted  # type: ignore[method-assign]
        lost, now = world.node.lost, world.clock()
        for known, most in ((True, PER_PEER), (False, ALL_STRANGERS)):
            reads = 0
            for number in range(100):
                text = Missing("", f"{number:016x}", (0,)).content()
                sender = world.kit.key if known else f"{number:064x}"
                arrival = Arrival("nostr_dm", sender, str(number), now, known, sent_at=now)
                assert not await lost.answer(text, arrival)
            assert reads == most
        assert lost.counters == {"resend_unknown": 60, "resend_rate": 140}


async def test_a_stranger_is_not_reassembled_and_not_asked(tmp_path: Path, relay: LossyRelay) -> None:
    async with ends(tmp_path, relay, known=False) as world:
        relay.loses = lambda number: number == 1
        key = world.node.identity.pubkey
        writes = world.node.db.stats.writes
        await world.kit.link.deliver(key, command(8), [relay.url], expires_at=world.clock() + 600)
        await until(lambda: world.node.inbound.counters["ignored"] == 3)
        assert world.node.inbound.parts.idle and relay.short == 0
        await world.node.inbound.flush()
        assert world.node.db.stats.writes == writes
        # A sibling's long message went to it, though: for that one it may ask.
        relay.loses = lambda number: False
        await world.node.send(text := command(9))
        await until(lambda: world.kit.got)
        name = long_id(text)
        assert name is not None and await world.kit.link._ask(Missing(key, name, (0,)))
        await until(lambda: world.node.lost.counters["parts_resent"] == 1)


async def test_parts_of_a_transport_wait_in_their_rows_and_are_not_asked_for(
    tmp_path: Path, relay: LossyRelay
) -> None:
    async with ends(tmp_path, relay) as world:
        first, *rest = split_chunks(text := command(10))
        service = world.node.inbound

        async def states() -> list[str]:
            await service.flush()
            found = await world.node.db.read(
                lambda tx: tx.execute("SELECT state FROM comms_inbox ORDER BY received_at").fetchall()
            )
            return sorted(row["state"] for row in found)

        for number, part in enumerate(rest):
            await service.ingest(part, "air", world.kit.key, None, f"m{number}")
        await until(lambda: service.counters["parts"] == 3)
        assert await states() == ["queued"] * 3
        # Killed here, they are taken up again.
        await world.restart()
        service = world.node.inbound
        await service.resume()
        await until(lambda: service.counters["parts"] == 3)
        await service.ingest(first, "air", world.kit.key, None, "m9")
        await until(lambda: world.node.handled)
        assert world.node.handled == [text]
        await until(lambda: service._flushing is not None and service._flushing.done())
        assert await states() == ["handled"] * 4 and service.parts.idle
        # Given up, they are dropped; and nobody was asked for the missing one by direct message.
        other = split_chunks(command(11))
        await service.ingest(other[1], "air", world.kit.key, None, "m10")
        await until(lambda: service.counters["parts"] == 4)
        world.clock.ahead += KEEP_SECONDS
        world.node.pauses.let_one_pass()
        await until(lambda: service.parts.idle)
        assert await states() == ["dropped"] + ["handled"] * 4
        assert relay.short == 0
