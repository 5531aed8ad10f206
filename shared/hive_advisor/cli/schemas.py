"""``hive-advisor schema``: the registry both ends share."""

from __future__ import annotations

import click

from hive_advisor.cli import completing
from hive_advisor.cli.context import Settings, answered, pass_settings


@click.group()
def schema() -> None:
    """What can be asked of a node."""


@schema.command("list")
@click.option("--served", is_flag=True, help="only what this version can send")
@pass_settings
@answered
async def list_(settings: Settings, served: bool) -> None:
    """Every schema and its actions."""
    from hive_shared import registry

    from hive_advisor.domain.schema_help import row_of

    items = [row_of(spec) for spec in registry.actions() if spec.served or not served]
    settings.terminal.show({"items": items, "count": len(items)})


@schema.command()
@click.argument("words", nargs=-1, required=True, metavar="WORD...")
@pass_settings
@answered
async def search(settings: Settings, words: tuple[str, ...]) -> None:
    """Actions whose name, permission or parameters hold all words, e.g. 'fee zero' or 'scid'."""
    from hive_advisor.domain.schema_help import row_of
    from hive_advisor.domain.schema_help import search as found_by

    items = [row_of(spec) for spec in found_by(words)]
    settings.terminal.show({"items": items, "count": len(items)})


@schema.command()
@click.argument("target", metavar="SCHEMA/ACTION", shell_complete=completing.targets)
@pass_settings
@answered
async def show(settings: Settings, target: str) -> None:
    """Parameters, ranges, danger (by size) and tier of one action, e.g. hive:fee-policy/set_single."""
    from hive_shared import registry
    from hive_shared.errors import NotFound, Unsupported

    from hive_advisor.domain import schema_help

    schema_id, action = schema_help.split_target(target)
    try:
        found = registry.find(schema_id, action)
    except Unsupported as error:
        raise NotFound(f"{error.detail}; see 'hive-advisor schema search'", reason=error.symbol) from error
    data = schema_help.whole_of(found)
    if not settings.terminal.as_json and data.pop("params", None) is not None:
        # For people the same as lines; programs get the schema of the parameters.
        data["parameters"] = {
            field.name: field.kind
            + (", required" if field.required else "")
            + ("" if field.default is None else f", default {field.default}")
            for field in schema_help.fields_of(found)
        }
    settings.terminal.show(data)
