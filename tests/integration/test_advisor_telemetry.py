"""The kit's telemetry against a scripted node over a real relay (11 §7 "Duties", §12)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest_asyncio
from hive_advisor.advisor import Advisor
from hive_advisor.config import AdvisorConfig
from hive_advisor.identity import create_identity
from hive_advisor.paths import ProfilePaths
from hive_devnet.relay import RelayProcess
from hive_shared import envelope
from hive_shared.errors import from_symbol
from scripted_node import ScriptedNode

SUB = "00000000-0000-4000-8000-0000000000aa"
# Relays take nothing from the far future, so the clock goes ahead by minutes only.
SPAN = 400


class Clock:
    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return int(time.time()) + self.ahead


async def until(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(30):
        while not (value := await condition()):
            await asyncio.sleep(0.02)
        return value


@pytest_asyncio.fixture
async def node() -> AsyncIterator[ScriptedNode]:
    relay = await RelayProcess.start()
    async with ScriptedNode(relay.url) as made:
        yield made
    await relay.stop()


def subscribed(command: envelope.Command, node: ScriptedNode) -> dict[str, Any]:
    """What a node answers."""
    if command.action != "telemetry_subscribe":
        return node.response(command, 0, result={"ok": True})
    return node.response(command, 0, result={**command.params, "sub_id": SUB, "seq": 0, "renewed": False})


async def push(kit: Advisor, node: ScriptedNode, number: int, **changes: Any) -> None:
    body = {
        "sub_id": SUB,
        "seq": number,
        "at": 1_770_000_000 + number,
        "metrics": {"pending": {"count": number}},
    }
    node.seq += 1
    document = envelope.build_push(
        "telemetry",
        {**body, **changes},
        node_key=node.key,
        agent_key=kit.pubkey,
        seq=node.seq,
        timestamp=int(time.time()),
    )
    await node.send(kit.pubkey, envelope.sign_push(node.secret, document))


async def test_telemetry_is_checked_kept_renewed_and_ended(node: ScriptedNode, tmp_path: Path) -> None:
    clock = Clock()
    paths = ProfilePaths("test", tmp_path / "config", tmp_path / "data")
    config = AdvisorConfig(relays=(node.relay,), accept_offers=True)
    async with Advisor.open(paths, create_identity(), config, online=True, now=clock) as kit:
        await node.send(kit.pubkey, node.offer(kit.pubkey))
        client = await until(lambda: kit.clients.with_node_key(node.key))
        await node.heard(1)
        node.answer = lambda command: subscribed(command, node)
        asked = ("pending", "health")
        answer = await kit.telemetry.subscribe(client, asked, 300, SPAN, 30)
        assert answer["result"]["sub_id"] == SUB
        (running,) = await kit.telemetry.followed(client)
        assert (running.metrics, running.interval_s, running.span_s) == (asked, 300, SPAN)

        async def kept(count: int) -> bool:
            return len(await kit.telemetry.figures(client, "pending", 0, 50)) == count

        await push(kit, node, 1)
        await until(lambda: kept(1))
        await push(kit, node, 4)
        await until(lambda: kept(2))
        assert [figure.value for figure in await kit.telemetry.figures(client, None, 0, 50)] == [
            {"count": 4},
            {"count": 1},
        ]
        told = [event.text for event in await kit.events(0, 100) if event.kind == "telemetry_missing"]
        assert told == [f"2 before number 4 of {SUB}"]
        # What is no telemetry is kept apart, without effect.
        await push(kit, node, 5, metrics={"wealth": {"sat": 1}})
        await push(kit, node, 7)
        await until(lambda: kept(3))
        assert len(await kit.telemetry.figures(client, None, 0, 50)) == 3

        before = running.until
        assert await kit.telemetry.renew() == 0
        clock.ahead = SPAN * 4 // 5 + 5
        assert await kit.telemetry.renew() == 1
        (running,) = await kit.telemetry.followed(client)
        assert running.until > before + SPAN // 2
        assert await kit.telemetry.renew() == 0
        # A node that says no is asked again in an hour, not in the next round.
        clock.ahead += SPAN * 4 // 5 + 5
        error = from_symbol("policy_blocked", "no")
        node.answer = lambda command: node.response(command, 1, error=envelope.error_doc(error))
        heard = len(node.commands)
        assert await kit.telemetry.renew() == 0 and await kit.telemetry.renew() == 0
        assert len(node.commands) == heard + 1
        node.answer = lambda command: subscribed(command, node)
        ended = await kit.telemetry.unsubscribe(client, SUB, 30)
        assert ended["result"] is not None and await kit.telemetry.followed(client) == []
