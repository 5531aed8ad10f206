"""hive:emergency/v1 stop_node and hive:config/v1 restart_node: on record and answered before the node is
told, proved by the node's next run (02 §4 items 12 and 14; docs/decisions/0422)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from channel_node import agree, everything
from cl_hive_comms.services.executors import node_down
from crash_points import killed_everywhere
from hive_shared.canonical import JsonValue, decode_object
from hive_shared.cln import ClnError
from hive_shared.registry import CONFIG, EMERGENCY
from pipeline_world import NOW, View, World, slug

ACTIONS = {"stop_node": EMERGENCY, "restart_node": CONFIG}
DANGERS = {"stop_node": 8, "restart_node": 7}
LATER_S = node_down.SETTLED_S + 121


def down_world(directory: Path) -> World:
    """An agent that may stop and restart the node when the operator and itself confirm it."""
    directory.mkdir(parents=True, exist_ok=True)
    world = World(directory)
    world.credentials.add(View(everything(), "adv-1"))
    world.policies.override("aggressive")
    return world


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(node_down, "ANSWER_OUT_S", 0)
    made = down_world(tmp_path)
    yield made
    made.close()


async def ask(world: World, action: str, **params: JsonValue) -> dict[str, Any]:
    """Ask, and have operator and agent confirm it."""
    asked = {"reason": "an update of the kernel", **params}
    answer = await world.ask(ACTIONS[action], action, asked)
    if answer["status"] == 3 and answer.get("error"):
        await agree(world, answer)
    return answer


async def went_on(world: World) -> None:
    """What was begun after its outcome was stored is over."""
    await asyncio.gather(*world.pipeline.execution.going_on)


def told(world: World) -> list[str]:
    return [name for name in world.node.calls if name in ("graceful", "stop")]


@pytest.mark.parametrize("action", list(ACTIONS))
async def test_it_is_on_record_before_the_node_is_told_and_proved_by_its_next_run(
    world: World, action: str
) -> None:
    seen: list[Any] = []

    async def stop(method: str, params: Any = None, *, timeout: float = 30.0) -> dict[str, Any]:
        if method in ("graceful", "stop"):
            docs = await world.docs()
            seen.append((method, params, [(doc["action"], doc["status"]) for doc in docs]))
        return await type(world.node).call(world.node, method, params, timeout=timeout)

    world.node.call = stop  # type: ignore[method-assign]
    held = await ask(world, action, graceful_timeout_s=30)
    assert held["error"]["data"]["workflow"] == "confirm", held
    responses = [decode_object(sent["content"]) for sent in world.out.sent if sent["kind"] == "response"]
    assert responses[-1]["status"] == 3 and responses[-1]["receipt"]["status"] == "pending_external"
    await went_on(world)
    on_record = [(action, "pending_external")]
    assert seen == [("graceful", {"timeout": 30}, on_record), ("stop", None, on_record)]
    world.restart()
    await world.pipeline.timers.tick()
    first, last = await world.docs()
    assert (last["status"], last["danger"]["total"]) == ("success", DANGERS[action]), last
    assert (last["result"]["node_state"], last["result"]["up_since"]) == ("up_again", NOW + 2)
    assert first["command_id"] == last["command_id"] and first["result"]["node_state"] == "going_down"
    assert told(world) == ["graceful", "stop"] and (await world.receipts.verify()).ok


async def test_without_time_for_payments_the_node_is_stopped_at_once(world: World) -> None:
    await ask(world, "stop_node", graceful_timeout_s=0)
    await went_on(world)
    assert told(world) == ["stop"]


async def test_an_older_node_is_stopped_without_graceful(world: World) -> None:
    await world.pipeline.executors.probe()
    assert not world.pipeline.executors.offers("graceful")
    await ask(world, "stop_node")
    await went_on(world)
    assert told(world) == ["stop"]


async def test_payments_that_do_not_end_in_time_do_not_keep_the_node_up(world: World) -> None:
    world.node.fail["graceful"] = -1
    await ask(world, "stop_node")
    await went_on(world)
    assert told(world) == ["graceful", "stop"] and world.node.runs == 2


async def test_a_restart_needs_a_supervisor_and_says_so_in_the_capabilities(world: World) -> None:
    world.supervised = False
    answer = await ask(world, "restart_node")
    assert slug(answer) == "unsupported_action" and "hive-comms-supervised" in answer["error"]["message"]
    rows = world.pipeline.capabilities.of_node()["unsupported_actions"]
    assert isinstance(rows, list)
    (row,) = [each for each in rows if isinstance(each, dict) and each["action"] == "restart_node"]
    assert "supervisor" in str(row["reason"])
    world.supervised = True
    assert "restart_node" not in str(world.pipeline.capabilities.of_node()["unsupported_actions"])
    assert told(world) == []


async def test_a_node_that_would_not_start_again_is_not_restarted(world: World) -> None:
    world.node.configs["tidy-pace"] = {
        "value_int": 3,
        "source": "/srv/cln/config.setconfig:2",
        "plugin": "/srv/op/tidy.py",
    }
    answer = await ask(world, "restart_node")
    assert slug(answer) == "unsupported_action" and "tidy-pace" in answer["error"]["message"], answer
    assert "/srv" not in answer["error"]["message"] and told(world) == []


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"reason": ""}, "reason"),
        ({"graceful_timeout_s": 3_601}, "3600"),
        ({"graceful_timeout_s": -1}, "graceful_timeout_s"),
        ({"graceful_timeout_s": True}, "graceful_timeout_s"),
        ({"when": "now"}, "when"),
    ],
)
@pytest.mark.parametrize("action", list(ACTIONS))
async def test_wrong_parameters_stop_nothing(
    world: World, action: str, params: dict[str, JsonValue], says: str
) -> None:
    answer = await ask(world, action, **params)
    assert slug(answer) == "invalid_params" and says in answer["error"]["message"], answer
    await went_on(world)
    assert told(world) == []


async def test_what_denies_a_stop_denies_a_restart(world: World) -> None:
    world.policies.override("aggressive", blocked_schemas=["hive:emergency/stop_node"])
    assert slug(await ask(world, "restart_node")) == "policy_blocked"


async def test_an_approval_is_for_the_run_of_the_node_that_it_was_given_in(world: World) -> None:
    answer = await world.ask(EMERGENCY, "stop_node", {"reason": "x"})
    world.node.runs += 1
    action_id = answer["error"]["data"]["action_id"]
    await world.pipeline.approvals.approve(action_id)
    await went_on(world)
    assert told(world) == []


async def test_a_stop_that_the_node_refuses_is_an_error(world: World) -> None:
    def refuses(params: Any) -> dict[str, Any]:
        raise ClnError("stop", -32600, "not now")

    world.node.answers["stop"] = refuses
    await ask(world, "stop_node", graceful_timeout_s=0)
    await went_on(world)
    await world.pipeline.timers.tick()
    doc = (await world.docs())[-1]
    assert doc["status"] == "error" and doc["error"]["slug"] == "node_error", doc


async def test_the_emergency_stop_is_asked_again_before_the_node_is_told(world: World) -> None:
    world.node.answers["graceful"] = lambda params: setattr(world.switch, "on", True) or {}
    await ask(world, "stop_node")
    await went_on(world)
    await world.pipeline.timers.tick()
    doc = (await world.docs())[-1]
    assert doc["error"]["slug"] == "emergency_stop" and "only a restart ends" in doc["error"]["message"], doc
    assert told(world) == ["graceful"] and world.node.runs == 1


@pytest.mark.parametrize("action", list(ACTIONS))
async def test_acceptance_02_12_a_node_stopped_through_kills_is_stopped_once_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setattr(node_down, "ANSWER_OUT_S", 0)

    async def before(world: World) -> None:
        held = await world.ask(ACTIONS[action], action, {"reason": "x", "graceful_timeout_s": 30})
        world.__dict__["held"] = held

    async def order(world: World) -> None:
        await agree(world, world.__dict__["held"])
        await went_on(world)

    seen: set[str] = set()
    async for at, world, _ in killed_everywhere(tmp_path, order, down_world, before):
        world.pass_time(LATER_S)
        await world.pipeline.timers.tick()
        docs = [doc for doc in await world.docs() if doc["action"] == action]
        last = docs[-1]["status"] if docs else "waits"
        seen.add(last)
        assert world.node.runs <= 2 and len(docs) <= 2, (at, docs)
        assert (world.node.runs == 2) == (last == "success"), (at, docs)
        assert last in ("waits", "error", "success"), (at, docs)
        assert last != "success" or docs[0]["status"] == "pending_external", "on record before"
    assert seen == {"waits", "error", "success"}, seen
