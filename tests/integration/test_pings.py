"""Pings to agents whose work is measured, by the clock of the test (docs/protocol/02 §10, 11 §15.8)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.domain.presence import Presence
from cl_hive_comms.domain.trial import Baseline, Income, Trial
from cl_hive_comms.storage.command_store import CommandStore
from cl_hive_comms.storage.marketplace_store import MarketplaceStore
from cl_hive_comms.storage.presence_store import PresenceStore
from crash_points import killed
from hive_shared import crypto, envelope
from hive_shared.registry.control import PUSHES
from msgspec.structs import replace
from pipeline_world import AGENT_KEY, NODE_ID, NOW, OTHER_KEY, Keys, View, World, issue

CONTROL = "hive:control/v1"
CREDENTIAL = issue().credential_id
DAY = 86_400
_NOTHING = Baseline(Income(NOW - 7 * DAY, NOW, 0, 0, 0, True), 0, 0, 0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


async def on_trial(world: World, days: int = 14) -> None:
    agent = f"did:nostr:{crypto.xonly_pubkey(AGENT_KEY)}"
    row = Trial(
        "t-1",
        agent,
        NODE_ID,
        "monitor",
        ("monitoring-only",),
        1,
        0,
        NOW,
        NOW + days * DAY,
        CREDENTIAL,
        _NOTHING,
    )
    await world.db.write(lambda tx: MarketplaceStore().add_trial(tx, row))


def pings(world: World) -> list[str]:
    """Ids of the pings that were sent, checked as an agent checks them."""
    found = []
    for message in world.out.sent:
        doc = json.loads(message["content"])
        if message["kind"] == "push" and doc["schema_payload"]["action"] == "ping":
            assert envelope.verify_push(doc, Keys.pubkey)
            assert message["expires_at"] == doc["timestamp"] + 120
            found.append(str(PUSHES["ping"].parse(doc["schema_payload"]["params"])["ping_id"]))
    return found


async def tick(world: World) -> None:
    await world.pipeline.presence.tick()


async def heard(world: World, hours: int = 1) -> Presence:
    store, until = PresenceStore(), NOW + hours * 3_600
    return await world.db.read(lambda tx: store.presence(tx, CREDENTIAL, NOW, until))


async def ack(world: World, ping_id: str, **options: Any) -> dict[str, Any]:
    answer = await world.ask(CONTROL, "ping_ack", {"ping_id": ping_id}, **options)
    assert answer["status"] == 0, answer
    result: dict[str, Any] = answer["result"]
    return result


async def test_nobody_is_pinged_who_is_not_measured(world: World) -> None:
    await tick(world)
    assert world.out.sent == []
    await on_trial(world, days=1)
    world.pass_time(DAY)
    await tick(world)
    assert world.out.sent == []


async def test_every_five_minutes_and_the_first_answer_in_time_counts(world: World) -> None:
    await on_trial(world)
    for _ in range(7):
        await tick(world)
        world.pass_time(60)
    first, second = pings(world)
    # The second was sent two minutes ago, to the second.
    assert await ack(world, second) == {"noted": True, "counted": True}
    assert await ack(world, second) == {"noted": True, "counted": False}
    assert await ack(world, first) == {"noted": True, "counted": False}, "too late"
    assert await ack(world, "nobody-sent-it") == {"noted": True, "counted": False}
    found = await heard(world)
    assert (found.sent, found.seconds, found.asked, found.heard) == (2, (120,), {0}, {0})
    world.pass_time(-1_000)
    await tick(world)
    assert len(pings(world)) == 3, "a clock that was set back holds nothing up"


async def test_nobody_answers_for_another(world: World) -> None:
    world.credentials.add(View(issue(OTHER_KEY, number=2), "adv-2"))
    await on_trial(world)
    await tick(world)
    (ping_id,) = pings(world)
    assert not (await ack(world, ping_id, agent=OTHER_KEY, credential=2))["counted"]
    assert (await heard(world)).seconds == ()
    assert (await ack(world, ping_id))["counted"]


async def test_the_stop_a_full_outbox_and_the_end_of_the_credential_hold_pings_back(world: World) -> None:
    await on_trial(world)
    world.switch.on = True
    await tick(world)
    world.switch.on = False
    world.out.waiting = (300, 201)
    await tick(world)
    world.out.waiting = (0, 0)
    view = world.credentials.views[CREDENTIAL]
    world.credentials.views[CREDENTIAL] = replace(view, status="revoked")
    await tick(world)
    assert pings(world) == [] and (await heard(world)).sent == 0
    world.credentials.views[CREDENTIAL] = view
    await tick(world)
    assert len(pings(world)) == 1


async def test_a_ping_killed_anywhere_is_on_record_exactly_if_it_was_sent(tmp_path: Path) -> None:
    agent = crypto.xonly_pubkey(AGENT_KEY)

    async def kept(world: World) -> int:
        return len(await world.db.read(lambda tx: CommandStore().pushes(tx, agent, 0, 100)))

    points = 0
    for at in range(40):
        world, died = await killed(tmp_path / str(at), at, tick, before=on_trial)
        assert (await heard(world)).sent == await kept(world) <= 1, at
        await tick(world)
        assert (await heard(world)).sent == await kept(world) == 1, at
        world.close()
        points += died
        if not died:
            break
    assert 4 <= points < 40


async def test_an_answer_killed_anywhere_counts_once(tmp_path: Path) -> None:
    async def pinged(world: World) -> None:
        await on_trial(world)
        await tick(world)

    async def answer(world: World) -> None:
        await ack(world, pings(world)[0])

    for at in range(40):
        world, died = await killed(tmp_path / str(at), at, answer, before=pinged)
        assert len((await heard(world)).seconds) in (0, 1)
        await ack(world, pings(world)[0])
        assert (await heard(world)).seconds == (0,), at
        world.close()
        if not died:
            break
    assert 2 <= at < 39
