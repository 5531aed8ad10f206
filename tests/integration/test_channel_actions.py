"""hive:channel/v1 and hive:expansion/v1: what is refused, what it costs, and ends that come late
(02 §4 item 6, §7.1 `pending_external`, §15.8)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from channel_node import FOREIGN, OWN, PEER, SECOND, ChannelNode, agree, channel_world, everything
from cl_hive_comms.services.executors import channel_close, channel_open
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from pipeline_world import NODE_ID, Crash, View, World, slug

CHANNEL = "hive:channel/v1"
EXPANSION = "hive:expansion/v1"
OPEN: dict[str, JsonValue] = {"peer_id": PEER, "amount_sats": 250_000}
CLOSE: dict[str, JsonValue] = {"channel_id": "101x1x0", "reason": "idle"}


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(channel_open, "ANSWER_S", 0.05)
    monkeypatch.setattr(channel_close, "ANSWER_S", 0.05)
    made = channel_world(tmp_path)
    yield made
    made.close()


def node(world: World) -> ChannelNode:
    assert isinstance(world.node, ChannelNode)
    return world.node


async def last(world: World) -> dict[str, Any]:
    return (await world.docs())[-1]


async def spent(world: World) -> list[tuple[int, int, str]]:
    sql = "SELECT amount_sat, fee_sat, state FROM comms_spend ORDER BY at"
    return [tuple(row) for row in await world.db.read(lambda tx: tx.execute(sql).fetchall())]


# -- opening -------------------------------------------------------------------------------------------------


async def test_a_channel_is_opened_as_asked_and_its_fee_is_counted(world: World) -> None:
    asked: dict[str, JsonValue] = {
        **OPEN,
        "feerate": "urgent",
        "announce": False,
        "mindepth": 2,
        "close_to": OWN,
        "utxos": [f"{203:064x}:0"],
    }
    answer = await world.ask(CHANNEL, "open", asked)
    assert answer["status"] == 0, answer
    row = node(world).rows[-1]
    assert answer["result"]["channel_id"] == row["channel_id"] and answer["result"]["outnum"] == 0
    ((_, given),) = node(world).asked
    assert given == {
        "id": PEER,
        "amount": 250_000,
        "announce": False,
        "feerate": "9000perkw",
        "mindepth": 2,
        "close_to": OWN,
        "utxos": [f"{203:064x}:0"],
    }
    assert answer["receipt"]["danger"] == {"r": 5, "f": 5, "t": 4, "b": 3, "d": 4, "total": 5}
    assert await spent(world) == [(0, 5_931, "settled")]


@pytest.mark.parametrize(
    ("changes", "symbol", "says"),
    [
        ({"amount_sats": 19_999}, "invalid_params", "20000"),
        ({"amount_sats": True}, "invalid_params", "integer"),
        ({"amount_sats": 3_000_001}, "invalid_params", "3000000 sat confirmed and free"),
        ({"amount_sats": 250_000, "utxos": [f"{202:064x}:1"]}, "invalid_params", "no confirmed, free coin"),
        ({"amount_sats": 350_000, "utxos": [f"{201:064x}:0"]}, "invalid_params", "those coins have 300000"),
        ({"peer_id": NODE_ID}, "invalid_params", "this node itself"),
        ({"close_to": FOREIGN}, "invalid_params", "no address of this node's wallet"),
        ({"close_to": "bcrt1qnonsense000000"}, "invalid_params", "no address of this node's network"),
        ({"feerate": "252perkw"}, "invalid_params", "slow, normal, urgent"),
        ({"feerate": 300}, "invalid_params", "slow, normal, urgent"),
        ({"feerate": "20000perkw"}, "policy_blocked", "above 15000"),
        ({"push_msat": 1}, "policy_blocked", "pushing funds"),
        ({"push_msat": 250_000_001}, "invalid_params", "more than the channel's"),
        ({"mindepth": 145}, "invalid_params", "144"),
        ({"peer_id": "02" + "ab" * 32}, "forbidden_peer", "forbidden"),
        ({"amount_sats": 2_600_000}, "policy_blocked", "above 2500000"),
    ],
)
async def test_acceptance_02_08_what_may_not_be_opened_is_refused_untouched(
    world: World, changes: dict[str, JsonValue], symbol: str, says: str
) -> None:
    world.policies.override(
        "aggressive",
        approval_overrides={"channel_*": "auto_execute"},
        forbidden_peers=["02" + "ab" * 32],
        max_channel_open_sats=2_500_000,
        max_feerate_perkw=15_000,
    )
    answer = await world.ask(CHANNEL, "open", {**OPEN, **changes})
    assert slug(answer) == symbol and says in answer["error"]["message"], answer
    assert node(world).asked == [] and "connect" not in world.node.calls
    assert await spent(world) == []


async def test_acceptance_02_08_pushing_is_a_payment_to_a_stranger(world: World) -> None:
    """max(row, 7, W): with allow_push it waits for the operator and the agent's confirmation."""
    world.policies.override("aggressive", allow_push=True, max_danger=8)
    small = await world.ask(CHANNEL, "open", {**OPEN, "push_msat": 1_000})
    assert small["status"] == 3 and small["error"]["data"]["workflow"] == "confirm", small
    pending = (await world.pipeline.approvals.pending())["items"]
    assert isinstance(pending, list) and isinstance(pending[0], dict)
    assert pending[0]["danger"]["total"] == 7  # type: ignore[index, call-overload]
    large = await world.ask(CHANNEL, "open", {**OPEN, "push_msat": 150_000_000})
    assert large["status"] == 3 and node(world).asked == []
    items = (await world.pipeline.approvals.pending())["items"]
    assert sorted(each["danger"]["total"] for each in items) == [7, 8]  # type: ignore[index, union-attr, call-overload]


