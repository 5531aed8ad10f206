"""Plugins of the node: `hive:plugin/v1` (02 §4 item 11)."""

from __future__ import annotations

from typing import Final

from .config import OPTION, Scalar
from .danger import Tier
from .params import PAGE, Param, ParamSchema, Text
from .spec import SchemaSpec, SchemaTable

PLUGIN: Final = "hive:plugin/v1"
_NAME: Final = Text(100, 1, pattern=r"[A-Za-z0-9_][A-Za-z0-9._-]*", what="the file name of a plugin")


def plugin() -> SchemaSpec:
    """Which plugins run and with which options; starting one that the operator approved, stopping one."""
    table = SchemaTable(PLUGIN, "plugin")
    table.read("list", "list_plugins", params=ParamSchema(PAGE))
    named = ParamSchema((Param("plugin_name", _NAME, required=True),))
    table.write("start_approved", "4/4/4/4/4", "start", "start_plugin", tier=Tier.ADVANCED, params=named)
    table.write("start_arbitrary", "9/9/8/9/9", why="starting a plugin by path is never allowed remotely")
    table.write("stop", "4/4/5/5/4", "stop_plugin", params=named)
    table.write(
        "configure",
        "3/4/4/4/3",
        tier=Tier.ADVANCED,
        params=ParamSchema((Param("option", OPTION, required=True), Param("value", Scalar(), required=True))),
    )
    return table.done()
