"""Sheet 08 §13.5, §13.12, §13.22 and sheet 02 §6.3: the switches of the way through clnrest, the rune given
as a parameter, the further path, and what status says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agent import Agent
from channel_world import ready
from cl_hive_comms.plugin.app import Comms
from clock_world import ROUND_S, world_at
from hive_devnet.faults import FaultKind, NodeFaults
from hive_devnet.network import EmbeddedNetwork
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import AdvisorFailed, World, until
from hive_shared.rune_template import restrictions
from rest_calls import post, post_in_turn, rune_of, send

COMMS = "hive-comms-"
RPC = "/v1/hive-comms-rpc"
PATH = "/v1/hive/rpc"


async def set_option(world: World, name: str, value: object) -> None:
    """As an operator does with `lightning-cli setconfig`."""
    await world.alice.call("setconfig", {"config": COMMS + name, "val": value, "transient": True})


async def rest_row(world: World) -> dict[str, Any]:
    """What hive-comms-transports says of REST."""
    rows = (await world.alice.call("hive-comms-transports"))["items"]
    return next(dict(row) for row in rows if row["name"] == "rest")


def body_of(agent: Agent, document: dict[str, Any], **more: str) -> dict[str, Any]:
    return {"request": json.dumps(document), "sender": agent.key, **more}


async def test_acceptance_08_22_rest_off_closes_every_way_but_relays_at_once(rest_world: World) -> None:
    world = rest_world
    async with Agent(world.alice, world.relay.url) as agent:
        await agent.hired("fees")
        rune = (await rune_of(agent))["rune"]
        document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 510})
        await set_option(world, "rest-enabled", False)
        refused = await post(world, "hive-comms-rpc", rune, body_of(agent, document))
        assert (refused.status_code, refused.json()["code"]) == (500, 4011), refused.text
        assert "hive-comms-rest-enabled" in refused.json()["message"]
        with pytest.raises(DevnetRpcError) as error:
            await agent.rest(document)
        assert error.value.code == 4011
        assert (await rest_row(world))["state"] == "off"
        # The same bytes by relay run; nothing was spent on the closed door.
        await agent.dm(document)
        assert (await agent.answer(document["nonce"]))["status"] == 0
        assert (await world.channel_fees())[1] == 510
        async with Agent(world.alice, world.relay.url) as second:
            answer = await world.alice.call(
                "hive-client-authorize", {"advisor": second.npub, "access": "monitoring"}
            )
            assert answer["delivery"] != "", answer
            await until(lambda: _offered(second), "the offer")
            assert not any("rest" in found["params"] for found in _offers(second))

        await set_option(world, "rest-enabled", True)
        again = await post_in_turn(world, RPC, rune, body_of(agent, document))
        assert again.status_code == 201 and again.json()["status"] == 0
        row = await rest_row(world)
        assert row["state"] == "up" and row["url"] == world.rest_url and row["last_ok"] is not None
        assert row["queue"] == 0


def _offers(agent: Agent) -> list[dict[str, Any]]:
    payloads = (document.get("schema_payload", {}) for document in agent.inbox)
    return [payload for payload in payloads if payload.get("action") == "credential_offer"]


async def _offered(agent: Agent) -> bool:
    return bool(_offers(agent))


async def test_acceptance_02_11_a_demanded_rune_is_the_one_of_the_offer_in_header_and_parameter(
    rest_world: World,
) -> None:
    world = rest_world
    await set_option(world, "rest-rune-required", True)
    async with (
        Agent(world.alice, world.relay.url) as agent,
        Agent(world.alice, world.relay.url) as other,
    ):
        await agent.hired("fees")
        await other.hired("monitoring")
        rune, foreign = (await rune_of(agent))["rune"], (await rune_of(other))["rune"]
        document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 515})
        # Used by clnrest and by us within the same second: still one call, not too many.
        answer = await post_in_turn(world, RPC, rune, body_of(agent, document, rune=rune))
        assert answer.status_code == 201 and answer.json()["status"] == 0, answer.text
        for given, why in (({}, "demands a rune"), ({"rune": foreign}, "does not permit")):
            refused = await post_in_turn(world, RPC, rune, body_of(agent, document, **given))
            assert (refused.status_code, refused.json()["code"]) == (500, 4003), refused.text
            assert refused.json()["data"]["reason"] == "rune_rejected" and why in refused.text
        narrow = (await world.alice.call("createrune", {"rune": rune, "restrictions": [["time<1"]]}))["rune"]
        ended = await post_in_turn(world, RPC, rune, body_of(agent, document, rune=narrow))
        assert ended.json()["data"] == {"reason": "rune_rejected", "code": 1502}, ended.text
        foreign_node = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA9MCZtZXRob2Q9aGl2ZS1jb21tcy1ycGM="
        stranger = await post_in_turn(world, RPC, rune, body_of(agent, document, rune=foreign_node))
        assert stranger.json()["data"] == {"reason": "rune_rejected", "code": 1501}, stranger.text
        await world.alice.call("hive-client-revoke", {"advisor": agent.npub})
        with pytest.raises(DevnetRpcError) as error:
            await agent.rest(document, rune=rune)
        assert error.value.data == {"reason": "rune_rejected", "code": 1503}
        assert (await world.channel_fees())[1] == 515


async def test_acceptance_02_11_the_kit_gives_the_rune_where_the_node_demands_it(rest_world: World) -> None:
    world = rest_world
    await set_option(world, "rest-rune-required", True)
    await world.hire("fees")
    await world.advisor.run(
        "client", "set", "alice", "--rest", "offered", "--ca-cert", str(world.rest_ca), "--allow-private"
    )
    await world.relay.kill()
    done = await world.advisor.run(
        "--yes", "send", "alice", "hive:fee-policy/set_single", f"channel_id={world.scid}", "fee_ppm=540"
    )
    assert done["state"] == "done", done
    await world.advisor.run("client", "set", "alice", "--rest", "off", "--socket", str(world.alice.rpc_path))
    answer = await world.advisor.run("client", "read", "alice", "health")
    assert answer["state"] == "done", answer


async def test_acceptance_02_02_the_further_path_is_the_same_method_and_outlives_clnrest(
    rest_world: World,
) -> None:
    world = rest_world
    clnrest = next(
        plugin["name"]
        for plugin in (await world.alice.call("plugin", {"subcommand": "list"}))["plugins"]
        if plugin["name"].endswith("clnrest.py")
    )

    async def path() -> str | None:
        found: str | None = (await rest_row(world))["path"]
        return found

    assert await until(path, "the path") == PATH
    async with Agent(world.alice, world.relay.url) as agent:
        await agent.hired("fees")
        rune = (await rune_of(agent))["rune"]
        document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 525})
        first = await post_in_turn(world, PATH, rune, body_of(agent, document))
        second = await post_in_turn(world, RPC, rune, body_of(agent, document))
        assert first.status_code == 201 and first.json() == second.json() and first.json()["status"] == 0
        without = await send(world, PATH, content=b"{}")
        assert (without.status_code, without.json()["code"]) == (403, 1501)
        read = await send(world, PATH, rune=rune, method="GET")
        assert read.status_code == 405

        await world.alice.call("plugin", {"subcommand": "stop", "plugin": clnrest})

        async def gone() -> bool:
            return (await rest_row(world))["state"] == "clnrest_absent"

        await until(gone, "status to see that clnrest stopped")
        assert await path() is None
        await world.alice.call("plugin", {"subcommand": "start", "plugin": clnrest})
        assert await until(path, "the path again") == PATH
        again = await post_in_turn(world, PATH, rune, body_of(agent, document))
        assert again.json() == first.json()


async def test_acceptance_08_22_options_of_the_past_and_of_regtest(tmp_path: Path) -> None:
    world = await World.start(tmp_path / "w", options={COMMS + "rest-port": 9999}, with_rest=True)
    try:
        status = await world.alice.call("hive-client-status")
        assert f"{COMMS}rest-port is set and ignored: remove it" in status["warnings"]
        check = await world.alice.call("hive-client-selfcheck")
        found = {row["id"]: row for row in check["checks"]}
        assert found["options"]["status"] == "warn" and "rest-port" in found["options"]["detail"]
        assert found["runes"]["status"] == "ok"
    finally:
        await world.close()


async def test_acceptance_08_22_one_rune_for_all_is_shared_and_never_blacklisted(tmp_path: Path) -> None:
    world = await World.start(tmp_path / "w", with_rest=True)
    try:
        shared = (await world.alice.call("createrune", {"restrictions": [["method=hive-comms-rpc"]]}))["rune"]
        await world.alice.stop()
        with (world.alice.net_dir / "config").open("a") as config:
            config.write(f"{COMMS}rest-rune-static={shared}\n")
        await world.alice.start()
        await ready(world)
        async with Agent(world.alice, world.relay.url) as agent:
            await agent.hired("monitoring")
            assert (await rune_of(agent))["rune"] == shared
            await world.alice.call("hive-client-revoke", {"advisor": agent.npub})
            assert await world.alice.call("checkrune", {"rune": shared, "method": "hive-comms-rpc"})
    finally:
        await world.close()


async def test_acceptance_02_11_a_hire_whose_rune_failed_gets_it_later(tmp_path: Path) -> None:
    async with world_at(tmp_path, with_rest=True) as (world, clock):
        if not isinstance(world.network, EmbeddedNetwork):
            pytest.skip("createrune of a real node cannot be made to fail")
        faults = NodeFaults(world.network, world.alice)
        await faults.set("createrune", FaultKind.FAIL_BEFORE, times=0)
        npub = await world.hire("fees")

        async def owed() -> bool:
            status = await world.alice.call("hive-client-status")
            return any("wait for their rune" in text for text in status["warnings"])

        async def made() -> bool:
            return not await owed()

        assert await owed()
        setting = ("--rest", "offered", "--ca-cert", str(world.rest_ca), "--allow-private")
        with pytest.raises(AdvisorFailed):
            await world.advisor.run("client", "set", "alice", *setting)
        await faults.clear()
        clock.wait(ROUND_S)
        await until(made, "the rune")

        async def usable() -> bool:
            await world.advisor.run("run", "--once")
            try:
                await world.advisor.run("client", "set", "alice", *setting)
            except AdvisorFailed:
                return False
            return True

        await until(usable, "the rune to follow")
        await world.relay.kill()
        assert (await world.advisor.run("client", "read", "alice", "health"))["state"] == "done"
        revoked = await world.alice.call("hive-client-revoke", {"advisor": npub})
        assert revoked["rune_blacklisted"] is True


async def test_acceptance_08_21_a_rune_for_reading_opens_no_change(rest_world: World) -> None:
    world = rest_world
    rows = restrictions(list(Comms().app._methods.values()))
    rune = (
        await world.alice.call("createrune", {"restrictions": [row for row in rows if row != ["rate=60"]]})
    )["rune"]

    async def opens(method: str, params: object) -> bool:
        try:
            return bool(
                (await world.alice.call("checkrune", {"rune": rune, "method": method, "params": params}))[
                    "valid"
                ]
            )
        except DevnetRpcError as error:
            assert error.code == 1502, error
            return False

    policy = "hive-client-policy"
    shown = await post(world, policy, rune, {"action": "get"})
    assert shown.status_code == 201 and shown.json()["preset"] == "moderate", shown.text
    for params in ({"action": "set-preset", "preset": "aggressive"}, {"preset": "aggressive"}, {}):
        refused = await post(world, policy, rune, params)
        assert refused.status_code == 401, refused.text
    assert (await world.alice.call(policy))["preset"] == "moderate"
    assert await opens(policy, {"action": "explain"})
    assert not await opens(policy, ["get"]) and not await opens(policy, ["reset"])
    assert await opens("hive-client-selfcheck", {"fix": False})
    assert not await opens("hive-client-selfcheck", {"fix": True})
    assert not await opens("hive-client-selfcheck", {})
    for method in (
        "hive-client-authorize",
        "hive-client-revoke",
        "hive-comms-alert",
        "hive-comms-rpc",
        "pay",
    ):
        assert not await opens(method, {}), method