async def test_constraints_of_the_credential_hold(world: World) -> None:
    world.credentials.add(View(everything(max_channel_open_sats=200_000), "adv-1"))
    assert slug(await world.ask(CHANNEL, "open", dict(OPEN))) == "constraint_violated"
    world.credentials.add(View(everything(allowed_peers=["02" + "cd" * 32]), "adv-1"))
    assert slug(await world.ask(CHANNEL, "open", dict(OPEN))) == "constraint_violated"
    assert node(world).asked == []


async def test_what_the_node_refuses_is_an_error_and_costs_nothing(world: World) -> None:
    world.node.fail["fundchannel"] = 301
    answer = await world.ask(CHANNEL, "open", dict(OPEN))
    assert slug(answer) == "node_error" and "do not cover" in answer["error"]["message"], answer
    world.node.fail = {"connect": 400}
    answer = await world.ask(CHANNEL, "open", dict(OPEN))
    assert slug(answer) == "node_error" and "no address of this peer" in answer["error"]["message"]
    assert await spent(world) == [] and len(node(world).rows) == 2


async def test_a_lost_answer_is_looked_up_and_not_asked_again(world: World) -> None:
    world.node.lose.add("fundchannel")
    answer = await world.ask(CHANNEL, "open", dict(OPEN))
    assert answer["status"] == 0 and answer["result"]["channel_id"] == node(world).rows[-1]["channel_id"]
    assert len(node(world).asked) == 1


async def test_an_opening_that_takes_long_ends_by_the_clock_with_one_receipt(world: World) -> None:
    node(world).hold = asyncio.Event()
    answer = await world.ask(CHANNEL, "open", dict(OPEN))
    assert answer["status"] == 3 and answer["result"]["state"] == "pending_external", answer
    world.pass_time(channel_open.SETTLED_S + 121)
    await world.pipeline.timers.tick()
    assert await world.docs() == [], "the call is still running"
    node(world).hold.set()
    await asyncio.sleep(0)
    await world.pipeline.timers.tick()
    doc = await last(world)
    assert doc["status"] == "success" and doc["result"]["channel_id"] == node(world).rows[-1]["channel_id"]
    (final,) = [each for each in world.out.sent if each["kind"] == "response"]
    assert doc["receipt_hash"] in final["content"]
    assert len(node(world).asked) == 1 and len(await world.docs()) == 1


async def test_a_late_refusal_is_told_with_its_reason(world: World) -> None:
    hold = node(world).hold = asyncio.Event()

    def refuses(asked: Any) -> dict[str, Any]:
        raise ClnError("fundchannel", 303, "rejected")

    node(world)._fundchannel = refuses  # type: ignore[method-assign]
    answer = await world.ask(CHANNEL, "open", dict(OPEN))
    assert answer["status"] == 3
    hold.set()
    await asyncio.sleep(0)
    await world.pipeline.timers.tick()
    doc = await last(world)
    assert doc["status"] == "error" and doc["error"]["slug"] == "node_error"
    assert "not accepted by the network" in doc["error"]["message"]
    assert await spent(world) == []


