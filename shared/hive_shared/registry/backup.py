"""Backups: `hive:backup/v1` (02 §4 item 13)."""

from __future__ import annotations

from typing import Final

from .params import NO_PARAMS, Bool, OneOf, Param, ParamSchema, Text
from .spec import SchemaSpec, SchemaTable

BACKUP: Final = "hive:backup/v1"

_ID: Final = Text(16, 16, pattern=r"[0-9a-f]{16}", what="the backup_id that trigger_backup gave")


def backup() -> SchemaSpec:
    """Having the node backed up, and knowing that it is."""
    table = SchemaTable(BACKUP, "backup")
    table.write(
        "trigger_backup",
        "2/1/1/1/1",
        params=ParamSchema(
            (
                Param("backup_type", OneOf(("scb", "full")), default="scb"),
                Param("include_scb", Bool(), default=True),
            )
        ),
    )
    table.read("verify_backup", params=ParamSchema((Param("backup_id", _ID),)))
    table.write("export_scb", "3/2/2/3/2", params=NO_PARAMS)
    table.write("restore", "10/10/10/10/10", why="the operator restores locally, never a remote command")
    return table.done()
