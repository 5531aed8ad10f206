"""The emergency stop on a full disk, and as the node's other plugins see it (Protocol 08 §3.2, §6)."""

from __future__ import annotations

from typing import Any

import pytest
from agent import Agent
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import PLUGINS, World, until
from hive_shared.nostr.event import Event
from hive_shared.nostr.keys import npub_decode
from hive_shared.nostr.relay import RelayPool
from outside import COMMS, full_disk

STOP = "hive-client-emergency-stop"


async def test_on_a_full_disk_the_stop_holds_and_is_written_when_there_is_room(
    world: World, agent: Agent
) -> None:
    with full_disk(await world.alice.plugin_pid(COMMS)):
        with pytest.raises(DevnetRpcError) as caught:
            await world.alice.call(STOP, {"action": "engage", "reason": "fire", "freeze_forwarding": True})
        assert caught.value.code == 4020 and "the emergency stop is on" in caught.value.message, caught.value
        assert "EMERGENCY_STOP" in caught.value.message
        answer = await agent.rest(agent.signed("channel_list", {}, "hive:monitor/v1"))
        assert answer["error"]["slug"] == "emergency_stop", answer
        status = await world.alice.call(STOP, {"action": "status"})
        assert status["engaged"] is True and "write" in status["due"], status

    async def written() -> bool:
        status = await world.alice.call(STOP, {"action": "status"})
        return status["due"] == [] and status["forwarding"]["frozen"] == 1

    await until(written, "the stop to be written and the channel frozen")
    status = await world.alice.call(STOP, {"action": "status"})
    assert (status["by"], status["reason"]) == ("operator", "fire")
    await world.alice.call(STOP, {"action": "release", "token": status["release"]["token"]})


async def test_the_other_plugins_see_the_stop_also_when_they_start_later(world: World) -> None:
    async def start(name: str) -> None:
        await world.alice.call("plugin", {"subcommand": "start", "plugin": str(PLUGINS[name])})

    async def seen(method: str, expected: bool) -> bool:
        status: dict[str, Any] = await world.alice.call(method)
        return status["emergency"] is expected

    await start("cl-hive")
    await until(lambda: seen("hive-status", False), "cl-hive to have met comms")
    await world.alice.call(STOP, {"action": "engage"})
    await until(lambda: seen("hive-status", True), "cl-hive to hear of the stop")
    await start("cl-hive-archon")
    await until(lambda: seen("hive-archon-status", True), "cl-hive-archon to learn of it")
    token = (await world.alice.call(STOP, {"action": "status"}))["release"]["token"]
    await world.alice.call(STOP, {"action": "release", "token": token})
    for method in ("hive-status", "hive-archon-status"):
        await until(lambda method=method: seen(method, False), f"{method} to show the release")  # type: ignore[misc]


async def test_nothing_is_published_during_a_stop_and_the_release_makes_up_for_it(
    world: World, agent: Agent
) -> None:
    pool = RelayPool(on_event=nobody, private_relays=True)
    await pool.set_relays([world.relay.url], [world.relay.url], [])
    await pool.start()

    async def lists() -> bool:
        author = npub_decode((await world.alice.call("hive-client-identity"))["npub"])
        found = await pool.query([{"kinds": [10002, 10050], "authors": [author]}])
        return {event.kind for event in found.events} == {10002, 10050}

    try:
        await until(lists, "the first lists")
        await world.alice.call(STOP, {"action": "engage"})
        before = len(agent.inbox)
        await world.alice.call("hive-client-identity", {"action": "rotate", "confirm": True})
        # The notice and the offer under the new key come from the same loop later than lists would.
        await until(lambda: more_than(agent, before + 1), "the news of the new key")
        assert not await lists()
        token = (await world.alice.call(STOP, {"action": "status"}))["release"]["token"]
        await world.alice.call(STOP, {"action": "release", "token": token})
        await until(lists, "the lists of the new key")
    finally:
        await pool.stop()


async def more_than(agent: Agent, count: int) -> bool:
    return len(agent.inbox) > count


async def nobody(url: str, name: str, event: Event) -> None:
    return None
