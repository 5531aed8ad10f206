"""hive:config/v1: options read without secrets, dynamic ones set, static ones proposed (02 §4 item 12)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hive_shared.canonical import JsonValue, encode
from hive_shared.registry import Tier
from pipeline_world import View, World, issue, slug

CONFIG = "hive:config/v1"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    made.credentials.add(View(issue(template="complete_management", tier=Tier.ADMIN), "adv-1"))
    made.policies.override(
        "aggressive",
        approval_overrides={"config_*": "auto_execute"},
        allowed_config=["askrene-timeout", "alias", "bitcoin-rpcpassword"],
    )
    yield made
    made.close()


async def ok(world: World, action: str, **params: JsonValue) -> dict[str, Any]:
    answer = await world.ask(CONFIG, action, params)
    assert answer["status"] == 0, answer
    return dict(answer["result"])


async def test_options_are_read_without_secrets_logins_and_paths(world: World) -> None:
    first = await ok(world, "get_config", limit=4)
    rest = await ok(world, "get_config", cursor=first["next_cursor"])
    items = {item["option"]: item for item in (*first["items"], *rest["items"])}
    assert items["bitcoin-rpcpassword"]["value"] == "[redacted]"
    assert items["log-file"]["value"] == ["…/cln.log"]
    assert items["bitcoin-rpcconnect"]["value"] == "http://10.0.0.1"
    assert items["askrene-timeout"] == {
        "option": "askrene-timeout",
        "value": 10,
        "source": "default",
        "plugin": "…/cln-askrene",
        "dynamic": True,
    }
    assert items["alias"]["source"] == "config", "not where the file lies"
    told = encode([*first["items"], *rest["items"]]).decode()
    assert not any(text in told for text in ("hunter2", "op:secret", "/srv/op", "/usr/x"))
    one = await ok(world, "get_config", key="min-capacity-sat")
    assert [item["value"] for item in one["items"]] == [10_000]
    unknown = await world.ask(CONFIG, "get_config", {"key": "no-such-option"})
    assert slug(unknown) == "invalid_params" and "no option of this node" in unknown["error"]["message"]


async def test_a_dynamic_option_that_the_operator_listed_is_set_and_read_again(world: World) -> None:
    done = await ok(world, "set_config", key="askrene-timeout", value=20)
    assert done == {"option": "askrene-timeout", "old": 10, "new": 20, "state": "applied"}
    again = await ok(world, "set_config", key="askrene-timeout", value="20")
    assert again == {"state": "already_set"} and world.node.calls.count("setconfig") == 1
    small = await ok(world, "set_min_channel_size", sats=50_000)
    assert (small["option"], small["new"]) == ("min-capacity-sat", 50_000)


@pytest.mark.parametrize(
    ("action", "params", "symbol", "says"),
    [
        ("set_config", {"key": "min-capacity-sat", "value": 5}, "policy_blocked", "not in allowed_config"),
        ("set_config", {"key": "bitcoin-rpcpassword", "value": "x"}, "policy_blocked", "may hold a secret"),
        ("set_config", {"key": "hive-comms-daily-limit", "value": 5}, "policy_blocked", "operator's alone"),
        ("set_config", {"key": "plugin", "value": "x"}, "policy_blocked", "operator's alone"),
        ("set_config", {"key": "no-such-option", "value": 5}, "invalid_params", "no option of this node"),
        ("set_config", {"key": "askrene-timeout", "value": None}, "invalid_params", "text, an integer"),
        ("set_config", {"key": "askrene-timeout", "value": [1]}, "invalid_params", "text, an integer"),
        ("set_config", {"key": "askrene-timeout", "value": "a\nplugin=/x"}, "invalid_params", "control"),
        ("set_config", {"key": "../x", "value": 5}, "invalid_params", "name of an option"),
        ("set_min_channel_size", {"sats": 0}, "invalid_params", "1 to"),
        ("set_min_channel_size", {"sats": True}, "invalid_params", "integer"),
        ("set_alias", {}, "invalid_params", "at least one of"),
        ("set_alias", {"alias": "ä" * 17}, "invalid_params", "32 bytes"),
        ("set_alias", {"alias": "a\nwallet=x"}, "invalid_params", "control"),
        ("set_alias", {"color": "red"}, "invalid_params", "hex"),
        ("set_network_address", {"address": "a b"}, "invalid_params", "host"),
        ("set_network_address", {"address": "/run/socket"}, "invalid_params", "host"),
        ("set_tor", {"enabled": 1}, "invalid_params", "true or false"),
        ("set_dust_limit", {"max_dust_exposure_msat": -1}, "invalid_params", "integer"),
    ],
)
async def test_what_is_wrong_is_said_and_nothing_is_set(
    world: World, action: str, params: dict[str, JsonValue], symbol: str, says: str
) -> None:
    answer = await world.ask(CONFIG, action, params)
    assert slug(answer) == symbol and says in answer["error"]["message"], answer
    assert "setconfig" not in world.node.calls
    assert "option_proposed" not in [code for _, code, _ in world.out.alerts]


@pytest.mark.parametrize(
    ("action", "params", "lines"),
    [
        ("set_alias", {"alias": "Café", "color": "112233"}, ["alias=Café", "rgb=112233"]),
        ("set_alias", {"alias": "SLICKERGOPHER", "color": "112233"}, ["rgb=112233"]),
        ("set_network_address", {"address": "[2001:db8::1]:9735"}, ["announce-addr=[2001:db8::1]:9735"]),
        ("set_tor", {"enabled": True}, ["proxy=127.0.0.1:9050", "always-use-proxy=true"]),
        ("set_dust_limit", {"max_dust_exposure_msat": 70_000_000}, ["max-dust-htlc-exposure-msat=70000000"]),
        ("set_config", {"key": "alias", "value": "NEW"}, ["alias=NEW"]),
    ],
)
async def test_acceptance_02_19_static_options_are_proposed(
    world: World, action: str, params: dict[str, JsonValue], lines: list[str]
) -> None:
    answer = await world.ask(CONFIG, action, params)
    assert slug(answer) == "requires_restart" and answer["result"]["config_lines"] == lines, answer
    (told,) = [text for _, code, text in world.out.alerts if code == "option_proposed"]
    assert " and ".join(lines) in told
    assert "setconfig" not in world.node.calls


@pytest.mark.parametrize(
    ("action", "params"),
    [
        ("set_tor", {"enabled": False}),
        ("set_network_address", {"address": "203.0.113.7:9735"}),
        ("set_dust_limit", {"max_dust_exposure_msat": 50_000_000}),
        ("set_alias", {"alias": "SLICKERGOPHER"}),
    ],
)
async def test_what_stands_already_is_not_proposed(
    world: World, action: str, params: dict[str, JsonValue]
) -> None:
    assert await ok(world, action, **params) == {"state": "already_set"}


async def test_a_value_the_node_refuses_or_whose_answer_is_lost_is_told_as_it_is(world: World) -> None:
    world.node.fail["setconfig"] = -32602
    refused = await world.ask(CONFIG, "set_config", {"key": "askrene-timeout", "value": 20})
    assert slug(refused) == "node_error" and refused["result"]["state"] == "unchanged", refused
    world.node.fail.clear()
    world.node.lose.add("setconfig")
    lost = await ok(world, "set_config", key="askrene-timeout", value=21)
    assert lost["state"] == "applied" and world.node.configs["askrene-timeout"]["value_int"] == 21
