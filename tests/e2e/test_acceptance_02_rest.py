"""Sheet 02 §13.11 (the rune's part) and §13.22, sheet 08 §13.5 and §13.12: the way through clnrest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import hive_advisor
import pytest
from agent import Agent
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import AdvisorFailed, World, until
from rest_calls import post, rune_of


def pin(world: World) -> str:
    """SHA-256 of the certificate that clnrest shows."""
    certificate = x509.load_pem_x509_certificate((world.rest_ca.parent / "server.pem").read_bytes())
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


async def test_acceptance_02_22_with_every_relay_down_the_same_command_goes_by_rest(
    rest_world: World,
) -> None:
    world = rest_world
    await world.hire("fees")
    ca = ("--ca-cert", str(world.rest_ca))
    # Nothing of an offer is contacted before its receiver says so, and a private address only if allowed.
    with pytest.raises(AdvisorFailed, match="--allow-private"):
        await world.advisor.run("client", "set", "alice", "--rest", "offered", *ca)
    said = await world.advisor.run("client", "set", "alice", "--rest", "offered", *ca, "--allow-private")
    assert said["rest"]["proven_by"] == "authority given"

    await world.relay.kill()
    done = await world.advisor.run(
        "--yes", "send", "alice", "hive:fee-policy/set_single", f"channel_id={world.scid}", "fee_ppm=550"
    )
    assert done["state"] == "done", done
    assert (await world.channel_fees())[1] == 550
    receipts = await world.alice.call("hive-client-receipts", {"limit": 50})
    # Relays come back: the answer was given once, and nothing runs a second time.
    await world.relay.restart()
    await world.advisor.run("run", "--once")
    assert (await world.alice.call("hive-client-receipts", {"limit": 50}))["items"] == receipts["items"]
    assert (await world.advisor.run("command", "show", done["command_id"]))["state"] == "done"


async def test_acceptance_02_22_the_pinned_certificate_is_the_only_one_taken(rest_world: World) -> None:
    world = rest_world
    await world.hire("fees")
    await world.relay.kill()
    setting = ("client", "set", "alice", "--rest", str(world.rest_url), "--allow-private")
    for wrong in (("--pin", "00" * 32), ()):
        # A foreign pin; and no proof at all, so that only authorities of the system count.
        await world.advisor.run(*setting, *wrong)
        with pytest.raises(AdvisorFailed):
            await world.advisor.run("--wait", "2", "client", "read", "alice", "health")
    await world.advisor.run(*setting, "--pin", pin(world))
    answer = await world.advisor.run("client", "read", "alice", "health")
    assert answer["state"] == "done", answer


async def test_acceptance_02_22_a_local_agent_uses_the_socket_with_the_same_envelope(
    rest_world: World,
) -> None:
    world = rest_world
    await world.hire("fees")
    await world.advisor.run("client", "set", "alice", "--socket", str(world.alice.rpc_path))
    await world.relay.kill()
    answer = await world.advisor.run("client", "read", "alice", "health")
    assert answer["state"] == "done", answer
    every = await world.advisor.run("client", "read", "--all", "channels")
    (one,) = every["items"]
    assert (one["client"], one["state"], one["result"]["count"]) == ("alice", "done", 1)
    for wrong in (("health",), ("--all", "alice", "health"), ("alice", "wealth")):
        with pytest.raises(AdvisorFailed) as refused:
            await world.advisor.run("client", "read", *wrong)
        assert refused.value.code == 2


async def test_acceptance_02_11_08_12_a_revoked_advisors_rune_is_blacklisted(rest_world: World) -> None:
    world = rest_world
    async with Agent(world.alice, world.relay.url) as agent:
        await agent.hired("fees")
        rest = await rune_of(agent)
        assert rest["url"] == world.rest_url
        document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 510})
        body = {"request": json.dumps(document), "sender": agent.key}
        answer = await post(world, "hive-comms-rpc", rest["rune"], body)
        assert answer.status_code == 201 and answer.json()["status"] == 0, answer.text

        revoked = await world.alice.call("hive-client-revoke", {"advisor": agent.npub})
        assert revoked["rune_blacklisted"] is True
        refused = await post(world, "hive-comms-rpc", rest["rune"], body)
        assert (refused.status_code, refused.json()["code"]) == (401, 1503), refused.text
        # The envelope has no way in either, and neither has a given rune.
        with pytest.raises(DevnetRpcError) as error:
            await agent.rest(
                agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 520}), **rest_of(rest)
            )
        assert error.value.code == 4003 and "blacklisted" in error.value.message
        assert (await world.channel_fees())[1] == 510


def rest_of(rest: dict[str, Any]) -> dict[str, Any]:
    """The `rune` argument of hive-comms-rpc."""
    return {"rune": rest["rune"]}


async def test_acceptance_02_11_a_renewed_credential_has_a_rune_of_its_own(rest_world: World) -> None:
    world = rest_world
    async with Agent(world.alice, world.relay.url) as agent:
        await agent.hired("fees")
        old = (await rune_of(agent))["rune"]
        agent.inbox.clear()
        await agent.hired("monitoring")
        new = (await rune_of(agent))["rune"]
        assert new != old

        async def blacklisted() -> bool:
            answer = await post(world, "hive-comms-rpc", old, {"request": "{}", "sender": agent.key})
            return answer.status_code == 401 and answer.json()["code"] == 1503

        await until(blacklisted, "the old rune's blacklisting")


async def test_acceptance_08_05_a_rune_for_every_hive_method_still_opens_no_sibling_call(
    rest_world: World,
) -> None:
    world = rest_world
    made = await world.alice.call("createrune", {"restrictions": [["method^hive-"]]})
    text = (Path(hive_advisor.__file__).parent / "methods.json").read_text()
    siblings = [
        method
        for method in json.loads(text)
        if method["plugin"] == "cl-hive-comms" and method["klass"] == "S"
    ]
    names = {method["name"] for method in siblings}
    assert {"hive-comms-send-dm", "hive-comms-sign-binding", "hive-comms-ingest"} <= names
    sample = {"str": "x", "int": 1, "bool": True, "json": {}, "any": "x"}
    for each in siblings:
        method = each["name"]
        params = {
            param["name"]: (param.get("choices") or [sample[param["kind"]]])[0]
            for param in each["params"]
            if param.get("required")
        }
        for auth in ({}, {"auth": "00" * 32, "ts": 1, "nonce": "11" * 16}):
            answer = await post(world, method, made["rune"], {**params, **auth})
            assert answer.status_code == 500 and answer.json()["code"] == 4003, (method, answer.text)


async def test_acceptance_08_05_the_sender_in_a_call_proves_nothing(rest_world: World) -> None:
    world = rest_world
    async with (
        Agent(world.alice, world.relay.url) as agent,
        Agent(world.alice, world.relay.url) as mallory,
    ):
        await agent.hired("fees")
        rune = (await rune_of(agent))["rune"]
        document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 530})
        # Her rune opens the method to her key alone.
        other = await post(
            world, "hive-comms-rpc", rune, {"request": json.dumps(document), "sender": mallory.key}
        )
        assert (other.status_code, other.json()["code"]) == (401, 1502), other.text
        # Mallory holds a wide rune and the agent's name, but not her key.
        wide = (await world.alice.call("createrune", {"restrictions": [["method=hive-comms-rpc"]]}))["rune"]
        forged = {
            **document,
            "signature": mallory.signed("set_single", {}, credential=document["credential"])["signature"],
        }
        answer = await post(
            world, "hive-comms-rpc", wide, {"request": json.dumps(forged), "sender": agent.key}
        )
        assert answer.json().get("error", {}).get("slug") == "bad_signature", answer.text
        foreign = mallory.signed(
            "set_single", {"channel_id": world.scid, "fee_ppm": 530}, credential=document["credential"]
        )
        answer = await post(
            world, "hive-comms-rpc", wide, {"request": json.dumps(foreign), "sender": agent.key}
        )
        assert answer.json().get("error", {}).get("slug") == "unauthorized", answer.text
        assert (await world.channel_fees())[1] == 500
