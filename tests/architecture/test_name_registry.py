"""What a plugin tells CLN about itself, held to the registries of docs/protocol.

A second registration of a name stops the node, so a name that no registry holds does not exist.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from architecture.sources import PLUGINS, ROOT

EXECUTABLES = {name: ROOT / name / f"{name}.py" for name in PLUGINS}
GETMANIFEST = {"jsonrpc": "2.0", "id": "cln:getmanifest#1", "method": "getmanifest", "params": {}}


@functools.cache
def manifest(plugin: str) -> dict[str, Any]:
    """The answer to getmanifest of the plugin's executable, run as CLN runs it."""
    process = subprocess.run(
        [sys.executable, str(EXECUTABLES[plugin])],
        input=json.dumps(GETMANIFEST) + "\n\n",
        env={**os.environ, "LIGHTNINGD_PLUGIN": "1", "LIGHTNINGD_VERSION": "v26.06"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    for part in process.stdout.split("\n\n"):
        message = json.loads(part) if part.strip() else {}
        if message.get("id") == GETMANIFEST["id"]:
            result: dict[str, Any] = message["result"]
            assert "disable" not in result, result["disable"]
            return result
    raise AssertionError(f"{plugin} did not answer: {process.stdout!r} {process.stderr!r}")


def section(sheet: str, heading: str) -> str:
    text = (ROOT / "docs" / "protocol" / sheet).read_text(encoding="utf-8")
    return text.split(f"\n{heading}", 1)[1].split("\n## ", 1)[0]


def rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("|") and not set(line) <= set("|- "):
            yield cells


def written_out(text: str) -> list[set[str]]:
    """Each name of a registry cell as the set of readings it can have.

    `a-{b,c}` stands for two names. `-x` after `a-b-c` continues its family, which may be `a` or `a-b`:
    the registry leaves that to the reader, so all readings are returned.
    """
    text = re.sub(
        r"([\w-]+)\{([^}]*)\}([\w-]*)",
        lambda found: ", ".join(found[1] + part.strip() + found[3] for part in found[2].split(",")),
        text,
    )
    found: list[set[str]] = []
    family: list[str] = []
    for name in re.findall(r"(?<![\w-])-?[a-z][a-z0-9]*(?:-[a-z0-9]+)*", text):
        if name.startswith("-"):
            found.append({"-".join(family[:end]) + name for end in range(1, len(family) + 1)})
        else:
            family = name.split("-")
            found.append({name})
    return found


def prefixed(prefix: str, text: str) -> list[set[str]]:
    return [{prefix + name for name in readings} for readings in written_out(text)]


@functools.cache
def registered_methods() -> dict[str, set[str]]:
    comms: list[set[str]] = []
    for family, names, *_ in rows(section("00-index.md", "## 4.")):
        plain = re.sub(r"\([^)]*\)|\bremote\b", "", names)
        comms += prefixed(f"hive-{family}" if family.endswith("-") else "hive-", plain)
    archon = [
        p for cells in rows(section("00-registry-fleet.md", "## 1.")) for p in prefixed("hive-", cells[0])
    ]
    hive = [
        p for cells in rows(section("00-registry-fleet.md", "## 2.")) for p in prefixed("hive-", cells[0])
    ]
    hive += prefixed("hive-", section("00-registry-fleet.md", "## 3."))
    every = {"cl-hive-comms": comms, "cl-hive-archon": archon, "cl-hive": hive}
    return {plugin: set().union(*readings) for plugin, readings in every.items()}


@functools.cache
def registered_options() -> dict[str, list[set[str]]]:
    found: dict[str, list[set[str]]] = {name: [] for name in PLUGINS}
    for sheet, names in rows(section("00-index.md", "## 8.")):
        inner = re.search(r"`([a-z-]+)`", sheet)
        found["cl-hive-comms"] += prefixed(f"hive-comms-{inner[1] if inner else ''}", names)
    for owner, names, *_ in rows(section("00-registry-fleet.md", "## 4.")):
        prefix = re.search(r"`([a-z-]+)`", owner)
        if prefix is not None:
            plugin = "cl-hive-archon" if owner.startswith("archon") else "cl-hive"
            found[plugin] += prefixed(prefix[1], names)
    return found


def code_words(text: str) -> set[str]:
    return set(re.findall(r"`([a-z_0-9]+)", text)) | set(re.findall(r"\b[a-z]+(?:_[a-z0-9]+)*\b", text))


def announced(plugin: str) -> str:
    if plugin == "cl-hive-comms":
        return section("00-index.md", "## 6.")
    return section("00-registry-fleet.md", "## 8.")


def test_the_registries_are_read() -> None:
    methods = registered_methods()
    assert {"hive-comms-cashu-lock", "hive-marketplace-offer", "hive-client-policy"} <= methods[
        "cl-hive-comms"
    ]
    assert {"hive-archon-status", "hive-did-revoke", "hive-my-votes"} <= methods["cl-hive-archon"]
    assert {"hive-status", "hive-hello", "hive-settlement-calculate"} <= methods["cl-hive"]
    options = {plugin: set().union(*names) for plugin, names in registered_options().items()}
    assert {"hive-comms-nostr-relays", "hive-comms-liquidity-auto-quote"} <= options["cl-hive-comms"]
    assert {"hive-archon-backup-interval", "hive-archon-gateway"} <= options["cl-hive-archon"]
    assert {"hive-governance-mode", "hive-did-auto-issue"} <= options["cl-hive"]


@pytest.mark.parametrize("plugin", PLUGINS)
def test_every_method_of_the_manifest_is_registered_to_this_plugin(plugin: str) -> None:
    declared = [method["name"] for method in manifest(plugin)["rpcmethods"]]
    assert declared
    assert len(declared) == len(set(declared))
    unknown = set(declared) - registered_methods()[plugin]
    assert not unknown


@pytest.mark.parametrize("plugin", PLUGINS)
def test_every_method_says_what_it_does_and_how_it_is_called(plugin: str) -> None:
    silent = [
        method["name"]
        for method in manifest(plugin)["rpcmethods"]
        if not method.get("description") or "usage" not in method
    ]
    assert not silent


@pytest.mark.parametrize("plugin", PLUGINS)
def test_every_option_of_the_manifest_is_registered_to_this_plugin(plugin: str) -> None:
    declared = {option["name"] for option in manifest(plugin)["options"]}
    assert declared
    unknown = declared - set().union(*registered_options()[plugin])
    assert not unknown


def test_every_option_of_the_client_sheet_is_declared() -> None:
    declared = {option["name"] for option in manifest("cl-hive-comms")["options"]}
    row = next(names for sheet, names in rows(section("00-index.md", "## 8.")) if sheet == "08 §5.1")
    missing = [sorted(readings) for readings in prefixed("hive-comms-", row) if not readings & declared]
    assert not missing


@pytest.mark.parametrize("plugin", PLUGINS)
def test_notifications_and_hooks_are_those_of_the_registry(plugin: str) -> None:
    known = code_words(announced(plugin))
    told = manifest(plugin)
    names = [note["method"] for note in told.get("notifications", [])]
    names += [hook["name"] for hook in told.get("hooks", [])]
    names += list(told.get("subscriptions", []))
    unknown = set(names) - known
    assert not unknown


def test_no_name_is_declared_by_two_plugins() -> None:
    for kind in ("rpcmethods", "options"):
        names = [entry["name"] for plugin in PLUGINS for entry in manifest(plugin)[kind]]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("plugin", PLUGINS)
def test_every_plugin_can_be_started_and_stopped_by_hand(plugin: str) -> None:
    assert manifest(plugin)["dynamic"] is True
