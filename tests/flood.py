"""A flood of messages by strangers, and what a known agent notices of it (02 §15.17)."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, field

import websockets
from agent import Agent
from hive_devnet.world import World, until
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr import giftwrap
from outside import COMMS, Stopwatch, Took, resident_mb

STRANGERS = 5_000
FLOOD_PER_SECOND = 1_000
MAX_DELAY_S = 1.0
MAX_GROWTH_MB = 50.0


def frames(node_key: str, count: int, content: str) -> tuple[list[str], set[str]]:
    """Gift wraps by as many different senders, ready for a relay, and the senders' keys."""
    made, keys = [], set()
    now = int(time.time())
    for _ in range(count):
        secret = Secret(os.urandom(32))
        keys.add(xonly_pubkey(secret))
        event, _ = giftwrap.wrap(
            secret,
            node_key,
            content,
            tags=[["t", "hive-mgmt"]],
            now=now,
            rng=os.urandom,
            expiration=now + 3_600,
        )
        made.append(json.dumps(["EVENT", event.to_json()]))
    return made, keys


async def publish(url: str, prepared: list[str], per_second: int) -> None:
    """Push frames to a relay at a steady rate; all have to be accepted."""
    # No pings: their answers stand in line behind the flood.
    async with websockets.connect(url, max_queue=None, open_timeout=60, ping_interval=None) as socket:

        async def answers() -> int:
            accepted = 0
            for _ in prepared:
                accepted += json.loads(await socket.recv())[2] is True
            return accepted

        reading = asyncio.create_task(answers())
        began = time.monotonic()
        for number, frame in enumerate(prepared):
            await socket.send(frame)
            ahead = number / per_second - (time.monotonic() - began)
            if ahead > 0.01:
                await asyncio.sleep(ahead)
        assert await reading == len(prepared)


async def inbound(world: World) -> int:
    """How many messages the node has dealt with, whatever it did with them."""
    rows = (await world.alice.call("hive-comms-transports"))["items"]
    received = next(row["received"] for row in rows if row["name"] == "nostr_dm")
    return sum(int(number) for number in received.values())


@dataclass
class FloodFigures:
    """Round trips of the known agent (by DM, by RPC) before and during the flood; memory of the plugin
    before it and at its worst (MB); how long the node had to do with it (s)."""

    calm: list[tuple[Took, Took]] = field(default_factory=list)
    hurried: list[tuple[Took, Took]] = field(default_factory=list)
    memory: float = 0.0
    peak: float = 0.0
    lasted: float = 0.0

    def delay(self, way: int) -> float:
        """The longest that the flood held up an answer (s); way 0 is DM, 1 RPC. On a machine with nothing
        else to do this is `wall` (docs/decisions/0341)."""
        return max(one[way].own for one in self.hurried) - min(one[way].own for one in self.calm)

    def wall(self, way: int) -> float:
        """The same by the wall clock, which also runs while other programs have the processor."""
        return max(one[way].wall for one in self.hurried) - min(one[way].wall for one in self.calm)

    @property
    def tolerable(self) -> float:
        """What a busy machine may make of the second: a known agent that stood in one line with the strangers
        would wait for most of the flood, one that is served before them for a small part of it."""
        return max(MAX_DELAY_S, self.lasted / 4)

    @property
    def growth(self) -> float:
        """MB."""
        return self.peak - self.memory

    def __str__(self) -> str:
        return (
            f"flood from {STRANGERS:,} keys: a known agent waited {self.delay(0):.3f} s longer by DM and"
            f" {self.delay(1):.3f} s by RPC (bound {MAX_DELAY_S:g} s; by the wall clock, which other programs"
            f" stretch, {self.wall(0):.3f} and {self.wall(1):.3f} s), {self.lasted:.0f} s of flood,"
            f" memory {self.memory:.0f} -> {self.peak:.0f} MB (bound +{MAX_GROWTH_MB:g} MB),"
            f" {len(self.hurried)} round trips"
        )


async def flooded(world: World, agent: Agent, prepared: list[str]) -> FloodFigures:
    """Publish the flood while the agent goes on asking; returns when the node has dealt with all of it."""
    figures = FloodFigures()
    pid = await world.alice.plugin_pid(COMMS)

    async def round_trip() -> tuple[Took, Took]:
        asked = agent.signed("ping", {}, "hive:control/v1")
        watch = Stopwatch(pid)
        await agent.dm(asked)
        await agent.answer(asked["nonce"], 60)
        by_dm, watch = watch.stop(), Stopwatch(pid)
        assert (await agent.rest(agent.signed("ping", {}, "hive:control/v1")))["status"] == 0
        return by_dm, watch.stop()

    figures.calm = [await round_trip() for _ in range(3)]
    figures.memory = figures.peak = resident_mb(pid)
    before, began = await inbound(world), time.monotonic()
    flood = asyncio.create_task(publish(world.relay.url, prepared, FLOOD_PER_SECOND))
    # Below the 60 commands a minute that an agent has.
    while not flood.done() and len(figures.hurried) < 25:
        figures.hurried.append(await round_trip())
        figures.peak = max(figures.peak, resident_mb(pid))
        await asyncio.sleep(0.15)
    await flood

    async def digested() -> bool:
        figures.peak = max(figures.peak, resident_mb(pid))
        return await inbound(world) - before >= len(prepared)

    await until(digested, "the node to have seen every stranger", 120)
    figures.lasted = time.monotonic() - began
    assert figures.hurried, "the flood was over before the agent could ask"
    return figures
