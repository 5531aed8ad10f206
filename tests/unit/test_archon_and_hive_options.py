"""The option tables of cl-hive-archon and cl-hive against the registry of the specification."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import cl_hive.options
import cl_hive_archon.options
import pytest
from hive_shared.runtime_config import OptionTable
from hive_shared.runtime_spec import InitInfo, option_from_node

REGISTRY = Path(__file__).parents[2] / "docs" / "protocol" / "00-registry-fleet.md"


def registered(owner: str) -> set[str]:
    """Option names of section 4 of the registry whose owner column starts with ``owner``."""
    section = REGISTRY.read_text().split("## 4. Options")[1].split("## 5.")[0]
    names: set[str] = set()
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 3 or not cells[0].startswith(owner):
            continue
        match = re.search(r"`([a-z-]+)`", cells[0])
        assert match is not None
        text = re.sub(r"\([^)]*\)", "", cells[1])
        for item in re.split(r",\s*(?![^{]*})", text):
            names.update(match[1] + name for name in expand(item.strip()))
    return names


def expand(item: str) -> list[str]:
    parts = re.split(r"(\{[^}]*\})", item)
    choices = [part[1:-1].split(",") if part.startswith("{") else [part] for part in parts]
    return ["".join(choice) for choice in itertools.product(*choices)]


@pytest.mark.parametrize(
    ("table", "owner"),
    [(cl_hive_archon.options.TABLE, "archon"), (cl_hive.options.TABLE, "hive")],
    ids=["archon", "hive"],
)
def test_declared_options_are_those_of_the_registry(table: OptionTable, owner: str) -> None:
    assert {spec.name for spec in table.specs} == registered(owner)


@pytest.mark.parametrize(
    "table", [cl_hive_archon.options.TABLE, cl_hive.options.TABLE], ids=["archon", "hive"]
)
def test_every_option_says_what_it_is_and_whether_it_works(table: OptionTable) -> None:
    config = table.snapshot(init({}, table))
    assert table.warnings(config) == []
    for row in table.rows(config):
        spec = next(spec for spec in table.specs if spec.name == row["name"])
        assert row["source"] == "default" and len(spec.description) > 10
        assert row["served"] == ("Not served" not in spec.description)


def init(options: dict[str, Any], table: OptionTable) -> InitInfo:
    values = {spec.name: option_from_node(spec, options.get(spec.name)) for spec in table.specs}
    return InitInfo(Path("/n"), Path("/n/r"), "regtest", True, None, False, values)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"hive-planner-min-channel-sats": 6_000_000},
            "must hold: planner-min-channel-sats (6000000) <= planner-default-channel-sats (5000000)"
            " <= planner-max-channel-sats (50000000)",
        ),
        (
            {"hive-intent-hold-seconds": 150},
            "intent-hold-seconds (150) must be below half of intent-lock-timeout (300)",
        ),
        ({"hive-fee-ceiling-ppm": 10}, "must hold: fee-floor-ppm (50) <= fee-default-ppm (500)"),
        ({"hive-provision-min-channel-sats": 9_000_000}, "must hold: provision-min-channel-sats (9000000)"),
    ],
)
def test_contradicting_options_of_hive_keep_their_defaults(options: dict[str, Any], told: str) -> None:
    table = cl_hive.options.TABLE
    config = table.snapshot(init(options, table))
    name = next(iter(options))
    assert config[name] == option_from_node(next(s for s in table.specs if s.name == name), None)
    assert told in config.refused[name]


def test_archons_threshold_needs_enough_shares() -> None:
    table = cl_hive_archon.options.TABLE
    config = table.snapshot(init({}, table))
    with pytest.raises(ValueError, match=r"threshold-k \(4\) must not be above threshold-n \(3\)"):
        table.changed(config, "hive-archon-threshold-k", 4)


@pytest.mark.parametrize("value", ["[]", "{", '{"hive:node":"x"}', '{"hive:node":-1}', '{"hive:node":null}'])
def test_domain_weights_are_an_object_of_decimals(value: str) -> None:
    spec = next(s for s in cl_hive_archon.options.TABLE.specs if s.name == "hive-archon-domain-weights")
    assert option_from_node(spec, '{"hive:node":1.5}') == {"hive:node": "1.5"}
    with pytest.raises(ValueError):
        option_from_node(spec, value)


def test_mints_of_the_fleet_have_their_normal_form_and_are_named_once() -> None:
    spec = next(spec for spec in cl_hive.options.TABLE.specs if spec.name == "hive-settlement-mints")
    given = "HTTPS://Mint.Example.com:443/, https://mint.example.com,http://127.0.0.1:3338/"
    assert option_from_node(spec, given) == ("https://mint.example.com", "http://127.0.0.1:3338")
    for wrong in (
        "http://mint.example.com",
        "mint",
        "https://u:p@mint.example.com",
        "https://m.example/?a=1",
    ):
        with pytest.raises(ValueError, match="mint"):
            option_from_node(spec, wrong)
