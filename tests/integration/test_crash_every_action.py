"""Every action that writes, killed at every point where it touches disk or node: done once or not at all, and
the receipt says which (docs/protocol/02-fleet-management.md §7.1 "Crash", §15.12). An action that is served
and not listed here fails a test."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from channel_writes import CASES, CHANNELS, EMERGENCY, FEES, PROPOSALS, trusted
from cl_hive_comms.services.executors.kept_setting import HINTS, LARGEST
from cl_hive_comms.storage.command_store import CommandStore
from crash_points import killed_everywhere
from hive_shared import crypto
from hive_shared.canonical import JsonValue, decode_object
from hive_shared.envelope import approve_digest, confirm_digest
from hive_shared.registry import BACKUP, PLUGIN, REBALANCE, SPLICE
from payment_world import CASES as PAYMENTS
from pipeline_world import AGENT_KEY, View, World, issue
from wallet_world import CASES as OTHERS

CONTROL = "hive:control/v1"
APPROVERS = [crypto.Secret((50 + n).to_bytes(32, "big")) for n in range(3)]


CHANNELS_OPENED = {
    *(("hive:channel/v1", name) for name in ("open", "close_cooperative", "close_unilateral")),
    *(("hive:channel/v1", name) for name in ("close_punitive", "open_batch")),
    *(("hive:expansion/v1", name) for name in ("propose_channel_open", "propose_open_batch")),
    *((EMERGENCY, name) for name in ("force_close", "force_close_all")),
    ("hive:channel/v1", "close_all"),
    ("hive:htlc-mgmt/v1", "force_resolve_expired"),
}
"""Actions on a node that opens and closes channels (tests/integration/test_channel_crash.py,
test_close_all.py)."""
ELSEWHERE = {
    *((BACKUP, name) for name in ("trigger_backup", "export_scb")),
    *((PLUGIN, name) for name in ("start_approved", "stop")),
    *((REBALANCE, name) for name in ("circular_rebalance", "peer_rebalance", "swap_out", "swap_in")),
    *((SPLICE, name) for name in ("splice_in", "splice_out")),
    *(("hive:config/v1", name) for name in ("fee_schedule", "auto_rebalance_rules", "restart_node")),
    (EMERGENCY, "stop_node"),
}
"""Actions that are killed in the test of their own schema (tests/integration/test_backup_actions.py,
test_plugin_runs.py, test_node_down.py, test_rebalance_actions.py, test_swap_actions.py,
test_splice_actions.py, test_fee_schedule.py, test_auto_rebalance.py)."""


def shown(world: World) -> list[Any]:
    """Fees and limits of every channel, the options, and what the plugin itself keeps."""
    rows = (row["short_channel_id"] for row in world.node.rows)
    options = [row.get("value_int") for row in world.node.configs.values()]
    kept = [world.db.peek(lambda tx, k=kind: CommandStore().armed(tx, k)) for kind in (HINTS, LARGEST)]
    return [*((world.node.fees(scid), world.node.limits(scid)) for scid in rows), *options, *kept]


def effects(world: World) -> int:
    """How often the node was told to change something."""
    return sum(world.node.calls.count(name) for name in ("setchannel", "setconfig"))


async def test_no_action_that_writes_is_left_out(tmp_path: Path) -> None:
    world = World(tmp_path)
    writes = set(world.pipeline.executors._writes)
    world.close()
    assert writes == set(OTHERS) | set(PAYMENTS) | set(CASES) | PROPOSALS | CHANNELS_OPENED | ELSEWHERE


@pytest.mark.parametrize(("schema", "action"), list(CASES), ids=lambda name: name.split("/")[0])
async def test_acceptance_02_12_every_action_killed_anywhere_is_done_once_or_not_at_all(
    tmp_path: Path, schema: str, action: str
) -> None:
    case = CASES[schema, action]

    async def before(world: World) -> None:
        for one, name, params in case.before:
            answer = await world.ask(one, name, dict(params))
            assert answer["status"] == 0, answer
        # The cooldown between two writes of a channel is not what this is about.
        world.pass_time(3_601)

    async def order(world: World) -> None:
        await world.ask(schema, action, dict(case.params))

    calm = trusted(tmp_path / "calm")
    await before(calm)
    untouched, earlier, receipts_before = shown(calm), effects(calm), len(await calm.docs())
    await order(calm)
    done, calls = shown(calm), effects(calm)
    last = (await calm.docs())[-1]
    assert last["status"] == "success", last
    calm.close()
    seen: set[str] = set()
    async for at, world, died in killed_everywhere(tmp_path, order, trusted, before):
        docs = (await world.docs())[receipts_before:]
        now = shown(world)
        assert effects(world) <= calls, (at, "an effect was asked for twice")
        assert len(docs) <= 1, (at, docs)
        assert all(each in (old, new) for each, old, new in zip(now, untouched, done, strict=True)), (at, now)
        status = docs[0]["status"] if docs else "none"
        seen.add(status)
        acted = now == done and (done != untouched or bool(world.revoking.reasons))
        if status == "success":
            assert acted, (at, docs)
        elif status == "partial":
            assert now not in (untouched, done), (at, docs)
        else:
            assert status in ("none", "rejected", "error") and now == untouched and not acted, (at, docs)
            assert docs or died
    assert earlier <= calls and {"none", "error", "success"} <= seen, seen


# -- decisions of several hands: a step that was killed is taken again by whoever sees that nothing came of it


def by_several(directory: Path) -> World:
    world = trusted(directory)
    world.credentials.approvers.update(map(crypto.xonly_pubkey, APPROVERS))
    names: list[JsonValue] = [crypto.xonly_pubkey(key) for key in APPROVERS]
    world.policies.override(
        "moderate", approvers=names, approval_overrides={"fee_policy_*": "multi_sig_2_of_3"}
    )
    return world


def doubted(directory: Path) -> World:
    """Danger 5 at trust 0.7 is level 7.14: the operator, then the agent's own signature."""
    world = by_several(directory)
    world.policies.override("moderate")
    world.credentials.add(View(issue(trust=Fraction(7, 10)), "adv-1"))
    return world


