"""The kit answers pings at once (11 §7 "Duties", §15.8), against a scripted node over a real relay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hive_advisor.advisor import Advisor
from hive_advisor.config import AdvisorConfig
from hive_advisor.identity import create_identity
from hive_advisor.paths import ProfilePaths
from hive_devnet.relay import RelayProcess
from hive_shared import envelope
from hive_shared.errors import NotFound
from scripted_node import ScriptedNode


class Clock:
    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return int(time.time()) + self.ahead


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(60):
        while not (value := await condition()):
            await asyncio.sleep(0.02)
        return value


async def ping(kit: Advisor, node: ScriptedNode, body: dict[str, Any], ago: int = 0) -> None:
    node.seq += 1
    document = envelope.build_push(
        "ping",
        body,
        node_key=node.key,
        agent_key=kit.pubkey,
        seq=node.seq,
        timestamp=int(time.time()) - ago,
    )
    await node.send(kit.pubkey, envelope.sign_push(node.secret, document))


def answered(node: ScriptedNode) -> list[str]:
    return [str(each.params["ping_id"]) for each in node.commands if each.action == "ping_ack"]


async def test_pings_are_answered_at_once_and_old_ones_not(tmp_path: Path) -> None:
    relay = await RelayProcess.start()
    paths = ProfilePaths("test", tmp_path / "config", tmp_path / "data")
    clock, identity = Clock(), create_identity()
    config = AdvisorConfig(relays=(relay.url,), accept_offers=True)
    async with ScriptedNode(relay.url) as node:
        async with Advisor.open(paths, identity, config, online=True, now=clock) as kit:
            await node.send(kit.pubkey, node.offer(kit.pubkey))
            client = await until(lambda: kit.clients.with_node_key(node.key))
            await node.heard(1)
            node.answer = lambda command: node.response(command, 0, result={"noted": True, "counted": True})
            await ping(kit, node, {"ping_id": "p-old"}, ago=121)
            await ping(kit, node, {"ping_id": "p-1"}, ago=60)

            async def came() -> bool:
                return answered(node) == ["p-1"]

            await until(came)
            # Hundreds a day: they stand in no list, and are kept for a day only.
            assert "ping_ack" not in {each.action for each in await kit.commands.listed(client, None, 50)}
            first = next(each.command_id for each in node.commands if each.action == "ping_ack")
            assert (await kit.commands.get(first or "")).action == "ping_ack"
            clock.ahead = 2 * 86_400
            await ping(kit, node, {"ping_id": "p-late"}, ago=-clock.ahead)

            async def forgotten() -> bool:
                try:
                    await kit.commands.get(first or "")
                except NotFound:
                    return True
                return False

            await until(forgotten)
            clock.ahead = 0
            assert [event.kind for event in await kit.past_events(0, 100) if "ping" in event.kind] == []
            # What may not be answered holds nothing up: a paused client is not written to.
            await kit.clients.pause(client)
            await ping(kit, node, {"ping_id": "p-2"})
            await kit.clients.resume(await kit.clients.named(client.alias))
            await ping(kit, node, {"ping_id": "p-3"})

            async def third() -> bool:
                return "p-3" in answered(node)

            await until(third)
        # One that comes with the last round is answered before the kit leaves.
        await ping(kit, node, {"ping_id": "p-4"})
        async with Advisor.open(paths, identity, config, online=True) as kit:
            await kit.pump()
        assert answered(node)[-1] == "p-4"
    await relay.stop()
