"""The action log: an agent is told of its commands as they end (docs/protocol/02-fleet-management.md §10)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.services.action_log import PAGE
from cl_hive_comms.services.receipt_service import operator_event
from cl_hive_comms.storage.command_store import CommandStore
from cl_hive_comms.storage.telemetry_store import TelemetryStore
from crash_points import killed
from hive_shared import crypto, envelope
from hive_shared.registry.control import ACTION_LOG_ENTRY, ACTION_LOG_PAGE, PUSHES
from pipeline_world import AGENT_KEY, NOW, OTHER_KEY, Keys, View, World, issue, slug

CONTROL = "hive:control/v1"
DAY = 86_400
_ASK = {"metrics": ["action_log"], "interval_s": 3_600, "until": NOW + 20 * DAY}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def told(world: World) -> list[dict[str, Any]]:
    """Pages of the log that were sent, checked as an agent checks them, with the number of the push."""
    pages = []
    for message in world.out.sent:
        doc = json.loads(message["content"])
        if message["kind"] != "push" or doc["schema_payload"]["action"] != "telemetry":
            continue
        assert envelope.verify_push(doc, Keys.pubkey)
        body: dict[str, Any] = PUSHES["telemetry"].parse(doc["schema_payload"]["params"])
        page: dict[str, Any] = ACTION_LOG_PAGE.parse(body["metrics"]["action_log"])
        pages.append({**page, "seq": body["seq"], "to": message["recipient"]})
    return pages


async def tick(world: World) -> int | None:
    return await world.pipeline.telemetry.tick()


async def test_what_ends_is_told_once_in_order_and_nothing_of_others(world: World) -> None:
    world.credentials.add(View(issue(OTHER_KEY, number=2), "adv-2"))
    assert (await world.set_fee(120))["status"] == 0
    answer = await world.ask(CONTROL, "telemetry_subscribe", _ASK)
    assert answer["status"] == 0 and answer["result"]["metrics"] == ["action_log"], answer
    await world.ask(CONTROL, "telemetry_subscribe", _ASK, agent=OTHER_KEY, credential=2)
    await tick(world)
    # It begins with what ends from now on; the first page says up to where.
    first, _ = told(world)
    assert (first["seq"], first["after"], first["up_to"], first["entries"]) == (1, 1, 1, [])
    assert (await world.set_fee(130, channel="102x1x0"))["status"] == 0
    refused = await world.ask("hive:fee-policy/v1", "set_single", {"channel_id": "9x9x9", "fee_ppm": 5})
    assert refused["status"] == 1
    assert await tick(world) is not None
    page = told(world)[2]
    assert page["to"] == crypto.xonly_pubkey(AGENT_KEY) and len(told(world)) == 3
    done, no = (ACTION_LOG_ENTRY.parse(each) for each in page["entries"])
    assert isinstance(done, dict) and isinstance(no, dict)
    assert (done["schema"], done["action"], done["status"]) == ("hive:fee-policy/v1", "set_single", "success")
    assert (no["status"], no["slug"]) == ("rejected", slug(refused))
    chain = (await world.ask(CONTROL, "receipts_list", {}))["result"]["items"]
    hashes = {row["receipt_id"]: row["receipt_hash"] for row in chain}
    assert [hashes[each["receipt_id"]] for each in (done, no)] == [done["receipt_hash"], no["receipt_hash"]]
    # No parameter, result or free text is in it.
    assert not {"params", "result", "error"} & (set(done) | set(no)) and "102x1x0" not in json.dumps(page)
    await tick(world)
    assert len(told(world)) == 3


async def test_an_interval_without_anything_is_told_too(world: World) -> None:
    await world.ask(CONTROL, "telemetry_subscribe", _ASK)
    await tick(world)
    world.pass_time(3_599)
    await tick(world)
    assert len(told(world)) == 1
    world.pass_time(1)
    await tick(world)
    assert [(page["seq"], page["entries"]) for page in told(world)] == [(1, []), (2, [])]


async def test_many_are_told_in_pages_one_after_the_other(world: World) -> None:
    await world.ask(CONTROL, "telemetry_subscribe", _ASK)
    await tick(world)

    def write(tx: Any) -> None:
        for number in range(PAGE + 3):
            world.receipts.append(tx, operator_event(f"event_{number}", advisor_id="adv-1"))

    await world.db.write(write)
    assert await tick(world) == 1, "the rest follows at once"
    assert await tick(world) == 300
    _, one, two = told(world)
    assert (len(one["entries"]), one["more"], len(two["entries"]), two["more"]) == (PAGE, True, 3, False)
    assert two["after"] == one["up_to"]
    names = [each["action"] for page in (one, two) for each in page["entries"]]
    assert names == [f"event_{number}" for number in range(PAGE + 3)]


async def test_it_stands_alone_and_does_not_count_as_one_of_the_three(world: World) -> None:
    mixed = await world.ask(CONTROL, "telemetry_subscribe", {**_ASK, "metrics": ["health", "action_log"]})
    assert slug(mixed) == "invalid_params" and "of its own" in mixed["error"]["message"]
    for interval in (300, 600, 900):
        params = {**_ASK, "metrics": ["health"], "interval_s": interval}
        assert (await world.ask(CONTROL, "telemetry_subscribe", params))["status"] == 0
    first = await world.ask(CONTROL, "telemetry_subscribe", _ASK)
    again = await world.ask(CONTROL, "telemetry_subscribe", {**_ASK, "interval_s": 600})
    assert again["result"]["renewed"] and again["result"]["sub_id"] == first["result"]["sub_id"]
    fourth = await world.ask(CONTROL, "telemetry_subscribe", {**_ASK, "metrics": ["pending"]})
    assert slug(fourth) == "constraint_violated"
    assert first["result"]["sub_id"] not in fourth["error"]["message"]


async def test_while_the_outbox_is_full_or_the_stop_is_on_it_waits_and_misses_nothing(world: World) -> None:
    await world.ask(CONTROL, "telemetry_subscribe", _ASK)
    await tick(world)
    world.out.waiting = (1_001, 0)
    assert (await world.set_fee(120))["status"] == 0
    assert (await tick(world) or 0) > 1
    world.out.waiting = (0, 0)
    world.switch.on = True
    await tick(world)
    assert len(told(world)) == 1
    world.switch.on = False
    await tick(world)
    assert [(page["seq"], len(page["entries"])) for page in told(world)] == [(1, 0), (2, 1)]


async def test_who_may_not_read_gets_none(world: World) -> None:
    world.credentials.add(View(issue(number=3, schemas=("hive:fee-policy/v1",)), "adv-1"))
    refused = await world.ask(CONTROL, "telemetry_subscribe", _ASK, credential=3)
    assert slug(refused) in ("schema_not_allowed", "permission_denied")


async def test_a_command_that_ends_wakes_the_clock(world: World) -> None:
    await world.ask(CONTROL, "telemetry_subscribe", _ASK)
    running = asyncio.create_task(world.pipeline.telemetry.run())
    try:
        async with asyncio.timeout(60):
            while not told(world):
                await asyncio.sleep(0.01)
            assert (await world.set_fee(120))["status"] == 0
            world.pipeline.telemetry.something_to_tell()
            while len(told(world)) < 2:
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
    assert [len(page["entries"]) for page in told(world)] == [0, 1]


async def test_a_log_killed_anywhere_tells_each_receipt_once(tmp_path: Path) -> None:
    async def following(world: World) -> None:
        assert (await world.ask(CONTROL, "telemetry_subscribe", _ASK))["status"] == 0
        await tick(world)
        assert (await world.set_fee(120))["status"] == 0

    async def turn(world: World) -> None:
        await tick(world)

    async def kept(world: World) -> list[int]:
        agent = crypto.xonly_pubkey(AGENT_KEY)
        texts = await world.db.read(lambda tx: CommandStore().pushes(tx, agent, 0, 100))
        bodies = [json.loads(text)["schema_payload"] for text in texts]
        pages = [body["params"]["metrics"]["action_log"] for body in bodies if body["action"] == "telemetry"]
        return [each["receipt_id"] for page in pages for each in page["entries"]]

    points = 0
    for at in range(40):
        world, died = await killed(tmp_path / str(at), at, turn, before=following)
        (row,) = await world.db.read(TelemetryStore().all)
        assert await kept(world) == ([1] if row.told_to else []), at
        await tick(world)
        assert await kept(world) == [1], at
        world.close()
        points += died
        if not died:
            break
    assert 2 <= points < 40
