"""Entries of hive:plugin/v1 for the table of actions (02 §4 item 11)."""

from __future__ import annotations

import hashlib
from pathlib import PurePath
from typing import Any

from action_table import Answer, Entry, Params, Stage, given
from cln_contract import Probe
from hive_shared.registry import PLUGIN

_OPTION = "probe-pace"


async def _plugins(stage: Stage) -> list[dict[str, Any]]:
    rows = (await stage.call("plugin", subcommand="list"))["plugins"]
    return sorted(
        ({**row, "name": PurePath(row["name"]).name} for row in rows), key=lambda row: str(row["name"])
    )


async def _listed(stage: Stage, params: Params, result: Answer) -> None:
    assert result["items"] == await _plugins(stage)


async def _another_pace(stage: Stage) -> Params:
    """A plugin with an option that can be set while it runs, and the operator's leave to set it."""
    if "probe" not in stage.kept:
        option = {"name": _OPTION, "type": "int", "default": 1, "description": "d", "dynamic": True}
        probe = Probe(
            stage.world.alice.net_dir / "probe",
            "pace.py",
            manifest={"options": [option]},
            answers={"setconfig": {}},
        )
        await stage.call("plugin", subcommand="start", plugin=str(probe.path))
        stage.kept["probe"] = probe
    await stage.call(
        "hive-client-policy", action="set", overrides={"allowed_config": [_OPTION, "min-capacity-sat"]}
    )
    stage.kept["pace"] = stage.kept.get("pace", 1) + 1
    return {"option": _OPTION, "value": stage.kept["pace"]}


async def _with_a_set_option(stage: Stage) -> Params:
    """A plugin whose option was set: stopped, it would take lightningd down at the next setconfig."""
    params = await _another_pace(stage)
    await stage.call("setconfig", config=params["option"], val=params["value"], transient=True)
    return {"plugin_name": "pace.py"}


async def _is_set(stage: Stage, params: Params, result: Answer) -> None:
    shown = (await stage.call("listconfigs", config=_OPTION))["configs"][_OPTION]
    assert shown["value_int"] == params["value"] == result["new"]


_TIDY = "tidy.py"


async def _stopped(stage: Stage) -> Params:
    """A plugin of the operator's that does not run, with its path and hash in approved_plugins."""
    if "tidy" not in stage.kept:
        stage.kept["tidy"] = Probe(stage.world.alice.net_dir / "tidy", _TIDY)
    file = stage.kept["tidy"].path
    listed = {"path": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    await stage.call("hive-client-policy", action="set", overrides={"approved_plugins": [listed]})
    if _TIDY in await _names(stage):
        await stage.call("plugin", subcommand="stop", plugin=str(file))
    return {"plugin_name": _TIDY}


async def _started(stage: Stage) -> Params:
    params = await _stopped(stage)
    await stage.world.alice.call("plugin", ["start", str(stage.kept["tidy"].path)])
    return params


async def _names(stage: Stage) -> list[str]:
    return [str(row["name"]) for row in await _plugins(stage)]


async def _runs(stage: Stage, params: Params, result: Answer) -> None:
    assert _TIDY in await _names(stage) and result["plugin_state"] == "running"
    assert result["sha256"] == hashlib.sha256(stage.kept["tidy"].path.read_bytes()).hexdigest()


async def _is_gone(stage: Stage, params: Params, result: Answer) -> None:
    assert _TIDY not in await _names(stage) and result["plugin_state"] == "stopped"


async def _another_file(stage: Stage) -> Params:
    """The plugin with one line more than the operator approved."""
    params = await _stopped(stage)
    with stage.kept["tidy"].path.open("a") as file:
        file.write("# one line more\n")
    return params


ENTRIES = (
    Entry(PLUGIN, "list", given(), _listed, given(limit=0)),
    Entry(PLUGIN, "start_approved", _stopped, _runs, _another_file, slug="policy_blocked"),
    Entry(PLUGIN, "stop", _started, _is_gone, _with_a_set_option, slug="requires_restart"),
    Entry(PLUGIN, "configure", _another_pace, _is_set, given(option="min-capacity-sat", value=90_000)),
)
