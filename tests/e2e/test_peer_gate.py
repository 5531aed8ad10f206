"""Forbidden peers are kept away, and nobody else is (Protocol 08 §5.4 "Forbidden peer"; decision 0120)."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hive_devnet.node import DevnetRpcError, NodeHandle
from hive_devnet.world import World, until
from hive_shared.registry import CONFIG
from killed_command import trusted_agent


def on_lightningd() -> bool:
    """Whether these tests run on real Core Lightning, as hive_devnet.network.open_network decides."""
    found = "lightningd" if shutil.which("lightningd") else "embedded"
    return (os.environ.get("HIVE_NODE") or found) == "lightningd"


REFUSAL = "this node does not take you as a peer"


async def forbid(world: World, peer: NodeHandle, action: str = "forbid") -> None:
    await world.alice.call("hive-client-policy", {"action": action, "peers": peer.node_id})


async def connected(world: World, peer: NodeHandle) -> bool:
    peers = (await world.alice.call("listpeers", {"id": peer.node_id}))["peers"]
    return any(row["connected"] for row in peers)


async def gone(world: World, peer: NodeHandle) -> bool:
    return not await connected(world, peer)


async def tries(world: World, peer: NodeHandle) -> None:
    """Connects from its side; whether that looks like a success to it depends on who is quicker."""
    bound = (await world.alice.call("getinfo"))["binding"]
    port = next(item["port"] for item in bound if item["type"] == "ipv4")
    # Not the network's connect, which waits a minute for alice to list a peer she has turned away.
    try:
        await peer.call("connect", {"id": world.alice.node_id, "host": "127.0.0.1", "port": port})
    except (DevnetRpcError, TimeoutError):
        pass


async def opening(world: World, peer: NodeHandle, sat: int = 200_000) -> str:
    """The error that the peer gets when it opens a channel to alice."""
    await world.network.fund(peer, 2_000_000)
    with pytest.raises(DevnetRpcError) as caught:
        await peer.call("fundchannel", {"id": world.alice.node_id, "amount": sat})
    return caught.value.message


async def test_a_forbidden_peer_without_channels_is_put_out_and_let_in_again(world: World) -> None:
    carol = await world.network.add_node("carol")
    await world.network.connect(carol, world.alice)
    assert await connected(world, carol)
    await forbid(world, carol)
    await until(lambda: gone(world, carol), "the connected peer to be put out")
    before = world.alice.log_text().count("forbidden_peer_disconnected")
    await tries(world, carol)

    async def noticed() -> bool:
        return world.alice.log_text().count("forbidden_peer_disconnected") > before

    await until(noticed, "the hook to turn it away")
    await until(lambda: gone(world, carol), "the peer to be turned away")
    await forbid(world, carol, "unforbid")
    await tries(world, carol)
    await until(lambda: connected(world, carol), "the peer to be let in")
    await world.network.fund(carol, 1_000_000)
    await world.network.open_channel(carol, world.alice, 300_000)


async def test_a_forbidden_peer_with_channels_stays_and_gets_no_new_one(world: World) -> None:
    await forbid(world, world.bob)
    assert REFUSAL in await opening(world, world.bob)
    assert await connected(world, world.bob)
    assert len((await world.alice.call("listpeerchannels"))["channels"]) == 1
    await forbid(world, world.bob, "unforbid")
    await world.network.open_channel(world.bob, world.alice, 200_000)


@pytest.mark.skipif(not on_lightningd(), reason="the embedded node opens single-funded channels only")
async def test_a_dual_funded_channel_that_is_too_large_or_of_a_forbidden_peer_is_rejected() -> None:
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    dual = {"experimental-dual-fund": None}
    world = await World.start(directory, options=dual)
    try:
        carol = await world.network.add_node("carol", dual)
        await world.network.connect(carol, world.alice)
        await world.network.fund(carol, 1_000_000)
        await world.network.open_channel(carol, world.alice, 300_000)
        async with trusted_agent(world, {}) as agent:
            largest = agent.signed("set_max_channel_size", {"sats": 250_000}, CONFIG)
            assert (await agent.rest(largest))["status"] == 0
        assert "channels of more than 250000 sat are not taken" in await opening(world, carol, 250_001)
        await world.network.open_channel(carol, world.alice, 250_000)
        # The node's process for channels with two funders had all of it, the other one nothing.
        seen = world.alice.log_text()
        assert f"{carol.node_id}-dualopend" in seen and f"{carol.node_id}-openingd" not in seen
        await forbid(world, carol)
        assert REFUSAL in await opening(world, carol)
    finally:
        await world.close()
        shutil.rmtree(directory, ignore_errors=True)
