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
from open_guard import open_guard
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
    async with asyncio.timeout(60):
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
    open_guard(paths.config_dir)
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
        told = [event.text for event in await kit.past_events(0, 100) if event.kind == "telemetry_missing"]
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


def logged(number: int, **changes: Any) -> dict[str, Any]:
    """An entry of the action log."""
    return {
        "receipt_id": number,
        "receipt_hash": f"{number:064x}",
        "at": 1_770_000_000 + number,
        "schema": "hive:fee-policy/v1",
        "action": "set_single",
        "status": "success",
        "danger": 3,
        **changes,
    }


def page(after: int, *entries: dict[str, Any]) -> dict[str, Any]:
    """What a push of the action log says."""
    up_to = entries[-1]["receipt_id"] if entries else after
    return {"action_log": {"after": after, "up_to": up_to, "entries": [*entries], "more": False}}


async def test_the_action_log_is_kept_in_order_and_a_second_record_makes_the_client_suspect(
    node: ScriptedNode, tmp_path: Path
) -> None:
    paths = ProfilePaths("test", tmp_path / "config", tmp_path / "data")
    config = AdvisorConfig(relays=(node.relay,), accept_offers=True)
    async with Advisor.open(paths, create_identity(), config, online=True) as kit:
        await node.send(kit.pubkey, node.offer(kit.pubkey))
        client = await until(lambda: kit.clients.with_node_key(node.key))

        async def events(kind: str) -> list[str]:
            return [event.text for event in await kit.past_events(0, 100) if event.kind == kind]

        async def heard(number: int) -> bool:
            return number in [figure.seq for figure in await kit.telemetry.figures(client, None, 0, 50)]

        begun = await kit.telemetry.mark()
        await push(kit, node, 1, metrics=page(0))
        await push(kit, node, 2, metrics=page(0, logged(3), logged(5, status="rejected", slug="cooldown")))
        await until(lambda: heard(2))
        three, five = await kit.telemetry.log(client, None, 50)
        assert (three.receipt_id, three.status, three.rest) == (3, "success", {"danger": 3})
        assert five.rest["slug"] == "cooldown" and await kit.telemetry.log(client, 3, 50) == [five]
        came = [each for _, each in await kit.telemetry.since(client, begun, 100)]
        assert [figure.value for figure in came] == [
            {"up_to": 0, "entries": 0},
            {"up_to": 5, "entries": 2},
        ]
        # Who follows from the start of this process is told all that it took in, however late it looks.
        assert await kit.telemetry.places(client, at_start=True) == (0, begun)
        newest = await kit.telemetry.mark()
        assert newest > begun and await kit.telemetry.places(client, at_start=False) == (5, newest)
        # What is no such log is kept apart and changes nothing.
        for wrong in (
            page(5, logged(7), logged(6)),
            page(9, logged(8)),
            page(5, logged(6, note="x")),
            page(5, logged(6, receipt_hash="00")),
            {"action_log": []},
        ):
            await push(kit, node, 3, metrics=wrong)
        await push(kit, node, 4, metrics=page(5))
        await until(lambda: heard(4))
        assert await events("telemetry_missing") == [f"1 before number 4 of {SUB}"]
        assert len(await kit.telemetry.log(client, None, 50)) == 2
        assert (await kit.clients.named(client.alias)).state == "active"
        # The same again is nothing new; another hash for a receipt that was told of is.
        await push(kit, node, 5, metrics=page(0, logged(3)))
        await push(kit, node, 6, metrics=page(0, logged(5, receipt_hash="ab" * 32)))
        (why,) = await until(lambda: events("suspect"))
        assert why.startswith("receipt 5 has the hash abab")
        assert (await kit.clients.named(client.alias)).state == "suspect"
        assert (await kit.telemetry.log(client, 3, 50))[0].receipt_hash == f"{5:064x}"
