"""A day of pings and alerts over relays that come and go (11 §7 "Duties", §18.20).

The day passes by a clock of the test: whoever waits for a relay to come back waits by it too. The relays,
their sockets and all signatures are real.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hive_advisor.advisor import Advisor
from hive_advisor.config import AdvisorConfig
from hive_advisor.identity import create_identity
from hive_advisor.paths import ProfilePaths
from hive_advisor.services.pings import ANSWER_S
from hive_devnet.relay import RelayProcess
from hive_shared import envelope
from hive_shared.canonical import encode
from hive_shared.nostr import giftwrap
from hive_shared.nostr.relay import RelayPool
from hive_shared.nostr.relay_limits import RelayLimits
from scripted_node import ScriptedNode

PINGS = 288
PERIOD_S = 300
ROUND_S = 15
"""How often an agent looks round; here it does so while a ping is open, and once between two."""


class Day:
    """The time, and all who wait for a later one."""

    def __init__(self, begins: int) -> None:
        self.time = float(begins)
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> int:
        return int(self.time)

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.time + seconds, future))
        await future

    def advance(self, end: float) -> bool:
        """Go on to whoever is next before `end`, or to `end`; whether somebody woke."""
        self._sleepers = [(at, future) for at, future in self._sleepers if not future.done()]
        at = min((at for at, _ in self._sleepers), default=end)
        self.time = max(self.time, min(at, end))
        due = [future for at, future in self._sleepers if at <= self.time]
        for future in due:
            future.set_result(None)
        return bool(due)


class Door:
    """The way to a real relay: shut, it takes no connection and has dropped all there were."""

    def __init__(self, relay: RelayProcess) -> None:
        self.relay, self.port, self.url = relay, 0, ""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def is_open(self) -> bool:
        return self._server is not None and self.relay.pid is not None

    async def open(self) -> None:
        if self._server is not None:
            return
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])
        self.url = f"ws://127.0.0.1:{self.port}"

    def shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self.drop()

    def drop(self) -> None:
        """Every connection ends without a word."""
        for writer in self._writers:
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner, outer = await asyncio.open_connection("127.0.0.1", self.relay.port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, outer}

        async def copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await source.read(65_536):
                    to.write(data)
                    await to.drain()

        both = [asyncio.create_task(copy(reader, outer)), asyncio.create_task(copy(inner, writer))]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        await asyncio.wait(both)
        for each in (writer, outer):
            each.transport.abort()
        self._writers -= {writer, outer}


class FarNode(ScriptedNode):
    """A node on several relays that keeps its pushes and sends each until a relay took it."""

    def __init__(self, day: Day, doors: list[Door]) -> None:
        super().__init__(doors[0].url, now=day.now)
        self.day, self.doors = day, doors
        self.kept: list[dict[str, Any]] = []
        self.sent_at: dict[str, int] = {}
        self.heard_at: dict[str, int] = {}
        self.answer = self.honest
        self._sending: set[asyncio.Task[None]] = set()
        self._pool = by_the_day(day)(on_event=self._event, secret_provider=lambda: self.secret, now=day.now)

    async def __aenter__(self) -> FarNode:
        urls = [door.url for door in self.doors]
        await self._pool.set_relays(urls, urls, [])
        self._pool.subscribe("dm", [{"kinds": [1059], "#p": [self.key]}], lambda _url: None)
        await self._pool.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._sending:
            task.cancel()
        await self._pool.stop()

    def honest(self, command: envelope.Command) -> dict[str, Any]:
        assert isinstance(command.params, dict)
        if command.action == "ping_ack":
            self.heard_at.setdefault(str(command.params["ping_id"]), self.now())
        if command.action != "push_poll":
            return super().honest(command)
        since = int(str(command.params["since_seq"]))
        items = [item for item in self.kept if item["seq"] > since]
        return self.response(command, 0, result={"count": len(items), "items": items})

    async def send(self, recipient: str, document: dict[str, Any]) -> None:
        """Nobody waits for it."""
        task = asyncio.create_task(self._sent(recipient, encode(document).decode()))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _sent(self, recipient: str, text: str) -> None:
        wrap = partial(giftwrap.wrap, self.secret, recipient, text, tags=[["t", "hive-mgmt"]])
        event, _ = wrap(now=self.now(), rng=random.randbytes, expiration=None)
        urls = [door.url for door in self.doors]
        while not any(each.accepted for each in (await self._pool.publish(event, urls)).values()):
            await self.day.sleep(2)

    async def tell(self, agent_key: str, action: str, body: dict[str, Any]) -> None:
        document = self.push(agent_key, action, body)
        self.kept.append(document)
        await self.send(agent_key, document)

    def counted(self, ping_id: str) -> bool:
        """Whether its answer came, and came in time by the node's clock."""
        came = self.heard_at.get(ping_id)
        return came is not None and came - self.sent_at[ping_id] <= ANSWER_S