async def test_a_proposal_waits_for_the_operator_whatever_the_overrides_say(world: World) -> None:
    world.policies.override(
        "aggressive", approval_overrides={"expansion_*": "auto_execute", "channel_*": "auto_execute"}
    )
    proposed: dict[str, JsonValue] = {
        "peer_id": PEER,
        "capacity_sats": 250_000,
        "reasoning": "routes to a hub",
        "peer_intel": {"uptime": "99"},
    }
    answer = await world.ask(EXPANSION, "propose_channel_open", proposed)
    assert answer["status"] == 3 and node(world).asked == []
    action_id = answer["error"]["data"]["action_id"]
    reduced = {**proposed, "capacity_sats": 100_000}
    done = await world.pipeline.approvals.approve(action_id, params=reduced)
    assert done["state"] in ("success", "done"), done
    assert node(world).asked[0][1]["amount"] == 100_000
    doc = await last(world)
    assert doc["status"] == "success" and doc["action"] == "propose_channel_open"
    large = await world.ask(EXPANSION, "propose_channel_open", {**proposed, "peer_intel": {"x": "y" * 9_000}})
    assert slug(large) == "invalid_params"


async def test_a_closed_channel_of_the_same_size_is_not_the_opening(world: World) -> None:
    """An opening is proved by a channel that was not there before, closed ones included."""
    older = {"channel_id": "ee" * 32, "opener": "local", "total_msat": 250_000_000, "funding_txid": "ff" * 32}
    node(world).closed.append(older)
    world.node.fail["fundchannel"] = 301
    answer = await world.ask(CHANNEL, "open", dict(OPEN))
    assert slug(answer) == "node_error" and len(node(world).rows) == 2, answer


BATCH: list[JsonValue] = [
    {"peer_id": PEER, "amount_sats": 250_000},
    {"peer_id": SECOND, "amount_sats": 300_000},
]


async def yes(world: World, schema: str, action: str, params: dict[str, JsonValue]) -> None:
    """Ask, and have operator and agent say yes."""
    answer = await world.ask(schema, action, params)
    assert answer["status"] == 3 and answer["error"]["data"]["workflow"] == "confirm", answer
    assert (await agree(world, answer))["status"] == 0


@pytest.mark.parametrize("schema", [CHANNEL, EXPANSION])
async def test_several_channels_are_opened_together_when_people_agree(world: World, schema: str) -> None:
    params: dict[str, JsonValue] = {"destinations": BATCH}
    if schema == CHANNEL:
        await yes(world, schema, "open_batch", params)
    else:
        await yes(world, schema, "propose_open_batch", {**params, "reasoning": "hubs"})
    doc = await last(world)
    assert doc["status"] == "success" and doc["danger"]["total"] == 7, doc
    assert [each["peer_id"] for each in doc["result"]["channel_ids"]] == [PEER, SECOND]
    assert doc["result"]["failed"] == [] and doc["result"]["amount_sats"] == 550_000
    ((method, given),) = node(world).asked
    assert method == "multifundchannel" and "minchannels" not in given
    assert given["destinations"] == [{"id": PEER, "amount": 250_000}, {"id": SECOND, "amount": 300_000}]


@pytest.mark.parametrize(
    ("destinations", "symbol", "says"),
    [
        (BATCH[:1], "invalid_params", "2 to 20"),
        ([*BATCH, {"peer_id": PEER, "amount_sats": 99_000}], "invalid_params", "one peer twice"),
        ([*BATCH, {"peer_id": NODE_ID, "amount_sats": 99_000}], "invalid_params", "this node itself"),
        ([*BATCH, {"peer_id": SECOND[:-1] + "a", "amount_sats": 2_900_000}], "invalid_params", "3000000 sat"),
        ([*BATCH, {"peer_id": SECOND[:-1] + "a"}], "invalid_params", "required"),
        ([*BATCH, {"peer_id": "02" + "ab" * 32, "amount_sats": 99_000}], "forbidden_peer", "forbidden"),
        ([*BATCH, {"peer_id": SECOND[:-1] + "a", "amount_sats": 900_000}], "policy_blocked", "above 1000000"),
    ],
)
async def test_a_batch_with_one_that_may_not_be_is_refused_whole(
    world: World, destinations: list[JsonValue], symbol: str, says: str
) -> None:
    world.policies.override(
        "aggressive", max_danger=8, forbidden_peers=["02" + "ab" * 32], max_channel_open_sats=1_000_000
    )
    answer = await world.ask(CHANNEL, "open_batch", {"destinations": destinations})
    assert slug(answer) == symbol and says in answer["error"]["message"], answer
    assert node(world).asked == []