def pushed(world: World, action: str) -> dict[str, Any]:
    """What the newest push of that kind said."""
    payloads: list[Any] = [decode_object(m["content"]).get("schema_payload") for m in world.out.sent]
    found: list[dict[str, Any]] = [each["params"] for each in payloads if each and each["action"] == action]
    return found[-1]


async def held(world: World) -> str:
    answer = await world.ask(FEES, "set_bulk", {"channels": CHANNELS[:1], "policy": {"fee_ppm": 110}})
    assert answer["status"] == 3, answer
    return str(answer["error"]["data"]["action_id"])


async def vote(world: World) -> None:
    """Both approvers say yes; a yes that is there already changes nothing."""
    request = pushed(world, "approval_request")
    for key in APPROVERS[:2]:
        signature = crypto.schnorr_sign(key, approve_digest(request["command_hash"], "approve"))
        params = {"command_id": request["command_id"], "sig": signature}
        await world.ask(CONTROL, "approve", params, agent=key, credential=None)


async def confirm(world: World) -> None:
    told = pushed(world, "confirm_challenge")
    signature = crypto.schnorr_sign(AGENT_KEY, confirm_digest(told["command_hash"], told["challenge"]))
    params = {"command_id": told["command_id"], "challenge_sig": signature}
    await world.ask(CONTROL, "confirm", params)


@pytest.mark.parametrize("decided", ["multisig", "confirm"])
async def test_acceptance_02_12_a_decision_killed_anywhere_runs_the_command_once(
    tmp_path: Path, decided: str
) -> None:
    """Killed between the votes, or between challenge and confirmation, or in the run that the last of them
    starts: the command still waits, or it ended with one receipt."""
    make, order = (by_several, vote) if decided == "multisig" else (doubted, confirm)

    async def before(world: World) -> None:
        action_id = await held(world)
        if decided == "confirm":
            assert (await world.pipeline.approvals.approve(action_id))["state"] == "confirm_wait"

    outcomes: set[str] = set()
    async for _, world, died in killed_everywhere(tmp_path, order, make, before):
        if (await world.pipeline.approvals.pending())["count"]:
            assert died and world.setchannels == 0 and await world.docs() == []
            outcomes.add("waited")
            await order(world)
        (doc,) = await world.docs()
        assert world.setchannels <= 1
        assert (doc["status"] == "success") == (world.node.fees("101x1x0")[1] == 110), doc
        assert doc["approval"]["workflow"] == decided
        outcomes.add(doc["status"])
    assert outcomes == {"waited", "error", "success"}
