"""``hive-advisor backup``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hive_advisor.cli import output
from hive_advisor.cli.context import Settings, answered, pass_settings

if TYPE_CHECKING:
    from hive_advisor.profile_backup import Found

_FILE = click.argument("file", type=click.Path(path_type=Path))


@click.group()
def backup() -> None:
    """The whole profile in one file under its passphrase."""


@backup.command()
@_FILE
@pass_settings
@answered
async def create(settings: Settings, file: Path) -> None:
    """Write everything to a new file: clients, commands, receipts, identity, settings; also beside `run`."""
    import asyncio

    from hive_advisor.profile_backup import create

    _, passphrase = settings.unlock_with_passphrase()
    found = await asyncio.to_thread(create, settings.paths, file, passphrase, int(time.time()))
    settings.terminal.show({"file": str(file), **_row(found)})


@backup.command()
@_FILE
@pass_settings
@answered
async def verify(settings: Settings, file: Path) -> None:
    """Open a backup and check every part of it."""
    import asyncio

    from hive_advisor.profile_backup import verify

    settings.terminal.show(_row(await asyncio.to_thread(verify, file, settings.passphrase())))


@backup.command()
@_FILE
@click.option("--apply", is_flag=True, help="do it; without, say what would be done")
@click.option("--replace", is_flag=True, help="put the database that is here aside")
@pass_settings
@answered
async def restore(settings: Settings, file: Path, apply: bool, replace: bool) -> None:
    """Go on with a backup. Nothing old is sent: what had not left becomes a draft, and for a day the guard
    holds what it limits, because what was used up since is not known."""
    import asyncio

    from hive_advisor.profile_backup import check_fits, restore, verify

    passphrase = settings.passphrase()
    if not apply:
        found = await asyncio.to_thread(verify, file, passphrase)
        check_fits(settings.paths, found)
        here = settings.paths.database.exists()
        settings.terminal.show(
            {**_row(found), "database_here": here, "needs_replace": here, "applied": False}
        )
    await settings.has_profile_alone()
    done = await restore(settings.paths, file, passphrase, replace_all=replace)
    settings.terminal.show({**done, "made_at": output.moment(done["made_at"]), "applied": True})


def _row(found: Found) -> dict[str, Any]:
    return {
        "made_at": output.moment(found.made_at),
        "npub": found.npub,
        "parts": {name: size for name, (_, size) in found.parts.items()},
    }