def by_the_day(day: Day) -> Callable[..., RelayPool]:
    """Relay pools that come back to a relay by the test's clock, with chances that are the same each time."""
    # A connection counts as a good one by the machine's clock, of which the day has ten seconds only.
    limits = RelayLimits(stable_seconds=0)

    def made(**given: Any) -> RelayPool:
        rng = random.Random(11).randbytes
        return RelayPool(**{**given, "sleep": day.sleep, "limits": limits, "rng": rng})

    return made


class Flaps:
    """The kit, the node and two relays through a day."""

    def __init__(self, day: Day, doors: list[Door], node: FarNode, kit: Advisor) -> None:
        self.day, self.doors, self.node, self.kit = day, doors, node, kit
        self.pools = (node._pool, *kit._link._pools.values())

    def states(self, door: Door) -> list[str]:
        return [pool._connections[door.url].state for pool in self.pools]

    def linked(self) -> bool:
        """Whether both ends are at a relay."""
        return any(door.is_open and set(self.states(door)) == {"subscribed"} for door in self.doors)

    def quiet(self) -> bool:
        """Nobody is about to connect or to find out that a relay is gone."""
        rest = {"waiting", "dead"}
        return all(
            set(self.states(door)) <= (rest | {"subscribed"} if door.is_open else rest) for door in self.doors
        )

    async def until(self, condition: Callable[[], bool], patience_s: float = 60) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while not condition():
                    await asyncio.sleep(0.001)
        return condition()

    async def settle(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)
        assert await self.until(self.quiet), [self.states(door) for door in self.doors]

    async def pass_to(self, end: float) -> None:
        await self.settle()
        while self.day.time < end:
            if self.day.advance(end):
                await self.settle()

    async def ping(self, number: int, under_way: Callable[[], None] | None = None) -> str:
        ping_id, sent_at = f"p-{number}", self.day.now()
        self.node.sent_at[ping_id] = sent_at
        await self.node.tell(self.kit.pubkey, "ping", {"ping_id": ping_id})
        if under_way is not None:
            await asyncio.sleep(0)
            under_way()
        return ping_id

    async def answered(self, ping_id: str, end: float) -> None:
        """Wait for the answer until `end` of the day; the agent looks round meanwhile."""
        heard = self.node.heard_at
        while ping_id not in heard and self.day.time < end:
            await self.settle()
            # With a relay between them it comes without time going by.
            if self.linked():
                await self.until(lambda: ping_id in heard or not self.linked(), 2)
                if ping_id in heard:
                    break
            await self.pass_to(min(end, self.day.time + ROUND_S))
            if self.linked():
                await self.kit.pump()