async def test_acceptance_02_12_a_batch_killed_after_the_nodes_answer_is_found_whole(world: World) -> None:
    world.crash_at = "after_cln"
    with pytest.raises(Crash):
        await yes(world, CHANNEL, "open_batch", {"destinations": BATCH})
    world.restart()
    await world.pipeline.timers.tick()
    doc = await last(world)
    assert doc["status"] == "success" and len(doc["result"]["channel_ids"]) == 2, doc
    assert len(node(world).asked) == 1


async def test_acceptance_02_12_half_a_batch_is_not_called_done(world: World) -> None:
    world.crash_at = "after_executing"
    with pytest.raises(Crash):
        await yes(world, CHANNEL, "open_batch", {"destinations": BATCH})
    world.restart()
    node(world)._fundchannel({"id": PEER, "amount": 250_000})
    await world.pipeline.timers.tick()
    world.pass_time(channel_open.SETTLED_S + 121)
    await world.pipeline.timers.tick()
    assert await world.docs() == []
    world.pass_time(channel_open.GIVEN_UP_S)
    await world.pipeline.timers.tick()
    doc = await last(world)
    assert doc["status"] == "indeterminate" and "only some" in doc["error"]["message"]


# -- closing -------------------------------------------------------------------------------------------------


async def test_a_channel_is_closed_with_its_peer(world: World) -> None:
    asked: dict[str, JsonValue] = {**CLOSE, "destination": OWN, "feerange": ["slow", "5000perkw"]}
    answer = await world.ask(CHANNEL, "close_cooperative", asked)
    assert answer["status"] == 0 and answer["result"]["type"] == "mutual", answer
    ((_, given),) = node(world).asked
    assert given == {
        "id": f"{1:064x}",
        "unilateraltimeout": 0,
        "destination": OWN,
        "feerange": ["4000perkw", "5000perkw"],
    }
    assert answer["receipt"]["danger"]["total"] == 6 and answer["result"]["txids"] == ["cc" * 32]
    again = await world.ask(CHANNEL, "close_cooperative", dict(CLOSE))
    assert slug(again) == "invalid_params" and "CLOSINGD_COMPLETE" in again["error"]["message"]


async def test_acceptance_02_08_a_foreign_destination_scores_by_its_amount(world: World) -> None:
    """500,000 sat to a stranger's address are W-scale 8: operator and agent, both have to say yes."""
    answer = await world.ask(CHANNEL, "close_cooperative", {**CLOSE, "destination": FOREIGN})
    assert answer["status"] == 3 and answer["error"]["data"]["workflow"] == "confirm", answer
    assert answer["error"]["data"]["danger"]["total"] == 8
    node(world).rows[0]["to_us_msat"] = 99_000_000
    below = await world.ask(CHANNEL, "close_cooperative", {**CLOSE, "destination": FOREIGN})
    assert below["status"] == 0 and below["receipt"]["danger"]["total"] == 6, below
    assert (await spent(world))[0][0] == 99_000


@pytest.mark.parametrize(
    ("changes", "symbol", "says"),
    [
        ({"channel_id": "999x1x0"}, "invalid_params", "no channel of this node"),
        ({"destination": "bcrt1qnonsense000000"}, "invalid_params", "no address of this node's network"),
        ({"feerange": ["9000perkw", "300perkw"]}, "invalid_params", "from 9000 to 300"),
        ({"feerange": ["9000perkw"]}, "invalid_params", "2 to 2"),
        ({"feerange": ["300perkw", "90000perkw"]}, "policy_blocked", "above 15000"),
        ({"wait_s": 29}, "invalid_params", "30"),
        ({"reason": ""}, "invalid_params", "reason"),
        ({"channel_id": "102x1x0"}, "protected_channel", "protected"),
    ],
)
async def test_what_may_not_be_closed_is_refused_untouched(
    world: World, changes: dict[str, JsonValue], symbol: str, says: str
) -> None:
    world.policies.override(
        "aggressive",
        approval_overrides={"channel_*": "auto_execute"},
        max_feerate_perkw=15_000,
        protected_channels=["102x1x0"],
    )
    answer = await world.ask(CHANNEL, "close_cooperative", {**CLOSE, **changes})
    assert slug(answer) == symbol and says in answer["error"]["message"], answer
    assert node(world).asked == []


