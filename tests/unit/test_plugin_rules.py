"""Which plugins no command stops (02 §4 item 11; docs/decisions/0421)."""

from __future__ import annotations

from typing import Any

import pytest
from cl_hive_comms.domain.plugin_rules import (
    crashes_on_stale_options,
    not_startable,
    starts_with_node,
    untouchable,
)

CORE = "/usr/libexec/c-lightning/plugins"
OWN = "/srv/op/plugins/other.py"


def row(path: str, *, dynamic: bool = True) -> dict[str, Any]:
    return {"name": path, "active": True, "dynamic": dynamic}


ROWS = [row(f"{CORE}/chanbackup", dynamic=False), row(OWN)]
OPTION = {"value_int": 3, "plugin": OWN}
IMPORTANT = {"important-plugin": {"values_str": ["plugins/other.py"], "sources": ["cmdline"]}}


@pytest.mark.parametrize(
    ("path", "configs", "symbol", "says"),
    [
        ("/opt/x/cl-hive-comms.py", {}, "policy_blocked", "hive suite"),
        (OWN, {"hive-archon-x": {**OPTION, "source": "default"}}, "policy_blocked", "hive suite"),
        (f"{CORE}/funder", {}, "policy_blocked", "Core Lightning itself"),
        (f"{CORE}/brand-new", {}, "policy_blocked", "Core Lightning itself"),
        ("/srv/op/plugins/bcli", {}, "policy_blocked", "Core Lightning itself"),
        (OWN, IMPORTANT, "policy_blocked", "important"),
        (OWN, {"x-pace": {**OPTION, "source": "/etc/cln/config:3"}}, "requires_restart", "x-pace"),
        (OWN, {"x-pace": {**OPTION, "source": "setconfig transient"}}, "requires_restart", "x-pace"),
        (OWN, {"x-many": {**OPTION, "sources": ["default", "cmdline"]}}, "requires_restart", "x-many"),
    ],
)
def test_what_must_go_on_is_not_stopped(path: str, configs: dict[str, Any], symbol: str, says: str) -> None:
    why = untouchable(row(path), [*ROWS, row(path)], configs, "v26.06.6")
    assert why is not None and (why.symbol, says in why.sentence) == (symbol, True), why
    assert (why.rule == "floor") == (symbol == "policy_blocked")
    assert "/" not in why.sentence


def test_what_starts_and_ends_with_the_node_is_told_as_that() -> None:
    why = untouchable(row(OWN, dynamic=False), ROWS, {}, "v26.06.6")
    assert why is not None and why.symbol == "requires_restart"


@pytest.mark.parametrize(
    "configs",
    [
        {},
        {"x-pace": {**OPTION, "source": "default"}},
        {"x-pace": {**OPTION, "source": "pluginstart"}},
        {"x-many": {**OPTION, "sources": []}},
        {"alias": {"value_str": "x", "source": "cmdline"}},
        {"important-plugin": {"values_str": ["her.py"], "sources": ["cmdline"]}},
    ],
)
def test_others_may_be_stopped(configs: dict[str, Any]) -> None:
    assert untouchable(row(OWN), ROWS, configs, "v26.06.6") is None


@pytest.mark.parametrize(
    ("version", "crashes"),
    [
        ("v25.02", True),
        ("v26.06.6", True),
        ("v26.06.6-modded", True),
        ("v26.09", False),
        ("v27.03rc1", False),
        ("basement", True),
    ],
)
def test_the_crash_of_older_nodes(version: str, crashes: bool) -> None:
    assert crashes_on_stale_options(version) is crashes


BASE = {"lightning-dir": {"value_str": "/srv/cln", "source": "cmdline"}}
BESIDE = {"x": {"plugin": f"{CORE}/chanbackup", "source": "default"}}


@pytest.mark.parametrize(
    ("path", "configs", "starts"),
    [
        (OWN, {}, False),
        (OWN, BASE, False),
        (OWN, {"plugin": {"values_str": [OWN]}}, True),
        (OWN, {"plugin": {"values_str": ["/elsewhere/other.py"]}}, False),
        (OWN, {"important-plugin": {"values_str": [OWN]}}, True),
        (OWN, {"plugin-dir": {"values_str": ["/srv/op/plugins"]}}, True),
        ("/srv/cln/plugins/a.py", BASE, True),
        ("/srv/cln/plugins/tidy/a.py", BASE, True),
        ("/srv/cln/plugins/tidy/deep/a.py", BASE, False),
        (f"{CORE}/funder", BESIDE, True),
    ],
)
def test_which_plugins_the_configuration_starts(path: str, configs: dict[str, Any], starts: bool) -> None:
    assert starts_with_node(path, configs) is starts


def test_options_that_keep_the_node_from_starting_are_named() -> None:
    kept = {**OPTION, "source": "/srv/cln/regtest/config.setconfig:2"}
    configs = {
        "x-pace": kept,
        "x-more": {**OPTION, "sources": ["default", "/srv/cln/config:4"]},
        "x-transient": {**OPTION, "source": "setconfig transient"},
        "x-default": {**OPTION, "source": "default"},
        "alias": {"value_str": "x", "source": "/srv/cln/config:1"},
    }
    assert not_startable(configs) == ["x-more", "x-pace"]
    assert not_startable({**configs, "plugin": {"values_str": [OWN]}}) == []