@asynccontextmanager
async def flapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins: int) -> AsyncIterator[Flaps]:
    day = Day(begins)
    monkeypatch.setattr("hive_advisor.transport.nostr_keys.RelayPool", by_the_day(day))
    doors = [Door(relay) for relay in await asyncio.gather(RelayProcess.start(), RelayProcess.start())]
    try:
        for door in doors:
            await door.open()
        urls = tuple(door.url for door in doors)
        paths = ProfilePaths("test", tmp_path / "config", tmp_path / "data")
        config = AdvisorConfig(relays=urls, accept_offers=True)
        async with (
            FarNode(day, doors) as node,
            Advisor.open(paths, create_identity(), config, online=True, now=day.now) as kit,
        ):
            world = Flaps(day, doors, node, kit)
            await world.settle()
            await node.send(kit.pubkey, node.offer(kit.pubkey, relays=list(urls)))
            assert await world.until(lambda: len(node.commands) >= 1)
            yield world
    finally:
        for door in doors:
            door.shut()
        await asyncio.gather(*(door.relay.stop() for door in doors))


ALERT = {"level": "critical", "code": "channel_offline", "text": "channel 103x1x0 is offline"}


DARK = {40: 20, 110: 20, 200: ANSWER_S + 10, 240: 20}
"""Pings that are sent while there is no relay at all, and for how many seconds there is none."""
UNANSWERED = "p-200"
"""The only one whose relays stay away for longer than a ping counts."""


async def flap(world: Flaps, number: int) -> Callable[[], None] | None:
    """What becomes of the relays before a ping; returns what does while it is under way."""
    first, second = world.doors

    def drop_both() -> None:
        first.drop()
        second.drop()

    if number in DARK:
        first.shut()
        second.shut()
    elif number in (20, 60):
        first.shut()
    elif number in (32, 61):
        await first.open()
    elif number == 90:
        # Its machine lost power, and with it what it kept.
        await second.relay.kill()
        second.drop()
    elif number == 130:
        await second.relay.restart()
    elif number == 170:
        await first.relay.restart()
        first.drop()
    return drop_both if number % 96 == 6 else first.drop if number % 48 == 15 else None


async def test_acceptance_11_20_a_day_of_pings_is_answered_through_flaps_and_alerts_wait_for_a_human(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins = int(time.time())
    async with flapping(tmp_path, monkeypatch, begins) as world:
        kit, node, day = world.kit, world.node, world.day
        for number in range(PINGS):
            await world.pass_to(begins + number * PERIOD_S)
            under_way = await flap(world, number)
            if number in (6, 40, 200):
                await node.tell(kit.pubkey, "alert", {**ALERT, "alert_id": f"a-{number}"})
            ping_id = await world.ping(number, under_way)
            if number in DARK:
                await world.pass_to(day.time + DARK[number])
                for door in world.doors:
                    await door.open()
            await world.answered(ping_id, node.sent_at[ping_id] + ANSWER_S)
            if number % 72 == 71:
                await kit.pump()
        missed = [ping_id for ping_id in node.sent_at if not node.counted(ping_id)]
        assert len(node.sent_at) == PINGS and len(missed) <= PINGS * 0.005, missed
        assert missed == [UNANSWERED]
        alerts = [each for each in await kit.alerts.listed(closed=True, limit=10) if each.origin == "node"]
        assert sorted(alert.alert_id for alert in alerts) == ["a-200", "a-40", "a-6"]
        assert {alert.state for alert in alerts} == {"open"}
        assert "alert_ack" not in {command.action for command in node.commands}
        # A human acts on one while no relay is there; the node hears of that one when there is one again.
        for door in world.doors:
            door.shut()
        await world.settle()
        chosen = next(alert for alert in alerts if alert.alert_id == "a-40")
        await kit.alerts.acknowledge(chosen.number)
        assert (await kit.alerts.get(chosen.number)).state == "acking"
        for door in world.doors:
            await door.open()
        while not all(set(world.states(door)) == {"subscribed"} for door in world.doors):
            await world.pass_to(day.time + 1)
        assert await kit.alerts.tell(kit.control, chosen.number, 30) == 1
        told = [command.params for command in node.commands if command.action == "alert_ack"]
        assert told == [{"alert_id": "a-40"}]
        states = {alert.alert_id: alert.state for alert in await kit.alerts.listed(closed=True, limit=10)}
        assert (states["a-6"], states["a-40"], states["a-200"]) == ("open", "acked", "open")
