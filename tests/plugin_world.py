"""A pipeline whose node starts and stops plugins, with one file that the operator approved."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from channel_writes import trusted
from hive_shared.canonical import JsonValue
from hive_shared.registry import PLUGIN
from pipeline_world import World

NAME = "tidy.py"
OTHER = "/srv/op/plugins/other.py"
CASES = {"start_approved": {"plugin_name": NAME}, "stop": {"plugin_name": "other.py"}}


def plugin_file(directory: Path, name: str = NAME) -> Path:
    """A file that could be a plugin and that nobody else may change."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    path = directory / name
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    return path


def entry(path: Path, sha256: str = "") -> dict[str, JsonValue]:
    """What the operator lists of a file: its path and its hash."""
    return {"path": str(path), "sha256": sha256 or hashlib.sha256(path.read_bytes()).hexdigest()}


def approve(world: World, *entries: JsonValue, preset: str = "aggressive", **more: Any) -> None:
    """The policy that lists these files and asks nobody."""
    overrides: dict[str, Any] = {"approval_overrides": {"plugin_*": "auto_execute"}, **more}
    world.policies.override(preset, approved_plugins=list(entries), **overrides)


def plugin_world(directory: Path) -> World:
    """One plugin that may be started, another one that runs."""
    world = trusted(directory)
    world.node.plugins.append({"name": OTHER, "active": True, "dynamic": True})
    approve(world, entry(plugin_file(directory / "plugins")))
    return world


async def ask(world: World, action: str, name: str = "") -> dict[str, Any]:
    """Ask for an action on its plugin, or on the one named."""
    params: dict[str, JsonValue] = {"plugin_name": name} if name else dict(CASES[action])
    answer: dict[str, Any] = await world.ask(PLUGIN, action, params)
    return answer


def running(world: World) -> set[str]:
    """Names of the plugins that run, the node's own left out."""
    return {Path(row["name"]).name for row in world.node.plugins} - {"autoclean"}
