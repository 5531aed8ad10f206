"""Sheet 08 §13.8 and the operator's queue (§5.4, 02 §7.3): approve, reject, edit, expire; what stops it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import pytest
from agent import Agent
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World, until

APPROVE = "hive-client-approve"


async def start(world: World, ppm: int = 1_000) -> None:
    await world.alice.call("setchannel", {"id": world.scid, "feebase": 1_000, "feeppm": ppm})


async def asked(world: World, agent: Agent, ppm: int = 1_200, **policy: object) -> tuple[dict[str, Any], str]:
    """A bulk change (danger 5): it waits for the operator. Returns the envelope and the action's id."""
    await start(world)
    # A bulk over more than half of the node's channels would be danger 6.
    await world.network.open_channel(world.alice, world.bob, 500_000)
    document = agent.signed(
        "set_bulk", {"channels": [world.scid], "policy": policy or {"base_msat": 2_000, "fee_ppm": ppm}}
    )
    answer = await agent.rest(document)
    assert answer["status"] == 3, answer
    assert (answer["error"]["code"], answer["error"]["slug"]) == (4005, "confirmation_required"), answer
    action_id = answer["error"]["data"]["action_id"]
    assert action_id == document["command_id"]
    return document, action_id


async def receipts_of(world: World, command_id: str) -> list[dict[str, Any]]:
    items = (await world.alice.call("hive-client-receipts", {"limit": 200}))["items"]
    return [item for item in items if item.get("command_id") == command_id]


async def only_receipt(world: World, command_id: str) -> dict[str, Any]:
    found = await receipts_of(world, command_id)
    assert len(found) == 1, found
    verified = await world.alice.call("hive-client-receipts-verify")
    assert verified["ok"] is True, verified
    return found[0]


async def never_ran(world: World, agent: Agent, document: Mapping[str, Any], slug: str) -> dict[str, Any]:
    """Nothing changed, one receipt says so, and the advisor was told why."""
    receipt = await only_receipt(world, document["command_id"])
    assert receipt["error"]["slug"] == slug, receipt
    assert receipt["status"] != "success"
    told = await agent.answer(document["nonce"], status=1)
    assert told["error"]["slug"] == slug
    assert (await agent.rest(dict(document)))["error"]["slug"] == slug, "the kept reply is the final one"
    assert (await world.alice.call("hive-client-pending"))["count"] == 0
    return receipt


async def refused(world: World, **params: object) -> DevnetRpcError:
    with pytest.raises(DevnetRpcError) as caught:
        await world.alice.call(APPROVE, params)
    return caught.value


async def overdue(world: World, action_id: str) -> None:
    """Nobody can move the plugin's clock from outside: the deadline is moved instead."""

    def write() -> None:
        path = world.alice.net_dir / "cl_hive_comms.db"
        with closing(sqlite3.connect(path, timeout=60)) as database, database:
            database.execute("UPDATE comms_commands SET deadline = 1 WHERE command_id = ?", (action_id,))
            database.execute("UPDATE comms_pending SET expires_at = 1 WHERE action_id = ?", (action_id,))

    await asyncio.to_thread(write)


async def test_approved_it_runs_and_everyone_is_told(world: World, agent: Agent) -> None:
    document, action_id = await asked(world, agent)
    waiting = await world.alice.call("hive-client-pending")
    assert waiting["count"] == 1
    row = waiting["items"][0]
    assert row["action_id"] == action_id and row["action"] == "set_bulk"
    assert row["danger"]["total"] == 5
    assert row["params"]["channels"] == [world.scid]
    assert (await world.channel_fees()) == (1_000, 1_000)
    done = await world.alice.call(APPROVE, {"action_id": action_id})
    assert (done["state"], done["approvals"], done["needed"]) == ("success", 1, 1), done
    assert (await world.channel_fees()) == (2_000, 1_200)
    final = await agent.answer(document["nonce"], status=0)
    receipt = await only_receipt(world, document["command_id"])
    assert final["receipt"]["receipt_hash"] == receipt["receipt_hash"]
    assert receipt["approval"]["workflow"] == "queue" and receipt["approval"]["approvers"] == ["local"]
    assert (await world.alice.call("hive-client-pending"))["count"] == 0
    again = await refused(world, action_id=action_id)
    assert again.code == 4015, again


