"""A managed fee change beside the bare `setchannel` it amounts to, on the same node, by local RPC and by DM.

Goal: managed <= 3 x bare, plus the relay hops for the DM form, judged on lightningd
(docs/decisions/0230-the-yardstick-of-a-managed-change.md). Each round takes one channel of each form and
makes both changes on it, the bare one first, so that both meet the node in the same state and the machine
under the same load. Both really change the fee (a `setchannel` to the fee that is set already is cheaper) and
both name base, rate and enforcement delay. The hops are measured in the same rounds with texts of the sizes
of the command and of its response, gift-wrapped, sent over the same relay and unwrapped.

Beside the times stands what the plugin computes for one change, which no other program on the machine and
no disk makes longer by waiting: the processor time of all its threads, from before the command until it
rests again.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agent import Agent
from figures import Figure, cpu_s, percentile, rss_mb
from hive_devnet.world import World
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr import giftwrap
from hive_shared.nostr.event import Event
from hive_shared.nostr.relay import RelayPool

# One channel per write: the rules allow one fee write an hour per channel.
_CHANNELS = 24
# What a change leaves behind (gossip, the row that says sent) shall not be on the next sample's bill.
_QUIET_S = 0.05


def main(smoke: bool) -> list[Figure]:
    """See the module's first lines."""
    return asyncio.run(_measure(2 if smoke else _CHANNELS))


