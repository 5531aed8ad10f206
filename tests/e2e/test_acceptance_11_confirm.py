"""The kit and a real node where danger meets little trust: a challenge signed by a human, two approvers with
kits (02 §7.3, §15.10; 11 §5.3, §15.5, §15.6, §15.15, §18.12).

No action of danger 7 or more is served yet. With a pinned trust of 0.7 danger 5 weighs 7.14 (the operator,
then the agent's signature) and danger 6 weighs 8.57 (several signatures): the same ways, by the same level.
"""

from __future__ import annotations

from typing import Any

import pytest
from approver_shell import PIN, approver, request_of
from channel_world import plugin_again
from hive_devnet.world import AdvisorFailed, World, until
from terminal import at_terminal

SPIKE = ("send", "alice", "hive:emergency/fee_spike", "reason=probing", "fee_ppm=2000", "hours=1")
STOP = ("send", "alice", "hive:emergency/disable_forwarding", "reason=probing")
PENDING = 5
SCHEMAS = ["hive:monitor/*", "hive:emergency/*"]


async def hired(world: World) -> None:
    """An advisor with little trust, by a credential that the operator spelt out."""
    npub = (await world.advisor.run("identity", "create"))["npub"]
    given = {"agent_id": npub, "tier": "advanced", "allowed_schemas_json": SCHEMAS, "trust": 0.7}
    await world.alice.call("hive-mgmt-credential-issue", given)
    await world.accept_offer("alice")


async def waits(world: World, *command: str) -> str:
    """The id of a command that the node holds."""
    with pytest.raises(AdvisorFailed) as held:
        await world.advisor.run(*command)
    assert held.value.code == PENDING, held.value
    assert held.value.error["state"] == "pending", held.value
    return str(held.value.error["command_id"])


async def receipt_of(world: World, command_id: str) -> dict[str, Any]:
    items = (await world.alice.call("hive-client-receipts", {"limit": 200}))["items"]
    (found,) = [item for item in items if item.get("command_id") == command_id]
    return dict(found)


async def test_acceptance_02_10_11_12_a_challenge_is_signed_by_a_human_and_then_it_runs(world: World) -> None:
    await hired(world)
    ppm = (await world.channel_fees())[1]
    command_id = await waits(world, "--yes", *SPIKE)
    (item,) = (await world.alice.call("hive-client-pending"))["items"]
    assert (item["action_id"], item["workflow"], item["danger"]["total"]) == (command_id, "confirm", 5)
    said = await world.alice.call("hive-client-approve", {"action_id": command_id})
    assert said["state"] == "confirm_wait"
    assert (await world.channel_fees())[1] == ppm, "the operator's word alone does not run it"

    # The challenge outlives the plugin.
    await plugin_again(world)
    confirm = ("command", "confirm", command_id)
    with pytest.raises(AdvisorFailed, match="at a terminal") as without:
        await world.advisor.run("--yes", *confirm)
    assert without.value.code == PENDING
    with pytest.raises(AdvisorFailed, match="nothing was signed"):
        await at_terminal(world.advisor, *confirm, answers={"to confirm": "yes"})
    await world.advisor.run("run", "--once")
    assert (await world.channel_fees())[1] == ppm, "nothing signs by itself"

    done = await at_terminal(world.advisor, *confirm, answers={"to confirm": "alice fee_spike"})
    assert done["state"] == "done", done
    assert (await world.channel_fees())[1] == 2_000
    receipt = await receipt_of(world, command_id)
    assert (receipt["status"], receipt["approval"]["workflow"]) == ("success", "confirm")
    assert receipt["approval"]["level"] == "7.15"
    assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True


async def test_acceptance_02_10_two_kits_sign_what_the_operator_gave_to_several(world: World) -> None:
    await hired(world)
    first, first_key = await approver(world, "ann")
    second, second_key = await approver(world, "ben")
    await world.alice.call(
        "hive-client-policy", {"action": "set", "overrides": {"approvers": [first_key, second_key]}}
    )
    npub = str((await world.alice.call("hive-client-identity"))["npub"])
    command_id = await waits(world, "--yes", *STOP)
    (item,) = (await world.alice.call("hive-client-pending"))["items"]
    assert (item["workflow"], item["needed"], item["danger"]["total"]) == ("multisig", 2, 6)

    async def open_channels() -> bool:
        rows = (await world.alice.call("listpeerchannels"))["channels"]
        return all(int(row["updates"]["local"]["htlc_maximum_msat"]) > 1_000_000 for row in rows)

    for shell in (first, second):
        seen = await request_of(shell)
        assert (seen["command_id"], seen["danger"], seen["node_npub"]) == (command_id, 6, npub)
        assert await open_channels()
        vote = ("approvals", "approve", seen["approval_id"], "--node", npub)
        counted = await at_terminal(shell, *vote, answers={"PIN to approve": PIN})
        assert (counted["state"], counted["vote"]) == ("counted", "approve")

    async def closed() -> bool:
        return not await open_channels()

    await until(closed, "forwarding to stop")
    done = await world.advisor.run("command", "wait", command_id)
    assert done["state"] == "done"
    receipt = await receipt_of(world, command_id)
    assert receipt["approval"]["workflow"] == "multisig"
    assert sorted(receipt["approval"]["approvers"]) == sorted([first_key, second_key])
