"""hive:channel/v1 close_all and hive:emergency/v1 force_close_all: every channel told once, each reported
truly, also after a kill (02 §4 items 6 and 14; docs/decisions/0420)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from channel_node import FOREIGN, OWN, ChannelNode, everything
from cl_hive_comms.services.executors import close_all as executor
from closing_world import (
    ALL,
    EMERGENCY,
    allow,
    close_all,
    closing_world,
    node,
    pending,
    signed_by_operator,
    signed_once,
)
from crash_points import killed_everywhere
from hive_shared import crypto
from hive_shared.canonical import JsonValue, decode_object
from hive_shared.envelope import approve_digest
from hive_shared.errors import Unauthorized
from pipeline_world import AGENT_KEY, View, World, slug

LATER_S = executor.SETTLED_S + 1
IDS = [f"{n:064x}" for n in range(1, 5)]


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(executor, "ANSWER_S", 0.05)
    made = closing_world(tmp_path)
    yield made
    made.close()


async def last(world: World) -> dict[str, Any]:
    return (await world.docs())[-1]


async def spent(world: World) -> list[tuple[int, str]]:
    sql = "SELECT fee_sat, state FROM comms_spend"
    return [tuple(row) for row in await world.db.read(lambda tx: tx.execute(sql).fetchall())]


def closed(node: ChannelNode) -> int:
    return sum(row["state"] == "CLOSINGD_COMPLETE" for row in node.rows)


@pytest.mark.parametrize(("action", "grace_s"), [("close_all", 172_800), ("force_close_all", 1)])
async def test_every_channel_is_closed_once_two_people_signed(
    world: World, action: str, grace_s: int
) -> None:
    held = await close_all(world, action)
    assert held["status"] == 3 and held["error"]["data"]["workflow"] == "multisig", held
    doc = await last(world)
    assert (doc["status"], doc["danger"]["total"], doc["action"]) == ("success", 10, action), doc
    result = doc["result"]
    assert (result["count"], result["closed"], result["closing"], result["open"]) == (4, 4, 0, 0)
    assert {(each["channel"], each["type"]) for each in result["channels"]} == {
        (f"10{n}x1x0", "mutual") for n in range(1, 5)
    }
    assert sorted(given["id"] for _, given in node(world).asked) == IDS
    assert all(given == {"id": given["id"], "unilateraltimeout": grace_s} for _, given in node(world).asked)
    assert await spent(world) == [(4 * 2_896, "settled")]


async def test_acceptance_02_10_danger_10_waits_for_every_one_of_its_distinct_approvers(world: World) -> None:
    """The requester, a repetition and a stranger do not count; nobody to sign is said at once."""
    keys = [crypto.Secret((50 + n).to_bytes(32, "big")) for n in range(4)]
    names = [crypto.xonly_pubkey(key) for key in (*keys[:3], AGENT_KEY)]
    overrides = {"channel_*": "auto_execute", "channel_close_all": "multi_sig_3_of_4"}
    allow(world, approvers=names, approval_overrides=overrides)
    waiting = await world.ask("hive:channel/v1", "close_all", {"reason": "the end"})
    data = waiting["error"]["data"]
    assert (waiting["status"], data["danger"]["total"], data["workflow"]) == (3, 10, "multisig"), waiting
    asked = [decode_object(each["content"])["schema_payload"] for each in world.out.sent]
    hashes = {each["params"]["command_hash"] for each in asked if each["action"] == "approval_request"}
    (command_hash,) = hashes

    async def votes(key: crypto.Secret) -> Any:
        signature = crypto.schnorr_sign(key, approve_digest(str(command_hash), "approve"))
        return await world.pipeline.approvals.approve(
            data["action_id"], approver=crypto.xonly_pubkey(key), signature=signature
        )

    for nobody in (AGENT_KEY, keys[3]):
        with pytest.raises(Unauthorized):
            await votes(nobody)
    for key in (keys[0], keys[0], keys[1], keys[1]):
        counted = await votes(key)
    assert (counted["state"], counted["approvals"], counted["needed"]) == ("pending_approval", 2, 3)
    assert node(world).asked == []
    assert (await votes(keys[2]))["state"] == "success" and closed(node(world)) == 4
    doc = await last(world)
    assert doc["approval"]["workflow"] == "multisig"
    assert sorted(doc["approval"]["approvers"]) == sorted(names[:3])
    allow(world, approvers=[])
    world.pass_time(61)
    unset = await world.ask("hive:channel/v1", "close_all", {"reason": "the end"})
    assert slug(unset) == "multisig_not_configured", unset


async def test_an_own_destination_goes_along_and_a_foreign_one_is_refused(world: World) -> None:
    answer = await close_all(world, destination=FOREIGN)
    assert slug(answer) == "invalid_params" and "own wallet" in answer["error"]["message"], answer
    assert node(world).asked == []
    await close_all(world, destination=OWN)
    assert [given["destination"] for _, given in node(world).asked] == [OWN] * 4


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"reason": ""}, "reason"),
        ({"destination": 7}, "destination"),
        ({"channel_id": "101x1x0"}, "channel_id"),
    ],
)
async def test_wrong_parameters_close_nothing(world: World, params: dict[str, JsonValue], says: str) -> None:
    for _, action in ALL:
        answer = await close_all(world, action, **params)
        assert slug(answer) == "invalid_params" and says in answer["error"]["message"], answer
    assert node(world).asked == []


async def test_one_protected_channel_refuses_all_before_any_is_told(world: World) -> None:
    for name in ("103x1x0", IDS[2]):
        allow(world, protected_channels=[name])
        for _, action in ALL:
            answer = await close_all(world, action)
            assert slug(answer) == "protected_channel", answer
    assert node(world).asked == []


async def test_what_the_credential_says_holds(world: World) -> None:
    critical: JsonValue = [f"{schema}#{action}" for schema, action in ALL]
    for constraints in (
        {"max_channels_per_call": 3},
        {"denied_channels": ["102x1x0"]},
        {"allowed_channels": ["101x1x0"]},
    ):
        world.credentials.add(View(everything(grants_critical=critical, **constraints), "adv-1"))
        assert slug(await close_all(world)) == "constraint_violated"
    world.credentials.add(View(everything(), "adv-1"))
    assert slug(await close_all(world)) == "constraint_violated", "danger 10 is named or it is refused"
    assert node(world).asked == []


async def test_presets_forbid_both_until_the_operator_opens_them_by_name(world: World) -> None:
    for preset in ("conservative", "moderate", "aggressive"):
        world.policies.override(preset, approval_overrides={"channel_*": "auto_execute"})
        for _, action in ALL:
            world.pass_time(61)
            assert slug(await close_all(world, action)) == "policy_blocked"
    assert node(world).asked == []


async def test_each_channel_is_told_of_as_it_is(world: World) -> None:
    """One refused by the node, one whose peer is away, one opening, one closing, one closed before."""
    rows = node(world).rows
    node(world).refused[IDS[0]] = -32602
    node(world).absent.add(IDS[1])
    rows += [
        {**node(world)._row(n), "state": state}
        for n, state in ((5, "OPENINGD"), (6, "CLOSINGD_SIGEXCHANGE"), (7, "ONCHAIN"))
    ]
    await close_all(world)
    assert [name for name, _ in node(world).asked] == ["close"] * 4
    assert [doc for doc in await world.docs() if doc["action"] == "close_all"] == [], "it is not over yet"
    world.restart()
    world.pass_time(LATER_S)
    await world.pipeline.timers.tick()
    rows[1] |= {"state": "CLOSINGD_COMPLETE", "state_changes": [{"new_state": "AWAITING_UNILATERAL"}]}
    await world.pipeline.timers.tick()
    doc = await last(world)
    assert doc["status"] == "partial" and doc["error"]["slug"] == "node_error", doc
    assert "-32602" in doc["error"]["message"]
    told = {each["channel"]: each for each in doc["result"]["channels"]}
    refused = {"channel": "101x1x0", "state": "open", "channel_state": "CHANNELD_NORMAL"}
    assert told["101x1x0"] == {**refused, "reason": "node_error", "code": -32602}
    assert (told["102x1x0"]["state"], told["102x1x0"]["type"]) == ("closed", "unilateral")
    assert set(told) == {f"10{n}x1x0" for n in range(1, 5)}
    assert doc["result"]["left"] == [
        {"channel": "105x1x0", "channel_state": "OPENINGD"},
        {"channel": "106x1x0", "channel_state": "CLOSINGD_SIGEXCHANGE"},
    ]
    assert len(node(world).asked) == 4 and await spent(world) == [(3 * 2_896, "settled")]


async def test_by_force_also_what_is_closing_already(world: World) -> None:
    node(world).rows[0]["state"] = "CHANNELD_SHUTTING_DOWN"
    await close_all(world, "force_close_all", destination=OWN)
    given = {each["id"]: each for _, each in node(world).asked}
    assert set(given) == set(IDS) and "destination" not in given[IDS[0]], "it was told its address before"
    assert (await last(world))["status"] == "success"


async def test_what_the_node_refuses_altogether_is_an_error_that_costs_nothing(world: World) -> None:
    node(world).refused = dict.fromkeys(IDS, -1)
    await close_all(world)
    doc = await last(world)
    assert doc["status"] == "error" and doc["result"]["open"] == 4, doc
    assert await spent(world) == []


async def test_nothing_to_close_is_no_failure(world: World) -> None:
    node(world).rows.clear()
    await close_all(world)
    doc = await last(world)
    assert doc["status"] == "success" and doc["result"]["count"] == 0 and node(world).asked == []


async def test_the_emergency_stop_in_the_middle_leaves_the_rest_open(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "_AT_ONCE", 1)
    close = node(world)._close

    def stop(asked: Any) -> Any:
        world.switch.on = len(node(world).asked) == 2
        return close(asked)

    monkeypatch.setattr(node(world), "_close", stop)
    await close_all(world)
    doc = await last(world)
    assert doc["status"] == "partial" and doc["error"]["slug"] == "emergency_stop", doc
    assert (doc["result"]["closed"], doc["result"]["open"]) == (2, 2) and len(node(world).asked) == 2


async def test_many_channels_are_counted_whole_and_listed_as_far_as_a_receipt_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "ANSWER_S", 0.05)
    world = closing_world(tmp_path, channels=150)
    node(world).refused = {f"{n:064x}": -1 for n in range(140, 151)}
    await close_all(world)
    doc = await last(world)
    assert doc["status"] == "partial" and "result_hash" not in doc
    assert (doc["result"]["count"], doc["result"]["closed"], doc["result"]["open"]) == (150, 139, 11)
    listed = [each["state"] for each in doc["result"]["channels"]]
    assert len(listed) == executor.LISTED and listed[:12] == ["open"] * 11 + ["closed"]
    world.close()


async def test_a_channel_that_vanished_is_not_called_closed(world: World) -> None:
    node(world).absent.add(IDS[0])
    await close_all(world)
    del node(world).rows[0]
    await world.pipeline.timers.tick()
    doc = await last(world)
    assert doc["status"] == "indeterminate", doc
    assert doc["result"]["channels"][0] == {"channel": "101x1x0", "state": "unknown"}


async def test_acceptance_02_12_closing_all_killed_anywhere_tells_each_channel_once_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "_AT_ONCE", 1)

    async def before(world: World) -> None:
        await signed_once(world, EMERGENCY, "force_close_all")

    seen: set[str] = set()
    points = killed_everywhere(tmp_path, signed_by_operator, lambda path: closing_world(path, 3), before)
    async for at, world, _ in points:
        world.pass_time(LATER_S)
        await world.pipeline.timers.tick()
        docs = [doc for doc in await world.docs() if doc["action"] == "force_close_all"]
        told = [given["id"] for _, given in node(world).asked]
        assert len(docs) <= 1 and len(told) == len(set(told)) == closed(node(world)), (at, docs)
        status = docs[0]["status"] if docs else "none"
        seen.add(status)
        if status in ("success", "partial"):
            assert docs[0]["result"]["closed"] == len(told), docs
            assert (len(told) == 3) == (status == "success")
            assert told and docs[0]["result"]["open"] == 3 - len(told)
        else:
            assert status in ("none", "error") and told == [], (at, docs)
            assert docs or await pending(world), "it waits, or has its end"
    assert seen == {"none", "error", "partial", "success"}, seen
