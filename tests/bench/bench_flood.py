"""5,000 strangers' keys at 1,000 messages a second through a relay: how much longer a known agent waits, and
what it costs in memory (docs/protocol/02-fleet-management.md §15.17)."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

from agent import Agent
from figures import Figure
from flood import MAX_DELAY_S, MAX_GROWTH_MB, STRANGERS, flooded, frames
from hive_devnet.world import World


def main(smoke: bool) -> list[Figure]:
    """See the module's first lines."""
    return asyncio.run(_measure(300 if smoke else STRANGERS))


async def _measure(strangers: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="hive-") as directory:
        world = await World.start(Path(directory) / "world")
        try:
            async with Agent(world.alice, world.relay.url) as agent:
                await agent.hired("fees")
                content = json.dumps(agent.signed("health_summary", {}, "hive:monitor/v1"))
                prepared, _ = await asyncio.to_thread(frames, agent.node_key, strangers, content)
                seen = await flooded(world, agent, prepared)
            kind = world.network.kind
        finally:
            await world.close()
    trips = f"{len(seen.hurried)} round trips"
    return [
        Figure("node kind", 0, kind),
        Figure("round trip by DM before the flood", min(one[0].wall for one in seen.calm) * 1_000, "ms"),
        Figure(f"flood from {strangers:,} keys: longer by DM", seen.delay(0), "s", MAX_DELAY_S, note=trips),
        Figure(f"flood from {strangers:,} keys: longer by RPC", seen.delay(1), "s", MAX_DELAY_S, note=trips),
        Figure("  by the wall clock, DM (other programs stretch it)", seen.wall(0), "s"),
        Figure("  by the wall clock, RPC", seen.wall(1), "s"),
        Figure("memory of cl-hive-comms, grown at worst", seen.growth, "MB", MAX_GROWTH_MB),
    ]