async def test_rejected_it_does_not_run_and_the_reason_is_kept(world: World, agent: Agent) -> None:
    document, action_id = await asked(world, agent)
    done = await world.alice.call(
        APPROVE, {"action_id": action_id, "reject": True, "reason": "not before the weekend"}
    )
    assert done["state"] == "rejected", done
    receipt = await never_ran(world, agent, document, "approval_rejected")
    assert "not before the weekend" in receipt["error"]["message"]
    assert (await world.channel_fees()) == (1_000, 1_000)


async def test_an_edit_that_reduces_runs_reduced_and_the_receipt_keeps_both(
    world: World, agent: Agent
) -> None:
    document, action_id = await asked(world, agent)
    smaller = {"channels": [world.scid], "policy": {"base_msat": 2_000, "fee_ppm": 1_100}}
    done = await world.alice.call(APPROVE, {"action_id": action_id, "params_json": smaller})
    assert done["state"] == "success", done
    assert (await world.channel_fees()) == (2_000, 1_100)
    receipt = await only_receipt(world, document["command_id"])
    assert receipt["params"]["policy"]["fee_ppm"] == 1_100
    assert len(receipt["approval"]["original_params_hash"]) == 64


@pytest.mark.parametrize(
    "policy",
    [
        {"base_msat": 2_000, "fee_ppm": 1_201},
        {"base_msat": 2_001, "fee_ppm": 1_200},
        {"base_msat": 2_000, "fee_delta_pct": 10},
    ],
    ids=["rate", "base", "another field"],
)
async def test_an_edit_that_raises_is_refused_and_the_action_waits_on(
    world: World, agent: Agent, policy: dict[str, int]
) -> None:
    _document, action_id = await asked(world, agent)
    error = await refused(
        world, action_id=action_id, params_json={"channels": [world.scid], "policy": policy}
    )
    assert error.code == -32602 and "only lower" in error.message, error
    assert (await world.alice.call("hive-client-pending"))["count"] == 1
    assert (await world.channel_fees()) == (1_000, 1_000)
    assert (await world.alice.call(APPROVE, {"action_id": action_id}))["state"] == "success"


async def test_an_edit_may_not_name_another_channel(world: World, agent: Agent) -> None:
    peer = await world.network.add_node("carol")
    await world.network.fund(world.alice, 2_000_000)
    other = await world.network.open_channel(world.alice, peer, 1_000_000, 100_000_000)
    before = await world.channel_fees(other)
    _document, action_id = await asked(world, agent)
    policy = {"base_msat": 2_000, "fee_ppm": 1_200}
    for channels in ([other], [world.scid, other]):
        error = await refused(
            world, action_id=action_id, params_json={"channels": channels, "policy": policy}
        )
        assert error.code == -32602, error
    assert await world.channel_fees(other) == before


async def test_what_waits_too_long_expires(world: World, agent: Agent) -> None:
    document, action_id = await asked(world, agent)

    await overdue(world, action_id)

    async def expired() -> bool:
        return bool(await receipts_of(world, action_id))

    await until(expired, "the expiry", pause=0.5)
    receipt = await never_ran(world, agent, document, "approval_expired")
    assert receipt["status"] == "expired", receipt
    error = await refused(world, action_id=action_id)
    assert error.code == 4015, error
    assert (await world.channel_fees()) == (1_000, 1_000)


async def test_a_deadline_that_passed_is_not_approved_even_before_the_clockwork_noticed(
    world: World, agent: Agent
) -> None:
    document, action_id = await asked(world, agent)
    await overdue(world, action_id)
    error = await refused(world, action_id=action_id)
    assert error.code in (4004, 4015) and "expired" in error.message, error

    async def ended() -> bool:
        return bool(await receipts_of(world, action_id))

    await until(ended, "the expiry", pause=0.5)
    await never_ran(world, agent, document, "approval_expired")
    assert (await world.channel_fees()) == (1_000, 1_000)


async def test_the_operators_hours_are_the_deadline(world: World, agent: Agent) -> None:
    await world.alice.call("setconfig", {"config": "hive-comms-confirm-hours-low", "val": 2})
    await asked(world, agent)
    row = (await world.alice.call("hive-client-pending"))["items"][0]
    assert row["expires_at"] - row["created_at"] == 2 * 3_600


async def test_an_unknown_action_is_not_found(world: World) -> None:
    for action_id in ("11111111-2222-4333-8444-555555555555", "7", "all"):
        error = await refused(world, action_id=action_id)
        assert error.code == 4001 and error.message.startswith("not_found: "), error


