"""Telemetry over a real database, by the clock of the test (docs/protocol/02-fleet-management.md §10)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.domain.telemetry import OF_NODE, READ_OF, Subscription
from cl_hive_comms.services.advisor_requests import Hire
from cl_hive_comms.storage.telemetry_store import TelemetryStore
from hiring_world import HiringWorld
from hive_shared import crypto, envelope
from hive_shared.registry.control import PUSHES, TELEMETRY_NAMES
from msgspec.structs import replace
from pipeline_world import AGENT_KEY, NOW, OTHER_KEY, Keys, View, World, issue, slug

CONTROL = "hive:control/v1"
DAY = 86_400


def forward(index: int, at: int, status: str = "settled", fee: int = 1_000) -> dict[str, Any]:
    """A row of listforwards."""
    return {
        "created_index": index,
        "in_channel": "101x1x0",
        "out_channel": "102x1x0",
        "in_msat": 100_000 + fee,
        "out_msat": 100_000,
        "fee_msat": fee,
        "status": status,
        "received_time": at + 0.25,
    }


class Node:
    """Answers of a node whose forwards a test writes."""

    def __init__(self, world: World) -> None:
        self.forwards: list[dict[str, Any]] = []
        self.income: list[dict[str, Any]] = []
        world.node.answers["listforwards"] = self._forwards
        world.node.answers["bkpr-listincome"] = lambda asked: {"income_events": self.income}

    def _forwards(self, asked: Mapping[str, object]) -> dict[str, Any]:
        start, limit = int(str(asked["start"])), int(str(asked["limit"]))
        rows = [row for row in self.forwards if row["created_index"] >= start]
        return {"forwards": [dict(row) for row in rows[:limit]]}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


async def subscribe(world: World, metrics: tuple[str, ...] = ("health",), **params: Any) -> dict[str, Any]:
    options = {name: params.pop(name) for name in ("agent", "credential") if name in params}
    body = {"metrics": [*metrics], "until": NOW + 20 * DAY, **params}
    return await world.ask(CONTROL, "telemetry_subscribe", body, **options)


def pushed(world: World) -> list[dict[str, Any]]:
    """Bodies of the telemetry that was sent, checked as an agent checks it."""
    found = []
    for message in world.out.sent:
        if message["kind"] != "push":
            continue
        doc = json.loads(message["content"])
        assert envelope.verify_push(doc, Keys.pubkey), doc
        payload = doc["schema_payload"]
        if payload["action"] == "telemetry":
            found.append(PUSHES["telemetry"].parse(payload["params"]))
    return found


async def rows(world: World) -> int:
    return len(await world.db.read(TelemetryStore().all))


async def test_subscribed_it_comes_by_the_clock_until_it_is_ended(world: World) -> None:
    answer = await subscribe(world, ("health", "liquidity"), interval_s=600)
    assert answer["status"] == 0, answer
    result = answer["result"]
    assert (result["interval_s"], result["seq"], result["renewed"]) == (600, 0, False)
    assert await world.pipeline.telemetry.tick() == 300
    (first,) = pushed(world)
    assert (first["sub_id"], first["seq"], first["at"]) == (result["sub_id"], 1, NOW)
    assert first["metrics"]["liquidity"] == {
        "channels": 4,
        "capacity_msat": 4_000_000_000,
        "local_msat": 2_000_000_000,
        "local_permille": 500,
    }
    assert first["metrics"]["health"]["blockheight"] == 100
    world.pass_time(599)
    assert await world.pipeline.telemetry.tick() == 1
    assert len(pushed(world)) == 1
    world.pass_time(1)
    await world.pipeline.telemetry.tick()
    # An hour of standstill is one push, not six.
    world.pass_time(3_600)
    await world.pipeline.telemetry.tick()
    await world.pipeline.telemetry.tick()
    assert [push["seq"] for push in pushed(world)] == [1, 2, 3]
    ended = await world.ask(CONTROL, "telemetry_unsubscribe", {"sub_id": result["sub_id"]})
    assert ended["result"] == {"sub_id": result["sub_id"], "ended": True, "seq": 3}
    world.pass_time(3_600)
    assert await world.pipeline.telemetry.tick() is None
    assert len(pushed(world)) == 3
    again = await world.ask(CONTROL, "telemetry_unsubscribe", {"sub_id": result["sub_id"]})
    assert slug(again) == "invalid_params" and "runs under this credential" in again["error"]["message"]


async def test_without_a_subscription_the_node_is_not_asked(world: World) -> None:
    assert await world.pipeline.telemetry.tick() is None
    assert world.node.calls == []


async def test_subscribers_share_what_the_node_answers(world: World) -> None:
    Node(world)
    world.credentials.add(View(issue(OTHER_KEY, number=2), "adv-2"))
    every = ("health", "revenue", "forwards", "stagnant", "liquidity", "rebalance_cost")
    await subscribe(world, every)
    await subscribe(world, every, agent=OTHER_KEY, credential=2)
    world.node.calls.clear()
    await world.pipeline.telemetry.tick()
    assert len(pushed(world)) == 2
    assert pushed(world)[0]["metrics"] == pushed(world)[1]["metrics"]
    # Two of listforwards: where the span begins, and the rows.
    assert sorted(world.node.calls) == sorted(
        ["getinfo", "listpeerchannels", "bkpr-listincome", "listforwards", "listforwards"]
    )


async def test_forwards_are_read_once_and_those_under_way_until_they_end(world: World) -> None:
    node = Node(world)
    node.forwards = [
        forward(1, NOW - 31 * DAY, fee=7),
        forward(2, NOW - 6 * DAY, fee=50),
        forward(3, NOW - 3_600, "offered"),
        forward(4, NOW - 3_500, "local_failed"),
        forward(5, NOW - 3_400, fee=300),
    ]
    node.income = [
        {"tag": "rebalance_fee", "debit_msat": 90, "timestamp": NOW - 100},
        {"tag": "rebalance_fee", "debit_msat": 10, "timestamp": NOW - 2 * DAY},
        {"tag": "routed", "credit_msat": 10, "timestamp": NOW - 2 * DAY},
    ]
    metrics = ("revenue", "forwards", "stagnant", "rebalance_cost")
    await subscribe(world, metrics, interval_s=300)
    await world.pipeline.telemetry.tick()
    first = pushed(world)[0]["metrics"]
    assert first["revenue"] == {"fees_24h_msat": 300, "fees_7d_msat": 350, "complete": True}
    assert first["rebalance_cost"] == {"cost_24h_msat": 90, "cost_7d_msat": 100}
    assert first["stagnant"] == {"channels": 4, "stagnant": 2, "stagnant_pct": 50}
    assert (first["forwards"]["settled_7d"], first["forwards"]["failed_24h"]) == (2, 1)
    node.forwards[2] = forward(3, NOW - 3_600, fee=5)
    node.forwards.append(forward(6, NOW + 100, fee=11))
    asked: list[tuple[int, int]] = []
    answer = world.node.answers["listforwards"]

    def watched(params: Mapping[str, object]) -> dict[str, Any]:
        asked.append((int(str(params["start"])), int(str(params["limit"]))))
        return answer(params)

    world.node.answers["listforwards"] = watched
    world.pass_time(300)
    await world.pipeline.telemetry.tick()
    second = pushed(world)[1]["metrics"]
    assert second["revenue"] == {"fees_24h_msat": 316, "fees_7d_msat": 366, "complete": True}
    assert asked == [(3, 1), (6, 1_000)]


async def test_what_the_node_does_not_answer_is_told_and_the_rest_comes(world: World) -> None:
    world.node.fail["getinfo"] = -1
    await subscribe(world, ("health", "revenue", "liquidity"))
    await world.pipeline.telemetry.tick()
    metrics = pushed(world)[0]["metrics"]
    assert metrics["health"] == {"available": False, "reason": "node_error"}
    assert metrics["revenue"]["available"] is False
    assert metrics["liquidity"]["channels"] == 4


async def test_own_figures_are_those_of_the_subscriber(world: World) -> None:
    world.credentials.add(View(issue(OTHER_KEY, number=2), "adv-2"))
    own = ("actions", "spend", "pending", "receipt_head")
    await subscribe(world, own)
    await subscribe(world, own, agent=OTHER_KEY, credential=2)
    assert (await world.set_fee(120))["status"] == 0
    await world.pipeline.telemetry.tick()
    mine, others = (push["metrics"] for push in pushed(world))
    assert mine["actions"] == {"success_24h": 1} and others["actions"] == {}
    assert mine["spend"] == {"amount_24h_sat": 0, "fees_24h_sat": 0} and mine["pending"] == {"count": 0}
    assert mine["receipt_head"]["receipt_id"] == 1 and mine["receipt_head"] == others["receipt_head"]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "metrics"),
        ({"metrics": ["health"]}, "until"),
        ({"metrics": [], "until": NOW + 9}, "metrics"),
        ({"metrics": ["health", "health"], "until": NOW + 9}, "metrics[1]"),
        ({"metrics": ["wealth"], "until": NOW + 9}, "metrics[0]"),
        ({"metrics": "health", "until": NOW + 9}, "metrics"),
        ({"metrics": ["health"], "until": NOW}, "until"),
        ({"metrics": ["health"], "until": -1}, "until"),
        ({"metrics": ["health"], "until": True}, "until"),
        ({"metrics": ["health"], "until": NOW + 9, "interval_s": 299}, "interval_s"),
        ({"metrics": ["health"], "until": NOW + 9, "interval_s": 86_401}, "interval_s"),
        ({"metrics": ["health"], "until": NOW + 9, "interval_s": 600.5}, "interval_s"),
        ({"metrics": ["health"], "until": NOW + 9, "every": 600}, "every"),
    ],
)
async def test_wrong_parameters_are_named_and_change_nothing(
    world: World, params: dict[str, Any], said: str
) -> None:
    answer = await world.ask(CONTROL, "telemetry_subscribe", params)
    assert slug(answer) == "invalid_params"
    assert said in json.dumps(answer["error"]), answer["error"]
    assert await rows(world) == 0


async def test_a_fourth_is_refused_and_the_same_again_goes_on_longer(world: World) -> None:
    ids = []
    for interval in (300, 600, 900):
        answer = await subscribe(world, interval_s=interval, until=NOW + DAY)
        ids.append(answer["result"]["sub_id"])
    refused = await subscribe(world, interval_s=1_200)
    assert slug(refused) == "constraint_violated"
    assert all(each in refused["error"]["message"] for each in ids)
    await world.pipeline.telemetry.tick()
    renewed = await subscribe(world, interval_s=600, until=NOW + 2 * DAY)
    assert renewed["result"] == {
        "sub_id": ids[1],
        "metrics": ["health"],
        "interval_s": 600,
        "until": NOW + 2 * DAY,
        "seq": 1,
        "renewed": True,
    }
    assert await rows(world) == 3
    world.pass_time(DAY)
    await world.pipeline.telemetry.tick()
    assert await rows(world) == 1, "two ended by their time"
    assert (await subscribe(world, interval_s=1_200))["status"] == 0


async def test_nobody_ends_what_another_subscribed_to(world: World) -> None:
    world.credentials.add(View(issue(OTHER_KEY, number=2), "adv-2"))
    sub_id = (await subscribe(world))["result"]["sub_id"]
    answer = await world.ask(
        CONTROL, "telemetry_unsubscribe", {"sub_id": sub_id}, agent=OTHER_KEY, credential=2
    )
    assert slug(answer) == "invalid_params" and await rows(world) == 1


async def test_a_credential_without_the_reads_gets_none(world: World) -> None:
    narrow = issue(number=3, schemas=("hive:fee-policy/v1",))
    world.credentials.add(View(narrow, "adv-1"))
    refused = await subscribe(world, ("health",), credential=3)
    assert slug(refused) in ("schema_not_allowed", "permission_denied")
    assert await rows(world) == 0


async def test_it_ends_with_the_credential(world: World) -> None:
    answer = await subscribe(world, until=NOW + 400 * DAY)
    credential = next(iter(world.credentials.views.values())).credential
    assert answer["result"]["until"] == credential.valid_until
    await world.pipeline.telemetry.tick()
    key, view = next(iter(world.credentials.views.items()))
    world.credentials.views[key] = replace(view, status="revoked")
    world.pass_time(3_600)
    assert await world.pipeline.telemetry.tick() is not None
    assert len(pushed(world)) == 1 and await rows(world) == 0
    world.credentials.views[key] = view
    await subscribe(world, until=NOW + 400 * DAY)
    world.pass_time(credential.valid_until - world.now)
    await world.pipeline.telemetry.tick()
    assert len(pushed(world)) == 1 and await rows(world) == 0


async def test_a_rule_of_the_operator_holds_it_back_for_as_long_as_it_is_there(world: World) -> None:
    await subscribe(world)
    credential = next(iter(world.credentials.views))
    view = world.credentials.views[credential]
    narrow = issue(number=1, schemas=("hive:fee-policy/v1",))
    world.credentials.views[credential] = replace(view, credential=narrow)
    world.node.calls.clear()
    await world.pipeline.telemetry.tick()
    assert pushed(world) == [] and world.node.calls == [] and await rows(world) == 1
    world.credentials.views[credential] = view
    world.pass_time(3_600)
    await world.pipeline.telemetry.tick()
    assert [push["seq"] for push in pushed(world)] == [1]


async def test_the_emergency_stop_holds_it_back(world: World) -> None:
    await subscribe(world)
    world.switch.on = True
    world.node.calls.clear()
    assert await world.pipeline.telemetry.tick() == 30
    assert pushed(world) == [] and world.node.calls == [] and await rows(world) == 1
    world.switch.on = False
    await world.pipeline.telemetry.tick()
    assert [push["seq"] for push in pushed(world)] == [1]


@pytest.mark.parametrize("waiting", [(1_001, 0), (300, 201)])
async def test_with_a_full_outbox_it_is_dropped_and_the_number_shows_it(
    world: World, waiting: tuple[int, int]
) -> None:
    await subscribe(world, interval_s=300)
    world.out.waiting = waiting
    await world.pipeline.telemetry.tick()
    assert pushed(world) == []
    world.out.waiting = (1_000, 200)
    world.pass_time(300)
    await world.pipeline.telemetry.tick()
    assert [push["seq"] for push in pushed(world)] == [2]
    (row,) = await world.db.read(TelemetryStore().all)
    assert (row.seq, row.dropped) == (2, 1)


async def test_a_clock_that_was_set_back_holds_nothing_up(world: World) -> None:
    await subscribe(world)
    await world.pipeline.telemetry.tick()
    world.pass_time(-10 * DAY)
    await world.pipeline.telemetry.tick()
    world.pass_time(3_600)
    await world.pipeline.telemetry.tick()
    assert [push["seq"] for push in pushed(world)] == [1, 2, 3]


async def test_it_is_told_as_served(world: World) -> None:
    answer = await world.ask(CONTROL, "capabilities", {})
    missing = {row["action"] for row in answer["result"]["unsupported_actions"]}
    assert not missing & {"telemetry_subscribe", "telemetry_unsubscribe"}
    assert set(READ_OF) == set(TELEMETRY_NAMES) and set(READ_OF) >= OF_NODE


async def test_revocation_and_a_new_credential_end_it_in_their_own_transaction(tmp_path: Path) -> None:
    world = HiringWorld(tmp_path)
    await world.start()
    store, key = TelemetryStore(), crypto.xonly_pubkey(AGENT_KEY)

    async def running() -> list[str]:
        return [row.credential_id for row in await world.db.read(store.all)]

    async def begin(credential_id: str) -> None:
        row = Subscription(credential_id, credential_id, "a", key, ("health",), 300, 2 * NOW, 0, 0, NOW, NOW)
        await world.db.write(lambda tx: store.add(tx, row))
        assert credential_id in await running()

    first = await world.service.authorize(Hire(key, "fees"))
    await begin(first.row.credential_id)
    second = await world.service.authorize(Hire(key, "fees"))
    assert await running() == []
    await begin(second.row.credential_id)
    await world.service.revoke_all("enough")
    assert await running() == []
    world.db.close()
