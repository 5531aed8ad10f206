"""Telemetry killed at every point where it touches disk or node: no number twice, none lost (02 §10)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cl_hive_comms.storage.command_store import CommandStore
from cl_hive_comms.storage.telemetry_store import TelemetryStore
from crash_points import killed
from hive_shared import crypto
from pipeline_world import AGENT_KEY, NOW, World

_MOST_POINTS = 40
_SUBSCRIBE = {"metrics": ["health", "liquidity", "actions"], "interval_s": 300, "until": NOW + 86_400}


async def kept(world: World) -> list[int]:
    """Numbers of the telemetry that is kept for push_poll, in the order of the pushes."""
    agent = crypto.xonly_pubkey(AGENT_KEY)
    texts = await world.db.read(lambda tx: CommandStore().pushes(tx, agent, 0, 100))
    payloads: list[dict[str, Any]] = [json.loads(text)["schema_payload"] for text in texts]
    return [payload["params"]["seq"] for payload in payloads if payload["action"] == "telemetry"]


async def turn(world: World) -> None:
    await world.pipeline.telemetry.tick()


async def subscribed(world: World) -> None:
    answer = await world.ask("hive:control/v1", "telemetry_subscribe", _SUBSCRIBE)
    assert answer["status"] == 0
    await turn(world)
    world.pass_time(300)


async def test_a_push_killed_anywhere_is_sent_once(tmp_path: Path) -> None:
    points = 0
    for at in range(_MOST_POINTS):
        world, died = await killed(tmp_path / str(at), at, turn, before=subscribed)
        (row,) = await world.db.read(TelemetryStore().all)
        # Exactly what is on record was sent.
        assert await kept(world) == list(range(1, row.seq + 1)) and row.seq in (1, 2)
        await turn(world)
        assert await kept(world) == [1, 2], at
        world.pass_time(300)
        await turn(world)
        assert await kept(world) == [1, 2, 3], at
        world.close()
        points += died
        if not died:
            break
    assert 4 <= points < _MOST_POINTS


async def test_a_subscription_killed_anywhere_is_one_when_asked_again(tmp_path: Path) -> None:
    points = 0

    async def ask(world: World) -> None:
        await world.ask("hive:control/v1", "telemetry_subscribe", _SUBSCRIBE)

    for at in range(_MOST_POINTS):
        world, died = await killed(tmp_path / str(at), at, ask)
        await ask(world)
        assert len(await world.db.read(TelemetryStore().all)) == 1, at
        await turn(world)
        assert await kept(world) == [1], at
        world.close()
        points += died
        if not died:
            break
    assert 4 <= points < _MOST_POINTS


async def test_an_end_killed_anywhere_ends_it_or_leaves_it(tmp_path: Path) -> None:
    async def end(world: World) -> None:
        (row,) = await world.db.read(TelemetryStore().all)
        await world.ask("hive:control/v1", "telemetry_unsubscribe", {"sub_id": row.sub_id})

    for at in range(_MOST_POINTS):
        world, died = await killed(tmp_path / str(at), at, end, before=subscribed)
        left = await world.db.read(TelemetryStore().all)
        await turn(world)
        assert await kept(world) == ([1, 2] if left else [1]), at
        assert died or not left
        world.close()
        if not died:
            break
