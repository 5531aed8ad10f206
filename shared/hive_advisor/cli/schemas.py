"""``hive-advisor schema``: the registry both ends share."""

from __future__ import annotations

from typing import Any

import click

from hive_advisor.cli.context import Settings, answered, pass_settings


@click.group()
def schema() -> None:
    """What can be asked of a node."""


@schema.command("list")
@pass_settings
@answered
async def list_(settings: Settings) -> None:
    """Every schema and its actions."""
    from hive_shared import registry

    schemas: Any = registry.export()["schemas"]
    items = [
        {
            "schema": name,
            "action": action,
            "served": entry.get("served", True),
            "tier": entry["required_tier"],
            "danger": entry["danger"]["total"] if isinstance(entry["danger"], dict) else entry["danger"],
        }
        for name, body in schemas.items()
        for action, entry in body["actions"].items()
    ]
    settings.terminal.show({"items": items, "count": len(items)})


@schema.command()
@click.argument("target", metavar="SCHEMA/ACTION")
@pass_settings
@answered
async def show(settings: Settings, target: str) -> None:
    """Parameters, ranges, danger and tier of one action, e.g. hive:fee-policy/set_single."""
    from hive_shared import registry

    from hive_advisor.services.commands import split_target

    schema_id, action = split_target(target)
    found = registry.find(schema_id, action)
    schemas: Any = registry.export(found.schema)["schemas"]
    entry = schemas[found.schema]["actions"][found.name]
    settings.terminal.show({"schema": found.schema, "action": found.name, **entry})
