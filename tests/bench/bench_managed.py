"""A managed fee change beside a bare `setchannel` on the same node, by local RPC and by DM over a relay.

Goal: managed <= 3 x bare setchannel, plus the relay hop for the DM form. The hop is measured in the same
run: a message of the same size from one key to another over the same relay, gift-wrapped and unwrapped.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from pathlib import Path

from agent import Agent
from figures import Figure, percentile
from hive_devnet.world import World
from hive_shared.nostr import giftwrap
from hive_shared.nostr.event import Event
from hive_shared.nostr.relay import RelayPool

# One channel per write: the rules allow one fee write an hour per channel.
_CHANNELS = 24


def main(smoke: bool) -> list[Figure]:
    """See the module's first lines."""
    return asyncio.run(_measure(2 if smoke else _CHANNELS))


async def _measure(channels: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as directory:
        world = await World.start(
            Path(directory) / "world", options={"hive-comms-policy-preset": "aggressive"}
        )
        try:
            scids = await _open(world, channels)
            await world.alice.call(
                "hive-client-policy",
                {"action": "set", "overrides": {"rate_limits": {"fee_changes_per_hour": 1_000}}},
            )
            async with Agent(world.alice, world.relay.url) as agent:
                await agent.hired("fees")
                bare = await _bare(world, scids, max(channels, 10))
                half = len(scids) // 2
                rpc = await _managed(agent, scids[:half], by_dm=False)
                dm = await _managed(agent, scids[half:], by_dm=True)
                hop = await _hop(world.relay.url, max(channels, 10))
        finally:
            await world.close()
    twice = 2 * percentile(hop, 0.5)
    return [
        *_figures("bare setchannel", bare),
        *_figures("managed fee change, local RPC", rpc),
        *_figures("managed fee change, DM", dm),
        *_figures("one relay hop (wrap, relay, unwrap)", hop),
        Figure("managed by RPC / bare setchannel (p50)", _ratio(rpc, bare), "x", 3),
        Figure(
            "managed by DM less 2 hops / bare", (percentile(dm, 0.5) - twice) / percentile(bare, 0.5), "x", 3
        ),
    ]


def _figures(name: str, samples: list[float]) -> list[Figure]:
    return [
        Figure(f"{name} p50", percentile(samples, 0.5) * 1000, "ms"),
        Figure(f"{name} p99", percentile(samples, 0.99) * 1000, "ms"),
    ]


def _ratio(ours: list[float], yardstick: list[float]) -> float:
    return percentile(ours, 0.5) / percentile(yardstick, 0.5)


async def _open(world: World, channels: int) -> list[str]:
    await world.network.fund(world.alice, channels * 300_000)
    scids = []
    for number in range(channels):
        peer = await world.network.add_node(f"peer{number}")
        scids.append(await world.network.open_channel(world.alice, peer, 200_000))
    for scid in scids:
        await world.alice.call("setchannel", {"id": scid, "feebase": 1_000, "feeppm": 500})
    return scids


async def _bare(world: World, scids: list[str], rounds: int) -> list[float]:
    samples = []
    for number in range(rounds):
        started = time.perf_counter()
        await world.alice.call("setchannel", {"id": scids[number % len(scids)], "feeppm": 500 + number % 2})
        samples.append(time.perf_counter() - started)
    return samples


async def _managed(agent: Agent, scids: list[str], *, by_dm: bool) -> list[float]:
    samples = []
    for scid in scids:
        document = agent.signed("set_single", {"channel_id": scid, "fee_ppm": 520})
        started = time.perf_counter()
        if by_dm:
            await agent.dm(document)
            answer = await agent.answer(document["nonce"])
        else:
            answer = await agent.rest(document)
        samples.append(time.perf_counter() - started)
        assert answer["status"] == 0, json.dumps(answer)[:500]
    return samples


async def _hop(relay: str, rounds: int) -> list[float]:
    from hive_shared.crypto import Secret, xonly_pubkey

    sender, receiver = Secret(os.urandom(32)), Secret(os.urandom(32))
    arrived: asyncio.Queue[None] = asyncio.Queue()

    async def on_event(_relay: str, _name: str, event: Event) -> None:
        giftwrap.unwrap(receiver, event, verified=True)
        arrived.put_nowait(None)

    out, into = RelayPool(on_event=on_event), RelayPool(on_event=on_event)
    for pool in (out, into):
        await pool.set_relays([relay], [relay], [])
    into.subscribe("dm", [{"kinds": [1059], "#p": [xonly_pubkey(receiver)]}], lambda _url: None)
    for pool in (out, into):
        await pool.start()
        await pool.wait_for(lambda pool=pool: pool.connected() == 1, 10)
    samples = []
    for _ in range(rounds):
        started = time.perf_counter()
        event, _id = giftwrap.wrap(
            sender,
            xonly_pubkey(receiver),
            "x" * 900,
            tags=[],
            now=int(time.time()),
            rng=os.urandom,
            expiration=None,
        )
        await out.publish(event, [relay])
        await arrived.get()
        samples.append(time.perf_counter() - started)
    for pool in (out, into):
        await pool.stop()
    return samples