async def test_a_close_waits_for_an_absent_peer_over_restarts(world: World) -> None:
    node(world).away = True
    answer = await world.ask(CHANNEL, "close_cooperative", dict(CLOSE))
    assert answer["status"] == 3 and answer["result"]["state"] == "pending_external", answer
    assert answer["result"]["channel_state"] == "CHANNELD_SHUTTING_DOWN"
    world.restart()
    world.pass_time(86_400)
    await world.pipeline.timers.tick()
    assert await world.docs() == []
    twice = await world.ask(CHANNEL, "close_cooperative", dict(CLOSE))
    assert slug(twice) == "invalid_params" and len(node(world).asked) == 1
    row = node(world).rows.pop(0)
    node(world).closed.append({**row, "state": "x", "closer": "local", "last_commitment_txid": "dd" * 32})
    node(world).closed[0].pop("state")
    await world.pipeline.timers.tick()
    docs = [doc for doc in await world.docs() if doc["status"] == "success"]
    assert len(docs) == 1 and docs[0]["result"]["txids"] == ["dd" * 32]


async def test_a_close_without_end_is_given_up_after_thirty_days(world: World) -> None:
    node(world).away = True
    await world.ask(CHANNEL, "close_cooperative", dict(CLOSE))
    world.pass_time(31 * 86_400)
    await world.pipeline.timers.tick()
    doc = await last(world)
    assert doc["status"] == "indeterminate" and "after 30 days" in doc["error"]["message"]


async def test_a_unilateral_close_needs_people_and_tells_its_grace(world: World) -> None:
    answer = await world.ask(CHANNEL, "close_force", {**CLOSE, "grace_s": 60})
    assert answer["status"] == 3 and answer["error"]["data"]["workflow"] == "confirm", answer
    assert node(world).asked == []


@pytest.mark.parametrize(
    ("schema", "action", "params"),
    [
        ("hive:emergency/v1", "force_close", CLOSE),
        (CHANNEL, "close_punitive", {"channel_id": "101x1x0", "evidence": "an old commitment"}),
        ("hive:htlc-mgmt/v1", "force_resolve_expired", {"htlc_id": "101x1x0:7:out", "reason": "stuck"}),
    ],
)
async def test_forced_closes_need_the_operator_and_the_agents_confirmation(
    world: World, schema: str, action: str, params: dict[str, JsonValue]
) -> None:
    world.policies.override("aggressive", max_danger=8)
    htlc = {"id": 7, "direction": "out", "expiry": 106, "amount_msat": 5}
    node(world).rows[0]["htlcs"] = [htlc]
    await yes(world, schema, action, params)
    ((_, given),) = node(world).asked
    assert given == {"id": f"{1:064x}", "unilateraltimeout": 1}
    doc = await last(world)
    assert (doc["status"], doc["action"], doc["danger"]["total"]) == ("success", action, 8)


@pytest.mark.parametrize(
    ("htlc_id", "says"),
    [
        ("101x1x0:8:out", "one HTLC in flight"),
        ("101x1x0:7", "told apart by :in or :out"),
        ("101x1x0:9:in", "the height is 100"),
        ("999x1x0:7:out", "no channel of this node"),
    ],
)
async def test_an_htlc_with_time_left_closes_no_channel(world: World, htlc_id: str, says: str) -> None:
    node(world).rows[0]["htlcs"] = [
        {"id": 7, "direction": "out", "expiry": 106, "amount_msat": 5},
        {"id": 7, "direction": "in", "expiry": 106, "amount_msat": 5},
        {"id": 9, "direction": "in", "expiry": 107, "amount_msat": 5},
    ]
    params: dict[str, JsonValue] = {"htlc_id": htlc_id, "reason": "stuck"}
    answer = await world.ask("hive:htlc-mgmt/v1", "force_resolve_expired", params)
    assert slug(answer) == "invalid_params" and says in answer["error"]["message"], answer
    assert node(world).asked == []
