"""Which plugins of the node a command must leave alone (docs/protocol/02-fleet-management.md §4 item 11;
docs/decisions/0421)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

CORE: Final = frozenset(
    {
        *("autoclean", "bcli", "bookkeeper", "chanbackup", "cln-askrene", "cln-bwatch", "cln-currencyrate"),
        *(
            "cln-grpc",
            "cln-lsps-client",
            "cln-lsps-service",
            "cln-renepay",
            "cln-xpay",
            "clnrest",
            "commando",
        ),
        *("exposesecret", "funder", "keysend", "offers", "pay", "recklessrpc", "recover", "spenderp", "sql"),
        *("topology", "txprepare", "wss-proxy"),
    }
)
"""Plugins that come with Core Lightning; whatever lies beside one of them counts as well."""
STALE_OPTIONS_CRASH: Final = (26, 6)
"""The newest CLN that crashes when an option is set after a plugin whose options were set has stopped."""
_FROM_START: Final = ("default", "pluginstart")
# Values of these sources go with their plugin; the others stay behind in the node's memory.

Row = Mapping[str, Any]


class Untouchable(msgspec.Struct, frozen=True):
    """Why a plugin is not stopped: symbol, sentence, and the rule where it is one."""

    symbol: str
    sentence: str
    rule: str = ""


def base_name(path: str) -> str:
    """What a plugin is called in commands: the last part of its path."""
    return path.rpartition("/")[2]


def named(rows: Sequence[Row], name: str) -> list[Row]:
    """The plugins of `plugin list` with that name."""
    return [row for row in rows if base_name(str(row["name"])) == name]


def untouchable(
    row: Row, rows: Sequence[Row], configs: Mapping[str, Row], version: str
) -> Untouchable | None:
    """Why the plugin of `row` is not stopped by a command; None when it may be. `rows` is `plugin list`,
    `configs` what `listconfigs` shows, `version` the node's."""
    path = str(row["name"])
    name = base_name(path)
    own = {option: each for option, each in configs.items() if each.get("plugin") == path}
    if name.startswith("cl-hive") or any(option.startswith("hive-") for option in own):
        return _floor(f"{name} is part of the hive suite, which no advisor stops")
    if name in CORE or path.rpartition("/")[0] in _core_places(rows):
        return _floor(f"{name} belongs to Core Lightning itself; the node is not safe without it")
    important = configs.get("important-plugin", {}).get("values_str", ())
    if any(_matches(path, str(each)) for each in important):
        return _floor(f"{name} is an important plugin: the node is set to go down without it")
    if row.get("dynamic") is not True:
        return Untouchable(
            "requires_restart", f"{name} cannot be stopped while the node runs; it starts and ends with it"
        )
    kept = sorted(option for option, each in own.items() if _stays(each))
    if kept and crashes_on_stale_options(version):
        return Untouchable(
            "requires_restart",
            f"options of {name} are set ({', '.join(kept[:5])}): Core Lightning up to v26.06 goes down at the"
            " next setconfig once such a plugin has stopped; the operator can take plugin and options out of"
            " the configuration and restart the node",
        )
    return None


def starts_with_node(path: str, configs: Mapping[str, Row]) -> bool:
    """Whether the node's configuration starts the plugin, as far as `listconfigs` tells: by name, by a
    directory of plugins, or because it is CLN's own.

    An option of any other must not be written to the configuration: lightningd does not start with one that
    it does not know.
    """
    named_in = [*_values(configs, "plugin"), *_values(configs, "important-plugin")]
    place = path.rpartition("/")[0]
    base = str(configs.get("lightning-dir", {}).get("value_str", ""))
    directories = [*_values(configs, "plugin-dir"), *([f"{base}/plugins"] if base else [])]
    owners = {str(each["plugin"]) for each in configs.values() if "plugin" in each}
    core = {owner.rpartition("/")[0] for owner in owners if base_name(owner) in CORE}
    return (
        path in named_in
        or place in core
        or place in directories
        or (bool(base) and place.rpartition("/")[0] == f"{base}/plugins")
    )


def _values(configs: Mapping[str, Row], name: str) -> list[str]:
    return [str(each) for each in configs.get(name, {}).get("values_str", ())]


def not_startable(configs: Mapping[str, Row]) -> list[str]:
    """Options in the configuration's files whose plugin the configuration does not start: with them the node
    does not start again."""
    return sorted(
        name
        for name, each in configs.items()
        if "plugin" in each
        and any(":" in source for source in each.get("sources", [str(each.get("source", ""))]))
        and not starts_with_node(str(each["plugin"]), configs)
    )


def crashes_on_stale_options(version: str) -> bool:
    """Whether this CLN follows the options of a plugin that is gone; one we cannot read counts as such."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return match is None or (int(match[1]), int(match[2])) <= STALE_OPTIONS_CRASH


def _floor(sentence: str) -> Untouchable:
    return Untouchable("policy_blocked", sentence, "floor")


def _core_places(rows: Sequence[Row]) -> frozenset[str]:
    places = (str(row["name"]).rpartition("/") for row in rows)
    return frozenset(place for place, _, name in places if name in CORE)


def _matches(path: str, given: str) -> bool:
    """Whether the node takes `given` for the plugin: its path, or the end of it."""
    return path == given or path.endswith(f"/{given.lstrip('/')}")


def _stays(option: Row) -> bool:
    sources = option.get("sources", [option.get("source", "default")])
    return any(source not in _FROM_START for source in sources)
