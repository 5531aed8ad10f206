"""hive:htlc-mgmt/v1: HTLCs that were, that are in flight, and for how long (02 §4 item 15)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.services.htlc_watch import EVERY_S
from cl_hive_comms.storage.htlc_seen_store import HtlcSeenStore
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.registry import SPLICE, Tier
from pipeline_world import View, World, issue, slug

HTLC = "hive:htlc-mgmt/v1"


def in_flight(number: int, direction: str = "out", amount_msat: int = 5_000) -> dict[str, Any]:
    state = "SENT_ADD_ACK_REVOCATION" if direction == "out" else "RCVD_ADD_ACK_REVOCATION"
    return {
        "direction": direction,
        "id": number,
        "amount_msat": amount_msat,
        "expiry": 140,
        "payment_hash": f"{number:064x}",
        "state": state,
    }


def remembered(index: int, scid: str, number: int, direction: str = "out") -> dict[str, Any]:
    return {"short_channel_id": scid, "created_index": index, **in_flight(number, direction)}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    made.credentials.add(View(issue(template="complete_management"), "adv-1"))
    made.past = [  # type: ignore[attr-defined]
        remembered(1, "101x1x0", 0),
        remembered(2, "101x1x0", 0, "in"),
        remembered(3, "102x1x0", 0),
        remembered(4, "101x1x0", 1),
    ]
    made.node.rows[0]["htlcs"] = [in_flight(1)]

    def listhtlcs(params: Mapping[str, Any]) -> dict[str, Any]:
        scids = {row["channel_id"]: row["short_channel_id"] for row in made.node.rows}
        wanted = scids.get(params.get("id"))
        rows = [row for row in made.past if wanted in (None, row["short_channel_id"])]  # type: ignore[attr-defined]
        rows = [row for row in rows if row["created_index"] >= params.get("start", 1)]
        return {"htlcs": rows[: params.get("limit", 1_000)]}

    made.node.answers["listhtlcs"] = listhtlcs
    yield made
    made.close()


async def ok(world: World, action: str, **params: JsonValue) -> dict[str, Any]:
    answer = await world.ask(HTLC, action, params)
    assert answer["status"] == 0, answer
    return dict(answer["result"])


async def test_htlcs_come_in_pages_of_one_or_all_channels(world: World) -> None:
    first = await ok(world, "list_htlcs", limit=3)
    assert [item["htlc_id"] for item in first["items"]] == ["101x1x0:0:out", "101x1x0:0:in", "102x1x0:0:out"]
    rest = await ok(world, "list_htlcs", cursor=first["next_cursor"])
    assert [item["htlc_id"] for item in rest["items"]] == ["101x1x0:1:out"] and "next_cursor" not in rest
    one = await ok(world, "list_htlcs", channel_id="102x1x0")
    assert [item["created_index"] for item in one["items"]] == [3]


async def test_a_node_without_an_index_gives_pages_all_the_same(world: World) -> None:
    """CLN before v25.05."""
    indexed = world.node.answers["listhtlcs"]

    def older(params: Mapping[str, Any]) -> dict[str, Any]:
        if "index" in params:
            raise ClnError("listhtlcs", -32602, "unknown parameter: index")
        return indexed(params)

    world.node.answers["listhtlcs"] = older
    first = await ok(world, "list_htlcs", limit=3)
    rest = await ok(world, "list_htlcs", limit=3, cursor=first["next_cursor"])
    assert [len(first["items"]), len(rest["items"])] == [3, 1]


async def test_stuck_counts_from_the_first_sight_also_over_restarts(world: World) -> None:
    await world.pipeline.timers.tick()
    world.pass_time(1_800)
    world.node.rows[1]["htlcs"] = [in_flight(7, "in", 9_000)]
    await world.pipeline.timers.tick()
    world.restart()
    world.pass_time(1_800)
    assert [item["htlc_id"] for item in (await ok(world, "list_stuck"))["items"]] == ["101x1x0:1:out"]
    both = await ok(world, "list_stuck", min_age_seconds=1_800, include_details=True)
    assert [(item["htlc_id"], item["age_seconds"], item["blocks_left"]) for item in both["items"]] == [
        ("101x1x0:1:out", 3_600, 40),
        ("102x1x0:7:in", 1_800, 40),
    ]
    assert both["items"][1]["payment_hash"] == f"{7:064x}" and both["items"][1]["amount_msat"] == 9_000
    assert "payment_hash" not in (await ok(world, "list_stuck"))["items"][0]
    world.node.rows[2]["htlcs"] = [in_flight(0)]
    new = await ok(world, "list_stuck", min_age_seconds=0)
    assert [item["age_seconds"] for item in new["items"]] == [3_600, 1_800, 0], "not seen by the watch yet"


async def test_what_ended_is_forgotten_and_the_node_is_not_asked_at_every_tick(world: World) -> None:
    await world.pipeline.timers.tick()
    asked = world.node.calls.count("listpeerchannels")
    await world.pipeline.timers.tick()
    assert world.node.calls.count("listpeerchannels") == asked
    world.node.rows[0]["htlcs"] = []
    world.pass_time(EVERY_S)
    await world.pipeline.timers.tick()
    assert await world.db.read(HtlcSeenStore().all) == {}
    world.node.rows[0]["htlcs"] = [in_flight(1)]
    world.pass_time(EVERY_S)
    await world.pipeline.timers.tick()
    assert list((await world.db.read(HtlcSeenStore().all)).values()) == [world.now]


async def test_a_node_that_does_not_answer_is_asked_again_at_the_next_tick(world: World) -> None:
    world.node.fail["listpeerchannels"] = -1
    await world.pipeline.timers.tick()
    world.node.fail.clear()
    await world.pipeline.timers.tick()
    assert len(await world.db.read(HtlcSeenStore().all)) == 1


async def test_one_htlc_is_inspected_alive_or_past(world: World) -> None:
    await world.pipeline.timers.tick()
    world.pass_time(60)
    live = await ok(world, "inspect", htlc_id="101x1x0:1", include_onion=True)
    assert (live["in_flight"], live["age_seconds"], live["htlc_id"]) == (True, 60, "101x1x0:1:out")
    assert live["onion"].startswith("not available") and live["payment_hash"] == f"{1:064x}"
    past = await ok(world, "inspect", htlc_id="101x1x0:0:in")
    assert (past["in_flight"], past["direction"]) == (False, "in") and "age_seconds" not in past


@pytest.mark.parametrize(
    ("htlc_id", "says"),
    [
        ("101x1x0:0", "told apart by :in or :out"),
        ("101x1x0:5", "an HTLC of that channel"),
        ("999x1x0:0", "no channel of this node"),
        ("101x1x0", "scid:id"),
        ("101x1x0:1:sideways", "scid:id"),
        (7, "scid:id"),
    ],
)
async def test_what_names_no_htlc_is_refused(world: World, htlc_id: JsonValue, says: str) -> None:
    answer = await world.ask(HTLC, "inspect", {"htlc_id": htlc_id})
    assert slug(answer) == "invalid_params" and says in answer["error"]["message"], answer


async def test_acceptance_02_19_single_htlcs_cannot_be_failed_or_settled_nor_channels_opened_by_a_splice(
    world: World,
) -> None:
    world.credentials.add(View(issue(template="complete_management", tier=Tier.ADMIN), "adv-1"))
    for action in ("fail_htlc", "settle_htlc"):
        answer = await world.ask(HTLC, action, {"htlc_id": "101x1x0:1", "reason": "stuck"})
        assert slug(answer) == "unsupported_action" and "CLN has no call" in answer["error"]["message"]
    whole = {"channel_id": "101x1x0", "peer_id": "02" + "ab" * 32, "amount_sats": 50_000}
    assert slug(await world.ask(SPLICE, "splice_open", whole)) == "unsupported_action"
    assert world.setchannels == 0
    missing = {
        (each["schema"], each["action"]): each["reason"]
        for each in world.pipeline.capabilities.of_node()["unsupported_actions"]  # type: ignore[union-attr, index, call-overload]
    }
    assert missing[HTLC, "fail_htlc"] == missing[SPLICE, "splice_open"] == "CLN has no call for it"
