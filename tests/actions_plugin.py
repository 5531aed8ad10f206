"""Entries of hive:plugin/v1 for the table of actions (02 §4 item 11)."""

from __future__ import annotations

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


async def _is_set(stage: Stage, params: Params, result: Answer) -> None:
    shown = (await stage.call("listconfigs", config=_OPTION))["configs"][_OPTION]
    assert shown["value_int"] == params["value"] == result["new"]


ENTRIES = (
    Entry(PLUGIN, "list", given(), _listed, given(limit=0)),
    Entry(PLUGIN, "configure", _another_pace, _is_set, given(option="min-capacity-sat", value=90_000)),
)