# -- 08 §13.8: approved too late ------------------------------------------------------------------------


async def test_acceptance_08_08_approved_after_the_advisor_was_revoked_it_does_not_run(
    world: World, agent: Agent
) -> None:
    document, action_id = await asked(world, agent)
    done = await world.alice.call("hive-client-revoke", {"advisor": agent.npub, "reason": "trust is gone"})
    assert done["cancelled"] == 1, done
    error = await refused(world, action_id=action_id)
    assert error.code == 4015, error
    receipt = await only_receipt(world, document["command_id"])
    assert (receipt["status"], receipt["error"]["slug"]) == ("cancelled", "credential_revoked"), receipt
    assert (await world.channel_fees()) == (1_000, 1_000)
    assert (await agent.rest(agent.signed("health_summary", {}, "hive:monitor/v1")))["error"][
        "slug"
    ] == "credential_revoked"
    events = (await world.alice.call("hive-client-receipts", {"limit": 200}))["items"]
    assert any(item["action"] == "revoke" for item in events)


async def test_acceptance_02_11_revoked_while_three_wait_and_one_runs(world: World, agent: Agent) -> None:
    """What waits is cancelled with the revocation, what runs ends on record, and the next is refused."""
    if world.network.kind != "embedded":
        pytest.skip("holding one call of the node needs the embedded node's fault switches")
    from hive_devnet.faults import FaultKind, NodeFaults

    rule = {"match": {"schema": "hive:fee-policy/v1", "danger_gte": 3}, "effect": "confirm"}
    await world.alice.call("hive-client-policy", {"action": "add-rule", "rule": rule})
    waiting = []
    for _ in range(3):
        scid = await world.network.open_channel(world.alice, world.bob, 300_000)
        await world.alice.call("setchannel", {"id": scid, "feebase": 1_000, "feeppm": 500})
        waiting.append(agent.signed("set_single", {"channel_id": scid, "fee_ppm": 550}))
        assert (await agent.rest(waiting[-1]))["status"] == 3
    # A base fee is danger 2: it runs by itself, and is held in the node.
    faults = NodeFaults(world.network, world.alice)  # type: ignore[arg-type]
    await faults.set("setchannel", FaultKind.DELAY_AFTER, seconds=60)
    runs = agent.signed("set_single", {"channel_id": world.scid, "base_msat": 1_500})
    running = asyncio.create_task(agent.rest(runs))

    async def held() -> bool:
        return await faults.struck("setchannel") == 1

    await until(held, "the running command's call")
    done = await world.alice.call("hive-client-revoke", {"advisor": agent.npub, "reason": "enough"})
    assert done["cancelled"] == 3, done
    assert (await world.alice.call("hive-client-pending"))["count"] == 0
    await faults.release()
    assert (await running)["status"] == 0
    assert (await only_receipt(world, runs["command_id"]))["status"] == "success"
    for document in waiting:
        receipt = await only_receipt(world, document["command_id"])
        assert (receipt["status"], receipt["error"]["slug"]) == ("cancelled", "credential_revoked")
        assert (await agent.answer(document["nonce"], status=1))["error"]["slug"] == "credential_revoked"
    following = (
        ("set_single", {"channel_id": world.scid, "base_msat": 1_600}, "hive:fee-policy/v1"),
        ("health_summary", {}, "hive:monitor/v1"),
        ("telemetry_subscribe", {"metrics": ["health"], "until": 2_000_000_000}, "hive:control/v1"),
    )
    for action, params, schema in following:
        answer = await agent.rest(agent.signed(action, params, schema))
        assert answer["error"]["slug"] == "credential_revoked", answer
    assert await faults.struck("setchannel") == 1
    assert (await world.channel_fees())[0] == 1_500


