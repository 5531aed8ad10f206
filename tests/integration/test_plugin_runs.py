"""hive:plugin/v1 start_approved and stop: only what the operator approved, never what the node needs, and
what came of it as `plugin list` shows it (02 §4 item 11; docs/decisions/0421)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.services.executors import plugin_run
from crash_points import killed_everywhere
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.registry import PLUGIN
from pipeline_world import World, slug
from plugin_world import CASES, NAME, OTHER, approve, ask, entry, plugin_file, plugin_world, running

LATER_S = plugin_run.START_S + 1


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(plugin_run, "ANSWER_S", 0.05)
    made = plugin_world(tmp_path)
    yield made
    made.close()


def file_of(world: World) -> Path:
    return world.path.parent / "plugins" / NAME


def told(world: World) -> int:
    """How often the node was told to start or stop something."""
    return world.node.calls.count("plugin_start") + world.node.calls.count("plugin")


def starts(world: World, monkeypatch: pytest.MonkeyPatch, before: Callable[[], Any]) -> None:
    """Has `before` happen when the node is told to start a plugin; what it raises is the node's answer."""
    start = world.node.plugin_start

    async def watched(path: str, *, timeout: float) -> dict[str, Any]:
        answer = before()
        if asyncio.iscoroutine(answer):
            await answer
        return await start(path, timeout=timeout)

    monkeypatch.setattr(world.node, "plugin_start", watched)


# -- starting ------------------------------------------------------------------------------------------------


async def test_an_approved_plugin_is_started_by_the_path_its_file_has(world: World) -> None:
    link = world.path.parent / "shelf" / "linked.py"
    link.parent.mkdir(mode=0o700)
    link.symlink_to(file_of(world))
    approve(world, entry(link))
    answer = await ask(world, "start_approved", "linked.py")
    assert answer["status"] == 0, answer
    assert world.node.plugins[-1]["name"] == str(file_of(world).resolve())
    sha256 = entry(link)["sha256"]
    assert answer["result"] == {"plugin": "linked.py", "plugin_state": "running", "sha256": sha256}
    assert answer["receipt"]["status"] == "success" and answer["receipt"]["danger"]["total"] == 4
    again = await world.ask(PLUGIN, "start_plugin", {"plugin_name": "linked.py"})
    assert again["result"] == {"plugin": "linked.py", "plugin_state": "already_running"}
    assert again["status"] == 0 and told(world) == 1


def changed(world: World) -> None:
    file_of(world).write_text("#!/bin/sh\ncurl evil\n")


def open_to_others(world: World) -> None:
    file_of(world).chmod(0o757)


def gone(world: World) -> None:
    file_of(world).unlink()


def not_listed(world: World) -> None:
    approve(world)


def listed_twice(world: World) -> None:
    approve(world, entry(file_of(world)), entry(plugin_file(world.path.parent / "elsewhere")))


def another_hash(world: World) -> None:
    approve(world, entry(file_of(world), "ab" * 32))


def cautious(world: World) -> None:
    approve(world, entry(file_of(world)), preset="conservative", max_danger=5)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (changed, "not the one that the operator approved"),
        (another_hash, "not the one that the operator approved"),
        (open_to_others, "other users"),
        (gone, "No such file"),
        (not_listed, "not on the operator's list"),
        (listed_twice, "twice"),
        (cautious, "conservative preset forbids"),
    ],
)
async def test_what_the_operator_did_not_approve_is_not_started(
    world: World, spoil: Callable[[World], None], says: str
) -> None:
    spoil(world)
    answer = await ask(world, "start_approved")
    assert slug(answer) == "policy_blocked" and says in answer["error"]["message"], answer
    assert str(world.path.parent) not in str(answer), "no path of this machine"
    assert told(world) == 0 and running(world) == {"other.py"}


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("plugins/tidy.py", "policy_blocked"),
        ("/bin/sh", "policy_blocked"),
        ("..", "policy_blocked"),
        ("tidy.py ", "invalid_params"),
        ("", "invalid_params"),
        (7, "invalid_params"),
        (None, "invalid_params"),
    ],
)
@pytest.mark.parametrize("action", list(CASES))
async def test_acceptance_02_23_a_plugin_is_named_and_never_given_as_a_path(
    world: World, action: str, name: JsonValue, symbol: str
) -> None:
    assert slug(await world.ask(PLUGIN, action, {"plugin_name": name})) == symbol
    assert slug(await world.ask(PLUGIN, action, {})) == "invalid_params"
    assert told(world) == 0