async def _measure(channels: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as directory:
        world = await World.start(
            Path(directory) / "world",
            options={"hive-comms-policy-preset": "aggressive"},
            # A node of an operator has no fault points to look for.
            with_faults=False,
        )
        try:
            scids = await _open(world, channels)
            await world.alice.call(
                "hive-client-policy",
                {"action": "set", "overrides": {"rate_limits": {"fee_changes_per_hour": 1_000}}},
            )
            async with Agent(world.alice, world.relay.url) as agent, _Hop.between(world.relay.url) as hop:
                await agent.hired("fees")
                pid = await world.alice.plugin_pid("cl-hive-comms.py")
                bare, rpc, dm, hops, cpu = await _rounds(world, agent, hop, scids, pid)
            rss = rss_mb(pid)
            status = await _status(world, 3 if channels < _CHANNELS else 50)
        finally:
            await world.close()
    both = percentile(hops, 0.5)
    # The embedded node's setchannel costs a third to a half of a real node's: no yardstick for this goal.
    goal = 3 if world.network.kind == "lightningd" else None
    return [
        Figure("node kind", 0, world.network.kind),
        *_figures("bare setchannel", bare),
        *_figures("managed fee change, local RPC", rpc),
        *_figures("managed fee change, DM", dm),
        *_figures("two relay hops (wrap, relay, unwrap)", hops),
        *_figures("plugin's processor time for a change, local RPC", cpu[False]),
        *_figures("plugin's processor time for a change, DM", cpu[True]),
        *_figures("hive-client-status", status),
        Figure("RSS of cl-hive-comms after these commands", rss, "MB", 80),
        Figure(
            "managed by RPC / bare setchannel (p50)", percentile(rpc, 0.5) / percentile(bare, 0.5), "x", goal
        ),
        Figure(
            "managed by DM less 2 hops / bare",
            (percentile(dm, 0.5) - both) / percentile(bare, 0.5),
            "x",
            goal,
        ),
    ]


def _figures(name: str, samples: list[float]) -> list[Figure]:
    return [
        Figure(f"{name} p50", percentile(samples, 0.5) * 1000, "ms"),
        Figure(f"{name} p99", percentile(samples, 0.99) * 1000, "ms"),
    ]


async def _open(world: World, channels: int) -> list[str]:
    await world.network.fund(world.alice, channels * 300_000)
    scids = []
    for number in range(channels):
        peer = await world.network.add_node(f"peer{number}")
        scids.append(await world.network.open_channel(world.alice, peer, 200_000))
    for scid in scids:
        await world.alice.call("setchannel", {"id": scid, "feebase": 1_000, "feeppm": 500})
    return scids


async def _rounds(
    world: World, agent: Agent, hop: _Hop, scids: list[str], pid: int
) -> tuple[list[float], list[float], list[float], list[float], dict[bool, list[float]]]:
    bare: list[float] = []
    managed: dict[bool, list[float]] = {False: [], True: []}
    cpu: dict[bool, list[float]] = {False: [], True: []}
    hops: list[float] = []
    for number, scid in enumerate(scids):
        by_dm = number % 2 == 1
        bare.append(await _bare(world, scid))
        before = cpu_s(pid)
        took, sizes = await _managed(agent, scid, by_dm=by_dm)
        managed[by_dm].append(took)
        await asyncio.sleep(_QUIET_S)
        cpu[by_dm].append(cpu_s(pid) - before)
        if by_dm:
            hops.append(sum([await hop.take(size) for size in sizes]))
    return bare, managed[False], managed[True], hops, cpu


async def _bare(world: World, scid: str) -> float:
    change = {"id": scid, "feebase": 1_000, "feeppm": 510, "enforcedelay": 600}
    started = time.perf_counter()
    await world.alice.call("setchannel", change)
    took = time.perf_counter() - started
    await asyncio.sleep(_QUIET_S)
    return took


async def _managed(agent: Agent, scid: str, *, by_dm: bool) -> tuple[float, tuple[int, int]]:
    document = agent.signed("set_single", {"channel_id": scid, "base_msat": 1_000, "fee_ppm": 520})
    started = time.perf_counter()
    if by_dm:
        await agent.dm(document)
        answer = await agent.answer(document["nonce"])
    else:
        answer = await agent.rest(document)
    took = time.perf_counter() - started
    assert answer["status"] == 0, json.dumps(answer)[:500]
    return took, (len(json.dumps(document)), len(json.dumps(answer)))


async def _status(world: World, rounds: int) -> list[float]:
    samples = []
    for _ in range(rounds):
        started = time.perf_counter()
        await world.alice.call("hive-client-status")
        samples.append(time.perf_counter() - started)
    return samples


class _Hop:
    """Two keys with one connection each to the relay."""

    def __init__(self) -> None:
        self._sender, self._receiver = Secret(os.urandom(32)), Secret(os.urandom(32))
        self._arrived: asyncio.Queue[None] = asyncio.Queue()
        self._out, self._into = RelayPool(on_event=self._event), RelayPool(on_event=self._event)

    @classmethod
    @asynccontextmanager
    async def between(cls, relay: str) -> AsyncIterator[_Hop]:
        hop = cls()
        pools = (hop._out, hop._into)
        for pool in pools:
            await pool.set_relays([relay], [relay], [])
        recipient = xonly_pubkey(hop._receiver)
        hop._into.subscribe("dm", [{"kinds": [1059], "#p": [recipient]}], lambda _url: None)
        try:
            for pool in pools:
                await pool.start()
                assert await pool.wait_for(lambda pool=pool: pool.connected("read") == 1, 10)
            yield hop
        finally:
            for pool in pools:
                await pool.stop()

    async def _event(self, _relay: str, _name: str, event: Event) -> None:
        giftwrap.unwrap(self._receiver, event, verified=True)
        self._arrived.put_nowait(None)

    async def take(self, size: int) -> float:
        """Seconds from a text of this size to its being read on the other side."""
        started = time.perf_counter()
        event, _id = giftwrap.wrap(
            self._sender,
            xonly_pubkey(self._receiver),
            "x" * size,
            tags=[],
            now=int(time.time()),
            rng=os.urandom,
            expiration=None,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(self._out.publish(event, list(self._out_relays())))
            await self._arrived.get()
            took = time.perf_counter() - started
        return took

    def _out_relays(self) -> list[str]:
        return [str(row["url"]) for row in self._out.status()]
