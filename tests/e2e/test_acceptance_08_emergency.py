"""Sheet 08 §13.11 and §6 "Kill switch": engaged by call or file, mid-bulk, over a kill, released exactly."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from agent import Agent
from channel_world import (
    all_frozen,
    channels,
    exists,
    plugin_again,
    receipts,
    saved,
    varied_channels,
)
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World, until

STOP = "hive-client-emergency-stop"
MONITOR = "hive:monitor/v1"


async def stop(world: World, action: str = "engage", **params: object) -> dict[str, Any]:
    return await world.alice.call(STOP, {"action": action, **params})


async def release(world: World) -> dict[str, Any]:
    token = (await stop(world, "status"))["release"]["token"]
    return await stop(world, "release", token=token)


async def refused(world: World, action: str, **params: object) -> DevnetRpcError:
    with pytest.raises(DevnetRpcError) as caught:
        await stop(world, action, **params)
    return caught.value


async def monitor(agent: Agent) -> dict[str, Any]:
    return await agent.rest(agent.signed("channel_list", {}, MONITOR))


async def test_acceptance_08_11_engaged_by_call_nothing_remote_runs(world: World, agent: Agent) -> None:
    assert (await monitor(agent))["status"] == 0
    await world.network.open_channel(world.alice, world.bob, 500_000)
    fees = {"base_msat": 2_000, "fee_ppm": 600}
    waiting = await agent.rest(agent.signed("set_bulk", {"channels": [world.scid], "policy": fees}))
    assert waiting["status"] == 3, waiting
    engaged = await stop(world, reason="strange fees")
    assert engaged["engaged"] is True and engaged["by"] == "operator", engaged
    assert engaged["cancelled"] == 1 and engaged["reason"] == "strange fees"
    assert (await world.alice.call("hive-client-pending"))["count"] == 0
    answer = await monitor(agent)
    assert (answer["error"]["slug"], answer["error"]["code"]) == ("emergency_stop", 4012), answer
    by_dm = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 510})
    await agent.dm(by_dm)
    assert (await agent.answer(by_dm["nonce"]))["error"]["slug"] == "emergency_stop"
    with pytest.raises(DevnetRpcError) as hire:
        await world.alice.call("hive-client-authorize", {"advisor": agent.npub, "access": "fees"})
    assert hire.value.code == 4012
    status = await world.alice.call("hive-client-status")
    assert status["emergency"]["engaged"] is True and "release" not in status["emergency"]
    assert any(row["level"] == "critical" and row["code"] == "emergency_stop" for row in status["alerts"])
    assert (await receipts(world, "emergency_engage"))[0]["params"]["reason"] == "strange fees"
    await release(world)
    assert (await monitor(agent))["status"] == 0
    assert (await world.alice.call("hive-client-pending"))["count"] == 0
    assert len(await receipts(world, "emergency_release")) == 1
    assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True


async def test_acceptance_08_11_the_file_stops_too_and_its_removal_alone_releases_nothing(
    world: World, agent: Agent
) -> None:
    file = world.alice.net_dir / "hive" / "EMERGENCY_STOP"
    file.touch()
    assert (await monitor(agent))["error"]["slug"] == "emergency_stop", "looked at on every dispatch"
    status = await stop(world, "status")
    assert status["by"] == "file" and status["file_present"] is True
    error = await refused(world, "release", token=status["release"]["token"])
    assert error.code == 4015 and "EMERGENCY_STOP" in error.message, error
    file.unlink()
    assert (await monitor(agent))["error"]["slug"] == "emergency_stop"
    await plugin_again(world)
    assert (await monitor(agent))["error"]["slug"] == "emergency_stop", "survives a restart without the file"
    assert (await release(world))["engaged"] is False
    assert (await monitor(agent))["status"] == 0


async def test_acceptance_08_11_the_file_is_noticed_without_any_call(world: World, agent: Agent) -> None:
    await world.network.open_channel(world.alice, world.bob, 500_000)
    fees = {"base_msat": 2_000, "fee_ppm": 600}
    waiting = await agent.rest(agent.signed("set_bulk", {"channels": [world.scid], "policy": fees}))
    assert waiting["status"] == 3, waiting
    (world.alice.net_dir / "hive" / "EMERGENCY_STOP").touch()

    async def cancelled() -> bool:
        return bool((await world.alice.call("hive-client-pending"))["count"] == 0)

    await until(cancelled, "the file to be noticed")
    assert len(await receipts(world, "emergency_engage")) == 1


@pytest.mark.parametrize("by", ["call", "file"])
async def test_acceptance_08_11_mid_bulk_the_rest_is_cancelled(world: World, agent: Agent, by: str) -> None:
    if world.network.kind != "embedded":
        pytest.skip("holding one call of the node needs the embedded node's fault switches")
    from hive_devnet.faults import FaultKind, NodeFaults

    scids = [world.scid]
    for _ in range(5):
        scids.append(await world.network.open_channel(world.alice, world.bob, 300_000))
    for scid in scids:
        await world.alice.call("setchannel", {"id": scid, "feebase": 1_000, "feeppm": 500})
    faults = NodeFaults(world.network, world.alice)  # type: ignore[arg-type]
    document = agent.signed(
        "set_bulk", {"channels": scids[:3], "policy": {"base_msat": 1_000, "fee_ppm": 550}}
    )
    answer = await agent.rest(document)
    assert answer["status"] == 3, answer
    await faults.set("setchannel", FaultKind.DELAY_AFTER, seconds=60)
    approving = asyncio.create_task(
        world.alice.call("hive-client-approve", {"action_id": document["command_id"]})
    )

    async def held() -> bool:
        return await faults.struck("setchannel") == 1

    await until(held, "the first channel's call")
    if by == "call":
        assert (await stop(world))["engaged"] is True
    else:
        (world.alice.net_dir / "hive" / "EMERGENCY_STOP").touch()
    await faults.release()
    done = await approving
    assert done["state"] == "partial", done
    final = await agent.answer(document["nonce"], status=4)
    parts = final["result"]["channels"]
    assert [part["state"] for part in parts] == ["applied", "unchanged", "unchanged"], parts
    assert {part["error"] for part in parts[1:]} == {"emergency_stop"}
    now = await channels(world)
    assert [now[scid][3] for scid in scids[:3]] == [550, 500, 500]


async def test_acceptance_08_11_frozen_and_given_back_exactly(world: World, agent: Agent) -> None:
    before = await varied_channels(world)
    engaged = await stop(world, freeze_forwarding=True)
    assert engaged["forwarding"] == {"wanted": True, "frozen": 3, "saved": 3, "failed": {}}, engaged
    assert all_frozen(before, await channels(world))
    again = await stop(world, freeze_forwarding=True)
    assert again["forwarding"]["saved"] == 3
    await plugin_again(world)
    assert (await stop(world, "status"))["forwarding"]["frozen"] == 3
    assert all_frozen(before, await channels(world))
    released = await release(world)
    assert released["forwarding"] == {"wanted": False, "frozen": 0, "saved": 0, "failed": {}}, released
    assert await channels(world) == before
    freezes, restores = await receipts(world, "emergency_freeze"), await receipts(world, "emergency_restore")
    assert len(freezes) == len(restores) == 1
    assert {row["channel"] for row in freezes[0]["result"]["channels"]} == set(before)


@pytest.mark.parametrize("point", ["freeze_saved", "freeze_set", "restore_set"])
async def test_acceptance_08_11_killed_at_every_channel_the_limits_come_back(
    world: World, point: str
) -> None:
    before = await varied_channels(world)
    for scid in before:
        if point == "restore_set":
            await stop(world, freeze_forwarding=True)
        reached = world.arm_fault(f"{point}_{scid}")
        calling = asyncio.create_task(
            release(world) if point == "restore_set" else stop(world, freeze_forwarding=True)
        )
        await until(lambda path=reached: exists(path), f"{point} of {scid}")  # type: ignore[misc]
        await plugin_again(world)
        with pytest.raises((DevnetRpcError, ConnectionError)):
            await calling

        if point != "restore_set":

            async def frozen() -> bool:
                return (await stop(world, "status"))["forwarding"]["frozen"] == 3

            await until(frozen, "the sweep after the start")
            assert all_frozen(before, await channels(world))
            assert (await saved(world)) == {scid: limits[:2] for scid, limits in before.items()}
            await release(world)

        async def restored() -> bool:
            return await channels(world) == before and not await saved(world)

        await until(restored, "every channel's limits")
    assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True


async def test_bounds_set_by_hand_during_the_stop_stay(world: World, agent: Agent) -> None:
    before = await varied_channels(world)
    await stop(world, freeze_forwarding=True)
    by_hand = next(iter(before))
    await world.alice.call("setchannel", {"id": by_hand, "htlcmax": 55_000_000})
    await release(world)
    now = await channels(world)
    assert now[by_hand][:2] == (before[by_hand][0], 55_000_000)
    assert {scid: now[scid] for scid in now if scid != by_hand} == {
        scid: before[scid] for scid in before if scid != by_hand
    }
    left = await receipts(world, "emergency_restore_left")
    assert [row["channel"] for row in left[0]["result"]["channels"]] == [by_hand]


async def test_release_needs_a_fresh_token_of_this_stop(world: World) -> None:
    error = await refused(world, "release", token="1-00")
    assert error.code == 4015, error
    await stop(world)
    first = (await stop(world, "status"))["release"]["token"]
    for wrong in ("", "1-00", f"{int(first.split('-')[0]) + 1}-{first.split('-')[1]}", "²-00"):
        error = await refused(world, "release", **({"token": wrong} if wrong else {}))
        assert error.code == 4005 and "action=status" in error.message, error
    error = await refused(world, "status", reason="x")
    assert error.code == -32602
    assert (await stop(world, "release", token=first))["engaged"] is False
    error = await refused(world, "release", token=first)
    assert error.code == 4015, error


async def test_revoke_all_ends_every_credential_and_they_stay_ended(world: World, agent: Agent) -> None:
    engaged = await stop(world, revoke_all=True, reason="keys stolen")
    assert engaged["revoked"] == 1, engaged
    await release(world)
    answer = await monitor(agent)
    assert answer["error"]["slug"] == "credential_revoked", answer


async def test_an_unreadable_place_for_the_file_stops(world: World, agent: Agent) -> None:
    if os.geteuid() == 0:
        link = world.alice.net_dir / "hive" / "EMERGENCY_STOP"
        link.symlink_to("nowhere")
    else:
        (world.alice.net_dir / "hive").chmod(0)
    assert (await monitor(agent))["error"]["slug"] == "emergency_stop"


async def test_drain_takes_no_new_work_and_cancels_nothing(world: World, agent: Agent) -> None:
    await world.network.open_channel(world.alice, world.bob, 500_000)
    fees = {"base_msat": 2_000, "fee_ppm": 600}
    document = agent.signed("set_bulk", {"channels": [world.scid], "policy": fees})
    assert (await agent.rest(document))["status"] == 3
    drain = world.alice.net_dir / "hive" / "DRAIN"
    drain.touch()
    answer = await agent.rest(agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 510}))
    assert answer["error"]["slug"] == "shutting_down", answer
    assert (await world.alice.call("hive-client-status"))["emergency"]["draining"] is True
    assert (await world.alice.call("hive-client-pending"))["count"] == 1
    drain.unlink()
    assert (await agent.rest(agent.signed("channel_list", {}, MONITOR)))["status"] == 0