async def test_another_plugin_of_that_name_stays_what_it_is(world: World) -> None:
    world.node.plugins.append({"name": f"/srv/op/{NAME}", "active": True, "dynamic": True})
    answer = await ask(world, "start_approved")
    assert slug(answer) == "invalid_params" and "another plugin" in answer["error"]["message"]
    assert told(world) == 0


async def test_a_file_that_changes_while_people_decide_is_not_started(world: World) -> None:
    approve(world, entry(file_of(world)), approval_overrides={"plugin_*": "always_confirm"})
    held = await ask(world, "start_approved")
    assert held["status"] == 3, held
    changed(world)
    await world.pipeline.approvals.approve(held["error"]["data"]["action_id"])
    doc = (await world.docs())[-1]
    assert doc["status"] != "success" and doc["error"]["slug"] == "policy_blocked", doc
    assert told(world) == 0


async def test_a_file_that_changes_right_before_the_start_is_not_started(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    look_at = plugin_run.look_at

    def watched(path: str) -> Any:
        nonlocal looks
        looks += 1
        if looks == 2:
            changed(world)
        return look_at(path)

    monkeypatch.setattr(plugin_run, "look_at", watched)
    answer = await ask(world, "start_approved")
    assert slug(answer) == "policy_blocked" and answer["receipt"]["status"] == "error", answer
    assert told(world) == 0


async def test_a_file_that_changes_during_the_start_is_stopped_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts(world, monkeypatch, lambda: changed(world))
    answer = await ask(world, "start_approved")
    assert slug(answer) == "policy_blocked" and "stopped again" in answer["error"]["message"], answer
    assert running(world) == {"other.py"} and answer["result"]["plugin_state"] == "stopped"
    assert world.out.alerts[-1][0].value == "critical"


async def test_one_that_cannot_be_stopped_again_is_told_to_the_operator(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts(world, monkeypatch, lambda: changed(world))
    world.node.fail["plugin"] = -3
    answer = await ask(world, "start_approved")
    assert slug(answer) == "indeterminate" and running(world) == {"other.py", NAME}, answer
    assert world.out.alerts[-1][0].value == "critical"


@pytest.mark.parametrize(
    ("message", "symbol", "says"),
    [
        ("Not a dynamic plugin", "requires_restart", "together with the node"),
        ("timed out before replying to init", "node_error", "did not answer init"),
        ("timed out before replying to getmanifest", "node_error", "did not answer the node"),
        ("disabled itself at init: no /etc/tidy.conf", "node_error", "disabled itself"),
        ("exited before replying to getmanifest", "node_error", "ended while"),
        ("opening pipe: Permission denied", "node_error", "code -3"),
    ],
)
async def test_why_a_plugin_did_not_start_is_told_without_its_words(
    world: World, monkeypatch: pytest.MonkeyPatch, message: str, symbol: str, says: str
) -> None:
    def refuse() -> None:
        raise ClnError("plugin", -3, f"{file_of(world)}: {message}")

    starts(world, monkeypatch, refuse)
    answer = await ask(world, "start_approved")
    assert slug(answer) == symbol and says in answer["error"]["message"], answer
    assert "/etc" not in str(answer) and answer["result"]["plugin_state"] == "not_running"


async def test_one_that_ends_right_after_its_start_does_not_count_as_running(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ended(path: str, *, timeout: float) -> dict[str, Any]:
        return {"command": "start", "plugins": []}

    monkeypatch.setattr(world.node, "plugin_start", ended)
    answer = await ask(world, "start_approved")
    assert slug(answer) == "shutting_down" and "ended at once" in answer["error"]["message"], answer


async def test_a_start_that_takes_long_ends_by_the_clock(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    starts(world, monkeypatch, gate.wait)
    answer = await ask(world, "start_approved")
    assert answer["status"] == 3 and answer["result"]["plugin_state"] == "starting", answer
    world.pass_time(LATER_S)
    await world.pipeline.timers.tick()
    assert await world.docs() == [], "the call is still running"
    gate.set()
    await asyncio.sleep(0)
    changed(world)
    await world.pipeline.timers.tick()
    doc = (await world.docs())[-1]
    assert doc["status"] == "indeterminate" and "not the approved one" in doc["error"]["message"], doc


async def test_a_lost_answer_is_looked_up_and_not_asked_again(world: World) -> None:
    world.node.lose = {"plugin_start", "plugin"}
    assert (await ask(world, "start_approved"))["status"] == 0
    assert (await ask(world, "stop"))["status"] == 0
    assert told(world) == 2 and running(world) == {NAME}


@pytest.mark.parametrize("action", list(CASES))
async def test_the_emergency_stop_is_asked_last(
    world: World, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """Engaged after the rules were asked, while the disk takes the row or the file is hashed."""
    executor = world.pipeline.executors.must_write(PLUGIN, action)
    monkeypatch.setattr(executor, "_engaged", lambda: True)
    answer = await ask(world, action)
    assert slug(answer) == "emergency_stop" and told(world) == 0, answer


# -- stopping ------------------------------------------------------------------------------------------------


async def test_a_plugin_is_stopped_by_its_whole_path(world: World) -> None:
    asked: list[Any] = []
    stop = world.node._plugin
    world.node.answers["plugin"] = lambda params: asked.append(dict(params)) or stop(params)
    answer = await ask(world, "stop")
    assert answer["status"] == 0 and asked == [{"subcommand": "stop", "plugin": OTHER}], answer
    assert answer["result"] == {"plugin": "other.py", "plugin_state": "stopped"}
    assert answer["receipt"]["danger"]["total"] == 5 and running(world) == set()
    again = await ask(world, "stop")
    assert slug(again) == "invalid_params" and "no plugin" in again["error"]["message"], again


async def test_what_must_go_on_is_refused_before_anything_is_stopped(world: World) -> None:
    world.node.plugins += [
        {"name": path, "active": True, "dynamic": dynamic}
        for path, dynamic in (
            ("/opt/cl-hive-comms.py", True),
            ("/opt/static.py", False),
            ("/opt/a/two.py", True),
            ("/opt/b/two.py", True),
            ("/opt/kept.py", True),
            ("/opt/set.py", True),
        )
    ]
    world.node.configs["set-pace"] = {"value_int": 1, "source": "/etc/cln/config:3", "plugin": "/opt/set.py"}
    approve(world, protected_plugins=["kept.py"])
    expected = {
        "cl-hive-comms.py": ("policy_blocked", "hive suite"),
        "autoclean": ("policy_blocked", "Core Lightning itself"),
        "kept.py": ("policy_blocked", "protected"),
        "static.py": ("requires_restart", "starts and ends with it"),
        "set.py": ("requires_restart", "set-pace"),
        "two.py": ("invalid_params", "more than one"),
        "nobody.py": ("invalid_params", "no plugin"),
    }
    for name, (symbol, says) in expected.items():
        world.pass_time(61)
        answer = await ask(world, "stop", name)
        assert slug(answer) == symbol and says in answer["error"]["message"], (name, answer)
        assert "/opt" not in str(answer)
    assert told(world) == 0


async def test_a_stop_that_the_node_refuses_is_an_error(world: World) -> None:
    world.node.fail["plugin"] = -32602
    answer = await ask(world, "stop")
    assert slug(answer) == "node_error" and answer["result"]["plugin_state"] == "running", answer


# -- kills ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", list(CASES))
async def test_acceptance_02_12_a_plugin_command_killed_anywhere_is_done_once_or_not_at_all(
    tmp_path: Path, action: str
) -> None:
    async def order(world: World) -> None:
        await ask(world, action)

    seen: set[str] = set()
    async for at, world, died in killed_everywhere(tmp_path, order, plugin_world):
        world.pass_time(LATER_S)
        await world.pipeline.timers.tick()
        docs = await world.docs()
        status = docs[0]["status"] if docs else "none"
        seen.add(status)
        done = running(world) == ({"other.py", NAME} if action == "start_approved" else set())
        assert told(world) <= 1 and len(docs) <= 1, (at, docs)
        assert done == (told(world) == 1) == (status == "success"), (at, docs)
        assert status in ("none", "rejected", "error", "success") and (docs or died), (at, docs)
    assert seen >= {"none", "error", "success"}, seen