async def test_acceptance_08_08_approved_under_the_emergency_file_it_does_not_run(
    world: World, agent: Agent
) -> None:
    document, action_id = await asked(world, agent)
    stop = world.alice.net_dir / "hive" / "EMERGENCY_STOP"
    stop.parent.mkdir(exist_ok=True)
    stop.touch()
    error = await refused(world, action_id=action_id)
    assert error.code in (4012, 4015), error
    assert (await world.channel_fees()) == (1_000, 1_000)

    async def cancelled() -> bool:
        return bool(await receipts_of(world, action_id))

    await until(cancelled, "the receipt of the cancelled command")
    receipt = await only_receipt(world, document["command_id"])
    assert (receipt["status"], receipt["error"]["slug"]) == ("cancelled", "emergency_stop"), receipt
    status = await world.alice.call("hive-client-status")
    assert status["emergency"]["engaged"] is True
    refused_now = await agent.rest(agent.signed("health_summary", {}, "hive:monitor/v1"))
    assert (refused_now["error"]["code"], refused_now["error"]["slug"]) == (4012, "emergency_stop")
    error = await refused(world, action_id=action_id)
    assert error.code == 4015, error


@pytest.mark.parametrize("by", ["rate", "base"])
async def test_acceptance_08_08_approved_after_the_channel_drifted_it_does_not_run(
    world: World, agent: Agent, by: str
) -> None:
    document, action_id = await asked(world, agent)
    change = {"feeppm": 1_050} if by == "rate" else {"feebase": 1_001}
    await world.alice.call("setchannel", {"id": world.scid, **change})
    drifted = await world.channel_fees()
    done = await world.alice.call(APPROVE, {"action_id": action_id})
    assert (done["state"], done["slug"]) == ("rejected", "stale_state"), done
    assert await world.channel_fees() == drifted
    await never_ran(world, agent, document, "stale_state")


async def test_acceptance_08_08_approved_after_the_policy_was_tightened_it_does_not_run(
    world: World, agent: Agent
) -> None:
    document, action_id = await asked(world, agent)
    await world.alice.call("hive-client-policy", {"action": "protect", "channels": world.scid})
    done = await world.alice.call(APPROVE, {"action_id": action_id})
    assert (done["state"], done["slug"]) == ("rejected", "protected_channel"), done
    assert (await world.channel_fees()) == (1_000, 1_000)
    await never_ran(world, agent, document, "protected_channel")


async def test_acceptance_08_08_approved_after_a_renewal_it_does_not_run(world: World, agent: Agent) -> None:
    """A renewed advisor holds a new credential; the old one is refused at once (02 §2.5)."""
    document, action_id = await asked(world, agent)
    await world.alice.call("hive-client-authorize", {"advisor": agent.npub, "access": "fees"})
    try:
        done = await world.alice.call(APPROVE, {"action_id": action_id})
        assert (done["state"], done["slug"]) == ("rejected", "credential_superseded"), done
    except DevnetRpcError as error:
        assert error.code == 4015, error
    receipt = await only_receipt(world, document["command_id"])
    assert receipt["error"]["slug"] == "credential_superseded", receipt
    assert (await world.channel_fees()) == (1_000, 1_000)


async def test_acceptance_08_08_what_waits_survives_a_crash_and_is_judged_after_it(
    world: World, agent: Agent
) -> None:
    document, action_id = await asked(world, agent)
    await world.alice.kill()
    await world.alice.start()

    async def back() -> bool:
        try:
            return bool((await world.alice.call("hive-client-pending"))["count"] == 1)
        except (DevnetRpcError, OSError):
            return False

    await until(back, "the action after the restart")
    await world.alice.call("setchannel", {"id": world.scid, "feeppm": 999})
    done = await world.alice.call(APPROVE, {"action_id": action_id})
    assert (done["state"], done["slug"]) == ("rejected", "stale_state"), done
    assert len(await receipts_of(world, document["command_id"])) == 1


async def test_acceptance_08_08_two_operators_at_once_run_it_once(world: World, agent: Agent) -> None:
    document, action_id = await asked(world, agent)
    outcomes = await asyncio.gather(
        *(world.alice.call(APPROVE, {"action_id": action_id}) for _ in range(3)), return_exceptions=True
    )
    successes = [each for each in outcomes if isinstance(each, dict) and each["state"] == "success"]
    assert successes, outcomes
    for each in outcomes:
        assert isinstance(each, dict | DevnetRpcError), each
    await only_receipt(world, document["command_id"])
    assert (await world.channel_fees()) == (2_000, 1_200)


async def test_an_approver_who_is_none_is_refused(world: World, agent: Agent) -> None:
    _document, action_id = await asked(world, agent)
    error = await refused(world, action_id=action_id, approver=os.urandom(32).hex(), signature="00" * 64)
    assert error.code in (-32602, 4003), error
    assert (await world.channel_fees()) == (1_000, 1_000)
