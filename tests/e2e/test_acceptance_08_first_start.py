"""Sheet 08 §13.1: a node that starts with cl-hive-comms for the first time."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest_asyncio
from agent import Agent
from hive_devnet.network import open_network
from hive_devnet.node import Network, NodeHandle
from hive_devnet.relay import RelayProcess
from hive_devnet.world import PLUGINS, World, until
from outside import age, internet_sockets, stood_ready

COMMS = "cl-hive-comms.py"
DID = re.compile(r"did:[a-z]+:")
READS: tuple[tuple[str, dict[str, object]], ...] = (
    ("hive-client-status", {}),
    ("hive-client-status", {"format": "text"}),
    ("hive-client-identity", {}),
    ("hive-client-selfcheck", {}),
    ("hive-client-policy", {}),
    ("hive-client-policy", {"action": "explain"}),
    ("hive-client-pending", {}),
    # As JSON these are the signed documents themselves, whose agent_id has the form of 02 §2.1.
    ("hive-client-receipts", {"format": "text"}),
    ("hive-client-receipts-verify", {}),
    ("hive-client-alias", {}),
    ("hive-client-capabilities", {}),
    ("hive-comms-transports", {}),
    ("hive-schema-list", {}),
)


@pytest_asyncio.fixture
async def network() -> AsyncIterator[Network]:
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # Not tmp_path: with the test's long name in it, a socket's path exceeds what AF_UNIX takes.
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    opened = await open_network(directory)
    yield opened
    await opened.close()
    shutil.rmtree(directory, ignore_errors=True)


@pytest_asyncio.fixture
async def relay() -> AsyncIterator[RelayProcess]:
    started = await RelayProcess.start()
    yield started
    await started.stop()


def quiet(relay: RelayProcess) -> dict[str, object]:
    """Options of a node that knows one relay and nothing else."""
    return {"hive-comms-nostr-relays": relay.url, "hive-comms-nostr-profile-relays": ""}


async def ready_in_time(node: NodeHandle, wall: float | None = None) -> None:
    """Assert that a plugin just started serves, with a key, three seconds after its process began (or after
    `wall` seconds that a caller measured); the time in which other programs kept it off the processor is
    not its own (0341, 0402)."""
    status = await node.call("hive-client-status")
    pid = await node.plugin_pid(COMMS)
    wall, waited = age(pid) if wall is None else wall, stood_ready(pid)
    assert status["identity"]["npub"].startswith("npub1")
    assert status["identity"]["origin"] == "derived:0"
    assert wall - waited <= 3, f"ready after {wall:.2f} s, {waited:.2f} s of them off the processor"


def initialised_in(node: NodeHandle) -> float:
    """Seconds from lightningd's RPC socket, which it opens before it initialises its plugins, to the line
    that it writes when all of them are (0665)."""
    up = re.findall(r"(\S+Z) INFO +lightningd: Server started with public key", node.log_text())[-1]
    return datetime.fromisoformat(up).timestamp() - node.rpc_path.stat().st_ctime


async def test_acceptance_08_01_a_fresh_node_is_ready_with_a_key_within_three_seconds(
    network: Network, relay: RelayProcess
) -> None:
    for name in ("fresh0", "fresh1", "fresh2"):
        node = await network.add_node(name, quiet(relay), [PLUGINS["cl-hive-comms"]])
        # The embedded node does nothing else while it starts; the age of the plugin is all its own.
        await ready_in_time(node, initialised_in(node) if network.kind == "lightningd" else None)
    database = node.net_dir / "cl_hive_comms.db"
    assert database.stat().st_mode & 0o777 == 0o600

    async def connected() -> bool:
        return bool((await node.call("hive-client-status"))["transports"]["nostr_dm"] == "up")

    await until(connected, "the relay connection")


async def test_acceptance_08_01_started_on_a_running_node_it_is_ready_as_fast(
    network: Network, relay: RelayProcess
) -> None:
    for name in ("fresh0", "fresh1", "fresh2"):
        node = await network.add_node(name)
        options = {"subcommand": "start", "plugin": str(PLUGINS["cl-hive-comms"]), **quiet(relay)}
        await node.call("plugin", options)
        await ready_in_time(node)


async def test_acceptance_08_01_no_did_is_shown_to_who_did_not_ask(
    network: Network, relay: RelayProcess
) -> None:
    node = await network.add_node("fresh", quiet(relay), [PLUGINS["cl-hive-comms"]])
    async with Agent(node, relay.url) as agent:
        await agent.hired("fees")
        for method, params in READS:
            shown = json.dumps(await node.call(method, params))
            assert not DID.search(shown), f"{method} {params} shows a DID: {shown}"
        name = (await node.call("hive-client-status"))["advisors"][0]["name"]
        shown = json.dumps(await node.call("hive-client-credential", {"advisor": name}))
        assert not DID.search(shown)
        assert (await node.call("hive-client-status"))["identity"]["has_did"] is False


async def test_acceptance_08_01_the_plugin_talks_to_its_relay_and_to_nothing_else(world: World) -> None:
    """Every socket of the process is looked at, again and again, while it does all it does."""
    await world.alice.call("setconfig", {"config": "hive-comms-nostr-profile-relays", "val": ""})
    pid = await world.alice.plugin_pid(COMMS)
    relay_port = urlsplit(world.relay.url).port
    seen: set[tuple[str, str, int]] = set()
    done = asyncio.Event()

    async def watch() -> None:
        while not done.is_set():
            seen.update(internet_sockets(pid))
            await asyncio.sleep(0.005)

    watcher = asyncio.create_task(watch())
    try:
        async with Agent(world.alice, world.relay.url) as agent:
            await agent.hired("fees")
            document = agent.signed("set_single", {"channel_id": world.scid, "base_msat": 1_500})
            await agent.dm(document)
            assert (await agent.answer(document["nonce"]))["status"] == 0
            await world.alice.call("hive-client-selfcheck")
            await world.alice.call("hive-client-revoke", {"advisor": agent.npub})
    finally:
        done.set()
        await watcher
    assert seen == {("tcp", "127.0.0.1", relay_port)}, seen
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert children == [], "a child process could talk in its place"
