"""hive:plugin/v1: plugins listed, and their options set (02 §4 item 11)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hive_shared.canonical import JsonValue
from hive_shared.registry import PLUGIN, Tier
from pipeline_world import View, World, issue, slug

ALLOWED: list[JsonValue] = ["askrene-timeout", "min-capacity-sat", "askrene-token"]


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    made.credentials.add(View(issue(template="complete_management", tier=Tier.ADMIN), "adv-1"))
    made.policies.override(
        "aggressive", approval_overrides={"plugin_*": "auto_execute"}, allowed_config=ALLOWED
    )
    owner = "/usr/x/cln-askrene"
    made.node.configs["askrene-token"] = {"value_str": "hush", "plugin": owner, "dynamic": True}
    made.node.configs["askrene-depth"] = {"value_int": 9, "plugin": owner, "dynamic": True}
    yield made
    made.close()


async def test_plugins_are_listed_by_name_without_their_paths(world: World) -> None:
    answer = await world.ask(PLUGIN, "list", {})
    assert answer["result"]["items"] == [{"name": "autoclean", "active": True, "dynamic": False}]
    assert (await world.ask(PLUGIN, "list_plugins", {}))["result"] == answer["result"]


async def test_a_plugins_dynamic_option_that_the_operator_listed_is_set(world: World) -> None:
    answer = await world.ask(PLUGIN, "configure", {"option": "askrene-timeout", "value": 20})
    assert answer["status"] == 0, answer
    assert answer["result"] == {"option": "askrene-timeout", "old": 10, "new": 20, "state": "applied"}
    assert world.node.configs["askrene-timeout"]["value_int"] == 20
    assert answer["receipt"]["status"] == "success"


async def test_a_static_option_is_proposed_to_the_operator(world: World) -> None:
    del world.node.configs["askrene-timeout"]["dynamic"]
    answer = await world.ask(PLUGIN, "configure", {"option": "askrene-timeout", "value": 20})
    assert slug(answer) == "requires_restart" and "setconfig" not in world.node.calls


@pytest.mark.parametrize(
    ("params", "reason", "words"),
    [
        ({"option": "min-capacity-sat", "value": 20_000}, "invalid_params", "set_config"),
        ({"option": "no-such-option", "value": 1}, "invalid_params", "no option of this node"),
        ({"option": "askrene-token", "value": "x"}, "policy_blocked", "secret"),
        ({"option": "askrene-depth", "value": 40}, "policy_blocked", "allowed_config"),
        ({"option": "hive-comms-policy-file", "value": "x"}, "policy_blocked", "operator"),
        ({"option": "askrene-timeout"}, "invalid_params", "value"),
        ({"option": "askrene-timeout", "value": None}, "invalid_params", "value"),
        ({"option": "../x", "value": 1}, "invalid_params", "option"),
    ],
)
async def test_what_is_not_the_agents_is_refused_and_nothing_is_set(
    world: World, params: dict[str, JsonValue], reason: str, words: str
) -> None:
    before = {name: dict(row) for name, row in world.node.configs.items()}
    answer = await world.ask(PLUGIN, "configure", params)
    assert slug(answer) == reason, answer
    assert words in answer["error"]["message"], answer
    assert world.node.configs == before and "setconfig" not in world.node.calls


async def test_an_option_of_a_plugin_that_the_configuration_does_not_start_is_not_written_there(
    world: World,
) -> None:
    """lightningd does not start with an option that it does not know."""
    asked: list[Any] = []
    answers = world.node._setconfig
    world.node.answers["setconfig"] = lambda params: asked.append(dict(params)) or answers(params)
    owner = "/srv/op/tidy.py"
    world.node.configs["askrene-timeout"] |= {"plugin": owner}
    answer = await world.ask(PLUGIN, "configure", {"option": "askrene-timeout", "value": 20})
    assert answer["status"] == 0 and answer["result"]["transient"] is True, answer
    world.node.configs["plugin"] = {"values_str": [owner], "sources": ["cmdline"]}
    answer = await world.ask(PLUGIN, "configure", {"option": "askrene-timeout", "value": 30})
    assert answer["status"] == 0 and "transient" not in answer["result"], answer
    assert [params.get("transient") for params in asked] == [True, None]
