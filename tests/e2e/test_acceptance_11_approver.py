"""The kit beside a real node: approvers vote with the PIN
(02 §7.3, §15.10; 11 §2, §5.3, §10, §15.5-6).
"""

from __future__ import annotations

import pytest
from approver_shell import PIN, approver, request_of
from hive_devnet.world import AdvisorFailed, World
from terminal import at_terminal

FEE = "hive:fee-policy/set_single"
PENDING, REFUSED, LOCKED = 5, 4, 9


async def start(world: World) -> None:
    """An advisor hired for fees, and a fee from which 1,050 ppm is a small step."""
    await world.alice.call("setchannel", {"id": world.scid, "feebase": 1_000, "feeppm": 1_000})
    await world.hire()


async def sent(world: World) -> str:
    """A fee change that waits at the node; its command id."""
    with pytest.raises(AdvisorFailed) as waits:
        await world.advisor.run("--yes", "send", "alice", FEE, f"channel_id={world.scid}", "fee_ppm=1050")
    assert waits.value.code == PENDING, waits.value
    return str(waits.value.error["command_id"])


async def test_acceptance_02_10_two_approvers_with_kits_make_a_command_run(world: World) -> None:
    await start(world)
    first, first_key = await approver(world, "ann")
    second, second_key = await approver(world, "ben")
    overrides = {
        "approvers": [first_key, second_key],
        "approval_overrides": {"fee_policy_*": "multi_sig_2_of_2"},
    }
    await world.alice.call("hive-client-policy", {"action": "set", "overrides": overrides})
    node_npub = str((await world.alice.call("hive-client-identity"))["npub"])
    command_id = await sent(world)

    seen = await request_of(first)
    assert (seen["params"]["fee_ppm"], seen["node_npub"], seen["node_known"]) == (1_050, node_npub, False)
    assert seen["command_id"] == command_id
    vote = ("approvals", "approve", seen["approval_id"])
    with pytest.raises(AdvisorFailed, match="terminal") as without:
        await first.run(*vote, "--node", node_npub)
    assert without.value.code == PENDING
    with pytest.raises(AdvisorFailed, match="--node") as unknown:
        await at_terminal(first, *vote, answers={"PIN to approve": PIN})
    assert unknown.value.code == PENDING
    with pytest.raises(AdvisorFailed, match="another key"):
        await at_terminal(first, *vote, "--node", first_key, answers={"PIN to approve": PIN})
    with pytest.raises(AdvisorFailed, match="4 tries left") as wrong:
        await at_terminal(first, *vote, "--node", node_npub, answers={"PIN to approve": "111111"})
    assert wrong.value.code == LOCKED
    assert (await world.channel_fees()) == (1_000, 1_000)

    counted = await at_terminal(first, *vote, "--node", node_npub, answers={"PIN to approve": PIN})
    assert (counted["state"], counted["vote"]) == ("counted", "approve")
    with pytest.raises(AdvisorFailed, match="first vote") as turned:
        await at_terminal(first, "approvals", "reject", seen["approval_id"], answers={"PIN to reject": PIN})
    assert turned.value.code == REFUSED
    assert (await world.channel_fees()) == (1_000, 1_000)

    other = await request_of(second)
    assert other["command_hash"] == seen["command_hash"]
    await at_terminal(
        second, "approvals", "approve", other["approval_id"], "--node", node_npub, answers={"PIN": PIN}
    )
    assert (await world.channel_fees()) == (1_000, 1_050)
    done = await world.advisor.run("command", "wait", command_id)
    assert done["state"] == "done"
    receipts = (await world.alice.call("hive-client-receipts", {"limit": 200}))["items"]
    (receipt,) = [each for each in receipts if each.get("command_id") == command_id]
    assert (receipt["approval"]["workflow"], len(receipt["approval"]["approvers"])) == ("multisig", 2)
    assert (await world.advisor.run("receipt", "verify", "alice"))["ok"] is True


async def test_acceptance_02_10_a_reject_from_a_kit_ends_it(world: World) -> None:
    await start(world)
    first, first_key = await approver(world, "ann")
    overrides = {
        "approvers": [first_key, "local"],
        "approval_overrides": {"fee_policy_*": "multi_sig_2_of_2"},
    }
    await world.alice.call("hive-client-policy", {"action": "set", "overrides": overrides})
    node_npub = str((await world.alice.call("hive-client-identity"))["npub"])
    command_id = await sent(world)
    seen = await request_of(first)
    reject = ("approvals", "reject", seen["approval_id"], "--node", node_npub)
    voted = await at_terminal(first, *reject, answers={"PIN to reject": PIN})
    assert (voted["state"], voted["vote"]) == ("counted", "reject")
    with pytest.raises(AdvisorFailed) as ended:
        await world.advisor.run("command", "wait", command_id)
    assert (ended.value.code, ended.value.error["slug"]) == (REFUSED, "approval_rejected")
    assert (await world.channel_fees()) == (1_000, 1_000)


async def test_acceptance_11_02_pin_rules_at_a_terminal(world: World) -> None:
    shell, _ = await approver(world, "ann")
    with pytest.raises(AdvisorFailed, match="terminal"):
        await shell.run("identity", "pin")
    same = {
        "Old PIN": PIN,
        "New PIN": "correct horse battery staple",
        "Repeat for": "correct horse battery staple",
    }
    with pytest.raises(AdvisorFailed, match="must not be the passphrase"):
        await at_terminal(shell, "identity", "pin", answers=same)
    for left in ("4 tries left", "3 tries", "2 tries", "1 tries", "locked"):
        with pytest.raises(AdvisorFailed, match=left) as missed:
            await at_terminal(shell, "identity", "pin", answers={"Old PIN": "wrong!"})
        assert missed.value.code == LOCKED
    with pytest.raises(AdvisorFailed, match="try again in"):
        await at_terminal(shell, "identity", "pin", answers={"Old PIN": PIN})
